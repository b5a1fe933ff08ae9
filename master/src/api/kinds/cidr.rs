//! Ranges of addresses, out of which services and nodes get theirs: one, or one of each family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `10.0.0.1`
    V4,
    /// `fd00::1`
    V6,
}

impl Family {
    /// As `ipFamilies` and the `addressType` of a slice say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The family of the text of an address.
    pub fn of(address: &str) -> Self {
        if address.contains(':') { Self::V6 } else { Self::V4 }
    }

    /// What [`as_str`](Self::as_str) says; what is no name of a family counts as IPv4.
    pub fn of_name(name: &str) -> Self {
        if name == Self::V6.as_str() { Self::V6 } else { Self::V4 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A range such as `10.96.0.0/16` or `fd00:10:96::/112`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    family: Family,
    network: u128,
    prefix: u8,
}

/// Why a text is no range, or no pair of ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not of the form.
    #[error("{0:?} is not a range of addresses, such as 10.96.0.0/16 or fd00:10:96::/112")]
    Malformed(String),
    /// The address is not the first one of the range.
    #[error("{given} does not begin its range: write {range}")]
    HostBits {
        /// What was written.
        given: String,
        /// What is meant.
        range: IpRange,
    },
    /// Two of one family.
    #[error("{0} and {1} are both {family}: give one range of each family", family = .0.family())]
    SameFamily(IpRange, IpRange),
    /// There are two families only.
    #[error("{0} ranges are too many: give one, or one of each family")]
    TooMany(usize),
}

impl IpRange {
    /// Of what family its addresses are.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Bits that all addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Bits in which its addresses differ.
    pub fn host_bits(&self) -> u8 {
        self.family.bits() - self.prefix
    }

    /// How many addresses there are, those for the network and for broadcast included; of all IPv6
    /// addresses one is left out.
    pub fn size(&self) -> u128 {
        1_u128.checked_shl(self.host_bits().into()).unwrap_or(u128::MAX)
    }

    /// An address by its offset.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        (offset < self.size()).then(|| self.address(self.network + offset))
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from(number as u32).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (family, number) = number(address);
        family == self.family && number & self.mask() == self.network
    }

    /// Whether an address of it can be given to a service: not the one for the network itself, nor
    /// the one for broadcast, which IPv6 does not have.
    pub fn usable(&self, address: IpAddr) -> bool {
        let broadcast = || self.family == Family::V4 && self.nth(self.size() - 1) == Some(address);
        self.contains(address)
            && (self.size() <= 2 || (self.nth(0) != Some(address) && !broadcast()))
    }

    /// Whether all of another range lies in it.
    pub fn contains_range(&self, other: &Self) -> bool {
        other.prefix >= self.prefix && self.contains(other.address(other.network))
    }

    /// Whether they share addresses.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains_range(other) || other.contains_range(self)
    }

    /// All ranges of a longer prefix within it, lowest first; nothing of a shorter one, nor of one
    /// that is longer by 32 bits or more.
    pub fn subnets(&self, prefix: u8) -> impl Iterator<Item = Self> + use<> {
        let range = *self;
        let fits = prefix <= self.family.bits();
        let bits = prefix.checked_sub(self.prefix).filter(|bits| fits && *bits < 32);
        (0..bits.map_or(0, |bits| 1_u128 << bits)).map(move |index| {
            let offset = index << (range.family.bits() - prefix);
            Self { network: range.network + offset, prefix, ..range }
        })
    }

    fn mask(&self) -> u128 {
        let all = u128::MAX >> (128 - self.family.bits());
        all & all.checked_shl(self.host_bits().into()).unwrap_or(0)
    }
}

fn number(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(address) => (Family::V4, u32::from(address).into()),
        IpAddr::V6(address) => (Family::V6, address.into()),
    }
}

impl FromStr for IpRange {
    type Err = RangeError;

    /// The address has to be the first of the range.
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let malformed = || RangeError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let mapped = |ip: &Ipv6Addr| ip.to_ipv4_mapped().is_some();
        let digits = prefix.len() <= 3 && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let (family, network) = number(address);
        if !digits || prefix > family.bits() || matches!(address, IpAddr::V6(ip) if mapped(&ip)) {
            return Err(malformed());
        }
        let whole = Self { family, network, prefix };
        let range = Self { network: network & whole.mask(), ..whole };
        match range == whole {
            true => Ok(range),
            false => Err(RangeError::HostBits { given: text.to_owned(), range }),
        }
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(self.network), self.prefix)
    }
}

/// One range, or one of each family, the first of which is the primary one. Written with a comma
/// between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    primary: IpRange,
    secondary: Option<IpRange>,
}

impl Ranges {
    /// The first one: who does not ask for a family gets an address of it.
    pub fn primary(&self) -> IpRange {
        self.primary
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = IpRange> + use<> {
        std::iter::once(self.primary).chain(self.secondary)
    }

    /// That of a family.
    pub fn of(&self, family: Family) -> Option<IpRange> {
        self.iter().find(|range| range.family == family)
    }

    /// Whether there are two.
    pub fn is_dual(&self) -> bool {
        self.secondary.is_some()
    }

    /// As the nodes are told.
    pub fn texts(&self) -> Vec<String> {
        self.iter().map(|range| range.to_string()).collect()
    }
}

impl FromStr for Ranges {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let ranges: Vec<IpRange> =
            text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
        match ranges[..] {
            [primary] => Ok(Self { primary, secondary: None }),
            [primary, other] if primary.family != other.family => {
                Ok(Self { primary, secondary: Some(other) })
            }
            [primary, other] => Err(RangeError::SameFamily(primary, other)),
            _ => Err(RangeError::TooMany(ranges.len())),
        }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(","))
    }
}

/// The lengths of the prefixes that each node gets out of the pods' ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePrefixes {
    /// Of IPv4.
    pub v4: u8,
    /// Of IPv6.
    pub v6: u8,
}

impl Default for NodePrefixes {
    fn default() -> Self {
        Self { v4: 24, v6: 64 }
    }
}

impl NodePrefixes {
    /// That of a family.
    pub fn of(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn reads_ranges_and_nothing_else() {
        for text in
            ["10.96.0.0/16", "10.0.0.1/32", "0.0.0.0/0", "fd00:10:96::/112", "::/0", "::1/128"]
        {
            assert_eq!(range(text).to_string(), text);
        }
        for text in
            ["", "10.96.0.0", "10.0.0.0/33", "10.0.0.0/+8", "a/8", "::/129", "::ffff:10.0.0.0/104"]
        {
            let error = text.parse::<IpRange>().unwrap_err();
            assert_eq!(error, RangeError::Malformed(text.to_owned()));
        }
        for (text, meant) in [("10.96.0.1/16", "10.96.0.0/16"), ("fd00::7/64", "fd00::/64")] {
            let error = text.parse::<IpRange>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("write {meant}")), "{error}");
        }
    }

    #[test]
    fn knows_what_is_in_it() {
        let services = range("10.96.0.0/16");
        assert_eq!(services.size(), 65536);
        assert_eq!(services.nth(1), Some(ip("10.96.0.1")));
        assert_eq!(services.nth(65536), None);
        assert!(services.contains(ip("10.96.255.255")));
        assert!(!services.contains(ip("10.97.0.0")));
        assert!(!services.contains(ip("10.95.255.255")));
        assert!(!services.contains(ip("::a60:1")), "of another family");
        let subnets: Vec<String> = services.subnets(18).map(|s| s.to_string()).collect();
        assert_eq!(subnets, ["10.96.0.0/18", "10.96.64.0/18", "10.96.128.0/18", "10.96.192.0/18"]);
        assert!(services.contains_range(&range("10.96.64.0/18")));
        assert!(!services.contains_range(&range("10.0.0.0/8")));
        assert!(services.overlaps(&range("10.0.0.0/8")));
        assert!(!services.overlaps(&range("::/0")));
        assert_eq!(services.subnets(8).count(), 0);
        assert_eq!(range("0.0.0.0/0").subnets(1).count(), 2);
        let pods = range("fd00:10:244::/48");
        assert_eq!(pods.subnets(64).nth(2), Some(range("fd00:10:244:2::/64")));
        assert_eq!(pods.subnets(64).count(), 65536);
        assert_eq!(pods.nth((1 << 80) - 1), Some(ip("fd00:10:244:ffff:ffff:ffff:ffff:ffff")));
        assert_eq!(range("::/0").size(), u128::MAX);
    }

    #[test]
    fn broadcast_is_of_ipv4() {
        let usable = |text: &str, address: &str| range(text).usable(ip(address));
        assert!(!usable("10.96.0.0/29", "10.96.0.0") && !usable("10.96.0.0/29", "10.96.0.7"));
        assert!(usable("10.96.0.0/29", "10.96.0.6") && usable("10.96.0.0/31", "10.96.0.0"));
        assert!(!usable("fd00::/125", "fd00::") && usable("fd00::/125", "fd00::7"));
        assert!(!usable("fd00::/125", "fd00::8"));
    }

    #[test]
    fn two_ranges_are_of_two_families() {
        let both: Ranges = "fd00::/112, 10.96.0.0/16".parse().unwrap();
        assert_eq!(both.to_string(), "fd00::/112,10.96.0.0/16");
        assert_eq!(both.primary().family(), Family::V6);
        assert_eq!(both.of(Family::V4), Some(range("10.96.0.0/16")));
        assert!(both.is_dual());
        let one: Ranges = "10.96.0.0/16".parse().unwrap();
        assert_eq!((one.is_dual(), one.of(Family::V6)), (false, None));
        for (text, words) in [
            ("10.96.0.0/16,10.97.0.0/16", "are both IPv4: give one range of each family"),
            ("10.96.0.0/16,fd00::/112,fd01::/112", "3 ranges are too many"),
            ("10.96.0.0/16,", "\"\" is not a range"),
        ] {
            let error = text.parse::<Ranges>().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
