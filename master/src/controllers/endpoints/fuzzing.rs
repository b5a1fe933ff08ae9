//! What has to hold of a Service's slices, whatever pods there are and whatever was in the slices
//! before: the target of the fuzzer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::addresses::{self, Family};
use super::slices::{Action, Frame, MAX_ENDPOINTS, reconcile};
use super::{SLICES, owner, slice_labels};
use crate::api::kinds::Kind;
use crate::api::kinds::endpoint_slice::EndpointSlices;
use crate::controllers::pods::PodView;

/// Good ones of both families first, then such as can be no endpoint's.
const ADDRESSES: [&str; 14] = [
    "10.244.0.2",
    "10.244.0.3",
    "10.244.1.2",
    "fd00:244::2",
    "fd00:244::3",
    "fd00:244:0:1::2",
    "127.0.0.1",
    "0.0.0.0",
    "169.254.1.1",
    "fe80::1",
    "::1",
    "::ffff:10.244.0.2",
    "10.244.0.256",
    "",
];
const TYPES: [&str; 4] = ["IPv4", "IPv6", "FQDN", "ipv4"];

/// Bytes, taken as one choice after the other; when they have run out, the first of each.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or_default()) % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn service(&mut self) -> Service {
        let families = self.pick::<&[&str]>(&[&["IPv4"], &["IPv6"], &["IPv6", "IPv4"], &[]]);
        let ports = [
            json!({"name": "http", "port": 80, "targetPort": "http"}),
            json!({"name": "dns", "port": 53, "protocol": "UDP"}),
        ];
        let ports = &ports[self.below(3).min(1)..];
        parse(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "web"},
            "spec": {
                "selector": {"app": "web"},
                "clusterIP": self.pick(&["10.96.0.10", "None"]),
                "ipFamilies": families,
                "publishNotReadyAddresses": self.below(4) == 0,
                "ports": ports,
            },
        }))
    }

    fn pod(&mut self, number: usize) -> Value {
        let ips: Vec<Value> = match self.below(4) {
            0 => vec![json!({"ip": self.pick(&ADDRESSES)})],
            1 => vec![],
            // Its own.
            _ => vec![
                json!({"ip": format!("10.244.{}.{}", number / 200, number % 200 + 1)}),
                json!({"ip": format!("fd00:244::{number:x}")}),
            ],
        };
        json!({
            "metadata": {
                "name": format!("p{number}"), "namespace": "shop", "uid": format!("p{number}"),
                "deletionTimestamp": self.pick(&[None, None, Some("2030-01-01T00:00:00Z")]),
            },
            "spec": {
                "nodeName": self.pick(&["one", "two"]),
                "hostname": self.pick(&["", "db-0"]),
                "subdomain": self.pick(&["", "web"]),
                "containers": [{"name": "main", "ports": [
                    {"name": self.pick(&["http", "other"]), "containerPort": self.pick(&[8080, 8081])},
                ]}],
            },
            "status": {
                "phase": self.pick(&["Running", "Running", "Pending", "Succeeded"]),
                "podIPs": ips,
                "conditions": [{"type": "Ready", "status": self.pick(&["True", "True", "False"])}],
            },
        })
    }

    /// A slice that somebody has changed, or made: of any kind, with endpoints that there are or not.
    fn slice(
        &mut self,
        number: usize,
        there: &[(Family, Vec<EndpointPort>, Endpoint)],
    ) -> EndpointSlice {
        let like = (!there.is_empty()).then(|| there[self.below(there.len())].clone());
        let mut slice: EndpointSlice = parse(json!({"addressType": self.pick(&TYPES)}));
        if let Some((family, ports, _)) = like.filter(|_| self.below(4) > 0) {
            family.as_str().clone_into(&mut slice.address_type);
            slice.ports = Some(ports).filter(|_| self.below(5) > 0);
        }
        let mut endpoints = Vec::new();
        for _ in 0..self.pick(&[3, 0, 1, 90, 130, 250]) {
            match self.below(8) {
                0 => endpoints.push(parse(json!({"addresses": []}))),
                1 => endpoints.push(parse(json!({"addresses": [self.pick(&ADDRESSES)]}))),
                2 if !endpoints.is_empty() => {
                    endpoints.push(Endpoint::clone(&endpoints[self.below(endpoints.len())]));
                }
                _ if !there.is_empty() => {
                    // Two bytes: there may be many.
                    let which = self.below(256) * 256 + self.below(256);
                    endpoints.push(there[which % there.len()].2.clone());
                    if self.below(8) == 0 {
                        let last = endpoints.last_mut().expect("one");
                        last.conditions = None;
                    }
                }
                _ => {}
            }
        }
        slice.endpoints = Some(endpoints).filter(|_| self.below(8) > 0);
        slice.metadata.name = Some(format!("web-{number}"));
        slice.metadata.namespace = Some("shop".to_owned());
        slice.metadata.uid = Some(format!("slice-{number}"));
        slice.metadata.labels = (self.below(4) > 0).then(|| frame().labels);
        slice
    }
}

fn parse<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("an object")
}

fn frame() -> Frame {
    let service = ObjectKey::new("shop", "web");
    Frame {
        labels: slice_labels(BTreeMap::new(), &service, SLICES),
        owner: owner("Service", &service, "web"),
        placeholder: Some(Family::V4),
        service,
    }
}

/// A Service, pods and slices: one pass leads to slices that say what the pods are, with the fewest
/// changes; another finds nothing to do.
///
/// # Panics
/// When that does not hold.
pub(crate) fn endpoint_slices(input: &[u8]) {
    let mut choices = Choices(input.iter());
    let service = choices.service();
    let count = choices.pick(&[3, 1, 0, 8, 150, 310]);
    let pods: Vec<Value> = (0..count).map(|number| choices.pod(number)).collect();
    let views: Vec<Arc<PodView>> =
        pods.iter().map(|pod| Arc::new(PodView::from(&parse::<Pod>(pod.clone())))).collect();
    let mut desired = addresses::of_pods(&service, &views);
    let there: Vec<_> = desired
        .iter()
        .flat_map(|((family, ports), endpoints)| {
            let ports: Vec<EndpointPort> = ports.iter().cloned().map(Into::into).collect();
            endpoints.iter().map(move |one| (*family, ports.clone(), one.clone()))
        })
        .collect();
    expect_the_pods(&service, &views, &there);
    let mut slices: Vec<EndpointSlice> =
        (0..choices.below(6)).map(|number| choices.slice(number, &there)).collect();
    let before = slices.clone();
    let actions = reconcile(&frame(), &slices, desired.clone());
    let touched = apply(&actions, &mut slices);
    assert!(reconcile(&frame(), &slices, desired.clone()).is_empty(), "another pass goes on");

    let mut held = Vec::new();
    for slice in &slices {
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        assert!(endpoints.len() <= MAX_ENDPOINTS, "{} in one slice", endpoints.len());
        assert_eq!(slice.metadata.labels, Some(frame().labels));
        let complaints = EndpointSlices::validate(slice);
        assert!(complaints.is_empty(), "{complaints:?} of {slice:?}");
        held.extend(endpoints.iter().map(|one| told(&slice.address_type, &slice.ports, one)));
    }
    held.sort();
    let mut expected: Vec<String> = there
        .iter()
        .map(|(family, ports, one)| told(family.as_str(), &Some(ports.clone()), one))
        .collect();
    expected.sort();
    assert_eq!(held, expected, "each endpoint once, and nothing else");

    // The fewest changes: what was right is left alone, and endpoints stay where they are.
    for slice in &before {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let after = slices.iter().find(|one| one.metadata.name == slice.metadata.name);
        let kept = |slice: &EndpointSlice| -> BTreeSet<String> {
            let endpoints = slice.endpoints.iter().flatten();
            endpoints.map(|one| told(&slice.address_type, &slice.ports, one)).collect()
        };
        if touched.contains(name) {
            assert_ne!(after, Some(slice), "a write that changes nothing");
            continue;
        }
        assert_eq!(after, Some(slice));
        assert!(kept(slice).iter().all(|one| expected.contains(one)));
    }
    // A new slice only where those that there are have no room.
    for created in slices
        .iter()
        .filter(|slice| !before.iter().any(|one| one.metadata.name == slice.metadata.name))
    {
        let room = |slice: &&EndpointSlice| {
            slice.address_type == created.address_type
                && slice.ports == created.ports
                && slice.metadata.name != created.metadata.name
                && slice.endpoints.as_ref().is_none_or(|all| all.len() < MAX_ENDPOINTS)
        };
        let with_room = slices.iter().filter(room).count();
        assert!(with_room <= 1, "slices were made although there is room");
    }
    // Without pods nothing is left but the one that says so.
    desired.clear();
    let actions = reconcile(&frame(), &slices, desired);
    apply(&actions, &mut slices);
    assert_eq!(slices.len(), 1);
    assert!(slices[0].endpoints.as_ref().is_none_or(Vec::is_empty));
}

/// As one text, so that it can be compared whatever the order of ports.
fn told(kind: &str, ports: &Option<Vec<EndpointPort>>, endpoint: &Endpoint) -> String {
    let mut ports: Vec<String> =
        ports.iter().flatten().map(|port| json!(port).to_string()).collect();
    ports.sort();
    json!([kind, ports, endpoint]).to_string()
}

/// The endpoints are those of the pods: each pod that runs, once in each family of the Service.
fn expect_the_pods(
    service: &Service,
    pods: &[Arc<PodView>],
    there: &[(Family, Vec<EndpointPort>, Endpoint)],
) {
    let spec = service.spec.clone().unwrap_or_default();
    let mut expected = BTreeSet::new();
    for pod in pods.iter().filter(|pod| !pod.is_finished()) {
        for ip in pod.ips.iter().filter(|ip| ADDRESSES[6..].iter().all(|bad| bad != ip)) {
            let family = if ip.contains(':') { Family::V6 } else { Family::V4 };
            if addresses::families(&spec).contains(&family) {
                let ready = addresses::publishes_not_ready(&spec) || (pod.ready && !pod.deleting);
                expected.insert((family, pod.uid.clone(), ip.clone(), ready));
            }
        }
    }
    let mut found = BTreeSet::new();
    for (family, _, endpoint) in there {
        let uid = endpoint.target_ref.as_ref().and_then(|pod| pod.uid.clone()).expect("a pod");
        let ready = endpoint.conditions.as_ref().and_then(|one| one.ready) == Some(true);
        for address in &endpoint.addresses {
            assert!(found.insert((*family, uid.clone(), address.clone(), ready)), "{uid} twice");
        }
    }
    assert_eq!(found, expected);
}

/// Tells which slices were written, by their names.
fn apply(actions: &[Action], slices: &mut Vec<EndpointSlice>) -> BTreeSet<String> {
    let mut touched = BTreeSet::new();
    for action in actions {
        match action {
            Action::Create(slice) => {
                let mut slice = slice.clone();
                let name = format!("new-{}", slices.len());
                assert!(slice.metadata.name.is_none(), "the server names it");
                slice.metadata.uid = Some(name.clone());
                slice.metadata.name = Some(name);
                slices.push(slice);
            }
            Action::Update(slice) => {
                let name = slice.metadata.name.clone().expect("a name");
                let same = |one: &&mut EndpointSlice| one.metadata.uid == slice.metadata.uid;
                let old = slices.iter_mut().find(same).expect("a slice that there is");
                assert_eq!(old.address_type, slice.address_type, "it cannot be changed");
                *old = slice.clone();
                assert!(touched.insert(name), "written twice");
            }
            Action::Delete { key, uid } => {
                let count = slices.len();
                slices.retain(|slice| slice.metadata.uid.as_ref() != Some(uid));
                assert_eq!(slices.len() + 1, count, "a slice that there is");
                assert!(touched.insert(key.name.clone()), "written twice");
            }
        }
    }
    touched
}
