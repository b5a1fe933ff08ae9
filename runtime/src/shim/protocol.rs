//! What a shim and its caller say to each other.
//!
//! A connection carries frames both ways: four bytes of length, little-endian, then JSON.
//! Requests carry a number that their reply repeats. A connection that watches gets events in
//! between, in the order in which things happened: what a reply says is never older than the
//! events before it.
//!
//! An exec has a connection of its own, which is its life: its descriptors come with the
//! request, the exit code comes as the last frame, and hanging up kills the program. An attach has
//! one as well; hanging up ends the attach and leaves the container alone.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::ContainerExit;

/// A request of a caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// All containers now, and events from now on.
    Watch,
    /// Makes and starts the container whose folder has a plan.
    Start { container: String },
    /// Sends a signal to the first process.
    Signal { container: String, signal: i32 },
    /// Kills what runs, waits for its end and forgets it.
    Remove { container: String },
    /// Kills everything and ends.
    Stop,
    /// Starts a program in a container. With it come, in this order, those of standard input,
    /// output and error that are wanted; with a terminal none.
    Exec { container: String, command: Vec<String>, stdin: bool, tty: bool },
    /// Shows what a container says from now on, and gives its input away. With it come, in this
    /// order, the pipes for output and errors that are wanted. With `once` the container's input
    /// ends with this attach.
    Attach { container: String, stdout: bool, stderr: bool, stdin: bool, once: bool },
    /// This connection's attach has nothing more to say to the container.
    EndInput,
}

/// What a shim says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Reply { number: u64, result: Result<Reply, Refusal> },
    Event(Event),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Containers(Vec<ContainerRecord>),
    Started(ContainerRecord),
    ExecStarted,
    /// Whether the container takes input from this attach.
    Attached {
        input: bool,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    NoSuchContainer,
    NotRunning,
    Failed(String),
    /// What a container is to be made from is not there.
    Unfit(String),
    /// It may well succeed another time: whoever was at it was killed.
    Interrupted(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A container ended.
    Exited { container: String, exit: ContainerExit },
    /// The other side of an exec's or a container's terminal comes with this.
    Terminal,
    /// The pipe to a container's input comes with this.
    Input,
    /// The program of this connection's exec ended, or the container of its attach.
    ExecExited { exit_code: i32 },
    /// This connection's attach did not read fast enough, and is over.
    Lagged,
}

/// A container as a shim knows it, and as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) pid: u32,
    /// In clock ticks since the machine booted: tells the process from a later one of its id.
    pub(crate) start_ticks: u64,
    pub(crate) started_at: SystemTime,
    pub(crate) exit: Option<ContainerExit>,
}

/// Longer frames are nonsense: the longest are snapshots and command lines.
const MAX_FRAME: usize = 4 * 1024 * 1024;

/// So many descriptors travel at once at most.
pub(crate) const MAX_DESCRIPTORS: usize = 3;

/// Collects what arrives until there is a whole frame.
#[derive(Default)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if one has arrived.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, String> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(format!("a frame of {length} bytes"));
        }
        let Some(body) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let message = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Ok(Some(message))
    }
}

/// A message as it goes over the wire.
pub(crate) fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    // Our own types have neither maps with odd keys nor failing implementations.
    serde_json::to_writer(&mut bytes, message).expect("a message can be written as JSON");
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Sends bytes and descriptors; gives how many bytes went.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::TOOBIG);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// Receives bytes, and descriptors that came with them.
pub(crate) fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_whatever_pieces_they_arrive() {
        let request = Request { number: 7, call: Call::Start { container: "web".to_owned() } };
        let mut wire = frame(&request);
        wire.extend(frame(&Request { number: 8, call: Call::Watch }));
        let mut buffer = FrameBuffer::default();
        let mut numbers = Vec::new();
        for byte in wire {
            buffer.push(&[byte]);
            while let Some(request) = buffer.next::<Request>().unwrap() {
                numbers.push(request.number);
            }
        }
        assert_eq!(numbers, [7, 8]);
    }

    #[test]
    fn an_endless_frame_is_refused() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&u32::MAX.to_le_bytes());
        assert!(buffer.next::<Request>().is_err());
    }
}
