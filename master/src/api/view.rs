//! Objects of one kind shown in the type of another group: what is stored is the same.
//!
//! A view is a [`Kind`](crate::api::kinds::Kind) whose `Object` is the stored type, and whose clients
//! speak another one. Everything between is the stored type's: only the edge translates.

use std::borrow::Cow;

use k8s_openapi::schemars::{JsonSchema, SchemaGenerator};
use proto::k8s as k8s_openapi;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::codec::{DecodeError, Decoded, Decoder};
use crate::api::registry::AnyObject;

/// What clients of a view speak.
pub trait View: Send + Sync + 'static {
    /// What is stored.
    type Object: AnyObject + DeserializeOwned;
    /// What is told.
    type Wire: Serialize + DeserializeOwned + JsonSchema;
    /// Names of selectable fields, and what they are called in the stored kind.
    const FIELDS: &'static [(&'static str, &'static str)];

    /// What a client means.
    fn stored(wire: Self::Wire) -> Self::Object;
    /// What a client is told.
    fn told(object: Self::Object) -> Self::Wire;
}

/// A [`View`] as a value.
pub trait AnyView: Send + Sync + 'static {
    /// The name of the type that is told.
    fn type_name(&self) -> Cow<'static, str>;
    /// Adds it to the generator's types.
    fn describe(&self, generator: &mut SchemaGenerator);
    /// Reads an object out of a client's tree.
    fn decode(&self, tree: &Value) -> Result<Decoded, DecodeError>;
    /// Stored bytes as they are told.
    fn told(&self, stored: &[u8]) -> Result<Value, serde_json::Error>;
    /// See [`View::FIELDS`].
    fn fields(&self) -> &'static [(&'static str, &'static str)];
}

impl<V: View> AnyView for V {
    fn type_name(&self) -> Cow<'static, str> {
        V::Wire::schema_name()
    }

    fn describe(&self, generator: &mut SchemaGenerator) {
        generator.subschema_for::<V::Wire>();
    }

    fn decode(&self, tree: &Value) -> Result<Decoded, DecodeError> {
        let mut decoder = Decoder::new();
        let object = V::stored(decoder.decode(tree)?);
        Ok(Decoded { object: Box::new(object), unknown: decoder.into_unknown() })
    }

    fn told(&self, stored: &[u8]) -> Result<Value, serde_json::Error> {
        serde_json::to_value(V::told(serde_json::from_slice(stored)?))
    }

    fn fields(&self) -> &'static [(&'static str, &'static str)] {
        V::FIELDS
    }
}
