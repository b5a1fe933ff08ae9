//! From fields on the wire to the tree that the same object's JSON makes.

use std::cell::RefCell;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::ProtobufError;
use super::fields::{self, Field, Many, Message, Type};
use super::wire::{Fields, Malformed, Wire, packed};
use crate::api::codec::decode::Path;
use crate::api::codec::tree::{Limits, parse_json_within};
use crate::api::field_error::{MAX_ERRORS, cut};

/// Reads messages within limits, and notes fields that it does not know.
///
/// It calls itself for a message in a message, as deep as the types go: none contains itself.
pub(super) struct Reader<'a> {
    limits: &'a Limits,
    unknown: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self { limits, unknown: RefCell::default() }
    }

    /// Fields of a number that their message does not have.
    pub(super) fn into_unknown(self) -> Vec<String> {
        self.unknown.into_inner()
    }

    /// Reads a message's fields into an object; what is there already stays unless given again.
    pub(super) fn message(
        &self,
        message: &Message,
        bytes: &[u8],
        into: &mut Map<String, Value>,
        path: &Path<'_>,
    ) -> Result<(), ProtobufError> {
        for field in Fields::of(bytes) {
            let (number, value) = field.map_err(|error| misfit(path, error))?;
            let Some(field) = message.get(&number) else {
                self.tell_unknown(number, path);
                continue;
            };
            match field.name {
                Some(name) => {
                    self.limits.count_bytes(name.len())?;
                    self.field(field, value, name, into, &Path::Key(path, name))?;
                }
                None => self.inlined(field, value, into, path)?,
            }
        }
        Ok(())
    }

    fn field(
        &self,
        field: &Field,
        value: Wire<'_>,
        name: &str,
        into: &mut Map<String, Value>,
        path: &Path<'_>,
    ) -> Result<(), ProtobufError> {
        match field.many {
            Many::One | Many::Pointer => {
                let before = into.remove(name);
                let value = self.value(field.of, value, before, path)?;
                if field.many == Many::Pointer && !value.is_null() || !is_zero(&value) {
                    into.insert(name.to_owned(), value);
                }
            }
            Many::List => {
                let list = into.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = list else { unreachable!("made above") };
                match value {
                    Wire::Bytes(numbers) if matches!(field.of, Type::Int32 | Type::Int64) => {
                        for number in packed(numbers) {
                            let number = Wire::Varint(number.map_err(|error| misfit(path, error))?);
                            let path = Path::Index(path, items.len());
                            items.push(self.value(field.of, number, None, &path)?);
                        }
                    }
                    value => {
                        let path = Path::Index(path, items.len());
                        items.push(self.value(field.of, value, None, &path)?);
                    }
                }
            }
            Many::Map => {
                let map = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(map) = map else { unreachable!("made above") };
                self.entry(field.of, bytes(value, path)?, map, path)?;
            }
        }
        Ok(())
    }

    /// An entry of a map is a message of its key and its value; either may be left out if it is zero.
    fn entry(
        &self,
        of: Type,
        entry: &[u8],
        into: &mut Map<String, Value>,
        path: &Path<'_>,
    ) -> Result<(), ProtobufError> {
        let (mut key, mut value) = ("", None);
        for field in Fields::of(entry) {
            match field.map_err(|error| misfit(path, error))? {
                (1, stated) => key = text(stated, path)?,
                (2, stated) => value = Some(stated),
                (number, _) => self.tell_unknown(number, path),
            }
        }
        self.limits.count_bytes(key.len())?;
        let zero = match of {
            Type::Flag | Type::Int32 | Type::Int64 => Wire::Varint(0),
            _ => Wire::Bytes(&[]),
        };
        let value = self.value(of, value.unwrap_or(zero), None, &Path::Key(path, key))?;
        into.insert(key.to_owned(), value);
        Ok(())
    }

    fn inlined(
        &self,
        field: &Field,
        value: Wire<'_>,
        into: &mut Map<String, Value>,
        path: &Path<'_>,
    ) -> Result<(), ProtobufError> {
        let Type::Message(name) = field.of else { return Err(misfit(path, Malformed::WireType)) };
        self.message(named(name), bytes(value, path)?, into, path)
    }

    /// One value. `before` is what the field had: messages given twice are merged.
    fn value(
        &self,
        of: Type,
        value: Wire<'_>,
        before: Option<Value>,
        path: &Path<'_>,
    ) -> Result<Value, ProtobufError> {
        self.limits.count_values(1)?;
        Ok(match of {
            Type::Text => {
                let text = text(value, path)?;
                self.limits.count_bytes(text.len())?;
                Value::from(text)
            }
            Type::Flag => Value::from(number(value, path)? != 0),
            Type::Int32 => Value::from(int32(value, path)?),
            Type::Int64 => Value::from(number(value, path)?),
            Type::Bytes => {
                let bytes = bytes(value, path)?;
                self.limits.count_bytes(bytes.len().div_ceil(3) * 4)?;
                Value::from(BASE64_STANDARD.encode(bytes))
            }
            Type::Time => time(bytes(value, path)?, 0, path)?,
            Type::MicroTime => time(bytes(value, path)?, 6, path)?,
            Type::Quantity => self.quantity(bytes(value, path)?, path)?,
            Type::IntOrString => self.int_or_string(bytes(value, path)?, path)?,
            Type::Json => self.json(bytes(value, path)?, path)?,
            Type::Message(name) => {
                let mut object = match before {
                    Some(Value::Object(object)) => object,
                    _ => Map::new(),
                };
                self.message(named(name), bytes(value, path)?, &mut object, path)?;
                Value::Object(object)
            }
        })
    }

    fn quantity(&self, bytes: &[u8], path: &Path<'_>) -> Result<Value, ProtobufError> {
        let mut quantity = "";
        for field in Fields::of(bytes) {
            match field.map_err(|error| misfit(path, error))? {
                (1, value) => quantity = text(value, path)?,
                (number, _) => self.tell_unknown(number, path),
            }
        }
        self.limits.count_bytes(quantity.len())?;
        Ok(Value::from(if quantity.is_empty() { "0" } else { quantity }))
    }

    fn int_or_string(&self, bytes: &[u8], path: &Path<'_>) -> Result<Value, ProtobufError> {
        let (mut is_text, mut int, mut string) = (false, 0, "");
        for field in Fields::of(bytes) {
            match field.map_err(|error| misfit(path, error))? {
                (1, value) => is_text = number(value, path)? == 1,
                (2, value) => int = int32(value, path)?,
                (3, value) => string = text(value, path)?,
                (number, _) => self.tell_unknown(number, path),
            }
        }
        self.limits.count_bytes(string.len())?;
        Ok(if is_text { Value::from(string) } else { Value::from(int) })
    }

    /// A message of one field, whose bytes are JSON.
    fn json(&self, bytes: &[u8], path: &Path<'_>) -> Result<Value, ProtobufError> {
        let mut json = Value::Null;
        for field in Fields::of(bytes) {
            match field.map_err(|error| misfit(path, error))? {
                (1, Wire::Bytes(raw)) => {
                    json = parse_json_within(raw, self.limits, path)
                        .map_err(|error| misfit(path, error))?;
                }
                (1, _) => return Err(misfit(path, Malformed::WireType)),
                (number, _) => self.tell_unknown(number, path),
            }
        }
        Ok(json)
    }

    fn tell_unknown(&self, number: u32, path: &Path<'_>) {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MAX_ERRORS {
            let name = number.to_string();
            unknown.push(cut(&Path::Key(path, &name).to_string()).into_owned());
        }
    }
}

fn misfit(path: &Path<'_>, error: impl std::fmt::Display) -> ProtobufError {
    let path = match path {
        Path::Root => "the object".to_owned(),
        path => cut(&path.to_string()).into_owned(),
    };
    ProtobufError::Field { path, message: error.to_string() }
}

fn named(message: &str) -> &'static Message {
    fields::message(message).expect("update.py writes every message that a field names")
}

/// What Go leaves out of JSON, unless it has a pointer to it. An empty message is not.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn bytes<'a>(value: Wire<'a>, path: &Path<'_>) -> Result<&'a [u8], ProtobufError> {
    match value {
        Wire::Bytes(bytes) => Ok(bytes),
        Wire::Varint(_) | Wire::Fixed => Err(misfit(path, Malformed::WireType)),
    }
}

fn text<'a>(value: Wire<'a>, path: &Path<'_>) -> Result<&'a str, ProtobufError> {
    std::str::from_utf8(bytes(value, path)?).map_err(|_| misfit(path, Malformed::NotUtf8))
}

/// Negative numbers are written as if they were large.
fn number(value: Wire<'_>, path: &Path<'_>) -> Result<i64, ProtobufError> {
    match value {
        Wire::Varint(number) => Ok(number.cast_signed()),
        Wire::Bytes(_) | Wire::Fixed => Err(misfit(path, Malformed::WireType)),
    }
}

fn int32(value: Wire<'_>, path: &Path<'_>) -> Result<i32, ProtobufError> {
    let number = number(value, path)?;
    i32::try_from(number).map_err(|_| misfit(path, format!("{number} does not fit into an int32")))
}

/// Seconds and nanoseconds, as text with so many digits of a second. None is no time.
fn time(bytes: &[u8], digits: usize, path: &Path<'_>) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in Fields::of(bytes) {
        match field.map_err(|error| misfit(path, error))? {
            (1, value) => seconds = number(value, path)?,
            (2, value) => nanoseconds = int32(value, path)?,
            _ => {}
        }
    }
    let time = Timestamp::new(seconds, nanoseconds).map_err(|error| misfit(path, error))?;
    Ok(Value::from(format!("{time:.digits$}")))
}
