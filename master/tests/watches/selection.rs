//! What a watcher may ask for, and what of it an object has to do with.
//!
//! Selectors are written here a second time, as predicates: the test does not believe the parser
//! that it tests.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::{NAMESPACES, NODES, RESOURCES};

/// Objects by namespace and name, with the revision of each.
pub(crate) type State = BTreeMap<Key, u64>;

pub(crate) type Key = (String, String);

/// An object, as far as selectors see it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}

impl Object {
    pub(crate) fn key(&self) -> Key {
        (self.metadata.namespace.clone(), self.metadata.name.clone())
    }

    pub(crate) fn revision(&self) -> u64 {
        self.metadata.resource_version.parse().expect("a number")
    }

    /// Whether a bookmark says with it that all initial objects were told.
    pub(crate) fn ends_initial_events(&self) -> bool {
        self.metadata.annotations.contains_key("k8s.io/initial-events-end")
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.metadata.labels.get(name).map(String::as_str)
    }
}

type Predicate = fn(&Object) -> bool;

const LABELS: [(&str, Predicate); 12] = [
    ("", |_| true),
    ("color=red", |object| object.label("color") == Some("red")),
    ("color==blue", |object| object.label("color") == Some("blue")),
    ("color!=red", |object| object.label("color") != Some("red")),
    ("color in (red, green)", |object| matches!(object.label("color"), Some("red" | "green"))),
    ("color notin (red,green,blue)", |object| {
        !matches!(object.label("color"), Some("red" | "green" | "blue"))
    }),
    ("shape", |object| object.label("shape").is_some()),
    ("!shape", |object| object.label("shape").is_none()),
    ("shape=round,color=red", |object| {
        object.label("shape") == Some("round") && object.label("color") == Some("red")
    }),
    ("shape in (round),color notin (red)", |object| {
        object.label("shape") == Some("round") && object.label("color") != Some("red")
    }),
    ("shape=", |object| object.label("shape") == Some("")),
    ("color in (blue),!shape", |object| {
        object.label("color") == Some("blue") && object.label("shape").is_none()
    }),
];

const POD_FIELDS: [(&str, Predicate); 6] = [
    ("spec.nodeName=node-a", |object| object.spec.node_name == NODES[0]),
    ("spec.nodeName=", |object| object.spec.node_name.is_empty()),
    ("spec.nodeName!=node-b", |object| object.spec.node_name != NODES[1]),
    ("status.phase=Running", |object| object.status.phase == "Running"),
    ("status.phase!=Running,spec.nodeName!=", |object| {
        object.status.phase != "Running" && !object.spec.node_name.is_empty()
    }),
    ("spec.nodeName=node-c,status.phase=Running", |object| {
        object.spec.node_name == NODES[2] && object.status.phase == "Running"
    }),
];

const FIELDS: [(&str, Predicate); 3] = [
    ("metadata.name=o3", |object| object.metadata.name == "o3"),
    ("metadata.name!=o3", |object| object.metadata.name != "o3"),
    ("metadata.namespace=n1", |object| object.metadata.namespace == "n1"),
];

#[derive(Clone)]
pub(crate) struct Selection {
    pub(crate) resource: &'static str,
    namespace: Option<&'static str>,
    labels: (&'static str, Predicate),
    fields: (&'static str, Predicate),
}

impl Selection {
    /// Everything of a resource.
    pub(crate) fn all(resource: &'static str) -> Self {
        Self { resource, namespace: None, labels: LABELS[0], fields: LABELS[0] }
    }

    pub(crate) fn random(dice: &mut fastrand::Rng) -> Self {
        let mut selection = Self::all(RESOURCES[dice.usize(..RESOURCES.len())]);
        // Most are about a namespace, as most are in the world.
        if dice.u8(..10) > 0 {
            selection.namespace = Some(NAMESPACES[dice.usize(..NAMESPACES.len())]);
        }
        if dice.u8(..10) > 2 {
            selection.labels = LABELS[dice.usize(..LABELS.len())];
        }
        if dice.u8(..10) > 4 {
            selection.fields = match selection.resource {
                "pods" if dice.bool() => POD_FIELDS[dice.usize(..POD_FIELDS.len())],
                _ => FIELDS[dice.usize(..FIELDS.len())],
            };
        }
        selection
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        let here = self.namespace.is_none_or(|name| object.metadata.namespace == name);
        here && (self.labels.1)(object) && (self.fields.1)(object)
    }

    /// With a query that more can be appended to.
    pub(crate) fn path(&self) -> String {
        let namespace = self.namespace.map(|name| format!("/namespaces/{name}"));
        let escaped = |text: &str| {
            let escape = |char: char| match char {
                ' ' => "%20".to_owned(),
                '=' => "%3D".to_owned(),
                ',' => "%2C".to_owned(),
                '!' => "%21".to_owned(),
                plain => plain.to_string(),
            };
            text.chars().map(escape).collect::<String>()
        };
        format!(
            "/api/v1{}/{}?labelSelector={}&fieldSelector={}",
            namespace.unwrap_or_default(),
            self.resource,
            escaped(self.labels.0),
            escaped(self.fields.0)
        )
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.unwrap_or("all");
        write!(f, "{namespace} {} [{}] [{}]", self.resource, self.labels.0, self.fields.0)
    }
}
