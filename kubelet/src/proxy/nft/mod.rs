//! The kernel's end: transactions of nf_tables over plain netlink.

mod dump;
mod encode;
mod expressions;

use std::io;

pub(crate) use self::encode::NFNL_SUBSYS_NFTABLES;
use self::encode::Transaction;
use super::diff::Command;
use super::message::{Attributes, array, split};
use super::socket::NetfilterSocket;

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
    socket: NetfilterSocket,
    table: String,
}

const NLMSG_ERROR: u16 = 2;

impl Nft {
    /// A connection in the network namespace of the calling thread, for one table.
    pub(crate) fn open(table: &str) -> Result<Self, NftError> {
        let failed =
            |source| NftError::Socket { operation: "open a netlink socket".into(), source };
        Ok(Self { socket: NetfilterSocket::open().map_err(failed)?, table: table.to_owned() })
    }

    /// The address of its socket, by which news tell who made a change.
    pub(crate) fn address(&self) -> io::Result<u32> {
        self.socket.address()
    }

    /// Carries out all commands at once, or none.
    pub(crate) fn apply(&self, commands: &[Command]) -> Result<(), NftError> {
        let transaction = Transaction::new(&self.table, commands);
        if transaction.is_empty() {
            return Ok(());
        }
        let bytes = transaction.messages.as_slice();
        self.socket.send(bytes).map_err(|source| NftError::Socket {
            operation: format!("send a transaction of {} bytes", bytes.len()),
            source,
        })?;
        self.outcome(&transaction)
    }

    fn outcome(&self, transaction: &Transaction) -> Result<(), NftError> {
        let mut first: Option<NftError> = None;
        let mut further = 0;
        loop {
            let buffer = self.socket.receive().map_err(|source| NftError::Socket {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::proxy::diff::replacement;
    use crate::proxy::ruleset::Ruleset;

    /// Runs in a network namespace of its own, which goes with the thread; needs root.
    fn inside(test: &'static str, work: impl FnOnce() + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("{test}: left out, it makes a network namespace and needs root");
            return;
        }
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            work();
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_refused_message_is_named_and_nothing_is_changed() {
        inside("a_refused_message_is_named_and_nothing_is_changed", || {
            let nft = Nft::open("kutter").unwrap();
            let gone = |name: &str| Command::DeleteChain { name: name.to_owned() };
            let commands = [Command::AddTable, gone("nowhere"), gone("neither")];
            let error = nft.apply(&commands).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("delete chain nowhere"), "{text}");
            assert!(text.contains("(1 further errors)"), "{text}");
            let NftError::Refused { source, .. } = error else { panic!("{error}") };
            assert_eq!(source.kind(), io::ErrorKind::NotFound);
            // The table was not made either: without it there is nothing to delete.
            assert!(nft.apply(&[Command::DeleteTable]).is_err());
        });
    }

    #[test]
    fn the_same_rules_can_be_put_in_place_again_and_again() {
        inside("the_same_rules_can_be_put_in_place_again_and_again", || {
            let nft = Nft::open("kutter").unwrap();
            let commands = replacement(&Ruleset::default());
            for _ in 0..3 {
                nft.apply(&commands).unwrap();
            }
            nft.apply(&[Command::AddTable, Command::DeleteTable]).unwrap();
            nft.apply(&[]).unwrap();
        });
    }

    #[test]
    fn every_message_of_a_transaction_can_be_told_from_the_others() {
        let transaction = Transaction::new("kutter", &replacement(&Ruleset::default()));
        let sequences: Vec<u32> =
            split(transaction.messages.as_slice()).map(|message| message.sequence).collect();
        assert_eq!(sequences.iter().collect::<BTreeSet<_>>().len(), sequences.len());
        assert_eq!(transaction.last_sequence(), sequences[sequences.len() - 2]);
        assert_eq!(transaction.describe(0), "commit");
        assert_eq!(transaction.describe(1), "add the table");
    }
}
