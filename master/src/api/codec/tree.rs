//! JSON and YAML bodies as one kind of tree, within bounds.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::decode::Path;
use super::protobuf::ProtobufError;
use super::yaml::{self, YamlError};
use crate::api::field_error::{MAX_ERRORS, cut};

/// Values in one tree. An object of the largest size that is stored has far fewer; YAML aliases
/// count as often as they are used, so an alias bomb ends here.
const MAX_VALUES: usize = 200_000;

/// Bytes of text in one tree, keys included. Aliases again count each time.
const MAX_TEXT: usize = 6 << 20;

/// A body as a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The body; of fields given twice the last.
    pub value: Value,
    /// Paths of fields that were given twice.
    pub duplicates: Vec<String>,
    /// Paths of fields that have no name, of which protobuf knows the number only.
    pub unknown: Vec<String>,
}

/// A body that is no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The bytes are not text.
    #[error("the body is not valid UTF-8 (first bad byte at offset {0})")]
    NotUtf8(usize),
    /// The text is not JSON.
    #[error("error parsing JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The text is not YAML, or not what JSON could say.
    #[error("error parsing YAML: {0}")]
    Yaml(#[from] YamlError),
    /// The bytes are not an object in protobuf.
    #[error("error parsing protobuf: {0}")]
    Protobuf(#[from] ProtobufError),
}

/// Parses JSON. Nesting is bounded at 128 by the parser.
///
/// # Errors
/// When the body is not UTF-8, not JSON, nested too deeply or has too many values.
pub fn parse_json(body: &[u8]) -> Result<Tree, TreeError> {
    let limits = Limits::default();
    let value = parse_json_within(body, &limits, &Path::Root)?;
    Ok(limits.tree(value))
}

/// Parses JSON that is a part of something larger.
pub(super) fn parse_json_within(
    body: &[u8],
    limits: &Limits,
    path: &Path<'_>,
) -> Result<Value, TreeError> {
    let mut deserializer = serde_json::Deserializer::from_str(utf8(body)?);
    let value = Seed { path, limits }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Parses one YAML document, with the meaning that it has for a Kubernetes API server. Nesting is
/// bounded at 128.
///
/// # Errors
/// When the body is not UTF-8, not one YAML document, or its aliases expand too far.
pub fn parse_yaml(body: &[u8]) -> Result<Tree, TreeError> {
    let text = utf8(body)?;
    let limits = Limits::default();
    let value = yaml::read(text, &limits)?;
    Ok(limits.tree(value))
}

fn utf8(body: &[u8]) -> Result<&str, TreeError> {
    std::str::from_utf8(body).map_err(|error| TreeError::NotUtf8(error.valid_up_to()))
}

/// A body with more in it than is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Too many values.
    #[error("more than {MAX_VALUES} values in one body")]
    Values,
    /// Too much text.
    #[error("more than {MAX_TEXT} bytes of text in one body")]
    Text,
}

/// What was read of a body so far.
#[derive(Default)]
pub(super) struct Limits {
    values: Cell<usize>,
    text: Cell<usize>,
    /// How often a field was given once more.
    doubled: Cell<usize>,
    duplicates: RefCell<Vec<String>>,
}

impl Limits {
    pub(super) fn count_values(&self, more: usize) -> Result<(), LimitError> {
        self.values.set(self.values.get().saturating_add(more));
        if self.values.get() > MAX_VALUES { Err(LimitError::Values) } else { Ok(()) }
    }

    pub(super) fn count_bytes(&self, more: usize) -> Result<(), LimitError> {
        self.text.set(self.text.get().saturating_add(more));
        if self.text.get() > MAX_TEXT { Err(LimitError::Text) } else { Ok(()) }
    }

    /// Values and bytes of text.
    pub(super) fn counted(&self) -> (usize, usize) {
        (self.values.get(), self.text.get())
    }
}

impl Limits {
    /// What was read within them.
    pub(super) fn tree(self, value: Value) -> Tree {
        Tree { value, duplicates: self.duplicates.into_inner(), unknown: Vec::new() }
    }

    /// Paths may be long and fields many: both are bounded, or a body of megabytes makes gigabytes.
    pub(super) fn tell_duplicate(&self, path: &Path<'_>) {
        let mut duplicates = self.duplicates.borrow_mut();
        self.doubled.set(self.doubled.get() + 1);
        if self.doubled.get() <= MAX_ERRORS {
            let path = cut(&path.to_string()).into_owned();
            if duplicates.last() != Some(&path) {
                duplicates.push(path);
            }
        }
    }
}

struct Seed<'a> {
    path: &'a Path<'a>,
    limits: &'a Limits,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.limits.count_values(1).map_err(D::Error::custom)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("a number has to be finite"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.limits.count_bytes(value.len()).map_err(E::custom)?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Index(self.path, items.len());
            match access.next_element_seed(Seed { path: &path, limits: self.limits })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            self.limits.count_bytes(key.len()).map_err(A::Error::custom)?;
            let path = Path::Key(self.path, &key);
            let value = access.next_value_seed(Seed { path: &path, limits: self.limits })?;
            if map.contains_key(&key) {
                self.limits.tell_duplicate(&path);
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
