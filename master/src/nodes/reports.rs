//! What a node has reported and the master has not yet written: of each pod the newest word only.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::ObjectKey;
use proto::k8s::api::core::v1::{Event, NodeStatus, PodStatus};
use tokio::sync::Notify;

/// The newest word on a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PodWord {
    /// It fares like this.
    Status(Box<PodStatus>),
    /// Nothing of it is left on the node.
    Removed,
}

/// Something to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    /// About a pod.
    Pod {
        /// Its uid.
        uid: String,
        /// Its name.
        key: ObjectKey,
        /// What to write.
        word: PodWord,
    },
    /// About the node.
    Node(Box<NodeStatus>),
    /// For people.
    Event(Box<Event>),
}

/// Says which works must not be done at the same time: two on one pod would race.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Pod(String),
    Node,
    Events,
}

impl Work {
    pub(crate) fn subject(&self) -> Subject {
        match self {
            Self::Pod { uid, .. } => Subject::Pod(uid.clone()),
            Self::Node(_) => Subject::Node,
            Self::Event(_) => Subject::Events,
        }
    }
}

/// Events that wait; beyond, the oldest are dropped. A kubelet keeps as many.
const MAX_EVENTS: usize = 1024;

/// The reports of one session. Bounded: pods by those that are bound to the node, which the caller
/// has made sure of; events by number.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// In the order in which they first came.
    order: VecDeque<String>,
    pods: HashMap<String, (ObjectKey, PodWord)>,
    node: Option<Box<NodeStatus>>,
    events: VecDeque<Box<Event>>,
    /// What is being written.
    busy: HashSet<Subject>,
}

impl Reports {
    /// Takes a report in; it replaces an older one on the same subject.
    pub(crate) fn push(&self, work: Work) {
        let mut inner = self.lock();
        match work {
            Work::Pod { uid, key, word } => {
                if inner.pods.insert(uid.clone(), (key, word)).is_none() {
                    inner.order.push_back(uid);
                }
            }
            Work::Node(status) => inner.node = Some(status),
            Work::Event(event) => {
                if inner.events.len() == MAX_EVENTS {
                    inner.events.pop_front();
                }
                inner.events.push_back(event);
            }
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Something on whose subject nothing is being written; it is being written from now on.
    pub(crate) fn take(&self) -> Option<Work> {
        let mut inner = self.lock();
        let work = inner.next()?;
        inner.busy.insert(work.subject());
        Some(work)
    }

    /// It is written.
    pub(crate) fn done(&self, subject: &Subject) {
        self.lock().busy.remove(subject);
    }

    /// Waits until something was taken in.
    pub(crate) async fn news(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn next(&mut self) -> Option<Work> {
        if !self.busy.contains(&Subject::Node)
            && let Some(status) = self.node.take()
        {
            return Some(Work::Node(status));
        }
        let free =
            self.order.iter().position(|uid| !self.busy.contains(&Subject::Pod(uid.clone())));
        if let Some(uid) = free.and_then(|place| self.order.remove(place))
            && let Some((key, word)) = self.pods.remove(&uid)
        {
            return Some(Work::Pod { uid, key, word });
        }
        if self.busy.contains(&Subject::Events) {
            return None;
        }
        self.events.pop_front().map(Work::Event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: &str, phase: &str) -> Work {
        let status = PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
        let word = PodWord::Status(Box::new(status));
        Work::Pod { uid: uid.to_owned(), key: ObjectKey::new("ns", uid), word }
    }

    fn removed(uid: &str) -> Work {
        Work::Pod { uid: uid.to_owned(), key: ObjectKey::new("ns", uid), word: PodWord::Removed }
    }

    #[test]
    fn a_newer_word_on_a_pod_replaces_one_that_waits() {
        let reports = Reports::default();
        reports.push(status("a", "Pending"));
        reports.push(status("b", "Pending"));
        reports.push(status("a", "Running"));
        assert_eq!(reports.take(), Some(status("a", "Running")));
        assert_eq!(reports.take(), Some(status("b", "Pending")));
        assert_eq!(reports.take(), None);
    }

    #[test]
    fn nothing_is_written_twice_at_once_on_one_subject() {
        let reports = Reports::default();
        reports.push(status("a", "Running"));
        let first = reports.take().unwrap();
        reports.push(removed("a"));
        assert_eq!(reports.take(), None);
        reports.done(&first.subject());
        assert_eq!(reports.take(), Some(removed("a")));
    }

    #[test]
    fn events_are_bounded_and_written_one_by_one() {
        let reports = Reports::default();
        for number in 0..=MAX_EVENTS {
            let event = Event { message: Some(number.to_string()), ..Event::default() };
            reports.push(Work::Event(Box::new(event)));
        }
        let Some(Work::Event(first)) = reports.take() else { panic!("an event waits") };
        assert_eq!(first.message.as_deref(), Some("1"));
        assert_eq!(reports.take(), None);
        reports.done(&Subject::Events);
        assert!(reports.take().is_some());
    }
}
