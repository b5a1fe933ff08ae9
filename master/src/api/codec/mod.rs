//! From a client's bytes to a typed object, saying exactly what does not fit and where.
//!
//! Two steps: [`tree`] makes a JSON tree out of a JSON or YAML body within fixed bounds and notices
//! duplicate fields, [`protobuf`] does so for Kubernetes' protobuf; [`decode`] makes a typed object out of the tree, notices unknown fields, and
//! names the path of whatever has the wrong type. [`yaml`] and [`scalar`] read YAML as a Kubernetes API
//! server does.

pub mod decode;
pub mod protobuf;
mod scalar;
pub mod tree;
mod yaml;

#[cfg(test)]
mod tests;

pub use decode::{DecodeError, Decoder};
pub use protobuf::{ProtobufError, parse_protobuf};
pub use scalar::ScalarError;
pub use tree::{LimitError, Tree, TreeError, parse_json, parse_yaml};
pub use yaml::YamlError;

use crate::api::registry::AnyObject;

/// An object with what its text said beyond its type.
pub struct Decoded {
    /// The object; unknown fields are gone.
    pub object: Box<dyn AnyObject>,
    /// Paths of unknown fields.
    pub unknown: Vec<String>,
}
