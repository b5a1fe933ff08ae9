//! The instructions of the kernel's packet filter, as far as the proxy uses them.
//!
//! A rule is a list of expressions over sixteen registers of four bytes. An expression that does
//! not match ends its rule; evaluation goes on with the next one.
//!
//! What a map gave is never part of another key, though the kernel could do that: `nft list` cannot
//! print it, and aborts. The rules of a node must stay readable.

use std::fmt;
use std::net::Ipv4Addr;

/// A register of four bytes; longer values lie in consecutive ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Register(pub(crate) u8);

/// What an expression can read from a packet or from what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// Source address, as on the wire.
    SourceAddress,
    /// Destination address, as on the wire.
    DestinationAddress,
    /// Destination port, as on the wire, padded to four bytes.
    DestinationPort,
    /// Number of the transport protocol, one byte, padded to four bytes.
    Protocol,
    /// Number of the interface it came in on, in the machine's byte order.
    InputInterface,
    /// Number of the interface it goes out on, in the machine's byte order.
    OutputInterface,
    /// What kind of destination the routing table takes the address for, see [`LOCAL`].
    DestinationType,
    /// Bits of [`state`].
    ConnectionState,
    /// Bits; see [`DESTINATION_TRANSLATED`].
    ConnectionStatus,
    /// Where the first packet of the connection was going, before any translation.
    OriginalDestinationAddress,
    /// Likewise.
    OriginalDestinationPort,
    /// The packet's queueing priority; see [`Expr::SetPriority`].
    Priority,
}

/// Bits of [`Field::ConnectionState`].
pub(crate) mod state {
    /// Does not fit the connection it seems to belong to.
    pub(crate) const INVALID: u32 = 1;
    /// Of a connection that was answered.
    pub(crate) const ESTABLISHED: u32 = 2;
    /// About another connection, as ICMP errors are.
    pub(crate) const RELATED: u32 = 4;
}

/// [`Field::DestinationType`] of this machine's own addresses.
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
    /// On in another chain, then back.
    Jump(String),
    /// On in another chain for good.
    Goto(String),
}

/// How a refused client hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// TCP reset.
    TcpReset,
    /// ICMP port unreachable.
    PortUnreachable,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Loads a field.
    Load(Field, Register),
    /// Loads four bytes.
    Constant([u8; 4], Register),
    /// Keeps these bits of a register.
    Mask(Register, [u8; 4]),
    /// Goes on if the register holds this.
    Equal(Register, [u8; 4]),
    /// Goes on if the register holds anything else.
    Differs(Register, [u8; 4]),
    /// A random number below the modulus, in the machine's byte order.
    Random { modulus: u32, into: Register },
    /// Goes on if the set has this key.
    Contains(Set, Register),
    /// Goes on if the map has this key, with what it leads to.
    Get(Set, Register, Register),
    /// Does what the verdict map says for this key, if it has it.
    Vmap(Set, Register),
    /// Remembers a value under a key for so many seconds, or lets a present one live so long. Goes
    /// on unless the set is full.
    Remember { set: Set, key: Register, value: Register, seconds: u32 },
    /// Forgets a key. The kernel wants a value even so.
    Forget { set: Set, key: Register, value: Register },
    /// Notes a number in the packet for later rules. Of all that a packet carries along the
    /// priority is the least missed: forwarding sets it anew, and chains that do this see only the
    /// first packet of a connection.
    SetPriority(Register),
    /// Sends the connection to this address and port.
    SendTo(Register, Register),
    /// Makes the connection come from the node's address on the way out.
    Masquerade,
    /// Refuses.
    Reject(Rejection),
    /// Decides.
    Verdict(Verdict),
}

/// Our sets and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Set {
    /// Frontend → chain that chooses an endpoint.
    Services,
    /// Frontend, number → endpoint.
    Endpoints,
    /// Frontend whose clients stay with their endpoints, place → number of the endpoint there.
    /// Places have no gaps, and change; numbers are an endpoint's own.
    Numbers,
    /// Client, frontend → number of the endpoint it was sent to last. Filled by packets.
    Affinity,
    /// Frontends beside the cluster addresses whose endpoints see the node instead of the client.
    Masqueraded,
    /// Frontends without endpoints.
    Refused,
    /// Host port → pod.
    HostPorts,
    /// Pods that may reach themselves through a service.
    Hairpins,
}

/// What a part of a key or value is; tells `nft list` how to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// IPv4 address.
    Address,
    /// Transport protocol.
    Protocol,
    /// Port.
    Port,
    /// A number in the machine's byte order.
    Number,
}

/// What a set maps its keys to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// Nothing: it is a set.
    None,
    /// Verdicts.
    Verdicts,
    /// Values of these parts.
    Parts(&'static [Part]),
}

impl Set {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Services,
        Self::Endpoints,
        Self::Numbers,
        Self::Affinity,
        Self::Masqueraded,
        Self::Refused,
        Self::HostPorts,
        Self::Hairpins,
    ];

    /// Its name in the kernel.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Numbers => "numbers",
            Self::Affinity => "affinity",
            Self::Masqueraded => "masqueraded",
            Self::Refused => "refused",
            Self::HostPorts => "host-ports",
            Self::Hairpins => "hairpins",
        }
    }

    /// What its keys consist of.
    pub(crate) fn key(self) -> &'static [Part] {
        use Part::{Address, Number, Port, Protocol};
        match self {
            Self::Services | Self::Masqueraded | Self::Refused | Self::HostPorts => {
                &[Address, Protocol, Port]
            }
            Self::Endpoints | Self::Numbers => &[Address, Protocol, Port, Number],
            Self::Affinity => &[Address, Address, Protocol, Port],
            Self::Hairpins => &[Address, Address],
        }
    }

    /// What its keys lead to.
    pub(crate) fn values(self) -> Values {
        use Part::{Address, Number, Port};
        match self {
            Self::Services => Values::Verdicts,
            Self::Endpoints | Self::HostPorts => Values::Parts(&[Address, Port]),
            Self::Numbers | Self::Affinity => Values::Parts(&[Number]),
            Self::Masqueraded | Self::Refused | Self::Hairpins => Values::None,
        }
    }

    /// Whether packets fill it.
    pub(crate) fn is_dynamic(self) -> bool {
        self == Self::Affinity
    }
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
    /// Sees the first packet of every connection.
    Nat,
}

/// A point of a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookPoint {
    /// Came in, not routed yet.
    Prerouting,
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
pub(crate) fn number(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
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
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |bytes: &[u8; 4]| format!("0x{:08x}", u32::from_be_bytes(*bytes));
        match self {
            Self::Load(field, into) => write!(f, "{into} = {field:?}"),
            Self::Constant(value, into) => write!(f, "{into} = {}", bytes(value)),
            Self::Mask(register, mask) => write!(f, "{register} &= {}", Ipv4Addr::from(*mask)),
            Self::Equal(register, value) => write!(f, "{register} == {}", bytes(value)),
            Self::Differs(register, value) => write!(f, "{register} != {}", bytes(value)),
            Self::Random { modulus, into } => write!(f, "{into} = random below {modulus}"),
            Self::Contains(set, key) => write!(f, "{key} in @{}", set.name()),
            Self::Get(set, key, into) => write!(f, "{into} = @{}[{key}]", set.name()),
            Self::Vmap(set, key) => write!(f, "verdict @{}[{key}]", set.name()),
            Self::Remember { set, key, value, seconds } => {
                write!(f, "@{}[{key}] = {value} for {seconds} s", set.name())
            }
            Self::Forget { set, key, .. } => write!(f, "delete @{}[{key}]", set.name()),
            Self::SetPriority(value) => write!(f, "Priority = {value}"),
            Self::SendTo(address, port) => write!(f, "dnat {address}:{port}"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Reject(rejection) => write!(f, "reject {rejection:?}"),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}
