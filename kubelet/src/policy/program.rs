//! A [`Ruleset`] as chains and sets of the kernel, in a table for each version of the protocol.
//!
//! ```text
//! forward ─ looked at since the last change? ─▶ passes
//!    │ class of the destination (ingress), then of the source (egress)
//!    ▼
//! in-…, out-… ─ what it says of the other end: pods, else ranges ─▶ returns, or
//!    ▼                                                ports-… ─ the port? ─▶ returns
//! refuse
//! ```
//!
//! Answers are looked at as well, the other way round. A connection that was found to be allowed is
//! marked with the number of the present rules: the next change has another one, and everything that
//! is under way is looked at again. So there is nothing to search for and end when a rule goes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ruleset::{Allowed, Direction, PortRange, Ruleset, digest};
use crate::nft::expr::{
    Chain, ChainKind, Expr, Field, Hook, HookPoint, Ip, Register, Rejection, Rule, Verdict, number,
    state,
};
use crate::nft::set::{Bytes, Element, Key, Kind, Part, Set, Value, Values};
use crate::nft::table::Command;

/// What is in a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) chains: BTreeMap<String, Chain>,
    pub(super) sets: BTreeMap<String, (Described, BTreeMap<Key, Value>)>,
}

/// A set, without what never differs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described(Set);

const FIRST: Register = Register(0);
const SECOND: Register = Register(1);
/// Behind an IPv6 address.
const BEHIND: Register = Register(4);

/// Who sends, and who is sent to.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

impl End {
    fn address(self, ip: Ip) -> Field {
        match self {
            Self::Source => Field::SourceAddress(ip),
            Self::Destination => Field::DestinationAddress(ip),
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// The packets of a connection: those of who began it, and answers.
const WAYS: [(u8, &str); 2] = [(0, ""), (1, "answers")];

fn rule(comment: &'static str, exprs: Vec<Expr>) -> Rule {
    Rule { exprs, comment }
}

fn inner(rules: Vec<Rule>) -> Chain {
    Chain { hook: None, rules }
}

fn way(number: u8) -> Vec<Expr> {
    vec![
        Expr::Load(Field::ConnectionDirection, FIRST),
        Expr::Equal(FIRST, Bytes::EMPTY.with(&[number])),
    ]
}

fn any_state(bits: u32) -> Vec<Expr> {
    vec![
        Expr::Load(Field::ConnectionState, FIRST),
        Expr::Mask(FIRST, number(bits)),
        Expr::Differs(FIRST, number(0)),
    ]
}

fn look_up(set: &str, end: End, ip: Ip) -> Vec<Expr> {
    vec![Expr::Load(end.address(ip), FIRST), Expr::Vmap(set.to_owned().into(), FIRST)]
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.into()))
}

const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";
const OWN: &str = "own";
const REFUSE: &str = "refuse";
const FORWARD: &str = "forward";

/// Of the other end of a new connection, seen from the pod of a class.
fn far_end(direction: Direction) -> End {
    match direction {
        Direction::Ingress => End::Source,
        Direction::Egress => End::Destination,
    }
}

fn as_sent(end: End, way: u8) -> End {
    if way == 0 { end } else { end.other() }
}

fn forward(ip: Ip, round: u32) -> Chain {
    let second = match ip {
        Ip::V4 => SECOND,
        Ip::V6 => BEHIND,
    };
    let mut rules = vec![
        rule(
            "looked at since the last change",
            vec![
                Expr::Load(Field::ConnectionMark, FIRST),
                Expr::Equal(FIRST, number(round)),
                Expr::Verdict(Verdict::Accept),
            ],
        ),
        rule(
            "errors about a connection",
            [any_state(state::RELATED), vec![Expr::Verdict(Verdict::Accept)]].concat(),
        ),
        rule(
            "a pod may reach itself",
            vec![
                Expr::Load(End::Source.address(ip), FIRST),
                Expr::Load(End::Destination.address(ip), second),
                Expr::Contains(OWN.into(), FIRST),
                Expr::Verdict(Verdict::Accept),
            ],
        ),
    ];
    for (set, direction) in [(INGRESS, Direction::Ingress), (EGRESS, Direction::Egress)] {
        let near = far_end(direction).other();
        for (number, comment) in WAYS {
            let exprs = [way(number), look_up(set, as_sent(near, number), ip)].concat();
            rules.push(rule(comment, exprs));
        }
        let unknown = any_state(state::INVALID | state::UNTRACKED);
        rules.push(rule("of no connection", [unknown, look_up(set, near, ip)].concat()));
    }
    rules.push(rule(
        "allowed",
        vec![Expr::Constant(number(round), FIRST), Expr::SetConnectionMark(FIRST)],
    ));
    // Before the filter of the proxy's, which does nothing to what is allowed here.
    let hook = Hook { kind: ChainKind::Filter, point: HookPoint::Forward, priority: -10 };
    Chain { hook: Some(hook), rules }
}

fn refuse() -> Chain {
    let drop = vec![Expr::Verdict(Verdict::Drop)];
    let unknown = any_state(state::INVALID | state::UNTRACKED);
    inner(vec![
        rule("an answer would end a connection that is right", [unknown, drop].concat()),
        rule(
            "",
            vec![
                Expr::Load(Field::Protocol, FIRST),
                Expr::Equal(FIRST, Bytes::EMPTY.protocol(6)),
                Expr::Reject(Rejection::TcpReset),
            ],
        ),
        rule("", vec![Expr::Reject(Rejection::Prohibited)]),
    ])
}

fn class_chain(name: &str, direction: Direction, ip: Ip) -> Chain {
    let mut rules = Vec::new();
    for set in [pods_of(name), blocks_of(name)] {
        for (number, comment) in WAYS {
            let end = as_sent(far_end(direction), number);
            rules.push(rule(comment, [way(number), look_up(&set, end, ip)].concat()));
        }
    }
    rules.push(rule("", vec![goto(REFUSE)]));
    inner(rules)
}

fn ports_chain(name: &str) -> Chain {
    let mut rules = Vec::new();
    for ((number, comment), port) in
        WAYS.into_iter().zip([Field::DestinationPort, Field::SourcePort])
    {
        let known = vec![
            Expr::Load(Field::Protocol, FIRST),
            Expr::Load(port, SECOND),
            Expr::Contains(name.to_owned().into(), FIRST),
            Expr::Verdict(Verdict::Return),
        ];
        rules.push(rule(comment, [way(number), known].concat()));
    }
    rules.push(rule("", vec![goto(REFUSE)]));
    inner(rules)
}

fn pods_of(class: &str) -> String {
    format!("{class}-pods")
}

fn blocks_of(class: &str) -> String {
    format!("{class}-blocks")
}

fn address_part(ip: Ip) -> &'static [Part] {
    match ip {
        Ip::V4 => &[Part::Ipv4],
        Ip::V6 => &[Part::Ipv6],
    }
}

fn two_addresses(ip: Ip) -> &'static [Part] {
    match ip {
        Ip::V4 => &[Part::Ipv4, Part::Ipv4],
        Ip::V6 => &[Part::Ipv6, Part::Ipv6],
    }
}

fn address(address: IpAddr) -> Bytes {
    Bytes::EMPTY.address(address)
}

impl Content {
    /// The table for one version; `round` is the number of these rules.
    pub(super) fn of(ruleset: &Ruleset, ip: Ip, round: u32) -> Self {
        let mut content = Self::default();
        let key = address_part(ip);
        content.chains.insert(FORWARD.into(), forward(ip, round));
        content.chains.insert(REFUSE.into(), refuse());
        content.set(OWN, two_addresses(ip), Values::None, Kind::Plain);
        for name in [INGRESS, EGRESS] {
            content.set(name, key, Values::Verdicts, Kind::Plain);
        }
        for ((direction, own), class) in &ruleset.isolated {
            if Ip::of(*own) != ip {
                continue;
            }
            let set = match direction {
                Direction::Ingress => INGRESS,
                Direction::Egress => EGRESS,
            };
            let jump = Value::Verdict(Verdict::Jump(class.as_str().into()));
            content.put(set, address(*own).into(), jump);
            content.put(OWN, address(*own).address(*own).into(), Value::None);
        }
        for (name, (direction, class)) in &ruleset.classes {
            content.chains.insert(name.clone(), class_chain(name, *direction, ip));
            let (pods, blocks) = (pods_of(name), blocks_of(name));
            content.set(&pods, key, Values::Verdicts, Kind::Plain);
            content.set(&blocks, key, Values::Verdicts, Kind::Intervals);
            for (peer, allowed) in class.peers.iter().filter(|(peer, _)| Ip::of(**peer) == ip) {
                let verdict = content.verdict(allowed);
                content.put(&pods, address(*peer).into(), verdict);
            }
            for (first, last, allowed) in &class.blocks {
                if Ip::of(*first) == ip {
                    let verdict = content.verdict(allowed);
                    content.put(&blocks, Key::range(address(*first), address(*last)), verdict);
                }
            }
        }
        content
    }

    fn set(&mut self, name: &str, key: &'static [Part], values: Values, kind: Kind) {
        let set = Set { name: name.to_owned().into(), key, values, kind };
        self.sets.insert(name.to_owned(), (Described(set), BTreeMap::new()));
    }

    fn put(&mut self, set: &str, key: Key, value: Value) {
        if let Some((_, elements)) = self.sets.get_mut(set) {
            elements.insert(key, value);
        }
    }

    /// Where a packet goes that is allowed to these ports.
    fn verdict(&mut self, allowed: &Allowed) -> Value {
        let Some(ports) = allowed else { return Value::Verdict(Verdict::Return) };
        let mut bytes = Vec::with_capacity(ports.len() * 5);
        for PortRange { protocol, first, last } in ports.iter() {
            bytes.push(*protocol);
            bytes.extend(first.to_be_bytes());
            bytes.extend(last.to_be_bytes());
        }
        let name = format!("ports-{}", digest(&bytes));
        if !self.chains.contains_key(&name) {
            self.chains.insert(name.clone(), ports_chain(&name));
            self.set(&name, &[Part::Protocol, Part::Port], Values::None, Kind::Intervals);
            for PortRange { protocol, first, last } in ports.iter() {
                let end = |port| Bytes::EMPTY.protocol(*protocol).port(port);
                self.put(&name, Key::range(end(*first), end(*last)), Value::None);
            }
        }
        Value::Verdict(Verdict::Goto(name.into()))
    }
}

fn elements<'a>(all: impl Iterator<Item = (&'a Key, &'a Value)>) -> Vec<Element> {
    all.map(|(key, value)| Element::new(key.clone(), value.clone())).collect()
}

fn add_chain(name: &str, chain: &Chain, commands: &mut Vec<Command>) {
    for rule in &chain.rules {
        commands.push(Command::AddRule { chain: name.to_owned(), rule: rule.clone() });
    }
}

/// Puts a table in place of whatever is there.
pub(super) fn replacement(content: &Content) -> Vec<Command> {
    // The first makes sure that there is something to delete.
    let mut commands = vec![Command::AddTable, Command::DeleteTable, Command::AddTable];
    commands.extend(additions(&Content::default(), content));
    commands.extend(changes(&Content::default(), content));
    commands
}

/// New sets with what is in them, and new chains. They are in the kernel one transaction before
/// anything leads to them: a packet that is under way executes chains as they were when it came, and
/// looks elements up as they are.
pub(super) fn additions(before: &Content, after: &Content) -> Vec<Command> {
    let mut commands = Vec::new();
    let new_sets = || after.sets.iter().filter(|(name, _)| !before.sets.contains_key(*name));
    let new_chains = || {
        let inner = after.chains.iter().filter(|(_, chain)| chain.hook.is_none());
        inner.filter(|(name, _)| !before.chains.contains_key(*name))
    };
    commands.extend(new_sets().map(|(_, (set, _))| Command::AddSet(set.0.clone())));
    commands
        .extend(new_chains().map(|(name, _)| Command::AddChain { name: name.clone(), hook: None }));
    new_chains().for_each(|(name, chain)| add_chain(name, chain, &mut commands));
    for (_, (set, all)) in new_sets().filter(|(_, (_, all))| !all.is_empty()) {
        commands.push(Command::AddElements(set.0.clone(), elements(all.iter())));
    }
    commands
}

/// What else leads from one content to another.
pub(super) fn changes(before: &Content, after: &Content) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut added = Vec::new();
    for (name, (set, new)) in &after.sets {
        let Some((_, old)) = before.sets.get(name) else { continue };
        let gone: Vec<Key> = old
            .iter()
            .filter(|(key, value)| new.get(*key) != Some(*value))
            .map(|(key, _)| key.clone())
            .collect();
        let come = elements(new.iter().filter(|(key, value)| old.get(*key) != Some(*value)));
        if !gone.is_empty() {
            commands.push(Command::DeleteElements(set.0.clone(), gone));
        }
        if !come.is_empty() {
            added.push(Command::AddElements(set.0.clone(), come));
        }
    }
    commands.extend(added);
    for (name, chain) in &after.chains {
        match before.chains.get(name) {
            Some(same) if same == chain => continue,
            Some(_) => commands.push(Command::FlushChain { name: name.clone() }),
            None if chain.hook.is_none() => continue,
            None => {
                commands.push(Command::AddChain { name: name.clone(), hook: chain.hook });
            }
        }
        add_chain(name, chain, &mut commands);
    }
    // Classes lead to ports: their elements go first, then all chains, and then the sets.
    let gone_sets = || before.sets.iter().filter(|(name, _)| !after.sets.contains_key(*name));
    let gone_chains = || before.chains.keys().filter(|name| !after.chains.contains_key(*name));
    for (_, (set, all)) in gone_sets().filter(|(_, (_, all))| !all.is_empty()) {
        commands.push(Command::DeleteElements(set.0.clone(), all.keys().cloned().collect()));
    }
    commands.extend(gone_chains().map(|name| Command::FlushChain { name: name.clone() }));
    commands.extend(gone_chains().map(|name| Command::DeleteChain { name: name.clone() }));
    commands.extend(gone_sets().map(|(_, (set, _))| Command::DeleteSet(set.0.clone())));
    commands
}
