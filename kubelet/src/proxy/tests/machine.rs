//! A packet filter in memory: takes the same commands as the kernel, as strictly, and does with
//! pretend packets what the expressions say.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use crate::proxy::diff::Command;
use crate::proxy::elements::Value;
use crate::proxy::expr::{
    Chain, DESTINATION_TRANSLATED, Expr, Field, HookPoint, LOCAL, LOOPBACK, Register, Rejection,
    Set, Verdict, number,
};
use crate::proxy::ruleset::Protocol;

/// The table, as the kernel would hold it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Machine {
    pub(crate) chains: BTreeMap<String, Chain>,
    pub(crate) elements: HashMap<Set, BTreeMap<Vec<u8>, (Value, String)>>,
}

/// Addresses that are this node's own.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 10);

/// The first packet of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
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
        to: (Ipv4Addr, u16),
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
                Command::AddTable | Command::AddSet(_) => {}
                Command::DeleteTable => *self = Self::default(),
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
                    for element in elements {
                        assert_eq!(element.key.set, *set);
                        if let Value::Goto(chain) = &element.value {
                            assert!(self.chains.contains_key(chain), "leads to {chain}");
                        }
                        let entry = (element.value.clone(), element.comment.clone());
                        let key = element.key.bytes.as_slice().to_vec();
                        let there = self.elements.entry(*set).or_default().insert(key, entry);
                        assert_eq!(there, None, "{element:?} is there");
                    }
                }
                Command::DeleteElements(set, keys) => {
                    for key in keys {
                        let elements = self.elements.get_mut(set).expect("elements");
                        elements.remove(key.bytes.as_slice()).expect("an element");
                    }
                }
            }
        }
        self.elements.retain(|_, elements| !elements.is_empty());
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
            .elements
            .values()
            .flat_map(BTreeMap::values)
            .any(|(value, _)| *value == Value::Goto(chain.to_owned()));
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
        Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => Some(chain),
        _ => None,
    }
}

/// The node's own addresses; `10.244.0.1` is on the bridge.
fn is_own(address: Ipv4Addr) -> bool {
    address == NODE || address.is_loopback() || address == Ipv4Addr::new(10, 244, 0, 1)
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
    SentTo((Ipv4Addr, u16)),
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
                    write(&mut registers, *into, &self.field(*field));
                }
                Expr::Constant(value, into) => write(&mut registers, *into, value),
                Expr::Mask(on, mask) => {
                    let masked: Vec<u8> = one(&registers, *on)
                        .iter()
                        .zip(mask)
                        .map(|(byte, mask)| byte & mask)
                        .collect();
                    write(&mut registers, *on, &masked);
                }
                Expr::Equal(on, value) if one(&registers, *on) != *value => return Flow::Next,
                Expr::Differs(on, value) if one(&registers, *on) == *value => return Flow::Next,
                Expr::Equal(..) | Expr::Differs(..) => {}
                Expr::Random { modulus, into } => {
                    write(&mut registers, *into, &number(self.packet.chance % modulus));
                }
                Expr::Contains(set, key) => {
                    let key = read(&registers, *key, set.key().len() * 4);
                    if self.look_up(*set, &key).is_none() {
                        return Flow::Next;
                    }
                }
                Expr::Get(set, key, into) => {
                    let key = read(&registers, *key, set.key().len() * 4);
                    match self.look_up(*set, &key) {
                        Some(Value::Bytes(value)) => {
                            write(&mut registers, *into, value.as_slice());
                        }
                        _ => match self.remembered.get(&key).filter(|_| set.is_dynamic()) {
                            Some((value, until)) if *until > self.packet.at => {
                                write(&mut registers, *into, value);
                            }
                            _ => return Flow::Next,
                        },
                    }
                }
                Expr::Vmap(set, key) => {
                    let key = read(&registers, *key, set.key().len() * 4);
                    match self.look_up(*set, &key) {
                        Some(Value::Goto(chain)) => return Flow::Goto(chain.clone()),
                        _ => return Flow::Next,
                    }
                }
                Expr::Remember { set, key, value, seconds } => {
                    let key = read(&registers, *key, set.key().len() * 4);
                    let value = read(&registers, *value, 4);
                    let now = self.packet.at;
                    let until = now + u64::from(*seconds);
                    self.remembered.retain(|_, (_, until)| *until > now);
                    // A value that is there lives on, and stays as it is.
                    self.remembered.entry(key).or_insert((value, until)).1 = until;
                }
                Expr::Forget { set, key, .. } => {
                    let key = read(&registers, *key, set.key().len() * 4);
                    self.remembered.remove(&key);
                }
                Expr::SetPriority(value) => {
                    self.priority = u32::from_ne_bytes(one(&registers, *value));
                }
                Expr::SendTo(address, port) => {
                    let address = Ipv4Addr::from(one(&registers, *address));
                    let [high, low, ..] = one(&registers, *port);
                    return Flow::End(End::SentTo((address, u16::from_be_bytes([high, low]))));
                }
                Expr::Masquerade => return Flow::End(End::Masqueraded),
                Expr::Reject(rejection) => {
                    return Flow::End(End::Final(Outcome::Refused(*rejection)));
                }
                Expr::Verdict(Verdict::Accept) => return Flow::End(End::Accepted),
                Expr::Verdict(Verdict::Drop) => return Flow::End(End::Final(Outcome::Dropped)),
                Expr::Verdict(Verdict::Jump(chain)) => return Flow::Jump(chain.clone()),
                Expr::Verdict(Verdict::Goto(chain)) => return Flow::Goto(chain.clone()),
            }
        }
        Flow::Next
    }

    fn look_up(&self, set: Set, key: &[u8]) -> Option<&Value> {
        self.machine.elements.get(&set)?.get(key).map(|(value, _)| value)
    }

    fn field(&self, field: Field) -> [u8; 4] {
        const NEW: u32 = 8;
        const UPLINK: u32 = 2;

        let port = |port: u16| {
            let [high, low] = port.to_be_bytes();
            [high, low, 0, 0]
        };
        let own = |address: Ipv4Addr| is_own(address);
        let interface = |is_local: bool| number(if is_local { LOOPBACK } else { UPLINK });
        let translated = self.packet.destination != self.original.destination
            || self.packet.port != self.original.port;
        match field {
            Field::SourceAddress => self.packet.source.octets(),
            Field::DestinationAddress => self.packet.destination.octets(),
            Field::DestinationPort => port(self.packet.port),
            Field::Protocol => [self.packet.protocol.number(), 0, 0, 0],
            Field::InputInterface => interface(own(self.packet.source)),
            Field::OutputInterface => interface(own(self.packet.destination)),
            Field::DestinationType => number(if own(self.packet.destination) { LOCAL } else { 1 }),
            Field::ConnectionState => number(NEW),
            Field::ConnectionStatus => number(if translated { DESTINATION_TRANSLATED } else { 0 }),
            Field::OriginalDestinationAddress => self.original.destination.octets(),
            Field::OriginalDestinationPort => port(self.original.port),
            Field::Priority => number(self.priority),
        }
    }
}

enum Flow {
    Next,
    Jump(String),
    Goto(String),
    End(End),
}
