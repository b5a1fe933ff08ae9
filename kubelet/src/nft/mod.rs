//! The kernel's packet filter, by plain netlink messages: no program is forked, and no program's
//! output read.
//!
//! * [`table`]: tables and what is done to them; [`set`]: sets and maps, described by data;
//!   [`expr`]: chains, rules and their instructions;
//! * [`Nft`] carries out [`Command`]s, all at once or none, and reads a table back ([`Found`]);
//! * [`Guard`] notices when somebody else changes a table; [`Connection`] and what is beside it are for
//!   whoever keeps one;
//! * [`conntrack`] has the kernel forget connections.
//!
//! What is in a table is the affair of whoever owns it; here is only how the kernel is told.

pub(crate) mod conntrack;
mod dump;
mod encode;
pub(crate) mod expr;
mod expressions;
mod guard;
mod keep;
mod message;
pub(crate) mod set;
mod socket;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use self::dump::Found;
use self::encode::Transaction;
pub(crate) use self::guard::Guard;
pub use self::keep::Connection;
pub(crate) use self::keep::{Others, Retry};
use self::message::{Attributes, array, split};
use self::socket::NetfilterSocket;
use self::table::{Command, Table};

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
///
/// All who change tables in a network namespace share one (see [`Connection`]): a [`Guard`] passes over
/// what came through the connection it was given, and a large change through another drowns out its news.
pub(crate) struct Nft {
    /// Held for as long as it takes until the kernel has answered.
    socket: Mutex<NetfilterSocket>,
}

const NLMSG_ERROR: u16 = 2;

impl Nft {
    /// A connection in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, NftError> {
        let failed =
            |source| NftError::Socket { operation: "open a netlink socket".into(), source };
        Ok(Self { socket: Mutex::new(NetfilterSocket::open().map_err(failed)?) })
    }

    /// The address of its socket, by which news tell who made a change.
    pub(crate) fn address(&self) -> io::Result<u32> {
        self.socket().address()
    }

    /// Carries out all commands at once, or none: each list on its table.
    pub(crate) fn apply(&self, changes: &[(&Table, &[Command])]) -> Result<(), NftError> {
        let transaction = Transaction::new(changes);
        if transaction.is_empty() {
            return Ok(());
        }
        let bytes = transaction.messages.as_slice();
        let socket = self.socket();
        socket.send(bytes).map_err(|source| NftError::Socket {
            operation: format!("send a transaction of {} bytes", bytes.len()),
            source,
        })?;
        outcome(&socket, &transaction)
    }

    fn socket(&self) -> MutexGuard<'_, NetfilterSocket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome(socket: &NetfilterSocket, transaction: &Transaction) -> Result<(), NftError> {
    let mut first: Option<NftError> = None;
    let mut further = 0;
    loop {
        let buffer = socket.receive().map_err(|source| NftError::Socket {
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
