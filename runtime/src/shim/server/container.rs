//! A container as its shim holds it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use nix::sys::wait::WaitStatus;
use rustix::io::Errno;

use crate::api::ContainerExit;
use crate::shim::output::{LineSplitter, Log, StreamName};
use crate::shim::protocol::ContainerRecord;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
}

impl End {
    pub(super) fn from_status(status: WaitStatus) -> Option<(i32, End)> {
        match status {
            WaitStatus::Exited(pid, code) => Some((pid.as_raw(), End::Code(code))),
            WaitStatus::Signaled(pid, signal, _) => {
                Some((pid.as_raw(), End::Signal(signal as i32)))
            }
            _ => None,
        }
    }

    /// As a shell counts.
    pub(super) fn exit_code(self) -> i32 {
        match self {
            End::Code(code) => code,
            End::Signal(signal) => 128 + signal,
        }
    }

    pub(super) fn into_exit(self, oom_killed: bool) -> ContainerExit {
        let signal = match self {
            End::Code(_) => None,
            End::Signal(signal) => Some(signal),
        };
        let finished_at = SystemTime::now();
        ContainerExit { exit_code: self.exit_code(), signal, oom_killed, finished_at }
    }
}

pub(super) struct Container {
    pub(super) record: ContainerRecord,
    pub(super) group: String,
    pub(super) output: Output,
    /// Whether its program has been executed. Until then its exit is a failure to start.
    pub(super) confirmed: bool,
    /// It ended before it was confirmed.
    pub(super) early_end: Option<End>,
    /// Who waits for it to be gone: connection and request.
    pub(super) removers: Vec<(u64, u64)>,
}

/// What a container says, and where that goes.
#[derive(Default)]
pub(super) struct Output {
    pub(super) streams: Vec<Stream>,
    pub(super) log: Option<Log>,
    /// The other end of its standard input, or of nothing: held so that it does not see its end.
    pub(super) _stdin: Option<OwnedFd>,
    complained: bool,
}

pub(super) struct Stream {
    source: OwnedFd,
    name: StreamName,
    splitter: LineSplitter,
}

impl Stream {
    pub(super) fn new(source: OwnedFd, name: StreamName) -> Stream {
        Stream { source, name, splitter: LineSplitter::default() }
    }

    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// What reading a stream has brought.
enum Got {
    Bytes(usize),
    NothingNow,
    End,
}

impl Output {
    pub(super) fn new(log: Option<Log>, stdin: Option<OwnedFd>) -> Output {
        Output { streams: Vec::new(), log, _stdin: stdin, complained: false }
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
        if let (Got::Bytes(length), Some(log)) = (&got, &mut self.log) {
            let result = log.write(&mut stream.splitter, stream.name, &buffer[..*length]);
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
