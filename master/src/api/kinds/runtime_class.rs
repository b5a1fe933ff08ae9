//! `runtimeclasses`: names for ways to run pods. `api/admission/runtime.rs` gives pods what the class says
//! that they name.

use jiff::Timestamp;
use k8s_openapi::api::node::v1::{Overhead, RuntimeClass, Scheduling};
use proto::{k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, metadata, pod};
use crate::api::field_error::{FieldError, FieldErrors};

/// `runtimeclasses`
#[derive(Debug)]
pub enum RuntimeClasses {}

impl Kind for RuntimeClasses {
    type Object = RuntimeClass;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "node.k8s.io",
        version: "v1",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        short_names: &[],
        categories: &[],
        namespaced: false,
        status: false,
        scale: false,
    };

    fn default(_object: &mut RuntimeClass) {}

    fn validate(object: &RuntimeClass) -> FieldErrors {
        let RuntimeClass { handler, metadata: _, overhead, scheduling } = object;
        let mut errors = FieldErrors::new();
        pod::invalid_each(&Path::new("handler"), handler, names::dns_label(handler), &mut errors);
        if let Some(Overhead { pod_fixed }) = overhead {
            let path = Path::new("overhead").child("podFixed");
            pod::overhead(pod_fixed.as_ref(), &path, &mut errors);
        }
        if let Some(Scheduling { node_selector, tolerations }) = scheduling {
            let path = Path::new("scheduling");
            metadata::labels(node_selector.as_ref(), &path.child("nodeSelector"), &mut errors);
            let tolerations = tolerations.as_deref().unwrap_or_default();
            let path = path.child("tolerations");
            pod::validate_tolerations(tolerations, &path, &mut errors);
            for (index, one) in tolerations.iter().enumerate() {
                if tolerations[..index].contains(one) {
                    errors.push(FieldError::duplicate(path.index(index), json!(one)));
                }
            }
        }
        errors
    }

    fn validate_update(new: &RuntimeClass, old: &RuntimeClass) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if new.handler != old.handler {
            let handler = new.handler.as_str();
            errors.push(FieldError::invalid("handler", handler, "field is immutable"));
        }
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Handler", "string", "How nodes run the pods that name it."), AGE];
        COLUMNS
    }

    fn row(object: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&object.metadata)),
            json!(object.handler),
            json!(age(&object.metadata, now)),
        ]
    }
}
