//! News of settings that the kernel tells of beside interfaces, addresses and routes: whether packets are passed on.
//!
//! The library that reads the other news knows these messages only by their groups.

use std::io;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NLMSG_ALIGNTO, NetlinkBuffer, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};

/// `NETCONFA_IFINDEX` of `linux/netconf.h`: which interface a setting is of.
const INTERFACE: u16 = 1;
/// `NETCONFA_IFINDEX_ALL`: it is the one above all interfaces.
const ALL: i32 = -1;
/// `struct netconfmsg` with its padding.
const HEADER: usize = NLMSG_ALIGNTO as usize;

/// News since this was made, in the network namespace it was made in. They are hints, as all news are.
pub(crate) struct SettingNews {
    socket: TokioSocket,
}

impl SettingNews {
    pub(crate) fn new() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        for group in [MulticastGroup::Ipv4Netconf, MulticastGroup::Ipv6Netconf] {
            socket.socket_mut().add_membership(group as u32)?;
        }
        Ok(Self { socket })
    }

    /// Waits until a setting changed that holds for all interfaces of a family.
    pub(crate) async fn next(&self) -> io::Result<()> {
        loop {
            match self.socket.recv_from_full().await {
                // Every pod that comes and goes brings settings of an interface of its own.
                Ok((bytes, _)) if !is_of_all(&bytes) => {}
                Ok(_) => return Ok(()),
                // Some were lost.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a datagram has a setting above all interfaces. What cannot be read may be one.
fn is_of_all(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(rest) else { return true };
        let Some(attributes) = message.payload().get(HEADER..) else { return true };
        for attribute in NlasIterator::new(attributes) {
            let Ok(attribute) = attribute else { return true };
            if attribute.kind() == INTERFACE && *attribute.value() == ALL.to_ne_bytes() {
                return true;
            }
        }
        let length = (message.length() as usize).next_multiple_of(NLMSG_ALIGNTO as usize);
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of the kernel: a setting of an interface.
    fn message(interface: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(28_u32.to_ne_bytes());
        bytes.extend([80_u16, 0].into_iter().flat_map(u16::to_ne_bytes));
        bytes.extend([0_u8; 8]);
        bytes.extend([2, 0, 0, 0]);
        bytes.extend([8_u16, INTERFACE].into_iter().flat_map(u16::to_ne_bytes));
        bytes.extend(interface.to_ne_bytes());
        bytes
    }

    #[test]
    fn settings_of_single_interfaces_are_passed_over() {
        assert!(is_of_all(&message(ALL)));
        assert!(!is_of_all(&message(7)));
        assert!(!is_of_all(&[message(7), message(-2)].concat()));
        assert!(is_of_all(&[message(7), message(ALL)].concat()));
        assert!(is_of_all(&message(7)[..20]), "what cannot be read may be one");
    }
}
