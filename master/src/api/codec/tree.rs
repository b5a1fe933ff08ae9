//! JSON and YAML bodies as one kind of tree, within bounds.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::decode::Path;
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
    /// The text would keep the parser busy for long.
    #[error("error parsing YAML: {0}")]
    Laborious(&'static str),
    /// The text is not YAML.
    #[error("error parsing YAML: {0}")]
    Yaml(#[from] serde_yaml::Error),
}

/// Parses JSON. Nesting is bounded at 128 by the parser.
///
/// # Errors
/// When the body is not UTF-8, not JSON, nested too deeply or has too many values.
pub fn parse_json(body: &[u8]) -> Result<Tree, TreeError> {
    let text = utf8(body)?;
    let limits = Limits::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed { path: &Path::Root, limits: &limits }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Tree { value, duplicates: limits.duplicates.into_inner() })
}

/// Brackets opened and not closed, those in texts included. The parser reads a whole document before
/// it bounds the nesting; at this depth it takes a tenth of a second, at a million ten seconds.
const MAX_OPEN_BRACKETS: i64 = 10_000;

/// `%TAG` lines. The parser compares each with all before it.
const MAX_TAG_LINES: usize = 100;

/// Parses one YAML document. Nesting is bounded at 128 by the parser.
///
/// # Errors
/// When the body is not UTF-8, not one YAML document, or its aliases expand too far.
pub fn parse_yaml(body: &[u8]) -> Result<Tree, TreeError> {
    let text = utf8(body)?;
    check_labour(text)?;
    let limits = Limits::default();
    let deserializer = serde_yaml::Deserializer::from_str(text);
    let value = Seed { path: &Path::Root, limits: &limits }.deserialize(deserializer)?;
    Ok(Tree { value, duplicates: limits.duplicates.into_inner() })
}

/// Refuses what the YAML parser takes long for, which is nothing that a manifest contains.
fn check_labour(text: &str) -> Result<(), TreeError> {
    let mut open: i64 = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = (open - 1).max(0),
            _ => {}
        }
        if open > MAX_OPEN_BRACKETS {
            return Err(TreeError::Laborious("nested too deeply"));
        }
    }
    if text.lines().filter(|line| line.starts_with("%TAG")).count() > MAX_TAG_LINES {
        return Err(TreeError::Laborious("too many %TAG directives"));
    }
    Ok(())
}

fn utf8(body: &[u8]) -> Result<&str, TreeError> {
    std::str::from_utf8(body).map_err(|error| TreeError::NotUtf8(error.valid_up_to()))
}

#[derive(Default)]
struct Limits {
    values: Cell<usize>,
    text: Cell<usize>,
    /// How often a field was given once more.
    doubled: Cell<usize>,
    duplicates: RefCell<Vec<String>>,
}

impl Limits {
    fn count_value<E: serde::de::Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > MAX_VALUES {
            return Err(E::custom(format_args!("more than {MAX_VALUES} values in one body")));
        }
        Ok(())
    }

    fn count_text<E: serde::de::Error>(&self, text: &str) -> Result<(), E> {
        self.text.set(self.text.get() + text.len());
        if self.text.get() > MAX_TEXT {
            return Err(E::custom(format_args!("more than {MAX_TEXT} bytes of text in one body")));
        }
        Ok(())
    }
}

impl Limits {
    /// Paths may be long and fields many: both are bounded, or a body of megabytes makes gigabytes.
    fn tell_duplicate(&self, path: &Path<'_>) {
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
        self.limits.count_value()?;
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
        self.limits.count_text(value)?;
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
        while let Some(key) = access.next_key_seed(Key)? {
            self.limits.count_text(&key)?;
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

/// A key of a map. YAML allows numbers and booleans there; as JSON they become text.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}
