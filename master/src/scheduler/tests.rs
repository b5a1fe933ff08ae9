//! Decisions of the scheduler.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::demand::PodInfo;
use super::filter::NodeInfo;
use super::model::Model;

mod affinity;
mod preemption;
mod queue;
mod random;

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "main", "image": "test"}]},
    })
}

fn info(node: &Value) -> NodeInfo {
    NodeInfo::of(&serde_json::from_value::<Node>(node.clone()).unwrap())
}

fn seen(pod: &Value) -> PodInfo {
    PodInfo::of(&serde_json::from_value::<Pod>(pod.clone()).unwrap())
}

fn requesting(name: &str, cpu: &str, memory: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": cpu, "memory": memory});
    pod
}

fn owned(mut pod: Value, controller: &str) -> Value {
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ReplicationController", "name": controller,
        "uid": controller, "controller": true,
    }]);
    pod
}

fn labelled(mut pod: Value, key: &str, value: &str) -> Value {
    pod["metadata"]["labels"][key] = json!(value);
    pod
}

fn model(nodes: &[Value]) -> Model {
    let mut model = Model::default();
    for node in nodes {
        model.set_node(info(node));
    }
    model
}

/// Places the pod, counts it, and gives the node's name.
fn place(model: &mut Model, pod: &Value) -> Option<String> {
    let pod = seen(pod);
    let node = model.place(&pod)?;
    model.assume(pod, node);
    Some(model.name(node).to_string())
}

fn why(model: &Model, pod: &Value) -> String {
    assert_eq!(model.place(&seen(pod)), None);
    model.diagnose(&seen(pod)).message()
}

fn service(model: &mut Model, name: &str, key: &str, value: &str) {
    let selector = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    model.set_service(ObjectKey::new("default", name), selector);
}

#[test]
fn without_nodes_says_so() {
    assert_eq!(why(&model(&[]), &pod("a")), "no nodes available to schedule pods");
}

#[test]
fn reasons_are_counted_by_node_in_the_words_of_kubernetes() {
    let mut cordoned = node("cordoned");
    cordoned["spec"]["unschedulable"] = json!(true);
    let mut tainted = node("tainted");
    tainted["spec"]["taints"] = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
    let mut lost = node("lost");
    lost["status"]["conditions"][0]["status"] = json!("Unknown");
    let mut starting = node("starting");
    starting["status"]["conditions"][0]["status"] = json!("False");
    let model = model(&[cordoned, tainted, lost, starting, node("a"), node("b")]);
    assert_eq!(
        why(&model, &requesting("p", "5", "9Gi")),
        "0/6 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) had \
         untolerated taint {node.kubernetes.io/not-ready: }, 1 node(s) had untolerated taint \
         {node.kubernetes.io/unreachable: }, 1 node(s) were unschedulable, 2 Insufficient cpu, 2 \
         Insufficient memory."
    );
    let mut picky = pod("picky");
    picky["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    assert!(why(&model, &picky).ends_with("2 node(s) didn't match Pod's node affinity/selector."));
}

#[test]
fn a_full_node_takes_no_more_pods() {
    let mut small = node("small");
    small["status"]["allocatable"]["pods"] = json!("1");
    let mut model = model(&[small]);
    assert!(place(&mut model, &pod("first")).is_some());
    assert_eq!(why(&model, &pod("second")), "0/1 nodes are available: 1 Too many pods.");
}

#[test]
fn a_pod_that_asks_for_nothing_fits_a_node_that_has_nothing_left() {
    let mut model = model(&[node("only")]);
    assert!(place(&mut model, &requesting("big", "4", "8Gi")).is_some());
    assert!(place(&mut model, &pod("modest")).is_some());
    assert!(place(&mut model, &requesting("more", "1m", "0")).is_none());
}

#[test]
fn a_host_port_is_given_once_per_node_address_and_protocol() {
    let port = |name: &str, protocol: &str, ip: &str| {
        let mut pod = pod(name);
        pod["spec"]["containers"][0]["ports"] = json!([
            {"containerPort": 80, "hostPort": 8080, "protocol": protocol, "hostIP": ip},
        ]);
        pod
    };
    let mut model = model(&[node("only")]);
    assert!(place(&mut model, &port("first", "TCP", "10.0.0.1")).is_some());
    assert!(place(&mut model, &port("udp", "UDP", "10.0.0.1")).is_some());
    assert!(place(&mut model, &port("other-address", "TCP", "10.0.0.2")).is_some());
    assert_eq!(
        why(&model, &port("everywhere", "TCP", "0.0.0.0")),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
    for uid in ["uid-first", "uid-other-address"] {
        model.remove_pod(uid);
    }
    assert!(place(&mut model, &port("everywhere", "TCP", "0.0.0.0")).is_some());
}

#[test]
fn a_toleration_opens_the_node_it_names() {
    let mut tainted = node("tainted");
    tainted["spec"]["taints"] = json!([{"key": "gpu", "value": "yes", "effect": "NoExecute"}]);
    let tolerating = |toleration: Value| {
        let mut pod = pod("p");
        pod["spec"]["tolerations"] = json!([toleration]);
        pod
    };
    for (toleration, opens) in [
        (json!({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute"}), true),
        (json!({"key": "gpu", "value": "yes"}), true),
        (json!({"key": "gpu", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "gpu", "value": "no"}), false),
        (json!({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}), false),
        (json!({"key": "tpu", "operator": "Exists"}), false),
    ] {
        let mut model = model(&[tainted.clone()]);
        assert_eq!(
            place(&mut model, &tolerating(toleration.clone())).is_some(),
            opens,
            "{toleration}"
        );
    }
}

/// A node that would rather not have pods, for each of the reasons.
fn avoided(name: &str, reasons: &[&str]) -> Value {
    let mut node = node(name);
    let taints = reasons.iter().map(|key| json!({"key": key, "effect": "PreferNoSchedule"}));
    node["spec"]["taints"] = taints.collect();
    node
}

#[test]
fn preferring_not_to_schedule_keeps_nobody_away() {
    assert!(place(&mut model(&[avoided("tainted", &["slow"])]), &pod("p")).is_some());
}

#[test]
fn a_node_that_prefers_no_pods_gets_those_that_fit_nowhere_else_and_the_fewest_reasons_first() {
    let nodes = [avoided("worse", &["slow", "old"]), avoided("bad", &["slow"]), node("good")];
    let mut model = model(&nodes);
    let place = |model: &mut Model, index: usize| {
        place(model, &owned(requesting(&index.to_string(), "2", "1Gi"), "rc"))
    };
    let placed: Vec<_> = (0..7).map_while(|index| place(&mut model, index)).collect();
    assert_eq!(placed, ["good", "good", "bad", "bad", "worse", "worse"]);
}

#[test]
fn who_tolerates_that_a_node_prefers_no_pods_goes_there_like_anywhere() {
    let tolerating = |name: &str, effect: &str| {
        let mut pod = owned(requesting(name, "100m", "1Gi"), "rc");
        pod["spec"]["tolerations"] =
            json!([{"key": "slow", "operator": "Exists", "effect": effect}]);
        pod
    };
    for effect in ["", "PreferNoSchedule"] {
        let mut model = model(&[avoided("bad", &["slow"]), node("good")]);
        assert!(place(&mut model, &requesting("first", "1", "1Gi")).as_deref() == Some("good"));
        let placed = ["a", "b"].map(|name| place(&mut model, &tolerating(name, effect)).unwrap());
        assert_eq!(placed, ["bad", "good"], "{effect}");
    }
    let mut model = model(&[avoided("bad", &["slow"]), node("good")]);
    let placed = ["a", "b"].map(|name| place(&mut model, &tolerating(name, "NoSchedule")).unwrap());
    assert_eq!(placed, ["good", "good"]);
}

#[test]
fn a_cordoned_node_takes_pods_that_tolerate_the_cordon() {
    let mut cordoned = node("cordoned");
    cordoned["spec"]["unschedulable"] = json!(true);
    cordoned["spec"]["taints"] =
        json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
    let mut model = model(&[cordoned]);
    assert_eq!(why(&model, &pod("p")), "0/1 nodes are available: 1 node(s) were unschedulable.");
    let mut daemon = pod("daemon");
    daemon["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    assert!(place(&mut model, &daemon).is_some());
}

#[test]
fn pods_of_one_controller_go_to_different_nodes() {
    let mut model = model(&[node("a"), node("b"), node("c")]);
    // Without the spreading these would draw everything to the others.
    assert!(place(&mut model, &requesting("ballast", "2", "4Gi")).is_some());
    let mut counts = BTreeMap::<String, u32>::new();
    for index in 0..6 {
        let node = place(&mut model, &owned(pod(&format!("web-{index}")), "web")).unwrap();
        *counts.entry(node).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [2, 2, 2]);
}

#[test]
fn pods_behind_one_service_go_to_different_nodes_whoever_made_them() {
    let mut model = model(&[node("a"), node("b")]);
    service(&mut model, "web", "app", "web");
    let blue = labelled(owned(requesting("blue", "1", "1Gi"), "blue"), "app", "web");
    let green = labelled(owned(requesting("green", "1", "1Gi"), "green"), "app", "web");
    let first = place(&mut model, &blue).unwrap();
    let other = if first == "a" { "b" } else { "a" };
    // The node of the first is made the emptier one by far.
    let mut ballast = requesting("ballast", "3", "6Gi");
    ballast["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": other});
    assert!(place(&mut model, &ballast).is_some());
    assert_eq!(place(&mut model, &green).as_deref(), Some(other));
}

#[test]
fn a_service_that_comes_later_counts_the_pods_that_are_there() {
    let mut model = model(&[node("a"), node("b")]);
    let mut first = labelled(requesting("first", "1m", "1Mi"), "app", "web");
    first["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "a"});
    place(&mut model, &first).unwrap();
    let mut ballast = requesting("ballast", "2", "4Gi");
    ballast["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "b"});
    place(&mut model, &ballast).unwrap();
    let second = labelled(pod("second"), "app", "web");
    let chosen = |model: &Model| {
        let node = model.place(&seen(&second)).unwrap();
        model.name(node).to_string()
    };
    assert_eq!(chosen(&model), "a");
    service(&mut model, "web", "app", "web");
    assert_eq!(chosen(&model), "b");
    model.set_service(ObjectKey::new("default", "web"), BTreeMap::new());
    assert_eq!(chosen(&model), "a");
}

#[test]
fn alone_a_pod_goes_to_the_emptiest_node_relative_to_its_size() {
    let mut large = node("large");
    large["status"]["allocatable"] = json!({"cpu": "16", "memory": "32Gi", "pods": "110"});
    let mut model = model(&[large, node("small")]);
    let places: Vec<String> = (0..5)
        .map(|index| place(&mut model, &requesting(&format!("p{index}"), "1", "2Gi")).unwrap())
        .collect();
    assert_eq!(places, ["large", "large", "large", "large", "small"]);
}

#[test]
fn a_pod_with_a_node_from_the_start_is_counted() {
    let mut model = model(&[node("only")]);
    model.set_pod(seen(&requesting("placed", "4", "1Gi")), "only");
    assert_eq!(
        why(&model, &requesting("p", "1", "1Gi")),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
}

#[test]
fn pods_are_counted_on_a_node_that_is_seen_after_them() {
    let mut model = Model::default();
    model.set_pod(seen(&requesting("placed", "4", "1Gi")), "late");
    assert!(model.set_node(info(&node("late"))).is_some());
    assert!(model.place(&seen(&requesting("p", "1", "1Gi"))).is_none());
    model.remove_node("late");
    assert!(model.set_node(info(&node("late"))).is_some());
    assert!(model.place(&seen(&requesting("p", "1", "1Gi"))).is_none());
    assert!(model.remove_pod("uid-placed").is_some());
    assert!(model.place(&seen(&requesting("p", "1", "1Gi"))).is_some());
}

#[test]
fn an_assumption_is_taken_back_unless_the_store_confirmed_it() {
    let mut model = model(&[node("only")]);
    let big = requesting("big", "4", "1Gi");
    place(&mut model, &big).unwrap();
    assert!(model.forget("uid-big").is_some());
    assert!(!model.has_pod("uid-big"));
    place(&mut model, &big).unwrap();
    model.set_pod(seen(&big), "only");
    assert_eq!(model.forget("uid-big"), None);
    assert!(model.has_pod("uid-big"));
}

#[test]
fn an_unchanged_node_is_no_news() {
    let mut model = model(&[node("a")]);
    assert_eq!(model.set_node(info(&node("a"))), None);
    let mut grown = node("a");
    grown["status"]["allocatable"]["cpu"] = json!("8");
    assert!(model.set_node(info(&grown)).is_some());
}

#[test]
fn init_containers_count_by_the_largest_and_sidecars_always() {
    let mut value = requesting("p", "1", "1Gi");
    let container = |name: &str, cpu: &str, restart: Value| json!({"name": name, "image": "i", "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}});
    value["spec"]["initContainers"] = json!([
        container("first", "3", Value::Null),
        container("sidecar", "500m", json!("Always")),
        container("second", "2", Value::Null),
    ]);
    value["spec"]["overhead"] = json!({"cpu": "100m"});
    assert_eq!(seen(&value).demand.requests.cpu_milli, 3100);
    value["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = json!("2");
    assert_eq!(seen(&value).demand.requests.cpu_milli, 2600);
    value["spec"]["initContainers"][2]["resources"]["requests"]["cpu"] = json!("100m");
    value["spec"]["initContainers"][0]["resources"]["requests"]["cpu"] = json!("100m");
    assert_eq!(seen(&value).demand.requests.cpu_milli, 1600);
}

#[test]
fn a_limit_alone_is_a_request() {
    let mut value = pod("p");
    value["spec"]["containers"][0]["resources"]["limits"] =
        json!({"cpu": "2", "example.com/gpu": "1"});
    let demand = seen(&value).demand;
    assert_eq!(demand.requests.cpu_milli, 2000);
    assert_eq!(demand.requests.others, BTreeMap::from([("example.com/gpu".to_owned(), 1)]));
    assert_eq!(
        why(&model(&[node("a")]), &value),
        "0/1 nodes are available: 1 Insufficient example.com/gpu."
    );
}
