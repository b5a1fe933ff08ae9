//! A netlink socket to netfilter.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// A connection in the network namespace it was made in. Its calls block.
pub(crate) struct NetfilterSocket {
    socket: Socket,
}

/// The kernel answers when it is done, always. This is for the case that it does not.
const PATIENCE_SECONDS: i64 = 120;

/// The kernel says no more than 32 KiB at once, and that much only to those who have the room: the
/// fewer pieces a list comes in, the less often the kernel walks along it again from the start.
const LONGEST_ANSWER: usize = 1 << 16;

impl NetfilterSocket {
    /// A connection in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors in words, and without the message they are about.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let patience = TimeVal::seconds(PATIENCE_SECONDS);
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &patience)?;
        Ok(Self { socket })
    }

    /// By which the kernel knows it.
    pub(crate) fn address(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Sends messages as one datagram, however long: the kernel takes a transaction as a whole.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        setsockopt(&self.socket.as_fd(), sockopt::SndBufForce, &(bytes.len() + 4096))?;
        self.socket.send(bytes, 0)?;
        Ok(())
    }

    /// What the kernel says next.
    pub(crate) fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(LONGEST_ANSWER);
        self.socket.recv(&mut buffer, 0)?;
        Ok(buffer)
    }
}
