//! `deployments`: pods of a template, replaced step by step when the template changes.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name, wide};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, Scaling, pod, template};
use crate::api::field_error::{FieldError, FieldErrors};

/// The strategy that replaces pods a few at a time.
pub const ROLLING_UPDATE: &str = "RollingUpdate";
/// The strategy that ends all old pods before it starts new ones.
pub const RECREATE: &str = "Recreate";

const PERCENT_RULE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// `deployments`
#[derive(Debug)]
pub enum Deployments {}

impl Kind for Deployments {
    type Object = Deployment;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        namespaced: true,
        status: true,
        scale: true,
    };

    fn default(object: &mut Deployment) {
        let spec = &mut object.spec;
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        template::default(&mut spec.template);
        let strategy = spec.strategy.get_or_insert_default();
        if strategy.type_.as_deref().is_none_or(str::is_empty) {
            strategy.type_ = Some(ROLLING_UPDATE.to_owned());
        }
        if strategy.type_.as_deref() == Some(ROLLING_UPDATE) {
            let quarter = || IntOrString::String("25%".to_owned());
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert_with(quarter);
            rolling.max_surge.get_or_insert_with(quarter);
        }
    }

    fn prepare_create(object: &mut Deployment) {
        object.metadata.generation = Some(1);
        object.status = Some(DeploymentStatus::default());
    }

    fn prepare_update(new: &mut Deployment, old: &Deployment) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut Deployment, old: &Deployment) {
        // Annotations stay: the controller notes the revision together with the status, which is no
        // change of what is wanted.
        new.spec.clone_from(&old.spec);
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn spec_changed(new: &Deployment, old: &Deployment) -> bool {
        // Annotations are copied to the ReplicaSets: the controller has to have seen them too.
        new.spec != old.spec || new.metadata.annotations != old.metadata.annotations
    }

    fn validate(object: &Deployment) -> FieldErrors {
        let mut errors = FieldErrors::new();
        validate_spec(&object.spec, &mut errors);
        errors
    }

    fn validate_update(new: &Deployment, old: &Deployment) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let selector = |object: &Deployment| object.spec.selector.clone();
        let changed = selector(new);
        if changed != selector(old) {
            let detail = "field is immutable";
            errors.push(FieldError::invalid("spec.selector", json!(changed), detail));
        }
        errors
    }

    fn validate_status_update(new: &Deployment, old: &Deployment) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let status = new.status.clone().unwrap_or_default();
        let counts = template::Counts {
            replicas: status.replicas.unwrap_or(0),
            parts: [
                ("updatedReplicas", status.updated_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
            ],
            observed_generation: status.observed_generation,
        };
        template::validate_counts(&counts, &mut errors);
        let others = [
            ("unavailableReplicas", status.unavailable_replicas),
            ("terminatingReplicas", status.terminating_replicas),
            ("collisionCount", status.collision_count),
        ];
        template::not_negative(&others, &Path::new("status"), &mut errors);
        let collisions = |object: &Deployment| {
            object.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)
        };
        if collisions(new) < collisions(old) {
            let detail = "cannot be decremented";
            errors.push(FieldError::invalid("status.collisionCount", collisions(new), detail));
        }
        errors
    }

    fn scaling(object: &Deployment) -> Option<Scaling> {
        let spec = &object.spec;
        Some(Scaling {
            desired: spec.replicas.unwrap_or(1),
            observed: object.status.as_ref().and_then(|status| status.replicas).unwrap_or(0),
            selector: template::selector_text(&spec.selector),
        })
    }

    fn set_replicas(object: &mut Deployment, replicas: i32) {
        object.spec.replicas = Some(replicas);
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Ready", "string", "Number of the pods that are ready."),
            column("Up-to-date", "string", "Number of the pods that are of the newest template."),
            column("Available", "string", "Number of the pods that have been ready long enough."),
            AGE,
            template::CONTAINERS,
            template::IMAGES,
            wide("Selector", "string", "Labels of the pods that are counted."),
        ];
        COLUMNS
    }

    fn row(object: &Deployment, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        let status = object.status.clone().unwrap_or_default();
        let (containers, images) = template::cells(Some(&spec.template));
        let ready = status.ready_replicas.unwrap_or_default();
        vec![
            json!(name(&object.metadata)),
            json!(format!("{ready}/{}", spec.replicas.unwrap_or(1))),
            json!(status.updated_replicas.unwrap_or_default()),
            json!(status.available_replicas.unwrap_or_default()),
            json!(age(&object.metadata, now)),
            json!(containers),
            json!(images),
            json!(template::selector_text(&spec.selector)),
        ]
    }
}

fn validate_spec(spec: &DeploymentSpec, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    template::not_negative(&[("replicas", spec.replicas)], &path, errors);
    let selector = template::selector(&spec.selector, &path.child("selector"), errors);
    template::validate_kept(
        Some(&spec.template),
        selector.as_ref(),
        "ReplicaSet",
        &path.child("template"),
        errors,
    );
    validate_strategy(&spec.strategy.clone().unwrap_or_default(), &path.child("strategy"), errors);
    let deadline = spec.progress_deadline_seconds;
    let counts = [
        ("minReadySeconds", spec.min_ready_seconds),
        ("revisionHistoryLimit", spec.revision_history_limit),
        ("progressDeadlineSeconds", deadline),
    ];
    template::not_negative(&counts, &path, errors);
    if let Some(deadline) = deadline
        && deadline <= spec.min_ready_seconds.unwrap_or(0)
    {
        let detail = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(path.child("progressDeadlineSeconds"), deadline, detail));
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path, errors: &mut FieldErrors) {
    let rolling = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        (RECREATE, Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(rolling, detail));
        }
        (RECREATE, None) => {}
        (ROLLING_UPDATE, update) => {
            let update = update.clone().unwrap_or_default();
            let RollingUpdateDeployment { max_surge, max_unavailable } = update;
            let unavailable = rolling.child("maxUnavailable");
            number_or_percent(max_unavailable.as_ref(), &unavailable, errors);
            number_or_percent(max_surge.as_ref(), &rolling.child("maxSurge"), errors);
            let none = |value: &Option<IntOrString>| match value {
                Some(IntOrString::Int(number)) => *number == 0,
                Some(IntOrString::String(text)) => percent(text) == Some(0),
                None => true,
            };
            if none(&max_unavailable) && none(&max_surge) {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(&unavailable, json!(max_unavailable), detail));
            }
            if let Some(IntOrString::String(text)) = &max_unavailable
                && percent(text).is_some_and(|percent| percent > 100)
            {
                let detail = "must not be greater than 100%";
                errors.push(FieldError::invalid(&unavailable, text.as_str(), detail));
            }
        }
        _ => {
            let supported = &[RECREATE, ROLLING_UPDATE];
            errors.push(FieldError::not_supported(path, json!(strategy), supported));
        }
    }
}

/// `25` of `25%`; nothing when it is no percentage.
pub(crate) fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse::<u32>().map_or(i64::from(u32::MAX), i64::from))
}

fn number_or_percent(value: Option<&IntOrString>, path: &Path, errors: &mut FieldErrors) {
    match value {
        Some(IntOrString::Int(number)) if *number < 0 => {
            errors.push(FieldError::invalid(path, *number, pod::NOT_NEGATIVE));
        }
        Some(IntOrString::String(text)) if percent(text).is_none() => {
            errors.push(FieldError::invalid(path, text.as_str(), PERCENT_RULE));
        }
        _ => {}
    }
}
