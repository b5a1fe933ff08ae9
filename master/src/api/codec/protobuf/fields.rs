//! The table: which field of which message has which number, name and type.
//!
//! `fields.txt` is read when the first body in protobuf comes; a cluster without Go clients never does.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

/// The fields of a message by their numbers.
pub(super) type Message = BTreeMap<u32, Field>;

/// A field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// In JSON; none when its own fields stand in the object around it there.
    pub(super) name: Option<&'static str>,
    pub(super) many: Many,
    pub(super) of: Type,
}

/// How often there is a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Many {
    /// Once; a zero value is none, as Go writes one where nothing was given.
    One,
    /// Once, where a zero value counts as given: a pointer in Go.
    Pointer,
    List,
    /// By names.
    Map,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Flag,
    Int32,
    Int64,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// Bytes that are JSON.
    Json,
    Message(&'static str),
}

static MESSAGES: LazyLock<HashMap<&'static str, Message>> =
    LazyLock::new(|| read(include_str!("fields.txt")));

/// A message by its name in the table: `apps/v1.Deployment`.
pub(super) fn message(name: &str) -> Option<&'static Message> {
    MESSAGES.get(name)
}

/// The message of a kind.
pub(super) fn of_kind(api_version: &str, kind: &str) -> Option<&'static Message> {
    let group = match (api_version, kind) {
        // Every group has these for its own.
        (_, "DeleteOptions") => "meta.k8s.io/v1",
        // Of some years ago, with the same fields.
        ("policy/v1beta1", "Eviction") => "policy/v1",
        _ => api_version,
    };
    message(&format!("{group}.{kind}"))
}

fn read(table: &'static str) -> HashMap<&'static str, Message> {
    let mut messages: HashMap<&'static str, Message> = HashMap::new();
    let mut current = "";
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            None => {
                current = line;
                messages.entry(current).or_default();
            }
            Some(line) => {
                let (number, field) = field(line).expect("update.py writes fields in three words");
                messages.entry(current).or_default().insert(number, field);
            }
        }
    }
    messages
}

/// `replicas 1 *int32`
fn field(line: &'static str) -> Option<(u32, Field)> {
    let (name, rest) = line.split_once(' ')?;
    let (number, stated) = rest.split_once(' ')?;
    let prefixes = [("*", Many::Pointer), ("[]", Many::List), ("map ", Many::Map)];
    let prefixed = |(prefix, many)| stated.strip_prefix(prefix).map(|of| (many, of));
    let (many, of) = prefixes.into_iter().find_map(prefixed).unwrap_or((Many::One, stated));
    let of = match of {
        "string" => Type::Text,
        "bool" => Type::Flag,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "bytes" => Type::Bytes,
        "meta.k8s.io/v1.Time" => Type::Time,
        "meta.k8s.io/v1.MicroTime" => Type::MicroTime,
        "resource.Quantity" => Type::Quantity,
        "intstr.IntOrString" => Type::IntOrString,
        "meta.k8s.io/v1.FieldsV1" | "runtime.RawExtension" => Type::Json,
        message => Type::Message(message),
    };
    let name = (name != "-").then_some(name);
    Some((number.parse().ok()?, Field { name, many, of }))
}

#[cfg(test)]
pub(super) fn all() -> &'static HashMap<&'static str, Message> {
    &MESSAGES
}
