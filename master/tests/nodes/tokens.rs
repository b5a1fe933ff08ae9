//! Tokens for volumes: of a node's own pods, and as these want them.

use kubelet::tokens::{TokenIssuer, TokenRequest};
use master::api::kinds::{Pods, ServiceAccounts};
use proto::ObjectKey;
use serde_json::json;

use crate::cluster::Cluster;
use crate::node::TestNode;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_tokens_as_its_own_pods_want_them_and_no_others() {
    let cluster = Cluster::start().await;
    let account = json!({"metadata": {"name": "seller", "namespace": "default"}});
    cluster.create::<ServiceAccounts>(account).await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    let other = TestNode::start(&cluster, "n2", 2).await;
    let pod = cluster
        .create::<Pods>(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "nodeName": "n1", "serviceAccountName": "seller",
                "containers": [{"name": "main", "image": "x"}],
                "volumes": [{"name": "me", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "t", "audience": "vault", "expirationSeconds": 600}}
                ]}}]
            }
        }))
        .await;
    let key = ObjectKey::new("default", "web");
    node.knows("the pod", |state| state.pods.contains_key(&key)).await;
    other.connected().await;
    let uid = pod.metadata.uid.unwrap();
    let request = |audience: &str, seconds: i64| TokenRequest {
        pod: key.clone(),
        pod_uid: uid.clone(),
        audience: audience.to_owned(),
        expiration_seconds: seconds,
    };
    for (audience, seconds) in [("vault", 600), ("", 3607)] {
        let token = node.link.issue(request(audience, seconds)).await.unwrap();
        assert_eq!(token.split('.').count(), 3, "{token}");
    }
    let refused = "no volume of pod default/web wants such a token";
    for (audience, seconds) in [("bank", 600), ("vault", 601), ("", 600)] {
        let answer = node.link.issue(request(audience, seconds)).await;
        assert_eq!(answer, Err(refused.to_owned()), "{audience} {seconds}");
    }
    let not_own = Err("pod default/web is none of this node's".to_owned());
    assert_eq!(other.link.issue(request("vault", 600)).await, not_own);
    let reborn = TokenRequest { pod_uid: "x".to_owned(), ..request("vault", 600) };
    assert_eq!(node.link.issue(reborn).await, not_own);
    let none = TokenRequest { pod: ObjectKey::new("default", "none"), ..request("vault", 600) };
    assert!(node.link.issue(none).await.is_err());
    node.stop().await;
    other.stop().await;
}
