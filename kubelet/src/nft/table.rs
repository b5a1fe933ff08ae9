//! Tables, and what is done to them.

use super::expr::{Hook, Ip, Rule};
use super::set::{Element, Key, Set};

/// Which packets a table sees, and how its rules read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
// The kernel's words: all are tried, not each is in a table of ours.
#[allow(dead_code)]
pub(crate) enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// IPv4 and IPv6; rules that read addresses ask first which it is.
    Inet,
    /// Frames that pass through a bridge.
    Bridge,
}

impl Family {
    /// Its number in `linux/netfilter.h`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Bridge => 7,
            Self::Ipv6 => 10,
        }
    }
}

/// Names a table; there may be one of a name in each family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Table {
    /// Which packets it sees.
    pub(crate) family: Family,
    /// Its name within the family.
    pub(crate) name: String,
}

impl Table {
    /// The one of this name that sees packets of a version of IP.
    pub(crate) fn of(name: &str, ip: Ip) -> Self {
        let family = match ip {
            Ip::V4 => Family::Ipv4,
            Ip::V6 => Family::Ipv6,
        };
        Self { family, name: name.to_owned() }
    }
}

/// One step of a change. All steps that the kernel is told together take effect at once, or none
/// does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Makes the table; one that is there is kept.
    AddTable,
    /// Deletes the table with all that is in it.
    DeleteTable,
    /// Makes a set or map; one that is there, and is the same, is kept.
    AddSet(Set),
    /// Deletes a set or map that no rule looks at.
    DeleteSet(Set),
    /// Makes a chain.
    AddChain { name: String, hook: Option<Hook> },
    /// Deletes the rules of a chain.
    FlushChain { name: String },
    /// Puts a rule at the end of a chain.
    AddRule { chain: String, rule: Rule },
    /// Deletes a chain nothing leads to.
    DeleteChain { name: String },
    /// Adds elements of one set.
    AddElements(Set, Vec<Element>),
    /// Deletes elements of one set.
    DeleteElements(Set, Vec<Key>),
}
