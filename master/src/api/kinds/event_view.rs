//! `events` of the group `events.k8s.io`: the same events in the newer form, in which the newer
//! recorders of clients write them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSeries, ObjectReference};
use k8s_openapi::api::events::v1::{Event as Told, EventSeries as ToldSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::{Column, Events, Kind, ResourceInfo};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::api::view::{AnyView, View};
use crate::cache::SelectableFields;

/// What of an event is called otherwise: how it is stored, and how it is told.
pub(crate) const RENAMED: [(&str, &str); 7] = [
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// `events.events.k8s.io`
#[derive(Debug)]
pub enum EventsView {}

impl Kind for EventsView {
    type Object = Event;

    const RESOURCE: ResourceInfo =
        ResourceInfo { group: "events.k8s.io", version: "v1", ..Events::RESOURCE };

    const FIELDS: SelectableFields = Events::FIELDS;

    fn view() -> Option<&'static dyn AnyView> {
        Some(&InTheNewerForm)
    }

    const CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut Event) {
        Events::default(object);
    }

    fn validate(object: &Event) -> FieldErrors {
        Events::validate(object)
    }

    // An update may be of an event that was made in the older form.
    fn validate_create(object: &Event) -> FieldErrors {
        let mut errors = FieldErrors::new();
        validate_series(object.series.as_ref(), &mut errors);
        if object.event_time.is_none() {
            errors.push(FieldError::required("eventTime", ""));
        }
        let type_ = object.type_.as_deref().unwrap_or_default();
        if !matches!(type_, "Normal" | "Warning") {
            errors.push(FieldError::invalid("type", "", format!("has invalid value: {type_}")));
        }
        let source = object.source.clone().unwrap_or_default();
        for (field, set) in [
            ("firstTimestamp", object.first_timestamp.is_some()),
            ("lastTimestamp", object.last_timestamp.is_some()),
            ("count", object.count.unwrap_or(0) != 0),
            ("source", source.component.is_some() || source.host.is_some()),
        ] {
            if set {
                errors.push(FieldError::invalid(field, "", "needs to be unset"));
            }
        }
        errors
    }

    fn validate_update(new: &Event, old: &Event) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if new.series != old.series {
            validate_series(new.series.as_ref(), &mut errors);
        }
        let [new, old] = [new, old].map(fixed);
        for ((field, new), (_, old)) in new.into_iter().zip(old) {
            if new != old {
                errors.push(FieldError::invalid(field, new, "field is immutable"));
            }
        }
        errors
    }

    fn columns() -> &'static [Column] {
        Events::columns()
    }

    fn row(object: &Event, now: Timestamp) -> Vec<Value> {
        Events::row(object, now)
    }
}

/// What an update may not change: everything but the series.
fn fixed(event: &Event) -> [(&'static str, Value); 13] {
    [
        ("involvedObject", json!(event.involved_object)),
        ("reason", json!(event.reason)),
        ("message", json!(event.message)),
        ("source", json!(event.source.clone().unwrap_or_default())),
        ("firstTimestamp", json!(event.first_timestamp)),
        ("lastTimestamp", json!(event.last_timestamp)),
        ("count", json!(event.count.unwrap_or(0))),
        ("type", json!(event.type_)),
        ("eventTime", json!(event.event_time)),
        ("action", json!(event.action)),
        ("related", json!(event.related)),
        ("reportingController", json!(event.reporting_component.clone().unwrap_or_default())),
        ("reportingInstance", json!(event.reporting_instance.clone().unwrap_or_default())),
    ]
}

fn validate_series(series: Option<&EventSeries>, errors: &mut FieldErrors) {
    let Some(series) = series else { return };
    if series.count.unwrap_or(0) < 2 {
        errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if series.last_observed_time.is_none() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
}

struct InTheNewerForm;

impl View for InTheNewerForm {
    type Object = Event;
    type Wire = Told;

    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("regarding.kind", "involvedObject.kind"),
        ("regarding.namespace", "involvedObject.namespace"),
        ("regarding.name", "involvedObject.name"),
        ("regarding.uid", "involvedObject.uid"),
        ("regarding.apiVersion", "involvedObject.apiVersion"),
        ("regarding.resourceVersion", "involvedObject.resourceVersion"),
        ("regarding.fieldPath", "involvedObject.fieldPath"),
        ("reason", "reason"),
        ("reportingController", "reportingComponent"),
        ("type", "type"),
    ];

    // Both ways field by field, so that a new one does not compile until somebody considers it.
    fn stored(wire: Told) -> Event {
        let Told {
            action,
            deprecated_count,
            deprecated_first_timestamp,
            deprecated_last_timestamp,
            deprecated_source,
            event_time,
            metadata,
            note,
            reason,
            regarding,
            related,
            reporting_controller,
            reporting_instance,
            series,
            type_,
        } = wire;
        let series = series.map(|ToldSeries { count, last_observed_time }| EventSeries {
            count: Some(count),
            last_observed_time: Some(last_observed_time),
        });
        Event {
            action,
            count: deprecated_count,
            event_time,
            first_timestamp: deprecated_first_timestamp,
            involved_object: regarding.unwrap_or_default(),
            last_timestamp: deprecated_last_timestamp,
            message: note,
            metadata,
            reason,
            related,
            reporting_component: reporting_controller,
            reporting_instance,
            series,
            source: deprecated_source,
            type_,
        }
    }

    fn told(object: Event) -> Told {
        let Event {
            action,
            count,
            event_time,
            first_timestamp,
            involved_object,
            last_timestamp,
            message,
            metadata,
            reason,
            related,
            reporting_component,
            reporting_instance,
            series,
            source,
            type_,
        } = object;
        let series = series.map(|EventSeries { count, last_observed_time }| ToldSeries {
            count: count.unwrap_or_default(),
            last_observed_time: last_observed_time.unwrap_or(MicroTime(Timestamp::UNIX_EPOCH)),
        });
        let regarding = (involved_object != ObjectReference::default()).then_some(involved_object);
        Told {
            action,
            deprecated_count: count,
            deprecated_first_timestamp: first_timestamp,
            deprecated_last_timestamp: last_timestamp,
            deprecated_source: source,
            event_time,
            metadata,
            note: message,
            reason,
            regarding,
            related,
            reporting_controller: reporting_component,
            reporting_instance,
            series,
            type_,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_name_is_known() {
        let stored = json!({
            "action": "a", "count": 2, "eventTime": "2026-01-01T11:00:00.000000Z",
            "firstTimestamp": "2026-01-01T11:00:00Z", "involvedObject": {"name": "o"},
            "lastTimestamp": "2026-01-01T11:00:01Z", "message": "m", "metadata": {"name": "e"},
            "reason": "r", "related": {"name": "p"}, "reportingComponent": "c",
            "reportingInstance": "i", "source": {"host": "h"}, "type": "Normal",
            "series": {"count": 2, "lastObservedTime": "2026-01-01T11:00:00.000000Z"},
        });
        let event: Event = serde_json::from_value(stored.clone()).unwrap();
        let mut told = serde_json::to_value(<InTheNewerForm as View>::told(event)).unwrap();
        let told = told.as_object_mut().unwrap();
        for (name, value) in stored.as_object().unwrap() {
            let other = RENAMED.iter().find(|(stored, _)| stored == name).map(|(_, told)| *told);
            assert_eq!(told.remove(other.unwrap_or(name)).as_ref(), Some(value), "{name}");
        }
        told.retain(|name, _| name != "apiVersion" && name != "kind");
        assert!(told.is_empty(), "{told:?}");
    }
}
