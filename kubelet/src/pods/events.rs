//! Events about a pod, in Kubernetes' words.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use proto::k8s::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use proto::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::clock::Clock;
use super::names::PodIdentity;
use super::spec::{self, Role};
use super::status::seconds;
use crate::reporter::Reporter;

/// Tells people what happens to one pod.
#[derive(Clone)]
pub(crate) struct Teller {
    reporter: Reporter,
    clock: Clock,
    node: String,
    pod: PodIdentity,
    /// Whose field of the specification is not `containers`.
    roles: Arc<BTreeMap<String, Role>>,
}

/// Kubernetes bounds an event's message to 1024 bytes.
const MAX_MESSAGE: usize = 1024;

impl Teller {
    pub(crate) fn new(reporter: Reporter, clock: Clock, node: String, pod: PodIdentity) -> Self {
        Self { reporter, clock, node, pod, roles: Arc::default() }
    }

    /// The same, knowing the containers of this pod.
    pub(crate) fn knowing(&self, pod: &Pod) -> Self {
        let others = spec::roles(pod).filter(|(role, _)| *role != Role::Regular);
        let roles = others.map(|(role, name)| (name.to_owned(), role)).collect();
        Self { roles: Arc::new(roles), ..self.clone() }
    }

    fn field(&self, container: &str) -> String {
        let list = self.roles.get(container).unwrap_or(&Role::Regular).list();
        format!("spec.{list}{{{container}}}")
    }

    /// All is well.
    pub(crate) fn normal(&self, container: Option<&str>, reason: &str, message: String) {
        self.tell("Normal", container, reason, message);
    }

    /// Somebody should have a look.
    pub(crate) fn warning(&self, container: Option<&str>, reason: &str, message: String) {
        self.tell("Warning", container, reason, message);
    }

    fn tell(&self, kind: &str, container: Option<&str>, reason: &str, mut message: String) {
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE - 3).rev().find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or(0));
            message.push_str("...");
        }
        self.reporter.event(self.event(kind, container, reason, message, self.clock.now()));
    }

    fn event(
        &self,
        kind: &str,
        container: Option<&str>,
        reason: &str,
        message: String,
        now: Timestamp,
    ) -> Event {
        let key = &self.pod.key;
        Event {
            count: Some(1),
            first_timestamp: Some(seconds(now)),
            last_timestamp: Some(seconds(now)),
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                field_path: container.map(|name| self.field(name)),
                kind: Some("Pod".to_owned()),
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                resource_version: None,
                uid: Some(self.pod.uid.clone()),
            },
            message: Some(message),
            metadata: ObjectMeta {
                namespace: Some(key.namespace.clone()),
                ..ObjectMeta::default()
            },
            reason: Some(reason.to_owned()),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.clone()),
            }),
            type_: Some(kind.to_owned()),
            ..Event::default()
        }
    }
}
