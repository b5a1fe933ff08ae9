//! What the API shows of pods that a node has in files.

use std::sync::Arc;

use kubelet::state::Change;
use master::api::kinds::{Nodes, Pods};
use master::api::objects::DeleteOptions;
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Pod, PodStatus};
use proto::node::{PutMirrorRequest, RemoveMirrorRequest};
use serde_json::json;

use crate::cluster::Cluster;
use crate::eventually;
use crate::node::{BareClient, TestNode};

const MIRROR: &str = "kubernetes.io/config.mirror";

fn key() -> ObjectKey {
    ObjectKey::new("default", "web-n1")
}

/// As the file with this content gives it.
fn out_of_file(uid: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "web-n1", "namespace": "default", "uid": uid,
            "annotations": {"kubernetes.io/config.source": "file"},
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "x"}]},
    }))
    .unwrap()
}

fn put(node: &TestNode, pod: Option<Pod>) {
    node.state.write([Change::Pod(key())], |state| {
        state.static_pods.remove(&key());
        state.static_pods.extend(pod.map(|pod| (key(), Arc::new(pod))));
    });
}

fn shown(cluster: &Cluster) -> Option<Pod> {
    let pods = cluster.objects().caches().resource("pods").unwrap();
    pods.get(&key()).map(|pod| pod.decode().unwrap())
}

async fn shows(cluster: &Cluster, uid: &str) -> Pod {
    let is_shown = |pod: &Pod| pod.metadata.annotations.as_ref().unwrap()[MIRROR] == uid;
    eventually(&format!("the API to show {uid}"), || async {
        shown(cluster).is_some_and(|pod| is_shown(&pod))
    })
    .await;
    shown(cluster).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_shows_what_the_node_has_until_its_file_goes() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    put(&node, Some(out_of_file("one")));
    let first = shows(&cluster, "one").await;
    let spec = first.spec.unwrap();
    assert_eq!((spec.node_name.as_deref(), spec.service_account_name), (Some("n1"), None));
    let owner = &first.metadata.owner_references.unwrap()[0];
    let stored = cluster.objects().caches().resource("nodes").unwrap();
    let stored = stored.get(&ObjectKey::new("", "n1")).unwrap();
    assert_eq!((owner.kind.as_str(), &owner.uid), ("Node", &stored.uid));
    node.knows("its mirror", |state| {
        state.mirrors.contains_key(&key()) && !state.pods.contains_key(&key())
    })
    .await;

    // Its status is told by the uid that the node knows it by.
    let status = PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() };
    node.reporter.pod_status(key(), "one", status);
    eventually("its phase", || async {
        shown(&cluster).and_then(|pod| pod.status?.phase).as_deref() == Some("Running")
    })
    .await;

    // Whoever deletes it, sees it come again, with what was reported before.
    cluster.objects().delete::<Pods>(&key(), DeleteOptions::default(), &[]).await.unwrap();
    eventually("another object", || async {
        shown(&cluster).is_some_and(|pod| {
            pod.metadata.uid != first.metadata.uid
                && pod.status.and_then(|status| status.phase).as_deref() == Some("Running")
        })
    })
    .await;
    put(&node, Some(out_of_file("two")));
    shows(&cluster, "two").await;
    put(&node, None);
    eventually("nothing to be shown", || async { shown(&cluster).is_none() }).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_shows_nothing_but_its_own() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    put(&node, Some(out_of_file("one")));
    let mirror = shows(&cluster, "one").await;
    let credentials = cluster.join("n2", "good").await.unwrap();
    cluster.create::<Nodes>(json!({"metadata": {"name": "n2"}})).await;
    let mut other = BareClient::connect(&cluster, &credentials).await.client;
    let mut foreign = out_of_file("x");
    foreign.metadata.annotations = Some([(MIRROR.to_owned(), "x".to_owned())].into());
    let pod = serde_json::to_vec(&foreign).unwrap().into();
    let refused = other.put_mirror(PutMirrorRequest { pod }).await.unwrap_err();
    assert!(refused.message().starts_with("spec.nodeName: "), "{refused}");
    let request = RemoveMirrorRequest {
        namespace: "default".to_owned(),
        name: "web-n1".to_owned(),
        uid: mirror.metadata.uid.clone().unwrap(),
    };
    let refused = other.remove_mirror(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert_eq!(shown(&cluster).unwrap().metadata.uid, mirror.metadata.uid);
    node.stop().await;
}
