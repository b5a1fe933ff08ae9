use std::sync::Arc;

use master::api::kinds::{ConfigMaps, EndpointSlices, Nodes, Pods, Secrets, Services};
use master::api::objects::{DeleteOptions, Part};
use master::store::keys;
use proto::ObjectKey;
use proto::k8s::api::core::v1::Pod;
use proto::node::session_down::Message as Down;
use serde_json::{Value, json};
use tonic::Code;

use crate::cluster::Cluster;
use crate::eventually;
use crate::node::{BareClient, TestNode};

/// A pod on a node that names a secret in its environment and a config map in a volume.
pub(crate) fn pod(name: &str, node: &str, secret: &str, config_map: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "main", "image": "example.com/app:1",
                "envFrom": [{"secretRef": {"name": secret, "optional": true}}],
                "volumeMounts": [{"name": "config", "mountPath": "/config"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": config_map, "optional": true}}],
        },
    })
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name}, "stringData": {"password": name}})
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"key": value}})
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

async fn purge(cluster: &Cluster, name: &str) {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    cluster.objects().delete::<Pods>(&key(name), options, &[]).await.unwrap();
}

#[tokio::test]
async fn a_node_is_registered_with_labels_range_and_status() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let own = node.state.read(|state| state.node.clone()).unwrap();
    let labels = own.metadata.labels.clone().unwrap();
    assert_eq!(labels["kubernetes.io/hostname"], "n1");
    assert_eq!(labels["kubernetes.io/os"], "linux");
    assert_eq!(labels["disk"], "fast");
    assert_eq!(own.spec.as_ref().unwrap().pod_cidr.as_deref(), Some("10.244.0.0/24"));
    let conditions = own.status.as_ref().unwrap().conditions.clone().unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    node.state.read(|state| {
        assert_eq!(state.pod_cidrs, ["10.244.0.0/16"]);
        assert_eq!(state.service_cidrs, ["10.96.0.0/16"]);
        assert_eq!(state.cluster_domain, "cluster.local");
        assert_eq!(state.masters, [cluster.address.ip()]);
    });
}

#[tokio::test]
async fn what_people_changed_of_a_node_stays() {
    let mut cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let own = ObjectKey::new("", "n1");
    cluster
        .update::<Nodes>(&own, Part::Spec, |node| {
            node.spec.get_or_insert_default().unschedulable = Some(true);
            let labels = node.metadata.labels.get_or_insert_default();
            labels.insert("team".to_owned(), "blue".to_owned());
            labels.insert("kubernetes.io/os".to_owned(), "wrong".to_owned());
        })
        .await;
    cluster.stop_master().await;
    cluster.start_again().await;
    node.knows("the node's object, put right", |state| {
        let Some(node) = &state.node else { return false };
        let labels = node.metadata.labels.as_ref().unwrap();
        let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        cordoned && labels["team"] == "blue" && labels["kubernetes.io/os"] == "linux"
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_is_followed_by_changes() {
    let cluster = Cluster::start().await;
    cluster.create::<Pods>(pod("early", "n1", "s", "c")).await;
    cluster.create::<ConfigMaps>(config_map("c", "old")).await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    node.state.read(|state| {
        assert!(state.pods.contains_key(&key("early")));
        assert!(state.config_maps.contains_key(&key("c")));
        assert!(state.secrets.is_empty());
    });

    cluster.create::<Secrets>(secret("s")).await;
    node.knows("a named secret that is made later", |s| s.secrets.contains_key(&key("s"))).await;
    cluster
        .update::<ConfigMaps>(&key("c"), Part::Spec, |map| {
            map.data.get_or_insert_default().insert("key".to_owned(), "new".to_owned());
        })
        .await;
    node.knows("a changed config map", |state| {
        state.config_maps[&key("c")].data.as_ref().unwrap()["key"] == "new"
    })
    .await;

    cluster.create::<Pods>(pod("late", "n1", "s", "c2")).await;
    cluster.create::<Services>(json!({
        "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
    }))
    .await;
    cluster
        .create::<EndpointSlices>(json!({
            "metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": [], "ports": [],
        }))
        .await;
    node.knows("a late pod, a service and a slice", |state| {
        state.pods.contains_key(&key("late"))
            && state.services.contains_key(&key("web"))
            && state.endpoint_slices.contains_key(&key("web-1"))
    })
    .await;

    purge(&cluster, "early").await;
    node.knows("the end of a pod and of what only it named", |state| {
        !state.pods.contains_key(&key("early"))
            && !state.config_maps.contains_key(&key("c"))
            && state.secrets.contains_key(&key("s"))
    })
    .await;
    purge(&cluster, "late").await;
    node.knows("the end of the last reference", |state| state.secrets.is_empty()).await;
}

#[tokio::test]
async fn a_pod_comes_after_what_it_names() {
    let cluster = Cluster::start().await;
    cluster.create::<Secrets>(secret("s")).await;
    cluster.create::<ConfigMaps>(config_map("c", "v")).await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut session = BareClient::connect(&cluster, &credentials).await.session("n1").await;
    session.snapshot().await;
    cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "pods") {
        match session.hear().await.unwrap() {
            // What the registration changed of the node's own object may come late.
            Down::Put(put) if put.resource != "nodes" => heard.push(put.resource),
            _ => {}
        }
    }
    assert_eq!(heard, ["configmaps", "secrets", "pods"]);
}

#[tokio::test]
async fn a_node_is_told_of_its_own_pods_and_what_they_name_and_of_nothing_else() {
    let cluster = Cluster::start().await;
    for name in ["mine", "theirs", "nobodys"] {
        cluster.create::<Secrets>(secret(&format!("{name}-s"))).await;
        cluster.create::<ConfigMaps>(config_map(&format!("{name}-c"), "v")).await;
    }
    cluster.create::<Pods>(pod("mine-1", "n1", "mine-s", "mine-c")).await;
    cluster.create::<Pods>(pod("theirs-1", "n2", "theirs-s", "theirs-c")).await;
    let mut unbound = pod("unbound", "", "nobodys-s", "nobodys-c");
    unbound["spec"].as_object_mut().unwrap().remove("nodeName");
    cluster.create::<Pods>(unbound).await;
    let other = TestNode::start(&cluster, "n2", 2).await;
    other.connected().await;

    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut session = BareClient::connect(&cluster, &credentials).await.session("n1").await;
    let mut heard = session.snapshot().await;
    // Changes of what is not this node's, then one that is: nothing is told in between.
    cluster.create::<Pods>(pod("theirs-2", "n2", "theirs-s", "nobodys-c")).await;
    cluster.create::<Secrets>(secret("nobodys-2")).await;
    cluster
        .update::<Secrets>(&key("theirs-s"), Part::Spec, |secret| {
            secret.metadata.labels.get_or_insert_default().insert("a".into(), "b".into());
        })
        .await;
    cluster.create::<Pods>(pod("mine-2", "n1", "mine-s", "mine-c")).await;
    loop {
        let message = session.hear().await.unwrap();
        let last = matches!(&message, Down::Put(put) if put.name == "mine-2");
        heard.push(message);
        if last {
            break;
        }
    }

    for message in heard {
        let Down::Put(put) = message else { continue };
        let allowed = match put.resource.as_str() {
            "pods" => put.name.starts_with("mine-"),
            "secrets" => put.name == "mine-s",
            "configmaps" => put.name == "mine-c",
            "nodes" => put.name == "n1",
            "peers" => put.name == "n2",
            other => panic!("{other} is nothing a node is told of here"),
        };
        assert!(allowed, "{} {}", put.resource, put.name);
        let text = String::from_utf8_lossy(&put.json).into_owned();
        assert!(!text.contains("theirs") && !text.contains("nobodys"), "{text}");
    }
}

#[tokio::test]
async fn objects_travel_as_they_are_stored() {
    let cluster = Cluster::start().await;
    cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut session = BareClient::connect(&cluster, &credentials).await.session("n1").await;
    let cached = cluster.objects().caches().resource("pods").unwrap().get(&key("p")).unwrap();
    let told = session.snapshot().await.into_iter().find_map(|message| match message {
        Down::Put(put) if put.resource == "pods" => Some(put.json),
        _ => None,
    });
    assert_eq!(told.unwrap(), cached.json);
    let decoded: Pod = serde_json::from_slice(&cached.json).unwrap();
    assert_eq!(decoded.metadata.resource_version.unwrap(), cached.revision.to_string());
}

#[tokio::test]
async fn nodes_hear_of_each_other() {
    let cluster = Cluster::start().await;
    let first = TestNode::start(&cluster, "n1", 1).await;
    first.connected().await;
    let second = TestNode::start(&cluster, "n2", 2).await;
    second.connected().await;
    second.state.read(|state| {
        let peer = &state.peers["n1"];
        assert_eq!(peer.addresses, [std::net::IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(peer.pod_cidrs, ["10.244.0.0/24"]);
        assert_eq!(state.peers.len(), 1);
    });
    first.knows("the second node", |state| state.peers.contains_key("n2")).await;
    second.stop().await;
    let second = ObjectKey::new("", "n2");
    cluster.objects().delete::<Nodes>(&second, DeleteOptions::default(), &[]).await.unwrap();
    first.knows("the second node's end", |state| state.peers.is_empty()).await;
}

#[tokio::test]
async fn a_session_is_for_the_node_of_the_certificate_only() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut client = BareClient::connect(&cluster, &credentials).await;
    let status = client.session("n2").await.end().await;
    assert_eq!(status.code(), Code::PermissionDenied);

    // The name is right, but whoever signed did not make it a node.
    let forged = cluster.authority.credentials("system:node:n1", "system:authenticated");
    let mut client = BareClient::connect(&cluster, &forged).await;
    assert_eq!(client.session("n1").await.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_with_a_sentence() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut client = BareClient::connect(&cluster, &credentials).await;
    let status = client.session_as("n1", 99, "{}".to_owned()).await.end().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("version 99"), "{}", status.message());
}

#[tokio::test]
async fn a_node_cannot_label_itself_into_a_role() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut client = BareClient::connect(&cluster, &credentials).await;
    let label = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    let version = proto::NODE_PROTOCOL_VERSION;
    let status = client.session_as("n1", version, label.to_string()).await.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_session_key_is_there_while_the_stream_is_open() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let held = cluster.store.get(&keys::node_session("n1")).await.unwrap().unwrap();
    assert_eq!(held.value, "master-1");
    node.stop().await;
    eventually("the end of the session key", || async {
        cluster.store.get(&keys::node_session("n1")).await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn a_silent_node_is_taken_for_gone() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut session = BareClient::connect(&cluster, &credentials).await.session("n1").await;
    let status = session.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    eventually("the end of the session key", || async {
        cluster.store.get(&keys::node_session("n1")).await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn heartbeats_keep_a_quiet_session_open() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let key = keys::node_session("n1");
    let first = cluster.store.get(&key).await.unwrap().unwrap();
    // Longer than the master waits for a sign of life: time itself is what is tested.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(cluster.store.get(&key).await.unwrap(), Some(first));
}

#[tokio::test]
async fn a_new_session_of_a_node_replaces_the_old_one() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut client = BareClient::connect(&cluster, &credentials).await;
    let mut old = client.session("n1").await;
    old.snapshot().await;
    let mut new = client.session("n1").await;
    assert_eq!(old.end().await.code(), Code::Aborted);
    new.snapshot().await;
    assert!(cluster.store.get(&keys::node_session("n1")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_node_connects_again_and_hears_what_it_missed() {
    let mut cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    cluster.create::<Pods>(pod("before", "n1", "s", "c")).await;
    node.knows("a pod", |state| state.pods.contains_key(&key("before"))).await;
    cluster.stop_master().await;
    assert!(node.state.read(|state| state.pods.contains_key(&key("before"))));
    cluster.start_again().await;
    cluster.create::<Pods>(pod("after", "n1", "s", "c")).await;
    purge(&cluster, "before").await;
    node.knows("what it missed", |state| {
        state.pods.contains_key(&key("after")) && !state.pods.contains_key(&key("before"))
    })
    .await;
}

#[tokio::test]
async fn a_kubelet_that_starts_without_a_master_goes_by_the_last_snapshot() {
    let mut cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    cluster.create::<Secrets>(secret("s")).await;
    cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    let credentials = Arc::new(cluster.join("n1", "good").await.unwrap());
    let node = TestNode::run(&cluster, credentials.clone(), 1, Some(folder.path()));
    node.connected().await;
    node.stop().await;
    cluster.stop_master().await;

    let node = TestNode::run(&cluster, credentials, 1, Some(folder.path()));
    node.state.read(|state| {
        assert!(state.loaded && !state.confirmed);
        assert!(state.pods.contains_key(&key("p")));
        assert!(state.secrets.contains_key(&key("s")));
        assert!(state.node.is_some());
        assert_eq!(state.cluster_domain, "cluster.local");
    });
    let file = folder.path().join("snapshot/state.jsonl");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    cluster.start_again().await;
    node.connected().await;
}

#[tokio::test]
async fn a_deleted_node_registers_again() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let uid = |state: &kubelet::state::ClusterState| {
        state.node.as_ref().and_then(|node| node.metadata.uid.clone())
    };
    let old = node.state.read(uid);
    let own = ObjectKey::new("", "n1");
    cluster.objects().delete::<Nodes>(&own, DeleteOptions::default(), &[]).await.unwrap();
    node.knows("a new object", |state| uid(state).is_some() && uid(state) != old).await;
}
