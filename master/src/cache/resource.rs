//! One resource: its newest objects with their indexes, its recent events, its subscribers.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use proto::ObjectKey;
use tracing::error;

use crate::cache::subscription::Subscriber;
use crate::cache::window::Window;
use crate::cache::{CachedObject, Expired, Interest, ObjectEvent, SelectableFields, Subscription};
use crate::store::{KeyValue, Revision};

/// Selectable fields worth an index: selectors on them are frequent and pick few objects out of many.
const INDEXED_FIELDS: &[&str] = &["spec.nodeName", "involvedObject.uid"];

/// What the cache has to know of a resource.
#[derive(Clone, Copy, Debug)]
pub struct ResourceSpec {
    /// Plural, as in store keys: `pods`.
    pub resource: &'static str,
    /// The kind's selectable fields beside `metadata.*`.
    pub fields: SelectableFields,
}

/// The newest objects of one resource.
#[derive(Debug)]
pub struct ResourceCache {
    spec: ResourceSpec,
    /// How far the whole cache has come; shared by all resources.
    progress: Arc<AtomicU64>,
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Of the last batch that touched this resource.
    revision: Revision,
    objects: BTreeSet<Entry>,
    by_owner: HashMap<String, BTreeSet<Entry>>,
    by_field: HashMap<(&'static str, String), BTreeSet<Entry>>,
    window: Window,
    subscribers: HashMap<Interest, Vec<Arc<Subscriber>>>,
}

/// Orders objects by key without holding the key a second time.
#[derive(Clone, Debug)]
struct Entry(Arc<CachedObject>);

impl Borrow<ObjectKey> for Entry {
    fn borrow(&self) -> &ObjectKey {
        &self.0.key
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// A change as the store told it, taken apart.
#[derive(Debug)]
pub(crate) enum Change {
    Put(ObjectKey, KeyValue),
    Delete(ObjectKey, Revision),
}

impl ResourceCache {
    pub(crate) fn new(spec: ResourceSpec, progress: Arc<AtomicU64>, revision: Revision) -> Self {
        Self {
            spec,
            progress,
            inner: RwLock::new(Inner {
                revision,
                objects: BTreeSet::new(),
                by_owner: HashMap::new(),
                by_field: HashMap::new(),
                window: Window::new(revision),
                subscribers: HashMap::new(),
            }),
        }
    }

    /// Its plural.
    pub fn resource(&self) -> &'static str {
        self.spec.resource
    }

    /// The newest state of an object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<CachedObject>> {
        self.read().objects.get(key).map(|entry| entry.0.clone())
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All objects, or those of a namespace, in the order of keys, with the revision that this is the state of.
    pub fn list(&self, namespace: Option<&str>) -> (Revision, Vec<Arc<CachedObject>>) {
        // Read before the lock is taken: all up to it is applied then.
        let progress = self.progress.load(Memory::Acquire);
        let inner = self.read();
        (progress.max(inner.revision), inner.list(namespace))
    }

    /// The objects whose selectable field has this value, out of the index.
    /// Nothing when there is no index for the field: then [`list`](Self::list) and filter.
    pub fn list_by_field(
        &self,
        field: &str,
        value: &str,
    ) -> Option<(Revision, Vec<Arc<CachedObject>>)> {
        let field = indexed(field)?;
        let progress = self.progress.load(Memory::Acquire);
        let inner = self.read();
        let objects = inner.by_field.get(&(field, value.to_owned())).map(objects_of);
        Some((progress.max(inner.revision), objects.unwrap_or_default()))
    }

    /// The pods that are bound to a node (of the cache of `pods`).
    pub fn pods_on_node(&self, node: &str) -> Vec<Arc<CachedObject>> {
        self.list_by_field("spec.nodeName", node).map(|(_, pods)| pods).unwrap_or_default()
    }

    /// The objects that name `uid` among their owners.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<CachedObject>> {
        self.read().by_owner.get(uid).map(objects_of).unwrap_or_default()
    }

    /// Follows all changes after a revision.
    ///
    /// # Errors
    /// [`Expired`] when the window does not reach back that far.
    pub fn subscribe(self: &Arc<Self>, after: Revision) -> Result<Subscription, Expired> {
        self.subscribe_to(Interest::All, after)
    }

    /// Follows the changes of a part of the resource after a revision.
    ///
    /// # Errors
    /// [`Expired`] when the window does not reach back that far.
    pub fn subscribe_to(
        self: &Arc<Self>,
        interest: Interest,
        after: Revision,
    ) -> Result<Subscription, Expired> {
        let mut inner = self.write();
        let missed = inner
            .window
            .after(after)?
            .filter(|event| concerns(event, &interest))
            .cloned()
            .collect();
        Ok(self.enter(&mut inner, interest, after, missed))
    }

    /// Lists and follows, with nothing between.
    pub fn list_and_subscribe(
        self: &Arc<Self>,
    ) -> (Revision, Vec<Arc<CachedObject>>, Subscription) {
        self.list_and_subscribe_to(Interest::All)
    }

    /// Lists and follows a part of the resource, with nothing between.
    pub fn list_and_subscribe_to(
        self: &Arc<Self>,
        interest: Interest,
    ) -> (Revision, Vec<Arc<CachedObject>>, Subscription) {
        let progress = self.progress.load(Memory::Acquire);
        let mut inner = self.write();
        let revision = progress.max(inner.revision);
        let objects = match &interest {
            Interest::All => inner.list(None),
            Interest::Namespace(namespace) => inner.list(Some(namespace)),
            Interest::Object(key) => {
                inner.objects.get(key).map(|entry| entry.0.clone()).into_iter().collect()
            }
            Interest::Field(field, value) => match indexed(field) {
                Some(field) => {
                    inner.by_field.get(&(field, value.clone())).map(objects_of).unwrap_or_default()
                }
                None => inner
                    .objects
                    .iter()
                    .filter(|entry| entry.0.fields.get(field) == Some(value))
                    .map(|entry| entry.0.clone())
                    .collect(),
            },
        };
        let subscription = self.enter(&mut inner, interest, revision, Vec::new());
        (revision, objects, subscription)
    }

    fn enter(
        self: &Arc<Self>,
        inner: &mut Inner,
        interest: Interest,
        after: Revision,
        missed: Vec<ObjectEvent>,
    ) -> Subscription {
        let subscriber = Arc::new(Subscriber::new(interest.clone(), after, missed));
        inner.subscribers.entry(interest).or_default().push(subscriber.clone());
        Subscription { cache: self.clone(), subscriber, told: after }
    }

    pub(crate) fn unsubscribe(&self, subscriber: &Arc<Subscriber>) {
        let mut inner = self.write();
        if let Some(subscribers) = inner.subscribers.get_mut(&subscriber.interest) {
            subscribers.retain(|other| !Arc::ptr_eq(other, subscriber));
            if subscribers.is_empty() {
                inner.subscribers.remove(&subscriber.interest);
            }
        }
    }

    /// The revision up to which a subscriber has been given everything, if it has taken it all.
    pub(crate) fn progress_of(&self, subscriber: &Subscriber) -> Option<Revision> {
        let progress = self.progress.load(Memory::Acquire);
        let inner = self.read();
        subscriber.is_empty().then(|| progress.max(inner.revision))
    }

    /// Applies the changes of one batch, in order; the cache has then everything up to `revision`.
    pub(crate) fn apply(&self, revision: Revision, changes: Vec<Change>, now: Instant) {
        self.take_in(revision, changes, now, false);
    }

    /// Makes the cache equal to a new list, after a gap in the watch. Readers are told the difference,
    /// unless something was deleted: nobody knows at which revision. All deletions would be of the
    /// list's, and who resumes between two of them would miss the second. Then all start anew.
    pub(crate) fn replace(
        &self,
        revision: Revision,
        listed: BTreeMap<ObjectKey, KeyValue>,
        now: Instant,
    ) {
        let changes = self.changes_to(revision, listed);
        let deletions = changes.iter().any(|change| matches!(change, Change::Delete(..)));
        self.take_in(revision, changes, now, deletions);
    }

    fn take_in(&self, revision: Revision, changes: Vec<Change>, now: Instant, cut_off: bool) {
        // Decoding is the expensive part and needs no lock.
        let changes: Vec<_> =
            changes.into_iter().filter_map(|change| self.decode(change)).collect();
        let mut inner = self.write();
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            events.extend(match change {
                Decoded::Put(object) => Some(inner.put(object)),
                Decoded::Delete(key, revision) => inner.delete(&key, revision),
            });
        }
        if cut_off {
            inner.window = Window::new(revision);
            inner.subscribers.values().flatten().for_each(|subscriber| subscriber.cut_off());
        } else {
            inner.tell(&events);
            for event in events {
                inner.window.push(event, now);
            }
        }
        inner.revision = inner.revision.max(revision);
    }

    /// Takes in a listed object before anybody can see the cache: no event.
    pub(crate) fn load(&self, key: ObjectKey, stored: KeyValue) {
        if let Some(Decoded::Put(object)) = self.decode(Change::Put(key, stored)) {
            self.write().put(object);
        }
    }

    /// The changes that lead from what is here to what a new list says.
    fn changes_to(&self, revision: Revision, listed: BTreeMap<ObjectKey, KeyValue>) -> Vec<Change> {
        let inner = self.read();
        let gone = inner
            .objects
            .iter()
            .filter(|entry| !listed.contains_key(&entry.0.key))
            .map(|entry| Change::Delete(entry.0.key.clone(), revision));
        let mut changes: Vec<_> = gone.collect();
        let mut newer: Vec<_> = listed
            .into_iter()
            .filter(|(key, stored)| {
                inner.objects.get(key).is_none_or(|entry| entry.0.revision < stored.mod_revision)
            })
            .collect();
        newer.sort_by_key(|(_, stored)| stored.mod_revision);
        // Deletions come last: only the revision of the list is known for them.
        let mut all: Vec<_> =
            newer.into_iter().map(|(key, stored)| Change::Put(key, stored)).collect();
        all.append(&mut changes);
        all
    }

    /// Forgets old events; tells whether any are left.
    pub(crate) fn trim(&self, now: Instant) -> bool {
        let mut inner = self.write();
        inner.window.trim(now);
        !inner.window.is_empty()
    }

    fn decode(&self, change: Change) -> Option<Decoded> {
        match change {
            Change::Delete(key, revision) => Some(Decoded::Delete(key, revision)),
            Change::Put(key, stored) => {
                let object = CachedObject::from_stored(
                    key,
                    stored.mod_revision,
                    &stored.value,
                    self.spec.fields,
                );
                match object {
                    Ok(object) => Some(Decoded::Put(Arc::new(object))),
                    // Only somebody who writes to the store behind our back can cause it.
                    Err(source) => {
                        error!(key = stored.key, error = %source, "cannot decode a stored object");
                        None
                    }
                }
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Decoded {
    Put(Arc<CachedObject>),
    Delete(ObjectKey, Revision),
}

impl Inner {
    fn list(&self, namespace: Option<&str>) -> Vec<Arc<CachedObject>> {
        match namespace {
            None => self.objects.iter().map(|entry| entry.0.clone()).collect(),
            Some(namespace) => self
                .objects
                .range(ObjectKey::new(namespace, "")..)
                .take_while(|entry| entry.0.key.namespace == namespace)
                .map(|entry| entry.0.clone())
                .collect(),
        }
    }

    fn put(&mut self, new: Arc<CachedObject>) -> ObjectEvent {
        let old = self.objects.replace(Entry(new.clone()));
        if let Some(Entry(old)) = &old {
            self.unindex(old);
        }
        for uid in &new.owner_uids {
            self.by_owner.entry(uid.clone()).or_default().insert(Entry(new.clone()));
        }
        for field in INDEXED_FIELDS {
            if let Some(value) = new.fields.get(field) {
                let index = self.by_field.entry((field, value.clone())).or_default();
                index.insert(Entry(new.clone()));
            }
        }
        match old {
            None => ObjectEvent::Added(new),
            Some(Entry(old)) => ObjectEvent::Modified { new, old },
        }
    }

    fn delete(&mut self, key: &ObjectKey, revision: Revision) -> Option<ObjectEvent> {
        let Entry(old) = self.objects.take(key)?;
        self.unindex(&old);
        Some(ObjectEvent::Deleted(Arc::new(old.deleted_at(revision))))
    }

    fn unindex(&mut self, old: &Arc<CachedObject>) {
        for uid in &old.owner_uids {
            if let Some(objects) = self.by_owner.get_mut(uid) {
                objects.remove(&old.key);
                if objects.is_empty() {
                    self.by_owner.remove(uid);
                }
            }
        }
        for field in INDEXED_FIELDS {
            let Some(value) = old.fields.get(field) else { continue };
            let place = (*field, value.clone());
            if let Some(objects) = self.by_field.get_mut(&place) {
                objects.remove(&old.key);
                if objects.is_empty() {
                    self.by_field.remove(&place);
                }
            }
        }
    }

    /// Hands events to those who are interested, and to nobody else. Each subscriber gets its part
    /// at once: who has taken all that waits has seen no transaction in half.
    fn tell(&self, events: &[ObjectEvent]) {
        if self.subscribers.is_empty() {
            return;
        }
        let mut parts: Vec<(&Arc<Subscriber>, Vec<&ObjectEvent>)> = Vec::new();
        let mut places: HashMap<*const Subscriber, usize> = HashMap::new();
        for event in events {
            for interest in interests(event) {
                for subscriber in self.subscribers.get(&interest).into_iter().flatten() {
                    let place = *places.entry(Arc::as_ptr(subscriber)).or_insert(parts.len());
                    match parts.get_mut(place) {
                        Some((_, part)) => part.push(event),
                        None => parts.push((subscriber, vec![event])),
                    }
                }
            }
        }
        for (subscriber, part) in parts {
            subscriber.push(&part);
        }
    }
}

/// Every interest that an event is of interest to, each once.
fn interests(event: &ObjectEvent) -> Vec<Interest> {
    let object = event.object();
    let mut interests = vec![
        Interest::All,
        Interest::Namespace(object.key.namespace.clone()),
        Interest::Object(object.key.clone()),
    ];
    interests
        .extend(object.fields.iter().map(|(field, value)| Interest::Field(field, value.clone())));
    if let ObjectEvent::Modified { new, old } = event {
        let changed =
            old.fields.iter().filter(|(field, value)| new.fields.get(**field) != Some(*value));
        interests.extend(changed.map(|(field, value)| Interest::Field(field, value.clone())));
    }
    interests
}

fn concerns(event: &ObjectEvent, interest: &Interest) -> bool {
    let object = event.object();
    match interest {
        Interest::All => true,
        Interest::Namespace(namespace) => object.key.namespace == *namespace,
        Interest::Object(key) => object.key == *key,
        Interest::Field(field, value) => {
            let has = |object: &CachedObject| object.fields.get(field) == Some(value);
            has(object) || matches!(event, ObjectEvent::Modified { old, .. } if has(old))
        }
    }
}

fn indexed(field: &str) -> Option<&'static str> {
    INDEXED_FIELDS.iter().find(|indexed| **indexed == field).copied()
}

fn objects_of(entries: &BTreeSet<Entry>) -> Vec<Arc<CachedObject>> {
    entries.iter().map(|entry| entry.0.clone()).collect()
}
