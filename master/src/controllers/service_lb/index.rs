//! What is there, indexed by what it decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::super::holders::Holders;
use super::port::Port;
use super::reconcile::{Balanced, Place};
use crate::cache::{CachedObject, ObjectEvent};

/// What a Service belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Only what matters here is kept: of Services that nobody balances their node ports, of pods the
/// host ports.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) services: HashMap<ObjectKey, Balanced>,
    by_port: HashMap<Port, BTreeSet<ObjectKey>>,
    pub(super) nodes: BTreeMap<String, Place>,
    node_ports: Holders<Port>,
    host_ports: Holders<(String, Port)>,
    slices: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Index {
    /// Other balanced Services with one of its ports, the oldest first.
    pub(super) fn rivals(&self, service: &Balanced) -> Vec<&Balanced> {
        let keys = service.ports.iter().filter_map(|port| self.by_port.get(port)).flatten();
        let keys: BTreeSet<&ObjectKey> = keys.filter(|key| **key != service.key).collect();
        let mut rivals: Vec<&Balanced> =
            keys.into_iter().filter_map(|key| self.services.get(key)).collect();
        rivals.sort_by_key(|rival| rival.age());
        rivals
    }

    /// Of which of its ports others have made node ports.
    pub(super) fn node_ports(&self, service: &Balanced) -> BTreeMap<Port, ObjectKey> {
        let others = service.ports.iter().filter_map(|port| {
            let mut holders = self.node_ports.of(port);
            Some((*port, holders.find(|holder| **holder != service.key)?.clone()))
        });
        others.collect()
    }

    /// Which of its ports are host ports of pods.
    pub(super) fn host_ports(&self, service: &Balanced) -> BTreeMap<(String, Port), ObjectKey> {
        let places = self
            .nodes
            .keys()
            .flat_map(|node| service.ports.iter().map(move |port| (node.clone(), *port)));
        let held = places.filter_map(|place| {
            let pod = self.host_ports.of(&place).next()?.clone();
            Some((place, pod))
        });
        held.collect()
    }

    pub(super) fn slices(&self, service: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.slices.get(service).into_iter().flatten()
    }

    pub(super) fn service_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let object = event.object();
        // What does not decode is told by the pass.
        let service = present(event).and_then(|object| object.decode::<Service>().ok());
        let node_ports = service.as_ref().map(node_ports).unwrap_or_default();
        let before = self.services.remove(&object.key);
        for port in before.iter().flat_map(|before| &before.ports) {
            if let Some(keys) = self.by_port.get_mut(port) {
                keys.remove(&object.key);
                if keys.is_empty() {
                    self.by_port.remove(port);
                }
            }
        }
        let after = service.and_then(|service| Balanced::of(&object.key, &service));
        for port in self.node_ports.set(&object.key, node_ports) {
            self.by_port.get(&port).into_iter().flatten().for_each(|key| add(key.clone()));
        }
        // Who waits for a port looks whether it is free now.
        let same = |both: (&Balanced, &Balanced)| {
            (&both.0.ports, &both.0.holds) == (&both.1.ports, &both.1.holds)
        };
        if !before.as_ref().zip(after.as_ref()).is_some_and(same) {
            for service in before.iter().chain(&after) {
                self.rivals(service).iter().for_each(|rival| add(rival.key.clone()));
            }
        }
        if before.is_some() || after.is_some() {
            add(object.key.clone());
        }
        if let Some(after) = after {
            for port in &after.ports {
                self.by_port.entry(*port).or_default().insert(object.key.clone());
            }
            self.services.insert(object.key.clone(), after);
        }
    }

    pub(super) fn node_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let name = &event.object().key.name;
        let after = present(event).and_then(|object| object.decode::<Node>().ok());
        let after = after.as_ref().map(Place::of);
        let before = match &after {
            Some(place) => self.nodes.insert(name.clone(), place.clone()),
            None => self.nodes.remove(name),
        };
        if before != after {
            // The node's ports go to the older ones.
            let mut services: Vec<&Balanced> = self.services.values().collect();
            services.sort_by_key(|service| service.age());
            services.iter().for_each(|service| add(service.key.clone()));
        }
    }

    pub(super) fn pod_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let object = event.object();
        // Few pods have any: most need not be decoded.
        let may_have = |object: &&CachedObject| {
            object.json.windows(HOST_PORT.len()).any(|part| part == HOST_PORT)
        };
        let pod = present(event).filter(may_have).and_then(|object| object.decode::<Pod>().ok());
        let ports = pod.as_ref().map(host_ports).unwrap_or_default();
        for (_, port) in self.host_ports.set(&object.key, ports) {
            self.by_port.get(&port).into_iter().flatten().for_each(|key| add(key.clone()));
        }
    }

    pub(super) fn slice_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let object = event.object();
        if let ObjectEvent::Modified { old, .. } = event {
            self.forget_slice(old);
        }
        let Some(service) = service_of(object) else { return };
        match present(event) {
            Some(_) => {
                self.slices.entry(service.clone()).or_default().insert(object.key.clone());
            }
            None => self.forget_slice(object),
        }
        if self.services.get(&service).is_some_and(|service| service.local) {
            add(service);
        }
    }

    fn forget_slice(&mut self, slice: &CachedObject) {
        let Some(service) = service_of(slice) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&slice.key);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
    }
}

const HOST_PORT: &[u8] = b"\"hostPort\"";

fn present(event: &ObjectEvent) -> Option<&CachedObject> {
    match event {
        ObjectEvent::Deleted(_) => None,
        _ => Some(event.object()),
    }
}

fn service_of(slice: &CachedObject) -> Option<ObjectKey> {
    let name = slice.labels.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.key.namespace.clone(), name.clone()))
}

/// What nodes listen at for it.
fn node_ports(service: &Service) -> BTreeSet<Port> {
    let Some(spec) = &service.spec else { return BTreeSet::new() };
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|port| Port::new(port.protocol.as_deref(), port.node_port?));
    ports.chain(spec.health_check_node_port.and_then(|port| Port::new(None, port))).collect()
}

/// Those of a pod that has not ended.
fn host_ports(pod: &Pod) -> BTreeSet<(String, Port)> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let ended = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"));
    let Some(node) = spec.node_name.as_ref().filter(|_| !ended) else { return BTreeSet::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter_map(|port| Port::new(port.protocol.as_deref(), port.host_port?));
    ports.map(|port| (node.clone(), port)).collect()
}
