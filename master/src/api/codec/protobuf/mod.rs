//! Bodies in Kubernetes' protobuf, which Go clients send: read as the tree that their JSON would make.
//!
//! ```text
//! k8s\0, Unknown { apiVersion, kind, raw } ── raw ─▶ wire: fields by number
//!                                                      │ fields.txt: their names and types
//!                                                      ▼
//!                                                    read: the tree, within the bounds of JSON bodies
//! ```
//!
//! A table rather than generated types: from the tree on a body goes the way of all others, and a kind
//! stays declared once. Answers are JSON, which every client of this form takes as well.

mod fields;
mod read;
mod wire;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::decode::Path;
use super::tree::{LimitError, Limits, Tree, TreeError};
use read::Reader;
use wire::{Fields, Malformed, Wire};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// A body that is not Kubernetes' protobuf, or of no type that is known.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    /// It begins otherwise.
    #[error("the body does not begin with the bytes \"k8s\\0\"")]
    NoMagic,
    /// The bytes around the object are not as they should be.
    #[error("the envelope of the object: {0}")]
    Envelope(#[source] Malformed),
    /// The object is compressed, or something other than protobuf.
    #[error("the object is {0}, not plain protobuf")]
    Encoded(String),
    /// A type that the table does not have.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownType {
        /// As the body states it.
        api_version: String,
        /// As the body states it.
        kind: String,
    },
    /// A field that does not fit.
    #[error("{path}: {message}")]
    Field {
        /// As JSON names it.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// There is too much.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// Parses a body.
///
/// # Errors
/// When it is malformed, of an unknown type, or has too many values.
pub fn parse_protobuf(body: &[u8]) -> Result<Tree, TreeError> {
    Ok(parse(body)?)
}

fn parse(body: &[u8]) -> Result<Tree, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let Envelope { api_version, kind, raw } = Envelope::read(envelope)?;
    let unknown_type = || ProtobufError::UnknownType {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    };
    let message = fields::of_kind(api_version, kind).ok_or_else(unknown_type)?;
    let limits = Limits::default();
    let reader = Reader::new(&limits);
    let mut object = Map::new();
    reader.message(message, raw, &mut object, &Path::Root)?;
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    let unknown = reader.into_unknown();
    Ok(Tree { unknown, ..limits.tree(Value::Object(object)) })
}

/// `runtime.Unknown`
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut envelope = Self { api_version: "", kind: "", raw: &[] };
        for field in Fields::of(bytes) {
            let (number, value) = field.map_err(ProtobufError::Envelope)?;
            match (number, value) {
                (1, Wire::Bytes(types)) => {
                    for field in Fields::of(types) {
                        match field.map_err(ProtobufError::Envelope)? {
                            (1, value) => envelope.api_version = text(value)?,
                            (2, value) => envelope.kind = text(value)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                (3 | 4, value) => {
                    let encoding = text(value)?;
                    if !encoding.is_empty() && encoding != "application/vnd.kubernetes.protobuf" {
                        return Err(ProtobufError::Encoded(encoding.to_owned()));
                    }
                }
                (1 | 2, Wire::Varint(_) | Wire::Fixed) => {
                    return Err(ProtobufError::Envelope(Malformed::WireType));
                }
                _ => {}
            }
        }
        Ok(envelope)
    }
}

fn text(value: Wire<'_>) -> Result<&str, ProtobufError> {
    let Wire::Bytes(bytes) = value else {
        return Err(ProtobufError::Envelope(Malformed::WireType));
    };
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Envelope(Malformed::NotUtf8))
}
