//! Ranges of IPv4 addresses, out of which services and nodes get theirs.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range such as `10.96.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Range {
    network: u32,
    prefix: u8,
}

/// The text is not a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a range of IPv4 addresses, such as 10.96.0.0/16")]
pub struct NotARange;

impl Ipv4Range {
    /// Bits that all addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many addresses there are, those for the network and for broadcast included.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// An address by its offset.
    pub fn nth(&self, offset: u64) -> Option<Ipv4Addr> {
        let offset =
            u32::try_from(offset).ok().filter(|&offset| u64::from(offset) < self.size())?;
        Some(Ipv4Addr::from(self.network + offset))
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u64::from(u32::from(address).wrapping_sub(self.network)) < self.size()
    }

    /// Whether all of another range lies in it.
    pub fn contains_range(&self, other: &Self) -> bool {
        other.prefix >= self.prefix && self.contains(Ipv4Addr::from(other.network))
    }

    /// All ranges of a longer prefix within it, lowest first.
    pub fn subnets(&self, prefix: u8) -> impl Iterator<Item = Self> + use<> {
        let (network, own) = (self.network, self.prefix);
        let count = if (own..=32).contains(&prefix) { 1_u64 << (prefix - own) } else { 0 };
        (0..count).map(move |index| {
            let offset = (index << (32 - u32::from(prefix))) as u32;
            Self { network: network + offset, prefix }
        })
    }
}

impl FromStr for Ipv4Range {
    type Err = NotARange;

    /// The address has to be the first of the range.
    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (address, prefix) = text.split_once('/').ok_or(NotARange)?;
        let network = u32::from(address.parse::<Ipv4Addr>().map_err(|_| NotARange)?);
        let digits = prefix.len() <= 2 && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = prefix.parse().map_err(|_| NotARange)?;
        if !digits || prefix > 32 {
            return Err(NotARange);
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        if network & !mask == 0 { Ok(Self { network, prefix }) } else { Err(NotARange) }
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Ipv4Range {
        text.parse().unwrap()
    }

    #[test]
    fn reads_ranges_and_nothing_else() {
        for text in ["10.96.0.0/16", "10.0.0.1/32", "0.0.0.0/0"] {
            assert_eq!(range(text).to_string(), text);
        }
        for text in ["", "10.96.0.0", "10.96.0.1/16", "10.0.0.0/33", "10.0.0.0/+8", "a/8", "::/8"] {
            assert_eq!(text.parse::<Ipv4Range>(), Err(NotARange), "{text}");
        }
    }

    #[test]
    fn knows_what_is_in_it() {
        let services = range("10.96.0.0/16");
        assert_eq!(services.size(), 65536);
        assert_eq!(services.nth(1), Some(Ipv4Addr::new(10, 96, 0, 1)));
        assert_eq!(services.nth(65536), None);
        assert!(services.contains(Ipv4Addr::new(10, 96, 255, 255)));
        assert!(!services.contains(Ipv4Addr::new(10, 97, 0, 0)));
        assert!(!services.contains(Ipv4Addr::new(10, 95, 255, 255)));
        let subnets: Vec<String> = services.subnets(18).map(|s| s.to_string()).collect();
        assert_eq!(subnets, ["10.96.0.0/18", "10.96.64.0/18", "10.96.128.0/18", "10.96.192.0/18"]);
        assert!(services.contains_range(&range("10.96.64.0/18")));
        assert!(!services.contains_range(&range("10.0.0.0/8")));
        assert_eq!(services.subnets(8).count(), 0);
        assert_eq!(range("0.0.0.0/0").subnets(1).count(), 2);
    }
}
