//! A caller's connection.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;

use crate::shim::protocol::{self, FrameBuffer, Message, Request};

/// A caller that lets so much lie unread is not one: events and replies are small.
const MAX_UNSENT: usize = 8 * 1024 * 1024;

pub(super) struct Connection {
    stream: UnixStream,
    arrived: FrameBuffer,
    /// Descriptors that came ahead of the request that they belong to.
    pub(super) descriptors: Vec<OwnedFd>,
    unsent: Vec<u8>,
    pub(super) watches: bool,
    /// Close it as soon as everything is sent.
    pub(super) finished: bool,
    pub(super) broken: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Connection {
        Connection {
            stream,
            arrived: FrameBuffer::default(),
            descriptors: Vec::new(),
            unsent: Vec::new(),
            watches: false,
            finished: false,
            broken: false,
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Another handle of the same socket, for a terminal to be sent over.
    pub(super) fn duplicate(&self) -> std::io::Result<OwnedFd> {
        self.stream.try_clone().map(OwnedFd::from)
    }

    /// Reads what has arrived. False once the caller has hung up.
    pub(super) fn read(&mut self) -> bool {
        let mut bytes = [0; 8192];
        match protocol::receive(&self.stream, &mut bytes, &mut self.descriptors) {
            Ok(0) => false,
            Ok(length) => {
                self.arrived.push(&bytes[..length]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// The next whole request.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        match self.arrived.next() {
            Ok(request) => request,
            Err(reason) => {
                eprintln!("a caller sends nonsense: {reason}");
                self.broken = true;
                None
            }
        }
    }

    pub(super) fn send(&mut self, message: &Message) {
        if self.unsent.len() > MAX_UNSENT {
            self.broken = true;
            return;
        }
        self.unsent.extend(protocol::frame(message));
        self.flush();
    }

    /// Sends a message that a descriptor goes with, on a connection on which nothing waits.
    pub(super) fn send_with(&mut self, message: &Message, descriptor: BorrowedFd<'_>) {
        let frame = protocol::frame(message);
        match protocol::send(&self.stream, &frame, &[descriptor]) {
            Ok(sent) => self.unsent.extend_from_slice(&frame[sent..]),
            Err(_) => self.broken = true,
        }
    }

    /// Sends as much as the socket takes.
    pub(super) fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match protocol::send(&self.stream, &self.unsent, &[]) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
        self.unsent = Vec::new();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
