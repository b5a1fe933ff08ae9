//! The watch cache: the newest objects of every resource as shared bytes, with their parsed
//! metadata beside them, and a bounded window of events.
//!
//! Lists, watches, the scheduler and every controller read from here; only writes go to the store.
//!
//! ```text
//! Store ──list, then one watch over /registry/──▶ feed ──▶ ResourceCache (one per resource)
//!                                                    │         objects, indexes, window
//!                                                    │            └──▶ Subscription (one per reader)
//!                                                    └──▶ KeyCache (sessions, claims, tokens …)
//! ```
//!
//! The feed applies a batch to all resources it touches and only then publishes the batch's
//! revision. A reader that loads the published revision first and then looks at a resource sees
//! everything up to that revision.

mod feed;
mod keys;
mod object;
mod resource;
mod sketch;
mod subscription;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{self, Revision, Store};

pub use keys::{KeySubscription, KeyUpdate, Keys};
pub(crate) use object::with_resource_version;
pub use object::{CachedObject, DecodeError, ObjectEvent};
pub use resource::{ResourceCache, ResourceSpec};
pub use sketch::{MAX_FIELDS, SelectableField, SelectableFields, selectable};
pub use subscription::{Interest, Subscription, Update};

/// How long changes that were committed already usually take to come through the watch, generously.
/// Asking the store for its progress before that may cost it a write.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The window of events does not reach back to the revision asked for: list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub struct Expired {
    /// What was asked for.
    pub requested: Revision,
    /// What can be had.
    pub oldest: Revision,
}

/// A subscriber read too slowly, or a gap in the store's history was not to be bridged; it was cut
/// off: list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscriber was cut off: it was too slow, or history was missing")]
pub struct Lagged;

/// The caches of all resources.
pub struct Caches {
    store: Arc<dyn Store>,
    resources: BTreeMap<&'static str, Arc<ResourceCache>>,
    keys: Arc<keys::KeyCache>,
    /// Everything up to it is applied; read by resources without waking anybody.
    progress: Arc<AtomicU64>,
    /// The same, to be waited for.
    revision: watch::Sender<Revision>,
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caches")
            .field("resources", &self.resources.keys())
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Caches {
    /// Lists everything, then follows the store with one watch until `shutdown`.
    ///
    /// # Errors
    /// When the store cannot be listed or watched.
    pub async fn start(
        store: Arc<dyn Store>,
        resources: Vec<ResourceSpec>,
        shutdown: CancellationToken,
    ) -> store::Result<Arc<Self>> {
        feed::start(store, resources, shutdown).await
    }

    /// The cache of a resource, by its plural.
    pub fn resource(&self, resource: &str) -> Option<&Arc<ResourceCache>> {
        self.resources.get(resource)
    }

    /// All caches, in the order of their plurals.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<ResourceCache>> {
        self.resources.values()
    }

    /// The keys under an absolute prefix that are not objects: sessions, claims, tokens.
    pub fn keys(&self, prefix: &str) -> Keys {
        Keys { cache: self.keys.clone(), prefix: prefix.to_owned() }
    }

    /// Whether some object holds a claim, as [`store::keys::claim`] keeps it.
    pub fn claimed(&self, claim: &str) -> bool {
        self.keys.contains(&store::keys::claim(claim))
    }

    /// Waits until the caches have caught up with the store's current revision, and tells it.
    ///
    /// # Errors
    /// When the store cannot tell its revision.
    pub async fn fresh(&self) -> store::Result<Revision> {
        let current = self.store.current_revision().await?;
        if tokio::time::timeout(CATCH_UP, self.wait_for(current)).await.is_err() {
            self.store.request_progress().await?;
            self.wait_for(current).await;
        }
        Ok(current)
    }

    /// Waits until the caches have caught up with a revision.
    pub async fn wait_for(&self, revision: Revision) {
        if self.revision() >= revision {
            return;
        }
        let mut revisions = self.revision.subscribe();
        // The sender lives as long as we do.
        let _ = revisions.wait_for(|reached| *reached >= revision).await;
    }

    /// The revision that the caches have caught up to.
    pub fn revision(&self) -> Revision {
        self.progress.load(Memory::Acquire)
    }

    /// Follows [`revision`](Self::revision).
    pub fn watch_revision(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    fn publish(&self, revision: Revision) {
        self.progress.fetch_max(revision, Memory::AcqRel);
        self.revision.send_if_modified(|reached| {
            let newer = revision > *reached;
            *reached = revision.max(*reached);
            newer
        });
    }
}
