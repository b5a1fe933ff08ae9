//! Events: what happened to an object, told to people.
//!
//! Whoever sees something happen [`record`](EventRecorder::record)s it and goes on; nobody waits for
//! an event. One task correlates what comes in (repeats raise a count, floods are cut down) and
//! writes the outcome.
//!
//! ```text
//!   record ──(bounded queue)──► Correlator (pure) ──► Objects::create / update
//! ```

mod correlate;
mod recorder;

#[cfg(test)]
mod tests;

pub use recorder::EventRecorder;

use k8s_openapi::api::core::v1::ObjectReference;
use proto::k8s as k8s_openapi;

/// Whether an event is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// `Normal`
    Normal,
    /// `Warning`
    Warning,
}

impl Severity {
    /// The value of the event's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurrence {
    /// The object.
    pub object: ObjectReference,
    /// Whether it is as it should be.
    pub severity: Severity,
    /// One word for machines: `FailedScheduling`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Who saw it: `default-scheduler`, `kubelet`.
    pub component: String,
    /// The node on which it was seen; empty for masters.
    pub host: String,
}

impl Occurrence {
    /// Something as it should be, seen by a part of the master.
    pub fn normal(
        component: &str,
        object: ObjectReference,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            object,
            severity: Severity::Normal,
            reason: reason.to_owned(),
            message: message.into(),
            component: component.to_owned(),
            host: String::new(),
        }
    }

    /// Something that is not as it should be, seen by a part of the master.
    pub fn warning(
        component: &str,
        object: ObjectReference,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::normal(component, object, reason, message) }
    }
}

/// Names an object of the core group in an event.
pub fn reference(kind: &str, key: &proto::ObjectKey, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: (!key.namespace.is_empty()).then(|| key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}
