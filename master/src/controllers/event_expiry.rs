//! Deletes events an hour after they happened last, and the oldest of too many before that.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use tracing::debug;

use super::Context;
use super::driver::{Controller, Next, SyncError};
use crate::api::kinds::event::Events;
use crate::api::objects::DeleteOptions;
use crate::cache::ObjectEvent;

/// How long an event is kept, as in Kubernetes.
const TTL: SignedDuration = SignedDuration::from_hours(1);
/// Events that are kept at the most: some ten megabytes in the cache.
const MAX_EVENTS: usize = 10_000;
/// How many fewer are left when there were too many, so that not every new event deletes one.
const SLACK: usize = MAX_EVENTS / 20;
/// Events that expire within the same time go together: a minute matters to nobody, and saves the
/// others a wake-up each.
const TOGETHER: SignedDuration = SignedDuration::from_secs(60);
/// Deletions under way at a time.
const WRITES: usize = 16;

/// The controller. See the module's documentation.
pub(super) struct EventExpiry {
    context: Context,
    kept: Mutex<Kept>,
}

/// All events by when they happened last.
#[derive(Debug, Default)]
struct Kept {
    by_time: BTreeSet<(Timestamp, ObjectKey)>,
    times: HashMap<ObjectKey, Timestamp>,
}

/// There is one key: all events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AllEvents;

impl fmt::Display for AllEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("events")
    }
}

#[async_trait]
impl Controller for EventExpiry {
    type Key = AllEvents;

    const NAME: &'static str = "event-expiry";

    fn resources(&self) -> Vec<&'static str> {
        vec!["events"]
    }

    fn affected(&self, _: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(AllEvents)) {
        let object = event.object();
        let mut kept = self.kept();
        if let ObjectEvent::Deleted(_) = event {
            kept.remove(&object.key);
            return;
        }
        let first = kept.times.is_empty();
        // An event that does not decode has no time, and is the first to go.
        let time =
            object.decode::<Event>().map_or(Timestamp::UNIX_EPOCH, |event| last_seen(&event));
        kept.insert(object.key.clone(), time);
        // A pass that has ended knows when the next event expires; a newer one does so later.
        if first || kept.times.len() > MAX_EVENTS {
            add(AllEvents);
        }
    }

    fn reset(&self) {
        *self.kept() = Kept::default();
    }

    async fn sync(&self, _: &AllEvents) -> Result<Next, SyncError> {
        let now = Timestamp::now();
        let due = self.kept().due(now);
        debug!(events = due.len(), "deleting events");
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        let deletions = due.into_iter().map(|key| async move {
            match objects.delete::<Events>(&key, DeleteOptions::default(), fence).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => other.map_err(SyncError::write(format!("delete event {key}"))),
            }
        });
        let mut deletions = stream::iter(deletions).buffer_unordered(WRITES);
        let mut result = Ok(());
        while let Some(deleted) = deletions.next().await {
            result = result.and(deleted);
        }
        result?;
        // What was deleted is still in `kept` until its change is told, so this may be too early
        // by one pass, never too late.
        self.context.objects.caches().fresh().await?;
        Ok(self.kept().next(now).map_or(Next::Done, |at| Next::at(at, now)))
    }
}

impl EventExpiry {
    pub(super) fn new(context: Context) -> Self {
        Self { context, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn insert(&mut self, key: ObjectKey, time: Timestamp) {
        self.remove(&key);
        self.by_time.insert((time, key.clone()));
        self.times.insert(key, time);
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(time) = self.times.remove(key) {
            self.by_time.remove(&(time, key.clone()));
        }
    }

    /// Those that have expired, and the oldest of too many.
    fn due(&self, now: Timestamp) -> Vec<ObjectKey> {
        let surplus = match self.times.len() {
            count if count > MAX_EVENTS => count - MAX_EVENTS + SLACK,
            _ => 0,
        };
        let expired = |time: &Timestamp| now.duration_since(*time) >= TTL;
        let all = self.by_time.iter().enumerate();
        all.take_while(|(index, (time, _))| *index < surplus || expired(time))
            .map(|(_, (_, key))| key.clone())
            .collect()
    }

    /// When to look again.
    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let (oldest, _) = self.by_time.first()?;
        let expires = oldest.checked_add(TTL).unwrap_or(Timestamp::MAX).max(now);
        Some(expires.checked_add(TOGETHER).unwrap_or(Timestamp::MAX))
    }
}

fn last_seen(event: &Event) -> Timestamp {
    let metadata = &event.metadata;
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let times = [
        series.map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.first_timestamp.as_ref().map(|time| time.0),
        metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    times.into_iter().flatten().max().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    #[test]
    fn an_event_goes_an_hour_after_it_happened_last() {
        let mut kept = Kept::default();
        kept.insert(key("once"), at(0));
        kept.insert(key("again"), at(0));
        kept.insert(key("again"), at(1800));
        assert!(kept.due(at(3599)).is_empty());
        assert_eq!(kept.due(at(3600)), [key("once")]);
        assert_eq!(kept.next(at(100)), Some(at(3660)));
        kept.remove(&key("once"));
        assert_eq!(kept.next(at(3600)), Some(at(5460)));
        kept.remove(&key("again"));
        assert_eq!(kept.next(at(3600)), None);
        assert!(kept.by_time.is_empty());
    }

    #[test]
    fn the_oldest_of_too_many_go_early() {
        let mut kept = Kept::default();
        for index in 0..=MAX_EVENTS {
            kept.insert(key(&index.to_string()), at(index as i64));
        }
        let due = kept.due(at(10));
        assert_eq!(due.len(), SLACK + 1);
        assert_eq!(due[0], key("0"));
    }

    #[test]
    fn an_event_that_repeats_counts_from_its_last_time() {
        let event: Event = serde_json::from_value(serde_json::json!({
            "metadata": {"creationTimestamp": "1970-01-01T00:00:05Z"}, "involvedObject": {},
            "firstTimestamp": "1970-01-01T00:00:05Z", "lastTimestamp": "1970-01-01T00:10:00Z",
        }))
        .unwrap();
        assert_eq!(last_seen(&event), at(600));
    }
}
