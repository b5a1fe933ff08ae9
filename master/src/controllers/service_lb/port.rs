//! Ports of a node.

use std::fmt;
use std::str::FromStr;

/// With their protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub(crate) number: u16,
    /// As the API writes it.
    pub(crate) protocol: &'static str,
}

/// Not a port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is no port; write as 22 or 8472/UDP")]
pub struct InvalidPort(String);

impl Port {
    /// Of TCP.
    pub fn tcp(number: u16) -> Self {
        Self { number, protocol: "TCP" }
    }

    /// As objects have it; nothing where it is none.
    pub(crate) fn new(protocol: Option<&str>, number: i32) -> Option<Self> {
        let protocol = match protocol {
            None | Some("" | "TCP") => "TCP",
            Some("UDP") => "UDP",
            Some("SCTP") => "SCTP",
            Some(_) => return None,
        };
        let number = u16::try_from(number).ok().filter(|number| *number != 0)?;
        Some(Self { number, protocol })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let (number, protocol) = match text.split_once('/') {
            Some((number, protocol)) => (number, Some(protocol.to_uppercase())),
            None => (text, None),
        };
        let number = number.parse().ok();
        number
            .and_then(|number| Self::new(protocol.as_deref(), number))
            .ok_or_else(|| InvalidPort(text.to_owned()))
    }
}
