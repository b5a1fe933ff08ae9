//! As many pods as a ReplicationController says.

use std::collections::BTreeSet;

use master::api::kinds::{Pods, ReplicationControllers};
use master::api::objects::{DeleteOptions, Part};
use proto::k8s::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::cluster::{Cluster, condition, default};

fn names(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn status(cluster: &Cluster, name: &str) -> Value {
    cluster.get("replicationcontrollers", &default(name)).unwrap()["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_made_replaced_and_scaled_and_the_status_follows() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.rc("web", 3).await;
    let settled = |cluster: &Cluster, count: i64| {
        let status = status(cluster, "web");
        cluster.list("pods").len() as i64 == count
            && ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"]
                .iter()
                .all(|field| status[field].as_i64().unwrap_or(0) == count)
    };
    cluster.eventually("three run", |cluster| settled(cluster, 3)).await;
    let before = names(&cluster.live_pods());
    let deleted = before.first().unwrap().clone();
    cluster.delete_pod(&deleted).await;
    cluster
        .eventually("it is replaced", |cluster| {
            settled(cluster, 3) && !names(&cluster.live_pods()).contains(&deleted)
        })
        .await;
    cluster.scale("web", 10).await;
    cluster.eventually("ten run", |cluster| settled(cluster, 10)).await;
    cluster.scale("web", 2).await;
    cluster.eventually("two run", |cluster| settled(cluster, 2)).await;
    let rc = cluster.get("replicationcontrollers", &default("web")).unwrap();
    assert_eq!(rc["status"]["observedGeneration"], rc["metadata"]["generation"]);
    cluster
        .eventually("the events", |cluster| {
            let reasons: BTreeSet<_> =
                cluster.events_about("web").into_iter().map(|(reason, _)| reason).collect();
            reasons.contains("SuccessfulCreate") && reasons.contains("SuccessfulDelete")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_pods_are_made_than_asked_for() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    let mut changes = cluster.objects.caches().resource("pods").unwrap().list_and_subscribe().2;
    cluster.rc("web", 40).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 40).await;
    cluster.idle().await;
    let mut added = 0;
    while let Some(event) = changes.try_next().unwrap() {
        added += usize::from(matches!(event, master::cache::ObjectEvent::Added(_)));
    }
    assert_eq!(added, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_is_adopted_and_one_that_no_longer_does_is_released_and_replaced() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.pod("orphan", |pod| pod["metadata"]["labels"] = json!({"app": "web"})).await;
    let rc = cluster.rc("web", 2).await;
    let uid = rc.metadata.uid.unwrap();
    cluster
        .eventually("the orphan is one of two", |cluster| {
            let orphan = cluster.get("pods", &default("orphan")).unwrap();
            orphan["metadata"]["ownerReferences"][0]["uid"] == uid.as_str()
                && cluster.ready_pods().len() == 2
        })
        .await;
    let relabel = |pod: &mut Pod| {
        pod.metadata.labels.get_or_insert_default().insert("app".into(), "debug".into());
        true
    };
    cluster.objects.update::<Pods>(&default("orphan"), Part::Spec, &[], relabel).await.unwrap();
    cluster
        .eventually("it is released and replaced", |cluster| {
            let orphan = cluster.get("pods", &default("orphan")).unwrap();
            orphan["metadata"].get("ownerReferences").is_none() && cluster.ready_pods().len() == 3
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_its_way_out_is_replaced_at_once() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.node("two").await;
    cluster.rc("web", 1).await;
    cluster.eventually("it runs", |cluster| cluster.ready_pods().len() == 1).await;
    let pod = cluster.ready_pods().remove(0);
    let node = pod["spec"]["nodeName"].as_str().unwrap();
    // Nobody will confirm the deletion.
    cluster.cut_off(node).await;
    cluster.delete_pod(pod["metadata"]["name"].as_str().unwrap()).await;
    cluster
        .eventually("another runs", |cluster| {
            let ready = cluster.ready_pods();
            ready.len() == 1 && ready[0]["metadata"]["name"] != pod["metadata"]["name"]
        })
        .await;
    assert_eq!(cluster.list("pods").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_is_refused_is_told_in_the_status_and_an_event() {
    let cluster = Cluster::start().await;
    // The name is too long for pods' labels to hold, but the object itself is fine.
    cluster
        .rc_with("web", 1, |rc| {
            rc["spec"]["template"]["metadata"]["finalizers"] = json!(["not a finalizer"]);
        })
        .await;
    cluster
        .eventually("the failure is told", |cluster| {
            let rc = cluster.get("replicationcontrollers", &default("web")).unwrap();
            condition(&rc, "ReplicaFailure").is_some_and(|one| one["reason"] == "FailedCreate")
                && cluster.events_about("web").iter().any(|(reason, message)| {
                    reason == "FailedCreate" && message.starts_with("Error creating: ")
                })
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_writes_nothing() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.rc("web", 3).await;
    cluster.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80}]})).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 3).await;
    let revision = cluster.idle().await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(cluster.store.current_revision().await.unwrap(), revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_deleted_controller_go() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.rc("web", 3).await;
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 3).await;
    let options = DeleteOptions {
        propagation: Some(master::api::kinds::Propagation::Background),
        ..DeleteOptions::default()
    };
    let key = default("web");
    cluster.objects.delete::<ReplicationControllers>(&key, options, &[]).await.unwrap();
    cluster.eventually("all are gone", |cluster| cluster.list("pods").is_empty()).await;
}
