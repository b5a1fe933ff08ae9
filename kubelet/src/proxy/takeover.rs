//! What an earlier kubelet left in the kernel, read back into the [`Ruleset`] it was made from.
//!
//! Whoever starts again carries on with it: its next change is a difference, and rules that are
//! still right are not touched, nor the clients forgotten that stay with their endpoints. That works
//! only for a table that this program would have made itself, which is checked: the chain named by
//! [`layout`] is there, and what was read leads to the same chains and elements again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::address::{Frontend, Target};
use super::diff::chains;
use super::elements::{of_node, of_service, read_frontend, read_range, read_target};
use super::program::{Door, Shape, Side, base_chains};
use super::ranges::Ranges;
use super::ruleset::{Choice, Frame, Otherwise, Ruleset, ServicePort};
use super::sets::Set;
use crate::nft::Found;
use crate::nft::expr::{Ip, Verdict};
use crate::nft::set::{Element, Key, Value};

/// To be raised when the same chains and sets are told to the kernel in another way than before.
const ENCODING: u32 = 2;

/// A name for all that elements rely on: what the chains do and what the sets hold. A chain of this
/// name, without rules, marks the table; it comes and goes with what it stands for.
pub(crate) fn layout(ip: Ip, ranges: &Ranges) -> String {
    let shapes: Vec<_> = Shape::examples().flat_map(|shape| shape.chains(ip)).collect();
    let sets = Set::ALL.map(|set| set.describe(ip));
    // With all rules that may come and go.
    let (inside, prefixes) = (Door::ALL.into(), [1].into());
    let frame = Frame { ranges: ranges.clone(), inside, prefixes, ..Frame::default() };
    let text = format!("{ENCODING} {:?} {shapes:?} {sets:?}", base_chains(ip, &frame));
    let digest = Sha256::digest(text);
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("layout-{hex}")
}

/// Why a table cannot be carried on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("another version made it, or for other ranges of addresses")]
    Layout,
    #[error("chain {0} is not as it was made")]
    Chain(String),
    #[error("its elements do not fit together: {0}")]
    Elements(String),
}

/// The ruleset that a table was made from. What only a Service's object says is left open where it
/// makes no difference to the kernel: the end of a long name, the affinity without endpoints.
pub(crate) fn take_over(ip: Ip, found: &Found, ranges: &Ranges) -> Result<Ruleset, Unfit> {
    if !found.chains.contains_key(&layout(ip, ranges)) {
        return Err(Unfit::Layout);
    }
    let ruleset = read(ip, found, ranges)?;
    check_chains(&found.chains, &ruleset)?;
    check_elements(found, &ruleset)?;
    Ok(ruleset)
}

fn check_chains(found: &BTreeMap<String, usize>, ruleset: &Ruleset) -> Result<(), Unfit> {
    let made = chains(ruleset.ip, &ruleset.frame);
    let names: BTreeSet<&String> = found.keys().chain(made.keys()).collect();
    let other = names
        .into_iter()
        .find(|name| made.get(*name).map(|chain| chain.rules.len()) != found.get(*name).copied());
    other.map_or(Ok(()), |name| Err(Unfit::Chain(name.clone())))
}

fn check_elements(found: &Found, ruleset: &Ruleset) -> Result<(), Unfit> {
    let mut made: HashMap<(Set, Key), Element> = HashMap::new();
    let mut put = |set, element: Element| {
        made.insert((set, element.key.clone()), element);
    };
    of_node(&ruleset.frame, &mut put);
    for (at, service) in ruleset.services() {
        of_service(*at, service, &mut put);
    }
    for (set, element) in elements(found).filter(|(set, _)| !set.is_dynamic()) {
        if made.remove(&(set, element.key.clone())).as_ref() != Some(element) {
            return Err(Unfit::Elements(format!("{set:?} {element:?} is left over")));
        }
    }
    match made.into_iter().next() {
        Some((key, _)) => Err(Unfit::Elements(format!("{key:?} is missing"))),
        None => Ok(()),
    }
}

fn elements(found: &Found) -> impl Iterator<Item = (Set, &Element)> {
    Set::ALL.into_iter().flat_map(|set| {
        found.sets.get(set.name()).into_iter().flatten().map(move |element| (set, element))
    })
}

fn read(ip: Ip, found: &Found, ranges: &Ranges) -> Result<Ruleset, Unfit> {
    let mut tables = Tables::new(ip);
    for (set, element) in elements(found) {
        tables
            .note(set, element)
            .ok_or_else(|| Unfit::Elements(format!("{set:?} {element:?} says nothing")))?;
    }
    let mut ruleset = Ruleset::new(ip, ranges.clone());
    ruleset.take_host_ports(std::mem::take(&mut tables.host_ports));
    for (at, head) in &tables.heads {
        let service = tables
            .service(*at, head)
            .ok_or_else(|| Unfit::Elements(format!("endpoints of {} are missing", head.name)))?;
        ruleset.put(*at, Some(Arc::new(service)));
    }
    Ok(ruleset)
}

/// The elements' meaning, sorted by what it is about.
struct Tables {
    ip: Ip,
    heads: BTreeMap<Frontend, Head>,
    masqueraded: BTreeSet<Frontend>,
    guarded: BTreeSet<Frontend>,
    sources: BTreeMap<Frontend, Vec<IpNet>>,
    endpoints: BTreeMap<(Frontend, u32), Target>,
    numbers: BTreeMap<(Frontend, u32), u32>,
    /// One more than the highest number a client is remembered with, for each side. Such a number
    /// is not given again, although its endpoint may be gone.
    remembered: HashMap<(Frontend, Side), u32>,
    host_ports: BTreeMap<Frontend, Target>,
}

/// What is done at a frontend, as far as chains say it.
#[derive(Default)]
struct Head {
    /// Of the Service's port.
    name: String,
    everybody: Option<Shape>,
    inside: Option<Shape>,
    otherwise: Option<Otherwise>,
}

impl Tables {
    fn new(ip: Ip) -> Self {
        Self {
            ip,
            heads: BTreeMap::new(),
            masqueraded: BTreeSet::new(),
            guarded: BTreeSet::new(),
            sources: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            numbers: BTreeMap::new(),
            remembered: HashMap::new(),
            host_ports: BTreeMap::new(),
        }
    }

    fn note(&mut self, set: Set, element: &Element) -> Option<()> {
        let ip = self.ip;
        let mut key = element.key.from.parts();
        let value = match &element.value {
            Value::Bytes(bytes) => Some(bytes),
            Value::None | Value::Verdict(_) => None,
        };
        match set {
            Set::Services | Set::Inside | Set::Refused => {
                let Value::Verdict(verdict) = &element.value else { return None };
                let head = self.heads.entry(read_frontend(ip, &mut key)?).or_default();
                head.name = element.comment.to_string();
                head.note(set, verdict)?;
            }
            Set::Masqueraded => {
                self.masqueraded.insert(read_frontend(ip, &mut key)?);
            }
            Set::Guarded => {
                self.guarded.insert(read_frontend(ip, &mut key)?);
            }
            Set::Sources => {
                let at = read_frontend(ip, &mut key)?;
                self.sources.entry(at).or_default().push(read_range(ip, &mut key)?);
            }
            Set::Endpoints => {
                let place = (read_frontend(ip, &mut key)?, key.number()?);
                self.endpoints.insert(place, read_target(ip, &mut value?.parts())?);
            }
            Set::Numbers => {
                let place = (read_frontend(ip, &mut key)?, key.number()?);
                self.numbers.insert(place, value?.parts().number()?);
            }
            Set::Affinity => {
                let _client = key.address(ip)?;
                let number = value?.parts().number()?;
                let inside = Side::Inside.first_number();
                let side = if number < inside { Side::Everybody } else { Side::Inside };
                let next = (number - side.first_number()).saturating_add(1);
                let of = (read_frontend(ip, &mut key)?, side);
                let highest = self.remembered.entry(of).or_default();
                *highest = next.max(*highest);
            }
            Set::HostPorts => {
                let at = read_frontend(ip, &mut key)?;
                self.host_ports.insert(at, read_target(ip, &mut value?.parts())?);
            }
            // They follow from the rest.
            Set::Hairpins => {}
        }
        Some(())
    }

    fn service(&self, at: Frontend, head: &Head) -> Option<ServicePort> {
        let affinity = head.everybody.or(head.inside).and_then(|shape| shape.affinity);
        let inside = head.inside.map(|shape| self.choice(at, Side::Inside, shape.affinity));
        let guarded = self.guarded.contains(&at);
        let sources = self.sources.get(&at).cloned().unwrap_or_default();
        Some(ServicePort {
            name: head.name.clone(),
            affinity,
            masquerade: self.masqueraded.contains(&at),
            choice: match head.everybody {
                Some(shape) => self.choice(at, Side::Everybody, shape.affinity)?,
                None => Choice {
                    next_number: self.remembered(at, Side::Everybody),
                    ..Choice::default()
                },
            },
            inside: match inside {
                Some(choice) => Some(choice?),
                None => None,
            },
            // What is done without endpoints is not told of those that have some.
            otherwise: head.otherwise.unwrap_or(Otherwise::Drop),
            sources: guarded.then(|| IpNet::aggregate(&sources)),
        })
    }

    fn choice(&self, at: Frontend, side: Side, affinity: Option<u32>) -> Option<Choice> {
        let first = side.first_number();
        let last = first | (u32::MAX >> 1);
        let places = (at, first)..=(at, last);
        if affinity.is_none() {
            let targets = self.endpoints.range(places).map(|(_, target)| *target).collect();
            return Some(Choice { targets, ..Choice::default() });
        }
        let numbers: Vec<u32> =
            self.numbers.range(places).map(|(_, number)| number.wrapping_sub(first)).collect();
        let target = |number: &u32| self.endpoints.get(&(at, first.wrapping_add(*number))).copied();
        let targets: Option<Vec<Target>> = numbers.iter().map(target).collect();
        let given = numbers.iter().map(|number| number.saturating_add(1)).max().unwrap_or(0);
        let next_number = given.max(self.remembered(at, side));
        Some(Choice { targets: targets?, numbers, next_number })
    }

    fn remembered(&self, at: Frontend, side: Side) -> u32 {
        self.remembered.get(&(at, side)).copied().unwrap_or(0)
    }
}

impl Head {
    fn note(&mut self, set: Set, verdict: &Verdict) -> Option<()> {
        match (set, verdict) {
            (Set::Services, Verdict::Goto(chain)) => self.everybody = Some(Shape::parse(chain)?),
            (Set::Inside, Verdict::Goto(chain)) => self.inside = Some(Shape::parse(chain)?),
            (Set::Refused, Verdict::Goto(_)) => self.otherwise = Some(Otherwise::Reject),
            (Set::Refused, Verdict::Drop) => self.otherwise = Some(Otherwise::Drop),
            _ => return None,
        }
        Some(())
    }
}
