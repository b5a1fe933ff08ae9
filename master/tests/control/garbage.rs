//! What nobody owns goes.

use master::api::kinds::{ConfigMaps, Propagation, ReplicationControllers};
use master::api::objects::DeleteOptions;
use proto::k8s::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use crate::cluster::{Cluster, default, from};

async fn map(cluster: &Cluster, name: &str, owners: &[&ConfigMap]) -> ConfigMap {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "name": owner.metadata.name,
                "uid": owner.metadata.uid, "blockOwnerDeletion": true,
            })
        })
        .collect();
    let map = json!({
        "metadata": {"name": name, "namespace": "default", "ownerReferences": owners},
    });
    cluster.objects.create::<ConfigMaps>(from(map), &[]).await.unwrap()
}

async fn delete(cluster: &Cluster, name: &str, propagation: Propagation) {
    let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
    cluster.objects.delete::<ConfigMaps>(&default(name), options, &[]).await.unwrap();
}

/// Those that the tests make.
fn names(cluster: &Cluster) -> Vec<String> {
    let maps = cluster.list("configmaps");
    let names = maps.iter().map(|map| map["metadata"]["name"].as_str().unwrap().to_owned());
    names.filter(|name| name != "kube-root-ca.crt").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_object_owned_goes_through_all_generations() {
    let cluster = Cluster::start().await;
    let parent = map(&cluster, "a-parent", &[]).await;
    let child = map(&cluster, "b-child", &[&parent]).await;
    map(&cluster, "c-grandchild", &[&child]).await;
    map(&cluster, "d-stranger", &[]).await;
    delete(&cluster, "a-parent", Propagation::Background).await;
    cluster.eventually("only the stranger stays", |cluster| names(cluster) == ["d-stranger"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_two_owners_goes_with_the_second() {
    let cluster = Cluster::start().await;
    let (one, two) = (map(&cluster, "one", &[]).await, map(&cluster, "two", &[]).await);
    map(&cluster, "child", &[&one, &two]).await;
    delete(&cluster, "one", Propagation::Background).await;
    cluster
        .eventually("the reference goes", |cluster| {
            let child = cluster.get("configmaps", &default("child")).unwrap();
            child["metadata"]["ownerReferences"].as_array().unwrap().len() == 1
        })
        .await;
    delete(&cluster, "two", Propagation::Background).await;
    cluster.eventually("all are gone", |cluster| names(cluster).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_foreground_an_owner_goes_last() {
    let cluster = Cluster::start().await;
    let mut changes =
        cluster.objects.caches().resource("configmaps").unwrap().list_and_subscribe().2;
    let parent = map(&cluster, "parent", &[]).await;
    let child = map(&cluster, "child", &[&parent]).await;
    map(&cluster, "grandchild", &[&child]).await;
    delete(&cluster, "parent", Propagation::Foreground).await;
    cluster.eventually("all are gone", |cluster| names(cluster).is_empty()).await;
    let mut gone = Vec::new();
    while let Some(event) = changes.try_next().unwrap() {
        if let master::cache::ObjectEvent::Deleted(last) = event {
            gone.push(last.key.name.clone());
        }
    }
    assert_eq!(gone, ["grandchild", "child", "parent"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_objects_stay_without_their_owner() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.rc("web", 2).await;
    cluster.eventually("both run", |cluster| cluster.ready_pods().len() == 2).await;
    let options =
        DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
    let key = default("web");
    cluster.objects.delete::<ReplicationControllers>(&key, options, &[]).await.unwrap();
    cluster
        .eventually("it is gone", |cluster| cluster.list("replicationcontrollers").is_empty())
        .await;
    cluster.idle().await;
    let pods = cluster.ready_pods();
    assert_eq!(pods.len(), 2);
    for pod in pods {
        assert_eq!(pod["metadata"].get("ownerReferences"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_made_for_an_owner_that_is_gone_already_goes() {
    let cluster = Cluster::start().await;
    let owner = map(&cluster, "owner", &[]).await;
    delete(&cluster, "owner", Propagation::Background).await;
    map(&cluster, "late", &[&owner]).await;
    cluster.eventually("it is gone", |cluster| names(cluster).is_empty()).await;
}
