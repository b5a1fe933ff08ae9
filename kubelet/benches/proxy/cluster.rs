//! A large cluster, as its master tells of it.

use std::sync::Arc;

use kubelet::state::{Change, ClusterState, EndpointSlice, StateHandle, kept};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Node, Service};
use serde_json::{Value, json};

/// Endpoints are on so many nodes.
const NODES: u32 = 1_000;

/// How many Services, and how many endpoints each of them has.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
}

/// Where this node answers for names.
pub(crate) const GATEWAY: &str = "10.244.0.1/24";

/// Puts it all in, as a snapshot of the master's comes: decoded object by object, then put in place of
/// what was.
pub(crate) fn fill(state: &StateHandle, size: Size) {
    let node = json!({"metadata": {"name": "here"}, "spec": {"podCIDR": "10.244.0.0/24"}});
    let node: Node = serde_json::from_value(node).expect("a node");
    let mut snapshot = ClusterState {
        confirmed: true,
        node: Some(Arc::new(node)),
        pod_cidrs: vec!["10.244.0.0/16".into(), "10.128.0.0/9".into()],
        service_cidrs: vec!["10.96.0.0/12".into()],
        cluster_domain: "cluster.local".into(),
        ..ClusterState::default()
    };
    for number in 0..size.services {
        let (key, service) = service(number);
        let change = Change::Service(key.clone());
        snapshot.services.insert(key, service);
        state.read(|known| snapshot.share(&change, known));
        let (key, slice) = slice(number, size.endpoints, 0);
        let change = Change::EndpointSlice(key.clone());
        snapshot.endpoint_slices.insert(key, slice);
        state.read(|known| snapshot.share(&change, known));
    }
    state.write([Change::Everything], |state| *state = snapshot);
}

fn service(number: u32) -> (ObjectKey, Arc<Service>) {
    let (name, address) = (name(number), cluster_address(number));
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": "default", "resourceVersion": format!("{}", 1000 + number),
            "uid": uid(number), "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": name},
        },
        "spec": {
            "type": "ClusterIP", "selector": {"app": name}, "sessionAffinity": "None",
            "clusterIP": address, "clusterIPs": [address], "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
        "status": {"loadBalancer": {}},
    });
    let text = object.to_string();
    let service: Service = serde_json::from_str(&text).expect("a Service");
    (ObjectKey::new("default", name), Arc::new(kept(service)))
}

/// A Service's endpoints. The first is another one in each of 200 versions.
pub(crate) fn slice(service: u32, endpoints: u32, version: u32) -> (ObjectKey, Arc<EndpointSlice>) {
    let owner = name(service);
    let ends: Vec<Value> = (0..endpoints)
        .map(|endpoint| {
            let pod = format!("{owner}-7d9c5b8f6-{endpoint:05}");
            json!({
                "addresses": [address(service, endpoint, version)],
                "nodeName": format!("worker-{}", (service * 31 + endpoint * 7) % NODES),
                "zone": format!("zone-{}", endpoint % 3),
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {
                    "kind": "Pod", "namespace": "default", "name": pod,
                    "uid": uid(service * 100 + endpoint),
                },
            })
        })
        .collect();
    let name = format!("{owner}-x7k2p");
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "default", "uid": uid(service + 1_000_000),
            "resourceVersion": format!("{}", 1000 + service),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "kubernetes.io/service-name": owner,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": owner, "uid": uid(service),
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": ends,
    });
    let text = object.to_string();
    (ObjectKey::new("default", name), Arc::new(serde_json::from_str(&text).expect("a slice")))
}

fn name(service: u32) -> String {
    format!("service-{service}")
}

fn uid(number: u32) -> String {
    format!("6f1f8f2e-0000-4000-8000-{number:012}")
}

pub(crate) fn cluster_address(service: u32) -> String {
    format!("10.96.{}.{}", service / 250, service % 250 + 1)
}

pub(crate) fn address(service: u32, endpoint: u32, version: u32) -> String {
    let last = if endpoint == 0 { version % 200 } else { 200 + endpoint };
    format!("10.{}.{}.{}", 128 + service / 250, service % 250, last + 1)
}
