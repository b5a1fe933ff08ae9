//! Our sets and maps.

use crate::nft::expr::Ip;
use crate::nft::set::{Kind, Part, Set as Description, Values};

/// A set or map of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Set {
    /// Frontend → chain that chooses an endpoint.
    Services,
    /// The same for this node and its pods, where others are kept to the endpoints of this node.
    Inside,
    /// Frontend, number → endpoint.
    Endpoints,
    /// Frontend whose clients stay with their endpoints, place → number of the endpoint there.
    /// Places have no gaps, and change; numbers are an endpoint's own.
    Numbers,
    /// Client, frontend → number of the endpoint it was sent to last. Filled by packets.
    Affinity,
    /// Frontends beside the cluster addresses whose endpoints see the node instead of the client.
    Masqueraded,
    /// Frontends that are open to some clients only.
    Guarded,
    /// Frontend, range of clients it is open to, how many bits fix that range.
    Sources,
    /// Frontend without endpoints → what becomes of its clients.
    Refused,
    /// Host port → pod.
    HostPorts,
    /// Pods that may reach themselves through a service.
    Hairpins,
}

/// So many clients are remembered for all sticky Services together, at some hundred bytes each.
/// Further ones are sent anywhere.
const AFFINITY_LIMIT: u32 = 1 << 18;

impl Set {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::Services,
        Self::Inside,
        Self::Endpoints,
        Self::Numbers,
        Self::Affinity,
        Self::Masqueraded,
        Self::Guarded,
        Self::Sources,
        Self::Refused,
        Self::HostPorts,
        Self::Hairpins,
    ];

    /// Its name in the kernel.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Inside => "inside",
            Self::Endpoints => "endpoints",
            Self::Numbers => "numbers",
            Self::Affinity => "affinity",
            Self::Masqueraded => "masqueraded",
            Self::Guarded => "guarded",
            Self::Sources => "sources",
            Self::Refused => "refused",
            Self::HostPorts => "host-ports",
            Self::Hairpins => "hairpins",
        }
    }

    /// What it is in the table for this version of IP.
    pub(crate) fn describe(self, ip: Ip) -> Description {
        let kind = match self {
            Self::Affinity => Kind::Remembered { limit: AFFINITY_LIMIT },
            _ => Kind::Plain,
        };
        let (key, values) = (self.key(ip), self.values(ip));
        Description { name: self.name().into(), key, values, kind }
    }

    /// Whether packets fill it.
    pub(crate) fn is_dynamic(self) -> bool {
        self == Self::Affinity
    }

    fn key(self, ip: Ip) -> &'static [Part] {
        use Part::{Ipv4, Ipv6, Number, Port, Protocol};
        match self {
            Self::Services
            | Self::Inside
            | Self::Masqueraded
            | Self::Guarded
            | Self::Refused
            | Self::HostPorts => either(ip, &[Ipv4, Protocol, Port], &[Ipv6, Protocol, Port]),
            Self::Sources => either(
                ip,
                &[Ipv4, Protocol, Port, Ipv4, Number],
                &[Ipv6, Protocol, Port, Ipv6, Number],
            ),
            Self::Endpoints | Self::Numbers => {
                either(ip, &[Ipv4, Protocol, Port, Number], &[Ipv6, Protocol, Port, Number])
            }
            Self::Affinity => {
                either(ip, &[Ipv4, Ipv4, Protocol, Port], &[Ipv6, Ipv6, Protocol, Port])
            }
            Self::Hairpins => either(ip, &[Ipv4, Ipv4], &[Ipv6, Ipv6]),
        }
    }

    fn values(self, ip: Ip) -> Values {
        use Part::{Ipv4, Ipv6, Number, Port};
        match self {
            Self::Services | Self::Inside | Self::Refused => Values::Verdicts,
            Self::Endpoints | Self::HostPorts => {
                Values::Parts(either(ip, &[Ipv4, Port], &[Ipv6, Port]))
            }
            Self::Numbers | Self::Affinity => Values::Parts(&[Number]),
            Self::Masqueraded | Self::Guarded | Self::Sources | Self::Hairpins => Values::None,
        }
    }
}

fn either(ip: Ip, v4: &'static [Part], v6: &'static [Part]) -> &'static [Part] {
    match ip {
        Ip::V4 => v4,
        Ip::V6 => v6,
    }
}
