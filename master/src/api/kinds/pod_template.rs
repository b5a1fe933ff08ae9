//! `podtemplates`: templates kept for whoever makes pods of them. The cluster itself makes none.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::columns::{NAME, column, labels, name};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, template};
use crate::api::field_error::FieldErrors;

/// `podtemplates`
#[derive(Debug)]
pub enum PodTemplates {}

impl Kind for PodTemplates {
    type Object = PodTemplate;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    fn default(object: &mut PodTemplate) {
        template::default(object.template.get_or_insert_default());
    }

    fn prepare_create(object: &mut PodTemplate) {
        object.metadata.generation = Some(1);
    }

    fn spec_changed(new: &PodTemplate, old: &PodTemplate) -> bool {
        new.template != old.template
    }

    fn validate(object: &PodTemplate) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let template = object.template.clone().unwrap_or_default();
        template::validate(&template, &Path::new("template"), &mut errors);
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Containers", "string", "Names of each container in the template."),
            column("Images", "string", "Images referenced by each container in the template."),
            column("Pod Labels", "string", "Labels that pods of the template have."),
        ];
        COLUMNS
    }

    fn row(object: &PodTemplate, _now: Timestamp) -> Vec<Value> {
        let template = object.template.as_ref();
        let (containers, images) = template::cells(template);
        let pods = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
        vec![json!(name(&object.metadata)), json!(containers), json!(images), json!(labels(pods))]
    }
}
