//! What this node has to tell the master.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::ObjectKey;
use proto::k8s::api::core::v1::{Event, NodeStatus, PodStatus};
use tokio::sync::Notify;

use crate::pressure::node_event;

/// The newest of everything that is to be told, until the session has told it. Bounded by the
/// number of pods: a newer status replaces an older one that was not sent yet.
#[derive(Default)]
pub struct Outbox {
    /// Newest status per pod uid. The whole map is sent again on a new session.
    pub pods: HashMap<String, PodReport>,
    /// Newest node status, when it changed.
    pub node: Option<NodeStatus>,
    /// Oldest first; beyond [`MAX_EVENTS`] the oldest are dropped.
    pub events: VecDeque<Event>,
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

/// What a session has to send now.
#[derive(Debug, Default)]
pub struct Unsent {
    /// By uid.
    pub pods: Vec<(String, PodReport)>,
    /// The node's own status.
    pub node: Option<NodeStatus>,
    /// Oldest first.
    pub events: VecDeque<Event>,
}

/// Events kept while no master can be reached. A node makes a handful per pod start; a thousand
/// covers a restart of all its pods.
pub const MAX_EVENTS: usize = 1024;

/// What Kubernetes keeps of a message is 1024 bytes; of most texts that is as many characters.
const MAX_MESSAGE_CHARACTERS: usize = 1000;

/// A shared handle for those who report.
#[derive(Clone, Default)]
pub struct Reporter {
    outbox: Arc<Mutex<Outbox>>,
    news: Arc<Notify>,
    taken: Arc<Notify>,
    /// How many statuses of the node sessions have taken.
    nodes_taken: Arc<AtomicUsize>,
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

    /// Something about the node itself that somebody should have a look at.
    pub(crate) fn node_warning(&self, node: &str, reason: &str, message: &str) {
        let message = message.chars().take(MAX_MESSAGE_CHARACTERS).collect();
        self.event(node_event(node, "Warning", reason, message));
    }

    /// All that was not sent yet, marked as sent. `wanted` tells whether the master, as far as this
    /// node knows, still has a pod: the removal of one that it does not have is told once and
    /// forgotten.
    pub fn take_unsent(&self, wanted: impl Fn(&ObjectKey, &str) -> bool) -> Unsent {
        let mut outbox = self.lock();
        let mut pods = Vec::new();
        outbox.pods.retain(|uid, report| {
            if !report.sent {
                report.sent = true;
                pods.push((uid.clone(), report.clone()));
            }
            report.status.is_some() || wanted(&report.key, uid)
        });
        let node = outbox.node.take();
        self.nodes_taken.fetch_add(usize::from(node.is_some()), Ordering::Relaxed);
        self.taken.notify_waiters();
        Unsent { pods, node, events: std::mem::take(&mut outbox.events) }
    }

    /// Waits until a session has taken a status of the node after this call, whenever it is waited for.
    pub fn next_node_status(&self) -> impl Future<Output = ()> + use<> {
        let (reporter, before) = (self.clone(), self.nodes_taken.load(Ordering::Relaxed));
        async move {
            loop {
                let taken = reporter.taken.notified();
                tokio::pin!(taken);
                // From here on, so that nothing is taken unseen.
                taken.as_mut().enable();
                if reporter.nodes_taken.load(Ordering::Relaxed) != before {
                    return;
                }
                taken.await;
            }
        }
    }

    /// Waits until a session has taken all that there is to tell.
    pub async fn told(&self) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // From here on, so that nothing is taken unseen.
            taken.as_mut().enable();
            let all = {
                let outbox = self.lock();
                outbox.node.is_none() && outbox.pods.values().all(|report| report.sent)
            };
            if all {
                return;
            }
            taken.await;
        }
    }

    /// A new session knows nothing of what an older one said.
    pub fn resend_all(&self) {
        self.with(|outbox| outbox.pods.values_mut().for_each(|report| report.sent = false));
    }

    /// A pod's status as the master has it. When that says the pod is not ready and the newest
    /// report says it is, while both agree on the phase, the report is sent again. A status that
    /// merely lags behind seldom looks like that, and if it does, no harm is done.
    pub fn reassert(&self, uid: &str, stored: &PodStatus) {
        let mut outbox = self.lock();
        let Some(report) = outbox.pods.get_mut(uid) else { return };
        let Some(reported) = report.status.as_ref().filter(|_| report.sent) else { return };
        if is_ready(reported) && !is_ready(stored) && reported.phase == stored.phase {
            report.sent = false;
            self.news.notify_one();
        }
    }

    /// What the API shows of a pod that came before it: what was reported of it in the meantime had no
    /// place there, and is told again.
    pub fn retell(&self, uid: &str, shown: &PodStatus) {
        self.reassert(uid, shown);
        let mut outbox = self.lock();
        if let Some(report) = outbox.pods.get_mut(uid)
            && shown.start_time.is_none()
            && report.sent
        {
            report.sent = false;
            self.news.notify_one();
        }
    }

    /// Events that the session could not send, the oldest first: they go back to the front.
    pub fn give_back(&self, events: VecDeque<Event>) {
        self.with(|outbox| {
            for event in events.into_iter().rev() {
                if outbox.events.len() < MAX_EVENTS {
                    outbox.events.push_front(event);
                }
            }
        });
    }

    /// The master has deleted the object of this pod: there is nothing to be told again of a pod
    /// that is also gone from the node.
    pub fn pod_deleted(&self, uid: &str) {
        let mut outbox = self.lock();
        if outbox.pods.get(uid).is_some_and(|report| report.status.is_none() && report.sent) {
            outbox.pods.remove(uid);
        }
    }

    /// Edits the outbox and wakes the session.
    pub fn with<R>(&self, edit: impl FnOnce(&mut Outbox) -> R) -> R {
        let result = edit(&mut self.lock());
        self.news.notify_one();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for news.
    pub async fn changed(&self) {
        self.news.notified().await;
    }
}

fn is_ready(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ObjectKey {
        ObjectKey::new("ns", "p")
    }

    fn phase(phase: &str) -> PodStatus {
        PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() }
    }

    fn taken(reporter: &Reporter, wanted: bool) -> Vec<Option<String>> {
        let unsent = reporter.take_unsent(|_, _| wanted);
        unsent.pods.into_iter().map(|(_, report)| report.status?.phase).collect()
    }

    #[test]
    fn a_status_is_sent_once_per_session() {
        let reporter = Reporter::default();
        reporter.pod_status(key(), "u", phase("Pending"));
        reporter.pod_status(key(), "u", phase("Running"));
        assert_eq!(taken(&reporter, true), [Some("Running".to_owned())]);
        assert!(taken(&reporter, true).is_empty());
        reporter.resend_all();
        assert_eq!(taken(&reporter, true), [Some("Running".to_owned())]);
    }

    #[test]
    fn a_removal_is_told_until_the_master_has_deleted_the_pod() {
        let reporter = Reporter::default();
        reporter.pod_removed(key(), "u");
        assert_eq!(taken(&reporter, true), [None]);
        reporter.resend_all();
        assert_eq!(taken(&reporter, true), [None]);
        reporter.pod_deleted("u");
        reporter.resend_all();
        assert!(taken(&reporter, true).is_empty());
    }

    #[test]
    fn a_removal_that_nobody_waits_for_is_told_once() {
        let reporter = Reporter::default();
        reporter.pod_removed(key(), "u");
        assert_eq!(taken(&reporter, false), [None]);
        reporter.resend_all();
        assert!(taken(&reporter, false).is_empty());
    }

    #[test]
    fn a_deletion_does_not_lose_a_removal_that_is_still_to_be_told() {
        let reporter = Reporter::default();
        reporter.pod_removed(key(), "u");
        reporter.pod_deleted("u");
        assert_eq!(taken(&reporter, false), [None]);
    }

    #[test]
    fn readiness_that_somebody_took_away_is_told_again() {
        let with_ready = |state: &str| PodStatus {
            conditions: Some(vec![
                serde_json::from_value(serde_json::json!({"type": "Ready", "status": state}))
                    .unwrap(),
            ]),
            ..phase("Running")
        };
        let reporter = Reporter::default();
        reporter.pod_status(key(), "u", with_ready("True"));
        assert_eq!(taken(&reporter, true).len(), 1);
        reporter.reassert("u", &with_ready("True"));
        reporter.reassert("u", &phase("Pending"));
        assert!(taken(&reporter, true).is_empty());
        reporter.reassert("u", &with_ready("False"));
        assert_eq!(taken(&reporter, true).len(), 1);
    }

    #[test]
    fn events_are_bounded_and_keep_their_order_when_given_back() {
        let reporter = Reporter::default();
        for number in 0..=MAX_EVENTS {
            let event = Event { message: Some(number.to_string()), ..Event::default() };
            reporter.event(event);
        }
        let events = reporter.take_unsent(|_, _| true).events;
        assert_eq!(events.len(), MAX_EVENTS);
        assert_eq!(events[0].message.as_deref(), Some("1"));
        let later = Event { message: Some("later".to_owned()), ..Event::default() };
        reporter.event(later);
        reporter.give_back(events);
        let events = reporter.take_unsent(|_, _| true).events;
        assert_eq!(events.len(), MAX_EVENTS);
        assert_eq!(events.back().unwrap().message.as_deref(), Some("later"));
    }
}
