//! Pods as controllers look at them.
//!
//! A controller reads all pods of an object whenever one of them changes. Decoding them each time
//! would cost more than all the rest, and keeping them decoded more memory than all the rest; so
//! what controllers ask of a pod is taken out once per change and shared.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proto::ObjectKey;
use proto::containers::lasting;
use proto::k8s as k8s_openapi;

use crate::cache::{CachedObject, ResourceCache};
use crate::store::Revision;

/// A named port of a container: what a Service's `targetPort` may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

/// How far a pod has come, in the order in which pods are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// What controllers ask of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodView {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// The owner reference with `controller: true`.
    pub(crate) controller: Option<OwnerReference>,
    pub(crate) created: Timestamp,
    /// Its deletion has begun.
    pub(crate) deleting: bool,
    /// `controller.kubernetes.io/pod-deletion-cost`
    pub(crate) deletion_cost: i32,
    /// Empty while it has none.
    pub(crate) node: String,
    /// Addresses, the primary one first.
    pub(crate) ips: Vec<String>,
    pub(crate) phase: Phase,
    pub(crate) ready: bool,
    /// Since when `ready` is what it is.
    pub(crate) ready_changed: Timestamp,
    /// Of the container that was restarted most often.
    pub(crate) restarts: i32,
    pub(crate) hostname: String,
    pub(crate) subdomain: String,
    pub(crate) ports: Vec<NamedPort>,
    pub(crate) tolerations: Vec<Toleration>,
}

impl PodView {
    /// Whether it runs or may come to run: neither finished nor being deleted.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_finished() && !self.deleting
    }

    /// Whether all its containers ended for good.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// The uid of its controller.
    pub(crate) fn controller_uid(&self) -> Option<&str> {
        self.controller.as_ref().map(|owner| owner.uid.as_str())
    }
}

impl From<&Pod> for PodView {
    fn from(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let created = metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        let ready = condition(pod, "Ready");
        let mut ips: Vec<String> = status.and_then(|s| s.pod_ip.clone()).into_iter().collect();
        for other in status.iter().flat_map(|status| status.pod_ips.iter().flatten()) {
            if !ips.contains(&other.ip) {
                ips.push(other.ip.clone());
            }
        }
        Self {
            key: ObjectKey::new(text(metadata.namespace.as_ref()), text(metadata.name.as_ref())),
            uid: text(metadata.uid.as_ref()),
            labels: metadata.labels.clone().unwrap_or_default(),
            controller: metadata
                .owner_references
                .iter()
                .flatten()
                .find(|owner| owner.controller == Some(true))
                .cloned(),
            created,
            deleting: metadata.deletion_timestamp.is_some(),
            deletion_cost: metadata
                .annotations
                .as_ref()
                .and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"))
                .and_then(|cost| cost.parse().ok())
                .unwrap_or(0),
            node: text(spec.and_then(|spec| spec.node_name.as_ref())),
            ips,
            phase: match status.and_then(|status| status.phase.as_deref()) {
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            },
            ready: ready.is_some_and(|condition| condition.status == "True"),
            ready_changed: ready
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map_or(created, |time| time.0),
            restarts: status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten())
                .map(|container| container.restart_count)
                .max()
                .unwrap_or(0),
            hostname: text(spec.and_then(|spec| spec.hostname.as_ref())),
            subdomain: text(spec.and_then(|spec| spec.subdomain.as_ref())),
            ports: named_ports(pod),
            tolerations: spec.and_then(|spec| spec.tolerations.clone()).unwrap_or_default(),
        }
    }
}

/// A condition of a pod.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn named_ports(pod: &Pod) -> Vec<NamedPort> {
    let ports =
        pod.spec.iter().flat_map(lasting).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.clone()?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.container_port,
            })
        })
        .collect()
}

/// The views of all pods somebody asked for, each made once per change of its pod.
#[derive(Debug)]
pub(crate) struct PodViews {
    pods: Arc<ResourceCache>,
    made: Mutex<HashMap<ObjectKey, (Revision, Arc<PodView>)>>,
}

impl PodViews {
    /// Views of the pods in a cache.
    pub(crate) fn new(pods: Arc<ResourceCache>) -> Self {
        Self { pods, made: Mutex::default() }
    }

    /// The cache behind.
    pub(crate) fn cache(&self) -> &Arc<ResourceCache> {
        &self.pods
    }

    /// The view of a pod.
    ///
    /// # Errors
    /// When the stored pod does not decode.
    pub(crate) fn of(&self, pod: &CachedObject) -> Result<Arc<PodView>, serde_json::Error> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, view)) = made.get(&pod.key)
            && *revision == pod.revision
        {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(PodView::from(&pod.decode::<Pod>()?));
        // Views of pods that are gone are swept out when they may be half of all.
        if made.len() > 2 * self.pods.len() + 64 {
            made.retain(|key, _| self.pods.get(key).is_some());
        }
        made.insert(pod.key.clone(), (pod.revision, Arc::clone(&view)));
        Ok(view)
    }

    /// The views of pods by their keys; those that are gone are left out.
    ///
    /// # Errors
    /// When a stored pod does not decode.
    pub(crate) fn get(
        &self,
        keys: impl IntoIterator<Item = ObjectKey>,
    ) -> Result<Vec<Arc<PodView>>, serde_json::Error> {
        let found = keys.into_iter().filter_map(|key| self.pods.get(&key));
        found.map(|pod| self.of(&pod)).collect()
    }

    /// The views of the pods that are bound to a node.
    ///
    /// # Errors
    /// When a stored pod does not decode.
    pub(crate) fn on_node(&self, node: &str) -> Result<Vec<Arc<PodView>>, serde_json::Error> {
        self.pods.pods_on_node(node).iter().map(|pod| self.of(pod)).collect()
    }
}
