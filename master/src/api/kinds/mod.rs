//! What is special about each kind, one file per kind. Everything else is generic machinery.
//!
//! To add a kind: add a file with an implementation of [`Kind`] and a line in the registry.

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::schemars::JsonSchema;
use proto::k8s as k8s_openapi;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::field_error::FieldErrors;
use crate::api::objects::Part;
use crate::api::view::AnyView;
use crate::cache::SelectableFields;

pub mod cidr;
mod columns;
pub mod config_map;
pub mod deployment;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event;
mod event_view;
mod ip;
pub mod lease;
pub mod limit_range;
mod metadata;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod path;
pub mod pod;
pub mod pod_template;
pub mod priority_class;
pub mod replica_set;
pub mod replication_controller;
mod resource_names;
pub mod resource_quota;
pub mod runtime_class;
pub mod secret;
pub mod service;
pub mod service_account;
mod template;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use config_map::ConfigMaps;
pub use deployment::Deployments;
pub use endpoint_slice::EndpointSlices;
pub use endpoints::EndpointsKind;
pub use event::Events;
pub use event_view::EventsView;
pub(crate) use event_view::RENAMED;
pub use lease::Leases;
pub use limit_range::LimitRanges;
pub use namespace::Namespaces;
pub use network_policy::NetworkPolicies;
pub use node::Nodes;
pub use pod::Pods;
pub use pod_template::PodTemplates;
pub use priority_class::PriorityClasses;
pub use replica_set::ReplicaSets;
pub use replication_controller::ReplicationControllers;
pub use resource_quota::ResourceQuotas;
pub use runtime_class::RuntimeClasses;
pub use secret::Secrets;
pub use service::Services;
pub use service_account::ServiceAccounts;
pub(crate) use template::default as template_defaults;

use crate::api::registry::Registry;

/// Every kind that is served.
pub fn registry() -> Registry {
    Registry::new()
        .with::<Pods>()
        .with::<ReplicationControllers>()
        .with::<Services>()
        .with::<EndpointsKind>()
        .with::<Nodes>()
        .with::<Namespaces>()
        .with::<Events>()
        .with::<ConfigMaps>()
        .with::<Secrets>()
        .with::<ServiceAccounts>()
        .with::<PodTemplates>()
        .with::<LimitRanges>()
        .with::<ResourceQuotas>()
        .with::<Deployments>()
        .with::<ReplicaSets>()
        .with::<EndpointSlices>()
        .with::<NetworkPolicies>()
        .with::<EventsView>()
        .with::<Leases>()
        .with::<PriorityClasses>()
        .with::<RuntimeClasses>()
}

/// The names of a resource, as discovery tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// `ReplicationController`
    pub kind: &'static str,
    /// `replicationcontrollers`; names the resource in paths and in the store.
    pub plural: &'static str,
    /// `replicationcontroller`
    pub singular: &'static str,
    /// `rc`
    pub short_names: &'static [&'static str],
    /// `all`
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` is a resource of its own: then a plain update cannot touch the status.
    pub status: bool,
    /// Whether `/scale` is served.
    pub scale: bool,
}

/// A column of the table that `kubectl get` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// `Name`, `Ready` …
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub kind: &'static str,
    /// OpenAPI format: `name` for the first column, else mostly empty.
    pub format: &'static str,
    /// For people.
    pub description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
}

/// What allocation needs to know of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Service addresses come out of them, as `10.96.0.0/16`.
    pub service_cidrs: cidr::Ranges,
    /// Pod addresses come out of them, as `10.244.0.0/16`.
    pub pod_cidrs: cidr::Ranges,
    /// What each node gets out of `pod_cidrs`.
    pub node_prefixes: cidr::NodePrefixes,
    /// Node ports, both ends included.
    pub node_ports: (u16, u16),
}

/// How a delete request on an object proceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The object goes now (unless finalizers hold it).
    Immediate,
    /// `deletionTimestamp` and `deletionGracePeriodSeconds` are set; somebody (the kubelet, the
    /// namespace controller) finishes the deletion later with a grace period of zero.
    Graceful {
        /// Seconds.
        grace_period_seconds: i64,
    },
}

/// What becomes of the dependents of an object that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes, the garbage collector deletes its dependents afterwards.
    Background,
    /// The dependents go first; the finalizer `foregroundDeletion` holds the object.
    Foreground,
    /// The dependents stay, without owner; the finalizer `orphan` holds the object until then.
    Orphan,
}

/// What `/scale` shows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// `spec.replicas`
    pub desired: i32,
    /// `status.replicas`
    pub observed: i32,
    /// The selector in the form of a query string, `app=web,tier in (a,b)`.
    pub selector: String,
}

/// All that is special about a kind. Functions are pure; the machinery performs.
pub trait Kind: Send + Sync + 'static {
    /// The type on the wire.
    type Object: Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + JsonSchema
        + Clone
        + PartialEq
        + Send
        + Sync;

    /// Its names.
    const RESOURCE: ResourceInfo;

    /// How objects of another kind are shown as this one's, if that is what this kind is: then
    /// `Object` is the other kind's, and it is stored as such.
    fn view() -> Option<&'static dyn AnyView> {
        None
    }

    /// Fills in what the user left out, before validation.
    fn default(object: &mut Self::Object);

    /// Clears and sets what a create request may not choose: the status, `generation` 1 …
    fn prepare_create(_object: &mut Self::Object) {}

    /// Carries over from `old` what a plain update may not change silently: the status.
    fn prepare_update(_new: &mut Self::Object, _old: &Self::Object) {}

    /// Carries over from `old` all that a `/status` update may not change: the spec. Metadata goes
    /// with it, as in Kubernetes.
    fn prepare_status_update(_new: &mut Self::Object, _old: &Self::Object) {}

    /// Carries over from `old` all that a write to another subresource, such as
    /// `ephemeralcontainers`, may not change.
    fn prepare_part_update(_part: Part, _new: &mut Self::Object, _old: &Self::Object) {}

    /// Whether anything that counts as `spec` differs: then `metadata.generation` is raised.
    fn spec_changed(_new: &Self::Object, _old: &Self::Object) -> bool {
        false
    }

    /// All that is wrong with a name, in Kubernetes' words. Most names are DNS subdomains.
    fn validate_name(name: &str) -> Vec<String> {
        proto::names::dns_subdomain(name)
    }

    /// All that is wrong with an object, not the first only. `metadata` is checked by the machinery.
    fn validate(object: &Self::Object) -> FieldErrors;

    /// What only a new object has to keep to. `validate` is called on it as well.
    fn validate_create(_object: &Self::Object) -> FieldErrors {
        FieldErrors::new()
    }

    /// What a write to another subresource may not change. `validate` has been called on `new` as well.
    fn validate_part_update(_part: Part, _new: &Self::Object, _old: &Self::Object) -> FieldErrors {
        FieldErrors::new()
    }

    /// What an update may not change. `validate` has been called on `new` as well.
    fn validate_update(_new: &Self::Object, _old: &Self::Object) -> FieldErrors {
        FieldErrors::new()
    }

    /// All that is wrong with a status that a client writes. What the cluster itself writes is right
    /// by construction, and `validate` is not asked: a spec that was good once holds up no status.
    fn validate_status_update(_new: &Self::Object, _old: &Self::Object) -> FieldErrors {
        FieldErrors::new()
    }

    /// Whether `PUT` makes an object that is not there.
    const CREATE_ON_UPDATE: bool = false;

    /// Whether a client may write over an object without saying which version of it it has read.
    const UNCONDITIONAL_UPDATE: bool = true;

    /// Whether [`allocate`](Self::allocate) may choose anything and objects may hold claims.
    const ALLOCATES: bool = false;

    /// Chooses addresses, ports or ranges that have to be unique in the cluster. `claimed` tells
    /// whether somebody else holds a claim. Called again when a claim was lost in a race.
    fn allocate(
        _object: &mut Self::Object,
        _old: Option<&Self::Object>,
        _cluster: &ClusterConfig,
        _claimed: &dyn Fn(&str) -> bool,
    ) -> Result<(), FieldErrors> {
        Ok(())
    }

    /// What the object holds that no other object may hold (`service-ip/10.96.0.7`,
    /// `node-port/TCP/30080`). The machinery writes claims in the same transaction as the object.
    fn claims(_object: &Self::Object) -> Vec<String> {
        Vec::new()
    }

    /// How a delete request proceeds; `requested` is the client's grace period in seconds.
    fn deletion(_object: &Self::Object, _requested: Option<i64>) -> Deletion {
        Deletion::Immediate
    }

    /// Marks an object that is now being deleted (`status.phase: Terminating`). The machinery has set
    /// `deletionTimestamp` already.
    fn prepare_deletion(_object: &mut Self::Object) {}

    /// Why an object may not be deleted at all, if so.
    fn undeletable(_object: &Self::Object) -> Option<String> {
        None
    }

    /// What becomes of dependents when the client does not say.
    const DEFAULT_PROPAGATION: Propagation = Propagation::Background;

    /// What `/scale` shows; nothing for kinds without it (`ResourceInfo::scale`).
    fn scaling(_object: &Self::Object) -> Option<Scaling> {
        None
    }

    /// Sets `spec.replicas`, as a write to `/scale` asks.
    fn set_replicas(_object: &mut Self::Object, _replicas: i32) {}

    /// The fields that field selectors may name beside `metadata.name` and `metadata.namespace`.
    const FIELDS: SelectableFields = &[];

    /// The columns of its table, `Name` first and `Age` last among those always shown.
    fn columns() -> &'static [Column];

    /// The cells of one row, as many as there are columns. Ages are computed against `now`.
    fn row(object: &Self::Object, now: jiff::Timestamp) -> Vec<serde_json::Value>;
}
