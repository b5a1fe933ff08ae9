//! The kernel's end: transactions of nf_tables over plain netlink.

mod encode;
mod message;

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use self::encode::Transaction;
use self::message::{Attributes, array, split};
use super::diff::Command;

/// Why the kernel's rules could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The socket failed.
    #[error("failed to {operation}")]
    Socket {
        /// As "send 12 messages".
        operation: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused; nothing was changed.
    #[error("the kernel refused to {operation}{explanation} ({further} further errors)")]
    Refused {
        /// As "add rule to chain dispatch".
        operation: String,
        /// The kernel's own words, if any.
        explanation: String,
        /// How many more messages it refused.
        further: usize,
        /// The error it gave.
        #[source]
        source: io::Error,
    },
}

/// A connection to nf_tables. Its calls block; a large transaction takes the kernel a second.
pub(crate) struct Nft {
    socket: Socket,
    table: String,
}

/// The kernel answers when it is done, always. This is for the case that it does not.
const PATIENCE_SECONDS: i64 = 120;

const NLMSG_ERROR: u16 = 2;

impl Nft {
    /// A connection in the network namespace of the calling thread, for one table.
    pub(crate) fn open(table: &str) -> Result<Self, NftError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Errors in words, and without the message they are about.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            let patience = TimeVal::seconds(PATIENCE_SECONDS);
            setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &patience)?;
            Ok(socket)
        };
        let failed =
            |source| NftError::Socket { operation: "open a netlink socket".into(), source };
        Ok(Self { socket: open().map_err(failed)?, table: table.to_owned() })
    }

    /// Carries out all commands at once, or none.
    pub(crate) fn apply(&self, commands: &[Command]) -> Result<(), NftError> {
        let transaction = Transaction::new(&self.table, commands);
        if transaction.is_empty() {
            return Ok(());
        }
        self.send(transaction.messages.as_slice())?;
        self.outcome(&transaction)
    }

    /// The kernel takes a transaction as one datagram only, so the buffer has to hold all of it.
    fn send(&self, bytes: &[u8]) -> Result<(), NftError> {
        let failed = |source: io::Error| NftError::Socket {
            operation: format!("send a transaction of {} bytes", bytes.len()),
            source,
        };
        setsockopt(&self.socket.as_fd(), sockopt::SndBufForce, &(bytes.len() + 4096))
            .map_err(|errno| failed(errno.into()))?;
        self.socket.send(bytes, 0).map_err(failed)?;
        Ok(())
    }

    fn outcome(&self, transaction: &Transaction) -> Result<(), NftError> {
        let mut first: Option<NftError> = None;
        let mut further = 0;
        loop {
            let (buffer, _) = self.socket.recv_from_full().map_err(|source| NftError::Socket {
                operation: "hear of a transaction's outcome".into(),
                source,
            })?;
            let mut done = false;
            for message in split(&buffer).filter(|message| message.kind == NLMSG_ERROR) {
                let Some(code) = array(message.payload, 0).map(i32::from_ne_bytes) else {
                    continue;
                };
                // An error of the commit itself is about the first message.
                done |= message.sequence == transaction.last_sequence() || message.sequence == 0;
                if code == 0 {
                    continue;
                }
                if first.is_some() {
                    further += 1;
                    continue;
                }
                first = Some(NftError::Refused {
                    operation: transaction.describe(message.sequence),
                    explanation: explanation(message.flags, message.payload),
                    further: 0,
                    source: io::Error::from_raw_os_error(-code),
                });
            }
            if done {
                break;
            }
        }
        match first {
            None => Ok(()),
            Some(NftError::Refused { operation, explanation, source, .. }) => {
                Err(NftError::Refused { operation, explanation, further, source })
            }
            Some(other) => Err(other),
        }
    }
}

/// The kernel's words about an error, in brackets.
fn explanation(flags: u16, payload: &[u8]) -> String {
    const CAPPED: u16 = 0x100;
    const ACK_TLVS: u16 = 0x200;
    const MESSAGE: u16 = 1;
    /// The error number and the header of the message it is about.
    const WITHOUT_MESSAGE: usize = 4 + 16;

    if flags & (CAPPED | ACK_TLVS) != CAPPED | ACK_TLVS {
        return String::new();
    }
    let mut attributes = Attributes(payload.get(WITHOUT_MESSAGE..).unwrap_or_default());
    match attributes.find(|(kind, _)| *kind == MESSAGE) {
        Some((_, text)) => {
            let text = String::from_utf8_lossy(text);
            format!(" [{}]", text.trim_end_matches('\0'))
        }
        None => String::new(),
    }
}
