//! What the master says, put into the [`ClusterState`].

use std::net::IpAddr;

use proto::ObjectKey;
use proto::node::session_down::Message;
use proto::node::{ObjectPut, ObjectRemoved, OpenTunnel, Welcome};
use tracing::{debug, error, warn};

use crate::state::{self, Change, ClusterState, Edit, StateHandle};

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
            Message::Put(put) => self.put(put),
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

    fn put(&mut self, put: ObjectPut) -> Received {
        let ObjectPut { resource, namespace, name, json } = put;
        let key = ObjectKey::new(namespace, name);
        let (edit, change) = match state::put(&resource, key.clone(), &json) {
            Ok(Some(decoded)) => decoded,
            // A newer master may tell of more than this kubelet knows how to use.
            Ok(None) => {
                debug!(resource, "ignored an object");
                return Received::Applied;
            }
            Err(error) => {
                error!(resource, %key, %error, "the master sent an object that does not decode");
                return Received::Applied;
            }
        };
        self.edit(edit, change.clone());
        match change {
            Change::Pod(_) | Change::Node if self.snapshot.is_none() => Received::Changed(change),
            _ => Received::Applied,
        }
    }

    fn remove(&mut self, removed: ObjectRemoved) -> Received {
        let ObjectRemoved { resource, namespace, name } = removed;
        let Some((edit, change)) = state::removal(&resource, ObjectKey::new(namespace, name))
        else {
            debug!(resource, "ignored a removal");
            return Received::Applied;
        };
        let uid = |state: &ClusterState| match &change {
            Change::Pod(key) => state.pods.get(key).and_then(|pod| pod.metadata.uid.clone()),
            _ => None,
        };
        let uid = self.snapshot.as_deref().map_or_else(|| self.state.read(uid), uid);
        self.edit(edit, change);
        uid.map_or(Received::Applied, |uid| Received::PodDeleted { uid })
    }

    /// Changes the snapshot that is coming in, or the state.
    fn edit(&mut self, edit: Edit, change: Change) {
        match &mut self.snapshot {
            Some(snapshot) => edit(snapshot),
            None => self.state.write([change], edit),
        }
    }
}
