//! Decisions, and that they settle with few changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::addresses::{self, Family, Group};
use super::slices::{Action, Frame, reconcile};
use super::{legacy, owner};
use crate::controllers::pods::PodView;
use crate::dice::Dice;

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "svc", "labels": {"l": "1"}},
        "spec": spec,
    }))
    .unwrap()
}

fn web() -> Service {
    service(json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}))
}

fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": "one",
            "containers": [{"name": "main", "ports": [
                {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn with(mut pod: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut pod);
    pod
}

fn unready(pod: Value) -> Value {
    with(pod, |pod| pod["status"]["conditions"][0]["status"] = json!("False"))
}

fn deleting(pod: Value) -> Value {
    with(pod, |pod| pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z"))
}

fn views(pods: &[Value]) -> Vec<Arc<PodView>> {
    let view =
        |pod: &Value| Arc::new(PodView::from(&serde_json::from_value::<Pod>(pod.clone()).unwrap()));
    pods.iter().map(view).collect()
}

/// Ports and, per endpoint, address with its conditions, of every group.
fn told(groups: &BTreeMap<Group, Vec<Endpoint>>) -> Vec<String> {
    let group = |((family, ports), endpoints): (&Group, &Vec<Endpoint>)| {
        let ports: Vec<_> = ports
            .iter()
            .map(|port| format!("{}/{}/{}", port.name, port.port.unwrap(), port.protocol))
            .collect();
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|endpoint| {
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let word = |value: Option<bool>, word: &'static str| {
                    if value == Some(true) { word } else { "" }
                };
                format!(
                    "{}{}{}{}",
                    endpoint.addresses.join("+"),
                    word(conditions.ready, " ready"),
                    word(conditions.serving, " serving"),
                    word(conditions.terminating, " terminating"),
                )
            })
            .collect();
        format!("{} [{}] {}", family.as_str(), ports.join(" "), endpoints.join(", "))
    };
    groups.iter().map(group).collect()
}

fn of_pods(service: &Service, pods: &[Value]) -> Vec<String> {
    told(&addresses::of_pods(service, &views(pods)))
}

#[test]
fn an_endpoint_tells_whether_its_pod_is_ready_serves_and_is_on_its_way_out() {
    let pods = [
        pod("a", "10.0.0.1"),
        unready(pod("b", "10.0.0.2")),
        deleting(pod("c", "10.0.0.3")),
        deleting(unready(pod("d", "10.0.0.4"))),
    ];
    assert_eq!(
        of_pods(&web(), &pods),
        ["IPv4 [/8080/TCP] 10.0.0.1 ready serving, 10.0.0.2, 10.0.0.3 serving terminating, \
             10.0.0.4 terminating"]
    );
}

#[test]
fn finished_pods_and_those_without_an_address_are_no_endpoints() {
    let finished = with(pod("a", "10.0.0.1"), |pod| pod["status"]["phase"] = json!("Succeeded"));
    let pending = with(pod("b", ""), |pod| pod["status"] = json!({"phase": "Pending"}));
    assert!(of_pods(&web(), &[finished, pending]).is_empty());
}

#[test]
fn a_service_may_publish_pods_that_are_not_ready() {
    let service = service(json!({
        "selector": {"app": "web"}, "clusterIP": "None", "publishNotReadyAddresses": true,
    }));
    let pods = [unready(pod("a", "10.0.0.1")), deleting(pod("b", "10.0.0.2"))];
    assert_eq!(
        of_pods(&service, &pods),
        ["IPv4 [] 10.0.0.1 ready, 10.0.0.2 ready serving terminating"]
    );
    let endpoints = legacy::endpoints(&service, &views(&pods));
    assert_eq!(endpoints.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 2);
    assert!(endpoints.metadata.labels.unwrap().contains_key(legacy::HEADLESS));
}

#[test]
fn named_ports_lead_to_each_pods_own_number_and_are_told_apart_by_protocol() {
    let service = service(json!({"selector": {"app": "web"}, "ports": [
        {"name": "web", "port": 80, "targetPort": "http"},
        {"name": "names", "port": 53, "protocol": "UDP", "targetPort": "dns"},
        {"name": "names-tcp", "port": 53, "protocol": "TCP", "targetPort": "dns"},
        {"name": "number", "port": 9, "targetPort": 99},
        {"name": "same", "port": 7},
    ]}));
    let other = with(pod("b", "10.0.0.2"), |pod| {
        pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(8081);
    });
    assert_eq!(
        of_pods(&service, &[pod("a", "10.0.0.1"), other]),
        [
            "IPv4 [names/53/UDP number/99/TCP same/7/TCP web/8080/TCP] 10.0.0.1 ready serving",
            "IPv4 [names/53/UDP number/99/TCP same/7/TCP web/8081/TCP] 10.0.0.2 ready serving",
        ]
    );
}

#[test]
fn each_family_of_the_service_has_its_own_endpoints() {
    let service = service(json!({
        "selector": {"app": "web"}, "ipFamilies": ["IPv6", "IPv4"], "ports": [{"port": 80}],
    }));
    let dual = with(pod("a", "10.0.0.1"), |pod| {
        pod["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    });
    assert_eq!(
        of_pods(&service, &[dual.clone(), pod("b", "10.0.0.2")]),
        [
            "IPv4 [/80/TCP] 10.0.0.1 ready serving, 10.0.0.2 ready serving",
            "IPv6 [/80/TCP] fd00::1 ready serving",
        ]
    );
    let endpoints = legacy::endpoints(&service, &views(&[dual]));
    assert_eq!(endpoints.subsets.unwrap()[0].addresses.as_ref().unwrap()[0].ip, "fd00::1");
}

#[test]
fn an_endpoint_names_its_node_its_pod_and_its_host() {
    let named = with(pod("a", "10.0.0.1"), |pod| {
        pod["spec"]["hostname"] = json!("first");
        pod["spec"]["subdomain"] = json!("web");
    });
    let elsewhere = with(pod("b", "10.0.0.2"), |pod| {
        pod["spec"]["hostname"] = json!("first");
        pod["spec"]["subdomain"] = json!("other");
    });
    let groups = addresses::of_pods(&web(), &views(&[named, elsewhere]));
    let endpoints = groups.values().next().unwrap();
    assert_eq!(endpoints[0].hostname.as_deref(), Some("first"));
    assert_eq!(endpoints[1].hostname, None);
    assert_eq!(endpoints[0].node_name.as_deref(), Some("one"));
    assert_eq!(
        serde_json::to_value(&endpoints[0].target_ref).unwrap(),
        json!({"kind": "Pod", "namespace": "default", "name": "a", "uid": "a"})
    );
}

#[test]
fn the_older_form_tells_ready_from_waiting_and_leaves_out_pods_on_their_way_out() {
    let pods =
        [unready(pod("b", "10.0.0.2")), pod("a", "10.0.0.1"), deleting(pod("c", "10.0.0.3"))];
    let endpoints = legacy::endpoints(&web(), &views(&pods));
    let subsets = serde_json::to_value(endpoints.subsets.unwrap()).unwrap();
    let target =
        |name: &str| json!({"kind": "Pod", "namespace": "default", "name": name, "uid": name});
    assert_eq!(
        subsets,
        json!([{
            "addresses": [{"ip": "10.0.0.1", "nodeName": "one", "targetRef": target("a")}],
            "notReadyAddresses": [{"ip": "10.0.0.2", "nodeName": "one", "targetRef": target("b")}],
            "ports": [{"port": 8080, "protocol": "TCP"}],
        }])
    );
    assert_eq!(
        serde_json::to_value(endpoints.metadata.labels).unwrap(),
        json!({"l": "1", legacy::MANAGED_BY: legacy::MANAGER})
    );
}

#[test]
fn the_older_form_is_cut_at_a_thousand_addresses_ready_ones_first() {
    let mut pods: Vec<_> = (0..1000)
        .map(|n| pod(&format!("p{n:04}"), &format!("10.0.{}.{}", n / 250, n % 250)))
        .collect();
    let whole = legacy::endpoints(&web(), &views(&pods));
    assert_eq!(whole.metadata.annotations, None);
    pods.insert(0, unready(pod("a", "10.1.0.1")));
    let cut = legacy::endpoints(&web(), &views(&pods));
    let subset = &cut.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap().len(), 1000);
    assert_eq!(subset.not_ready_addresses, None);
    assert_eq!(
        cut.metadata.annotations.as_ref().unwrap()["endpoints.kubernetes.io/over-capacity"],
        "truncated"
    );
    let mut stored = whole.clone();
    assert!(legacy::update(&mut stored, &cut));
    assert!(!legacy::update(&mut stored, &cut));
    assert!(legacy::update(&mut stored, &whole));
    assert!(
        !stored.metadata.annotations.unwrap().contains_key("endpoints.kubernetes.io/over-capacity")
    );
}

#[test]
fn hand_made_endpoints_are_told_as_they_are() {
    let endpoints: Endpoints = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "subsets": [
            {
                "addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}],
                "ports": [{"name": "db", "port": 5432}],
            },
            {"addresses": [{"ip": "192.0.2.3"}], "ports": [{"name": "db", "port": 5433}]},
        ],
    }))
    .unwrap();
    assert_eq!(
        told(&addresses::of_endpoints(&endpoints)),
        [
            "IPv4 [db/5432/TCP] 192.0.2.1 ready, 192.0.2.2",
            "IPv4 [db/5433/TCP] 192.0.2.3 ready",
            "IPv6 [db/5432/TCP] 2001:db8::1 ready",
        ]
    );
}

// Slices.

fn frame() -> Frame {
    let key = ObjectKey::new("default", "web");
    Frame {
        service: key.clone(),
        labels: BTreeMap::from([("l".to_owned(), "1".to_owned())]),
        owner: owner("Service", &key, "svc"),
        placeholder: Some(Family::V4),
    }
}

fn desired(pods: &[Value]) -> BTreeMap<Group, Vec<Endpoint>> {
    addresses::of_pods(&web(), &views(pods))
}

fn numbered(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(|n| pod(&format!("p{n:03}"), &format!("10.0.{}.{}", n / 250, n % 250 + 1))).collect()
}

/// What is in the store.
#[derive(Default)]
struct Stored {
    slices: Vec<EndpointSlice>,
    made: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    created: usize,
    updated: usize,
    deleted: usize,
}

impl Stored {
    fn apply(&mut self, actions: Vec<Action>) -> Changes {
        let mut changes = Changes::default();
        for action in actions {
            match action {
                Action::Create(mut slice) => {
                    changes.created += 1;
                    self.made += 1;
                    let name = format!("web-{}", self.made);
                    slice.metadata.uid = Some(name.clone());
                    slice.metadata.name = Some(name);
                    self.slices.push(slice);
                }
                Action::Update(slice) => {
                    changes.updated += 1;
                    let same = |one: &&mut EndpointSlice| one.metadata.name == slice.metadata.name;
                    let old = self.slices.iter_mut().find(same).unwrap();
                    assert_eq!(old.address_type, slice.address_type);
                    *old = slice;
                }
                Action::Delete { key, .. } => {
                    changes.deleted += 1;
                    self.slices.retain(|slice| slice.metadata.name.as_ref() != Some(&key.name));
                }
            }
        }
        changes
    }

    fn settle(&mut self, desired: BTreeMap<Group, Vec<Endpoint>>) -> Changes {
        let changes = self.apply(reconcile(&frame(), &self.slices, desired.clone()));
        let again = reconcile(&frame(), &self.slices, desired.clone());
        assert!(again.is_empty(), "does not settle: {again:?}");
        self.check(&desired);
        changes
    }

    /// Everything desired is there once, nothing else, in slices that are not too large.
    fn check(&self, desired: &BTreeMap<Group, Vec<Endpoint>>) {
        let uid = |one: &Endpoint| one.target_ref.as_ref().and_then(|pod| pod.uid.clone());
        let mut missing = BTreeMap::new();
        for ((family, ports), endpoints) in desired {
            let ports: Vec<k8s_openapi::api::discovery::v1::EndpointPort> =
                ports.iter().cloned().map(Into::into).collect();
            let group: Arc<str> = json!([family.as_str(), ports]).to_string().into();
            let of_group = endpoints.iter().map(|one| ((Arc::clone(&group), uid(one)), one));
            missing.extend(of_group);
        }
        for slice in &self.slices {
            let endpoints = slice.endpoints.as_deref().unwrap_or_default();
            assert!(endpoints.len() <= 100);
            let group: Arc<str> = json!([slice.address_type, slice.ports]).to_string().into();
            for endpoint in endpoints {
                let wanted = missing.remove(&(Arc::clone(&group), uid(endpoint)));
                assert_eq!(wanted, Some(endpoint), "doubled, of old or not wanted");
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
    }
}

/// The endpoint that a pod makes, for each of its ports, readiness, and whether it is on its way out.
fn variants() -> BTreeMap<(usize, bool, bool), (Group, Endpoint)> {
    let mut variants = BTreeMap::new();
    for (port, is_unready, is_deleting) in (0..12).map(|n| (n / 4, n & 1 != 0, n & 2 != 0)) {
        let mut pod = pod("p", "10.0.0.1");
        pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(8080 + port);
        if is_unready {
            pod = unready(pod);
        }
        if is_deleting {
            pod = deleting(pod);
        }
        let (group, mut endpoints) = desired(&[pod]).pop_first().unwrap();
        variants.insert((port, is_unready, is_deleting), (group, endpoints.remove(0)));
    }
    variants
}

#[test]
fn a_service_without_endpoints_has_one_empty_slice_that_is_used_later() {
    let mut stored = Stored::default();
    let created = Changes { created: 1, ..Changes::default() };
    let updated = Changes { updated: 1, ..Changes::default() };
    assert_eq!(stored.settle(desired(&[])), created);
    assert_eq!(stored.settle(desired(&numbered(0..3))), updated);
    assert_eq!(stored.settle(desired(&[])), updated);
    assert_eq!(stored.slices.len(), 1);
    let mirror = Frame { placeholder: None, ..frame() };
    assert_eq!(reconcile(&mirror, &[], BTreeMap::new()), []);
}

#[test]
fn new_slices_are_owned_and_labelled() {
    let actions = reconcile(&frame(), &[], desired(&numbered(0..1)));
    let [Action::Create(slice)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
    assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].uid, "svc");
    assert_eq!(slice.metadata.labels, Some(frame().labels));
}

#[test]
fn a_change_of_one_endpoint_changes_one_slice() {
    let mut stored = Stored::default();
    let mut pods = numbered(0..250);
    assert_eq!(stored.settle(desired(&pods)), Changes { created: 3, ..Changes::default() });
    let one = Changes { updated: 1, ..Changes::default() };
    pods[17] = unready(pods[17].clone());
    assert_eq!(stored.settle(desired(&pods)), one);
    pods.remove(120);
    assert_eq!(stored.settle(desired(&pods)), one);
    pods.extend(numbered(300..301));
    assert_eq!(stored.settle(desired(&pods)), one);
}

#[test]
fn room_is_used_before_slices_are_made() {
    let mut stored = Stored::default();
    let mut pods = numbered(0..150);
    stored.settle(desired(&pods));
    pods.extend(numbered(200..250));
    assert_eq!(stored.settle(desired(&pods)), Changes { updated: 1, ..Changes::default() });
    pods.extend(numbered(300..301));
    assert_eq!(stored.settle(desired(&pods)), Changes { created: 1, ..Changes::default() });
}

#[test]
fn changed_labels_reach_every_slice() {
    let mut stored = Stored::default();
    stored.settle(desired(&numbered(0..150)));
    let other = Frame { labels: BTreeMap::new(), ..frame() };
    let actions = reconcile(&other, &stored.slices, desired(&numbered(0..150)));
    assert_eq!(stored.apply(actions), Changes { updated: 2, ..Changes::default() });
}

#[test]
fn from_any_start_to_any_other_it_settles() {
    let variants = variants();
    for seed in 1..=60 {
        let dice = &mut Dice::new(seed);
        let mut stored = Stored::default();
        for _ in 0..8 {
            let first = dice.below(200);
            let mut desired: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
            for n in first..first + dice.below(260) {
                let port = if dice.one_in(6) { dice.below(3) } else { 0 };
                let (group, endpoint) = &variants[&(port, dice.one_in(4), dice.one_in(4))];
                let mut endpoint = endpoint.clone();
                endpoint.addresses = vec![format!("10.0.{}.{}", n / 250, n % 250 + 1)];
                endpoint.target_ref.as_mut().unwrap().uid = Some(format!("p{n:03}"));
                desired.entry(group.clone()).or_default().push(endpoint);
            }
            stored.settle(desired);
        }
    }
}
