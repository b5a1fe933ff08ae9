//! A range of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 range in CIDR notation. The bits behind the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cidr4 {
    network: Ipv4Addr,
    prefix: u8,
}

/// Not an IPv4 range in CIDR notation.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no IPv4 range in CIDR notation")]
pub(crate) struct InvalidCidr(String);

impl Cidr4 {
    /// The range of this size that holds the address; a prefix beyond 32 means 32.
    pub(crate) fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { network: Ipv4Addr::from(u32::from(address) & mask(prefix)), prefix }
    }

    /// The first address.
    pub(crate) fn network(self) -> Ipv4Addr {
        self.network
    }

    /// How many leading bits are fixed.
    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// The address the node itself has in its own pod range: the first after the network's.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + u32::from(self.prefix < 31))
    }

    /// What pods may get: all but the network, the gateway and the broadcast address. Nothing for
    /// ranges too small to hold a pod beside these.
    pub(crate) fn pod_addresses(self) -> std::ops::Range<u32> {
        let first = u32::from(self.network);
        let last = first | !mask(self.prefix);
        if self.prefix > 29 { first..first } else { first + 2..last }
    }

    /// Whether the address is in the range.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr4 {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        text.split_once('/')
            .and_then(|(address, prefix)| {
                let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
                Some(Self::around(address.parse().ok()?, prefix))
            })
            .ok_or_else(|| InvalidCidr(text.to_owned()))
    }
}

impl fmt::Display for Cidr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// The IPv4 ranges among those of a list. What else is in it belongs to the other family, or is
/// told by whoever made the list.
pub(crate) fn ipv4_ranges<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<Cidr4> {
    let mut ranges: Vec<Cidr4> = texts.into_iter().filter_map(|text| text.parse().ok()).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_addresses() {
        let range: Cidr4 = "10.244.3.0/24".parse().unwrap();
        assert_eq!(range.gateway(), Ipv4Addr::new(10, 244, 3, 1));
        assert_eq!(range.pod_addresses().len(), 253);
        assert!(range.contains(Ipv4Addr::new(10, 244, 3, 255)));
        assert!(!range.contains(Ipv4Addr::new(10, 244, 4, 0)));
        assert_eq!(range.to_string(), "10.244.3.0/24");
    }

    #[test]
    fn drops_the_bits_behind_the_prefix() {
        assert_eq!("10.1.2.3/16".parse::<Cidr4>().unwrap().to_string(), "10.1.0.0/16");
        assert!("0.0.0.0/0".parse::<Cidr4>().unwrap().contains(Ipv4Addr::new(8, 8, 8, 8)));
    }

    #[test]
    fn has_no_room_for_pods_when_too_small() {
        assert_eq!("10.0.0.0/30".parse::<Cidr4>().unwrap().pod_addresses().len(), 0);
        assert_eq!("10.0.0.0/29".parse::<Cidr4>().unwrap().pod_addresses().len(), 5);
    }

    #[test]
    fn refuses_what_is_no_range() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/64", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr4>().is_err(), "{text}");
        }
    }
}
