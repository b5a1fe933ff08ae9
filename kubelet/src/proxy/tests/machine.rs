//! A packet filter in memory: takes the same commands as the kernel, as strictly, and does with
//! pretend packets what the expressions say.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::{BRIDGE, NODE, NODE6, v6};
use crate::nft::expr::{
    Chain, DESTINATION_TRANSLATED, Expr, Field, HookPoint, LOCAL, LOOPBACK, Register, Rejection,
    Verdict, number,
};
use crate::nft::set::{Bytes, Kind, Set, Value, Values};
use crate::nft::table::Command;
use crate::proxy::address::Protocol;

/// The table, as the kernel would hold it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Machine {
    pub(crate) chains: BTreeMap<String, Chain>,
    pub(crate) sets: BTreeMap<String, (Set, Elements)>,
}

/// Values and comments.
pub(crate) type Elements = BTreeMap<Vec<u8>, (Value, Box<str>)>;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// Which of all possible choices is made where chance decides.
    pub(crate) chance: u32,
    /// When, in seconds.
    pub(crate) at: u64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Goes there; `masqueraded`: coming from the node, as far as the receiver can tell.
    Sent {
        to: (IpAddr, u16),
        masqueraded: bool,
    },
    Refused(Rejection),
    Dropped,
}

/// Clients that are remembered, with the value and when it is forgotten.
pub(crate) type Remembered = HashMap<Vec<u8>, (Vec<u8>, u64)>;

impl Machine {
    pub(crate) fn apply(&mut self, commands: &[Command]) {
        for command in commands {
            match command {
                Command::AddTable => {}
                Command::DeleteTable => *self = Self::default(),
                Command::AddSet(set) => {
                    let name = set.name.to_string();
                    let there = self.sets.insert(name, (set.clone(), Elements::new()));
                    assert!(there.is_none(), "{set:?} is there");
                }
                Command::DeleteSet(set) => {
                    self.sets.remove(&*set.name).expect("a set");
                }
                Command::AddChain { name, hook } => {
                    let chain = Chain { hook: *hook, rules: Vec::new() };
                    let there = self.chains.insert(name.clone(), chain);
                    assert!(there.is_none(), "chain {name} is there");
                }
                Command::FlushChain { name } => {
                    self.chains.get_mut(name).expect("a chain").rules.clear();
                }
                Command::AddRule { chain, rule } => {
                    for target in rule.exprs.iter().filter_map(target) {
                        assert!(self.chains.contains_key(target), "a rule leads to {target}");
                    }
                    self.chains.get_mut(chain).expect("a chain").rules.push(rule.clone());
                }
                Command::DeleteChain { name } => {
                    assert!(!self.leads_to(name), "something leads to {name}");
                    self.chains.remove(name).expect("a chain");
                }
                Command::AddElements(set, elements) => {
                    let (made, there) = self.sets.get_mut(&*set.name).expect("a set");
                    assert_eq!(made, set);
                    for element in elements {
                        if let Value::Verdict(verdict) = &element.value
                            && let Some(chain) = verdict.chain()
                        {
                            assert!(self.chains.contains_key(chain), "leads to {chain}");
                        }
                        let entry = (element.value.clone(), element.comment.clone());
                        let key = element.key.from.as_slice().to_vec();
                        assert_eq!(key.len(), set.key_length());
                        assert_eq!(there.insert(key, entry), None, "{element:?} is there");
                    }
                }
                Command::DeleteElements(set, keys) => {
                    for key in keys {
                        let (_, there) = self.sets.get_mut(&*set.name).expect("a set");
                        there.remove(key.from.as_slice()).expect("an element");
                    }
                }
            }
        }
    }

    /// A set and what is in it.
    fn set(&self, name: &str) -> &(Set, Elements) {
        self.sets.get(name).expect("a set")
    }

    fn leads_to(&self, chain: &str) -> bool {
        let by_rule = self
            .chains
            .iter()
            .filter(|(name, _)| *name != chain)
            .flat_map(|(_, chain)| &chain.rules)
            .flat_map(|rule| &rule.exprs)
            .any(|expr| target(expr) == Some(chain));
        let by_element = self
            .sets
            .values()
            .flat_map(|(_, elements)| elements.values())
            .any(|(value, _)| *value == Value::Verdict(Verdict::Goto(chain.into())));
        by_rule || by_element
    }

    /// What becomes of the first packet of a connection.
    pub(crate) fn send(&self, packet: Packet, remembered: &mut Remembered) -> Outcome {
        let mut run = Run { machine: self, packet, original: packet, remembered, priority: 0 };
        let made_here = is_own(packet.source);
        let first = if made_here { HookPoint::Output } else { HookPoint::Prerouting };
        let mut masqueraded = false;
        if let Some(outcome) = run.hook(first, &mut masqueraded) {
            return outcome;
        }
        // Packets for processes of this node are delivered without more ado.
        if !is_own(run.packet.destination) || made_here {
            let passes_through = !made_here;
            if passes_through && let Some(outcome) = run.hook(HookPoint::Forward, &mut masqueraded)
            {
                return outcome;
            }
            if let Some(outcome) = run.hook(HookPoint::Postrouting, &mut masqueraded) {
                return outcome;
            }
        }
        Outcome::Sent { to: (run.packet.destination, run.packet.port), masqueraded }
    }
}

fn target(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Verdict(verdict) => verdict.chain(),
        _ => None,
    }
}

/// The node's own addresses; two are on the bridge.
fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || [NODE, BRIDGE, NODE6, v6(0x244, 0, 0, 1)].contains(&address)
}

struct Run<'a> {
    machine: &'a Machine,
    packet: Packet,
    original: Packet,
    remembered: &'a mut Remembered,
    priority: u32,
}

/// How the evaluation of a chain ended.
enum End {
    /// Nothing decided: on behind the jump.
    Through,
    Accepted,
    SentTo((IpAddr, u16)),
    Masqueraded,
    Final(Outcome),
}

impl Run<'_> {
    /// All chains at a point; something if the packet goes no further.
    fn hook(&mut self, point: HookPoint, masqueraded: &mut bool) -> Option<Outcome> {
        let mut chains: Vec<(&String, &Chain)> = self
            .machine
            .chains
            .iter()
            .filter(|(_, chain)| chain.hook.is_some_and(|hook| hook.point == point))
            .collect();
        chains.sort_by_key(|(_, chain)| chain.hook.map(|hook| hook.priority));
        for (name, _) in chains {
            match self.chain(name) {
                End::Through | End::Accepted => {}
                End::SentTo((address, port)) => {
                    self.packet.destination = address;
                    self.packet.port = port;
                }
                End::Masqueraded => *masqueraded = true,
                End::Final(outcome) => return Some(outcome),
            }
        }
        None
    }

    fn chain(&mut self, name: &str) -> End {
        let chain = &self.machine.chains[name];
        for rule in &chain.rules {
            match self.rule(&rule.exprs) {
                Flow::Next => {}
                Flow::Return => return End::Through,
                Flow::Goto(chain) => return self.chain(&chain),
                Flow::Jump(chain) => match self.chain(&chain) {
                    End::Through => {}
                    decided => return decided,
                },
                Flow::End(end) => return end,
            }
        }
        End::Through
    }

    fn rule(&mut self, exprs: &[Expr]) -> Flow {
        // What is not loaded must not be read: the kernel refuses such rules.
        let mut registers: [Option<[u8; 4]>; 16] = [None; 16];
        for expr in exprs {
            let read = |registers: &[Option<[u8; 4]>; 16], from: Register, length: usize| {
                let first = usize::from(from.0);
                let parts = registers[first..first + length / 4].iter();
                parts.flat_map(|part| part.expect("a loaded register")).collect::<Vec<u8>>()
            };
            let one = |registers: &[Option<[u8; 4]>; 16], from: Register| -> [u8; 4] {
                registers[usize::from(from.0)].expect("a loaded register")
            };
            let write = |registers: &mut [Option<[u8; 4]>; 16], into: Register, bytes: &[u8]| {
                for (index, part) in bytes.chunks(4).enumerate() {
                    registers[usize::from(into.0) + index] = part.try_into().ok();
                }
            };
            match expr {
                Expr::Load(field, into) => {
                    write(&mut registers, *into, self.field(*field).as_slice());
                }
                Expr::Constant(value, into) => write(&mut registers, *into, value.as_slice()),
                Expr::Mask(on, mask) => {
                    let masked: Vec<u8> = read(&registers, *on, mask.as_slice().len())
                        .iter()
                        .zip(mask.as_slice())
                        .map(|(byte, mask)| byte & mask)
                        .collect();
                    write(&mut registers, *on, &masked);
                }
                Expr::Equal(on, value)
                    if read(&registers, *on, value.as_slice().len()) != value.as_slice() =>
                {
                    return Flow::Next;
                }
                Expr::Differs(on, value)
                    if read(&registers, *on, value.as_slice().len()) == value.as_slice() =>
                {
                    return Flow::Next;
                }
                Expr::Equal(..) | Expr::Differs(..) => {}
                Expr::Random { modulus, first, into } => {
                    let chosen = first + self.packet.chance % modulus;
                    write(&mut registers, *into, number(chosen).as_slice());
                }
                Expr::Contains(set, key) => {
                    assert_eq!(self.machine.set(set).0.values, Values::None, "{set} is a map");
                    let key = read(&registers, *key, self.machine.set(set).0.key_length());
                    if self.look_up(set, &key).is_none() {
                        return Flow::Next;
                    }
                }
                Expr::Lacks(set, key) => {
                    assert_eq!(self.machine.set(set).0.values, Values::None, "{set} is a map");
                    let key = read(&registers, *key, self.machine.set(set).0.key_length());
                    if self.look_up(set, &key).is_some() {
                        return Flow::Next;
                    }
                }
                Expr::Get(set, key, into) => {
                    let key = read(&registers, *key, self.machine.set(set).0.key_length());
                    match self.look_up(set, &key) {
                        Some(Value::Bytes(value)) => {
                            write(&mut registers, *into, value.as_slice());
                        }
                        _ => match self.remembered.get(&key).filter(|_| {
                            matches!(self.machine.set(set).0.kind, Kind::Remembered { .. })
                        }) {
                            Some((value, until)) if *until > self.packet.at => {
                                write(&mut registers, *into, value);
                            }
                            _ => return Flow::Next,
                        },
                    }
                }
                Expr::Vmap(set, key) => {
                    let key = read(&registers, *key, self.machine.set(set).0.key_length());
                    match self.look_up(set, &key) {
                        Some(Value::Verdict(verdict)) => return Flow::of(verdict),
                        _ => return Flow::Next,
                    }
                }
                Expr::Remember { set, key, value, seconds } => {
                    let key = read(&registers, *key, self.machine.set(set).0.key_length());
                    let value = read(&registers, *value, 4);
                    let now = self.packet.at;
                    let until = now + u64::from(*seconds);
                    self.remembered.retain(|_, (_, until)| *until > now);
                    // A value that is there lives on, and stays as it is.
                    self.remembered.entry(key).or_insert((value, until)).1 = until;
                }
                Expr::Forget { set, key, .. } => {
                    let key = read(&registers, *key, self.machine.set(set).0.key_length());
                    self.remembered.remove(&key);
                }
                Expr::SetPriority(value) => {
                    self.priority = u32::from_ne_bytes(one(&registers, *value));
                }
                Expr::SendTo(ip, address, port) => {
                    let length = usize::from(ip.address_length());
                    let address = Bytes::from_slice(&read(&registers, *address, length)).unwrap();
                    let address = address.parts().address(*ip).unwrap();
                    let [high, low, ..] = one(&registers, *port);
                    return Flow::End(End::SentTo((address, u16::from_be_bytes([high, low]))));
                }
                Expr::Masquerade => return Flow::End(End::Masqueraded),
                Expr::Reject(rejection) => {
                    return Flow::End(End::Final(Outcome::Refused(*rejection)));
                }
                Expr::SetConnectionMark(_) => unreachable!("no rule of the proxy's does {expr}"),
                Expr::Verdict(verdict) => return Flow::of(verdict),
            }
        }
        Flow::Next
    }

    fn look_up(&self, set: &str, key: &[u8]) -> Option<&Value> {
        self.machine.set(set).1.get(key).map(|(value, _)| value)
    }

    fn field(&self, field: Field) -> Bytes {
        const NEW: u32 = 8;
        const UPLINK: u32 = 2;

        let address = |address: IpAddr| Bytes::EMPTY.address(address);
        let port = |port: u16| Bytes::EMPTY.port(port);
        let own = |address: IpAddr| is_own(address);
        let interface = |is_local: bool| number(if is_local { LOOPBACK } else { UPLINK });
        let translated = self.packet.destination != self.original.destination
            || self.packet.port != self.original.port;
        match field {
            Field::SourceAddress(_) => address(self.packet.source),
            Field::DestinationAddress(_) => address(self.packet.destination),
            Field::DestinationPort => port(self.packet.port),
            Field::Protocol => Bytes::EMPTY.protocol(self.packet.protocol.number()),
            Field::InputInterface => interface(own(self.packet.source)),
            Field::OutputInterface => interface(own(self.packet.destination)),
            Field::SourceType => number(if own(self.packet.source) { LOCAL } else { 1 }),
            Field::DestinationType => number(if own(self.packet.destination) { LOCAL } else { 1 }),
            Field::ConnectionState => number(NEW),
            Field::ConnectionStatus => number(if translated { DESTINATION_TRANSLATED } else { 0 }),
            Field::OriginalDestinationAddress(_) => address(self.original.destination),
            Field::OriginalDestinationPort => port(self.original.port),
            Field::Priority => number(self.priority),
            other => unreachable!("no rule of the proxy's looks at {other:?}"),
        }
    }
}

enum Flow {
    Next,
    Return,
    Jump(String),
    Goto(String),
    End(End),
}

impl Flow {
    fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Accept => Self::End(End::Accepted),
            Verdict::Drop => Self::End(End::Final(Outcome::Dropped)),
            Verdict::Return => Self::Return,
            Verdict::Jump(chain) => Self::Jump(chain.to_string()),
            Verdict::Goto(chain) => Self::Goto(chain.to_string()),
        }
    }
}
