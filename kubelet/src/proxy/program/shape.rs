//! Choices between endpoints.

use std::fmt;

use super::super::sets::Set;
use super::{Loads, rule};
use crate::nft::expr::{Chain, Expr, Field, Ip, Verdict};

/// How it is found out which frontend a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Door {
    /// By its destination address.
    Address,
    /// It came to a port of this node, whatever the address.
    NodePort,
}

impl Door {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Address, Self::NodePort];
}

/// For whom a choice is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    /// Whoever there is no other choice for.
    Everybody,
    /// This node and its pods, where others are kept to the endpoints of this node.
    Inside,
}

impl Side {
    /// Places and numbers of endpoints begin with it, so that those of both sides never meet.
    pub(crate) fn first_number(self) -> u32 {
        match self {
            Self::Everybody => 0,
            Self::Inside => 1 << 31,
        }
    }
}

/// A choice between endpoints; every shape in use has a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shape {
    /// Where the frontend is read.
    pub(crate) door: Door,
    /// For whom.
    pub(crate) side: Side,
    /// Between how many; not 0.
    pub(crate) count: u32,
    /// For how many seconds a client is sent to the same one.
    pub(crate) affinity: Option<u32>,
}

/// The beginnings of chains' names.
const NAMES: [(Door, Side, &str); 4] = [
    (Door::Address, Side::Everybody, "service"),
    (Door::NodePort, Side::Everybody, "node-port"),
    (Door::Address, Side::Inside, "inside-service"),
    (Door::NodePort, Side::Inside, "inside-node-port"),
];

impl fmt::Display for Shape {
    /// The name of its chain, as `service-3` or `inside-node-port-2-sticky-10800`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.name(), self.count)?;
        match self.affinity {
            Some(seconds) => write!(f, "-sticky-{seconds}"),
            None => Ok(()),
        }
    }
}

impl Shape {
    /// From the name of its chain.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (door, side, rest) = NAMES.into_iter().find_map(|(door, side, prefix)| {
            Some((door, side, name.strip_prefix(prefix)?.strip_prefix('-')?))
        })?;
        let (count, affinity) = match rest.split_once("-sticky-") {
            Some((count, seconds)) => (count, Some(seconds.parse().ok()?)),
            None => (rest, None),
        };
        Some(Self { door, side, count: count.parse().ok()?, affinity })
    }

    /// Every kind of choice once, to tell what they do.
    pub(crate) fn examples() -> impl Iterator<Item = Self> {
        NAMES.into_iter().flat_map(|(door, side, _)| {
            [None, Some(1)].map(|affinity| Self { door, side, count: 1, affinity })
        })
    }

    fn name(&self) -> &'static str {
        let mut names = NAMES.into_iter();
        let named = names.find(|(door, side, _)| (*door, *side) == (self.door, self.side));
        named.map_or("", |(_, _, name)| name)
    }

    /// The chains it needs, by name. Shapes of one affinity share one.
    pub(crate) fn chains(self, ip: Ip) -> Vec<(String, Chain)> {
        let loads = Loads::of(ip);
        let Some(seconds) = self.affinity else {
            return vec![(self.to_string(), self.by_chance(&loads))];
        };
        let send = format!("{}-sticky-{seconds}", self.name());
        let chains = [
            (self.to_string(), self.sticky(&loads, &send)),
            (send, self.send_again(&loads, seconds)),
        ];
        chains.into()
    }

    fn random(&self, loads: &Loads) -> Expr {
        let (modulus, first) = (self.count, self.side.first_number());
        Expr::Random { modulus, first, into: loads.at.number }
    }

    /// Chooses any endpoint.
    fn by_chance(self, loads: &Loads) -> Chain {
        let at = loads.at;
        let choose = vec![
            self.random(loads),
            Expr::Get(Set::Endpoints.name().into(), at.frontend, at.target),
            Expr::SendTo(loads.ip, at.target, at.target_port),
        ];
        let exprs = [loads.door(self.door), choose].concat();
        Chain { hook: None, rules: vec![rule("", exprs)] }
    }

    /// Chooses the endpoint the client was sent to before, if there is one and it is still there.
    fn sticky(self, loads: &Loads, send: &str) -> Chain {
        let at = loads.at;
        let jump = || Expr::Verdict(Verdict::Jump(send.into()));
        let before = vec![
            Expr::Get(Set::Affinity.name().into(), at.client, at.number),
            Expr::SetPriority(at.number),
            jump(),
        ];
        let by_chance = vec![
            self.random(loads),
            Expr::Get(Set::Numbers.name().into(), at.frontend, at.number),
            Expr::SetPriority(at.number),
        ];
        // Remembering leaves a present value as it is.
        let set = Set::Affinity.name().into();
        let forget = vec![
            Expr::Load(Field::Priority, at.number),
            Expr::Forget { set, key: at.client, value: at.number },
        ];
        Chain {
            hook: None,
            rules: vec![
                rule(
                    "where this client was sent before; comes back if that is gone",
                    [self.client_and_frontend(loads), before].concat(),
                ),
                rule("another", [loads.door(self.door), by_chance].concat()),
                rule("", [self.client_and_frontend(loads), forget].concat()),
                rule("", vec![jump()]),
            ],
        }
    }

    /// Sends a client to the endpoint whose number was noted, and remembers.
    fn send_again(self, loads: &Loads, seconds: u32) -> Chain {
        let at = loads.at;
        let set = Set::Affinity.name().into();
        let remember = vec![
            Expr::Load(Field::Priority, at.number),
            Expr::Remember { set, key: at.client, value: at.number, seconds },
        ];
        let send = vec![
            Expr::Load(Field::Priority, at.number),
            Expr::Get(Set::Endpoints.name().into(), at.frontend, at.target),
            Expr::SendTo(loads.ip, at.target, at.target_port),
        ];
        // Two rules: when no more clients can be remembered they are served all the same.
        Chain {
            hook: None,
            rules: vec![
                rule("", [self.client_and_frontend(loads), remember].concat()),
                rule("", [loads.door(self.door), send].concat()),
            ],
        }
    }

    fn client_and_frontend(self, loads: &Loads) -> Vec<Expr> {
        let client = Expr::Load(Field::SourceAddress(loads.ip), loads.at.client);
        [vec![client], loads.door(self.door)].concat()
    }
}
