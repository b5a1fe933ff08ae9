//! The addresses that the operator gives a node.

use std::net::IpAddr;
use std::str::FromStr;

/// One address, or one of each family, the primary one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddresses(Vec<IpAddr>);

impl NodeAddresses {
    /// The addresses; at least one.
    pub fn into_vec(self) -> Vec<IpAddr> {
        self.0
    }
}

/// Text that is no list of a node's addresses.
#[derive(Debug, thiserror::Error)]
pub enum InvalidNodeAddresses {
    /// Not even an address.
    #[error("\"{0}\" is no address; write one, or one of each family as 10.0.0.7,fd00::7")]
    NoAddress(String),
    /// It would lead nowhere.
    #[error("{0} is no address under which other nodes could reach this one")]
    Unusable(IpAddr),
    /// There is one already.
    #[error("{0} and {1} are of one family; a node has one address of each")]
    SameFamily(IpAddr, IpAddr),
}

impl FromStr for NodeAddresses {
    type Err = InvalidNodeAddresses;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in text.split(',') {
            let address: IpAddr = text
                .trim()
                .parse()
                .map_err(|_| InvalidNodeAddresses::NoAddress(text.trim().to_owned()))?;
            let link_local = match address {
                IpAddr::V4(address) => address.is_link_local(),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            if address.is_unspecified() || address.is_multicast() || link_local {
                return Err(InvalidNodeAddresses::Unusable(address));
            }
            let of_family = addresses.iter().find(|known| known.is_ipv4() == address.is_ipv4());
            if let Some(known) = of_family {
                return Err(InvalidNodeAddresses::SameFamily(*known, address));
            }
            addresses.push(address);
        }
        Ok(Self(addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_one_address_or_one_of_each_family() {
        let of = |text: &str| text.parse::<NodeAddresses>().map(NodeAddresses::into_vec);
        let texts = |text: &str| {
            of(text).unwrap().iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts("10.0.0.7"), "10.0.0.7");
        assert_eq!(texts("fd00:0::7,10.0.0.7"), "fd00::7 10.0.0.7");
        assert_eq!(texts("10.0.0.7, fd00::7"), "10.0.0.7 fd00::7");
        for (wrong, said) in [
            ("", "\"\" is no address"),
            ("node", "\"node\" is no address"),
            ("10.0.0.7,", "\"\" is no address"),
            ("10.0.0.7,10.0.0.8", "10.0.0.7 and 10.0.0.8 are of one family"),
            ("10.0.0.7,fd00::7,fd00::8", "fd00::7 and fd00::8 are of one family"),
            ("0.0.0.0", "0.0.0.0 is no address under which"),
            ("fe80::1", "fe80::1 is no address under which"),
            ("ff02::1", "ff02::1 is no address under which"),
        ] {
            let error = of(wrong).unwrap_err().to_string();
            assert!(error.starts_with(said), "{wrong}: {error}");
        }
    }
}
