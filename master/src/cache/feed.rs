//! Keeps the caches equal to the store: a list, then one watch over everything.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use futures::StreamExt;
use proto::ObjectKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cache::keys::KeyCache;
use crate::cache::resource::Change;
use crate::cache::{Caches, ResourceCache, ResourceSpec, window};
use crate::store::{
    self, Event, KeyValue, RangeOptions, Revision, Store, WatchBatch, WatchStream, keys,
};

/// Keys read at a time: bounds what a list holds beside the cache itself.
const PAGE: usize = 500;
/// Between attempts to reach a store that is gone.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn start(
    store: Arc<dyn Store>,
    resources: Vec<ResourceSpec>,
    shutdown: CancellationToken,
) -> store::Result<Arc<Caches>> {
    let revision = store.current_revision().await?;
    let progress = Arc::new(AtomicU64::new(revision));
    let caches = Arc::new(Caches {
        resources: resources
            .into_iter()
            .map(|spec| {
                (spec.resource, Arc::new(ResourceCache::new(spec, progress.clone(), revision)))
            })
            .collect(),
        keys: Arc::new(KeyCache::new(progress.clone(), revision)),
        progress,
        revision: watch::Sender::new(revision),
        store,
    });
    list(&*caches.store, revision, |stored| match place(&caches, &stored.key) {
        Place::Object(cache, key) => cache.load(key, stored),
        Place::Key => caches.keys.load(stored),
    })
    .await?;
    let watch = caches.store.watch(keys::ROOT, revision).await?;
    tokio::spawn(run(caches.clone(), watch, shutdown));
    Ok(caches)
}

/// Where a key belongs.
enum Place<'a> {
    Object(&'a Arc<ResourceCache>, ObjectKey),
    Key,
}

fn place<'a>(caches: &'a Caches, key: &str) -> Place<'a> {
    keys::parse_object(key)
        .and_then(|(resource, key)| Some(Place::Object(caches.resource(resource)?, key)))
        .unwrap_or(Place::Key)
}

/// Every key under the root, as of a revision.
async fn list(
    store: &dyn Store,
    revision: Revision,
    mut take: impl FnMut(KeyValue),
) -> store::Result<()> {
    let mut after = None;
    loop {
        let options = RangeOptions { limit: PAGE, after, revision: Some(revision) };
        let range = store.range(keys::ROOT, options).await?;
        after = range.items.last().map(|last| last.key.clone());
        range.items.into_iter().for_each(&mut take);
        if !range.more {
            return Ok(());
        }
    }
}

/// Feeds the caches until shutdown.
async fn run(caches: Arc<Caches>, mut watch: WatchStream, shutdown: CancellationToken) {
    let mut trim_at = None;
    loop {
        let trim = async {
            match trim_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let batch = tokio::select! {
            () = shutdown.cancelled() => return,
            () = trim => {
                // Armed only while there is a past to forget.
                let now = Instant::now();
                let left = caches.resources().filter(|cache| cache.trim(now)).count();
                trim_at = (left > 0).then(|| tokio::time::Instant::now() + window::MAX_AGE);
                continue;
            }
            batch = watch.next() => batch,
        };
        match batch {
            Some(Ok(batch)) => {
                if !batch.events.is_empty() && trim_at.is_none() {
                    trim_at = Some(tokio::time::Instant::now() + window::MAX_AGE);
                }
                apply(&caches, batch);
            }
            ended => {
                let error = ended.and_then(Result::err);
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    again = resume(&caches, error) => watch = again,
                }
            }
        }
    }
}

/// A new watch after the old one ended, with a new list before it where history is gone.
async fn resume(caches: &Caches, mut error: Option<store::Error>) -> WatchStream {
    loop {
        let expired = matches!(error, Some(store::Error::Expired { .. }));
        match &error {
            Some(error) => warn!(error = %chain(error), "the watch of the store ended"),
            None => warn!("the watch of the store ended"),
        }
        let attempt = async {
            if expired {
                relist(caches).await?;
            }
            caches.store.watch(keys::ROOT, caches.revision()).await
        };
        match attempt.await {
            Ok(watch) => {
                info!(revision = caches.revision(), "watching the store again");
                return watch;
            }
            Err(failure) => {
                if !matches!(failure, store::Error::Expired { .. }) {
                    tokio::time::sleep(RETRY).await;
                }
                error = Some(failure);
            }
        }
    }
}

/// Lists again and tells subscribers what is different, as if a watch had told it, where that can be
/// told soundly.
async fn relist(caches: &Caches) -> store::Result<()> {
    let revision = caches.store.current_revision().await?;
    let mut objects: HashMap<&'static str, BTreeMap<ObjectKey, KeyValue>> = HashMap::new();
    let mut others = BTreeMap::new();
    list(&*caches.store, revision, |stored| match place(caches, &stored.key) {
        Place::Object(cache, key) => {
            objects.entry(cache.resource()).or_default().insert(key, stored);
        }
        Place::Key => {
            others.insert(stored.key.clone(), stored);
        }
    })
    .await?;
    let now = Instant::now();
    for cache in caches.resources() {
        cache.replace(revision, objects.remove(cache.resource()).unwrap_or_default(), now);
    }
    caches.keys.apply(revision, caches.keys.changes_to(revision, others));
    caches.publish(revision);
    info!(revision, "listed the store again");
    Ok(())
}

/// Applies a batch to all it touches, then publishes its revision.
fn apply(caches: &Caches, batch: WatchBatch) {
    let now = Instant::now();
    let mut changes: HashMap<&'static str, (&Arc<ResourceCache>, Vec<Change>)> = HashMap::new();
    let mut others = Vec::new();
    for event in batch.events {
        let key = match &event {
            Event::Put(stored) => &stored.key,
            Event::Delete { key, .. } => key,
        };
        match place(caches, key) {
            Place::Key => others.push(event),
            Place::Object(cache, key) => {
                let change = match event {
                    Event::Put(stored) => Change::Put(key, stored),
                    Event::Delete { revision, .. } => Change::Delete(key, revision),
                };
                changes
                    .entry(cache.resource())
                    .or_insert_with(|| (cache, Vec::new()))
                    .1
                    .push(change);
            }
        }
    }
    for (cache, changes) in changes.into_values() {
        cache.apply(batch.revision, changes, now);
    }
    if !others.is_empty() {
        caches.keys.apply(batch.revision, others);
    }
    caches.publish(batch.revision);
}

/// An error with all its sources, for a log line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
