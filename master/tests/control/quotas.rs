//! No more than a quota allows, whoever creates, and how many at once.

use master::api::kinds::{ConfigMaps, Pods, ResourceQuotas};
use master::api::objects::{DeleteOptions, Part};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Pod, ResourceQuota};
use serde_json::{Value, json};

use crate::cluster::{Cluster, condition, default, from};

async fn quota(cluster: &Cluster, name: &str, hard: Value) {
    let quota = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"hard": hard}});
    cluster.objects.create::<ResourceQuotas>(from(quota), &[]).await.unwrap();
    let known = |cluster: &Cluster| !used(cluster, name).is_null();
    cluster.eventually("the quota is counted", known).await;
}

fn used(cluster: &Cluster, name: &str) -> Value {
    let quota = cluster.get("resourcequotas", &default(name));
    quota.map_or(Value::Null, |quota| quota["status"]["used"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_reports_that_a_quota_is_exceeded_and_goes_on_when_it_is_raised() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    quota(&cluster, "few", json!({"pods": "2"})).await;
    cluster.rc("web", 3).await;
    let failure = "exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2";
    cluster
        .eventually("two pods run, and the controller says why", |cluster| {
            let rc = cluster.get("replicationcontrollers", &default("web")).unwrap();
            let told = condition(&rc, "ReplicaFailure").map(|one| one["message"].to_string());
            cluster.ready_pods().len() == 2 && told.is_some_and(|told| told.contains(failure))
        })
        .await;
    // Events are written beside the status, not before it.
    let told = |cluster: &Cluster| {
        let is_it = |(reason, message): &(String, String)| {
            reason == "FailedCreate" && message.contains(failure)
        };
        cluster.events_about("web").iter().any(is_it)
    };
    cluster.eventually("an event says why", told).await;
    let is = |used_: Value| move |cluster: &Cluster| used(cluster, "few") == used_;
    cluster.eventually("what is used is told", is(json!({"pods": "2"}))).await;
    let raise = |quota: &mut ResourceQuota| {
        let hard = quota.spec.as_mut().unwrap().hard.as_mut().unwrap();
        hard.insert("pods".to_owned(), from(json!("3")));
        true
    };
    let (key, part) = (default("few"), Part::Spec);
    cluster.objects.update::<ResourceQuotas>(&key, part, &[], raise).await.unwrap();
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 3).await;
    cluster.scale("web", 1).await;
    cluster.eventually("what went is counted", is(json!({"pods": "1"}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_create_at_once_get_no_more_than_there_may_be() {
    let cluster = Cluster::start().await;
    quota(&cluster, "few", json!({"pods": "10", "requests.cpu": "1"})).await;
    quota(&cluster, "other", json!({"count/pods": "100"})).await;
    let create = |index: usize| {
        let pod: Pod = from(json!({
            "metadata": {"name": format!("p{index}"), "namespace": "default"},
            "spec": {"containers": [{
                "name": "main", "image": "test", "resources": {"requests": {"cpu": "125m"}},
            }]},
        }));
        cluster.objects.create::<Pods>(pod, &[])
    };
    let results = futures::future::join_all((0..24).map(create)).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 8);
    for refused in results.into_iter().filter_map(Result::err) {
        assert!(refused.to_string().contains("exceeded quota: few, requested: requests.cpu=125m"));
    }
    cluster
        .eventually("it is told", |cluster| {
            used(cluster, "few") == json!({"pods": "8", "requests.cpu": "1"})
                && used(cluster, "other") == json!({"count/pods": "8"})
        })
        .await;
    let options = DeleteOptions::default();
    cluster.objects.delete::<Pods>(&cluster_pod(&cluster), options, &[]).await.unwrap();
    cluster.eventually("there is room", |cluster| used(cluster, "few")["pods"] == "7").await;
}

fn cluster_pod(cluster: &Cluster) -> ObjectKey {
    default(cluster.list("pods")[0]["metadata"]["name"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_the_quota_counts_and_nothing_is_left_of_it_afterwards() {
    let cluster = Cluster::start().await;
    let map = |name: &str| from(json!({"metadata": {"name": name, "namespace": "default"}}));
    cluster.objects.create::<ConfigMaps>(map("a"), &[]).await.unwrap();
    let bundle = |cluster: &Cluster| cluster.list("configmaps").len() == 2;
    cluster.eventually("the namespace has its certificate", bundle).await;
    quota(&cluster, "maps", json!({"configmaps": "3"})).await;
    assert_eq!(used(&cluster, "maps"), json!({"configmaps": "2"}));
    cluster.objects.create::<ConfigMaps>(map("b"), &[]).await.unwrap();
    let refused = cluster.objects.create::<ConfigMaps>(map("c"), &[]).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "configmaps \"c\" is forbidden: exceeded quota: maps, requested: configmaps=1, used: \
         configmaps=3, limited: configmaps=3"
    );
    let options = DeleteOptions::default();
    cluster.objects.delete::<ResourceQuotas>(&default("maps"), options, &[]).await.unwrap();
    let counted = master::store::keys::quota_usage("default");
    cluster
        .eventually("nothing is left", |cluster| {
            let keys = cluster.objects.caches().keys(master::store::keys::QUOTA_USAGE);
            keys.get(&counted).is_none()
        })
        .await;
    cluster.objects.create::<ConfigMaps>(map("c"), &[]).await.unwrap();
}
