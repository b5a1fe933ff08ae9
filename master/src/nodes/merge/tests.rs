use serde_json::json;

use super::*;

fn pod(status: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
}

fn status(value: serde_json::Value) -> PodStatus {
    serde_json::from_value(value).unwrap()
}

fn node(status: serde_json::Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap()
}

fn reported(value: serde_json::Value) -> NodeStatus {
    serde_json::from_value(value).unwrap()
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn types(pod: &Pod) -> Vec<(String, String)> {
    let conditions = pod.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
    conditions.into_iter().map(|condition| (condition.type_, condition.status)).collect()
}

#[test]
fn a_report_changes_the_phase_and_keeps_the_masters_conditions() {
    let mut pod = pod(json!({
        "phase": "Pending", "qosClass": "Burstable",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
    }));
    let report = status(json!({
        "phase": "Running",
        "conditions": [
            {"type": "Ready", "status": "True"},
            {"type": "PodScheduled", "status": "False"},
            {"type": "example.com/gate", "status": "True"},
        ],
    }));
    assert!(pod_status(&mut pod, report));
    let expected = [("PodScheduled", "True"), ("Ready", "True")];
    assert_eq!(types(&pod), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let status = pod.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
}

/// Tools for batch jobs tell by it whether a pod failed by itself.
#[test]
fn a_node_says_that_it_has_ended_a_pod() {
    let mut pod = pod(json!({
        "phase": "Running",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "Other"}],
    }));
    let end =
        json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"});
    let report = status(json!({"phase": "Failed", "reason": "Evicted", "conditions": [end]}));
    assert!(pod_status(&mut pod, report));
    let conditions = pod.status.clone().unwrap().conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("TerminationByKubelet"));
    // Its last word about the pod need not say so again.
    pod_status(&mut pod, status(json!({"phase": "Failed", "reason": "Evicted"})));
    let placed = ("PodScheduled".to_owned(), "True".to_owned());
    assert_eq!(types(&pod), [("DisruptionTarget".to_owned(), "True".to_owned()), placed]);
}

#[test]
fn a_pod_that_named_its_node_is_placed() {
    let mut pod = pod(json!({"phase": "Pending"}));
    assert!(pod_status(&mut pod, status(json!({"phase": "Running"}))));
    assert_eq!(types(&pod), [("PodScheduled".to_owned(), "True".to_owned())]);
    assert!(!pod_status(&mut pod, status(json!({"phase": "Running"}))));
}

#[test]
fn the_same_report_again_changes_nothing() {
    let mut pod = pod(json!({
        "phase": "Pending", "qosClass": "BestEffort",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
    }));
    let report = status(json!({
        "phase": "Running", "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Ready", "status": "False"}, {"type": "Initialized", "status": "True"}],
    }));
    assert!(pod_status(&mut pod, report.clone()));
    let before = pod.clone();
    assert!(!pod_status(&mut pod, report));
    assert_eq!(pod, before);
}

#[test]
fn a_pod_that_has_ended_does_not_come_back() {
    let mut pod = pod(json!({"phase": "Failed", "reason": "Evicted"}));
    assert!(!pod_status(&mut pod, status(json!({"phase": "Running"}))));
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Failed"));
}

#[test]
fn a_condition_that_the_kubelet_no_longer_reports_goes() {
    let mut pod = pod(json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
    }));
    assert!(pod_status(&mut pod, status(json!({"phase": "Running"}))));
    assert_eq!(types(&pod), [("PodScheduled".to_owned(), "True".to_owned())]);
}

#[test]
fn a_later_report_of_the_same_node_status_is_no_change() {
    let mut node = node(json!({"conditions": [
        {"type": "Ready", "status": "True", "reason": "R", "message": "m",
         "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "NetworkUnavailable", "status": "False"},
    ]}));
    let report = reported(json!({"conditions": [
        {"type": "Ready", "status": "True", "reason": "R", "message": "m",
         "lastHeartbeatTime": "2026-01-02T00:00:00Z", "lastTransitionTime": "2026-01-02T00:00:00Z"},
    ]}));
    let before = node.clone();
    assert!(!node_status(&mut node, report, now()));
    assert_eq!(node, before);
}

#[test]
fn a_node_that_comes_back_became_ready_now() {
    let mut node = node(json!({"conditions": [
        {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
         "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]}));
    let report = reported(json!({"conditions": [
        {"type": "Ready", "status": "True", "reason": "KubeletReady",
         "lastTransitionTime": "2025-01-01T00:00:00Z"},
    ]}));
    assert!(node_status(&mut node, report, now()));
    let conditions = node.status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].status, "True");
    assert_eq!(conditions[0].last_transition_time, Some(Time(now())));
}

#[test]
fn a_new_reason_keeps_the_transition_time() {
    let mut node = node(json!({"conditions": [
        {"type": "Ready", "status": "True", "reason": "A", "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]}));
    let report = reported(json!({"conditions": [
        {"type": "Ready", "status": "True", "reason": "B", "lastTransitionTime": "2026-01-02T00:00:00Z"},
    ]}));
    assert!(node_status(&mut node, report, now()));
    let condition = &node.status.unwrap().conditions.unwrap()[0];
    assert_eq!(condition.reason.as_deref(), Some("B"));
    let kept: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(condition.last_transition_time, Some(Time(kept)));
}

#[test]
fn labels_of_people_stay_and_those_of_the_node_are_put_right() {
    let mut node: Node = serde_json::from_value(json!({"metadata": {"labels": {
        "team": "blue", "kubernetes.io/arch": "wrong",
    }}}))
    .unwrap();
    let labels = BTreeMap::from([("kubernetes.io/arch".to_owned(), "amd64".to_owned())]);
    assert!(node_labels(&mut node, &labels));
    assert!(!node_labels(&mut node, &labels));
    let labels = node.metadata.labels.unwrap();
    assert_eq!(labels["team"], "blue");
    assert_eq!(labels["kubernetes.io/arch"], "amd64");
}

#[test]
fn a_node_cannot_give_itself_labels_of_kubernetes_own_domains() {
    let labels = |key: &str| BTreeMap::from([(key.to_owned(), String::new())]);
    for forbidden in
        ["node-role.kubernetes.io/control-plane", "node-restriction.kubernetes.io/x", "x.k8s.io/y"]
    {
        assert_eq!(forbidden_label(&labels(forbidden)), Some(forbidden));
    }
    for allowed in [
        "disk",
        "example.com/disk",
        "notkubernetes.io/x",
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "node.kubernetes.io/anything",
        "a.kubelet.kubernetes.io/b",
    ] {
        assert_eq!(forbidden_label(&labels(allowed)), None, "{allowed}");
    }
}
