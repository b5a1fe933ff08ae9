//! `replicasets`: so many pods of a template; what a Deployment makes one of for each revision.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name, wide};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, Scaling, template};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::cache::{SelectableFields, selectable};

/// `replicasets`
#[derive(Debug)]
pub enum ReplicaSets {}

impl Kind for ReplicaSets {
    type Object = ReplicaSet;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "apps",
        version: "v1",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        namespaced: true,
        status: true,
        scale: true,
    };

    const FIELDS: SelectableFields =
        &[selectable("status.replicas", &["status", "replicas"]).or("0")];

    fn default(object: &mut ReplicaSet) {
        let spec = &mut object.spec;
        spec.replicas.get_or_insert(1);
        spec.template.iter_mut().for_each(template::default);
    }

    fn prepare_create(object: &mut ReplicaSet) {
        object.metadata.generation = Some(1);
        object.status = Some(ReplicaSetStatus::default());
    }

    fn prepare_update(new: &mut ReplicaSet, old: &ReplicaSet) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut ReplicaSet, old: &ReplicaSet) {
        new.spec.clone_from(&old.spec);
    }

    fn spec_changed(new: &ReplicaSet, old: &ReplicaSet) -> bool {
        new.spec != old.spec
    }

    fn validate(object: &ReplicaSet) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let spec = &object.spec;
        let path = Path::new("spec");
        let counts = [("replicas", spec.replicas), ("minReadySeconds", spec.min_ready_seconds)];
        template::not_negative(&counts, &path, &mut errors);
        let selector = template::selector(&spec.selector, &path.child("selector"), &mut errors);
        template::validate_kept(
            spec.template.as_ref(),
            selector.as_ref(),
            "ReplicaSet",
            &path.child("template"),
            &mut errors,
        );
        errors
    }

    fn validate_status_update(new: &ReplicaSet, _old: &ReplicaSet) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let status = new.status.clone().unwrap_or_default();
        let counts = template::Counts {
            replicas: status.replicas,
            parts: [
                ("fullyLabeledReplicas", status.fully_labeled_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
            ],
            observed_generation: status.observed_generation,
        };
        template::validate_counts(&counts, &mut errors);
        let others = [("terminatingReplicas", status.terminating_replicas)];
        template::not_negative(&others, &Path::new("status"), &mut errors);
        errors
    }

    fn validate_update(new: &ReplicaSet, old: &ReplicaSet) -> FieldErrors {
        let selector = |object: &ReplicaSet| object.spec.selector.clone();
        match selector(new) {
            changed if changed != selector(old) => {
                FieldError::invalid("spec.selector", json!(changed), "field is immutable").into()
            }
            _ => FieldErrors::new(),
        }
    }

    fn scaling(object: &ReplicaSet) -> Option<Scaling> {
        let spec = &object.spec;
        Some(Scaling {
            desired: spec.replicas.unwrap_or(1),
            observed: object.status.as_ref().map_or(0, |status| status.replicas),
            selector: template::selector_text(&spec.selector),
        })
    }

    fn set_replicas(object: &mut ReplicaSet, replicas: i32) {
        object.spec.replicas = Some(replicas);
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Desired", "integer", "The number of replicas wanted."),
            column("Current", "integer", "The number of replicas that exist."),
            column("Ready", "integer", "The number of replicas that are ready."),
            AGE,
            template::CONTAINERS,
            template::IMAGES,
            wide("Selector", "string", "Labels of the pods that are counted."),
        ];
        COLUMNS
    }

    fn row(object: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        let status = object.status.clone().unwrap_or_default();
        let (containers, images) = template::cells(spec.template.as_ref());
        vec![
            json!(name(&object.metadata)),
            json!(spec.replicas.unwrap_or(1)),
            json!(status.replicas),
            json!(status.ready_replicas.unwrap_or_default()),
            json!(age(&object.metadata, now)),
            json!(containers),
            json!(images),
            json!(template::selector_text(&spec.selector)),
        ]
    }
}
