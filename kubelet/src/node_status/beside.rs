//! The second address of a node that says only one: that of the other family.

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::network::OwnAddress;

/// The address of the other family that goes with `primary`, or nothing: one that lasts, of the same
/// interface, where the same machines see both. Private ones go together, and so do public ones; of
/// several it is the lowest, so that it is the same after a restart.
pub(super) fn beside(primary: IpAddr, all: &[OwnAddress]) -> Option<IpAddr> {
    let interface = all.iter().find(|own| own.address == primary)?.interface;
    let fits = |own: &&OwnAddress| {
        let (of_others, may_be_known) = (own.address.is_ipv4() != primary.is_ipv4(), own.lasts);
        own.interface == interface && of_others && may_be_known && is_reached(own.address)
    };
    let fitting = all.iter().filter(fits).map(|own| own.address);
    fitting.min_by_key(|address| (Reverse(is_private(*address) == is_private(primary)), *address))
}

/// Whether others may reach somebody by it: loopback and link-local addresses mean another to each.
fn is_reached(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => {
            let is_mapped = address.to_ipv4_mapped().is_some();
            !address.is_loopback() && !address.is_unicast_link_local() && !is_mapped
        }
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interface: u32, address: &str) -> OwnAddress {
        OwnAddress { interface, address: address.parse().unwrap(), lasts: true }
    }

    #[test]
    fn the_other_family_is_looked_for_where_the_first_is() {
        let passing = OwnAddress { lasts: false, ..own(2, "fd00::2") };
        let all = [
            own(1, "127.0.0.1"),
            own(1, "::1"),
            own(2, "fe80::7"),
            passing,
            own(2, "10.0.0.7"),
            own(2, "2001:db8::7"),
            own(2, "fd00::8"),
            own(2, "fd00::7"),
            own(3, "203.0.113.9"),
            own(3, "fd00::9"),
            own(3, "2001:db8::9"),
            own(4, "10.0.9.1"),
            own(4, "fe80::9"),
        ];
        let beside = |text: &str| {
            let found = beside(text.parse().unwrap(), &all);
            found.map_or_else(|| "-".to_owned(), |address| address.to_string())
        };
        for (primary, wanted) in [
            ("10.0.0.7", "fd00::7"),
            ("fd00::7", "10.0.0.7"),
            ("2001:db8::7", "10.0.0.7"),
            ("203.0.113.9", "2001:db8::9"),
            ("fd00::9", "203.0.113.9"),
            ("10.0.9.1", "-"),
            ("127.0.0.1", "-"),
            ("10.0.0.99", "-"),
        ] {
            assert_eq!(beside(primary), wanted, "{primary}");
        }
    }
}
