//! `leases`: who holds something for now. Processes elect a leader by them, and there is one for each
//! node, in [`NODE_NAMESPACE`].

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, pod};
use crate::api::field_error::{FieldError, FieldErrors};

/// Where the leases of the nodes are.
pub const NODE_NAMESPACE: &str = "kube-node-lease";

/// `leases`
#[derive(Debug)]
pub enum Leases {}

impl Kind for Leases {
    type Object = Lease;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    const CREATE_ON_UPDATE: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(_object: &mut Lease) {}

    fn validate(object: &Lease) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let LeaseSpec {
            acquire_time: _,
            holder_identity: _,
            lease_duration_seconds,
            lease_transitions,
            preferred_holder,
            renew_time: _,
            strategy,
        } = object.spec.clone().unwrap_or_default();
        if let Some(seconds) = lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            let path = path.child("leaseDurationSeconds");
            errors.push(FieldError::invalid(path, seconds, "must be greater than 0"));
        }
        if let Some(count) = lease_transitions.filter(|count| *count < 0) {
            let path = path.child("leaseTransitions");
            errors.push(FieldError::invalid(path, count, pod::NOT_NEGATIVE));
        }
        // Candidates, and the choice among them, are not served.
        for (field, value) in [("strategy", strategy), ("preferredHolder", preferred_holder)] {
            if value.as_ref().is_some_and(|value| !value.is_empty()) {
                let instead = "a lease goes to who writes its name into it first";
                pod::unsupported::refuse(&path.child(field), value, instead, &mut errors);
            }
        }
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Holder", "string", "Who holds the lease, or held it last."), AGE];
        COLUMNS
    }

    fn row(object: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = object.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        vec![
            json!(name(&object.metadata)),
            json!(holder.unwrap_or_default()),
            json!(age(&object.metadata, now)),
        ]
    }
}
