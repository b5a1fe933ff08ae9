//! The instructions of the kernel's packet filter, as far as we use them.
//!
//! A rule is a list of expressions over sixteen registers of four bytes. An expression that does
//! not match ends its rule; evaluation goes on with the next one.
//!
//! What a map gave is never part of another key, though the kernel could do that: `nft list` cannot
//! print it, and aborts. The rules of a node must stay readable.

use std::fmt;
use std::net::IpAddr;

use super::set::{Bytes, Name};

/// A register of four bytes; longer values lie in consecutive ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Register(pub(crate) u8);

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Ip {
    /// With addresses of four bytes.
    V4,
    /// With addresses of sixteen bytes.
    V6,
}

impl Ip {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Its number as [`Field::Family`].
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// How many bytes an address has.
    pub(crate) fn address_length(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// What an expression can read from a packet or from what is known of it. What is shorter than a
/// register is padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// The kernel's words: all are tried, not each is in a table of ours.
#[allow(dead_code)]
pub(crate) enum Field {
    /// One byte: [`Ip::number`]. For tables that see both.
    Family,
    /// What a frame carries, two bytes in network byte order: 0x0800 IPv4, 0x86dd IPv6, 0x0806 ARP.
    EtherType,
    /// Hardware address that a frame comes from, six bytes. For tables of bridges, as those that follow.
    HardwareSource,
    /// Hardware address that a frame goes to. The first byte of those of many is odd.
    HardwareDestination,
    /// The hardware address that a message of ARP says its sender has.
    ArpHardwareSource,
    /// The IPv4 address that a message of ARP says its sender has.
    ArpSource,
    /// What a message of ICMP is, one byte.
    IcmpType,
    /// The IPv6 address that a message of neighbour discovery is about.
    NeighbourTarget,
    /// Source address, as on the wire.
    SourceAddress(Ip),
    /// Destination address, as on the wire.
    DestinationAddress(Ip),
    /// Source port, as on the wire.
    SourcePort,
    /// Destination port, as on the wire.
    DestinationPort,
    /// Number of the transport protocol, one byte.
    Protocol,
    /// Number of the interface it came in on, in the machine's byte order.
    InputInterface,
    /// Number of the interface it goes out on, in the machine's byte order.
    OutputInterface,
    /// Name of the interface it came in on, sixteen bytes. In a bridge's table, the bridge's port.
    InputName,
    /// Name of the interface it goes out on, sixteen bytes. In a bridge's table, the bridge's port.
    OutputName,
    /// What kind of address the routing table takes the source for, see [`LOCAL`].
    SourceType,
    /// What kind of address the routing table takes the destination for, see [`LOCAL`].
    DestinationType,
    /// Bits of [`state`].
    ConnectionState,
    /// Bits; see [`DESTINATION_TRANSLATED`].
    ConnectionStatus,
    /// The number that rules noted in the connection.
    ConnectionMark,
    /// One byte: 0 in the direction of the connection's first packet, 1 for answers.
    ConnectionDirection,
    /// Where the first packet of the connection came from, before any translation.
    OriginalSourceAddress(Ip),
    /// Where the first packet of the connection was going, before any translation.
    OriginalDestinationAddress(Ip),
    /// Likewise.
    OriginalDestinationPort,
    /// The packet's queueing priority; see [`Expr::SetPriority`].
    Priority,
    /// The packet's mark.
    Mark,
}

/// Bits of [`Field::ConnectionState`].
pub(crate) mod state {
    /// Does not fit the connection it seems to belong to.
    pub(crate) const INVALID: u32 = 1;
    /// Of a connection that was answered.
    pub(crate) const ESTABLISHED: u32 = 2;
    /// About another connection, as ICMP errors are.
    pub(crate) const RELATED: u32 = 4;
    /// Left alone by the tracking of connections, by somebody's order.
    pub(crate) const UNTRACKED: u32 = 64;
}

/// [`Field::SourceType`] and [`Field::DestinationType`] of this machine's own addresses.
pub(crate) const LOCAL: u32 = 2;
/// Bit of [`Field::ConnectionStatus`]: a rule has sent the connection elsewhere.
pub(crate) const DESTINATION_TRANSLATED: u32 = 0x20;
/// Every network namespace has its loopback interface under this number.
pub(crate) const LOOPBACK: u32 = 1;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done with this chain's hook.
    Accept,
    /// Gone without a word.
    Drop,
    /// Back to behind the jump that led here.
    Return,
    /// On in another chain, then back.
    Jump(Box<str>),
    /// On in another chain for good.
    Goto(Box<str>),
}

impl Verdict {
    /// The chain it leads to.
    pub(crate) fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Accept | Self::Drop | Self::Return => None,
        }
    }
}

/// How a refused client hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// TCP reset.
    TcpReset,
    /// ICMP: nobody listens at the port.
    PortUnreachable,
    /// ICMP: it is not allowed.
    Prohibited,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Loads a field.
    Load(Field, Register),
    /// Loads bytes.
    Constant(Bytes, Register),
    /// Keeps these bits.
    Mask(Register, Bytes),
    /// Goes on if the register holds this.
    Equal(Register, Bytes),
    /// Goes on if the register holds anything else.
    Differs(Register, Bytes),
    /// One of so many numbers from the first on, by chance; in the machine's byte order.
    Random { modulus: u32, first: u32, into: Register },
    /// Goes on if the set has this key. It is no map: kernels before 6.5 refuse to ask one for that.
    Contains(Name, Register),
    /// Goes on unless the set has this key. Likewise.
    Lacks(Name, Register),
    /// Goes on if the map has this key, with what it leads to.
    Get(Name, Register, Register),
    /// Does what the verdict map says for this key, if it has it.
    Vmap(Name, Register),
    /// Remembers a value under a key for so many seconds, or lets a present one live so long. Goes
    /// on unless the set is full.
    Remember { set: Name, key: Register, value: Register, seconds: u32 },
    /// Forgets a key. The kernel wants a value even so.
    Forget { set: Name, key: Register, value: Register },
    /// Notes a number in the packet for later rules. Of all that a packet carries along the
    /// priority is the least missed: forwarding sets it anew, and chains that do this see only the
    /// first packet of a connection.
    SetPriority(Register),
    /// Notes a number in the connection, for as long as it lasts.
    SetConnectionMark(Register),
    /// Sends the connection to this address and port.
    SendTo(Ip, Register, Register),
    /// Makes the connection come from the node's address on the way out.
    Masquerade,
    /// Refuses.
    Reject(Rejection),
    /// Decides.
    Verdict(Verdict),
}

/// One instruction list, with a word for people who list the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// In order.
    pub(crate) exprs: Vec<Expr>,
    /// Why.
    pub(crate) comment: &'static str,
}

/// Where the kernel calls a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// What the chain may do.
    pub(crate) kind: ChainKind,
    /// At which point of a packet's way.
    pub(crate) point: HookPoint,
    /// Lower comes first; conntrack is at -200, destination NAT at -100, source NAT at 100.
    pub(crate) priority: i32,
}

/// What a chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of every connection; not in a bridge.
    Nat,
}

/// A point of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// The kernel's words: all are tried, not each is in a table of ours.
#[allow(dead_code)]
pub(crate) enum HookPoint {
    /// Came in, not routed yet.
    Prerouting,
    /// For this machine.
    Input,
    /// Passing through.
    Forward,
    /// Made here.
    Output,
    /// About to go out.
    Postrouting,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Nothing: only other chains lead here.
    pub(crate) hook: Option<Hook>,
    /// In order.
    pub(crate) rules: Vec<Rule>,
}

/// A number as registers hold numbers.
pub(crate) fn number(value: u32) -> Bytes {
    Bytes::EMPTY.number(value)
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(field, into) => write!(f, "{into} = {field:?}"),
            Self::Constant(value, into) => write!(f, "{into} = {}", Hex(value)),
            Self::Mask(register, mask) => write!(f, "{register} &= {}", Hex(mask)),
            Self::Equal(register, value) => write!(f, "{register} == {}", Hex(value)),
            Self::Differs(register, value) => write!(f, "{register} != {}", Hex(value)),
            Self::Random { modulus, first, into } => {
                write!(f, "{into} = {first} + random below {modulus}")
            }
            Self::Contains(set, key) => write!(f, "{key} in @{set}"),
            Self::Lacks(set, key) => write!(f, "{key} not in @{set}"),
            Self::Get(set, key, into) => write!(f, "{into} = @{set}[{key}]"),
            Self::Vmap(set, key) => write!(f, "verdict @{set}[{key}]"),
            Self::Remember { set, key, value, seconds } => {
                write!(f, "@{set}[{key}] = {value} for {seconds} s")
            }
            Self::Forget { set, key, .. } => write!(f, "delete @{set}[{key}]"),
            Self::SetPriority(value) => write!(f, "Priority = {value}"),
            Self::SetConnectionMark(value) => write!(f, "ConnectionMark = {value}"),
            Self::SendTo(ip, address, port) => write!(f, "dnat {ip:?} {address}:{port}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Reject(rejection) => write!(f, "reject {rejection:?}"),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

/// Bytes as one number.
struct Hex<'a>(&'a Bytes);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.as_slice().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
