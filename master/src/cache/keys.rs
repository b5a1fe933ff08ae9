//! The keys that are not objects: sessions of nodes, claims, tokens, the leader.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use tokio::sync::Notify;

use crate::cache::Lagged;
use crate::store::{Event, KeyValue, Revision};

/// How many changes a follower of keys may be behind; then it is cut off. A change of every node
/// of a large cluster fits.
const MAX_QUEUE: usize = 16 * 1024;

/// All keys that belong to no resource.
#[derive(Debug)]
pub(crate) struct KeyCache {
    progress: Arc<AtomicU64>,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: Revision,
    keys: BTreeMap<String, Arc<KeyValue>>,
    followers: Vec<Weak<Follower>>,
}

#[derive(Debug)]
struct Follower {
    prefix: String,
    after: Revision,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    updates: VecDeque<KeyUpdate>,
    lagged: bool,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUpdate {
    /// Written.
    Put(Arc<KeyValue>),
    /// Deleted, or its lease ended.
    Deleted {
        /// Absolute.
        key: String,
        /// Of the deletion.
        revision: Revision,
    },
}

/// The keys under a prefix. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keys {
    pub(crate) cache: Arc<KeyCache>,
    pub(crate) prefix: String,
}

impl Keys {
    /// The newest value of an absolute key.
    pub fn get(&self, key: &str) -> Option<Arc<KeyValue>> {
        self.cache.get(key)
    }

    /// All of them, in order, with the revision that this is the state of.
    pub fn list(&self) -> (Revision, Vec<Arc<KeyValue>>) {
        let progress = self.cache.progress.load(Memory::Acquire);
        let inner = self.cache.inner.read().unwrap_or_else(PoisonError::into_inner);
        (progress.max(inner.revision), inner.list(&self.prefix))
    }

    /// Lists and follows, with nothing between.
    pub fn list_and_subscribe(&self) -> (Revision, Vec<Arc<KeyValue>>, KeySubscription) {
        let progress = self.cache.progress.load(Memory::Acquire);
        let mut inner = self.cache.inner.write().unwrap_or_else(PoisonError::into_inner);
        let revision = progress.max(inner.revision);
        let follower = Arc::new(Follower {
            prefix: self.prefix.clone(),
            after: revision,
            queue: Mutex::default(),
            wake: Notify::new(),
        });
        inner.followers.retain(|follower| follower.strong_count() > 0);
        inner.followers.push(Arc::downgrade(&follower));
        (revision, inner.list(&self.prefix), KeySubscription { follower })
    }
}

/// Follows keys. Dropping it ends it.
#[derive(Debug)]
pub struct KeySubscription {
    follower: Arc<Follower>,
}

impl KeySubscription {
    /// The next change, in the order of revisions. Cancel-safe.
    ///
    /// # Errors
    /// [`Lagged`] when the reader was too slow; it has to list again.
    pub async fn next(&mut self) -> Result<KeyUpdate, Lagged> {
        loop {
            {
                let mut queue = self.follower.queue.lock().unwrap_or_else(PoisonError::into_inner);
                if queue.lagged {
                    return Err(Lagged);
                }
                if let Some(update) = queue.updates.pop_front() {
                    return Ok(update);
                }
            }
            self.follower.wake.notified().await;
        }
    }
}

impl KeyCache {
    pub(crate) fn new(progress: Arc<AtomicU64>, revision: Revision) -> Self {
        Self { progress, inner: RwLock::new(Inner { revision, ..Inner::default() }) }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<KeyValue>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).keys.get(key).cloned()
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).keys.contains_key(key)
    }

    pub(crate) fn load(&self, stored: KeyValue) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.keys.insert(stored.key.clone(), Arc::new(stored));
    }

    pub(crate) fn apply(&self, revision: Revision, events: Vec<Event>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let update = match event {
                Event::Put(stored) => {
                    let stored = Arc::new(stored);
                    inner.keys.insert(stored.key.clone(), stored.clone());
                    KeyUpdate::Put(stored)
                }
                Event::Delete { key, revision } => {
                    if inner.keys.remove(&key).is_none() {
                        continue;
                    }
                    KeyUpdate::Deleted { key, revision }
                }
            };
            inner.followers.retain(|follower| match follower.upgrade() {
                Some(follower) => {
                    follower.push(&update);
                    true
                }
                None => false,
            });
        }
        inner.revision = inner.revision.max(revision);
    }

    /// The changes that lead from what is here to what a new list says: after a gap in the watch.
    pub(crate) fn changes_to(
        &self,
        revision: Revision,
        listed: BTreeMap<String, KeyValue>,
    ) -> Vec<Event> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = inner
            .keys
            .keys()
            .filter(|key| !listed.contains_key(*key))
            .map(|key| Event::Delete { key: key.clone(), revision })
            .collect();
        let mut newer: Vec<_> = listed
            .into_values()
            .filter(|stored| {
                let known = inner.keys.get(&stored.key);
                known.is_none_or(|known| known.mod_revision < stored.mod_revision)
            })
            .collect();
        newer.sort_by_key(|stored| stored.mod_revision);
        newer.into_iter().map(Event::Put).chain(gone).collect()
    }
}

impl Inner {
    fn list(&self, prefix: &str) -> Vec<Arc<KeyValue>> {
        self.keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, stored)| stored.clone())
            .collect()
    }
}

impl KeyUpdate {
    fn key(&self) -> &str {
        match self {
            Self::Put(stored) => &stored.key,
            Self::Deleted { key, .. } => key,
        }
    }

    fn revision(&self) -> Revision {
        match self {
            Self::Put(stored) => stored.mod_revision,
            Self::Deleted { revision, .. } => *revision,
        }
    }
}

impl Follower {
    fn push(&self, update: &KeyUpdate) {
        if update.revision() <= self.after || !update.key().starts_with(&self.prefix) {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lagged {
            return;
        }
        if queue.updates.len() >= MAX_QUEUE {
            *queue = Queue { updates: VecDeque::new(), lagged: true };
        } else {
            queue.updates.push_back(update.clone());
        }
        drop(queue);
        self.wake.notify_one();
    }
}
