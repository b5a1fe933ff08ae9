//! Objects by the names that their resources have between master and node, and in the snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use proto::k8s::api::core::v1::{ConfigMap, Pod, Secret, Service};
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::policy::PodPeer;
use proto::{ObjectKey, Peer};
use serde::de::DeserializeOwned;

use super::{Change, ClusterState, EndpointSlice};
use crate::proxy::OTHER_PROXY;
use crate::static_pods::{MIRROR_ANNOTATION, SOURCE_ANNOTATION};

/// A change of the state, still to be made.
pub(crate) type Edit = Box<dyn FnOnce(&mut ClusterState) + Send>;

/// The change that an object's coming, or its new content, means; nothing for a resource that this
/// kubelet has no use for.
pub(crate) fn put(
    resource: &str,
    key: ObjectKey,
    json: &[u8],
) -> Result<Option<(Edit, Change)>, serde_json::Error> {
    fn object<T: DeserializeOwned + Send + Sync + 'static>(
        key: ObjectKey,
        json: &[u8],
        change: fn(ObjectKey) -> Change,
        map: fn(&mut ClusterState) -> &mut HashMap<ObjectKey, Arc<T>>,
    ) -> Result<Option<(Edit, Change)>, serde_json::Error> {
        let object: Arc<T> = Arc::new(serde_json::from_slice(json)?);
        let change = change(key.clone());
        let edit = move |state: &mut ClusterState| {
            map(state).insert(key, object);
        };
        Ok(Some((Box::new(edit), change)))
    }
    match resource {
        "pods" => pod(key, json).map(Some),
        "configmaps" => object(key, json, Change::ConfigMap, |state| &mut state.config_maps),
        "secrets" => object(key, json, Change::Secret, |state| &mut state.secrets),
        "services" => {
            let service = Arc::new(kept(serde_json::from_slice(json)?));
            let change = Change::Service(key.clone());
            let edit = move |state: &mut ClusterState| {
                state.services.insert(key, service);
            };
            Ok(Some((Box::new(edit), change)))
        }
        "endpointslices" => {
            object(key, json, Change::EndpointSlice, |state| &mut state.endpoint_slices)
        }
        "networkpolicies" => {
            object(key, json, Change::NetworkPolicy, |state| &mut state.network_policies)
        }
        "policypeers" => Ok(Some(policy_peer(key, Some(serde_json::from_slice(json)?)))),
        "peers" => {
            let peer: Arc<Peer> = Arc::new(serde_json::from_slice(json)?);
            let edit = move |state: &mut ClusterState| {
                state.peers.insert(peer.node.clone(), peer);
            };
            Ok(Some((Box::new(edit), Change::Peers)))
        }
        "nodes" => {
            let node = Arc::new(serde_json::from_slice(json)?);
            let edit = move |state: &mut ClusterState| state.node = Some(node);
            Ok(Some((Box::new(edit), Change::Node)))
        }
        _ => Ok(None),
    }
}

/// A Service without what no node reads: every node has all of a cluster's. Nothing of `spec` goes but
/// what is answered by the endpoint slices.
pub fn kept(service: Service) -> Service {
    let Service { metadata, mut spec, mut status } = service;
    let mut labels = metadata.labels.unwrap_or_default();
    labels.retain(|name, _| name == OTHER_PROXY);
    let metadata = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        creation_timestamp: metadata.creation_timestamp,
        labels: (!labels.is_empty()).then_some(labels),
        ..ObjectMeta::default()
    };
    if let Some(spec) = &mut spec {
        spec.selector = None;
    }
    if let Some(status) = &mut status {
        status.conditions = None;
    }
    Service { metadata, spec, status }
}

/// The change that a pod's coming into a set means, or its going out of it.
pub(crate) fn policy_peer(key: ObjectKey, peer: Option<PodPeer>) -> (Edit, Change) {
    let change = Change::PolicyPeer(key.clone());
    let edit = move |state: &mut ClusterState| match peer {
        Some(peer) => {
            let set = state.policy_peers.entry(key.namespace).or_default();
            set.insert(key.name, Arc::new(peer));
        }
        None => {
            if let Some(set) = state.policy_peers.get_mut(&key.namespace) {
                set.remove(&key.name);
                // A set that no policy names any more would be kept for ever.
                if set.is_empty() {
                    state.policy_peers.remove(&key.namespace);
                }
            }
        }
    };
    (Box::new(edit), change)
}

/// A pod of the API: one to run, or the image of one that runs out of a file.
fn pod(key: ObjectKey, json: &[u8]) -> Result<(Edit, Change), serde_json::Error> {
    let mut pod: Pod = serde_json::from_slice(json)?;
    let annotations = pod.metadata.annotations.as_mut();
    if annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR_ANNOTATION)) {
        let change = Change::Mirror(key.clone());
        let edit = move |state: &mut ClusterState| {
            state.pods.remove(&key);
            state.mirrors.insert(key, Arc::new(pod));
        };
        return Ok((Box::new(edit), change));
    }
    // Whatever it says, it comes from there: what comes out of files has privileges.
    if let Some(source) = annotations.and_then(|all| all.get_mut(SOURCE_ANNOTATION)) {
        "api".clone_into(source);
    }
    let change = Change::Pod(key.clone());
    let edit = move |state: &mut ClusterState| {
        state.mirrors.remove(&key);
        state.pods.insert(key, Arc::new(pod));
    };
    Ok((Box::new(edit), change))
}

/// The change that an object's going means; nothing for a resource that this kubelet has no use for.
pub(crate) fn removal(resource: &str, key: ObjectKey) -> Option<(Edit, Change)> {
    fn object<T: 'static>(
        key: ObjectKey,
        change: fn(ObjectKey) -> Change,
        map: fn(&mut ClusterState) -> &mut HashMap<ObjectKey, Arc<T>>,
    ) -> Option<(Edit, Change)> {
        let change = change(key.clone());
        let edit = move |state: &mut ClusterState| {
            map(state).remove(&key);
        };
        Some((Box::new(edit), change))
    }
    match resource {
        "pods" => {
            let change = Change::Pod(key.clone());
            let edit = move |state: &mut ClusterState| {
                state.pods.remove(&key);
                state.mirrors.remove(&key);
            };
            Some((Box::new(edit), change))
        }
        "configmaps" => object(key, Change::ConfigMap, |state| &mut state.config_maps),
        "secrets" => object(key, Change::Secret, |state| &mut state.secrets),
        "services" => object(key, Change::Service, |state| &mut state.services),
        "endpointslices" => object(key, Change::EndpointSlice, |state| &mut state.endpoint_slices),
        "networkpolicies" => {
            object(key, Change::NetworkPolicy, |state| &mut state.network_policies)
        }
        "policypeers" => Some(policy_peer(key, None)),
        "peers" => {
            let edit = move |state: &mut ClusterState| {
                state.peers.remove(&key.name);
            };
            Some((Box::new(edit), Change::Peers))
        }
        "nodes" => Some((Box::new(|state| state.node = None), Change::Node)),
        _ => None,
    }
}

/// An object of the state, shared with it.
pub(crate) enum Object {
    Pod(Arc<Pod>),
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    NetworkPolicy(Arc<NetworkPolicy>),
    PolicyPeer(Arc<PodPeer>),
}

impl Object {
    /// As the master sent it, as far as it is kept.
    pub(crate) fn json(&self) -> Result<Box<serde_json::value::RawValue>, serde_json::Error> {
        match self {
            Self::Pod(object) => serde_json::value::to_raw_value(object.as_ref()),
            Self::ConfigMap(object) => serde_json::value::to_raw_value(object.as_ref()),
            Self::Secret(object) => serde_json::value::to_raw_value(object.as_ref()),
            Self::Service(object) => serde_json::value::to_raw_value(object.as_ref()),
            Self::EndpointSlice(object) => serde_json::value::to_raw_value(object.as_ref()),
            Self::NetworkPolicy(object) => serde_json::value::to_raw_value(object.as_ref()),
            Self::PolicyPeer(object) => serde_json::value::to_raw_value(object.as_ref()),
        }
    }
}

impl ClusterState {
    /// What a change is of: resource, key, and the object where there is one. Nothing for a change
    /// that is of no one object, or of one that has a place of its own in the state.
    pub(crate) fn object_of(
        &self,
        change: &Change,
    ) -> Option<(&'static str, ObjectKey, Option<Object>)> {
        fn get<T>(
            map: &HashMap<ObjectKey, Arc<T>>,
            key: &ObjectKey,
            wrap: fn(Arc<T>) -> Object,
        ) -> (ObjectKey, Option<Object>) {
            (key.clone(), map.get(key).cloned().map(wrap))
        }
        let (resource, (key, object)) = match change {
            Change::Everything | Change::Mirror(_) | Change::Peers | Change::Node => return None,
            Change::Pod(key) => ("pods", get(&self.pods, key, Object::Pod)),
            Change::ConfigMap(key) => {
                ("configmaps", get(&self.config_maps, key, Object::ConfigMap))
            }
            Change::Secret(key) => ("secrets", get(&self.secrets, key, Object::Secret)),
            Change::Service(key) => ("services", get(&self.services, key, Object::Service)),
            Change::EndpointSlice(key) => {
                ("endpointslices", get(&self.endpoint_slices, key, Object::EndpointSlice))
            }
            Change::NetworkPolicy(key) => {
                ("networkpolicies", get(&self.network_policies, key, Object::NetworkPolicy))
            }
            Change::PolicyPeer(key) => {
                let set = self.policy_peers.get(&key.namespace);
                let peer = set.and_then(|set| set.get(&key.name));
                ("policypeers", (key.clone(), peer.cloned().map(Object::PolicyPeer)))
            }
        };
        Some((resource, key, object))
    }

    /// Has the object of a change in common with another state, if both say the same of it. So what a master
    /// tells of everything a second time is not in memory a second time while it comes in.
    pub fn share(&mut self, change: &Change, with: &Self) {
        fn same<T: PartialEq>(own: Option<&mut Arc<T>>, other: Option<&Arc<T>>) {
            if let (Some(own), Some(other)) = (own, other)
                && own == other
            {
                own.clone_from(other);
            }
        }
        match change {
            Change::Everything | Change::Mirror(_) | Change::Peers | Change::Node => {}
            Change::Pod(key) => same(self.pods.get_mut(key), with.pods.get(key)),
            Change::ConfigMap(key) => {
                same(self.config_maps.get_mut(key), with.config_maps.get(key));
            }
            Change::Secret(key) => same(self.secrets.get_mut(key), with.secrets.get(key)),
            Change::Service(key) => same(self.services.get_mut(key), with.services.get(key)),
            Change::EndpointSlice(key) => {
                same(self.endpoint_slices.get_mut(key), with.endpoint_slices.get(key));
            }
            Change::NetworkPolicy(key) => {
                same(self.network_policies.get_mut(key), with.network_policies.get(key));
            }
            Change::PolicyPeer(key) => same(
                self.policy_peers.get_mut(&key.namespace).and_then(|set| set.get_mut(&key.name)),
                with.policy_peers.get(&key.namespace).and_then(|set| set.get(&key.name)),
            ),
        }
    }

    /// A change for each object of [`object_of`](Self::object_of).
    pub(crate) fn all(&self) -> Vec<Change> {
        let Self {
            loaded: _,
            confirmed: _,
            pods,
            static_pods: _,
            static_here: _,
            mirrors: _,
            config_maps,
            secrets,
            services,
            endpoint_slices,
            network_policies,
            policy_peers,
            peers: _,
            node: _,
            pod_cidrs: _,
            service_cidrs: _,
            cluster_domain: _,
            masters: _,
        } = self;
        let pods = pods.keys().cloned().map(Change::Pod);
        pods.chain(config_maps.keys().cloned().map(Change::ConfigMap))
            .chain(secrets.keys().cloned().map(Change::Secret))
            .chain(services.keys().cloned().map(Change::Service))
            .chain(endpoint_slices.keys().cloned().map(Change::EndpointSlice))
            .chain(network_policies.keys().cloned().map(Change::NetworkPolicy))
            .chain(policy_peers.iter().flat_map(|(set, pods)| {
                pods.keys().map(move |pod| Change::PolicyPeer(ObjectKey::new(set, pod)))
            }))
            .collect()
    }
}
