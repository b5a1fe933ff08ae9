//! Following a resource: a bounded queue per subscriber, filled with what it is interested in.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::ObjectKey;
use tokio::sync::Notify;

use crate::cache::{Lagged, ObjectEvent, ResourceCache};
use crate::store::Revision;

/// How many events a subscriber may be behind beyond those it started with; then it is cut off.
/// At a thousand changes per second these are some seconds.
const MAX_QUEUE: usize = 4096;

/// The same in bytes of JSON. The queue keeps objects that were superseded long ago; without this
/// bound a reader that stalls could hold gigabytes of large ones.
const MAX_QUEUED_BYTES: usize = 32 << 20;

/// How often an idle subscription tells how far it has come: as often as Kubernetes sends bookmarks.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(60);

/// The part of a resource that a subscriber wants to hear of. Events outside of it cost nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// Everything.
    All,
    /// The objects of a namespace.
    Namespace(String),
    /// One object.
    Object(ObjectKey),
    /// Objects whose selectable field has this value, and those that had it until now.
    Field(&'static str, String),
}

/// What a subscriber is told.
#[derive(Clone, Debug)]
pub enum Update {
    /// Something changed.
    Event(ObjectEvent),
    /// Nothing more happened up to this revision.
    Progress(Revision),
}

/// One subscriber's place, shared with the cache.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) interest: Interest,
    /// Events up to here were known to the subscriber when it came.
    after: Revision,
    bound: usize,
    bound_bytes: usize,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<ObjectEvent>,
    bytes: usize,
    lagged: bool,
}

impl Queue {
    fn lagged() -> Self {
        Self { lagged: true, ..Self::default() }
    }
}

fn bytes(event: &ObjectEvent) -> usize {
    event.object().json.len()
}

impl Subscriber {
    pub(crate) fn new(interest: Interest, after: Revision, missed: Vec<ObjectEvent>) -> Self {
        let missed_bytes = missed.iter().map(bytes).sum();
        let queue = Queue { events: missed.into(), bytes: missed_bytes, lagged: false };
        Self {
            interest,
            after,
            bound: queue.events.len() + MAX_QUEUE,
            bound_bytes: missed_bytes + MAX_QUEUED_BYTES,
            queue: Mutex::new(queue),
            wake: Notify::new(),
        }
    }

    /// Queues events, or cuts the subscriber off when it is too far behind.
    pub(crate) fn push(&self, events: &[&ObjectEvent]) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lagged {
            return;
        }
        let news = events.iter().filter(|event| event.revision() > self.after);
        for event in news {
            queue.bytes += bytes(event);
            queue.events.push_back((*event).clone());
        }
        // One event is no lag, however large.
        let too_large = queue.bytes > self.bound_bytes && queue.events.len() > 1;
        if queue.events.len() > self.bound || too_large {
            *queue = Queue::lagged();
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Cuts the subscriber off: it cannot be told what happened.
    pub(crate) fn cut_off(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        *queue = Queue::lagged();
        drop(queue);
        self.wake.notify_one();
    }

    fn pop(&self) -> Result<Option<ObjectEvent>, Lagged> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lagged {
            return Err(Lagged);
        }
        let event = queue.events.pop_front();
        queue.bytes -= event.as_ref().map_or(0, bytes);
        if queue.events.is_empty() && queue.events.capacity() > 64 {
            queue.events.shrink_to(16);
        }
        Ok(event)
    }

    pub(crate) fn is_empty(&self) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.events.is_empty() && !queue.lagged
    }
}

/// Follows a resource. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) cache: Arc<ResourceCache>,
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) told: Revision,
}

impl Subscription {
    /// The next change in the order of revisions, or after a quiet minute how far the cache has come.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Lagged`] when the reader was too slow, or what happened is not known; it has to list again.
    pub async fn next(&mut self) -> Result<Update, Lagged> {
        loop {
            if let Some(event) = self.subscriber.pop()? {
                self.told = event.revision();
                return Ok(Update::Event(event));
            }
            tokio::select! {
                () = self.subscriber.wake.notified() => {}
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                    if let Some(revision) = self.progress() {
                        return Ok(Update::Progress(revision));
                    }
                }
            }
        }
    }

    /// An event that waits already.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn try_next(&mut self) -> Result<Option<ObjectEvent>, Lagged> {
        let event = self.subscriber.pop()?;
        if let Some(event) = &event {
            self.told = event.revision();
        }
        Ok(event)
    }

    /// How far the cache has come, if that is further than what was told and no event is waiting.
    pub fn progress(&mut self) -> Option<Revision> {
        let revision = self.cache.progress_of(&self.subscriber)?;
        (revision > self.told).then(|| {
            self.told = revision;
            revision
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.cache.unsubscribe(&self.subscriber);
    }
}
