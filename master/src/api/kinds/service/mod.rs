//! `services`: an address that reaches pods.
//!
//! [`defaults`] fills in, [`validate`](mod@validate) checks with the help of [`addresses`],
//! [`families`] says in which families it is served, [`allocate`](mod@allocate) picks addresses and ports
//! and names what is claimed, [`columns`] prints.
//! [`status`] is what a client may write that balances loads.

mod addresses;
mod allocate;
mod columns;
mod defaults;
mod families;
mod status;
#[cfg(test)]
mod tests;
mod validate;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Service, ServiceSpec, ServiceStatus};
use proto::{k8s as k8s_openapi, names};
use serde_json::Value;

use super::{ClusterConfig, Column, Kind, ResourceInfo};
use crate::api::field_error::FieldErrors;
use crate::cache::{SelectableFields, selectable};

const CLUSTER_IP: &str = "ClusterIP";
const NODE_PORT: &str = "NodePort";
const LOAD_BALANCER: &str = "LoadBalancer";
const EXTERNAL_NAME: &str = "ExternalName";
/// What `clusterIP` says of a service that has none on purpose.
const HEADLESS: &str = "None";

/// `services`
#[derive(Debug)]
pub enum Services {}

impl Kind for Services {
    type Object = Service;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        namespaced: true,
        status: true,
        scale: false,
    };

    const FIELDS: SelectableFields = &[
        selectable("spec.clusterIP", &["spec", "clusterIP"]),
        selectable("spec.type", &["spec", "type"]),
    ];

    fn validate_name(name: &str) -> Vec<String> {
        names::dns_1035_label(name)
    }

    const CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut Service) {
        defaults::spec(object.spec.get_or_insert_default());
        status::default(object);
    }

    fn prepare_create(object: &mut Service) {
        object.status =
            Some(ServiceStatus { load_balancer: Some(Default::default()), ..Default::default() });
    }

    fn prepare_update(new: &mut Service, old: &Service) {
        new.status.clone_from(&old.status);
        status::forget(new, old);
        if let (Some(new), Some(old)) = (new.spec.as_mut(), old.spec.as_ref()) {
            defaults::carry_over(new, old);
        }
    }

    fn prepare_status_update(new: &mut Service, old: &Service) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(object: &Service) -> FieldErrors {
        validate::service(object)
    }

    fn validate_update(new: &Service, old: &Service) -> FieldErrors {
        match (&new.spec, &old.spec) {
            (Some(new), Some(old)) => validate::update(new, old),
            _ => FieldErrors::new(),
        }
    }

    fn validate_status_update(new: &Service, _old: &Service) -> FieldErrors {
        status::validate(new)
    }

    const ALLOCATES: bool = true;

    fn allocate(
        object: &mut Service,
        old: Option<&Service>,
        cluster: &ClusterConfig,
        claimed: &dyn Fn(&str) -> bool,
    ) -> Result<(), FieldErrors> {
        let old = old.and_then(|old| old.spec.as_ref());
        allocate::allocate(object.spec.get_or_insert_default(), old, cluster, claimed)
    }

    fn claims(object: &Service) -> Vec<String> {
        object.spec.as_ref().map(allocate::claims).unwrap_or_default()
    }

    fn columns() -> &'static [Column] {
        columns::COLUMNS
    }

    fn row(object: &Service, now: Timestamp) -> Vec<Value> {
        columns::row(object, now)
    }
}

/// The type, as if the default were filled in.
fn type_of(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(CLUSTER_IP)
}

/// Whether nodes may listen for it.
fn may_have_node_ports(spec: &ServiceSpec) -> bool {
    [NODE_PORT, LOAD_BALANCER].contains(&type_of(spec))
}

/// Whether a port gets a node port that does not name one.
fn gets_node_ports(spec: &ServiceSpec) -> bool {
    match type_of(spec) {
        NODE_PORT => true,
        LOAD_BALANCER => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// Whether anything outside of the cluster may reach it.
fn is_reached_from_outside(spec: &ServiceSpec) -> bool {
    let addressed = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    may_have_node_ports(spec) || type_of(spec) == CLUSTER_IP && addressed
}

/// Whether balancers before the nodes have to ask which of them have endpoints.
fn needs_health_check(spec: &ServiceSpec) -> bool {
    type_of(spec) == LOAD_BALANCER && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// The address asked for or given: `None`, an address, or empty when it is still to be picked.
fn cluster_ip(spec: &ServiceSpec) -> &str {
    let first = spec.cluster_ips.iter().flatten().next();
    first.or(spec.cluster_ip.as_ref()).map_or("", String::as_str)
}

/// Whether it has no address on purpose.
fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ips.as_deref().is_some_and(|ips| ips.len() == 1 && ips[0] == HEADLESS)
}

/// Protocol of a port, as if the default were filled in.
fn protocol(protocol: Option<&str>) -> &str {
    protocol.filter(|text| !text.is_empty()).unwrap_or("TCP")
}
