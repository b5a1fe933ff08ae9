//! What nodes are told of network policies.

use master::api::kinds::{NetworkPolicies, Pods};
use master::api::objects::{DeleteOptions, Part};
use proto::ObjectKey;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::TestNode;

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "example.com/app:1"}]},
    })
}

async fn runs(cluster: &Cluster, name: &str, address: &str) {
    let key = ObjectKey::new("default", name);
    cluster
        .update::<Pods>(&key, Part::Status, |pod| {
            let status = pod.status.get_or_insert_default();
            status.phase = Some("Running".to_owned());
            status.pod_ip = Some(address.to_owned());
            status.pod_ips = serde_json::from_value(json!([{"ip": address}])).unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_node_hears_of_the_policies_of_its_pods_and_of_the_pods_these_are_about() {
    let cluster = Cluster::start().await;
    let (web, other) =
        (TestNode::start(&cluster, "n1", 1).await, TestNode::start(&cluster, "n2", 2).await);
    web.connected().await;
    other.connected().await;
    cluster
        .create::<NetworkPolicies>(json!({
            "metadata": {"name": "web"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "web"}},
                "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}]}],
            },
        }))
        .await;
    let policy = ObjectKey::new("default", "web");
    cluster.create::<Pods>(pod("web", "n1")).await;
    cluster.create::<Pods>(pod("client", "n2")).await;
    runs(&cluster, "client", "10.244.1.9").await;
    let set = "[]/[app=client]";
    web.knows("the policy and its peer", |state| {
        let peer = state.policy_peers.get(set).and_then(|set| set.get("default/client"));
        let address = peer.map(|peer| peer.addresses[0].to_string());
        state.network_policies.contains_key(&policy) && address.as_deref() == Some("10.244.1.9")
    })
    .await;
    other.state.read(|state| {
        assert!(state.network_policies.is_empty() && state.policy_peers.is_empty());
    });
    let options = || DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    let client = ObjectKey::new("default", "client");
    cluster.objects().delete::<Pods>(&client, options(), &[]).await.unwrap();
    web.knows("that the peer is gone", |state| !state.policy_peers.contains_key(set)).await;
    cluster.objects().delete::<NetworkPolicies>(&policy, options(), &[]).await.unwrap();
    web.knows("that the policy is gone", |state| state.network_policies.is_empty()).await;
}
