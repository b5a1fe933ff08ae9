//! The way down: what a node is told, in the order in which it can make use of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::ObjectKey;
use proto::k8s::api::core::v1::PodSpec;
use proto::node::session_down::Message;
use proto::node::{ObjectPut, ObjectRemoved, SessionDown, SnapshotBegin, SnapshotEnd, Welcome};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;
use tracing::error;

use super::hub::{Hub, SessionHandle};
use super::mailbox::{Item, Next};
use super::references::{Difference, Referable, Reference, references};
use crate::cache::CachedObject;

/// A node that takes no message for so long does not keep up, whatever its heartbeats say.
const STALL: Duration = Duration::from_secs(30);

/// Why the way down ended.
#[derive(Debug)]
pub(crate) enum FeedEnd {
    /// The node is gone.
    Gone,
    /// The node does not read.
    Stalled,
    /// Somebody deleted the node's object.
    Deleted,
}

/// The way down of one session.
pub(crate) struct Feed {
    pub(crate) hub: Arc<Hub>,
    pub(crate) session: Arc<SessionHandle>,
    pub(crate) down: mpsc::Sender<Result<SessionDown, Status>>,
}

/// The part of a pod that says what it names.
#[derive(Deserialize)]
struct PodNames {
    spec: PodSpec,
}

impl Feed {
    /// Tells the node everything, then what changes, for as long as the node listens.
    pub(crate) async fn run(&self, welcome: Welcome) -> FeedEnd {
        match self.tell_all(welcome).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn tell_all(&self, welcome: Welcome) -> Result<std::convert::Infallible, FeedEnd> {
        self.send(Message::Welcome(welcome)).await?;
        self.session.mailbox.push(Item::Snapshot);
        loop {
            match self.session.mailbox.next().await {
                Next::Tunnel(tunnel) => self.send(Message::OpenTunnel(tunnel)).await?,
                Next::Item(item) => self.tell(item).await?,
            }
        }
    }

    async fn tell(&self, item: Item) -> Result<(), FeedEnd> {
        match item {
            Item::Snapshot => self.snapshot().await,
            Item::Pod(key) => self.pod(&key).await,
            Item::Named(kind, key) => {
                let reference = (kind, key.as_ref().clone());
                // The pod that named it may have gone since.
                if !self.session.told().is_named(&reference) {
                    return Ok(());
                }
                self.put_or_remove(kind.resource(), &key).await
            }
            Item::Service(key) => self.put_or_remove("services", &key).await,
            Item::EndpointSlice(key) => self.put_or_remove("endpointslices", &key).await,
            Item::Policy(key) => self.policy_changed(&key).await,
            Item::PolicyPeer(set, pod) => self.policy_peer(&set, &pod).await,
            Item::Peer(name) => match self.hub.peer(&name) {
                Some(json) => self.put("peers", &ObjectKey::new("", &*name), json).await,
                None => self.remove("peers", &ObjectKey::new("", &*name)).await,
            },
            Item::OwnNode => {
                let own = ObjectKey::new("", self.session.node.as_str());
                let node = self.hub.object("nodes", &own).ok_or(FeedEnd::Deleted)?;
                self.put("nodes", &own, node.json.clone()).await
            }
        }
    }

    /// Everything this node may know. What changes meanwhile is in the mailbox and follows.
    async fn snapshot(&self) -> Result<(), FeedEnd> {
        let node = self.session.node.as_str();
        let caches = self.hub.caches();
        let pods =
            caches.resource("pods").map(|cache| cache.pods_on_node(node)).unwrap_or_default();
        self.hub.policies.forget(&self.session);
        let references: Vec<_> = pods.iter().map(|pod| self.references_of(pod)).collect();
        // Noted before it is read: a change that comes between the two is told once more.
        let named: Vec<Reference> = {
            let mut told = self.session.told();
            *told = Default::default();
            for (pod, references) in pods.iter().zip(references) {
                told.put(&pod.key, pod.revision, references);
            }
            told.named().cloned().collect()
        };

        self.send(Message::SnapshotBegin(SnapshotBegin {})).await?;
        let own = ObjectKey::new("", node);
        if let Some(object) = self.hub.object("nodes", &own) {
            self.put("nodes", &own, object.json.clone()).await?;
        }
        for (name, json) in self.hub.peers() {
            if *name != *node {
                self.put("peers", &ObjectKey::new("", &*name), json).await?;
            }
        }
        for reference in &named {
            self.tell_named(reference).await?;
        }
        for pod in &pods {
            self.put("pods", &pod.key, pod.json.clone()).await?;
        }
        for resource in ["services", "endpointslices"] {
            let objects = caches.resource(resource).map(|cache| cache.list(None).1);
            for object in objects.unwrap_or_default() {
                self.put(resource, &object.key, object.json.clone()).await?;
            }
        }
        self.send(Message::SnapshotEnd(SnapshotEnd {})).await
    }

    /// What a pod names goes before it, so that a worker finds it there.
    async fn pod(&self, key: &ObjectKey) -> Result<(), FeedEnd> {
        let own = self.hub.object("pods", key).filter(|pod| {
            pod.fields.get("spec.nodeName").is_some_and(|node| *node == self.session.node)
        });
        let Some(pod) = own else {
            let Some(difference) = self.session.told().remove(key) else { return Ok(()) };
            self.remove("pods", key).await?;
            return self.difference(difference).await;
        };
        if self.session.told().pod_revision(key) == Some(pod.revision) {
            return Ok(());
        }
        let references = self.references_of(&pod);
        let difference = self.session.told().put(key, pod.revision, references);
        let Difference { added, removed } = difference;
        self.difference(Difference { added, removed: Vec::new() }).await?;
        self.put("pods", key, pod.json.clone()).await?;
        self.difference(Difference { added: Vec::new(), removed }).await
    }

    pub(super) async fn difference(&self, difference: Difference) -> Result<(), FeedEnd> {
        let Difference { added, removed } = difference;
        for reference in added {
            self.tell_named(&reference).await?;
        }
        for (kind, key) in removed {
            self.remove(kind.resource(), &key).await?;
            if kind == Referable::NetworkPolicy {
                self.release_policy(&key).await?;
            }
        }
        Ok(())
    }

    /// An object that the node may know, if it is there.
    async fn tell_named(&self, (kind, key): &Reference) -> Result<(), FeedEnd> {
        let Some(object) = self.hub.object(kind.resource(), key) else { return Ok(()) };
        if *kind == Referable::NetworkPolicy {
            return self.policy(&object).await;
        }
        self.put(kind.resource(), key, object.json.clone()).await
    }

    /// What a pod names, and the policies that select it.
    pub(super) fn references_of(&self, pod: &CachedObject) -> BTreeSet<Reference> {
        let spec = match pod.decode::<PodNames>() {
            Ok(names) => names.spec,
            Err(error) => {
                // The node cannot decode it either; it is told nothing that the pod may name.
                error!(pod = %pod.key, %error, "cannot decode a pod");
                return BTreeSet::new();
            }
        };
        let mut named = references(&pod.key.namespace, &spec);
        // Such a pod has no address of its own that could be guarded.
        if spec.host_network != Some(true) {
            let selecting = self.hub.policies.selecting(pod).into_iter();
            named.extend(selecting.map(|policy| (Referable::NetworkPolicy, policy)));
        }
        named
    }

    async fn put_or_remove(&self, resource: &str, key: &ObjectKey) -> Result<(), FeedEnd> {
        match self.hub.object(resource, key) {
            Some(object) => self.put(resource, key, object.json.clone()).await,
            None => self.remove(resource, key).await,
        }
    }

    pub(super) async fn put(
        &self,
        resource: &str,
        key: &ObjectKey,
        json: Bytes,
    ) -> Result<(), FeedEnd> {
        let ObjectKey { namespace, name } = key.clone();
        self.send(Message::Put(ObjectPut { resource: resource.to_owned(), namespace, name, json }))
            .await
    }

    async fn remove(&self, resource: &str, key: &ObjectKey) -> Result<(), FeedEnd> {
        let ObjectKey { namespace, name } = key.clone();
        self.send(Message::Removed(ObjectRemoved {
            resource: resource.to_owned(),
            namespace,
            name,
        }))
        .await
    }

    pub(super) async fn send(&self, message: Message) -> Result<(), FeedEnd> {
        let message = Ok(SessionDown { message: Some(message) });
        match timeout(STALL, self.down.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(FeedEnd::Gone),
            Err(_) => Err(FeedEnd::Stalled),
        }
    }
}
