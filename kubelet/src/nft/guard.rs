//! Notices when somebody else changes a table.
//!
//! nf_tables tells everybody who listens what changes, and through whose socket. What goes through our
//! own is filtered out by the kernel before it is queued, so that a change of ours, however large, makes
//! nothing to read and drowns nothing out.

use std::io;

use futures::FutureExt as _;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use socket2::{SockFilter, SockRef};

use super::encode::NFNL_SUBSYS_NFTABLES;
use super::message::{Attributes, split};
use super::table::Table;

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;
/// `struct nfgenmsg`, before the attributes.
const FAMILY_HEADER: usize = 4;
/// The name of the table is the first attribute of whatever is in one.
const TABLE_NAME: u16 = 1;

/// News of changes that others make, in the network namespace it was made in.
pub(crate) struct Guard {
    socket: TokioSocket,
    tables: Vec<Table>,
}

impl Guard {
    /// Listens from now on for changes of these tables that do not come from the socket with the
    /// address `own`, see [`super::Nft::address`].
    pub(crate) fn listen(tables: Vec<Table>, own: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        SockRef::from(socket.socket_ref()).attach_filter(&all_but(own))?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self { socket, tables })
    }

    /// Waits until somebody changes one of the tables, and passes over what else is told by then: one repair
    /// covers it. Also returns when news were lost: it may have been among them.
    pub(crate) async fn touched(&mut self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(1 << 16);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer).await {
                Ok(_) if concerns(&buffer, &self.tables) => {
                    while let Some(Ok(_)) = self.socket.recv(&mut buffer).now_or_never() {
                        buffer.clear();
                    }
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a change is about one of these tables.
fn concerns(buffer: &[u8], tables: &[Table]) -> bool {
    split(buffer).filter(|message| message.kind >> 8 == NFNL_SUBSYS_NFTABLES).any(|message| {
        let Some(family) = message.payload.first() else { return false };
        let attributes = Attributes(message.payload.get(FAMILY_HEADER..).unwrap_or_default());
        let mut names = attributes.filter(|(kind, _)| *kind == TABLE_NAME);
        names.any(|(_, name)| {
            let of = |table: &&Table| name.strip_suffix(b"\0") == Some(table.name.as_bytes());
            tables.iter().filter(of).any(|table| table.family.number() == *family)
        })
    })
}

/// A program for the kernel: keep what does not say that it comes from `own`.
fn all_but(own: u32) -> [SockFilter; 4] {
    /// `BPF_LD | BPF_W | BPF_ABS`
    const LOAD_WORD: u16 = 0x20;
    /// `BPF_JMP | BPF_JEQ | BPF_K`
    const JUMP_IF_EQUAL: u16 = 0x15;
    /// `BPF_RET | BPF_K`
    const RETURN: u16 = 0x06;
    /// `nlmsg_pid` of the first message; all of a datagram are of one sender.
    const SENDER: u32 = 12;
    // Words are loaded in network byte order, the header is in the machine's.
    [
        SockFilter::new(LOAD_WORD, 0, 0, SENDER),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, own.to_be()),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::message::{Headers, Messages};
    use super::super::table::Family;
    use super::*;

    fn message(kind: u16, family: Family, table: &str) -> Messages {
        let mut messages = Messages::default();
        let family = family.number();
        let headers = Headers { kind, flags: 0, sequence: 0, family, resource: 0 };
        messages.push(headers, |message| message.text(TABLE_NAME, table));
        messages
    }

    #[test]
    fn tells_changes_of_the_tables_from_others() {
        let nftables = NFNL_SUBSYS_NFTABLES << 8;
        let table = |family| Table { family, name: "kutter".to_owned() };
        let tables = [table(Family::Ipv4), table(Family::Ipv6)];
        let cases = [
            (nftables | 2, Family::Ipv4, "kutter", true),
            (nftables | 8, Family::Ipv6, "kutter", true),
            (nftables | 2, Family::Inet, "kutter", false),
            (nftables | 2, Family::Ipv4, "kutter2", false),
            (nftables | 2, Family::Ipv4, "filter", false),
            (3 << 8, Family::Ipv4, "kutter", false),
        ];
        for (kind, family, table, wanted) in cases {
            let message = message(kind, family, table);
            assert_eq!(concerns(message.as_slice(), &tables), wanted, "{kind:x} {table}");
        }
        assert!(!concerns(&[0; 40], &tables));
    }
}
