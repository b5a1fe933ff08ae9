//! What this node has to tell the master.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use proto::ObjectKey;
use proto::k8s::api::core::v1::{Event, NodeStatus, PodStatus};
use tokio::sync::Notify;

/// The newest of everything that is to be told, until the session has told it. Bounded by the
/// number of pods: a newer status replaces an older one that was not sent yet.
#[derive(Default)]
pub struct Outbox {
    /// Newest status per pod uid. The whole map is sent again on a new session.
    pub pods: HashMap<String, PodReport>,
    /// Newest node status, when it changed.
    pub node: Option<NodeStatus>,
    /// Oldest first; beyond [`MAX_EVENTS`] the oldest are dropped.
    pub events: std::collections::VecDeque<Event>,
}

/// The newest word on one pod.
#[derive(Clone, Debug)]
pub struct PodReport {
    /// Which pod.
    pub key: ObjectKey,
    /// Nothing: everything of the pod is gone from this node.
    pub status: Option<PodStatus>,
    /// Whether the present session has sent it.
    pub sent: bool,
}

/// Events kept while no master can be reached. A node makes a handful per pod start; a thousand
/// covers a restart of all its pods.
pub const MAX_EVENTS: usize = 1024;

/// A shared handle for those who report.
#[derive(Clone, Default)]
pub struct Reporter {
    outbox: Arc<Mutex<Outbox>>,
    news: Arc<Notify>,
}

impl Reporter {
    /// A pod's status changed.
    pub fn pod_status(&self, key: ObjectKey, uid: &str, status: PodStatus) {
        self.with(|outbox| {
            outbox
                .pods
                .insert(uid.to_owned(), PodReport { key, status: Some(status), sent: false });
        });
    }

    /// Nothing of the pod is left on this node; the master may delete its object.
    pub fn pod_removed(&self, key: ObjectKey, uid: &str) {
        self.with(|outbox| {
            outbox.pods.insert(uid.to_owned(), PodReport { key, status: None, sent: false });
        });
    }

    /// The node's own status changed.
    pub fn node_status(&self, status: NodeStatus) {
        self.with(|outbox| outbox.node = Some(status));
    }

    /// Something people want to see in `describe`.
    pub fn event(&self, event: Event) {
        self.with(|outbox| {
            if outbox.events.len() == MAX_EVENTS {
                outbox.events.pop_front();
            }
            outbox.events.push_back(event);
        });
    }

    /// Edits the outbox and wakes the session.
    pub fn with<R>(&self, edit: impl FnOnce(&mut Outbox) -> R) -> R {
        let result =
            edit(&mut self.outbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        self.news.notify_one();
        result
    }

    /// Waits for news.
    pub async fn changed(&self) {
        self.news.notified().await;
    }
}
