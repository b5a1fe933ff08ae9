use kubelet::reporter::Reporter;
use master::api::kinds::{Nodes, Pods};
use master::api::objects::{DeleteOptions, Part};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Event, Node, Pod, PodStatus};
use proto::node::session_up::Message as Up;
use proto::node::{NodeStatusReport, PodRemoved, PodStatusReport};
use serde_json::json;

use crate::cluster::Cluster;
use crate::eventually;
use crate::node::{BareClient, TestNode};
use crate::sessions::pod;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn status(phase: &str) -> PodStatus {
    serde_json::from_value(json!({
        "phase": phase,
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "False"}],
    }))
    .unwrap()
}

fn stored(cluster: &Cluster, name: &str) -> Option<Pod> {
    let pods = cluster.objects().caches().resource("pods").unwrap();
    pods.get(&key(name)).map(|pod| pod.decode().unwrap())
}

async fn phase(cluster: &Cluster, name: &str, expected: &str) {
    eventually(&format!("{name} to be {expected}"), || async {
        let pod = stored(cluster, name);
        pod.and_then(|pod| pod.status?.phase).as_deref() == Some(expected)
    })
    .await;
}

async fn events(cluster: &Cluster) -> Vec<Event> {
    cluster.objects().caches().fresh().await.unwrap();
    let (_, events) = cluster.objects().caches().resource("events").unwrap().list(None);
    events.iter().map(|event| event.decode().unwrap()).collect()
}

fn report(reporter: &Reporter, pod: &Pod, phase: &str) {
    let name = pod.metadata.name.as_deref().unwrap();
    reporter.pod_status(key(name), pod.metadata.uid.as_deref().unwrap(), status(phase));
}

fn up(name: &str, uid: &str, phase: &str) -> Up {
    Up::PodStatus(PodStatusReport {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        status: serde_json::to_vec(&status(phase)).unwrap().into(),
    })
}

fn removed(name: &str, uid: &str) -> Up {
    let (namespace, name) = ("default".to_owned(), name.to_owned());
    Up::PodRemoved(PodRemoved { namespace, name, uid: uid.to_owned() })
}

#[tokio::test]
async fn a_status_is_written_and_leaves_the_masters_condition_alone() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let created = cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    node.knows("the pod", |state| state.pods.contains_key(&key("p"))).await;
    report(&node.reporter, &created, "Running");
    phase(&cluster, "p", "Running").await;
    let conditions = stored(&cluster, "p").unwrap().status.unwrap().conditions.unwrap();
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    assert!(scheduled.is_none_or(|condition| condition.status == "True"), "{conditions:?}");
}

#[tokio::test]
async fn the_same_status_again_writes_nothing() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    let created = cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    let other = cluster.create::<Pods>(pod("q", "n1", "s", "c")).await;
    node.connected().await;
    report(&node.reporter, &created, "Running");
    phase(&cluster, "p", "Running").await;
    let revision = stored(&cluster, "p").unwrap().metadata.resource_version;
    report(&node.reporter, &created, "Running");
    // Reports are sent in no order, but one that is told later shows that the first was dealt with.
    report(&node.reporter, &other, "Running");
    phase(&cluster, "q", "Running").await;
    report(&node.reporter, &other, "Failed");
    phase(&cluster, "q", "Failed").await;
    assert_eq!(stored(&cluster, "p").unwrap().metadata.resource_version, revision);
}

#[tokio::test]
async fn what_happened_while_no_master_was_there_is_told_later() {
    let mut cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    let created = cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    let doomed = cluster.create::<Pods>(pod("doomed", "n1", "s", "c")).await;
    node.connected().await;
    report(&node.reporter, &created, "Pending");
    phase(&cluster, "p", "Pending").await;
    let options = DeleteOptions::default();
    cluster.objects().delete::<Pods>(&key("doomed"), options, &[]).await.unwrap();

    cluster.stop_master().await;
    report(&node.reporter, &created, "Running");
    node.reporter.pod_removed(key("doomed"), doomed.metadata.uid.as_deref().unwrap());
    cluster.start_again().await;
    phase(&cluster, "p", "Running").await;
    eventually("the removed pod's end", || async { stored(&cluster, "doomed").is_none() }).await;
    eventually("the report of it to be forgotten", || async {
        node.reporter.with(|outbox| outbox.pods.len() == 1)
    })
    .await;
}

#[tokio::test]
async fn statuses_are_told_again_to_a_master_that_lost_them() {
    let mut cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    let created = cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    node.connected().await;
    report(&node.reporter, &created, "Running");
    phase(&cluster, "p", "Running").await;
    // As the node-lifecycle controller does for a node that it cannot reach.
    cluster
        .update::<Pods>(&key("p"), Part::Status, |pod| {
            pod.status.get_or_insert_default().phase = Some("Unknown".to_owned());
        })
        .await;
    cluster.stop_master().await;
    cluster.start_again().await;
    phase(&cluster, "p", "Running").await;
}

#[tokio::test]
async fn a_node_that_is_there_does_not_stay_declared_lost() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    let created = cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    node.connected().await;
    report(&node.reporter, &created, "Running");
    phase(&cluster, "p", "Running").await;
    // As the node-lifecycle controller does when it is late.
    cluster
        .update::<Pods>(&key("p"), Part::Status, |pod| {
            for condition in pod.status.iter_mut().flat_map(|s| s.conditions.iter_mut()).flatten() {
                condition.status = "False".to_owned();
            }
        })
        .await;
    let own = ObjectKey::new("", "n1");
    cluster
        .update::<Nodes>(&own, Part::Status, |node| {
            for condition in node.status.iter_mut().flat_map(|s| s.conditions.iter_mut()).flatten()
            {
                condition.status = "Unknown".to_owned();
            }
        })
        .await;
    node.knows("its pod and itself to be ready again", |state| {
        let ready = |conditions: Option<String>| conditions.as_deref() == Some("True");
        // The first that it hears of them has no conditions yet.
        let pod = state.pods.get(&key("p")).and_then(|pod| pod.status.clone()?.conditions);
        let node = state.node.as_ref().and_then(|node| node.status.clone()?.conditions);
        ready(pod.into_iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status))
            && ready(node.into_iter().flatten().find(|c| c.type_ == "Ready").map(|c| c.status))
    })
    .await;
}

#[tokio::test]
async fn a_node_reports_on_its_own_pods_only() {
    let cluster = Cluster::start().await;
    let own = cluster.create::<Pods>(pod("own", "n1", "s", "c")).await;
    let other = cluster.create::<Pods>(pod("other", "n2", "s", "c")).await;
    let other_uid = other.metadata.uid.unwrap();
    let own_uid = own.metadata.uid.unwrap();
    let options = DeleteOptions::default();
    cluster.objects().delete::<Pods>(&key("other"), options, &[]).await.unwrap();
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut session = BareClient::connect(&cluster, &credentials).await.session("n1").await;
    session.snapshot().await;
    session.say(up("other", &other_uid, "Failed")).await;
    session.say(removed("other", &other_uid)).await;
    session.say(up("own", "another-uid", "Failed")).await;
    // A pod that nobody deleted is not the node's to remove.
    session.say(removed("own", &own_uid)).await;
    session.say(up("own", &own_uid, "Running")).await;
    phase(&cluster, "own", "Running").await;
    let other = stored(&cluster, "other").unwrap();
    assert_ne!(other.status.unwrap().phase.as_deref(), Some("Failed"));
}

#[tokio::test]
async fn a_deleted_pod_goes_when_the_node_is_rid_of_it() {
    let cluster = Cluster::start().await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    let created = cluster.create::<Pods>(pod("p", "n1", "s", "c")).await;
    node.connected().await;
    let options = DeleteOptions::default();
    cluster.objects().delete::<Pods>(&key("p"), options, &[]).await.unwrap();
    node.knows("the deletion", |state| {
        state.pods.get(&key("p")).is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    assert!(stored(&cluster, "p").is_some());
    node.reporter.pod_removed(key("p"), created.metadata.uid.as_deref().unwrap());
    node.knows("the end of the pod", |state| state.pods.is_empty()).await;
    assert!(stored(&cluster, "p").is_none());
}

#[tokio::test]
async fn events_about_own_pods_are_kept_and_counted() {
    let cluster = Cluster::start().await;
    let own = cluster.create::<Pods>(pod("own", "n1", "s", "c")).await;
    cluster.create::<Pods>(pod("other", "n2", "s", "c")).await;
    let node = TestNode::start(&cluster, "n1", 1).await;
    node.connected().await;
    let event = |name: &str, message: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": {}, "reason": "BackOff", "message": message, "type": "Warning",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": name,
                "uid": if name == "own" { own.metadata.uid.clone() } else { None }},
        }))
        .unwrap()
    };
    node.reporter.event(event("other", "forged"));
    for _ in 0..3 {
        node.reporter.event(event("own", "again"));
    }
    node.reporter.event(event("own", "last"));
    eventually("the last event", || async {
        events(&cluster).await.iter().any(|event| event.message.as_deref() == Some("last"))
    })
    .await;
    let events = events(&cluster).await;
    assert_eq!(events.len(), 2, "{events:?}");
    let again = events.iter().find(|event| event.message.as_deref() == Some("again")).unwrap();
    assert_eq!(again.count, Some(3));
    assert_eq!(again.source.as_ref().unwrap().host.as_deref(), Some("n1"));
}

#[tokio::test]
async fn a_node_reports_its_own_status() {
    let cluster = Cluster::start().await;
    let credentials = cluster.join("n1", "good").await.unwrap();
    let mut session = BareClient::connect(&cluster, &credentials).await.session("n1").await;
    session.snapshot().await;
    let status = json!({"conditions": [{"type": "DiskPressure", "status": "True"}]});
    let status = status.to_string().into_bytes().into();
    session.say(Up::NodeStatus(NodeStatusReport { status })).await;
    eventually("the condition", || async {
        let nodes = cluster.objects().caches().resource("nodes").unwrap();
        let node = nodes.get(&ObjectKey::new("", "n1")).map(|node| node.decode::<Node>().unwrap());
        let conditions = node.and_then(|node| node.status?.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "DiskPressure")
    })
    .await;
}
