//! Keeps a Lease for each node, as clients know it from Kubernetes, where the kubelet renews it.
//!
//! Here a node lives while its session is open, and nothing is written for that: whoever reads the
//! lease of a node with a session sees it as renewed just now (`api/rest/node_leases.rs`). What is
//! stored is when the node was seen last before its session ended.
//!
//! [`reconcile`] decides, [`NodeLeases`] performs one pass.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::Context;
use super::driver::{Controller, Next, SyncError};
use super::node_lifecycle::{is_lost, session_changes};
use crate::api::kinds::lease::NODE_NAMESPACE;
use crate::api::kinds::{Kind, Leases, Namespaces, Nodes};
use crate::api::objects::Part;
use crate::cache::ObjectEvent;
use crate::store::keys;

const LEASES: &str = Leases::RESOURCE.plural;
const NAMESPACES: &str = Namespaces::RESOURCE.plural;
const NODES: &str = Nodes::RESOURCE.plural;

/// What Kubernetes' kubelet asks for; clients take a node for lost after it.
const DURATION_SECONDS: i32 = 40;

/// The controller. See the module's documentation.
pub(super) struct NodeLeases {
    context: Context,
    /// Nodes of which it was written when they were seen last.
    ended: Mutex<HashSet<String>>,
}

/// What is there of a node.
struct Observed<'a> {
    node: &'a Node,
    lease: Option<&'a Lease>,
    session: bool,
    /// That its session has ended was written before.
    ended: bool,
    now: Timestamp,
}

#[derive(Debug, PartialEq)]
enum Action {
    Create(Box<Lease>),
    /// The lease gets this `spec` and this owner.
    Change(Box<Lease>),
}

fn reconcile(observed: &Observed<'_>) -> Option<Action> {
    let wanted = lease(observed.node, observed.now);
    let Some(found) = observed.lease else { return Some(Action::Create(Box::new(wanted))) };
    // A node of the same name has taken the place of another.
    let same = found.metadata.owner_references == wanted.metadata.owner_references;
    let ends = !observed.session && !observed.ended && !is_lost(observed.node);
    (!same || ends).then(|| Action::Change(Box::new(wanted)))
}

/// The lease of a node that was seen just now.
fn lease(node: &Node, now: Timestamp) -> Lease {
    let name = node.metadata.name.clone().unwrap_or_default();
    Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NODE_NAMESPACE.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: Nodes::RESOURCE.kind.to_owned(),
                name: name.clone(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

#[async_trait]
impl Controller for NodeLeases {
    /// The node's name.
    type Key = String;

    const NAME: &'static str = "node-lease-controller";

    fn resources(&self) -> Vec<&'static str> {
        vec![NODES, LEASES, NAMESPACES]
    }

    fn affected(&self, resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(String)) {
        let key = &event.object().key;
        let deleted = matches!(event, ObjectEvent::Deleted(_));
        match resource {
            NODES if !deleted => add(key.name.clone()),
            LEASES if deleted && key.namespace == NODE_NAMESPACE => add(key.name.clone()),
            // It was not there when the nodes were looked at.
            NAMESPACES if key.name == NODE_NAMESPACE && matches!(event, ObjectEvent::Added(_)) => {
                let nodes = self.context.objects.caches().resource(NODES);
                let nodes = nodes.map(|nodes| nodes.list(None).1).unwrap_or_default();
                nodes.iter().for_each(|node| add(node.key.name.clone()));
            }
            _ => {}
        }
    }

    /// Nodes whose session began or ended.
    fn triggers(&self) -> BoxStream<'static, String> {
        session_changes(self.context.objects.caches().keys(keys::NODE_SESSIONS))
    }

    async fn sync(&self, name: &String) -> Result<Next, SyncError> {
        let caches = self.context.objects.caches();
        let get = |resource: &str, key: &ObjectKey| caches.resource(resource)?.get(key);
        let session = caches.keys(keys::NODE_SESSIONS).get(&keys::node_session(name)).is_some();
        let key = ObjectKey::new(NODE_NAMESPACE, name.clone());
        let Some(node) = get(NODES, &ObjectKey::new("", name.clone())) else {
            self.note(name, false);
            return Ok(Next::Done);
        };
        let node: Node = node.decode().map_err(SyncError::decode(name))?;
        let lease = get(LEASES, &key).map(|lease| lease.decode::<Lease>()).transpose();
        let lease = lease.map_err(SyncError::decode(&key))?;
        let ended = self.note(name, !session);
        let observed =
            Observed { node: &node, lease: lease.as_ref(), session, ended, now: Timestamp::now() };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        let written = match reconcile(&observed) {
            None => Ok(()),
            Some(Action::Create(lease)) => objects.create::<Leases>(*lease, fence).await.map(drop),
            Some(Action::Change(wanted)) => {
                let change = |stored: &mut Lease| {
                    stored.spec.clone_from(&wanted.spec);
                    let owners = &wanted.metadata.owner_references;
                    stored.metadata.owner_references.clone_from(owners);
                    true
                };
                objects.update::<Leases>(&key, Part::Spec, fence, change).await.map(drop)
            }
        };
        match written {
            // The namespace goes or is not there yet; when it comes, all nodes are looked at again.
            Err(error) if super::is_terminating(&error) || error.is_not_found() => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) => {
                self.note(name, false);
                return Err(SyncError::write(format!("write the lease of node {name}"))(error));
            }
            Ok(()) => {}
        }
        Ok(Next::Done)
    }
}

impl NodeLeases {
    pub(super) fn new(context: Context) -> Self {
        Self { context, ended: Mutex::default() }
    }

    /// Notes whether the node's session has ended; tells what was noted before.
    fn note(&self, node: &str, ended: bool) -> bool {
        let mut known = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended { !known.insert(node.to_owned()) } else { known.remove(node) }
    }
}
