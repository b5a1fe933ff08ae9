//! `replicationcontrollers`: so many pods of a template, always.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};
use proto::k8s as k8s_openapi;
use proto::selector::Selector;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, labels, name, wide};
use super::path::Path;
use super::{Column, Kind, Propagation, ResourceInfo, Scaling, template};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::cache::{SelectableFields, selectable};

/// `replicationcontrollers`
#[derive(Debug)]
pub enum ReplicationControllers {}

impl Kind for ReplicationControllers {
    type Object = ReplicationController;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        namespaced: true,
        status: true,
        scale: true,
    };

    const FIELDS: SelectableFields =
        &[selectable("status.replicas", &["status", "replicas"]).or("0")];

    // What v1 has always done; clients that mean otherwise say so, as kubectl does.
    const DEFAULT_PROPAGATION: Propagation = Propagation::Orphan;

    fn default(object: &mut ReplicationController) {
        let spec = object.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let Some(template) = spec.template.as_mut() else { return };
        template::default(template);
        let from_template = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        let Some(from_template) = from_template.filter(|labels| !labels.is_empty()) else { return };
        if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
            spec.selector = Some(from_template.clone());
        }
        if object.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
            object.metadata.labels = Some(from_template);
        }
    }

    fn prepare_create(object: &mut ReplicationController) {
        object.metadata.generation = Some(1);
        object.status = Some(ReplicationControllerStatus::default());
    }

    fn prepare_update(new: &mut ReplicationController, old: &ReplicationController) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut ReplicationController, old: &ReplicationController) {
        new.spec.clone_from(&old.spec);
    }

    fn spec_changed(new: &ReplicationController, old: &ReplicationController) -> bool {
        new.spec != old.spec
    }

    fn validate(object: &ReplicationController) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let default = ReplicationControllerSpec::default();
        validate_spec(object.spec.as_ref().unwrap_or(&default), &mut errors);
        errors
    }

    fn validate_status_update(
        new: &ReplicationController,
        _old: &ReplicationController,
    ) -> FieldErrors {
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
        errors
    }

    fn scaling(object: &ReplicationController) -> Option<Scaling> {
        let spec = object.spec.clone().unwrap_or_default();
        Some(Scaling {
            desired: spec.replicas.unwrap_or(1),
            observed: object.status.as_ref().map_or(0, |status| status.replicas),
            selector: Selector::from_map(&spec.selector.unwrap_or_default()).to_string(),
        })
    }

    fn set_replicas(object: &mut ReplicationController, replicas: i32) {
        object.spec.get_or_insert_default().replicas = Some(replicas);
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

    fn row(object: &ReplicationController, now: Timestamp) -> Vec<Value> {
        let default = ReplicationControllerSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&default);
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
            json!(labels(spec.selector.as_ref())),
        ]
    }
}

fn validate_spec(spec: &ReplicationControllerSpec, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let counts = [("replicas", spec.replicas), ("minReadySeconds", spec.min_ready_seconds)];
    template::not_negative(&counts, &path, errors);
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        errors.push(FieldError::required(path.child("selector"), ""));
    }
    template::validate_kept(
        spec.template.as_ref(),
        Some(&Selector::from_map(&selector)),
        "ReplicationController",
        &path.child("template"),
        errors,
    );
}
