//! `priorityclasses`: names for how important pods are. `api/admission/priority.rs` gives pods the
//! priority of the class that they name.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use proto::{k8s as k8s_openapi, priority};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name};
use super::path::Path;
use super::{ClusterConfig, Column, Kind, ResourceInfo, pod};
use crate::api::field_error::{FieldError, FieldErrors};

/// Who has it is the class of all pods that name none.
pub(crate) const DEFAULT_CLAIM: &str = "priority-class/global-default";

/// `priorityclasses`
#[derive(Debug)]
pub enum PriorityClasses {}

impl Kind for PriorityClasses {
    type Object = PriorityClass;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "scheduling.k8s.io",
        version: "v1",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        categories: &[],
        namespaced: false,
        status: false,
        scale: false,
    };

    /// That there is one default at the most is a claim: of two clients at once, one has it.
    const ALLOCATES: bool = true;

    fn default(object: &mut PriorityClass) {
        object.value.get_or_insert(0);
        let policy = &mut object.preemption_policy;
        policy.get_or_insert_with(|| priority::PREEMPT_LOWER.to_owned());
    }

    fn prepare_create(object: &mut PriorityClass) {
        object.metadata.generation = Some(1);
    }

    fn spec_changed(new: &PriorityClass, old: &PriorityClass) -> bool {
        let said = |class: &PriorityClass| {
            (
                class.value,
                is_default(class),
                class.description.clone(),
                class.preemption_policy.clone(),
            )
        };
        said(new) != said(old)
    }

    fn validate(object: &PriorityClass) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let own_name = object.metadata.name.as_deref().unwrap_or_default();
        if own_name.starts_with(priority::SYSTEM_PREFIX) {
            if let Err(why) = is_system(object, own_name) {
                let detail = format!(
                    "priority class names with '{}' prefix are reserved for system use only. \
                     error: {why}",
                    priority::SYSTEM_PREFIX
                );
                errors.push(FieldError::forbidden("metadata.name", detail));
            }
        } else if value(object) > priority::HIGHEST_OF_USERS {
            let detail = format!(
                "maximum allowed value of a user defined priority is {}",
                priority::HIGHEST_OF_USERS
            );
            errors.push(FieldError::forbidden("value", detail));
        }
        let path = Path::new("preemptionPolicy");
        pod::preemption_policy(object.preemption_policy.as_deref(), &path, &mut errors);
        errors
    }

    fn validate_update(new: &PriorityClass, old: &PriorityClass) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if new.value != old.value {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        if new.preemption_policy != old.preemption_policy {
            let policy = new.preemption_policy.as_deref().unwrap_or_default();
            errors.push(FieldError::invalid("preemptionPolicy", policy, "field is immutable"));
        }
        errors
    }

    fn allocate(
        object: &mut PriorityClass,
        old: Option<&PriorityClass>,
        _cluster: &ClusterConfig,
        claimed: &dyn Fn(&str) -> bool,
    ) -> Result<(), FieldErrors> {
        if is_default(object) && !old.is_some_and(is_default) && claimed(DEFAULT_CLAIM) {
            let detail = "another class is already marked as default. Only one default can exist";
            return Err(FieldError::forbidden("globalDefault", detail).into());
        }
        Ok(())
    }

    fn claims(object: &PriorityClass) -> Vec<String> {
        is_default(object).then(|| DEFAULT_CLAIM.to_owned()).into_iter().collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Value", "integer", "The priority of the pods that name the class."),
            column("Global-Default", "boolean", "Whether it is the class of pods that name none."),
            AGE,
            column(
                "PreemptionPolicy",
                "string",
                "Whether lower pods give way to those of the class.",
            ),
        ];
        COLUMNS
    }

    fn row(object: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&object.metadata)),
            json!(value(object)),
            json!(is_default(object)),
            json!(age(&object.metadata, now)),
            json!(object.preemption_policy.as_deref().unwrap_or_default()),
        ]
    }
}

/// The priority of the pods that name the class.
pub(crate) fn value(class: &PriorityClass) -> i32 {
    class.value.unwrap_or(0)
}

/// Whether pods that name no class are of this one.
pub(crate) fn is_default(class: &PriorityClass) -> bool {
    class.global_default == Some(true)
}

/// Whether it is what every cluster has under this name.
fn is_system(class: &PriorityClass, name: &str) -> Result<(), String> {
    let Some(system) = priority::system_class(name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if value(class) != system.value {
        return Err(format!("value of {name} PriorityClass must be {}", system.value));
    }
    if is_default(class) {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

/// The classes that exist from the start.
pub(crate) fn initial() -> impl Iterator<Item = PriorityClass> {
    priority::SYSTEM_CLASSES.iter().map(|system| {
        let mut class = PriorityClass {
            value: Some(system.value),
            description: Some(system.description.to_owned()),
            ..PriorityClass::default()
        };
        class.metadata.name = Some(system.name.to_owned());
        class
    })
}
