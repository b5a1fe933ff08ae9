//! The way up: a node's reports, written into the objects of its pods and its own. Every write
//! holds only while the session does, so a session that was replaced cannot write any more.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::StatusCode;
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Event, EventSource, NodeStatus, PodStatus};
use proto::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proto::k8s::jiff::Timestamp;
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use super::reports::{PodWord, Reports, Work};
use super::{merge, mirrors};
use crate::api::error::ApiError;
use crate::api::kinds::{Events, Nodes, Pods};
use crate::api::objects::{DeleteOptions, Objects, Part};
use crate::store::Compare;

/// Writes of one session at the same time: enough that fifty pods that start together do not wait
/// for each other's disk, few enough that a node does not crowd out the rest.
const CONCURRENT_WRITES: usize = 16;

/// Writes the reports of one session.
pub(crate) struct Writer {
    pub(crate) objects: Objects,
    pub(crate) node: String,
    pub(crate) fence: Vec<Compare>,
    pub(crate) reports: Arc<Reports>,
}

impl Writer {
    /// Writes what is reported until a write fails in a way that the next one would as well. The
    /// node then tells everything again on its next session.
    pub(crate) async fn run(&self) -> ApiError {
        let mut writes = FuturesUnordered::new();
        loop {
            while writes.len() < CONCURRENT_WRITES {
                let Some(work) = self.reports.take() else { break };
                let subject = work.subject();
                writes.push(async move { (subject, self.write(work).await) });
            }
            tokio::select! {
                Some((subject, result)) = writes.next() => {
                    self.reports.done(&subject);
                    if let Err(error) = result
                        && let Some(error) = self.judge(error)
                    {
                        return error;
                    }
                }
                () = self.reports.news() => {}
            }
        }
    }

    /// The error, when it is about more than this one report.
    fn judge(&self, error: ApiError) -> Option<ApiError> {
        let unreachable = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
        if error.is_fenced_off() || unreachable.contains(&error.code()) {
            return Some(error);
        }
        // The object has gone or is another one now, which the node is about to hear; or the
        // report is not valid, which is worth a look.
        if error.is_not_found() || error.is_conflict() {
            debug!(node = self.node, %error, "a report came too late");
        } else {
            warn!(node = self.node, %error, "refused a report");
        }
        None
    }

    async fn write(&self, work: Work) -> Result<(), ApiError> {
        match work {
            Work::Pod { uid, key, word: PodWord::Status(status) } => {
                self.pod_status(&uid, &key, *status).await
            }
            Work::Pod { uid, key, word: PodWord::Removed } => {
                let options = DeleteOptions {
                    uid: Some(uid),
                    grace_period_seconds: Some(0),
                    ..DeleteOptions::default()
                };
                self.objects.delete::<Pods>(&key, options, &self.fence).await
            }
            Work::Node(status) => self.node_status(*status).await,
            Work::Event(event) => self.event(*event).await,
        }
    }

    async fn pod_status(
        &self,
        uid: &str,
        key: &ObjectKey,
        status: PodStatus,
    ) -> Result<(), ApiError> {
        let update = self.objects.update::<Pods>(key, Part::Status, &self.fence, |pod| {
            let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let shown = pod.metadata.annotations.as_ref().and_then(|all| all.get(mirrors::MIRROR));
            let same = pod.metadata.uid.as_deref() == Some(uid) || shown.is_some_and(|s| s == uid);
            same && bound == Some(&self.node) && merge::pod_status(pod, status.clone())
        });
        update.await.map(drop)
    }

    pub(crate) async fn node_status(&self, status: NodeStatus) -> Result<(), ApiError> {
        let key = ObjectKey::new("", self.node.as_str());
        let now = Timestamp::now();
        let update = self.objects.update::<Nodes>(&key, Part::Status, &self.fence, |node| {
            merge::node_status(node, status.clone(), now)
        });
        update.await.map(drop)
    }

    /// The same event again is counted, not kept twice.
    async fn event(&self, event: Event) -> Result<(), ApiError> {
        let event = prepare_event(event, &self.node, Timestamp::now());
        let key = ObjectKey::new(
            event.metadata.namespace.clone().unwrap_or_default(),
            event.metadata.name.clone().unwrap_or_default(),
        );
        let counted = self.objects.update::<Events>(&key, Part::Spec, &self.fence, |known| {
            known.count = Some(known.count.unwrap_or(1).saturating_add(event.count.unwrap_or(1)));
            known.last_timestamp.clone_from(&event.last_timestamp);
            true
        });
        match counted.await {
            Err(error) if error.is_not_found() => {
                self.objects.create::<Events>(event, &self.fence).await.map(drop)
            }
            counted => counted.map(drop),
        }
    }
}

/// Room for a dot and sixteen digits in a name of 253 characters.
const MAX_NAME_BEFORE_HASH: usize = 236;

/// Names the event after its object and what it says, and says who reports it.
pub(crate) fn prepare_event(mut event: Event, node: &str, now: Timestamp) -> Event {
    let involved = &event.involved_object;
    let namespace = involved.namespace.clone().filter(|namespace| !namespace.is_empty());
    let mut hash = Sha256::new();
    let parts = [
        &involved.kind,
        &involved.uid,
        &involved.field_path,
        &event.type_,
        &event.reason,
        &event.message,
    ];
    for part in parts {
        hash.update(part.as_deref().unwrap_or_default());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let object: String =
        involved.name.as_deref().unwrap_or_default().chars().take(MAX_NAME_BEFORE_HASH).collect();
    event.metadata = ObjectMeta {
        name: Some(format!("{object}.{digits}")),
        namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
        ..ObjectMeta::default()
    };
    event.source =
        Some(EventSource { component: Some("kubelet".to_owned()), host: Some(node.to_owned()) });
    event.reporting_component = Some("kubelet".to_owned());
    event.reporting_instance = Some(node.to_owned());
    event.count = Some(event.count.unwrap_or(1).max(1));
    event.first_timestamp.get_or_insert(Time(now));
    event.last_timestamp.get_or_insert(Time(now));
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str) -> Event {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "chosen-by-the-node", "namespace": "kube-system"},
            "involvedObject": {"kind": "Pod", "namespace": "ns", "name": "web", "uid": "u1"},
            "reason": "Started", "message": message, "type": "Normal",
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn an_event_is_named_after_what_it_says() {
        let first = prepare_event(event("a"), "n1", now());
        assert!(first.metadata.name.as_ref().unwrap().starts_with("web."));
        assert_eq!(first.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(first.metadata.name, prepare_event(event("a"), "n1", now()).metadata.name);
        assert_ne!(first.metadata.name, prepare_event(event("b"), "n1", now()).metadata.name);
    }

    #[test]
    fn an_event_tells_the_node_it_comes_from_whatever_the_node_says() {
        let mut forged = event("a");
        forged.source =
            Some(EventSource { component: Some("scheduler".into()), host: Some("n2".into()) });
        let prepared = prepare_event(forged, "n1", now());
        let source = prepared.source.unwrap();
        assert_eq!(source.host.as_deref(), Some("n1"));
        assert_eq!(source.component.as_deref(), Some("kubelet"));
        assert_eq!(prepared.count, Some(1));
        assert_eq!(prepared.last_timestamp, Some(Time(now())));
    }
}
