//! The open sessions of this master, and who is told what.
//!
//! One task per resource follows the cache and drops a note into the mailbox of every session that
//! the change concerns. The sessions look at the cache themselves when they come to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use proto::k8s::api::core::v1::Node;
use proto::{ObjectKey, Peer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::mailbox::{Item, Mailbox};
use super::policies::Policies;
use super::references::{Referable, Told};
use crate::cache::{CachedObject, Caches, ObjectEvent, ResourceCache, Subscription, Update};

/// An open session, as the rest of the master sees it.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    /// Whose it is.
    pub(crate) node: String,
    /// Tells sessions apart.
    pub(crate) id: u64,
    /// What it has yet to tell.
    pub(crate) mailbox: Mailbox,
    /// What it has told.
    pub(crate) told: Mutex<Told>,
    /// Ends it.
    pub(crate) end: CancellationToken,
}

impl SessionHandle {
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All open sessions.
pub(crate) struct Hub {
    caches: Arc<Caches>,
    sessions: RwLock<HashMap<String, Arc<SessionHandle>>>,
    /// Who has to hear of which pods because of network policies.
    pub(crate) policies: Policies,
    /// What other nodes have to know of each node, encoded.
    peers: RwLock<BTreeMap<Arc<str>, Bytes>>,
    next_id: AtomicU64,
}

/// The resources that sessions tell of.
const RESOURCES: [&str; 8] = [
    "pods",
    "configmaps",
    "secrets",
    "services",
    "endpointslices",
    "networkpolicies",
    "namespaces",
    "nodes",
];

/// A resource that the nodes need is not served.
#[derive(Debug, thiserror::Error)]
#[error("there is no cache of {0}")]
pub struct MissingResource(pub &'static str);

impl Hub {
    /// Subscribes before it returns, so that no session misses a change.
    pub(crate) fn start(
        caches: Arc<Caches>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Result<Arc<Self>, MissingResource> {
        let hub = Arc::new(Self {
            policies: Policies::new(caches.clone()),
            caches,
            sessions: RwLock::default(),
            peers: RwLock::default(),
            next_id: AtomicU64::new(1),
        });
        for resource in RESOURCES {
            let cache = hub.caches.resource(resource).ok_or(MissingResource(resource))?.clone();
            let subscription = hub.clone().subscribe(resource, &cache);
            let (hub, shutdown) = (hub.clone(), shutdown.clone());
            tasks.spawn(async move {
                let follow = hub.follow(resource, cache, subscription);
                shutdown.run_until_cancelled(follow).await;
            });
        }
        Ok(hub)
    }

    /// The caches behind.
    pub(crate) fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// A cache that [`start`](Self::start) has found to be there.
    pub(crate) fn object(&self, resource: &str, key: &ObjectKey) -> Option<Arc<CachedObject>> {
        self.caches.resource(resource)?.get(key)
    }

    /// Opens a session; an older one of the same node ends.
    pub(crate) fn open(&self, node: &str, end: CancellationToken) -> Arc<SessionHandle> {
        let handle = Arc::new(SessionHandle {
            node: node.to_owned(),
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            mailbox: Mailbox::default(),
            told: Mutex::default(),
            end,
        });
        let old = self.write().insert(node.to_owned(), handle.clone());
        if let Some(old) = old {
            warn!(node, "a new session replaces the old one");
            old.end.cancel();
        }
        handle
    }

    /// Forgets a session, unless the node has a newer one.
    pub(crate) fn close(&self, session: &SessionHandle) {
        let mut sessions = self.write();
        if sessions.get(&session.node).is_some_and(|current| current.id == session.id) {
            sessions.remove(&session.node);
        }
        drop(sessions);
        self.policies.forget(session);
    }

    /// The session of a node.
    pub(crate) fn session(&self, node: &str) -> Option<Arc<SessionHandle>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    /// Ends all sessions; their nodes come back.
    pub(crate) fn end_all(&self) {
        self.each(|session| session.end.cancel());
    }

    /// What a node has to know of each other node.
    pub(crate) fn peers(&self) -> Vec<(Arc<str>, Bytes)> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(name, json)| (name.clone(), json.clone())).collect()
    }

    /// What other nodes have to know of a node; nothing when it cannot be reached yet.
    pub(crate) fn peer(&self, name: &str) -> Option<Bytes> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<SessionHandle>>> {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn each(&self, mut visit: impl FnMut(&SessionHandle)) {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.values().for_each(|session| visit(session));
    }

    fn subscribe(&self, resource: &str, cache: &Arc<ResourceCache>) -> Subscription {
        let (_, objects, subscription) = cache.list_and_subscribe();
        if resource == "nodes" {
            let listed = objects.iter().filter_map(|node| Some((name_of(node), peer_json(node)?)));
            *self.peers.write().unwrap_or_else(PoisonError::into_inner) = listed.collect();
        }
        subscription
    }

    /// Passes changes on for ever. When too many came at once, every session starts anew.
    async fn follow(
        &self,
        resource: &'static str,
        cache: Arc<ResourceCache>,
        mut subscription: Subscription,
    ) {
        loop {
            match subscription.next().await {
                Ok(Update::Event(event)) => self.dispatch(resource, &event),
                Ok(Update::Progress(_)) => {}
                Err(lagged) => {
                    warn!(resource, error = %lagged, "telling all nodes everything anew");
                    subscription = self.subscribe(resource, &cache);
                    self.policies.look_again();
                    self.each(|session| session.mailbox.push(Item::Snapshot));
                }
            }
        }
    }

    fn dispatch(&self, resource: &str, event: &ObjectEvent) {
        let object = event.object();
        let key = || Arc::new(object.key.clone());
        match resource {
            "pods" => {
                self.policies.pod(event);
                let node = object.fields.get("spec.nodeName").map(String::as_str);
                if let Some(session) = node.and_then(|node| self.session(node)) {
                    session.mailbox.push(Item::Pod(key()));
                }
            }
            "networkpolicies" => self.policy(event),
            "namespaces" => self.policies.namespace(&object.key.name),
            "configmaps" => self.named(Referable::ConfigMap, key()),
            "secrets" => self.named(Referable::Secret, key()),
            "services" => {
                let item = Item::Service(key());
                self.each(|session| session.mailbox.push(item.clone()));
            }
            "endpointslices" => {
                let item = Item::EndpointSlice(key());
                self.each(|session| session.mailbox.push(item.clone()));
            }
            _ => self.node(event),
        }
    }

    /// Only nodes with pods in its namespace look at it.
    fn policy(&self, event: &ObjectEvent) {
        let key = &event.object().key;
        if let ObjectEvent::Deleted(_) = event {
            self.policies.forget_policy(key);
        }
        let pods = self.caches.resource("pods").map(|cache| cache.list(Some(&key.namespace)).1);
        let pods = pods.unwrap_or_default();
        let nodes: BTreeSet<&str> = pods
            .iter()
            .filter_map(|pod| pod.fields.get("spec.nodeName").map(String::as_str))
            .collect();
        let item = Item::Policy(Arc::new(key.clone()));
        for session in nodes.into_iter().filter_map(|node| self.session(node)) {
            session.mailbox.push(item.clone());
        }
    }

    /// Only nodes with a pod that names the object hear of it.
    fn named(&self, kind: Referable, key: Arc<ObjectKey>) {
        let reference = (kind, key.as_ref().clone());
        self.each(|session| {
            if session.told().is_named(&reference) {
                session.mailbox.push(Item::Named(kind, key.clone()));
            }
        });
    }

    fn node(&self, event: &ObjectEvent) {
        let name = name_of(event.object());
        if let Some(session) = self.session(&name) {
            session.mailbox.push(Item::OwnNode);
        }
        let peer = match event {
            ObjectEvent::Deleted(_) => None,
            ObjectEvent::Added(node) | ObjectEvent::Modified { new: node, .. } => peer_json(node),
        };
        let changed = {
            let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
            let old = match peer.clone() {
                Some(json) => peers.insert(name.clone(), json),
                None => peers.remove(&name),
            };
            old != peer
        };
        // Most changes of a node are of no consequence to the others.
        if changed {
            let item = Item::Peer(name.clone());
            self.each(|session| {
                if *session.node != *name {
                    session.mailbox.push(item.clone());
                }
            });
        }
    }
}

fn name_of(node: &CachedObject) -> Arc<str> {
    node.key.name.as_str().into()
}

fn peer_json(node: &CachedObject) -> Option<Bytes> {
    match node.decode::<Node>() {
        Ok(decoded) => {
            let peer = peer(&decoded)?;
            serde_json::to_vec(&peer).ok().map(Bytes::from)
        }
        Err(error) => {
            error!(node = %node.key, %error, "cannot decode a node");
            None
        }
    }
}

/// How other nodes reach a node's pods; nothing before it has an address and a range.
fn peer(node: &Node) -> Option<Peer> {
    let addresses: Vec<_> = node
        .status
        .as_ref()?
        .addresses
        .iter()
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect();
    let pod_cidrs = node.spec.as_ref()?.pod_cidrs.clone().unwrap_or_default();
    let usable = !addresses.is_empty() && !pod_cidrs.is_empty();
    usable.then(|| Peer {
        node: node.metadata.name.clone().unwrap_or_default(),
        addresses,
        pod_cidrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: serde_json::Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_peer_is_its_internal_addresses_and_pod_ranges() {
        let node = node(serde_json::json!({
            "metadata": {"name": "n1"},
            "spec": {"podCIDRs": ["10.244.1.0/24"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "ExternalIP", "address": "192.0.2.1"},
            ]},
        }));
        let expected = Peer {
            node: "n1".to_owned(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".to_owned()],
        };
        assert_eq!(peer(&node), Some(expected));
    }

    #[test]
    fn a_node_without_address_or_range_is_no_peer_yet() {
        let address =
            serde_json::json!({"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]});
        assert_eq!(peer(&node(serde_json::json!({"status": address}))), None);
        assert_eq!(peer(&node(serde_json::json!({"spec": {"podCIDRs": ["10.244.1.0/24"]}}))), None);
    }
}
