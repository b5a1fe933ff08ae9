//! What an earlier kubelet left in the kernel, read back into the [`Ruleset`] it was made from.
//!
//! Whoever starts again carries on with it: its next change is a difference, and rules that are
//! still right are not touched, nor the clients forgotten that stay with their endpoints. That works
//! only for a table that this program would have made itself, which is checked: the chain named by
//! [`layout`] is there, and what was read leads to the same chains and elements again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::diff::chains;
use super::elements::{of_node, of_service, read_frontend, read_target};
use super::program::{Door, Shape, base_chains};
use super::ruleset::{Frontend, Ranges, Ruleset, ServicePort, Target};
use super::sets::Set;
use crate::nft::Found;
use crate::nft::expr::{Ip, Verdict};
use crate::nft::set::{Element, Key, Value};

/// To be raised when the same chains and sets are told to the kernel in another way than before.
const ENCODING: u32 = 2;

/// A name for all that elements rely on: what the chains do and what the sets hold. A chain of this
/// name, without rules, marks the table; it comes and goes with what it stands for.
pub(crate) fn layout(ranges: &Ranges) -> String {
    let shapes: Vec<_> = [Door::Address, Door::NodePort]
        .into_iter()
        .flat_map(|door| [None, Some(1)].map(|affinity| Shape { door, count: 1, affinity }))
        .flat_map(Shape::chains)
        .collect();
    let sets = Set::ALL.map(|set| set.describe(Ip::V4));
    let text = format!("{ENCODING} {:?} {shapes:?} {sets:?}", base_chains(ranges));
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
pub(crate) fn take_over(found: &Found, ranges: &Ranges) -> Result<Ruleset, Unfit> {
    if !found.chains.contains_key(&layout(ranges)) {
        return Err(Unfit::Layout);
    }
    let ruleset = read(found, ranges)?;
    check_chains(&found.chains, &ruleset)?;
    check_elements(found, &ruleset)?;
    Ok(ruleset)
}

fn check_chains(found: &BTreeMap<String, usize>, ruleset: &Ruleset) -> Result<(), Unfit> {
    let made = chains(ruleset);
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
    of_node(ruleset, &mut put);
    for (at, service) in &ruleset.services {
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

/// The elements' meaning, sorted by what it is about.
#[derive(Default)]
struct Tables {
    /// With the name of the Service's port; no shape: it refuses.
    heads: BTreeMap<Frontend, (Option<Shape>, String)>,
    masqueraded: BTreeSet<Frontend>,
    endpoints: BTreeMap<(Frontend, u32), Target>,
    numbers: BTreeMap<(Frontend, u32), u32>,
    /// One more than the highest number a client is remembered with. Such a number is not given
    /// again, although its endpoint may be gone.
    remembered: HashMap<Frontend, u32>,
}

fn read(found: &Found, ranges: &Ranges) -> Result<Ruleset, Unfit> {
    let mut ruleset = Ruleset { ranges: ranges.clone(), ..Ruleset::default() };
    let mut tables = Tables::default();
    for (set, element) in elements(found) {
        tables
            .note(set, element, &mut ruleset)
            .ok_or_else(|| Unfit::Elements(format!("{set:?} {element:?} says nothing")))?;
    }
    for (at, (shape, name)) in &tables.heads {
        let service = tables
            .service(*at, *shape, name)
            .ok_or_else(|| Unfit::Elements(format!("endpoints of {name} are missing")))?;
        ruleset.services.insert(*at, Arc::new(service));
    }
    ruleset.add_hairpins();
    Ok(ruleset)
}

impl Tables {
    fn note(&mut self, set: Set, element: &Element, ruleset: &mut Ruleset) -> Option<()> {
        let mut key = element.key.from.parts();
        let value = match &element.value {
            Value::Bytes(bytes) => Some(bytes),
            Value::None | Value::Verdict(_) => None,
        };
        match set {
            Set::Services => {
                let Value::Verdict(Verdict::Goto(chain)) = &element.value else { return None };
                let shape = Shape::parse(chain)?;
                let name = element.comment.to_string();
                self.heads.insert(read_frontend(&mut key)?, (Some(shape), name));
            }
            Set::Refused => {
                self.heads.insert(read_frontend(&mut key)?, (None, element.comment.to_string()));
            }
            Set::Masqueraded => {
                self.masqueraded.insert(read_frontend(&mut key)?);
            }
            Set::Endpoints => {
                let place = (read_frontend(&mut key)?, key.number()?);
                self.endpoints.insert(place, read_target(&mut value?.parts())?);
            }
            Set::Numbers => {
                let place = (read_frontend(&mut key)?, key.number()?);
                self.numbers.insert(place, value?.parts().number()?);
            }
            Set::Affinity => {
                let _client = key.ipv4()?;
                let next = value?.parts().number()?.saturating_add(1);
                let highest = self.remembered.entry(read_frontend(&mut key)?).or_default();
                *highest = next.max(*highest);
            }
            Set::HostPorts => {
                let at = read_frontend(&mut key)?;
                ruleset.host_ports.insert(at, read_target(&mut value?.parts())?);
            }
            // They follow from the rest.
            Set::Hairpins => {}
        }
        Some(())
    }

    fn service(&self, at: Frontend, shape: Option<Shape>, name: &str) -> Option<ServicePort> {
        let affinity = shape.and_then(|shape| shape.affinity);
        let numbers: Vec<u32> = if affinity.is_some() {
            self.numbers.range((at, 0)..=(at, u32::MAX)).map(|(_, number)| *number).collect()
        } else {
            Vec::new()
        };
        let targets: Option<Vec<Target>> = if affinity.is_some() {
            numbers.iter().map(|number| self.endpoints.get(&(at, *number)).copied()).collect()
        } else {
            let places = self.endpoints.range((at, 0)..=(at, u32::MAX));
            Some(places.map(|(_, target)| *target).collect())
        };
        let given = numbers.iter().map(|number| number.saturating_add(1)).max().unwrap_or(0);
        let remembered = self.remembered.get(&at).copied().unwrap_or(0);
        Some(ServicePort {
            name: name.to_owned(),
            affinity,
            masquerade: self.masqueraded.contains(&at),
            targets: targets?,
            numbers,
            next_number: if affinity.is_some() || shape.is_none() {
                given.max(remembered)
            } else {
                0
            },
        })
    }
}
