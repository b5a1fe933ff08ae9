//! A container as its shim holds it.

use std::time::SystemTime;

use nix::sys::wait::WaitStatus;

use crate::api::ContainerExit;
use crate::shim::protocol::ContainerRecord;
use crate::shim::server::streams::Output;

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
    /// It is in a process namespace with others: its first process's end ends nothing else.
    pub(super) has_company: bool,
    pub(super) output: Output,
    /// Whether its program has been executed. Until then its exit is a failure to start.
    pub(super) confirmed: bool,
    /// It ended before it was confirmed.
    pub(super) early_end: Option<End>,
    /// Who waits for it to be gone: connection and request.
    pub(super) removers: Vec<(u64, u64)>,
}
