//! A typed object out of a tree.
//!
//! A `Deserializer` of our own rather than serde_json's, for what a Kubernetes API server is
//! expected to tell: the path of a value of the wrong type, and the paths of unknown fields. Like
//! Go's decoder it takes `null` for the zero value of whatever is wanted.

use std::cell::RefCell;
use std::fmt;

use proto::quantity::Quantity;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_json::Value;

use crate::api::field_error::{MAX_ERRORS, cut};

/// Where in a tree: a list that grows on the stack, so that nothing is allocated unless told.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The tree itself.
    Root,
    /// A field.
    Key(&'a Path<'a>, &'a str),
    /// An item.
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    /// `spec.containers[0].image`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Path::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A value that does not fit its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where; empty for the object itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: String::new(), message: message.to_string() }
    }
}

/// Decodes trees, collecting the paths of unknown fields.
#[derive(Debug, Default)]
pub struct Decoder {
    unknown: RefCell<Vec<String>>,
}

impl Decoder {
    /// A decoder that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes a tree.
    ///
    /// # Errors
    /// The first value that does not fit.
    pub fn decode<T: DeserializeOwned>(&mut self, tree: &Value) -> Result<T, DecodeError> {
        T::deserialize(Node { value: tree, path: Path::Root, decoder: self })
    }

    /// The paths of the unknown fields seen.
    pub fn into_unknown(self) -> Vec<String> {
        self.unknown.into_inner()
    }
}

/// A value in its place.
#[derive(Clone, Copy)]
struct Node<'a> {
    value: &'a Value,
    path: Path<'a>,
    decoder: &'a Decoder,
}

/// A quantity as it is kept: two ways to write a number are no difference. What is none is left to
/// validation.
fn canonical_quantity(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return Some("0".to_owned()),
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => return None,
    };
    Some(text.ok()?.to_string())
}

impl Node<'_> {
    fn mismatch(&self, wanted: &str) -> DecodeError {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(number) => {
                return self.error(format!("cannot unmarshal number {number} into a {wanted}"));
            }
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.error(format!("cannot unmarshal {found} into a {wanted}"))
    }

    fn error(&self, message: String) -> DecodeError {
        DecodeError { path: self.path.to_string(), message }
    }

    /// Says where, unless somebody further down has said so already.
    fn place<T>(&self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.map_err(|mut error| {
            if error.path.is_empty() {
                error.path = self.path.to_string();
            }
            error
        })
    }

    fn integer<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        wanted: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<V::Value, DecodeError> {
        let result = match self.value {
            Value::Null => visitor.visit_i64(0),
            Value::Number(number) => match number.as_i64() {
                Some(value) if range.contains(&value) => visitor.visit_i64(value),
                _ => return Err(self.mismatch(wanted)),
            },
            _ => return Err(self.mismatch(wanted)),
        };
        self.place(result)
    }

    fn float<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match self.value {
            Value::Null => visitor.visit_f64(0.0),
            Value::Number(number) => match number.as_f64() {
                Some(value) => visitor.visit_f64(value),
                None => return Err(self.mismatch("number")),
            },
            _ => return Err(self.mismatch("number")),
        };
        self.place(result)
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match self.value {
            Value::Null => visitor.visit_str(""),
            Value::String(text) => visitor.visit_str(text),
            _ => return Err(self.mismatch("string")),
        };
        self.place(result)
    }

    fn sequence<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let items: &[Value] = match self.value {
            Value::Null => &[],
            Value::Array(items) => items,
            _ => return Err(self.mismatch("array")),
        };
        self.place(visitor.visit_seq(Items { node: &self, items, next: 0 }))
    }

    fn fields<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        wanted: &str,
    ) -> Result<V::Value, DecodeError> {
        let empty = serde_json::Map::new();
        let map = match self.value {
            Value::Null => &empty,
            Value::Object(map) => map,
            _ => return Err(self.mismatch(wanted)),
        };
        self.place(visitor.visit_map(Fields { node: &self, fields: map.iter(), value: None }))
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => self.place(visitor.visit_unit()),
            Value::Bool(value) => self.place(visitor.visit_bool(*value)),
            Value::Number(number) => {
                let result = if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else {
                    return self.float(visitor);
                };
                self.place(result)
            }
            Value::String(_) => self.text(visitor),
            Value::Array(_) => self.sequence(visitor),
            Value::Object(_) => self.fields(visitor, "object"),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => self.place(visitor.visit_bool(false)),
            Value::Bool(value) => self.place(visitor.visit_bool(*value)),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "int8", i8::MIN.into()..=i8::MAX.into())
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "int16", i16::MIN.into()..=i16::MAX.into())
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "int32", i32::MIN.into()..=i32::MAX.into())
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "int64", i64::MIN..=i64::MAX)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "uint8", 0..=u8::MAX.into())
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "uint16", 0..=u16::MAX.into())
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "uint32", 0..=u32::MAX.into())
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "uint64", 0..=i64::MAX)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.float(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.float(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.text(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.text(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.text(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let result = match (name, canonical_quantity(self.value)) {
            ("Quantity", Some(text)) => {
                let text: StrDeserializer<'_, DecodeError> = text.as_str().into_deserializer();
                visitor.visit_newtype_struct(text)
            }
            _ => visitor.visit_newtype_struct(self),
        };
        self.place(result)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.sequence(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.sequence(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.sequence(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.fields(visitor, "object")
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.fields(visitor, name)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let Value::String(variant) = self.value else { return Err(self.mismatch("string")) };
        self.place(visitor.visit_enum(Variant(variant)))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.text(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let mut unknown = self.decoder.unknown.borrow_mut();
        if unknown.len() < MAX_ERRORS {
            unknown.push(cut(&self.path.to_string()).into_owned());
        }
        drop(unknown);
        visitor.visit_unit()
    }
}

struct Items<'a> {
    node: &'a Node<'a>,
    items: &'a [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(value) = self.items.get(self.next) else { return Ok(None) };
        let path = Path::Index(&self.node.path, self.next);
        self.next += 1;
        seed.deserialize(Node { value, path, decoder: self.node.decoder }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Fields<'a> {
    node: &'a Node<'a>,
    fields: serde_json::map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, value)) = self.fields.next() else { return Ok(None) };
        self.value = Some((key, value));
        let key: StrDeserializer<'_, DecodeError> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        let (key, value) =
            self.value.take().ok_or_else(|| DecodeError::custom("a value without a key"))?;
        let path = Path::Key(&self.node.path, key);
        seed.deserialize(Node { value, path, decoder: self.node.decoder })
    }
}

/// An enum's variant without content; Kubernetes has no others.
struct Variant<'a>(&'a str);

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        let name: StrDeserializer<'_, DecodeError> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        _seed: T,
    ) -> Result<T::Value, DecodeError> {
        Err(DecodeError::custom("a value with content is not expected"))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        _visitor: V,
    ) -> Result<V::Value, DecodeError> {
        Err(DecodeError::custom("a value with content is not expected"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, DecodeError> {
        Err(DecodeError::custom("a value with content is not expected"))
    }
}
