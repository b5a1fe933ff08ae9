//! What the master told this node, and the news of it.
//!
//! The session writes it; pod workers, volumes, network and proxy read it. Every change is a hint
//! to look again: the state itself is what counts.

mod objects;
mod slice;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use proto::k8s::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::policy::PodPeer;
use proto::{ObjectKey, Peer};
use tokio::sync::broadcast;

pub use self::objects::kept;
pub(crate) use self::objects::{Edit, Object, policy_peer, put, removal};
pub use self::slice::EndpointSlice;
pub(crate) use self::slice::{Endpoint, Standing};

/// Everything this node knows of the cluster.
#[derive(Debug, Default)]
pub struct ClusterState {
    /// Whether a snapshot was ever put in, from disk or from a master. Until then the absence of
    /// an object means nothing, and nothing may be removed because of it.
    pub loaded: bool,
    /// Whether a master's snapshot was put in since the kubelet started. What was loaded from disk
    /// may lack a pod that was started just before the kubelet ended, so whatever runs without
    /// being wanted is taken away only once this is set.
    pub confirmed: bool,
    /// Pods bound to this node.
    pub pods: HashMap<ObjectKey, Arc<Pod>>,
    /// Pods that this node has in files; no master's word changes them. See
    /// [`static_pods`](crate::static_pods).
    pub static_pods: HashMap<ObjectKey, Arc<Pod>>,
    /// Those of them that this node works for, by their uids; also while they end.
    pub static_here: HashMap<String, ObjectKey>,
    /// What the API shows of them. Nothing runs because of one.
    pub mirrors: HashMap<ObjectKey, Arc<Pod>>,
    /// ConfigMaps that these pods name.
    pub config_maps: HashMap<ObjectKey, Arc<ConfigMap>>,
    /// Secrets that these pods name.
    pub secrets: HashMap<ObjectKey, Arc<Secret>>,
    /// All services.
    pub services: HashMap<ObjectKey, Arc<Service>>,
    /// All endpoint slices.
    pub endpoint_slices: HashMap<ObjectKey, Arc<EndpointSlice>>,
    /// The network policies that select these pods.
    pub network_policies: HashMap<ObjectKey, Arc<NetworkPolicy>>,
    /// The pods that these policies are about, by the name of their set and then by their own.
    pub policy_peers: HashMap<String, BTreeMap<String, Arc<PodPeer>>>,
    /// The other nodes, by name.
    pub peers: HashMap<String, Arc<Peer>>,
    /// This node's own object, with its pod CIDR.
    pub node: Option<Arc<Node>>,
    /// All ranges pods of this cluster have addresses from.
    pub pod_cidrs: Vec<String>,
    /// All ranges services of this cluster have addresses from.
    pub service_cidrs: Vec<String>,
    /// As `cluster.local`.
    pub cluster_domain: String,
    /// Addresses of masters as this node dials them, for `default/kubernetes`.
    pub masters: Vec<IpAddr>,
}

impl ClusterState {
    /// Takes over what no master has a say in.
    pub(crate) fn keep_static(&mut self, before: &mut Self) {
        self.static_pods = std::mem::take(&mut before.static_pods);
        self.static_here = std::mem::take(&mut before.static_here);
    }

    /// All pods that are to run here, wherever they come from.
    pub fn all_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values().chain(self.static_pods.values())
    }

    /// The pod of that name with that uid: names are unique in the API and among files each.
    pub fn pod(&self, key: &ObjectKey, uid: &str) -> Option<&Arc<Pod>> {
        let found = [&self.pods, &self.static_pods].into_iter().filter_map(|pods| pods.get(key));
        found.into_iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid))
    }

    /// The uid that a pod has here, which the API knows by this one.
    pub fn uid_here<'a>(&'a self, key: &ObjectKey, uid: &'a str) -> &'a str {
        let is_meant = |mirror: &&Arc<Pod>| mirror.metadata.uid.as_deref() == Some(uid);
        let mirrored = self.mirrors.get(key).filter(is_meant);
        let own = mirrored.and_then(|_| self.static_pods.get(key)?.metadata.uid.as_deref());
        own.unwrap_or(uid)
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A snapshot replaced everything.
    Everything,
    /// A pod came, changed or went.
    Pod(ObjectKey),
    /// What the API shows of a pod of this node's own came, changed or went; or such a pod has ended.
    Mirror(ObjectKey),
    /// A ConfigMap came, changed or went.
    ConfigMap(ObjectKey),
    /// A Secret came, changed or went.
    Secret(ObjectKey),
    /// A service came, changed or went.
    Service(ObjectKey),
    /// An endpoint slice came, changed or went.
    EndpointSlice(ObjectKey),
    /// A network policy came, changed or went.
    NetworkPolicy(ObjectKey),
    /// A pod came into, changed in or went out of a set: the name of the set, in place of a namespace,
    /// and its own.
    PolicyPeer(ObjectKey),
    /// The other nodes changed.
    Peers,
    /// This node's own object changed.
    Node,
}

/// A shared handle to the [`ClusterState`].
#[derive(Clone)]
pub struct StateHandle {
    state: Arc<RwLock<ClusterState>>,
    changes: broadcast::Sender<Change>,
}

/// So many changes may be unread before a reader is told to look at everything again.
const CHANGES: usize = 4096;

impl Default for StateHandle {
    fn default() -> Self {
        Self { state: Arc::default(), changes: broadcast::Sender::new(CHANGES) }
    }
}

impl StateHandle {
    /// Looks at the state. The closure must not block: the session waits for it.
    pub fn read<R>(&self, look: impl FnOnce(&ClusterState) -> R) -> R {
        look(&self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Changes the state, then tells what changed. [`Change::Everything`] is told after a snapshot
    /// only, and marks the state as [loaded](ClusterState::loaded).
    pub fn write(
        &self,
        changes: impl IntoIterator<Item = Change>,
        edit: impl FnOnce(&mut ClusterState),
    ) {
        let changes: Vec<Change> = changes.into_iter().collect();
        {
            let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            edit(&mut state);
            state.loaded |= changes.contains(&Change::Everything);
        }
        for change in changes {
            // No receiver is no error: nobody has started to look yet.
            let _ = self.changes.send(change);
        }
    }

    /// Changes from now on. A receiver that lags treats it as [`Change::Everything`].
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}
