//! What the master says, put into the [`ClusterState`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use proto::node::session_down::Message;
use proto::node::{ObjectPut, ObjectRemoved, OpenTunnel, Welcome};
use proto::{ObjectKey, Peer};
use serde::de::DeserializeOwned;
use tracing::{debug, error, warn};

use crate::state::{Change, ClusterState, StateHandle};

/// What a message asks of the session, beside the change of the state.
#[derive(Debug, PartialEq)]
pub(super) enum Received {
    /// No more than that.
    Applied,
    /// The session is accepted.
    Welcome(Welcome),
    /// The state is now what the master said.
    Snapshot,
    /// What the master has of a pod or of this node changed: it may no longer say what was reported.
    Changed(Change),
    /// The master has deleted a pod's object.
    PodDeleted {
        /// Its uid.
        uid: String,
    },
    /// The master wants a stream.
    Tunnel(OpenTunnel),
}

/// Takes the messages of one session.
pub(super) struct Inbox {
    state: StateHandle,
    welcome: Welcome,
    masters: Vec<IpAddr>,
    /// Between the begin and the end of a snapshot.
    snapshot: Option<Box<ClusterState>>,
}

impl Inbox {
    pub(super) fn new(state: StateHandle, masters: Vec<IpAddr>) -> Self {
        Self { state, welcome: Welcome::default(), masters, snapshot: None }
    }

    /// Takes one message. A part of a snapshot changes nothing before the snapshot is whole.
    pub(super) fn receive(&mut self, message: Message) -> Received {
        match message {
            Message::Welcome(welcome) => {
                self.welcome = welcome.clone();
                Received::Welcome(welcome)
            }
            Message::SnapshotBegin(_) => {
                self.snapshot = Some(Box::default());
                Received::Applied
            }
            Message::SnapshotEnd(_) => {
                let Some(snapshot) = self.snapshot.take() else {
                    warn!("the master ended a snapshot that it did not begin");
                    return Received::Applied;
                };
                self.replace(*snapshot);
                Received::Snapshot
            }
            Message::Put(put) => self.put(&put),
            Message::Removed(removed) => self.remove(removed),
            Message::OpenTunnel(tunnel) => Received::Tunnel(tunnel),
        }
    }

    fn replace(&mut self, mut snapshot: ClusterState) {
        snapshot.loaded = true;
        snapshot.confirmed = true;
        snapshot.pod_cidrs.clone_from(&self.welcome.pod_cidrs);
        snapshot.service_cidrs.clone_from(&self.welcome.service_cidrs);
        snapshot.cluster_domain.clone_from(&self.welcome.cluster_domain);
        snapshot.masters.clone_from(&self.masters);
        self.state.write([Change::Everything], |state| *state = snapshot);
    }

    fn put(&mut self, put: &ObjectPut) -> Received {
        let (edit, change) = match decode(put) {
            Ok(Some(decoded)) => decoded,
            Ok(None) => return Received::Applied,
            Err(error) => {
                let ObjectPut { resource, namespace, name, .. } = put;
                error!(
                    resource, namespace, name, %error,
                    "the master sent an object that does not decode"
                );
                return Received::Applied;
            }
        };
        if let Some(snapshot) = &mut self.snapshot {
            edit(snapshot);
            return Received::Applied;
        }
        self.state.write([change.clone()], edit);
        match change {
            Change::Pod(_) | Change::Node => Received::Changed(change),
            _ => Received::Applied,
        }
    }

    fn remove(&mut self, removed: ObjectRemoved) -> Received {
        let ObjectRemoved { resource, namespace, name } = removed;
        let key = ObjectKey::new(namespace, name);
        let mut uid = None;
        let mut write = |change, edit: &mut dyn FnMut(&mut ClusterState)| match &mut self.snapshot {
            Some(snapshot) => edit(snapshot),
            None => self.state.write([change], |state| edit(state)),
        };
        match resource.as_str() {
            "pods" => write(Change::Pod(key.clone()), &mut |state| {
                uid = state.pods.remove(&key).and_then(|pod| pod.metadata.uid.clone());
            }),
            "configmaps" => write(Change::ConfigMap(key.clone()), &mut |state| {
                state.config_maps.remove(&key);
            }),
            "secrets" => write(Change::Secret(key.clone()), &mut |state| {
                state.secrets.remove(&key);
            }),
            "services" => write(Change::Service(key.clone()), &mut |state| {
                state.services.remove(&key);
            }),
            "endpointslices" => write(Change::EndpointSlice(key.clone()), &mut |state| {
                state.endpoint_slices.remove(&key);
            }),
            "peers" => write(Change::Peers, &mut |state| {
                state.peers.remove(&key.name);
            }),
            "nodes" => write(Change::Node, &mut |state| state.node = None),
            // A newer master may tell of more than this kubelet knows how to use.
            other => debug!(resource = other, "ignored a removal"),
        }
        uid.map_or(Received::Applied, |uid| Received::PodDeleted { uid })
    }
}

type Edit = Box<dyn FnOnce(&mut ClusterState)>;

/// The change that a put means; nothing for a resource this kubelet has no use for.
fn decode(put: &ObjectPut) -> Result<Option<(Edit, Change)>, serde_json::Error> {
    fn object<T: DeserializeOwned + 'static>(
        put: &ObjectPut,
        change: fn(ObjectKey) -> Change,
        map: fn(&mut ClusterState) -> &mut HashMap<ObjectKey, Arc<T>>,
    ) -> Result<Option<(Edit, Change)>, serde_json::Error> {
        let key = ObjectKey::new(put.namespace.as_str(), put.name.as_str());
        let object: Arc<T> = Arc::new(serde_json::from_slice(&put.json)?);
        let change = change(key.clone());
        let edit = move |state: &mut ClusterState| {
            map(state).insert(key, object);
        };
        Ok(Some((Box::new(edit), change)))
    }
    match put.resource.as_str() {
        "pods" => object(put, Change::Pod, |state| &mut state.pods),
        "configmaps" => object(put, Change::ConfigMap, |state| &mut state.config_maps),
        "secrets" => object(put, Change::Secret, |state| &mut state.secrets),
        "services" => object(put, Change::Service, |state| &mut state.services),
        "endpointslices" => object(put, Change::EndpointSlice, |state| &mut state.endpoint_slices),
        "peers" => {
            let peer: Arc<Peer> = Arc::new(serde_json::from_slice(&put.json)?);
            let edit = move |state: &mut ClusterState| {
                state.peers.insert(peer.node.clone(), peer);
            };
            Ok(Some((Box::new(edit), Change::Peers)))
        }
        "nodes" => {
            let node = Arc::new(serde_json::from_slice(&put.json)?);
            let edit = move |state: &mut ClusterState| state.node = Some(node);
            Ok(Some((Box::new(edit), Change::Node)))
        }
        other => {
            debug!(resource = other, "ignored an object");
            Ok(None)
        }
    }
}
