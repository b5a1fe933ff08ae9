//! Lost nodes, and what becomes of their pods.

use std::time::Duration;

use master::api::kinds::Nodes;
use master::api::objects::DeleteOptions;
use master::controllers::Config;
use proto::ObjectKey;
use serde_json::{Value, json};

use crate::cluster::{Cluster, condition, is_ready, node_of};

fn node(cluster: &Cluster, name: &str) -> Value {
    cluster.get("nodes", &ObjectKey::new("", name)).unwrap()
}

fn taints(node: &Value) -> Vec<String> {
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let of = |taint: &Value| format!("{}:{}", taint["key"], taint["effect"]).replace('"', "");
    taints.iter().map(of).collect()
}

fn on(pods: &[Value], node: &str) -> usize {
    pods.iter().filter(|pod| node_of(pod) == node).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_lost_node_are_replaced_and_nothing_is_doubled_when_it_heals() {
    let cluster = Cluster::start().await;
    for node in ["one", "two", "three"] {
        cluster.node(node).await;
    }
    cluster.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})).await;
    cluster.rc("web", 6).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 6).await;
    cluster.cut_off("one").await;
    cluster
        .eventually("the node is lost", |cluster| {
            let node = node(cluster, "one");
            let ready = condition(&node, "Ready").unwrap();
            ready["status"] == "Unknown"
                && ready["reason"] == "NodeStatusUnknown"
                && taints(&node)
                    == [
                        "node.kubernetes.io/unreachable:NoSchedule",
                        "node.kubernetes.io/unreachable:NoExecute",
                    ]
        })
        .await;
    cluster
        .eventually("no traffic goes there", |cluster| {
            cluster.list("endpointslices").iter().all(|slice| {
                slice["endpoints"].as_array().unwrap().iter().all(|endpoint| {
                    endpoint["nodeName"] != "one" || endpoint["conditions"]["ready"] == false
                })
            })
        })
        .await;
    cluster
        .eventually("six run elsewhere", |cluster| {
            let ready = cluster.ready_pods();
            ready.len() == 6 && on(&ready, "one") == 0
        })
        .await;
    // The kubelet has not confirmed the old ones.
    assert_eq!(on(&cluster.list("pods"), "one"), 2);
    cluster.heal("one").await;
    cluster
        .eventually("the stale pods go and the node is as new", |cluster| {
            let node = node(cluster, "one");
            cluster.list("pods").len() == 6 && is_ready(&node) && taints(&node).is_empty()
        })
        .await;
    cluster.idle().await;
    assert_eq!(cluster.ready_pods().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_back_within_the_grace_period_loses_nothing() {
    // So long that a busy machine does not use it up before the node is back.
    let grace = Duration::from_secs(3);
    let config = Config {
        node_monitor_grace_period: grace,
        pod_eviction_timeout: grace,
        ..Config::default()
    };
    let cluster = Cluster::with(config).await;
    cluster.node("one").await;
    cluster.node("two").await;
    cluster.rc("web", 2).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 2).await;
    let before = cluster.idle().await;
    cluster.cut_off("one").await;
    cluster.idle().await;
    cluster.heal("one").await;
    // Until then it would have been given up: time itself is what is tested.
    tokio::time::sleep(2 * grace).await;
    // The session key went and came; nothing else was written.
    assert!(cluster.store.current_revision().await.unwrap() <= before + 2);
    assert!(is_ready(&node(&cluster, "one")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_gives_every_node_its_grace_period() {
    let grace = Duration::from_secs(2);
    let config = Config {
        node_monitor_grace_period: grace,
        pod_eviction_timeout: grace,
        ..Config::default()
    };
    let cluster = Cluster::with(config).await;
    cluster.node("one").await;
    cluster.node("two").await;
    cluster.rc("web", 2).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 2).await;
    // The master dies, and with it all sessions; another takes over much later.
    cluster.leader.send_replace(None);
    cluster.cut_off("one").await;
    cluster.cut_off("two").await;
    tokio::time::sleep(2 * grace).await;
    cluster.lead().await;
    cluster.heal("one").await;
    cluster.heal("two").await;
    tokio::time::sleep(3 * grace).await;
    assert_eq!(cluster.ready_pods().len(), 2);
    for event in cluster.list("events") {
        assert_ne!(event["reason"], "NodeNotReady");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pods_are_deleted_while_no_node_at_all_is_ready() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.rc("web", 2).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 2).await;
    cluster.cut_off("one").await;
    cluster.eventually("it is lost", |cluster| !is_ready(&node(cluster, "one"))).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(cluster.live_pods().len(), 2);
    // With a place to go they are replaced.
    cluster.node("two").await;
    cluster.eventually("they run there", |cluster| on(&cluster.ready_pods(), "two") == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_tolerates_the_loss_stays() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    let hostname = json!({"kubernetes.io/hostname": "one"});
    cluster
        .pod("patient", |pod| {
            pod["spec"]["nodeSelector"] = hostname.clone();
            pod["spec"]["tolerations"] =
                json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]);
        })
        .await;
    cluster.pod("other", |pod| pod["spec"]["nodeSelector"] = hostname.clone()).await;
    cluster.eventually("both run", |cluster| cluster.ready_pods().len() == 2).await;
    cluster.node("two").await;
    cluster.cut_off("one").await;
    cluster.eventually("the other goes", |cluster| cluster.live_pods().len() == 1).await;
    cluster.idle().await;
    assert_eq!(cluster.live_pods()[0]["metadata"]["name"], "patient");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_node_that_was_deleted_go_without_a_kubelets_word() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.node("two").await;
    cluster.rc("web", 4).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 4).await;
    cluster.cut_off("one").await;
    let key = ObjectKey::new("", "one");
    cluster.objects.delete::<Nodes>(&key, DeleteOptions::default(), &[]).await.unwrap();
    cluster
        .eventually("all run on the other", |cluster| {
            cluster.list("pods").len() == 4 && on(&cluster.ready_pods(), "two") == 4
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_has_a_lease_that_tells_when_it_was_seen_last() {
    let grace = Duration::from_secs(30);
    let config = Config { node_monitor_grace_period: grace, ..Config::default() };
    let cluster = Cluster::with(config).await;
    // The lease waits for its namespace.
    cluster.node("one").await;
    cluster.namespace("kube-node-lease").await;
    let key = ObjectKey::new("kube-node-lease", "one");
    let renewed = |cluster: &Cluster| {
        let lease = cluster.get("leases", &key)?;
        lease["spec"]["renewTime"].as_str().map(str::to_owned)
    };
    cluster.eventually("it has a lease", |cluster| renewed(cluster).is_some()).await;
    let first = renewed(&cluster).unwrap();
    cluster.idle().await;
    assert_eq!(renewed(&cluster).unwrap(), first, "nothing is written while the session is open");
    cluster.cut_off("one").await;
    cluster.eventually("the end is told", |cluster| renewed(cluster).unwrap() > first).await;
    let second = renewed(&cluster).unwrap();
    cluster.heal("one").await;
    cluster.idle().await;
    cluster.cut_off("one").await;
    cluster.eventually("the end is told again", |cluster| renewed(cluster).unwrap() > second).await;
    let node = ObjectKey::new("", "one");
    cluster.objects.delete::<Nodes>(&node, DeleteOptions::default(), &[]).await.unwrap();
    cluster.eventually("it goes", |cluster| cluster.get("leases", &key).is_none()).await;
}
