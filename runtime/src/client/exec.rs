//! Programs executed in containers, and their streams. The bytes go between the program and the
//! caller directly; the shim passes descriptors on and no data.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Sandbox, control};
use crate::api::*;
use crate::shim::protocol::{self, Call, Event, FrameBuffer, Message, Refusal, Request};
use crate::{Error, Result, sys};

/// Starts a program and hands out its streams.
pub(super) async fn start(
    sandbox: &Sandbox,
    container: &ContainerId,
    config: &ExecConfig,
) -> Result<ExecSession> {
    if sandbox.knowledge.shim().is_none() {
        let sandbox = sandbox.record.config.id.clone();
        return Err(Error::Shim { sandbox, reason: "it is dead".to_owned() });
    }
    let failed = |e: io::Error| Error::Exec { container: container.clone(), reason: e.to_string() };
    let mut line = Line::open(sandbox).await?;
    let call = Call::Exec {
        container: container.0.clone(),
        command: config.command.clone(),
        stdin: config.stdin,
        tty: config.tty,
    };
    let pipes = if config.tty { None } else { Some(Pipes::new(config.stdin).map_err(failed)?) };
    let theirs = pipes.as_ref().map(Pipes::theirs).unwrap_or_default();
    line.send(&Request { number: 0, call }, &theirs).await.map_err(failed)?;
    loop {
        match line.next().await.map_err(failed)? {
            Some(Message::Event(Event::Terminal)) => {}
            Some(Message::Reply { result: Ok(_), .. }) => break,
            Some(Message::Reply { result: Err(Refusal::Failed(reason)), .. }) => {
                return Err(Error::Exec { container: container.clone(), reason });
            }
            Some(Message::Reply { result: Err(refusal), .. }) => {
                return Err(sandbox.refused(container, refusal));
            }
            other => {
                let reason = format!("the shim answers {other:?}");
                return Err(Error::Exec { container: container.clone(), reason });
            }
        }
    }
    let (resize, resized) = mpsc::channel(1);
    let (exit_sender, exit) = oneshot::channel();
    let (stdin, stdout, stderr) = match pipes {
        Some(pipes) => pipes.into_streams().map_err(failed)?,
        None => {
            let descriptor = line.descriptors.pop().ok_or_else(|| Error::Exec {
                container: container.clone(),
                reason: "no terminal has come".to_owned(),
            })?;
            let terminal = Arc::new(sys::watch(descriptor).map_err(failed)?);
            tokio::spawn(resize_terminal(Arc::clone(&terminal), resized));
            let input = Terminal(Arc::clone(&terminal));
            let stdin = config.stdin.then(|| Box::pin(input) as Input);
            (stdin, Box::pin(Terminal(terminal)) as Output, None)
        }
    };
    tokio::spawn(await_exit(line, container.clone(), exit_sender));
    Ok(ExecSession { stdin, stdout, stderr, resize, exit })
}

/// Waits for the exit code. Hangs up, which kills the program, when nobody wants it any more.
async fn await_exit(
    mut line: Line,
    container: ContainerId,
    mut exit: oneshot::Sender<Result<i32>>,
) {
    let ended = tokio::select! {
        message = line.next() => message,
        () = exit.closed() => return,
    };
    let result = match ended {
        Ok(Some(Message::Event(Event::ExecExited { exit_code }))) => Ok(exit_code),
        other => Err(Error::Exec {
            container,
            reason: format!("the shim hung up before the program ended ({other:?})"),
        }),
    };
    // Losing interest at the last moment is no error.
    let _ = exit.send(result);
}

/// The output that an [`ExecOutput`] holds at most.
const MAX_OUTPUT: usize = 64 * 1024;

/// After a program has ended, something it has left running may hold its output open. What is
/// already there is read; more is not waited for longer than this.
const DRAIN_WITHIN: Duration = Duration::from_millis(200);

/// Collects what a program prints until it ends, or its time is up.
pub(super) async fn run_to_end(
    mut session: ExecSession,
    container: &ContainerId,
    deadline: Instant,
) -> Result<ExecOutput> {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let code = {
        let stdout = read_bounded(&mut session.stdout, &mut output);
        let stderr = async {
            match session.stderr.as_mut() {
                Some(stderr) => read_bounded(stderr, &mut errors).await,
                None => Ok(()),
            }
        };
        let mut reading = std::pin::pin!(async { tokio::try_join!(stdout, stderr) });
        let mut exit = session.exit;
        let mut read = false;
        let ended = loop {
            tokio::select! {
                code = &mut exit => break Some(code),
                result = &mut reading, if !read => {
                    read = true;
                    result.map_err(|e| exec_error(container, &e.to_string()))?;
                }
                () = tokio::time::sleep_until(deadline) => break None,
            }
        };
        if ended.is_some() && !read {
            // Not in time is no failure: what has come so far counts.
            let _ = tokio::time::timeout(DRAIN_WITHIN, reading).await;
        }
        ended
    };
    output.append(&mut errors);
    output.truncate(MAX_OUTPUT);
    match code {
        Some(Ok(code)) => Ok(ExecOutput { exit_code: code?, output, timed_out: false }),
        Some(Err(_)) => Err(exec_error(container, "the program vanished")),
        None => Ok(timed_out(output)),
    }
}

/// What there is to say about a program that took too long and was killed.
pub(super) fn timed_out(output: Vec<u8>) -> ExecOutput {
    ExecOutput { exit_code: 137, output, timed_out: true }
}

fn exec_error(container: &ContainerId, reason: &str) -> Error {
    Error::Exec { container: container.clone(), reason: reason.to_owned() }
}

/// Reads to the end, and keeps no more than is wanted: the program is not to wait for us.
async fn read_bounded(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 8192];
    loop {
        let length = from.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        let room = MAX_OUTPUT - into.len();
        into.extend_from_slice(&bytes[..length.min(room)]);
    }
}

/// Both ends of a program's pipes.
struct Pipes {
    /// Theirs and ours.
    stdin: Option<(OwnedFd, OwnedFd)>,
    /// Ours and theirs.
    stdout: (OwnedFd, OwnedFd),
    stderr: (OwnedFd, OwnedFd),
}

impl Pipes {
    fn new(with_stdin: bool) -> io::Result<Pipes> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let stdin = if with_stdin { Some(pipe()?) } else { None };
        Ok(Pipes { stdin, stdout: pipe()?, stderr: pipe()? })
    }

    fn theirs(&self) -> Vec<BorrowedFd<'_>> {
        let stdin = self.stdin.as_ref().map(|(theirs, _)| theirs.as_fd());
        stdin.into_iter().chain([self.stdout.1.as_fd(), self.stderr.1.as_fd()]).collect()
    }

    fn into_streams(self) -> io::Result<(Option<Input>, Output, Option<Output>)> {
        let input = |(_, ours)| pipe::Sender::from_owned_fd(ours).map(|end| Box::pin(end) as Input);
        let output =
            |(ours, _)| pipe::Receiver::from_owned_fd(ours).map(|end| Box::pin(end) as Output);
        let stdin = self.stdin.map(input).transpose()?;
        Ok((stdin, output(self.stdout)?, Some(output(self.stderr)?)))
    }
}

/// The connection of one exec or attach.
pub(super) struct Line {
    stream: UnixStream,
    arrived: FrameBuffer,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Line {
    pub(super) async fn open(sandbox: &Sandbox) -> Result<Line> {
        let stream = control::connect(&sandbox.folder).await?;
        Ok(Line { stream, arrived: FrameBuffer::default(), descriptors: Vec::new() })
    }

    pub(super) async fn send(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let frame = protocol::frame(request);
        let mut sent = 0;
        while sent < frame.len() {
            // Descriptors go with the first byte, once.
            let with = if sent == 0 { descriptors } else { &[] };
            let write = || Ok(protocol::send(&self.stream, &frame[sent..], with)?);
            sent += self.stream.async_io(Interest::WRITABLE, write).await?;
        }
        Ok(())
    }

    /// The next message; may be dropped and asked again without losing any.
    pub(super) async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.arrived.next().map_err(io::Error::other)? {
                return Ok(Some(message));
            }
            let mut bytes = [0; 4096];
            let descriptors = &mut self.descriptors;
            let stream = &self.stream;
            let read = || Ok(protocol::receive(stream, &mut bytes, descriptors)?);
            match stream.async_io(Interest::READABLE, read).await? {
                0 => return Ok(None),
                length => self.arrived.push(&bytes[..length]),
            }
        }
    }
}

/// Our side of a program's terminal.
pub(super) struct Terminal(pub(super) Arc<AsyncFd<OwnedFd>>);

pub(super) async fn resize_terminal(
    terminal: Arc<AsyncFd<OwnedFd>>,
    mut sizes: mpsc::Receiver<(u16, u16)>,
) {
    while let Some((columns, rows)) = sizes.recv().await {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        // The program may have ended.
        let _ = rustix::termios::tcsetwinsize(terminal.get_ref(), size);
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), unfilled)?)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // This is how a terminal says that its last user has gone.
                Ok(Err(e)) if e.raw_os_error() == Some(nix::libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            let write = |fd: &AsyncFd<OwnedFd>| Ok(rustix::io::write(fd.get_ref(), bytes)?);
            if let Ok(result) = guard.try_io(write) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal has no end of input; programs take the character for it.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        const END_OF_TRANSMISSION: &[u8] = &[4];
        self.poll_write(context, END_OF_TRANSMISSION).map_ok(drop)
    }
}
