//! Pods get nodes, or are told why not.

use std::collections::BTreeMap;

use master::api::kinds::Nodes;
use master::api::objects::Part;
use proto::ObjectKey;
use serde_json::json;

use crate::cluster::{Cluster, condition, default, node_of};

fn requesting(cpu: &str) -> impl FnOnce(&mut serde_json::Value) + use<'_> {
    move |pod| pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_and_told_so() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.pod("web", |_| {}).await;
    cluster.eventually("the pod runs", |cluster| cluster.ready_pods().len() == 1).await;
    let pod = cluster.get("pods", &default("web")).unwrap();
    assert_eq!(node_of(&pod), "one");
    assert_eq!(condition(&pod, "PodScheduled").unwrap()["status"], "True");
    let told = ("Scheduled".to_owned(), "Successfully assigned default/web to one".to_owned());
    cluster.eventually("the event", |cluster| cluster.events_about("web").contains(&told)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_room_is_made() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.pod("first", requesting("3")).await;
    cluster.eventually("the first runs", |cluster| cluster.ready_pods().len() == 1).await;
    cluster.pod("second", requesting("3")).await;
    let message = "0/1 nodes are available: 1 Insufficient cpu.";
    let is_told = |cluster: &Cluster| {
        let pod = cluster.get("pods", &default("second")).unwrap();
        let scheduled = condition(&pod, "PodScheduled");
        scheduled.is_some_and(|one| {
            one["status"] == "False"
                && one["reason"] == "Unschedulable"
                && one["message"] == message
        })
    };
    cluster.eventually("the second is told why", is_told).await;
    let told = ("FailedScheduling".to_owned(), message.to_owned());
    cluster.eventually("the event", |cluster| cluster.events_about("second").contains(&told)).await;
    // Small ones are not held up.
    cluster.pod("small", requesting("1")).await;
    cluster.eventually("the small one runs", |cluster| cluster.ready_pods().len() == 2).await;
    cluster.delete_pod("first").await;
    cluster
        .eventually("the second runs", |cluster| {
            let pod = cluster.get("pods", &default("second")).unwrap();
            node_of(&pod) == "one" && condition(&pod, "PodScheduled").unwrap()["status"] == "True"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_gets_pods_again_when_it_is_uncordoned() {
    let cluster = Cluster::start().await;
    cluster.node_with("one", |node| node["spec"]["unschedulable"] = json!(true)).await;
    cluster.pod("web", |_| {}).await;
    cluster
        .eventually("the pod is told", |cluster| {
            let pod = cluster.get("pods", &default("web")).unwrap();
            condition(&pod, "PodScheduled").is_some_and(|one| {
                one["message"] == "0/1 nodes are available: 1 node(s) were unschedulable."
            })
        })
        .await;
    let uncordon = |node: &mut proto::k8s::api::core::v1::Node| {
        node.spec.get_or_insert_default().unschedulable = None;
        true
    };
    let key = ObjectKey::new("", "one");
    cluster.objects.update::<Nodes>(&key, Part::Spec, &[], uncordon).await.unwrap();
    cluster.eventually("the pod runs", |cluster| cluster.ready_pods().len() == 1).await;
    let node = cluster.get("nodes", &key).unwrap();
    assert_eq!(node["spec"].get("taints"), None, "{node}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_at_once_are_spread_evenly_and_each_bound_once() {
    let cluster = Cluster::start().await;
    for node in ["one", "two", "three"] {
        cluster.node(node).await;
    }
    cluster.rc("web", 60).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 60).await;
    let mut counts = BTreeMap::new();
    for pod in cluster.live_pods() {
        *counts.entry(node_of(&pod).to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [20, 20, 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_binds_nothing_and_the_next_goes_on() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.pod("before", |_| {}).await;
    cluster.eventually("it runs", |cluster| cluster.ready_pods().len() == 1).await;
    // Another has taken the key over, and this master has not heard of it yet.
    let fence = cluster.write_leader().await;
    cluster.pod("web", |_| {}).await;
    cluster.idle().await;
    assert_eq!(node_of(&cluster.get("pods", &default("web")).unwrap()), "");
    cluster.leader.send_replace(None);
    cluster.leader.send_replace(Some(fence));
    cluster.eventually("it runs", |cluster| cluster.ready_pods().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_for_another_scheduler_is_left_alone_and_counted_once_it_has_a_node() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster
        .pod("other", |pod| {
            pod["spec"]["schedulerName"] = json!("other");
            requesting("4")(pod);
        })
        .await;
    cluster.idle().await;
    assert_eq!(node_of(&cluster.get("pods", &default("other")).unwrap()), "");
    let binding = master::api::objects::Binding {
        pod: default("other"),
        uid: cluster.get("pods", &default("other")).unwrap()["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_owned(),
        node: "one".to_owned(),
    };
    assert!(cluster.objects.bind(vec![binding], &[]).await[0].is_ok());
    cluster.eventually("the other runs", |cluster| cluster.ready_pods().len() == 1).await;
    cluster.pod("web", requesting("1")).await;
    cluster
        .eventually("ours is told", |cluster| {
            let pod = cluster.get("pods", &default("web")).unwrap();
            condition(&pod, "PodScheduled").is_some_and(|one| one["reason"] == "Unschedulable")
        })
        .await;
}
