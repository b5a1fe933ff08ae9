//! Removes pods that nobody else will: those on nodes that do not exist (any more), and the oldest of
//! too many finished ones.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use proto::ObjectKey;
use tracing::info;

use super::Context;
use super::driver::{Controller, Next, SyncError};
use crate::api::kinds::pod::Pods;
use crate::api::objects::DeleteOptions;
use crate::cache::ObjectEvent;

/// Finished pods that are kept for people to look at, as in Kubernetes.
const MAX_FINISHED: usize = 12_500;
/// Deletions under way at a time.
const WRITES: usize = 16;

/// The controller. See the module's documentation.
pub(super) struct PodGc {
    context: Context,
    /// How long a node may be missing before its pods go: it may be about to be created.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Nodes that pods name and that do not exist, with when that was seen first.
    missing: HashMap<String, Instant>,
    finished: HashSet<ObjectKey>,
}

/// What may have to be swept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The pods of a node.
    Node(String),
    /// All finished pods.
    Finished,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Finished => f.write_str("finished pods"),
        }
    }
}

#[async_trait]
impl Controller for PodGc {
    type Key = Key;

    const NAME: &'static str = "pod-garbage-collector";

    fn resources(&self) -> Vec<&'static str> {
        vec!["nodes", "pods"]
    }

    fn affected(&self, resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(Key)) {
        let object = event.object();
        let deleted = matches!(event, ObjectEvent::Deleted(_));
        if resource == "nodes" {
            if deleted {
                add(Key::Node(object.key.name.clone()));
            } else {
                self.state().missing.remove(&object.key.name);
            }
            return;
        }
        let phase = object.fields.get("status.phase").map(String::as_str);
        let mut state = self.state();
        if !deleted && matches!(phase, Some("Succeeded" | "Failed")) {
            state.finished.insert(object.key.clone());
        } else {
            state.finished.remove(&object.key);
        }
        if state.finished.len() > MAX_FINISHED {
            add(Key::Finished);
        }
        let node = object.fields.get("spec.nodeName").filter(|node| !node.is_empty());
        if let Some(node) = node.filter(|node| !deleted && !self.exists(node)) {
            add(Key::Node(node.clone()));
        }
    }

    fn reset(&self) {
        self.state().finished.clear();
    }

    async fn sync(&self, key: &Key) -> Result<Next, SyncError> {
        let node = match key {
            Key::Finished => {
                let surplus = self.oldest_finished()?;
                info!(pods = surplus.len(), "deleting the oldest finished pods");
                self.delete(surplus).await?;
                return Ok(Next::Done);
            }
            Key::Node(node) => node,
        };
        let pods = self.context.pods.cache().pods_on_node(node);
        if self.exists(node) || pods.is_empty() {
            self.state().missing.remove(node);
            return Ok(Next::Done);
        }
        let missing =
            self.state().missing.entry(node.clone()).or_insert_with(Instant::now).elapsed();
        if missing < self.patience {
            return Ok(Next::After(self.patience - missing));
        }
        info!(%node, pods = pods.len(), "deleting the pods of a node that does not exist");
        self.delete(pods.iter().map(|pod| (pod.key.clone(), pod.uid.clone())).collect()).await?;
        Ok(Next::Done)
    }
}

impl PodGc {
    pub(super) fn new(context: Context, patience: Duration) -> Self {
        Self { context, patience, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exists(&self, node: &str) -> bool {
        let nodes = self.context.objects.caches().resource("nodes");
        nodes.is_some_and(|nodes| nodes.get(&ObjectKey::new("", node)).is_some())
    }

    fn oldest_finished(&self) -> Result<Vec<(ObjectKey, String)>, SyncError> {
        let finished = self.state().finished.clone();
        let mut pods =
            self.context.pods.get(finished).map_err(SyncError::decode("a finished pod"))?;
        pods.sort_by_key(|pod| pod.created);
        pods.truncate(pods.len().saturating_sub(MAX_FINISHED));
        Ok(pods.iter().map(|pod| (pod.key.clone(), pod.uid.clone())).collect())
    }

    /// Deletes outright: there is no kubelet that could confirm.
    async fn delete(&self, pods: Vec<(ObjectKey, String)>) -> Result<(), SyncError> {
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        let deletions = pods.into_iter().map(|(pod, uid)| async move {
            let options = DeleteOptions {
                uid: Some(uid),
                grace_period_seconds: Some(0),
                ..DeleteOptions::default()
            };
            match objects.delete::<Pods>(&pod, options, fence).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => other.map_err(SyncError::write(format!("delete pod {pod}"))),
            }
        });
        let mut deletions = stream::iter(deletions).buffer_unordered(WRITES);
        let mut result = Ok(());
        while let Some(deleted) = deletions.next().await {
            result = result.and(deleted);
        }
        result
    }
}
