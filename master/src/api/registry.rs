//! The kinds that are served, behind one object-safe face.
//!
//! A [`Kind`] is a type with static functions; the machinery wants values that it can look up by
//! path. [`AnyKind`] is that face, implemented once for every `Kind`, and [`AnyObject`] the face of
//! an object whose type only its kind knows. The rest of the machinery exists once, not per kind.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::marker::PhantomData;

use bytes::Bytes;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::schemars::{JsonSchema as _, SchemaGenerator};
use proto::k8s as k8s_openapi;
use serde::Serialize;
use serde_json::Value;

use crate::api::codec::{DecodeError, Decoded, Decoder};
use crate::api::field_error::FieldErrors;
use crate::api::kinds::{
    ClusterConfig, Column, Deletion, Kind, Propagation, ResourceInfo, Scaling,
};
use crate::api::objects::Part;
use crate::api::view::AnyView;
use crate::cache::SelectableFields;

/// An object of some kind.
pub trait AnyObject: Any + Send + Sync {
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
    /// Its metadata, to be changed.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// Its JSON.
    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error>;
    /// Its JSON as a tree.
    fn to_value(&self) -> Result<Value, serde_json::Error>;
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn AnyObject>;
    /// Whether it is the same, of the same kind.
    fn equals(&self, other: &dyn AnyObject) -> bool;
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
    /// For downcasts.
    fn as_any_mut(&mut self) -> &mut dyn Any;
    /// For downcasts.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T> AnyObject for T
where
    T: Metadata<Ty = ObjectMeta> + Serialize + Clone + PartialEq + Send + Sync + 'static,
{
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    fn to_value(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self)
    }

    fn boxed_clone(&self) -> Box<dyn AnyObject> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn AnyObject) -> bool {
        other.as_any().downcast_ref::<T>() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A [`Kind`] as a value. The functions mean what their namesakes in `Kind` mean; objects given to
/// them have to be of this kind.
pub trait AnyKind: Send + Sync + 'static {
    /// Its names.
    fn resource(&self) -> &'static ResourceInfo;
    /// See [`Kind::view`].
    fn view(&self) -> Option<&'static dyn AnyView>;
    /// The name of its type: `io.k8s.api.core.v1.Pod`.
    fn type_name(&self) -> Cow<'static, str>;
    /// Adds its type, and all types that it is made of, to the generator's.
    fn describe(&self, generator: &mut SchemaGenerator);
    /// Reads an object out of a client's tree; tells unknown fields.
    fn decode(&self, tree: &Value) -> Result<Decoded, DecodeError>;
    /// Reads an object out of stored bytes.
    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn AnyObject>, serde_json::Error>;
    /// See [`Kind::default`].
    fn default(&self, object: &mut dyn AnyObject);
    /// See [`Kind::prepare_create`].
    fn prepare_create(&self, object: &mut dyn AnyObject);
    /// See [`Kind::prepare_update`].
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject);
    /// See [`Kind::prepare_status_update`].
    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject);
    /// See [`Kind::prepare_part_update`].
    fn prepare_part_update(&self, part: Part, new: &mut dyn AnyObject, old: &dyn AnyObject);
    /// See [`Kind::spec_changed`].
    fn spec_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> bool;
    /// See [`Kind::validate_name`].
    fn validate_name(&self, name: &str) -> Vec<String>;
    /// See [`Kind::validate`].
    fn validate(&self, object: &dyn AnyObject) -> FieldErrors;
    /// See [`Kind::validate_create`].
    fn validate_create(&self, object: &dyn AnyObject) -> FieldErrors;
    /// See [`Kind::validate_part_update`].
    fn validate_part_update(
        &self,
        part: Part,
        new: &dyn AnyObject,
        old: &dyn AnyObject,
    ) -> FieldErrors;
    /// See [`Kind::validate_update`].
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> FieldErrors;
    /// See [`Kind::validate_status_update`].
    fn validate_status_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> FieldErrors;
    /// See [`Kind::CREATE_ON_UPDATE`].
    fn creates_on_update(&self) -> bool;
    /// See [`Kind::UNCONDITIONAL_UPDATE`].
    fn updates_unconditionally(&self) -> bool;
    /// See [`Kind::ALLOCATES`].
    fn allocates(&self) -> bool;
    /// See [`Kind::allocate`].
    fn allocate(
        &self,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        cluster: &ClusterConfig,
        claimed: &dyn Fn(&str) -> bool,
    ) -> Result<(), FieldErrors>;
    /// See [`Kind::claims`].
    fn claims(&self, object: &dyn AnyObject) -> Vec<String>;
    /// See [`Kind::deletion`].
    fn deletion(&self, object: &dyn AnyObject, requested: Option<i64>) -> Deletion;
    /// See [`Kind::prepare_deletion`].
    fn prepare_deletion(&self, object: &mut dyn AnyObject);
    /// See [`Kind::undeletable`].
    fn undeletable(&self, object: &dyn AnyObject) -> Option<String>;
    /// See [`Kind::DEFAULT_PROPAGATION`].
    fn default_propagation(&self) -> Propagation;
    /// See [`Kind::scaling`].
    fn scaling(&self, object: &dyn AnyObject) -> Option<Scaling>;
    /// See [`Kind::set_replicas`].
    fn set_replicas(&self, object: &mut dyn AnyObject, replicas: i32);
    /// Names of the fields that selectors may name, beside `metadata.name` and `metadata.namespace`.
    fn selectable(&self) -> Vec<&'static str>;
    /// For the cache: selectable fields of a stored object.
    fn stored_fields(&self) -> SelectableFields;
    /// See [`Kind::columns`].
    fn columns(&self) -> &'static [Column];
    /// See [`Kind::row`].
    fn row(&self, object: &dyn AnyObject, now: jiff::Timestamp) -> Vec<Value>;
}

impl dyn AnyKind {
    /// Stored bytes as clients are told them.
    pub(crate) fn told(&self, stored: &Bytes) -> Result<Bytes, serde_json::Error> {
        match self.view() {
            Some(view) => Ok(Bytes::from(view.told(stored)?.to_string())),
            None => Ok(stored.clone()),
        }
    }

    /// An object as clients are told it, as a tree.
    pub(crate) fn tree(&self, object: &dyn AnyObject) -> Result<Value, serde_json::Error> {
        match self.view() {
            Some(view) => view.told(&object.to_json()?),
            None => object.to_value(),
        }
    }
}

/// The one implementation of [`AnyKind`].
struct Adaptor<K>(PhantomData<K>);

/// The object as its type. A mismatch is a mistake of the machinery, not of any input.
fn typed<K: Kind>(object: &dyn AnyObject) -> &K::Object {
    object.as_any().downcast_ref().expect("an object handed to its own kind")
}

fn typed_mut<K: Kind>(object: &mut dyn AnyObject) -> &mut K::Object {
    object.as_any_mut().downcast_mut().expect("an object handed to its own kind")
}

impl<K: Kind> AnyKind for Adaptor<K> {
    fn resource(&self) -> &'static ResourceInfo {
        &K::RESOURCE
    }

    fn view(&self) -> Option<&'static dyn AnyView> {
        K::view()
    }

    fn type_name(&self) -> Cow<'static, str> {
        K::view().map_or_else(K::Object::schema_name, |view| view.type_name())
    }

    fn describe(&self, generator: &mut SchemaGenerator) {
        match K::view() {
            Some(view) => view.describe(generator),
            None => drop(generator.subschema_for::<K::Object>()),
        }
    }

    fn decode(&self, tree: &Value) -> Result<Decoded, DecodeError> {
        if let Some(view) = K::view() {
            return view.decode(tree);
        }
        let mut decoder = Decoder::new();
        let object: K::Object = decoder.decode(tree)?;
        Ok(Decoded { object: Box::new(object), unknown: decoder.into_unknown() })
    }

    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn AnyObject>, serde_json::Error> {
        Ok(Box::new(serde_json::from_slice::<K::Object>(json)?))
    }

    fn default(&self, object: &mut dyn AnyObject) {
        K::default(typed_mut::<K>(object));
    }

    fn prepare_create(&self, object: &mut dyn AnyObject) {
        K::prepare_create(typed_mut::<K>(object));
    }

    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        K::prepare_update(typed_mut::<K>(new), typed::<K>(old));
    }

    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        K::prepare_status_update(typed_mut::<K>(new), typed::<K>(old));
    }

    fn prepare_part_update(&self, part: Part, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        K::prepare_part_update(part, typed_mut::<K>(new), typed::<K>(old));
    }

    fn spec_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
        K::spec_changed(typed::<K>(new), typed::<K>(old))
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        K::validate_name(name)
    }

    fn validate(&self, object: &dyn AnyObject) -> FieldErrors {
        K::validate(typed::<K>(object))
    }

    fn validate_create(&self, object: &dyn AnyObject) -> FieldErrors {
        K::validate_create(typed::<K>(object))
    }

    fn validate_part_update(
        &self,
        part: Part,
        new: &dyn AnyObject,
        old: &dyn AnyObject,
    ) -> FieldErrors {
        K::validate_part_update(part, typed::<K>(new), typed::<K>(old))
    }

    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> FieldErrors {
        K::validate_update(typed::<K>(new), typed::<K>(old))
    }

    fn validate_status_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> FieldErrors {
        K::validate_status_update(typed::<K>(new), typed::<K>(old))
    }

    fn creates_on_update(&self) -> bool {
        K::CREATE_ON_UPDATE
    }

    fn updates_unconditionally(&self) -> bool {
        K::UNCONDITIONAL_UPDATE
    }

    fn allocates(&self) -> bool {
        K::ALLOCATES
    }

    fn allocate(
        &self,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        cluster: &ClusterConfig,
        claimed: &dyn Fn(&str) -> bool,
    ) -> Result<(), FieldErrors> {
        K::allocate(typed_mut::<K>(object), old.map(typed::<K>), cluster, claimed)
    }

    fn claims(&self, object: &dyn AnyObject) -> Vec<String> {
        K::claims(typed::<K>(object))
    }

    fn deletion(&self, object: &dyn AnyObject, requested: Option<i64>) -> Deletion {
        K::deletion(typed::<K>(object), requested)
    }

    fn prepare_deletion(&self, object: &mut dyn AnyObject) {
        K::prepare_deletion(typed_mut::<K>(object));
    }

    fn undeletable(&self, object: &dyn AnyObject) -> Option<String> {
        K::undeletable(typed::<K>(object))
    }

    fn default_propagation(&self) -> Propagation {
        K::DEFAULT_PROPAGATION
    }

    fn scaling(&self, object: &dyn AnyObject) -> Option<Scaling> {
        K::scaling(typed::<K>(object))
    }

    fn set_replicas(&self, object: &mut dyn AnyObject, replicas: i32) {
        K::set_replicas(typed_mut::<K>(object), replicas);
    }

    fn selectable(&self) -> Vec<&'static str> {
        if let Some(view) = K::view() {
            return view.fields().iter().map(|(field, _)| *field).collect();
        }
        let names: BTreeSet<_> = K::FIELDS.iter().map(|field| field.name).collect();
        names.into_iter().collect()
    }

    fn stored_fields(&self) -> SelectableFields {
        K::FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        K::columns()
    }

    fn row(&self, object: &dyn AnyObject, now: jiff::Timestamp) -> Vec<Value> {
        K::row(typed::<K>(object), now)
    }
}

/// The kinds, by group, version and plural.
#[derive(Default)]
pub struct Registry {
    kinds: Vec<&'static dyn AnyKind>,
}

impl Registry {
    /// A registry without kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind.
    #[must_use]
    pub fn with<K: Kind>(mut self) -> Self {
        // Kinds are types: the adaptor has no size and lives as long as the program.
        self.kinds.push(Box::leak(Box::new(Adaptor::<K>(PhantomData))));
        self
    }

    /// All kinds, in the order in which they were added.
    pub fn kinds(&self) -> &[&'static dyn AnyKind] {
        &self.kinds
    }

    /// The kinds that are stored, each under its plural; views are left out.
    pub fn stored(&self) -> impl Iterator<Item = &'static dyn AnyKind> + '_ {
        self.kinds.iter().copied().filter(|kind| kind.view().is_none())
    }

    /// The kind at `/api/<version>/<plural>` or `/apis/<group>/<version>/<plural>`.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static dyn AnyKind> {
        self.kinds.iter().copied().find(|kind| {
            let resource = kind.resource();
            resource.plural == plural && resource.group == group && resource.version == version
        })
    }

    /// The kind that the store keeps under this name.
    pub fn stored_as(&self, plural: &str) -> Option<&'static dyn AnyKind> {
        self.stored().find(|kind| kind.resource().plural == plural)
    }

    /// What the caches have to know of the kinds.
    pub fn resource_specs(&self) -> Vec<crate::cache::ResourceSpec> {
        let spec = |kind: &'static dyn AnyKind| crate::cache::ResourceSpec {
            resource: kind.resource().plural,
            fields: kind.stored_fields(),
        };
        self.stored().map(spec).collect()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.kinds.iter().map(|kind| kind.resource().plural)).finish()
    }
}
