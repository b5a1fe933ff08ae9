//! What a container says, and who hears it: its log, and those who are attached.
//!
//! Nothing here waits. A viewer has a pipe of its own; one whose pipe is full has missed something,
//! and is let go rather than waited for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::shim::output::{LineSplitter, Log, StreamName};

/// So many may be attached to a container at once; each holds three descriptors.
pub(super) const MAX_VIEWERS: usize = 16;

/// What a container says, and where that goes.
#[derive(Default)]
pub(super) struct Output {
    pub(super) streams: Vec<Stream>,
    pub(super) log: Option<Log>,
    /// The other end of its standard input: held so that it does not see its end.
    input: Option<OwnedFd>,
    /// Whether it has a terminal, and reads from it what those who attach say.
    terminal: Option<TerminalInput>,
    viewers: Vec<Viewer>,
    complained: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct TerminalInput(bool);

pub(super) struct Stream {
    source: OwnedFd,
    name: StreamName,
    splitter: LineSplitter,
}

/// Somebody who is attached.
pub(super) struct Viewer {
    /// The connection of the attach.
    pub(super) connection: u64,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// The container's input ends with this one's.
    pub(super) ends_input: bool,
    /// It has missed something.
    pub(super) lagged: bool,
}

/// Where those who attach may write.
pub(super) enum InputEnd<'a> {
    Pipe(BorrowedFd<'a>),
    Terminal { end: BorrowedFd<'a>, takes_input: bool },
    Nothing,
}

impl Stream {
    pub(super) fn new(source: OwnedFd, name: StreamName) -> Stream {
        Stream { source, name, splitter: LineSplitter::default() }
    }

    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl Viewer {
    /// Shows it what was said, if it wants that and keeps up.
    fn show(&mut self, name: StreamName, bytes: &[u8]) {
        let pipe = match name {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
        };
        let Some(end) = pipe else { return };
        match rustix::io::write(&*end, bytes) {
            Ok(length) if length == bytes.len() => {}
            // What did not fit is lost to it; to go on would make a gap that nobody sees.
            Ok(_) | Err(Errno::AGAIN) => {
                self.lagged = true;
                self.stdout = None;
                self.stderr = None;
            }
            Err(_) => *pipe = None,
        }
    }
}

/// What reading a stream has brought.
enum Got {
    Bytes(usize),
    NothingNow,
    End,
}

impl Output {
    pub(super) fn of_pipes(log: Option<Log>, input: Option<OwnedFd>) -> Output {
        Output { log, input, ..Output::default() }
    }

    pub(super) fn of_terminal(log: Option<Log>, takes_input: bool) -> Output {
        Output { log, terminal: Some(TerminalInput(takes_input)), ..Output::default() }
    }

    /// Where those who attach may write.
    pub(super) fn input_end(&self) -> InputEnd<'_> {
        match (self.terminal, self.streams.first(), &self.input) {
            (Some(TerminalInput(takes_input)), Some(stream), _) => {
                InputEnd::Terminal { end: stream.source(), takes_input }
            }
            (None, _, Some(input)) => InputEnd::Pipe(input.as_fd()),
            _ => InputEnd::Nothing,
        }
    }

    /// False when there are too many already.
    pub(super) fn attach(&mut self, viewer: Viewer) -> bool {
        if self.viewers.len() >= MAX_VIEWERS {
            return false;
        }
        self.viewers.push(viewer);
        true
    }

    /// The viewer of a connection has gone.
    pub(super) fn detach(&mut self, connection: u64) {
        self.end_input(connection);
        self.viewers.retain(|viewer| viewer.connection != connection);
        if self.viewers.is_empty() {
            self.viewers = Vec::new();
        }
    }

    /// The viewer of a connection has nothing more to say.
    pub(super) fn end_input(&mut self, connection: u64) {
        let mut viewers = self.viewers.iter();
        if viewers.any(|viewer| viewer.connection == connection && viewer.ends_input) {
            self.input = None;
        }
    }

    /// Those who are attached.
    pub(super) fn viewers(&self) -> &[Viewer] {
        &self.viewers
    }

    /// Passes on what a stream has to say now, one buffer full. The stream is gone afterwards if
    /// it has ended.
    pub(super) fn pump(&mut self, position: usize, buffer: &mut [u8]) {
        if let Got::End = self.pump_once(position, buffer) {
            self.close(position);
        }
    }

    /// Passes on all that is still to be had, and closes every stream.
    pub(super) fn drain(&mut self, buffer: &mut [u8]) {
        while let Some(last) = self.streams.len().checked_sub(1) {
            while let Got::Bytes(_) = self.pump_once(last, buffer) {}
            self.close(last);
        }
        self.log = None;
    }

    fn pump_once(&mut self, position: usize, buffer: &mut [u8]) -> Got {
        let Some(stream) = self.streams.get_mut(position) else { return Got::NothingNow };
        let got = match rustix::io::read(&stream.source, &mut *buffer) {
            Ok(0) => Got::End,
            Ok(length) => Got::Bytes(length),
            Err(Errno::AGAIN | Errno::INTR) => Got::NothingNow,
            // A terminal whose last user has gone ends with EIO.
            Err(_) => Got::End,
        };
        let Got::Bytes(length) = got else { return got };
        let (name, bytes) = (stream.name, &buffer[..length]);
        for viewer in &mut self.viewers {
            viewer.show(name, bytes);
        }
        if let Some(log) = &mut self.log {
            let result = log.write(&mut stream.splitter, name, bytes);
            self.complain(result);
        }
        got
    }

    fn close(&mut self, position: usize) {
        let mut stream = self.streams.remove(position);
        if let Some(log) = &mut self.log {
            let result = log.finish(&mut stream.splitter, stream.name);
            self.complain(result);
        }
    }

    /// A full disk must not stop the container; it costs the lines that do not fit.
    fn complain(&mut self, result: std::io::Result<()>) {
        match result {
            Ok(()) => self.complained = false,
            Err(e) if !self.complained => {
                self.complained = true;
                eprintln!("log lines are lost: {e}");
            }
            Err(_) => {}
        }
    }
}
