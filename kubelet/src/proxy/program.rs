//! The chains: what the kernel does with a packet.
//!
//! ```text
//!   prerouting, output (nat) ── dispatch ── @services ──▶ one chain per shape of choice
//!                                        └─ @host-ports      │ number by chance, @endpoints
//!                                                            ▼
//!   prerouting, output (filter) ── refuse: what no rule sent elsewhere
//!   forward (filter): packets of pods that belong to nothing
//!   postrouting (nat): whose source address has to be the node's
//! ```
//!
//! There is no chain per Service. Choosing one of three endpoints is the same for all Services that
//! have three: which Service it is stands in the packet, and is part of the key with which the
//! endpoint is looked up. So a change of a Service is a change of elements, and the number of chains
//! is the number of different choices there are.

use std::collections::BTreeMap;
use std::fmt;

use super::ruleset::Ranges;
use super::sets::Set;
use crate::network::Cidr4;
use crate::nft::expr::{
    Chain, ChainKind, DESTINATION_TRANSLATED, Expr, Field, Hook, HookPoint, Ip, LOCAL, LOOPBACK,
    Rejection, Rule, Verdict, number, state,
};
use crate::nft::set::Bytes;

/// The registers' use. Keys are read from consecutive ones, hence the order.
mod register {
    use crate::nft::expr::Register;

    pub(super) const CLIENT: Register = Register(0);
    /// Address, protocol and port of a frontend: this and the next two.
    pub(super) const FRONTEND: Register = Register(1);
    pub(super) const PROTOCOL: Register = Register(2);
    pub(super) const PORT: Register = Register(3);
    /// Number of an endpoint.
    pub(super) const NUMBER: Register = Register(4);
    /// Address and port of an endpoint.
    pub(super) const TARGET: Register = Register(5);
    pub(super) const TARGET_PORT: Register = Register(6);
    pub(super) const SCRATCH: Register = Register(8);
    pub(super) const SCRATCH_NEXT: Register = Register(9);
}

/// How it is found out which frontend a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Door {
    /// By its destination address.
    Address,
    /// It came to a port of this node, whatever the address.
    NodePort,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "service",
            Self::NodePort => "node-port",
        })
    }
}

/// A choice between endpoints; every shape in use has a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shape {
    /// Where the frontend is read.
    pub(crate) door: Door,
    /// Between how many; not 0.
    pub(crate) count: u32,
    /// For how many seconds a client is sent to the same one.
    pub(crate) affinity: Option<u32>,
}

impl fmt::Display for Shape {
    /// The name of its chain, as `service-3` or `node-port-2-sticky-10800`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.door, self.count)?;
        match self.affinity {
            Some(seconds) => write!(f, "-sticky-{seconds}"),
            None => Ok(()),
        }
    }
}

impl Shape {
    /// From the name of its chain.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (door, rest) = [Door::Address, Door::NodePort].into_iter().find_map(|door| {
            let rest = name.strip_prefix(&door.to_string())?.strip_prefix('-')?;
            Some((door, rest))
        })?;
        let (count, affinity) = match rest.split_once("-sticky-") {
            Some((count, seconds)) => (count, Some(seconds.parse().ok()?)),
            None => (rest, None),
        };
        Some(Self { door, count: count.parse().ok()?, affinity })
    }

    /// The chains it needs, by name. Shapes of one affinity share one.
    pub(crate) fn chains(self) -> Vec<(String, Chain)> {
        let Some(seconds) = self.affinity else {
            return vec![(self.to_string(), self.by_chance())];
        };
        let send = format!("{}-sticky-{seconds}", self.door);
        let chains = [(self.to_string(), self.sticky(&send)), (send, self.send_again(seconds))];
        chains.into()
    }

    fn frontend(self) -> Vec<Expr> {
        match self.door {
            Door::Address => frontend(),
            Door::NodePort => node_frontend(),
        }
    }

    fn client_and_frontend(self) -> Vec<Expr> {
        [vec![Expr::Load(Field::SourceAddress(Ip::V4), register::CLIENT)], self.frontend()].concat()
    }

    /// Chooses any endpoint.
    fn by_chance(self) -> Chain {
        use register::{FRONTEND, NUMBER, TARGET, TARGET_PORT};

        let choose = vec![
            Expr::Random { modulus: self.count, into: NUMBER },
            Expr::Get(Set::Endpoints.name().into(), FRONTEND, TARGET),
            Expr::SendTo(Ip::V4, TARGET, TARGET_PORT),
        ];
        Chain { hook: None, rules: vec![rule("", [self.frontend(), choose].concat())] }
    }

    /// Chooses the endpoint the client was sent to before, if there is one and it is still there.
    fn sticky(self, send: &str) -> Chain {
        use register::{CLIENT, FRONTEND, NUMBER};

        let before = vec![
            Expr::Get(Set::Affinity.name().into(), CLIENT, NUMBER),
            Expr::SetPriority(NUMBER),
            jump(send),
        ];
        let by_chance = vec![
            Expr::Random { modulus: self.count, into: NUMBER },
            Expr::Get(Set::Numbers.name().into(), FRONTEND, NUMBER),
            Expr::SetPriority(NUMBER),
        ];
        // Remembering leaves a present value as it is.
        let forget = vec![
            Expr::Load(Field::Priority, NUMBER),
            Expr::Forget { set: Set::Affinity.name().into(), key: CLIENT, value: NUMBER },
        ];
        Chain {
            hook: None,
            rules: vec![
                rule(
                    "where this client was sent before; comes back if that is gone",
                    [self.client_and_frontend(), before].concat(),
                ),
                rule("another", [self.frontend(), by_chance].concat()),
                rule("", [self.client_and_frontend(), forget].concat()),
                rule("", vec![jump(send)]),
            ],
        }
    }

    /// Sends a client to the endpoint whose number was noted, and remembers.
    fn send_again(self, seconds: u32) -> Chain {
        use register::{CLIENT, FRONTEND, NUMBER, TARGET, TARGET_PORT};

        let remember = vec![
            Expr::Load(Field::Priority, NUMBER),
            Expr::Remember {
                set: Set::Affinity.name().into(),
                key: CLIENT,
                value: NUMBER,
                seconds,
            },
        ];
        let send = vec![
            Expr::Load(Field::Priority, NUMBER),
            Expr::Get(Set::Endpoints.name().into(), FRONTEND, TARGET),
            Expr::SendTo(Ip::V4, TARGET, TARGET_PORT),
        ];
        // Two rules: when no more clients can be remembered they are served all the same.
        Chain {
            hook: None,
            rules: vec![
                rule("", [self.client_and_frontend(), remember].concat()),
                rule("", [self.frontend(), send].concat()),
            ],
        }
    }
}

/// Loads where the packet is going.
fn frontend() -> Vec<Expr> {
    vec![
        Expr::Load(Field::DestinationAddress(Ip::V4), register::FRONTEND),
        Expr::Load(Field::Protocol, register::PROTOCOL),
        Expr::Load(Field::DestinationPort, register::PORT),
    ]
}

/// Loads the port the packet is going to, with the address that stands for this node.
fn node_frontend() -> Vec<Expr> {
    vec![
        Expr::Constant(number(0), register::FRONTEND),
        Expr::Load(Field::Protocol, register::PROTOCOL),
        Expr::Load(Field::DestinationPort, register::PORT),
    ]
}

/// Goes on if the packet is going to an address of this node.
fn to_this_node() -> Vec<Expr> {
    vec![
        Expr::Load(Field::DestinationType, register::SCRATCH),
        Expr::Equal(register::SCRATCH, number(LOCAL)),
    ]
}

/// Goes on if an address is in the range.
fn within(field: Field, range: Cidr4) -> Vec<Expr> {
    let register = register::SCRATCH;
    let mut exprs = vec![Expr::Load(field, register)];
    if range.prefix() < 32 {
        exprs.push(Expr::Mask(register, Bytes::EMPTY.with(&range.mask().octets())));
    }
    exprs.push(Expr::Equal(register, Bytes::EMPTY.with(&range.network().octets())));
    exprs
}

/// Goes on if one of these bits is set.
fn any_bit(field: Field, bits: u32) -> Vec<Expr> {
    vec![
        Expr::Load(field, register::SCRATCH),
        Expr::Mask(register::SCRATCH, number(bits)),
        Expr::Differs(register::SCRATCH, number(0)),
    ]
}

fn rule(comment: &'static str, exprs: Vec<Expr>) -> Rule {
    Rule { exprs, comment }
}

fn then(mut exprs: Vec<Expr>, last: Expr) -> Vec<Expr> {
    exprs.push(last);
    exprs
}

fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.into()))
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.into()))
}

const ACCEPT: Expr = Expr::Verdict(Verdict::Accept);

/// The chains that are always there.
pub(crate) fn base_chains(ranges: &Ranges) -> BTreeMap<String, Chain> {
    use ChainKind::{Filter, Nat};
    use HookPoint::{Forward, Output, Postrouting, Prerouting};

    let hooked =
        |kind, point, priority, rules| Chain { hook: Some(Hook { kind, point, priority }), rules };
    let inner = |rules| Chain { hook: None, rules };
    // A number that was chosen while the endpoints became fewer may belong to none: the second time
    // the choice is between those that are left.
    let to_dispatch = || {
        vec![
            rule("", vec![jump("dispatch")]),
            rule("again, should the endpoints have changed in between", vec![jump("dispatch")]),
        ]
    };
    [
        ("nat-prerouting", hooked(Nat, Prerouting, -100, to_dispatch())),
        ("nat-output", hooked(Nat, Output, -100, to_dispatch())),
        ("nat-postrouting", hooked(Nat, Postrouting, 100, postrouting(ranges))),
        // After destination NAT: what still has a service's address found no endpoint.
        ("filter-prerouting", hooked(Filter, Prerouting, -90, prerouting())),
        ("filter-output", hooked(Filter, Output, -90, output())),
        ("filter-forward", hooked(Filter, Forward, 0, forward(ranges))),
        ("dispatch", inner(dispatch())),
        ("outbound", inner(outbound(ranges))),
        ("refuse", inner(refuse(ranges))),
        ("reject", inner(reject())),
    ]
    .map(|(name, chain)| (name.to_owned(), chain))
    .into()
}

fn dispatch() -> Vec<Rule> {
    use register::{FRONTEND, TARGET, TARGET_PORT};

    let to_pod = || {
        vec![
            Expr::Get(Set::HostPorts.name().into(), FRONTEND, TARGET),
            Expr::SendTo(Ip::V4, TARGET, TARGET_PORT),
        ]
    };
    vec![
        rule(
            "cluster and external addresses",
            then(frontend(), Expr::Vmap(Set::Services.name().into(), FRONTEND)),
        ),
        rule(
            "node ports",
            [
                to_this_node(),
                node_frontend(),
                vec![Expr::Vmap(Set::Services.name().into(), FRONTEND)],
            ]
            .concat(),
        ),
        rule("host ports of one address", [frontend(), to_pod()].concat()),
        rule("host ports", [to_this_node(), node_frontend(), to_pod()].concat()),
    ]
}

fn postrouting(ranges: &Ranges) -> Vec<Rule> {
    use register::{FRONTEND, PORT, PROTOCOL, SCRATCH, SCRATCH_NEXT};

    let translated = || any_bit(Field::ConnectionStatus, DESTINATION_TRANSLATED);
    let mut rules = vec![
        rule(
            "within the node",
            vec![
                Expr::Load(Field::OutputInterface, SCRATCH),
                Expr::Equal(SCRATCH, number(LOOPBACK)),
                ACCEPT,
            ],
        ),
        rule(
            "a pod that reached itself through a service must not see its own address",
            vec![
                Expr::Load(Field::SourceAddress(Ip::V4), SCRATCH),
                Expr::Load(Field::DestinationAddress(Ip::V4), SCRATCH_NEXT),
                Expr::Contains(Set::Hairpins.name().into(), SCRATCH),
                Expr::Masquerade,
            ],
        ),
    ];
    // Answers to the pods of this node come back through it in any case.
    rules.extend(ranges.own.map(|own| {
        rule("pods of this node", then(within(Field::SourceAddress(Ip::V4), own), goto("outbound")))
    }));
    rules.extend(ranges.services.iter().map(|range| {
        rule(
            "others who use a service: answers must come back through this node",
            [
                translated(),
                within(Field::OriginalDestinationAddress(Ip::V4), *range),
                vec![Expr::Masquerade],
            ]
            .concat(),
        )
    }));
    let original = |address: Expr| {
        vec![
            address,
            Expr::Load(Field::Protocol, PROTOCOL),
            Expr::Load(Field::OriginalDestinationPort, PORT),
            Expr::Contains(Set::Masqueraded.name().into(), FRONTEND),
            Expr::Masquerade,
        ]
    };
    rules.extend([
        rule(
            "likewise, by an external address",
            [
                translated(),
                original(Expr::Load(Field::OriginalDestinationAddress(Ip::V4), FRONTEND)),
            ]
            .concat(),
        ),
        rule(
            "likewise, by a node port",
            [translated(), original(Expr::Constant(number(0), FRONTEND))].concat(),
        ),
        rule(
            "from the loopback address to a pod",
            [
                translated(),
                within(Field::SourceAddress(Ip::V4), loopback_range()),
                vec![Expr::Masquerade],
            ]
            .concat(),
        ),
    ]);
    rules
}

fn outbound(ranges: &Ranges) -> Vec<Rule> {
    let within_cluster = ranges.pods.iter().map(|range| {
        rule(
            "pods see each other's addresses",
            then(within(Field::DestinationAddress(Ip::V4), *range), ACCEPT),
        )
    });
    within_cluster.chain([rule("to the outside", vec![Expr::Masquerade])]).collect()
}

/// Passes on what belongs to a connection that was let through.
fn known_connections() -> Rule {
    rule("", then(any_bit(Field::ConnectionState, state::ESTABLISHED | state::RELATED), ACCEPT))
}

fn prerouting() -> Vec<Rule> {
    let from_outside = vec![
        Expr::Load(Field::InputInterface, register::SCRATCH),
        Expr::Differs(register::SCRATCH, number(LOOPBACK)),
    ];
    vec![
        known_connections(),
        rule(
            "node ports work on the loopback address, which opens it to neighbours",
            [
                from_outside,
                within(Field::DestinationAddress(Ip::V4), loopback_range()),
                vec![Expr::Verdict(Verdict::Drop)],
            ]
            .concat(),
        ),
        rule("", vec![jump("refuse")]),
    ]
}

fn output() -> Vec<Rule> {
    vec![known_connections(), rule("", vec![jump("refuse")])]
}

fn refuse(ranges: &Ranges) -> Vec<Rule> {
    let refused =
        || vec![Expr::Contains(Set::Refused.name().into(), register::FRONTEND), goto("reject")];
    let mut rules = vec![rule("services without endpoints", [frontend(), refused()].concat())];
    rules.extend(ranges.services.iter().map(|range| {
        rule("no service", then(within(Field::DestinationAddress(Ip::V4), *range), goto("reject")))
    }));
    rules.push(rule(
        "node ports without endpoints",
        [to_this_node(), node_frontend(), refused()].concat(),
    ));
    rules
}

fn reject() -> Vec<Rule> {
    let tcp = Bytes::EMPTY.protocol(6);
    vec![
        rule(
            "",
            vec![
                Expr::Load(Field::Protocol, register::PROTOCOL),
                Expr::Equal(register::PROTOCOL, tcp),
                Expr::Reject(Rejection::TcpReset),
            ],
        ),
        rule("", vec![Expr::Reject(Rejection::PortUnreachable)]),
    ]
}

fn forward(ranges: &Ranges) -> Vec<Rule> {
    let own = ranges.own.map(|own| {
        rule(
            "an answer that no connection claims would show its true source, and be reset",
            [
                any_bit(Field::ConnectionState, state::INVALID),
                within(Field::SourceAddress(Ip::V4), own),
                vec![Expr::Verdict(Verdict::Drop)],
            ]
            .concat(),
        )
    });
    own.into_iter().collect()
}

fn loopback_range() -> Cidr4 {
    Cidr4::around(std::net::Ipv4Addr::LOCALHOST, 8)
}
