use std::collections::BTreeMap;

use proto::node::session_down::Message;
use proto::node::session_up;
use proto::node::{
    ObjectPut, ObjectRemoved, PolicyPeer, PolicyPeers, PolicyPeersRemoved, SnapshotBegin,
    SnapshotEnd, Welcome,
};
use proto::{ObjectKey, Peer};
use serde_json::json;
use tokio::sync::broadcast::error::TryRecvError;

use super::*;
use crate::reporter::Unsent;
use crate::state::Change;

fn put(resource: &str, name: &str, version: &str) -> Message {
    let json = json!({
        "metadata": {"namespace": "ns", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version},
        "addressType": "IPv4",
    });
    put_json(resource, name, json.to_string())
}

fn put_json(resource: &str, name: &str, json: String) -> Message {
    Message::Put(ObjectPut {
        resource: resource.to_owned(),
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        json: json.into_bytes().into(),
    })
}

fn removed(resource: &str, name: &str) -> Message {
    let (resource, namespace, name) = (resource.to_owned(), "ns".to_owned(), name.to_owned());
    Message::Removed(ObjectRemoved { resource, namespace, name })
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn inbox() -> (Inbox, StateHandle) {
    let state = StateHandle::default();
    (Inbox::new(state.clone(), vec!["10.0.0.1".parse().unwrap()]), state)
}

#[test]
fn a_snapshot_replaces_everything_at_once() {
    let (mut inbox, state) = inbox();
    state.write([Change::Everything], |state| {
        let old = serde_json::from_value(json!({"metadata": {"name": "old"}})).unwrap();
        state.pods.insert(key("old"), Arc::new(old));
    });
    let mut changes = state.changes();
    let welcome = Welcome {
        heartbeat_seconds: 4,
        pod_cidrs: vec!["10.244.0.0/16".to_owned()],
        service_cidrs: vec!["10.96.0.0/16".to_owned()],
        cluster_domain: "cluster.local".to_owned(),
    };
    assert_eq!(inbox.receive(Message::Welcome(welcome.clone())), Received::Welcome(welcome));
    inbox.receive(Message::SnapshotBegin(SnapshotBegin {}));
    inbox.receive(put("pods", "new", "1"));
    assert!(state.read(|state| state.pods.contains_key(&key("old")) && !state.confirmed));
    assert_eq!(changes.try_recv(), Err(TryRecvError::Empty));

    assert_eq!(inbox.receive(Message::SnapshotEnd(SnapshotEnd {})), Received::Snapshot);
    assert_eq!(changes.try_recv(), Ok(Change::Everything));
    state.read(|state| {
        assert_eq!(state.pods.keys().collect::<Vec<_>>(), [&key("new")]);
        assert!(state.loaded && state.confirmed);
        assert_eq!(state.pod_cidrs, ["10.244.0.0/16"]);
        assert_eq!(state.cluster_domain, "cluster.local");
        assert_eq!(state.masters.len(), 1);
    });
}

#[test]
fn every_kind_of_object_comes_and_goes() {
    let (mut inbox, state) = inbox();
    let mut changes = state.changes();
    let cases = [
        ("pods", Change::Pod(key("x"))),
        ("configmaps", Change::ConfigMap(key("x"))),
        ("secrets", Change::Secret(key("x"))),
        ("services", Change::Service(key("x"))),
        ("endpointslices", Change::EndpointSlice(key("x"))),
        ("nodes", Change::Node),
    ];
    let count = |state: &StateHandle| {
        state.read(|state| {
            state.pods.len()
                + state.config_maps.len()
                + state.secrets.len()
                + state.services.len()
                + state.endpoint_slices.len()
                + usize::from(state.node.is_some())
        })
    };
    for (number, (resource, change)) in cases.iter().enumerate() {
        let received = inbox.receive(put(resource, "x", "1"));
        assert_eq!(changes.try_recv().as_ref(), Ok(change));
        let told = ["pods", "nodes"].contains(resource);
        let changed = Received::Changed(change.clone());
        assert_eq!(received, if told { changed } else { Received::Applied });
        assert_eq!(count(&state), number + 1, "{resource}");
    }
    let peer = Peer { node: "x".to_owned(), addresses: Vec::new(), pod_cidrs: Vec::new() };
    inbox.receive(put_json("peers", "x", serde_json::to_string(&peer).unwrap()));
    assert_eq!(changes.try_recv(), Ok(Change::Peers));
    for (resource, change) in &cases {
        let received = inbox.receive(removed(resource, "x"));
        assert_eq!(changes.try_recv().as_ref(), Ok(change));
        let pod = Received::PodDeleted { uid: "uid-x".to_owned() };
        assert_eq!(received, if *resource == "pods" { pod } else { Received::Applied });
    }
    assert_eq!(count(&state), 0);
    inbox.receive(removed("peers", "x"));
    assert!(state.read(|state| state.peers.is_empty()));
}

#[test]
fn of_a_service_is_kept_what_nodes_read() {
    let (mut inbox, state) = inbox();
    let proxied = "service.kubernetes.io/service-proxy-name";
    let service = serde_json::json!({
        "metadata": {
            "name": "x", "namespace": "default", "uid": "7", "labels": {proxied: "else", "app": "x"},
            "annotations": {"note": "long"}, "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "x"}, "ports": [{"port": 80}]},
    });
    inbox.receive(put_json("services", "x", service.to_string()));
    let kept = state.read(|state| serde_json::to_value(&*state.services[&key("x")]).unwrap());
    let expected = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "x", "namespace": "default", "labels": {proxied: "else"}},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    assert_eq!(kept, expected);
}

#[test]
fn what_does_not_decode_leaves_what_was_there() {
    let (mut inbox, state) = inbox();
    inbox.receive(put("services", "x", "1"));
    inbox.receive(put_json("services", "x", "{".to_owned()));
    assert!(state.read(|state| state.services.contains_key(&key("x"))));
}

#[test]
fn resources_of_a_newer_master_are_ignored() {
    let (mut inbox, state) = inbox();
    let mut changes = state.changes();
    assert_eq!(inbox.receive(put("leases", "x", "1")), Received::Applied);
    assert_eq!(inbox.receive(removed("leases", "x")), Received::Applied);
    assert_eq!(changes.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn statuses_go_before_events_and_unsent_events_are_given_back() {
    let reporter = Reporter::default();
    reporter.event(Default::default());
    reporter.event(Default::default());
    reporter.node_status(Default::default());
    reporter.pod_removed(key("p"), "u");
    let mut outgoing = Outgoing::default();
    let unsent: Unsent = reporter.take_unsent(|_, _| true);
    outgoing.extend(unsent);
    let mut next = || outgoing.pop().and_then(|up| up.message);
    assert!(matches!(next(), Some(session_up::Message::PodRemoved(_))));
    assert!(matches!(next(), Some(session_up::Message::NodeStatus(_))));
    assert!(matches!(next(), Some(session_up::Message::Event(_))));
    assert_eq!(outgoing.into_events().len(), 1);
}

#[test]
fn a_set_of_peers_that_has_become_empty_is_not_kept() {
    let (mut inbox, state) = inbox();
    let peers = |whole, put: &[&str], removed: &[&str]| {
        let put =
            put.iter().map(|pod| PolicyPeer { pod: (*pod).to_owned(), ..PolicyPeer::default() });
        let removed = removed.iter().map(|pod| (*pod).to_owned()).collect();
        let set = "s".to_owned();
        Message::PolicyPeers(PolicyPeers { set, whole, put: put.collect(), removed })
    };
    let kept = || state.read(|state| state.policy_peers.get("s").map(BTreeMap::len));
    inbox.receive(peers(true, &["a", "b"], &[]));
    inbox.receive(peers(false, &[], &["a"]));
    assert_eq!(kept(), Some(1));
    inbox.receive(peers(false, &[], &["b"]));
    assert_eq!(kept(), None);
    inbox.receive(peers(true, &["a"], &[]));
    inbox.receive(Message::PolicyPeersRemoved(PolicyPeersRemoved { set: "s".to_owned() }));
    assert_eq!(kept(), None);
    inbox.receive(peers(false, &[], &["never there"]));
    assert_eq!(kept(), None);
}

#[test]
fn what_a_second_snapshot_says_again_is_in_memory_once() {
    let (mut inbox, state) = inbox();
    let mut tell = |version: &str| {
        inbox.receive(Message::SnapshotBegin(SnapshotBegin {}));
        for resource in ["pods", "services", "endpointslices", "configmaps", "secrets"] {
            inbox.receive(put(resource, "same", "1"));
        }
        inbox.receive(put("pods", "other", version));
        inbox.receive(Message::SnapshotEnd(SnapshotEnd {}));
        state.read(|state| {
            let same = key("same");
            (
                (state.pods[&same].clone(), state.pods[&key("other")].clone()),
                (state.services[&same].clone(), state.endpoint_slices[&same].clone()),
                (state.config_maps[&same].clone(), state.secrets[&same].clone()),
            )
        })
    };
    let (first, second) = (tell("1"), tell("2"));
    assert!(Arc::ptr_eq(&first.0.0, &second.0.0));
    assert!(Arc::ptr_eq(&first.1.0, &second.1.0) && Arc::ptr_eq(&first.1.1, &second.1.1));
    assert!(Arc::ptr_eq(&first.2.0, &second.2.0) && Arc::ptr_eq(&first.2.1, &second.2.1));
    let versions = [first, second].map(|told| told.0.1.metadata.resource_version.clone());
    assert_eq!(versions, [Some("1".to_owned()), Some("2".to_owned())]);
}
