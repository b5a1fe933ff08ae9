//! Pods that the node does not take.

use proto::k8s::api::core::v1::Node;
use serde_json::{Value, json};

use crate::pods::test_support::{Bench, one_container, pod};

fn node(cpu: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "node-1", "labels": {"disk": "fast"}},
        "status": {"allocatable": {"cpu": cpu, "memory": "1Gi"}},
    }))
    .unwrap()
}

fn asking(cpu: &str) -> Value {
    one_container(json!({"resources": {"requests": {"cpu": cpu}}}))
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_room_fails_at_once_and_takes_none() {
    let mut bench = Bench::new();
    bench.put_node(node("1"));
    bench.start();
    bench.put(pod("first", asking("600m")));
    bench.until_phase("uid-first", "Running").await;
    bench.put(pod("second", asking("500m")));
    bench.until_phase("uid-second", "Failed").await;
    let status = bench.status("uid-second").unwrap();
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(
        status.message.as_deref(),
        Some(
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 500, used: 600, \
             capacity: 1000"
        )
    );
    assert!(bench.event_reasons().contains(&"OutOfcpu".to_owned()));
    bench.put(pod("third", asking("400m")));
    bench.until_phase("uid-third", "Running").await;
    assert_eq!(bench.started().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_names_its_node_takes_no_port_from_another() {
    let mut bench = Bench::new();
    bench.start();
    let serving = || one_container(json!({"ports": [{"containerPort": 80, "hostPort": 8080}]}));
    bench.put(pod("first", serving()));
    bench.until_phase("uid-first", "Running").await;
    bench.put(pod("second", serving()));
    bench.until_phase("uid-second", "Failed").await;
    let refused = bench.status("uid-second").unwrap();
    assert_eq!(refused.reason.as_deref(), Some("NodePorts"));
    assert_eq!(refused.container_statuses, None, "there is nothing that waits");
    assert!(bench.event_reasons().contains(&"NodePorts".to_owned()));
    // As the kubelet finds them when it starts anew.
    bench.end_kubelet().await;
    bench.start();
    bench.until_phase("uid-first", "Running").await;
    bench.put(pod("third", serving()));
    bench.until_phase("uid-third", "Failed").await;
    bench.remove("first");
    bench.put(pod("fourth", serving()));
    bench.until_phase("uid-fourth", "Running").await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_were_taken_once_stay_whatever_the_node_has_now() {
    let mut bench = Bench::new();
    bench.put_node(node("1"));
    bench.start();
    for name in ["first", "second"] {
        bench.put(pod(name, asking("500m")));
        bench.until_phase(&format!("uid-{name}"), "Running").await;
    }
    bench.end_kubelet().await;
    bench.put_node(node("100m"));
    bench.start();
    bench.until_phase("uid-first", "Running").await;
    bench.until_phase("uid-second", "Running").await;
    bench.put(pod("third", asking("100m")));
    bench.until_phase("uid-third", "Failed").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_takes_nothing() {
    let mut bench = Bench::new();
    bench.health.send_modify(|health| health.shutting_down = true);
    bench.start();
    bench.put(pod("late", one_container(json!({}))));
    bench.until_phase("uid-late", "Failed").await;
    assert_eq!(bench.status("uid-late").unwrap().reason.as_deref(), Some("NodeShutdown"));
    assert!(bench.started().is_empty());
}
