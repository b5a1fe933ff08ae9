//! `namespaces`: what names are unique in.
//!
//! A namespace goes in two steps: a delete request makes it `Terminating`; when the namespace
//! controller has emptied it, it takes `kubernetes` out of `spec.finalizers` and deletes again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use proto::{k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name};
use super::path::Path;
use super::{Column, Deletion, Kind, ResourceInfo};
use crate::api::admission::pod_security::policy::Policy;
use crate::api::field_error::{FieldError, FieldErrors};
use crate::cache::{SelectableFields, selectable};

/// Held in `spec.finalizers` until the namespace is empty.
pub const FINALIZER: &str = "kubernetes";
/// Every namespace carries its name as this label, so that selectors can name it.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

const ACTIVE: &str = "Active";
const TERMINATING: &str = "Terminating";

/// `namespaces`
#[derive(Debug)]
pub enum Namespaces {}

impl Kind for Namespaces {
    type Object = Namespace;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        categories: &[],
        namespaced: false,
        status: true,
        scale: false,
    };

    const FIELDS: SelectableFields = &[
        // As old clients say `metadata.name`.
        selectable("name", &["metadata", "name"]),
        selectable("status.phase", &["status", "phase"]),
    ];

    fn validate_name(name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn default(object: &mut Namespace) {
        if let Some(status) = object.status.as_mut()
            && status.phase.as_deref().is_none_or(str::is_empty)
        {
            status.phase = Some(ACTIVE.to_owned());
        }
        if let Some(name) = object.metadata.name.clone().filter(|name| !name.is_empty()) {
            object.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
        }
    }

    fn prepare_create(object: &mut Namespace) {
        object.status =
            Some(NamespaceStatus { phase: Some(ACTIVE.to_owned()), ..Default::default() });
        let finalizers = object.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    fn prepare_update(new: &mut Namespace, old: &Namespace) {
        // Only who empties the namespace takes its finalizers away, and says so with a list.
        let emptied = old.metadata.deletion_timestamp.is_some()
            && new.spec.as_ref().is_some_and(|spec| spec.finalizers.is_some());
        if !emptied {
            new.spec.clone_from(&old.spec);
        }
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut Namespace, old: &Namespace) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(object: &Namespace) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let finalizers = object.spec.as_ref().and_then(|spec| spec.finalizers.as_deref());
        let path = Path::new("spec.finalizers");
        for finalizer in finalizers.into_iter().flatten() {
            for reason in names::qualified_name(finalizer) {
                errors.push(FieldError::invalid(&path, finalizer.as_str(), reason));
            }
            if !finalizer.contains('/') && finalizer != FINALIZER {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid(&path, finalizer.as_str(), detail));
            }
        }
        errors
    }

    fn validate_create(object: &Namespace) -> FieldErrors {
        Policy::of(object.metadata.labels.as_ref().unwrap_or(&BTreeMap::new())).1
    }

    fn validate_update(new: &Namespace, old: &Namespace) -> FieldErrors {
        // What is wrong already holds up no other change.
        let errors = Self::validate_create(new);
        if errors == Self::validate_create(old) { FieldErrors::new() } else { errors }
    }

    fn validate_status_update(new: &Namespace, _old: &Namespace) -> FieldErrors {
        let (wanted, when) = match new.metadata.deletion_timestamp {
            None => (ACTIVE, "`deletionTimestamp` is empty"),
            Some(_) => (TERMINATING, "`deletionTimestamp` is not empty"),
        };
        let phase = phase(new);
        if phase == wanted {
            return FieldErrors::new();
        }
        let detail = format!("may only be '{wanted}' if {when}");
        FieldError::invalid("status.Phase", phase, detail).into()
    }

    fn deletion(object: &Namespace, _requested: Option<i64>) -> Deletion {
        let finalizers = object.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        if finalizers.is_none_or(Vec::is_empty) {
            Deletion::Immediate
        } else {
            Deletion::Graceful { grace_period_seconds: 0 }
        }
    }

    fn undeletable(object: &Namespace) -> Option<String> {
        match object.metadata.name.as_deref() {
            Some("default" | "kube-system" | "kube-public") => {
                Some("this namespace may not be deleted".to_owned())
            }
            _ => None,
        }
    }

    fn prepare_deletion(object: &mut Namespace) {
        object.status.get_or_insert_default().phase = Some(TERMINATING.to_owned());
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Status", "string", "The status of the namespace"), AGE];
        COLUMNS
    }

    fn row(object: &Namespace, now: Timestamp) -> Vec<Value> {
        let metadata = &object.metadata;
        vec![json!(name(metadata)), json!(phase(object)), json!(age(metadata, now))]
    }
}

fn phase(object: &Namespace) -> String {
    object.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()
}

/// The namespaces that exist from the start.
pub fn initial() -> impl Iterator<Item = Namespace> {
    ["default", "kube-system"].into_iter().map(|name| {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        namespace.metadata.labels = Some(BTreeMap::new());
        namespace
    })
}
