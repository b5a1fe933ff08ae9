//! [Classes](super::class) as chains and sets of the kernel, in a table for each version of the protocol.
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
//!
//! The number changes after what it is the number of, in a transaction of its own: in the middle of one, a packet may
//! meet the new chains and the old elements, and would be marked as looked at by rules that it never met.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::class::{Class, Direction, digest};
use super::reach::{Allowed, PortRange};
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

pub(super) fn rule(comment: &'static str, exprs: Vec<Expr>) -> Rule {
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
    /// What is in the table of every node, but for the chain that has the number of the rules.
    pub(super) fn bare(ip: Ip) -> Self {
        let mut content = Self::default();
        content.chains.insert(REFUSE.into(), refuse());
        content.own_set(ip);
        for direction in Direction::ALL {
            content.isolated_set(ip, direction);
        }
        content
    }

    pub(super) fn own_set(&mut self, ip: Ip) {
        self.set(OWN, two_addresses(ip), Values::None, Kind::Plain);
    }

    fn isolated_set(&mut self, ip: Ip, direction: Direction) -> &'static str {
        let set = match direction {
            Direction::Ingress => INGRESS,
            Direction::Egress => EGRESS,
        };
        self.set(set, address_part(ip), Values::Verdicts, Kind::Plain);
        set
    }

    /// A pod's address may reach itself.
    pub(super) fn own(&mut self, own: IpAddr) {
        self.put(OWN, address(own).address(own).into(), Value::None);
    }

    /// An address is of a class, or of none.
    pub(super) fn isolate(
        &mut self,
        ip: Ip,
        direction: Direction,
        own: IpAddr,
        class: Option<&String>,
    ) {
        let set = self.isolated_set(ip, direction);
        if let Some(class) = class {
            let jump = Value::Verdict(Verdict::Jump(class.as_str().into()));
            self.put(set, address(own).into(), jump);
        }
    }

    /// A class with all that it says.
    pub(super) fn class(&mut self, ip: Ip, name: &str, class: &Class, in_use: &mut PortsInUse) {
        self.chains.insert(name.to_owned(), class_chain(name, class.direction, ip));
        self.set(&pods_of(name), address_part(ip), Values::Verdicts, Kind::Plain);
        for (peer, allowed) in class.peers.iter().filter(|(peer, _)| Ip::of(**peer) == ip) {
            self.peer(ip, name, *peer, Some(allowed), in_use);
        }
        let blocks = blocks_of(name);
        self.set(&blocks, address_part(ip), Values::Verdicts, Kind::Intervals);
        for (first, last, allowed) in &class.blocks {
            if Ip::of(*first) == ip {
                let verdict = in_use.verdict(allowed);
                self.put(&blocks, Key::range(address(*first), address(*last)), verdict);
            }
        }
    }

    /// What a class says of an address of pods, or that it says nothing.
    pub(super) fn peer(
        &mut self,
        ip: Ip,
        class: &str,
        peer: IpAddr,
        allowed: Option<&Allowed>,
        in_use: &mut PortsInUse,
    ) {
        let pods = pods_of(class);
        self.set(&pods, address_part(ip), Values::Verdicts, Kind::Plain);
        if let Some(allowed) = allowed {
            let verdict = in_use.verdict(allowed);
            self.put(&pods, address(peer).into(), verdict);
        }
    }

    fn ports(&mut self, name: &str, ports: &[PortRange]) {
        self.chains.insert(name.to_owned(), ports_chain(name));
        self.set(name, &[Part::Protocol, Part::Port], Values::None, Kind::Intervals);
        for PortRange { protocol, first, last } in ports {
            let end = |port| Bytes::EMPTY.protocol(*protocol).port(port);
            self.put(name, Key::range(end(*first), end(*last)), Value::None);
        }
    }

    /// Makes a set, unless it is there.
    pub(super) fn set(&mut self, name: &str, key: &'static [Part], values: Values, kind: Kind) {
        if !self.sets.contains_key(name) {
            let set = Set { name: name.to_owned().into(), key, values, kind };
            self.sets.insert(name.to_owned(), (Described(set), BTreeMap::new()));
        }
    }

    pub(super) fn put(&mut self, set: &str, key: Key, value: Value) {
        if let Some((_, elements)) = self.sets.get_mut(set) {
            elements.insert(key, value);
        }
    }
}

/// The chains that ask for ports, by how many elements lead to each. They are named after the ports.
#[derive(Debug, Default)]
pub(super) struct PortsInUse {
    all: BTreeMap<String, (usize, Arc<Vec<PortRange>>)>,
    /// How many led to those that were touched since the last time.
    before: BTreeMap<String, usize>,
}

impl PortsInUse {
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
        let (count, _) = self.all.entry(name.clone()).or_insert_with(|| (0, ports.clone()));
        self.before.entry(name.clone()).or_insert(*count);
        *count += 1;
        Value::Verdict(Verdict::Goto(name.into()))
    }

    /// So many elements lead there no more.
    pub(super) fn take_away(&mut self, gone: &Self) {
        for (name, (fewer, _)) in &gone.all {
            if let Some((count, _)) = self.all.get_mut(name) {
                self.before.entry(name.clone()).or_insert(*count);
                *count -= fewer;
            }
        }
    }

    /// Puts those that came into what is there after, and those that nothing leads to any more into what was
    /// before.
    pub(super) fn settle(&mut self, before: &mut Content, after: &mut Content) {
        for (name, was) in std::mem::take(&mut self.before) {
            let Some((count, ports)) = self.all.get(&name) else { continue };
            match (was, *count) {
                (0, 0) => drop(self.all.remove(&name)),
                (0, _) => after.ports(&name, ports),
                (_, 0) => {
                    before.ports(&name, ports);
                    self.all.remove(&name);
                }
                _ => {}
            }
        }
    }

    /// Puts all into a content.
    pub(super) fn put(&self, content: &mut Content) {
        self.all.iter().for_each(|(name, (_, ports))| content.ports(name, ports));
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

/// Gives the rules another number, once they are in the kernel.
pub(super) fn numbered(ip: Ip, round: u32) -> Vec<Command> {
    let mut commands = vec![Command::FlushChain { name: FORWARD.into() }];
    add_chain(FORWARD, &forward(ip, round), &mut commands);
    commands
}

/// Puts a table in place of whatever is there.
pub(super) fn replacement(content: &Content) -> Vec<Command> {
    // The first makes sure that there is something to delete.
    let mut commands = vec![Command::AddTable, Command::DeleteTable, Command::AddTable];
    commands.extend(additions(&Content::default(), content));
    commands
}

/// Likewise, of rules with a number. What they allow before they have the [next](numbered) is looked at again.
pub(super) fn numbered_replacement(content: &Content, ip: Ip, round: u32) -> Vec<Command> {
    let mut commands = replacement(content);
    let Chain { hook, .. } = forward(ip, round);
    commands.push(Command::AddChain { name: FORWARD.into(), hook });
    commands.extend(numbered(ip, round));
    commands
}

/// New sets with what is in them, and new chains. They are in the kernel one transaction before
/// anything leads to them: a packet that is under way executes chains as they were when it came, and
/// looks elements up as they are.
pub(super) fn additions(before: &Content, after: &Content) -> Vec<Command> {
    let mut commands = Vec::new();
    let new_sets = || after.sets.iter().filter(|(name, _)| !before.sets.contains_key(*name));
    let new_chains = || after.chains.iter().filter(|(name, _)| !before.chains.contains_key(*name));
    commands.extend(new_sets().map(|(_, (set, _))| Command::AddSet(set.0.clone())));
    commands.extend(
        new_chains()
            .map(|(name, chain)| Command::AddChain { name: name.clone(), hook: chain.hook }),
    );
    new_chains().for_each(|(name, chain)| add_chain(name, chain, &mut commands));
    for (_, (set, all)) in new_sets().filter(|(_, (_, all))| !all.is_empty()) {
        commands.push(Command::AddElements(set.0.clone(), elements(all.iter())));
    }
    commands
}

/// What else leads from one content to another, but for the number of the rules.
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
