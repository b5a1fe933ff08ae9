//! A namespace goes with all that is in it.

use master::api::kinds::{ConfigMaps, Namespaces, Pods, ServiceAccounts};
use master::api::objects::{DeleteOptions, Part};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{ConfigMap, Pod};
use serde_json::json;

use crate::cluster::{Cluster, condition, from};

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_a_namespace_goes_and_then_the_namespace() {
    let cluster = Cluster::start().await;
    cluster.node("one").await;
    cluster.namespace("shop").await;
    cluster.rc_with("web", 3, |rc| rc["metadata"]["namespace"] = json!("shop")).await;
    cluster.rc("stays", 1).await;
    let map = from(json!({"metadata": {"name": "config", "namespace": "shop"}}));
    cluster.objects.create::<ConfigMaps>(map, &[]).await.unwrap();
    cluster.eventually("all run", |cluster| cluster.ready_pods().len() == 4).await;
    let key = ObjectKey::new("", "shop");
    let options = DeleteOptions::default();
    cluster.objects.delete::<Namespaces>(&key, options, &[]).await.unwrap();
    cluster.eventually("it is gone", |cluster| cluster.get("namespaces", &key).is_none()).await;
    for resource in ["pods", "replicationcontrollers", "configmaps", "events", "serviceaccounts"] {
        for object in cluster.list(resource) {
            assert_ne!(object["metadata"]["namespace"], "shop", "{object}");
        }
    }
    assert_eq!(cluster.ready_pods().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_waits_for_what_cannot_go_yet_and_says_so() {
    let cluster = Cluster::start().await;
    cluster.namespace("shop").await;
    cluster
        .pod("held", |pod| {
            pod["metadata"]["namespace"] = json!("shop");
            pod["metadata"]["finalizers"] = json!(["example.com/held"]);
        })
        .await;
    let key = ObjectKey::new("", "shop");
    let options = DeleteOptions::default();
    cluster.objects.delete::<Namespaces>(&key, options, &[]).await.unwrap();
    cluster
        .eventually("it says what it waits for", |cluster| {
            let namespace = cluster.get("namespaces", &key).unwrap();
            let message = |type_: &str| {
                let condition = condition(&namespace, type_);
                condition.map(|one| one["message"].as_str().unwrap_or_default().to_owned())
            };
            namespace["status"]["phase"] == "Terminating"
                && message("NamespaceFinalizersRemaining").as_deref()
                    == Some(
                        "Some content in the namespace has finalizers remaining: \
                         example.com/held in 1 resource instances",
                    )
        })
        .await;
    let release = |pod: &mut Pod| {
        pod.metadata.finalizers = None;
        true
    };
    let pod = ObjectKey::new("shop", "held");
    cluster.objects.update::<Pods>(&pod, Part::Spec, &[], release).await.unwrap();
    cluster.eventually("it is gone", |cluster| cluster.get("namespaces", &key).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_namespace_has_an_account_and_the_certificate_of_the_masters() {
    let cluster = Cluster::start().await;
    cluster.namespace("shop").await;
    let bundle = ObjectKey::new("shop", "kube-root-ca.crt");
    let account = ObjectKey::new("shop", "default");
    let complete = |cluster: &Cluster| {
        let found = cluster.get("configmaps", &bundle);
        found.is_some_and(|found| found["data"] == json!({"ca.crt": "the certificate"}))
            && cluster.get("serviceaccounts", &account).is_some()
    };
    cluster.eventually("both are there", complete).await;
    let spoil = |map: &mut ConfigMap| {
        map.data = Some([("ca.crt".to_owned(), "another".to_owned())].into());
        true
    };
    cluster.objects.update::<ConfigMaps>(&bundle, Part::Spec, &[], spoil).await.unwrap();
    let options = DeleteOptions::default();
    cluster.objects.delete::<ServiceAccounts>(&account, options, &[]).await.unwrap();
    cluster.objects.caches().fresh().await.unwrap();
    cluster.eventually("both are there again", complete).await;
}
