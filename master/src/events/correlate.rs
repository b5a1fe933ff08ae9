//! What becomes of an occurrence: an event, one more on an event's count, or nothing. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::{Occurrence, Severity};

/// How many things are remembered of each sort. Kubernetes' value, which has proved enough.
const REMEMBERED: usize = 4096;
/// What one source may say of one object at once, and how fast it may say more: 25, and then one in
/// five minutes, as in Kubernetes.
const FLOOD_BURST: u32 = 25;
const FLOOD_REFILL: SignedDuration = SignedDuration::from_secs(300);
/// So many messages of one reason within ten minutes are told apart; more become one event.
const SIMILAR: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);
/// The API takes no more.
const MAX_MESSAGE: usize = 1024;
/// Events of objects without a namespace live here.
const NAMESPACE_OF_CLUSTER: &str = "default";

/// Who said what of which object, without the words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Similar {
    component: String,
    host: String,
    severity: Severity,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field_path: String,
    reason: String,
}

/// What makes two occurrences the same event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    similar: Similar,
    /// Empty for an event that stands for many messages.
    message: String,
}

/// An event as it should be stored.
#[derive(Clone, Debug)]
struct Known {
    event: Event,
    /// Whether it has been written once.
    stored: bool,
    /// Whether a write is on its way.
    writing: bool,
    /// Whether it is newer than what was written.
    dirty: bool,
}

/// A write that is due.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    /// The event is new.
    Create(Box<Event>),
    /// The event is there and happened again.
    Repeat { key: ObjectKey, event: Box<Event> },
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    filled: Timestamp,
}

#[derive(Debug)]
struct Messages {
    seen: HashSet<String>,
    last: Timestamp,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    known: Recent<Identity, Known>,
    buckets: Recent<Similar, Bucket>,
    messages: Recent<Similar, Messages>,
    dirty: VecDeque<Identity>,
    /// For names: two events of one object may happen at the same instant.
    last_stamp: i128,
}

impl Correlator {
    /// Takes an occurrence in.
    pub(super) fn add(&mut self, occurrence: Occurrence, now: Timestamp) {
        let similar = Similar::of(&occurrence);
        if !self.admit(&similar, now) {
            return;
        }
        let mut message = occurrence.message.clone();
        truncate(&mut message);
        let combined = self.is_one_of_many(&similar, &message, now);
        if combined {
            message = format!("(combined from similar events): {message}");
            truncate(&mut message);
        }
        let identity =
            Identity { similar, message: if combined { String::new() } else { message.clone() } };
        if let Some(known) = self.known.get_mut(&identity) {
            let event = &mut known.event;
            event.count = Some(event.count.unwrap_or(1).saturating_add(1));
            event.last_timestamp = Some(Time(now));
            event.message = Some(message);
            known.mark(&identity, &mut self.dirty);
            return;
        }
        let stamp = now.as_nanosecond().max(self.last_stamp + 1);
        self.last_stamp = stamp;
        let event = new_event(occurrence, message, now, stamp);
        let mut known = Known { event, stored: false, writing: false, dirty: false };
        known.mark(&identity, &mut self.dirty);
        self.known.insert(identity, known);
    }

    /// How many events are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.known.young.len() + self.known.old.len()
    }

    /// How many writes are due.
    pub(super) fn backlog(&self) -> usize {
        self.dirty.len()
    }

    /// The next write that is due. Its end has to be told by [`written`](Self::written).
    pub(super) fn take(&mut self) -> Option<(Identity, Write)> {
        while let Some(identity) = self.dirty.pop_front() {
            // Forgotten for newer ones meanwhile.
            let Some(known) = self.known.get_mut(&identity) else { continue };
            if known.writing || !known.dirty {
                continue;
            }
            known.writing = true;
            known.dirty = false;
            let event = Box::new(known.event.clone());
            let write = if known.stored {
                let metadata = &event.metadata;
                let key = ObjectKey::new(
                    metadata.namespace.clone().unwrap_or_default(),
                    metadata.name.clone().unwrap_or_default(),
                );
                Write::Repeat { key, event }
            } else {
                Write::Create(event)
            };
            return Some((identity, write));
        }
        None
    }

    /// A write ended. When it failed the event is forgotten: its next occurrence makes a new one.
    pub(super) fn written(&mut self, identity: Identity, succeeded: bool) {
        if !succeeded {
            self.known.remove(&identity);
            return;
        }
        if let Some(known) = self.known.get_mut(&identity) {
            known.writing = false;
            known.stored = true;
            if known.dirty {
                self.dirty.push_back(identity);
            }
        }
    }

    /// Takes a token of the source and object, if one is left.
    fn admit(&mut self, similar: &Similar, now: Timestamp) -> bool {
        let source = Similar {
            reason: String::new(),
            severity: Severity::Normal,
            field_path: String::new(),
            ..similar.clone()
        };
        if self.buckets.get_mut(&source).is_none() {
            self.buckets.insert(source.clone(), Bucket { left: FLOOD_BURST, filled: now });
        }
        let Some(bucket) = self.buckets.get_mut(&source) else { return true };
        let since = now.duration_since(bucket.filled);
        let refill = since.as_secs() / FLOOD_REFILL.as_secs();
        if let Ok(refill) = u32::try_from(refill)
            && refill > 0
        {
            bucket.left = bucket.left.saturating_add(refill).min(FLOOD_BURST);
            bucket.filled = now;
        }
        let admitted = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        admitted
    }

    /// Whether so many different messages came that this one is no event of its own.
    fn is_one_of_many(&mut self, similar: &Similar, message: &str, now: Timestamp) -> bool {
        if let Some(messages) = self.messages.get_mut(similar) {
            if now.duration_since(messages.last) > SIMILAR_WINDOW {
                messages.seen.clear();
            }
            messages.last = now;
            if messages.seen.contains(message) {
                return false;
            }
            if messages.seen.len() >= SIMILAR {
                return true;
            }
            messages.seen.insert(message.to_owned());
            return false;
        }
        let seen = HashSet::from([message.to_owned()]);
        self.messages.insert(similar.clone(), Messages { seen, last: now });
        false
    }
}

impl Known {
    fn mark(&mut self, identity: &Identity, dirty: &mut VecDeque<Identity>) {
        if !self.dirty && !self.writing {
            dirty.push_back(identity.clone());
        }
        self.dirty = true;
    }
}

impl Similar {
    fn of(occurrence: &Occurrence) -> Self {
        let object = &occurrence.object;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            component: occurrence.component.clone(),
            host: occurrence.host.clone(),
            severity: occurrence.severity,
            kind: text(&object.kind),
            namespace: text(&object.namespace),
            name: text(&object.name),
            uid: text(&object.uid),
            field_path: text(&object.field_path),
            reason: occurrence.reason.clone(),
        }
    }
}

fn new_event(occurrence: Occurrence, message: String, now: Timestamp, stamp: i128) -> Event {
    let object = occurrence.object;
    let name = format!("{}.{stamp:x}", object.name.as_deref().unwrap_or_default());
    let namespace = object.namespace.clone().unwrap_or_else(|| NAMESPACE_OF_CLUSTER.to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: object,
        reason: Some(occurrence.reason),
        message: Some(message),
        source: Some(EventSource {
            component: Some(occurrence.component.clone()),
            host: (!occurrence.host.is_empty()).then(|| occurrence.host.clone()),
        }),
        reporting_component: Some(occurrence.component),
        reporting_instance: Some(occurrence.host),
        type_: Some(occurrence.severity.as_str().to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}

fn truncate(message: &mut String) {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    }
}

/// A map that forgets what was used longest ago. In two generations: when the young one is full it
/// becomes the old one, and what is used of the old one becomes young again.
#[derive(Debug)]
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}
