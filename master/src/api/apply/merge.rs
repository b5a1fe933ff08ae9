//! Objects and sets of fields: which fields an object has, what differs between two, what an
//! applied configuration makes of the live object, and what goes when nobody owns it any more.
//!
//! All of it walks JSON trees along the schema's table. An applied configuration is walked strictly
//! (items need their keys, each once); live objects leniently, as whatever is stored has to be
//! walked: a list that has not the shape the table says counts as a whole.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::field_set::{FieldSet, Node, field_step, key_step, value_step};
use crate::api::patch::schema::{self, Topology};

/// A configuration that cannot be applied.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MergeError {
    #[error(
        "{path}: element {index}: associative list with keys has an element that omits key field \
         {key:?} (and doesn't have default value)"
    )]
    NoKey { path: String, index: usize, key: &'static str },
    #[error("{path}: duplicate entries for key {key}")]
    Duplicate { path: String, key: String },
    #[error("{path}: expected {wanted}")]
    Shape { path: String, wanted: &'static str },
}

/// Where in the schema a value stands.
#[derive(Clone, Copy)]
struct Place {
    of: &'static str,
    topology: Option<Topology>,
    whole_items: bool,
}

impl Place {
    fn root(kind: &'static str) -> Self {
        Self { of: kind, topology: None, whole_items: false }
    }

    fn field(self, name: &str) -> Self {
        match schema::field(self.of, name) {
            Some(field) => Self {
                of: field.of,
                topology: Some(field.topology),
                whole_items: field.whole_items,
            },
            None => Self { of: "", topology: None, whole_items: false },
        }
    }

    fn item(self) -> Self {
        let topology = self.whole_items.then_some(Topology::Atomic);
        Self { of: self.of, topology, whole_items: false }
    }

    /// How the value here is divided.
    fn division(self, value: &Value) -> Division {
        match (value, self.topology) {
            (Value::Object(_), None | Some(Topology::Granular)) => Division::Fields,
            (Value::Array(_), Some(Topology::Set)) => Division::Values,
            (Value::Array(_), Some(Topology::Map(keys))) => Division::Items(keys),
            _ => Division::Whole,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Division {
    Whole,
    Fields,
    Values,
    Items(&'static [&'static str]),
}

/// The steps to the items of a list; nothing when it is not divided as the schema says.
fn steps(division: Division, items: &[Value]) -> Option<Vec<String>> {
    let step = |item: &Value| match division {
        Division::Values => Some(value_step(item)),
        Division::Items(keys) => {
            let item = item.as_object()?;
            let key = |name: &&'static str| Some((*name, key_of(item, name)?));
            Some(key_step(keys.iter().map(key).collect::<Option<_>>()?))
        }
        Division::Whole | Division::Fields => None,
    };
    let steps: Vec<String> = items.iter().map(step).collect::<Option<_>>()?;
    // Kubernetes' own validation lets some duplicates pass; then nothing can be told apart.
    let distinct: HashSet<&String> = steps.iter().collect();
    (distinct.len() == steps.len()).then_some(steps)
}

fn key_of(item: &Map<String, Value>, name: &str) -> Option<Value> {
    match item.get(name) {
        Some(value) if !value.is_null() => Some(value.clone()),
        _ => schema::key_default(name).map(Value::from),
    }
}

/// Checks that a configuration is divided as the schema says.
pub(crate) fn check(kind: &'static str, config: &Value) -> Result<(), MergeError> {
    check_at(Place::root(kind), config, "")
}

fn check_at(place: Place, value: &Value, path: &str) -> Result<(), MergeError> {
    let shape = |wanted| Err(MergeError::Shape { path: path.to_owned(), wanted });
    match (value, place.division(value)) {
        (Value::Null, _) => Ok(()),
        (Value::Object(map), Division::Fields) => map.iter().try_for_each(|(name, value)| {
            check_at(place.field(name), value, &format!("{path}.{name}"))
        }),
        (Value::Array(items), division @ (Division::Values | Division::Items(_))) => {
            let mut seen = HashSet::new();
            for (index, item) in items.iter().enumerate() {
                if let Division::Items(keys) = division {
                    let Some(map) = item.as_object() else { return shape("a list of objects") };
                    if let Some(key) = keys.iter().find(|key| key_of(map, key).is_none()) {
                        return Err(MergeError::NoKey { path: path.to_owned(), index, key });
                    }
                }
                let one = steps(division, std::slice::from_ref(item)).and_then(|mut one| one.pop());
                let Some(step) = one else { return shape("plain values") };
                let mut set = FieldSet::default();
                set.insert(step.clone());
                let key = set.paths().concat();
                if !seen.insert(step) {
                    return Err(MergeError::Duplicate { path: path.to_owned(), key });
                }
                check_at(place.item(), item, &format!("{path}{key}"))?;
            }
            Ok(())
        }
        (_, _) => match place.topology {
            Some(Topology::Set | Topology::Map(_)) => shape("a list"),
            _ => Ok(()),
        },
    }
}

/// The fields that an object has.
pub(crate) fn fields_of(kind: &'static str, object: &Value) -> FieldSet {
    node_of(Place::root(kind), object).below
}

/// A value as a set: what is below, and whether the place itself stands for it.
fn node_of(place: Place, value: &Value) -> Node {
    let mut below = FieldSet::default();
    match (value, place.division(value)) {
        (Value::Object(map), Division::Fields) if !map.is_empty() => {
            for (name, value) in map {
                below.put(field_step(name), node_of(place.field(name), value));
            }
            return Node { member: false, below };
        }
        (Value::Array(items), division) => {
            // An empty list of which each item has an owner has none itself.
            if let Some(steps) = steps(division, items) {
                for (step, item) in steps.into_iter().zip(items) {
                    let node = node_of(place.item(), item);
                    below.put(step, Node { member: true, below: node.below });
                }
                return Node { member: false, below };
            }
        }
        _ => {}
    }
    Node { member: true, below }
}

/// What differs between two objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) added: FieldSet,
    pub(crate) modified: FieldSet,
    pub(crate) removed: FieldSet,
}

impl Comparison {
    pub(crate) fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// What differs between two objects of a kind.
pub(crate) fn compare(kind: &'static str, old: &Value, new: &Value) -> Comparison {
    let mut different = Comparison::default();
    let nodes = compare_at(Place::root(kind), Some(old), Some(new));
    different.added = nodes.added.below;
    different.modified = nodes.modified.below;
    different.removed = nodes.removed.below;
    different
}

#[derive(Default)]
struct Nodes {
    added: Node,
    modified: Node,
    removed: Node,
}

impl Nodes {
    fn put(&mut self, step: &str, nodes: Nodes) {
        self.added.below.put(step.to_owned(), nodes.added);
        self.modified.below.put(step.to_owned(), nodes.modified);
        self.removed.below.put(step.to_owned(), nodes.removed);
    }
}

fn compare_at(place: Place, old: Option<&Value>, new: Option<&Value>) -> Nodes {
    let present = |value: Option<&'_ Value>| value.is_some_and(|value| !value.is_null());
    let mut nodes = Nodes::default();
    match (old.filter(|_| present(old)), new.filter(|_| present(new))) {
        (None, None) => {}
        (None, Some(new)) => nodes.added = all_of(place, new),
        (Some(old), None) => nodes.removed = all_of(place, old),
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(old)), Some(new @ Value::Object(new_map)))
            if place.division(new) == Division::Fields =>
        {
            let gone = old.keys().filter(|name| !new_map.contains_key(*name));
            for name in new_map.keys().chain(gone) {
                let place = place.field(name);
                nodes.put(&field_step(name), compare_at(place, old.get(name), new_map.get(name)));
            }
        }
        (Some(Value::Array(old)), Some(new @ Value::Array(new_items))) => {
            let division = place.division(new);
            match (steps(division, old), steps(division, new_items)) {
                (Some(old_steps), Some(new_steps)) => {
                    let olds: HashMap<&String, &Value> = old_steps.iter().zip(old).collect();
                    let news: HashSet<&String> = new_steps.iter().collect();
                    for (step, item) in new_steps.iter().zip(new_items) {
                        let old = olds.get(step).copied();
                        nodes.put(step, compare_at(place.item(), old, Some(item)));
                    }
                    for (step, item) in old_steps.iter().zip(old) {
                        if !news.contains(step) {
                            nodes.put(step, compare_at(place.item(), Some(item), None));
                        }
                    }
                }
                _ => nodes.modified.member = true,
            }
        }
        (Some(_), Some(_)) => nodes.modified.member = true,
    }
    nodes
}

/// A value that came or went whole: its place and everything below.
fn all_of(place: Place, value: &Value) -> Node {
    let mut below = FieldSet::default();
    match (value, place.division(value)) {
        (Value::Object(map), Division::Fields) => {
            for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                below.put(field_step(name), all_of(place.field(name), value));
            }
        }
        (Value::Array(items), division) => {
            for (step, item) in steps(division, items).into_iter().flatten().zip(items) {
                below.put(step, all_of(place.item(), item));
            }
        }
        _ => {}
    }
    Node { member: true, below }
}

/// The live object with a configuration merged in.
pub(crate) fn merge(kind: &'static str, live: &Value, config: &Value) -> Value {
    merge_at(Place::root(kind), live, config)
}

fn merge_at(place: Place, live: &Value, config: &Value) -> Value {
    match (live, config, place.division(config)) {
        (Value::Object(live), Value::Object(config), Division::Fields) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let value = match live.get(name) {
                    Some(live) => merge_at(place.field(name), live, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(live), Value::Array(config), division) => {
            match (steps(division, live), steps(division, config)) {
                (Some(live_steps), Some(config_steps)) => Value::Array(merge_items(
                    place.item(),
                    (live, &live_steps),
                    (config, &config_steps),
                )),
                _ => Value::Array(config.clone()),
            }
        }
        (_, config, _) => config.clone(),
    }
}

/// Merges two lists by step. Items of both stand in the configuration's order; those that only the live
/// list has come as early as the order of the live list lets them.
fn merge_items(
    place: Place,
    (live, live_steps): (&[Value], &[String]),
    (config, config_steps): (&[Value], &[String]),
) -> Vec<Value> {
    let live_places: HashMap<&String, usize> =
        live_steps.iter().enumerate().map(|(place, step)| (step, place)).collect();
    let wanted: HashSet<&String> = config_steps.iter().collect();
    // From each place of the configuration on, the next item that is live as well.
    let mut next_shared = vec![None; config.len()];
    let mut next = None;
    for (at, step) in config_steps.iter().enumerate().rev() {
        next = live_places.contains_key(step).then_some(step).or(next);
        next_shared[at] = next;
    }
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let mut at = 0;
    for ((step, item), next_shared) in config_steps.iter().zip(config).zip(next_shared) {
        while let Some(here) = live_steps.get(at) {
            if !wanted.contains(here) {
                merged.push(live[at].clone());
            } else if here != step && next_shared == Some(here) {
                // It waits for its turn in the configuration, and holds up what is behind it.
                break;
            }
            at += 1;
            if here == step || wanted.contains(here) && next_shared.is_none() {
                break;
            }
        }
        merged.push(match live_places.get(step) {
            Some(&at) => merge_at(place, &live[at], item),
            None => item.clone(),
        });
    }
    let rest = live_steps.iter().zip(live).skip(at);
    merged.extend(rest.filter(|(step, _)| !wanted.contains(step)).map(|(_, item)| item.clone()));
    merged
}

/// Removes what a manager gave up: fields of `last`, its set until now, in or below which nobody has
/// anything in `kept`, the sets of all managers from now on.
pub(crate) fn prune(kind: &'static str, object: &mut Value, last: &FieldSet, kept: &FieldSet) {
    prune_at(Place::root(kind), object, last, kept);
}

fn prune_at(place: Place, value: &mut Value, last: &FieldSet, kept: &FieldSet) {
    let none = FieldSet::default();
    let goes = |step: &str| last.get(step).is_some() && kept.get(step).is_none();
    let below = |set: &FieldSet, step: &str| {
        set.get(step).map_or_else(|| none.clone(), |node| node.below.clone())
    };
    let division = place.division(value);
    match value {
        Value::Object(map) if division == Division::Fields => {
            map.retain(|name, _| !goes(&field_step(name)));
            for (name, value) in map.iter_mut() {
                let step = field_step(name);
                if let Some(node) = last.get(&step)
                    && !node.below.is_empty()
                {
                    prune_at(place.field(name), value, &node.below, &below(kept, &step));
                }
            }
        }
        Value::Array(items) => {
            let Some(steps) = steps(division, items) else { return };
            let keys = match division {
                Division::Items(keys) => keys,
                _ => &[],
            };
            let old = std::mem::take(items);
            for (step, mut item) in steps.into_iter().zip(old) {
                if goes(&step) {
                    continue;
                }
                let mut last = below(last, &step);
                // Somebody has something in the item, so it needs its name.
                for key in keys {
                    last.remove_tree(&[&field_step(key)]);
                }
                prune_at(place.item(), &mut item, &last, &below(kept, &step));
                items.push(item);
            }
        }
        _ => {}
    }
}
