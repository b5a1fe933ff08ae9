//! The chains: what the kernel does with a packet.
//!
//! ```text
//!   prerouting, output (nat) ── guard: who may turn to load balancers
//!                            ├─ inside ── @inside ───┐ one chain per shape of choice:
//!                            └─ dispatch ── @services ┴▶ number by chance, @endpoints
//!                                        └─ @host-ports
//!   prerouting, output (filter) ── refuse: what no rule sent elsewhere
//!   forward (filter): packets of pods that belong to nothing
//!   postrouting (nat): whose source address has to be the node's
//! ```
//!
//! There is no chain per Service. Choosing one of three endpoints is the same for all Services that
//! have three: which Service it is stands in the packet, and is part of the key with which the
//! endpoint is looked up. So a change of a Service is a change of elements, and the number of chains
//! is the number of different choices there are.
//!
//! Each version of IP has a table of its own, and these chains in it: what is said here of addresses
//! holds for four bytes as for sixteen.

mod registers;
mod shape;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use self::registers::Registers;
pub(crate) use self::shape::{Door, Shape, Side};
use super::address::any;
use super::ranges::Ranges;
use super::ruleset::Frame;
use super::sets::Set;
use crate::nft::expr::{
    Chain, ChainKind, DESTINATION_TRANSLATED, Expr, Field, Hook, HookPoint, Ip, LOCAL, LOOPBACK,
    Rejection, Rule, Verdict, number, state,
};
use crate::nft::set::Bytes;

/// Where a client is led that nobody serves.
pub(crate) const REJECT: &str = "reject";

/// The chains that are always there. Two of them have rules only while somebody needs these.
pub(crate) fn base_chains(ip: Ip, frame: &Frame) -> BTreeMap<String, Chain> {
    use ChainKind::{Filter, Nat};
    use HookPoint::{Forward, Output, Postrouting, Prerouting};

    let loads = Loads::of(ip);
    let ranges = &frame.ranges;
    let hooked =
        |kind, point, priority, rules| Chain { hook: Some(Hook { kind, point, priority }), rules };
    let inner = |rules| Chain { hook: None, rules };
    [
        ("nat-prerouting", hooked(Nat, Prerouting, -100, loads.nat_prerouting(ranges))),
        ("nat-output", hooked(Nat, Output, -100, loads.nat_output())),
        ("nat-postrouting", hooked(Nat, Postrouting, 100, loads.postrouting(ranges))),
        // After destination NAT: what still has a service's address found no endpoint.
        ("filter-prerouting", hooked(Filter, Prerouting, -90, loads.prerouting())),
        ("filter-output", hooked(Filter, Output, -90, loads.output())),
        ("filter-forward", hooked(Filter, Forward, 0, loads.forward(ranges))),
        ("guard", inner(loads.guard(frame))),
        ("inside", inner(loads.inside(frame))),
        ("dispatch", inner(loads.dispatch(ranges))),
        ("outbound", inner(loads.outbound(ranges))),
        ("refuse", inner(loads.refuse(ranges))),
        (REJECT, inner(loads.reject())),
    ]
    .map(|(name, chain)| (name.to_owned(), chain))
    .into()
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
const DROP: Expr = Expr::Verdict(Verdict::Drop);
const RETURN: Expr = Expr::Verdict(Verdict::Return);

/// The rules for one version of IP.
struct Loads {
    ip: Ip,
    at: Registers,
}

/// What rules begin with.
impl Loads {
    fn of(ip: Ip) -> Self {
        Self { ip, at: Registers::of(ip) }
    }

    /// Loads the frontend that a packet has come for.
    fn door(&self, door: Door) -> Vec<Expr> {
        match door {
            Door::Address => self.frontend(),
            Door::NodePort => self.node_frontend(),
        }
    }

    /// Loads where the packet is going.
    fn frontend(&self) -> Vec<Expr> {
        vec![
            Expr::Load(Field::DestinationAddress(self.ip), self.at.frontend),
            Expr::Load(Field::Protocol, self.at.protocol),
            Expr::Load(Field::DestinationPort, self.at.port),
        ]
    }

    /// Loads the port the packet is going to, with the address that stands for this node.
    fn node_frontend(&self) -> Vec<Expr> {
        vec![
            self.this_node(),
            Expr::Load(Field::Protocol, self.at.protocol),
            Expr::Load(Field::DestinationPort, self.at.port),
        ]
    }

    fn this_node(&self) -> Expr {
        Expr::Constant(Bytes::EMPTY.address(any(self.ip)), self.at.frontend)
    }

    /// Goes on if an address is this node's.
    fn is_own(&self, kind_of: Field) -> Vec<Expr> {
        vec![Expr::Load(kind_of, self.at.scratch), Expr::Equal(self.at.scratch, number(LOCAL))]
    }

    /// Goes on if the packet is going to an address of this node at which node ports are served:
    /// one list for each range of these. IPv6 has no way from the loopback address to a pod.
    fn at_node_ports(&self, ranges: &Ranges) -> Vec<Vec<Expr>> {
        let mut own = self.is_own(Field::DestinationType);
        if self.ip == Ip::V6 {
            let loopback = Bytes::EMPTY.address(Ipv6Addr::LOCALHOST.into());
            own.extend([
                Expr::Load(Field::DestinationAddress(self.ip), self.at.scratch),
                Expr::Differs(self.at.scratch, loopback),
            ]);
        }
        if ranges.node_ports.is_empty() {
            return vec![own];
        }
        let within = ranges.node_ports.iter().map(|range| {
            [own.clone(), self.within(Field::DestinationAddress(self.ip), *range)].concat()
        });
        within.collect()
    }

    /// Goes on if an address is in the range.
    fn within(&self, field: Field, range: IpNet) -> Vec<Expr> {
        let register = self.at.scratch;
        let mut exprs = vec![Expr::Load(field, register)];
        if range.prefix_len() < range.max_prefix_len() {
            exprs.push(Expr::Mask(register, Bytes::EMPTY.address(range.netmask())));
        }
        exprs.push(Expr::Equal(register, Bytes::EMPTY.address(range.network())));
        exprs
    }

    /// Goes on if one of these bits is set.
    fn any_bit(&self, field: Field, bits: u32) -> Vec<Expr> {
        vec![
            Expr::Load(field, self.at.scratch),
            Expr::Mask(self.at.scratch, number(bits)),
            Expr::Differs(self.at.scratch, number(0)),
        ]
    }

    /// Goes on if a rule has sent the connection elsewhere.
    fn translated(&self) -> Vec<Expr> {
        self.any_bit(Field::ConnectionStatus, DESTINATION_TRANSLATED)
    }

    /// Does what a map says of where the packet is going.
    fn look_up(&self, set: Set) -> Expr {
        Expr::Vmap(set.name().into(), self.at.frontend)
    }
}

/// Where connections are sent.
impl Loads {
    fn nat_prerouting(&self, ranges: &Ranges) -> Vec<Rule> {
        let inside = ranges.own.map(|own| {
            let own_pod = self.within(Field::SourceAddress(self.ip), own);
            rule("pods of this node", then(own_pod, jump("inside")))
        });
        self.nat(inside)
    }

    fn nat_output(&self) -> Vec<Rule> {
        self.nat(Some(rule("this node", vec![jump("inside")])))
    }

    /// A number that was chosen while the endpoints became fewer may belong to none: the second time
    /// the choice is between those that are left.
    fn nat(&self, inside: Option<Rule>) -> Vec<Rule> {
        let mut rules = vec![rule("", vec![jump("guard")])];
        rules.extend(inside.clone());
        rules.push(rule("", vec![jump("dispatch")]));
        rules.extend(inside);
        let again = "again, should the endpoints have changed in between";
        rules.push(rule(again, vec![jump("dispatch")]));
        rules
    }

    /// Keeps from a load balancer's address whoever is in none of the ranges it is open to. How long
    /// ranges are says which rules there are; which ranges, the elements of a set.
    fn guard(&self, frame: &Frame) -> Vec<Rule> {
        if frame.prefixes.is_empty() {
            return Vec::new();
        }
        let at = self.at;
        let open = then(self.frontend(), Expr::Lacks(Set::Guarded.name().into(), at.frontend));
        let mut rules = vec![rule("open to everybody", then(open, RETURN))];
        rules.extend(frame.prefixes.iter().map(|prefix| {
            let mut exprs = self.frontend();
            exprs.push(Expr::Load(Field::SourceAddress(self.ip), at.range));
            exprs.push(Expr::Mask(at.range, Bytes::EMPTY.address(netmask(self.ip, *prefix))));
            exprs.push(Expr::Constant(number((*prefix).into()), at.bits));
            exprs.push(Expr::Contains(Set::Sources.name().into(), at.frontend));
            rule("open to this client", then(exprs, RETURN))
        }));
        rules.push(rule("open to others", vec![DROP]));
        rules
    }

    /// This node and its pods are sent to any endpoint where others are kept to those of this node,
    /// as if they had gone out and come in by a load balancer.
    fn inside(&self, frame: &Frame) -> Vec<Rule> {
        let mut rules = Vec::new();
        if frame.inside.contains(&Door::Address) {
            rules.push(rule("", then(self.frontend(), self.look_up(Set::Inside))));
        }
        if frame.inside.contains(&Door::NodePort) {
            rules.extend(self.at_node_ports(&frame.ranges).into_iter().map(|own| {
                rule("", [own, self.node_frontend(), vec![self.look_up(Set::Inside)]].concat())
            }));
        }
        rules
    }

    fn dispatch(&self, ranges: &Ranges) -> Vec<Rule> {
        let at = self.at;
        let to_pod = || {
            vec![
                Expr::Get(Set::HostPorts.name().into(), at.frontend, at.target),
                Expr::SendTo(self.ip, at.target, at.target_port),
            ]
        };
        let mut rules = vec![rule(
            "cluster and external addresses",
            then(self.frontend(), self.look_up(Set::Services)),
        )];
        rules.extend(self.at_node_ports(ranges).into_iter().map(|own| {
            let service = vec![self.look_up(Set::Services)];
            rule("node ports", [own, self.node_frontend(), service].concat())
        }));
        let own = self.is_own(Field::DestinationType);
        rules.extend([
            rule("host ports of one address", [self.frontend(), to_pod()].concat()),
            rule("host ports", [own, self.node_frontend(), to_pod()].concat()),
        ]);
        rules
    }

    fn postrouting(&self, ranges: &Ranges) -> Vec<Rule> {
        let at = self.at;
        let (source, destination) =
            (Field::SourceAddress(self.ip), Field::DestinationAddress(self.ip));
        let original_address = Field::OriginalDestinationAddress(self.ip);
        let mut rules = vec![
            rule(
                "within the node",
                vec![
                    Expr::Load(Field::OutputInterface, at.scratch),
                    Expr::Equal(at.scratch, number(LOOPBACK)),
                    ACCEPT,
                ],
            ),
            rule(
                "a pod that reached itself through a service must not see its own address",
                vec![
                    Expr::Load(source, at.scratch),
                    Expr::Load(destination, at.scratch_next),
                    Expr::Contains(Set::Hairpins.name().into(), at.scratch),
                    Expr::Masquerade,
                ],
            ),
        ];
        // Answers to the pods of this node come back through it in any case.
        rules.extend(ranges.own.map(|own| {
            rule("pods of this node", then(self.within(source, own), goto("outbound")))
        }));
        rules.extend(ranges.services.iter().map(|range| {
            rule(
                "others who use a service: answers must come back through this node",
                [self.translated(), self.within(original_address, *range), vec![Expr::Masquerade]]
                    .concat(),
            )
        }));
        let original = |address: Expr| {
            vec![
                address,
                Expr::Load(Field::Protocol, at.protocol),
                Expr::Load(Field::OriginalDestinationPort, at.port),
                Expr::Contains(Set::Masqueraded.name().into(), at.frontend),
                Expr::Masquerade,
            ]
        };
        let own = self.is_own(Field::SourceType);
        rules.extend([
            rule(
                "likewise, by an external address",
                [self.translated(), original(Expr::Load(original_address, at.frontend))].concat(),
            ),
            rule(
                "likewise, by a node port",
                [self.translated(), original(self.this_node())].concat(),
            ),
            rule(
                "from this node: its address may be one that only this node knows",
                [self.translated(), own, vec![Expr::Masquerade]].concat(),
            ),
        ]);
        rules
    }

    fn outbound(&self, ranges: &Ranges) -> Vec<Rule> {
        let destination = Field::DestinationAddress(self.ip);
        let within_cluster = ranges.pods.iter().map(|range| {
            rule("pods see each other's addresses", then(self.within(destination, *range), ACCEPT))
        });
        within_cluster.chain([rule("to the outside", vec![Expr::Masquerade])]).collect()
    }
}

/// What does not get through.
impl Loads {
    /// Passes on what belongs to a connection that was let through.
    fn known_connections(&self) -> Rule {
        let known = self.any_bit(Field::ConnectionState, state::ESTABLISHED | state::RELATED);
        rule("", then(known, ACCEPT))
    }

    fn prerouting(&self) -> Vec<Rule> {
        let mut rules = vec![self.known_connections()];
        if self.ip == Ip::V4 {
            let from_outside = vec![
                Expr::Load(Field::InputInterface, self.at.scratch),
                Expr::Differs(self.at.scratch, number(LOOPBACK)),
            ];
            let to_loopback = self.within(Field::DestinationAddress(self.ip), loopback_range());
            rules.push(rule(
                "node ports work on the loopback address, which opens it to neighbours",
                [from_outside, to_loopback, vec![DROP]].concat(),
            ));
        }
        rules.push(rule("", vec![jump("refuse")]));
        rules
    }

    fn output(&self) -> Vec<Rule> {
        vec![self.known_connections(), rule("", vec![jump("refuse")])]
    }

    fn refuse(&self, ranges: &Ranges) -> Vec<Rule> {
        let destination = Field::DestinationAddress(self.ip);
        let mut rules = vec![rule(
            "services without endpoints",
            then(self.frontend(), self.look_up(Set::Refused)),
        )];
        rules.extend(
            ranges.services.iter().map(|range| {
                rule("no service", then(self.within(destination, *range), goto(REJECT)))
            }),
        );
        rules.extend(self.at_node_ports(ranges).into_iter().map(|own| {
            let refused = vec![self.look_up(Set::Refused)];
            rule("node ports without endpoints", [own, self.node_frontend(), refused].concat())
        }));
        rules
    }

    fn reject(&self) -> Vec<Rule> {
        let tcp = Bytes::EMPTY.protocol(6);
        vec![
            rule(
                "",
                vec![
                    Expr::Load(Field::Protocol, self.at.protocol),
                    Expr::Equal(self.at.protocol, tcp),
                    Expr::Reject(Rejection::TcpReset),
                ],
            ),
            rule("", vec![Expr::Reject(Rejection::PortUnreachable)]),
        ]
    }

    fn forward(&self, ranges: &Ranges) -> Vec<Rule> {
        let own = ranges.own.map(|own| {
            rule(
                "an answer that no connection claims would show its true source, and be reset",
                [
                    self.any_bit(Field::ConnectionState, state::INVALID),
                    self.within(Field::SourceAddress(self.ip), own),
                    vec![DROP],
                ]
                .concat(),
            )
        });
        own.into_iter().collect()
    }
}

fn loopback_range() -> IpNet {
    IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), 8).trunc()
}

/// The address whose first so many bits are set.
pub(crate) fn netmask(ip: Ip, prefix: u8) -> IpAddr {
    let range = IpNet::new(any(ip), prefix);
    // Of no more bits than an address has: the prefixes come from ranges.
    range.map_or_else(|_| any(ip), |range| range.netmask())
}
