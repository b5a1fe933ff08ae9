//! `events`: what happened to an object, for people to read.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use proto::{k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::columns::{NAME, UNKNOWN, column, name, since, since_timestamp, wide};
use super::path::Path;
use super::{Column, Kind, ResourceInfo};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::cache::{SelectableFields, selectable};

const MAX_WORD: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// `events`
#[derive(Debug)]
pub enum Events {}

impl Kind for Events {
    type Object = Event;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    const CREATE_ON_UPDATE: bool = true;

    const FIELDS: SelectableFields = &[
        selectable("involvedObject.kind", &["involvedObject", "kind"]),
        selectable("involvedObject.namespace", &["involvedObject", "namespace"]),
        selectable("involvedObject.name", &["involvedObject", "name"]),
        selectable("involvedObject.uid", &["involvedObject", "uid"]),
        selectable("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
        selectable("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
        selectable("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
        selectable("reason", &["reason"]),
        selectable("reportingComponent", &["reportingComponent"]),
        selectable("source", &["source", "component"]),
        selectable("source", &["reportingComponent"]),
        selectable("type", &["type"]),
    ];

    fn default(_object: &mut Event) {}

    fn validate(object: &Event) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let involved = object.involved_object.namespace.as_deref().unwrap_or_default();
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let modern = object.event_time.is_some();
        // Events of objects without a namespace are kept in one of the system's.
        let fits = match involved {
            "" if modern => matches!(namespace, "default" | "kube-system"),
            "" => matches!(namespace, "" | "default"),
            _ => modern || involved == namespace,
        };
        if !fits {
            errors.push(FieldError::invalid(
                "involvedObject.namespace",
                involved,
                "does not match event.namespace",
            ));
        }
        if modern {
            validate_modern(object, &mut errors);
        }
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            column("Last Seen", "string", "When this was seen last."),
            column("Type", "string", "Normal or Warning."),
            column("Reason", "string", "Why, in a word for machines."),
            column("Object", "string", "The object this event is about."),
            wide("Subobject", "string", "The part of the object this event is about."),
            wide("Source", "string", "Who reports this event."),
            column("Message", "string", "What happened, for people."),
            wide("First Seen", "string", "When this was seen first."),
            wide("Count", "string", "How often this was seen."),
            Column { priority: 1, ..NAME },
        ];
        COLUMNS
    }

    fn row(object: &Event, now: Timestamp) -> Vec<Value> {
        let micro = |time: Option<&MicroTime>| {
            time.map_or_else(|| UNKNOWN.to_owned(), |time| since_timestamp(time.0, now))
        };
        let first = match &object.first_timestamp {
            Some(time) => since(Some(time), now),
            None => micro(object.event_time.as_ref()),
        };
        let (last, count) = match (&object.series, &object.last_timestamp) {
            (Some(series), _) => (micro(series.last_observed_time.as_ref()), series.count),
            (None, Some(time)) => (since(Some(time), now), object.count),
            (None, None) => (first.clone(), object.count),
        };
        let kind = object.involved_object.kind.as_deref().unwrap_or_default().to_lowercase();
        let target = match object.involved_object.name.as_deref() {
            Some(name) if !name.is_empty() => format!("{kind}/{name}"),
            _ => kind,
        };
        vec![
            json!(last),
            json!(object.type_.as_deref().unwrap_or_default()),
            json!(object.reason.as_deref().unwrap_or_default()),
            json!(target),
            json!(object.involved_object.field_path.as_deref().unwrap_or_default()),
            json!(source(object)),
            json!(object.message.as_deref().unwrap_or_default().trim()),
            json!(first),
            json!(count.unwrap_or_default().max(1)),
            json!(name(&object.metadata)),
        ]
    }
}

fn source(object: &Event) -> String {
    let reported = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let source = object.source.clone().unwrap_or_default();
    let component = reported(&source.component).or_else(|| reported(&object.reporting_component));
    let host = reported(&source.host).or_else(|| reported(&object.reporting_instance));
    [component, host].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Events that say `eventTime` are of the newer form and say who reports them. In both forms these are
/// the names that Kubernetes tells.
fn validate_modern(object: &Event, errors: &mut FieldErrors) {
    let component = object.reporting_component.as_deref().unwrap_or_default();
    let path = "reportingController";
    if component.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for reason in names::qualified_name(component) {
        errors.push(FieldError::invalid(path, component, reason));
    }
    for (name, value) in [
        ("reportingInstance", &object.reporting_instance),
        ("action", &object.action),
        ("reason", &object.reason),
    ] {
        let value = value.as_deref().unwrap_or_default();
        if value.is_empty() {
            errors.push(FieldError::required(Path::new(name), ""));
        } else if value.len() > MAX_WORD {
            let detail = format!("can have at most {MAX_WORD} characters");
            errors.push(FieldError::invalid(Path::new(name), "", detail));
        }
    }
    if object.message.as_ref().is_some_and(|message| message.len() > MAX_MESSAGE) {
        let detail = format!("can have at most {MAX_MESSAGE} characters");
        errors.push(FieldError::invalid("message", "", detail));
    }
}
