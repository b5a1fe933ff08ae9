//! A packet filter in memory: takes the same commands as the kernel, as strictly, and does with pretend
//! packets what the rules of policies say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::nft::expr::{Chain, Expr, Field, Register, Rejection, Verdict, number};
use crate::nft::set::{Bytes, Key, Set, Value, Values};
use crate::nft::table::Command;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Machine {
    pub(super) chains: BTreeMap<String, Chain>,
    pub(super) sets: BTreeMap<String, (Set, BTreeMap<Key, Value>)>,
}

/// The first packet of a connection, or an answer to it: addresses and ports are those on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) ports: (u16, u16),
    pub(super) answers: bool,
    /// What the connection is marked with.
    pub(super) mark: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With the mark of its connection from now on.
    Passes(u32),
    Refused(Rejection),
    Dropped,
}

enum Flow {
    Next,
    Return,
    Jump(String),
    Goto(String),
    End(Outcome),
}

impl Machine {
    pub(super) fn apply(&mut self, commands: &[Command]) {
        for command in commands {
            match command {
                Command::AddTable => {}
                Command::DeleteTable => *self = Self::default(),
                Command::AddSet(set) => {
                    let made = (set.clone(), BTreeMap::new());
                    let there = self.sets.insert(set.name.to_string(), made);
                    assert!(there.is_none(), "{set:?} is there");
                }
                Command::DeleteSet(set) => {
                    let used = self.chains.values().flat_map(|chain| &chain.rules);
                    let used = used.flat_map(|rule| &rule.exprs).any(|expr| match expr {
                        Expr::Contains(name, _) | Expr::Lacks(name, _) | Expr::Vmap(name, _) => {
                            *name == set.name
                        }
                        _ => false,
                    });
                    assert!(!used, "{} is looked at", set.name);
                    self.sets.remove(&*set.name).expect("a set");
                }
                Command::AddChain { name, hook } => {
                    let made = Chain { hook: *hook, rules: Vec::new() };
                    let there = self.chains.insert(name.clone(), made);
                    assert!(there.is_none(), "{name} is there");
                }
                Command::FlushChain { name } => {
                    self.chains.get_mut(name).expect("a chain").rules.clear();
                }
                Command::AddRule { chain, rule } => {
                    for expr in &rule.exprs {
                        match expr {
                            Expr::Contains(set, _) | Expr::Lacks(set, _) => {
                                let (described, _) = &self.sets[&**set];
                                assert_eq!(described.values, Values::None, "{set} is a map");
                            }
                            Expr::Vmap(set, _) => {
                                assert!(self.sets.contains_key(&**set), "looks at {set}");
                            }
                            Expr::Verdict(verdict) => self.leads_to_a_chain(verdict),
                            _ => {}
                        }
                    }
                    self.chains.get_mut(chain).expect("a chain").rules.push(rule.clone());
                }
                Command::DeleteChain { name } => {
                    assert!(!self.leads_to(name), "something leads to {name}");
                    let gone = self.chains.remove(name).expect("a chain");
                    assert!(gone.rules.is_empty(), "{name} has rules");
                }
                Command::AddElements(set, elements) => {
                    for element in elements {
                        if let Value::Verdict(verdict) = &element.value {
                            self.leads_to_a_chain(verdict);
                        }
                        let (_, there) = self.sets.get_mut(&*set.name).expect("a set");
                        let before = there.insert(element.key.clone(), element.value.clone());
                        assert_eq!(before, None, "{element:?} is there");
                    }
                }
                Command::DeleteElements(set, keys) => {
                    let (_, there) = self.sets.get_mut(&*set.name).expect("a set");
                    for key in keys {
                        there.remove(key).expect("an element");
                    }
                }
            }
        }
    }

    fn leads_to_a_chain(&self, verdict: &Verdict) {
        if let Some(chain) = verdict.chain() {
            assert!(self.chains.contains_key(chain), "leads to {chain}");
        }
    }

    fn leads_to(&self, chain: &str) -> bool {
        let of_rules = self.chains.iter().filter(|(name, _)| *name != chain);
        let of_rules = of_rules.flat_map(|(_, chain)| &chain.rules).flat_map(|rule| &rule.exprs);
        let mut of_rules = of_rules.filter_map(|expr| match expr {
            Expr::Verdict(verdict) => verdict.chain(),
            _ => None,
        });
        let mut of_elements =
            self.sets.values().flat_map(|(_, all)| all.values()).filter_map(|value| match value {
                Value::Verdict(verdict) => verdict.chain(),
                _ => None,
            });
        of_rules.any(|name| name == chain) || of_elements.any(|name| name == chain)
    }

    pub(super) fn send(&self, packet: Packet) -> Outcome {
        let mut mark = packet.mark;
        self.chain("forward", &packet, &mut mark).unwrap_or(Outcome::Passes(mark))
    }

    /// Nothing: on behind the jump that led here.
    fn chain(&self, name: &str, packet: &Packet, mark: &mut u32) -> Option<Outcome> {
        for rule in &self.chains[name].rules {
            match self.rule(&rule.exprs, packet, mark) {
                Flow::Next => {}
                Flow::Return => return None,
                Flow::Goto(chain) => return self.chain(&chain, packet, mark),
                Flow::Jump(chain) => {
                    if let Some(outcome) = self.chain(&chain, packet, mark) {
                        return Some(outcome);
                    }
                }
                Flow::End(outcome) => return Some(outcome),
            }
        }
        None
    }

    fn rule(&self, exprs: &[Expr], packet: &Packet, mark: &mut u32) -> Flow {
        // What is not loaded must not be read: the kernel refuses such rules.
        let mut registers: [Option<[u8; 4]>; 16] = [None; 16];
        let read = |registers: &[Option<[u8; 4]>; 16], from: Register, length: usize| {
            let first = usize::from(from.0);
            let parts = registers[first..first + length / 4].iter();
            parts.flat_map(|part| part.expect("a loaded register")).collect::<Vec<u8>>()
        };
        let write = |registers: &mut [Option<[u8; 4]>; 16], into: Register, bytes: &[u8]| {
            for (index, part) in bytes.chunks(4).enumerate() {
                registers[usize::from(into.0) + index] = part.try_into().ok();
            }
        };
        for expr in exprs {
            match expr {
                Expr::Load(field, into) => {
                    write(&mut registers, *into, load(*field, packet, *mark).as_slice());
                }
                Expr::Constant(value, into) => write(&mut registers, *into, value.as_slice()),
                Expr::Mask(on, mask) => {
                    let bytes = read(&registers, *on, mask.as_slice().len());
                    let masked = bytes.iter().zip(mask.as_slice()).map(|(byte, mask)| byte & mask);
                    write(&mut registers, *on, &masked.collect::<Vec<u8>>());
                }
                Expr::Equal(on, value) => {
                    if read(&registers, *on, value.as_slice().len()) != value.as_slice() {
                        return Flow::Next;
                    }
                }
                Expr::Differs(on, value) => {
                    if read(&registers, *on, value.as_slice().len()) == value.as_slice() {
                        return Flow::Next;
                    }
                }
                Expr::Contains(set, key) => {
                    let key = read(&registers, *key, self.sets[&**set].0.key_length());
                    if self.look_up(set, &key).is_none() {
                        return Flow::Next;
                    }
                }
                Expr::Vmap(set, key) => {
                    let key = read(&registers, *key, self.sets[&**set].0.key_length());
                    match self.look_up(set, &key) {
                        Some(Value::Verdict(verdict)) => return flow(verdict, *mark),
                        _ => return Flow::Next,
                    }
                }
                Expr::SetConnectionMark(value) => {
                    let bytes = read(&registers, *value, 4);
                    *mark = u32::from_ne_bytes(bytes.try_into().unwrap());
                }
                Expr::Reject(rejection) => return Flow::End(Outcome::Refused(*rejection)),
                Expr::Verdict(verdict) => return flow(verdict, *mark),
                other => unreachable!("no rule of policies does {other}"),
            }
        }
        Flow::Next
    }

    fn look_up(&self, set: &str, key: &[u8]) -> Option<&Value> {
        let (described, elements) = &self.sets[set];
        // One part is compared as a whole, several are each by themselves.
        let parts = if described.key.len() == 1 { key.len() } else { 4 };
        let holds = |element: &Key| {
            let (first, last) = (element.from.as_slice(), element.to.as_deref());
            let last = last.map_or(first, Bytes::as_slice);
            let parts = key.chunks(parts).zip(first.chunks(parts)).zip(last.chunks(parts));
            parts.into_iter().all(|((key, first), last)| first <= key && key <= last)
        };
        let mut found = elements.iter().filter(|(element, _)| holds(element));
        let value = found.next().map(|(_, value)| value);
        assert!(found.next().is_none(), "elements of {set} overlap");
        value
    }
}

fn flow(verdict: &Verdict, mark: u32) -> Flow {
    match verdict {
        Verdict::Accept => Flow::End(Outcome::Passes(mark)),
        Verdict::Drop => Flow::End(Outcome::Dropped),
        Verdict::Return => Flow::Return,
        Verdict::Jump(chain) => Flow::Jump(chain.to_string()),
        Verdict::Goto(chain) => Flow::Goto(chain.to_string()),
    }
}

fn load(field: Field, packet: &Packet, mark: u32) -> Bytes {
    const NEW: u32 = 8;
    const ESTABLISHED: u32 = 2;
    match field {
        Field::ConnectionMark => number(mark),
        Field::ConnectionState => number(if packet.answers { ESTABLISHED } else { NEW }),
        Field::ConnectionDirection => Bytes::EMPTY.with(&[u8::from(packet.answers)]),
        Field::SourceAddress(_) => Bytes::EMPTY.address(packet.source),
        Field::DestinationAddress(_) => Bytes::EMPTY.address(packet.destination),
        Field::Protocol => Bytes::EMPTY.protocol(packet.protocol),
        Field::SourcePort => Bytes::EMPTY.port(packet.ports.0),
        Field::DestinationPort => Bytes::EMPTY.port(packet.ports.1),
        other => unreachable!("no rule of policies looks at {other:?}"),
    }
}
