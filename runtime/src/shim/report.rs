//! What a creator, and the process that it makes, tell the shim: whole packets over a socket
//! pair that closes when the container's program has been executed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use super::failure::{Doing, Failure};
use super::protocol;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The process that will become the program. The other side of its terminal comes with it,
    /// if it has one.
    Born { pid: i32 },
    /// Something that may be the reason of a failure to come.
    Cause { reason: String },
    /// What it is to be made from is not there: the failure that follows is no failure to make it.
    Unfit,
    /// It will not become the program.
    Failed { reason: String },
}

/// Longer reports are cut: the kernel's bound on a packet is far above.
const MAX_REASON: usize = 4096;
/// JSON may write a byte as six.
const MAX_REPORT: usize = 6 * MAX_REASON + 64;

/// The shim's end and the creator's.
pub(crate) fn channel() -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).doing("make a socket pair")
}

pub(crate) fn send(
    to: impl AsFd,
    report: &Report,
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(report).doing("write a report")?;
    protocol::send(to, &bytes, descriptor.as_slice()).doing("send a report")?;
    Ok(())
}

/// Reports a failure. When nobody listens any more there is nobody to tell about that either.
pub(crate) fn send_failure(to: impl AsFd, reason: &str) {
    let _ = send(to, &Report::Failed { reason: cut(reason) }, None);
}

/// Reports what may become one.
pub(crate) fn send_cause(to: impl AsFd, reason: &str) {
    let _ = send(to, &Report::Cause { reason: cut(reason) }, None);
}

fn cut(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

/// Lets the process that waits for it become its program.
pub(crate) fn let_go(report: impl AsFd) -> Result<(), Failure> {
    protocol::send(report, b"go", &[]).doing("let the program go")?;
    Ok(())
}

/// Waits for that. A process that the shim does not know of, because its creator was killed before
/// it could say so, must not run.
pub(crate) fn await_go(report: impl AsFd) -> Result<(), Failure> {
    match protocol::receive(report, &mut [0; 8], &mut Vec::new()).doing("wait for the shim")? {
        0 => Err(Failure("the shim does not know this process".to_owned())),
        _ => Ok(()),
    }
}

/// The next report; nothing when all who could send one have ended or become programs.
pub(crate) fn receive(
    from: impl AsFd,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<Option<Report>, Failure> {
    let mut bytes = [0; MAX_REPORT];
    let length = protocol::receive(from, &mut bytes, descriptors).doing("receive a report")?;
    if length == 0 {
        return Ok(None);
    }
    serde_json::from_slice(&bytes[..length]).map(Some).doing("read a report")
}
