//! Joining the streams of a container's own program.
//!
//! Output comes through pipes that the shim copies it to; input goes into the container's own pipe or
//! terminal, of which the shim gives us a descriptor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::fs::FileType;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::Sandbox;
use super::exec::{Line, Terminal, resize_terminal};
use crate::api::*;
use crate::shim::protocol::{Call, Event, Message, Refusal, Reply, Request};
use crate::{Error, Result, sys};

/// How far one who is attached may lag behind the container. The kernel allows everybody so much.
const PIPE_BYTES: usize = 1 << 20;

/// Attaches, and hands out the streams.
pub(super) async fn start(
    sandbox: &Sandbox,
    container: &ContainerId,
    config: &AttachConfig,
) -> Result<ExecSession> {
    if sandbox.knowledge.shim().is_none() {
        let sandbox = sandbox.record.config.id.clone();
        return Err(Error::Shim { sandbox, reason: "it is dead".to_owned() });
    }
    let wrong = |reason: String| Error::Attach { container: container.clone(), reason };
    let failed = |error: io::Error| wrong(error.to_string());
    let AttachConfig { stdin, stdout, stderr, once } = *config;
    let out = if stdout { Some(wide_pipe().map_err(failed)?) } else { None };
    let errors = if stderr { Some(wide_pipe().map_err(failed)?) } else { None };
    let mut line = Line::open(sandbox).await?;
    let call = Call::Attach { container: container.0.clone(), stdout, stderr, stdin, once };
    let theirs: Vec<_> =
        [&out, &errors].into_iter().flatten().map(|(_, end)| end.as_fd()).collect();
    line.send(&Request { number: 0, call }, &theirs).await.map_err(failed)?;
    let takes_input = loop {
        match line.next().await.map_err(failed)? {
            Some(Message::Event(Event::Terminal | Event::Input)) => {}
            Some(Message::Reply { result: Ok(Reply::Attached { input }), .. }) => break input,
            Some(Message::Reply { result: Err(Refusal::Failed(reason)), .. }) => {
                return Err(wrong(reason));
            }
            Some(Message::Reply { result: Err(refusal), .. }) => {
                return Err(sandbox.refused(container, refusal));
            }
            None => return Err(wrong("the sandbox is too old for it".to_owned())),
            other => return Err(wrong(format!("the shim answers {other:?}"))),
        }
    };
    let output = |pipe: Option<(OwnedFd, OwnedFd)>| -> io::Result<Option<Output>> {
        let Some((ours, _theirs)) = pipe else { return Ok(None) };
        Ok(Some(Box::pin(pipe::Receiver::from_owned_fd(ours)?)))
    };
    let (stdout, stderr) = (output(out).map_err(failed)?, output(errors).map_err(failed)?);
    let (resize, resized) = mpsc::channel(1);
    let (input_ended, ended) = oneshot::channel();
    let stdin = match line.descriptors.pop() {
        Some(end) => input(end, resized, input_ended).map_err(failed)?.filter(|_| takes_input),
        None => None,
    };
    let (exit_sender, exit) = oneshot::channel();
    tokio::spawn(follow(line, container.clone(), ended, exit_sender));
    let stdout = stdout.unwrap_or_else(|| Box::pin(tokio::io::empty()));
    Ok(ExecSession { stdin, stdout, stderr, resize, exit })
}

/// Our end and theirs.
fn wide_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    // A smaller one only means less patience with a slow reader.
    let _ = fcntl_setpipe_size(&theirs, PIPE_BYTES);
    Ok((ours, theirs))
}

/// What writes into a container. Sizes go to its terminal, if it has one.
fn input(
    end: OwnedFd,
    resized: mpsc::Receiver<(u16, u16)>,
    ended: oneshot::Sender<()>,
) -> io::Result<Option<Input>> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&end)?.st_mode);
    if kind == FileType::Fifo {
        let pipe = pipe::Sender::from_owned_fd(end)?;
        return Ok(Some(Box::pin(PipeInput { pipe: Some(pipe), ended: Some(ended) })));
    }
    let terminal = Arc::new(sys::watch(end)?);
    tokio::spawn(resize_terminal(Arc::clone(&terminal), resized));
    Ok(Some(Box::pin(Terminal(terminal))))
}

/// Tells when the container ends. Hangs up when nobody wants to know any more.
async fn follow(
    mut line: Line,
    container: ContainerId,
    mut input_ended: oneshot::Receiver<()>,
    mut exit: oneshot::Sender<Result<i32>>,
) {
    let mut speaking = true;
    let wrong = |reason: &str| Error::Attach { container, reason: reason.to_owned() };
    let result = loop {
        tokio::select! {
            message = line.next() => match message {
                Ok(Some(Message::Event(Event::ExecExited { exit_code }))) => break Ok(exit_code),
                Ok(Some(Message::Event(Event::Lagged))) => {
                    break Err(wrong("too slow for what the container writes; its log has it all"));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break Err(wrong("the shim hung up")),
            },
            ended = &mut input_ended, if speaking => {
                speaking = false;
                let request = Request { number: 1, call: Call::EndInput };
                if ended.is_ok() && line.send(&request, &[]).await.is_err() {
                    break Err(wrong("the shim hung up"));
                }
            }
            () = exit.closed() => return,
        }
    };
    // Losing interest at the last moment is no error.
    let _ = exit.send(result);
}

/// A container's input through its pipe, which others may write to as well.
struct PipeInput {
    pipe: Option<pipe::Sender>,
    ended: Option<oneshot::Sender<()>>,
}

impl AsyncWrite for PipeInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end of this input is the container's as well only if the shim lets go of it too.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe = None;
        if let Some(ended) = self.ended.take() {
            // The container may just have ended.
            let _ = ended.send(());
        }
        Poll::Ready(Ok(()))
    }
}
