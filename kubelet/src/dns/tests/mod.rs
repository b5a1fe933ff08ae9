//! What is answered, out of a state; and the sockets, on loopback.

mod dig;
mod forward;
mod fuzz;
mod serve;
mod soak;
mod spec;
mod zone;

use std::sync::Arc;

use hickory_proto::rr::{Name, RData, Record, RecordType};
use proto::ObjectKey;
use serde_json::{Value, json};

use super::names::{Names, objects};
use super::zone::{Answer, Asked, Zone};
use super::zone_of;
use crate::state::{Change, ClusterState};

fn put_service(state: &mut ClusterState, namespace: &str, name: &str, spec: Value) -> Change {
    let key = ObjectKey::new(namespace, name);
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
    state.services.insert(key.clone(), Arc::new(serde_json::from_value(object).unwrap()));
    Change::Service(key)
}

/// With an address type that fits the addresses.
fn put_slice(state: &mut ClusterState, service: &str, name: &str, endpoints: Value) -> Change {
    let first = endpoints.pointer("/0/addresses/0").and_then(Value::as_str).unwrap_or_default();
    let family = if first.contains(':') { "IPv6" } else { "IPv4" };
    let key = ObjectKey::new("shop", name);
    let object = json!({
        "metadata": {
            "name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    });
    state.endpoint_slices.insert(key.clone(), Arc::new(serde_json::from_value(object).unwrap()));
    Change::EndpointSlice(key)
}

fn state() -> ClusterState {
    let mut state = ClusterState {
        loaded: true,
        pod_cidrs: vec!["10.244.0.0/16".to_owned(), "fd00:10:244::/56".to_owned()],
        service_cidrs: vec!["10.96.0.0/16".to_owned(), "fd00:10:96::/112".to_owned()],
        cluster_domain: "Cluster.Local".to_owned(),
        ..ClusterState::default()
    };
    let node = json!({"metadata": {"name": "n1"}, "spec": {
        "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
    }, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.21"}]}});
    state.node = Some(Arc::new(serde_json::from_value(node).unwrap()));
    let ports = json!([
        {"name": "http", "protocol": "TCP", "port": 80},
        {"name": "dns", "protocol": "UDP", "port": 53},
        {"port": 9000},
    ]);
    put_service(
        &mut state,
        "shop",
        "web",
        json!({"clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10", "fd00:10:96::10"], "ports": ports}),
    );
    let one = json!([{"name": "http", "port": 80}]);
    put_service(&mut state, "shop", "db", json!({"clusterIP": "None", "ports": one}));
    put_slice(
        &mut state,
        "db",
        "db-1",
        json!([
            {"addresses": ["10.244.1.7"], "hostname": "db-0"},
            {"addresses": ["10.244.2.8"], "conditions": {"ready": true}},
            {"addresses": ["10.244.2.9"], "conditions": {"ready": false}},
        ]),
    );
    put_slice(
        &mut state,
        "db",
        "db-6",
        json!([
            {"addresses": ["fd00:10:244:1::7"], "hostname": "db-0"},
            {"addresses": ["fd00:10:244:2::"]},
        ]),
    );
    put_slice(
        &mut state,
        "web",
        "web-1",
        json!([
            {"addresses": ["10.244.1.5"]},
            {"addresses": ["10.244.1.7"]},
            {"addresses": ["10.244.1.6"], "conditions": {"ready": false}},
        ]),
    );
    put_service(&mut state, "shop", "none", json!({"clusterIP": "None", "ports": one}));
    put_service(
        &mut state,
        "shop",
        "far",
        json!({"type": "ExternalName", "externalName": "www.example.org"}),
    );
    put_service(
        &mut state,
        "shop",
        "near",
        json!({"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}),
    );
    put_service(
        &mut state,
        "shop",
        "number",
        json!({"type": "ExternalName", "externalName": "192.0.2.7"}),
    );
    put_service(
        &mut state,
        "shop",
        "six",
        json!({"clusterIP": "fd00:10:96::20", "clusterIPs": ["fd00:10:96::20"], "ports": ports}),
    );
    state
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn told(record: &Record) -> String {
    match &record.data {
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target),
        data => data.to_string(),
    }
}

/// The answer in words: `-` no such name, `nothing`, `elsewhere`, or the records.
fn ask(zone: &Zone, names: &Names, question: &str, record_type: RecordType) -> String {
    let name = name(question);
    match zone.answer(names, Asked { name: &name, record_type, turn: 0, most: 4096 }) {
        Answer::Records { answers, additionals } => {
            let words =
                |records: &[Record]| records.iter().map(told).collect::<Vec<_>>().join(", ");
            match additionals.as_slice() {
                [] => words(&answers),
                more => format!("{} + {}", words(&answers), words(more)),
            }
        }
        Answer::Nothing(soa) | Answer::NoSuchName(soa) if soa.name != zone.domain => {
            panic!("the record of another zone: {soa}")
        }
        Answer::Nothing(_) => "nothing".to_owned(),
        Answer::NoSuchName(_) => "-".to_owned(),
        Answer::Alias(record, _) => told(&record),
        Answer::Elsewhere => "elsewhere".to_owned(),
    }
}
