//! Notices that nodes are lost or back, and moves their pods away.
//!
//! A node lives while its session key exists; nothing is written per heartbeat.
//! [`reconcile`](reconcile::reconcile) decides, [`NodeLifecycle`] performs one pass.
//!
//! How long a node has been absent is known to the leader only, and counted from the start of its
//! term at the earliest: after a change of the leader every node has its grace period to connect
//! again.

mod reconcile;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use tracing::{info, warn};

pub(super) use self::reconcile::is_lost;
use self::reconcile::{Action, Observed};
use super::driver::{Controller, Next, SyncError};
use super::{Config, Context};
use crate::api::error::ApiError;
use crate::api::kinds::node::Nodes;
use crate::api::kinds::pod::Pods;
use crate::api::objects::{DeleteOptions, Part};
use crate::cache::{KeySubscription, KeyUpdate, Keys, Lagged, ObjectEvent};
use crate::events::{Occurrence, reference};
use crate::store::keys;

/// Writes of one pass under way at a time: a lost node may have a hundred pods.
const WRITES: usize = 16;
/// The source of events about pods that have to leave.
const EVICTION: &str = "taint-eviction-controller";

/// The controller. See the module's documentation.
pub(super) struct NodeLifecycle {
    context: Context,
    config: Config,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Nodes without a session, with when that was seen first.
    absent: HashMap<String, Instant>,
    ready: HashSet<String>,
    /// Nodes whose pods may have to leave: what happens to pods of other nodes is no matter.
    repelling: HashSet<String>,
}

#[async_trait]
impl Controller for NodeLifecycle {
    /// The node's name.
    type Key = String;

    const NAME: &'static str = "node-controller";

    fn resources(&self) -> Vec<&'static str> {
        vec!["nodes", "pods"]
    }

    fn affected(&self, resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(String)) {
        let object = event.object();
        let mut state = self.state();
        if resource == "pods" {
            let node = object.fields.get("spec.nodeName");
            if let Some(node) = node.filter(|node| state.repelling.contains(*node)) {
                add(node.clone());
            }
            return;
        }
        let name = &object.key.name;
        if let ObjectEvent::Deleted(_) = event {
            state.absent.remove(name);
            state.ready.remove(name);
            state.repelling.remove(name);
            return;
        }
        let node = object.decode::<Node>().ok();
        if node.as_ref().is_some_and(reconcile::is_ready) {
            if state.ready.is_empty() {
                // Evictions wait while no node is ready.
                state.repelling.iter().cloned().for_each(&mut *add);
            }
            state.ready.insert(name.clone());
        } else {
            state.ready.remove(name);
        }
        add(name.clone());
    }

    fn reset(&self) {
        // Since when a node is absent is not told again.
        let mut state = self.state();
        state.ready.clear();
        state.repelling.clear();
    }

    /// Nodes whose session began or ended.
    fn triggers(&self) -> BoxStream<'static, String> {
        let sessions = self.context.objects.caches().keys(keys::NODE_SESSIONS);
        session_changes(sessions)
    }

    async fn sync(&self, name: &String) -> Result<Next, SyncError> {
        let caches = self.context.objects.caches();
        let key = ObjectKey::new("", name.clone());
        let Some(cached) = caches.resource("nodes").and_then(|nodes| nodes.get(&key)) else {
            return Ok(Next::Done);
        };
        let node: Node = cached.decode().map_err(SyncError::decode(name))?;
        let session = caches.keys(keys::NODE_SESSIONS).get(&keys::node_session(name)).is_some();
        let (absent_for, some_node_ready) = {
            let mut state = self.state();
            if session {
                state.absent.remove(name);
            } else {
                state.absent.entry(name.clone()).or_insert_with(Instant::now);
            }
            // Before the pods are read, so that no pod which comes now is missed.
            if !session || reconcile::repels_pods(&node) {
                state.repelling.insert(name.clone());
            } else {
                state.repelling.remove(name);
            }
            (state.absent.get(name).map(Instant::elapsed), !state.ready.is_empty())
        };
        let pods = self.context.pods.on_node(name).map_err(SyncError::decode(name))?;
        let now = Timestamp::now();
        let observed = Observed { pods: &pods, absent_for, some_node_ready, now };
        let plan = reconcile::reconcile(&self.config, &node, &observed);
        let mut of_pods = Vec::new();
        for action in plan.actions {
            match action {
                Action::MarkLost(conditions) => self.mark_lost(&key, &node, conditions).await?,
                Action::SetTaints(taints) => self.set_taints(&key, &node, taints).await?,
                other => of_pods.push(other),
            }
        }
        let writes = of_pods.into_iter().map(|action| self.perform_on_pod(name, action));
        let mut writes = stream::iter(writes).buffer_unordered(WRITES);
        let mut result = Ok(());
        while let Some(written) = writes.next().await {
            result = result.and(written);
        }
        result?;
        Ok(plan.again_after.map_or(Next::Done, Next::After))
    }
}

impl NodeLifecycle {
    pub(super) fn new(context: Context, config: Config) -> Self {
        Self { context, config, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only what was looked at may be changed, not what was reported meanwhile.
    async fn update_node(
        &self,
        key: &ObjectKey,
        seen: &Node,
        part: Part,
        mut change: impl FnMut(&mut Node) + Send,
    ) -> Result<bool, SyncError> {
        let change = |stored: &mut Node| {
            let same = stored.metadata.uid == seen.metadata.uid
                && match part {
                    Part::Spec => stored.spec == seen.spec,
                    Part::Status => stored.status == seen.status,
                    // Not what this controller writes.
                    Part::EphemeralContainers | Part::Resize => false,
                };
            if same {
                change(stored);
            }
            same
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match objects.update::<Nodes>(key, part, fence, change).await {
            Ok(updated) => Ok(updated.is_some()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(SyncError::write(format!("write the state of node {key}"))(error)),
        }
    }

    async fn mark_lost(
        &self,
        key: &ObjectKey,
        node: &Node,
        conditions: Vec<NodeCondition>,
    ) -> Result<(), SyncError> {
        let mark = |stored: &mut Node| {
            stored.status.get_or_insert_default().conditions = Some(conditions.clone());
        };
        if self.update_node(key, node, Part::Status, mark).await? {
            warn!(node = %key, "lost node");
            let uid = node.metadata.uid.as_deref().unwrap_or_default();
            let object = reference("Node", key, uid);
            let message = format!("Node {key} status is now: NodeNotReady");
            self.context.recorder.record(Occurrence::normal(
                Self::NAME,
                object,
                "NodeNotReady",
                message,
            ));
        }
        Ok(())
    }

    async fn set_taints(
        &self,
        key: &ObjectKey,
        node: &Node,
        taints: Vec<Taint>,
    ) -> Result<(), SyncError> {
        let set = |stored: &mut Node| {
            let spec = stored.spec.get_or_insert_default();
            spec.taints = (!taints.is_empty()).then(|| taints.clone());
        };
        if self.update_node(key, node, Part::Spec, set).await? {
            info!(node = %key, ?taints, "changed the taints of node");
        }
        Ok(())
    }
}

impl NodeLifecycle {
    async fn perform_on_pod(&self, node: &str, action: Action) -> Result<(), SyncError> {
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        let ended = |result: Result<(), ApiError>, what: String| match result {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map_err(SyncError::write(what)),
        };
        match action {
            Action::MarkPodNotReady { pod, uid } => {
                let mark = |stored: &mut Pod| mark_not_ready(stored, &uid);
                let marked = objects.update::<Pods>(&pod, Part::Status, fence, mark).await;
                if matches!(marked, Ok(Some(_))) {
                    let object = reference("Pod", &pod, &uid);
                    let occurrence = Occurrence::warning(
                        Self::NAME,
                        object,
                        "NodeNotReady",
                        "Node is not ready",
                    );
                    self.context.recorder.record(occurrence);
                }
                ended(marked.map(drop), format!("mark pod {pod} as not ready"))
            }
            Action::Evict { pod, uid } => {
                info!(%pod, node, "deleting pod that may not stay on its node");
                let object = reference("Pod", &pod, &uid);
                let message = format!("Marking for deletion Pod {pod}");
                let occurrence =
                    Occurrence::normal(EVICTION, object, "TaintManagerEviction", message);
                self.context.recorder.record(occurrence);
                let options = DeleteOptions { uid: Some(uid), ..DeleteOptions::default() };
                let deleted = objects.delete::<Pods>(&pod, options, fence).await;
                ended(deleted, format!("evict pod {pod}"))
            }
            // Done before, one after the other.
            Action::MarkLost(_) | Action::SetTaints(_) => Ok(()),
        }
    }
}

/// Sets the condition; tells whether that changed anything.
fn mark_not_ready(pod: &mut Pod, uid: &str) -> bool {
    if pod.metadata.uid.as_deref() != Some(uid) {
        return false;
    }
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let ready = |condition: &&mut PodCondition| condition.type_ == "Ready";
    match conditions.iter_mut().find(ready) {
        Some(condition) if condition.status == "True" => {
            condition.status = "False".to_owned();
            condition.reason = Some("NodeNotReady".to_owned());
            condition.last_transition_time = Some(Time(Timestamp::now()));
            true
        }
        _ => false,
    }
}

/// The names of nodes whose session key changes. A follower that was too slow is told of every node
/// that has a session now or had one before.
pub(super) fn session_changes(sessions: Keys) -> BoxStream<'static, String> {
    struct Follow {
        sessions: Keys,
        subscription: KeySubscription,
        connected: BTreeSet<String>,
        pending: Vec<String>,
    }
    let (_, listed, subscription) = sessions.list_and_subscribe();
    let connected: BTreeSet<String> = listed.iter().map(|stored| node_of(&stored.key)).collect();
    let pending = connected.iter().cloned().collect();
    let follow = Follow { sessions, subscription, connected, pending };
    stream::unfold(follow, |mut follow| async move {
        loop {
            if let Some(name) = follow.pending.pop() {
                return Some((name, follow));
            }
            match follow.subscription.next().await {
                Ok(KeyUpdate::Put(stored)) => {
                    let name = node_of(&stored.key);
                    follow.connected.insert(name.clone());
                    follow.pending.push(name);
                }
                Ok(KeyUpdate::Deleted { key, .. }) => {
                    let name = node_of(&key);
                    follow.connected.remove(&name);
                    follow.pending.push(name);
                }
                Err(Lagged) => {
                    let (_, listed, subscription) = follow.sessions.list_and_subscribe();
                    let now = listed.iter().map(|stored| node_of(&stored.key)).collect();
                    let before = std::mem::replace(&mut follow.connected, now);
                    follow.pending = before.union(&follow.connected).cloned().collect();
                    follow.subscription = subscription;
                }
            }
        }
    })
    .boxed()
}

fn node_of(session_key: &str) -> String {
    session_key.strip_prefix(keys::NODE_SESSIONS).unwrap_or_default().to_owned()
}
