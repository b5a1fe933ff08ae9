//! Sets of fields: what of an object somebody owns.
//!
//! A set is a tree. Each step is written as in `FieldsV1`: `f:replicas` for a field or a key of a
//! map, `k:{"name":"web"}` for an item of a list with keys, `v:"a"` for a value of a list that is a
//! set. So a set and its JSON have the same shape, and sets compare step by step as text.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Steps of one set that a client sends, at most: an object of the largest size has fewer.
const MAX_STEPS: usize = 100_000;

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    children: BTreeMap<String, Node>,
}

/// A step, and the set below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Whether the place itself belongs to the set; else only something below does.
    pub(crate) member: bool,
    pub(crate) below: FieldSet,
}

/// A `FieldsV1` that is none.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ParseError {
    #[error("a set of fields is made of objects")]
    NotAnObject,
    #[error("{0:?} is no step of a path")]
    UnknownStep(String),
    #[error("a set of fields has more than {MAX_STEPS} steps")]
    TooLarge,
}

impl FieldSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    pub(crate) fn get(&self, step: &str) -> Option<&Node> {
        self.children.get(step)
    }

    /// Adds a place.
    pub(crate) fn insert(&mut self, step: String) {
        self.children.entry(step).or_default().member = true;
    }

    /// Adds a place, or what is below it, or both; nothing when there is neither.
    pub(crate) fn put(&mut self, step: String, node: Node) {
        if node.member || !node.below.is_empty() {
            self.children.insert(step, node);
        }
    }

    /// Takes a place out with all below it.
    pub(crate) fn remove_tree(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [step] => {
                self.children.remove(*step);
            }
            [step, rest @ ..] => {
                let Some(node) = self.children.get_mut(*step) else { return };
                node.below.remove_tree(rest);
                if !node.member && node.below.is_empty() {
                    self.children.remove(*step);
                }
            }
        }
    }

    /// The same, where fields of the object itself have another name.
    pub(crate) fn renamed(&self, other_name: impl Fn(&str) -> Option<&'static str>) -> Self {
        let rename = |step: &String| match step.strip_prefix("f:").and_then(&other_name) {
            Some(name) => format!("f:{name}"),
            None => step.clone(),
        };
        let children = self.children.iter().map(|(step, node)| (rename(step), node.clone()));
        Self { children: children.collect() }
    }

    /// What is in either.
    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// Adds all of another.
    pub(crate) fn add(&mut self, other: &Self) {
        for (step, theirs) in &other.children {
            match self.children.get_mut(step) {
                Some(ours) => {
                    ours.member |= theirs.member;
                    ours.below.add(&theirs.below);
                }
                None => {
                    self.children.insert(step.clone(), theirs.clone());
                }
            }
        }
    }

    /// What is in both.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (step, ours) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                let member = ours.member && theirs.member;
                let below = ours.below.intersection(&theirs.below);
                both.put(step.clone(), Node { member, below });
            }
        }
        both
    }

    /// What is in this one only.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for (step, ours) in &self.children {
            let node = match other.children.get(step) {
                None => ours.clone(),
                Some(theirs) => Node {
                    member: ours.member && !theirs.member,
                    below: ours.below.difference(&theirs.below),
                },
            };
            left.put(step.clone(), node);
        }
        left
    }

    /// The paths of all members, as messages tell them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, above: &str, paths: &mut Vec<String>) {
        for (step, node) in &self.children {
            let path = format!("{above}{}", readable(step));
            if node.member {
                paths.push(path.clone());
            }
            node.below.collect(&path, paths);
        }
    }

    /// As `FieldsV1`.
    pub(crate) fn to_value(&self) -> Value {
        let object = self.children.iter().map(|(step, node)| (step.clone(), node.to_value()));
        Value::Object(object.collect())
    }

    /// Out of `FieldsV1`.
    pub(crate) fn from_value(value: &Value) -> Result<Self, ParseError> {
        let mut steps = 0;
        Ok(Node::from_value(value, &mut steps)?.below)
    }
}

impl Node {
    fn to_value(&self) -> Value {
        let Value::Object(below) = self.below.to_value() else { return Value::Null };
        if !self.member || below.is_empty() {
            return Value::Object(below);
        }
        let mut object = Map::with_capacity(below.len() + 1);
        object.insert(".".to_owned(), Value::Object(Map::new()));
        object.extend(below);
        Value::Object(object)
    }

    fn from_value(value: &Value, steps: &mut usize) -> Result<Self, ParseError> {
        let object = value.as_object().ok_or(ParseError::NotAnObject)?;
        *steps += object.len();
        if *steps > MAX_STEPS {
            return Err(ParseError::TooLarge);
        }
        let mut node = Self { member: object.is_empty(), below: FieldSet::default() };
        for (step, value) in object {
            if step == "." {
                node.member = true;
            } else {
                node.below.children.insert(canonical(step)?, Self::from_value(value, steps)?);
            }
        }
        Ok(node)
    }
}

/// The step to a field of an object.
pub(crate) fn field_step(name: &str) -> String {
    format!("f:{name}")
}

/// The step to a value of a list that is a set.
pub(crate) fn value_step(value: &Value) -> String {
    format!("v:{value}")
}

/// The step to an item of a list with keys. The keys are told in order of their names.
pub(crate) fn key_step(mut keys: Vec<(&str, Value)>) -> String {
    keys.sort_by_key(|(name, _)| *name);
    let object: Map<String, Value> =
        keys.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    format!("k:{}", Value::Object(object))
}

/// A client's step in our own spelling.
fn canonical(step: &str) -> Result<String, ParseError> {
    let unknown = || ParseError::UnknownStep(step.chars().take(100).collect());
    match step.split_once(':') {
        Some(("f" | "i", _)) => Ok(step.to_owned()),
        Some(("v", value)) => {
            let value: Value = serde_json::from_str(value).map_err(|_| unknown())?;
            Ok(value_step(&value))
        }
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).map_err(|_| unknown())?;
            Ok(key_step(keys.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()))
        }
        _ => Err(unknown()),
    }
}

/// A step as messages tell it.
fn readable(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> =
                keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some(("i", index)) => format!("[{index}]"),
        _ => step.to_owned(),
    }
}
