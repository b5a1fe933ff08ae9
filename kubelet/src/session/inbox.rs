//! What the master says, put into the [`ClusterState`].

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use proto::ObjectKey;
use proto::node::session_down::Message;
use proto::node::{
    ObjectPut, ObjectRemoved, OpenTunnel, PolicyPeer, PolicyPeers, PolicyPeersRemoved, Welcome,
};
use proto::policy::{PodPeer, PodPort};
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
            Message::PolicyPeers(peers) => self.policy_peers(peers),
            Message::PolicyPeersRemoved(PolicyPeersRemoved { set }) => {
                let none = PolicyPeers { set, whole: true, ..PolicyPeers::default() };
                self.policy_peers(none)
            }
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
        self.state.write([Change::Everything], |state| {
            snapshot.keep_static(state);
            *state = snapshot;
        });
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
            Change::Pod(_) | Change::Mirror(_) | Change::Node if self.snapshot.is_none() => {
                Received::Changed(change)
            }
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

    /// Pods came into a set that network policies name, changed there, or went out of it.
    fn policy_peers(&mut self, peers: PolicyPeers) -> Received {
        let PolicyPeers { set, whole, put, removed } = peers;
        let mut news: Vec<(String, Option<PodPeer>)> = Vec::new();
        if whole {
            let known = |state: &ClusterState| -> Vec<String> {
                state.policy_peers.get(&set).into_iter().flat_map(BTreeMap::keys).cloned().collect()
            };
            let known = self.snapshot.as_deref().map_or_else(|| self.state.read(known), known);
            let put: HashSet<&str> = put.iter().map(|peer| peer.pod.as_str()).collect();
            let stays = |pod: &String| put.contains(pod.as_str());
            // Those that are put again do not go in between.
            news.extend(known.into_iter().filter(|pod| !stays(pod)).map(|pod| (pod, None)));
        }
        news.extend(removed.into_iter().map(|pod| (pod, None)));
        for peer in put {
            let pod = peer.pod.clone();
            match pod_peer(peer) {
                Some(peer) => news.push((pod, Some(peer))),
                None => error!(set, pod, "the master sent a pod with an address that is none"),
            }
        }
        let edits = news
            .into_iter()
            .map(|(pod, peer)| state::policy_peer(ObjectKey::new(set.as_str(), pod), peer));
        let (edits, changes): (Vec<Edit>, Vec<Change>) = edits.unzip();
        let edit = move |state: &mut ClusterState| edits.into_iter().for_each(|edit| edit(state));
        match &mut self.snapshot {
            Some(snapshot) => {
                edit(snapshot);
                self.state.read(|known| changes.iter().for_each(|one| snapshot.share(one, known)));
            }
            None => self.state.write(changes, edit),
        }
        Received::Applied
    }

    /// Changes the snapshot that is coming in, or the state.
    fn edit(&mut self, edit: Edit, change: Change) {
        match &mut self.snapshot {
            Some(snapshot) => {
                edit(snapshot);
                self.state.read(|known| snapshot.share(&change, known));
            }
            None => self.state.write([change], edit),
        }
    }
}

fn pod_peer(peer: PolicyPeer) -> Option<PodPeer> {
    let PolicyPeer { pod: _, addresses, ports } = peer;
    let addresses = addresses.iter().map(|text| text.parse().ok()).collect::<Option<Vec<_>>>()?;
    let ports = ports.into_iter().map(|port| {
        let protocol = u8::try_from(port.protocol).ok()?;
        Some(PodPort { name: port.name, protocol, number: u16::try_from(port.number).ok()? })
    });
    Some(PodPeer { addresses, ports: ports.collect::<Option<_>>()? })
}
