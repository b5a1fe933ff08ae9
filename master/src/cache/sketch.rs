//! What the cache wants to know of an object, picked out of its JSON while all the rest is skipped.
//!
//! Every change of every object comes through here, so nothing is built that is not kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A field that field selectors may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// What selectors call it: `status.podIPs`.
    pub name: &'static str,
    /// The names on the way to its value. Of a list on the way every item counts; their values are
    /// joined by commas.
    pub at: &'static [&'static str],
    /// Its value where the object has none.
    pub absent: &'static str,
}

/// A field that is empty where the object has no value.
pub const fn selectable(name: &'static str, at: &'static [&'static str]) -> SelectableField {
    SelectableField { name, at, absent: "" }
}

impl SelectableField {
    /// The value where the object has none.
    #[must_use]
    pub const fn or(self, absent: &'static str) -> Self {
        Self { absent, ..self }
    }
}

/// The fields of a kind, at most [`MAX_FIELDS`]. Of several with one name the first that has a value
/// counts.
pub type SelectableFields = &'static [SelectableField];

/// How many entries a kind may have: one bit each tells whether a place is on the way to them.
pub const MAX_FIELDS: usize = 32;

/// What was picked.
#[derive(Debug, Default)]
pub(super) struct Sketch<'a> {
    pub(super) metadata: Option<Metadata<'a>>,
    pub(super) fields: BTreeMap<&'static str, String>,
}

/// Of `metadata`, the members that are looked at often.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    pub(super) uid: Option<Cow<'a, str>>,
    pub(super) generation: Option<i64>,
    pub(super) labels: Option<BTreeMap<String, Option<String>>>,
    pub(super) owner_references: Option<Vec<Owner>>,
    pub(super) deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    pub(super) uid: Option<String>,
    pub(super) controller: Option<bool>,
}

impl<'a> Sketch<'a> {
    /// Reads an object's JSON.
    pub(super) fn read(json: &'a [u8], fields: SelectableFields) -> serde_json::Result<Self> {
        debug_assert!(fields.len() <= MAX_FIELDS, "{fields:?}");
        let mut found = vec![String::new(); fields.len()];
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let all = (0..fields.len()).fold(0, |all, number| all | 1 << number);
        let mut walk = Walk { fields, found: &mut found, on_the_way: all, depth: 0 };
        let metadata = deserializer.deserialize_any(Object(walk.again()))?;
        deserializer.end()?;
        let mut told = BTreeMap::new();
        for (field, value) in fields.iter().zip(found) {
            let known: &mut String = told.entry(field.name).or_default();
            if known.is_empty() {
                *known = if value.is_empty() { field.absent.to_owned() } else { value };
            }
        }
        Ok(Self { metadata, fields: told })
    }
}

/// A place in the object, and which fields lie at it or below it.
struct Walk<'a> {
    fields: SelectableFields,
    found: &'a mut [String],
    /// A bit for each of `fields`.
    on_the_way: u32,
    /// How many names were walked.
    depth: usize,
}

impl Walk<'_> {
    fn again(&mut self) -> Walk<'_> {
        Walk { found: self.found, ..*self }
    }

    /// One name further.
    fn below(&mut self, name: &str) -> Walk<'_> {
        let mut on_the_way = 0;
        for (number, field) in self.remaining() {
            if field.at.get(self.depth) == Some(&name) {
                on_the_way |= 1 << number;
            }
        }
        Walk { found: self.found, on_the_way, depth: self.depth + 1, ..*self }
    }

    fn remaining(&self) -> impl Iterator<Item = (usize, &'static SelectableField)> + use<> {
        let mask = self.on_the_way;
        self.fields.iter().enumerate().filter(move |(number, _)| mask & 1 << number != 0)
    }

    /// A value stands here.
    fn value(&mut self, text: &str) {
        for (number, field) in self.remaining() {
            if field.at.len() == self.depth {
                let found = &mut self.found[number];
                if !found.is_empty() {
                    found.push(',');
                }
                found.push_str(text);
            }
        }
    }

    /// The rest of an object whose members come one by one.
    fn members<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        mut member: impl FnMut(&str, &mut A) -> Result<bool, A::Error>,
    ) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            if member(&name, map)? {
                continue;
            }
            let below = self.below(&name);
            if below.on_the_way == 0 {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(below)?;
            }
        }
        Ok(())
    }
}

/// A member's name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<(), E> {
        self.value(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        self.value(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.value(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<(), E> {
        self.value(&value.to_string());
        Ok(())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<(), E> {
        self.value(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.again())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.members(&mut map, |_, _| Ok(false))
    }
}

/// The object itself, whose `metadata` is read as well.
struct Object<'a>(Walk<'a>);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Option<Metadata<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = None;
        self.0.members(&mut map, |name, map| {
            if name == "metadata" {
                metadata = map.next_value()?;
            }
            Ok(name == "metadata")
        })?;
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: SelectableFields = &[
        selectable("spec.nodeName", &["spec", "nodeName"]),
        selectable("spec.host", &["spec", "host"]).or("false"),
        selectable("replicas", &["status", "replicas"]).or("0"),
        selectable("ips", &["status", "ips", "ip"]),
        selectable("source", &["source", "component"]),
        selectable("source", &["reporter"]),
    ];

    fn fields(json: &str) -> String {
        let sketch = Sketch::read(json.as_bytes(), FIELDS).unwrap();
        let told = sketch.fields.iter().map(|(name, value)| format!("{name}={value}"));
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn fields_are_picked_where_they_stand() {
        let cases = [
            ("{}", "ips= replicas=0 source= spec.host=false spec.nodeName="),
            (
                r#"{"spec":{"nodeName":"n1","host":true,"more":[{"nodeName":"n2"}]},
                    "nodeName":"n3","status":{"replicas":3,"ips":[{"ip":"a"},{},{"ip":"b"}]}}"#,
                "ips=a,b replicas=3 source= spec.host=true spec.nodeName=n1",
            ),
            (
                r#"{"source":{"component":"kubelet"},"reporter":"scheduler"}"#,
                "ips= replicas=0 source=kubelet spec.host=false spec.nodeName=",
            ),
            (
                r#"{"source":null,"reporter":"a\u0062c","status":null,"spec":{"host":null}}"#,
                "ips= replicas=0 source=abc spec.host=false spec.nodeName=",
            ),
            // The value is no value: what an object of another shape has there is not looked at.
            (
                r#"{"spec":{"nodeName":{"a":"b"},"host":"yes"},"status":[{"replicas":-1}]}"#,
                "ips= replicas=-1 source= spec.host=yes spec.nodeName=",
            ),
        ];
        for (json, wanted) in cases {
            assert_eq!(fields(json), wanted, "{json}");
        }
    }

    #[test]
    fn metadata_is_read_in_passing() {
        let json = br#"{"metadata":{"name":"a","uid":"u\u0031","labels":{"a":"b","c":null},
            "managedFields":[{"fieldsV1":{"f:spec":{}}}],"deletionTimestamp":"2020-01-01T00:00:00Z",
            "ownerReferences":[{"uid":"o1","controller":true,"name":"x"},{"uid":"o2"}]}}"#;
        let metadata = Sketch::read(json, FIELDS).unwrap().metadata.unwrap();
        assert_eq!(metadata.uid.as_deref(), Some("u1"));
        let labels = metadata.labels.unwrap();
        assert_eq!(labels["a"].as_deref(), Some("b"));
        assert_eq!(labels["c"], None);
        let owners = metadata.owner_references.unwrap();
        let owners = owners.iter().map(|owner| (owner.uid.as_deref(), owner.controller));
        assert_eq!(owners.collect::<Vec<_>>(), [(Some("o1"), Some(true)), (Some("o2"), None)]);
        assert!(metadata.deletion_timestamp.is_some());
        let json = br#"{"metadata":{"deletionTimestamp":null}}"#;
        let metadata = Sketch::read(json, FIELDS).unwrap().metadata.unwrap();
        assert!(metadata.deletion_timestamp.is_none());
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for json in ["", "null", "[]", "3", r#"{"metadata":{}"#, "{} {}", r#"{"metadata":3}"#] {
            assert!(Sketch::read(json.as_bytes(), FIELDS).is_err(), "{json}");
        }
        for json in ["{}", r#"{"metadata":null}"#] {
            assert!(Sketch::read(json.as_bytes(), FIELDS).unwrap().metadata.is_none(), "{json}");
        }
    }
}
