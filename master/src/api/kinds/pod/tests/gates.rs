//! Pods that wait until they may be scheduled.

use k8s_openapi::api::core::v1::Pod;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::super::super::Kind;
use super::super::super::testing::{check, check_updates, created, defaulted, row, with};
use super::super::Pods;
use super::full;

fn gated() -> Value {
    let pod = with(&full(), "/spec/schedulingGates", json!([{"name": "a.b/c"}, {"name": "d"}]));
    with(&pod, "/spec/nodeName", json!(null))
}

#[test]
fn gates_have_names_of_their_own_and_no_node() {
    check::<Pods>(
        &gated(),
        vec![
            (
                "/spec/schedulingGates/1/name",
                json!("a b"),
                "spec.schedulingGates[1].name: Invalid value: \"a b\"",
            ),
            (
                "/spec/schedulingGates/1/name",
                json!("a.b/c"),
                "spec.schedulingGates[1]: Duplicate value: \"a.b/c\"",
            ),
        ],
    );
    let on_node = created::<Pods>(&with(&gated(), "/spec/nodeName", json!("n1")));
    let told: Vec<String> =
        Pods::validate_create(&on_node).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"]
    );
}

#[test]
fn a_pod_with_gates_says_that_it_waits() {
    let pod = defaulted::<Pods>(&gated());
    let condition = &pod["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("PodScheduled"), &json!("False"), &json!("SchedulingGated"))
    );
    assert_eq!(row::<Pods>(&pod)[2], "SchedulingGated");
    let free: Pod = created::<Pods>(&with(&gated(), "/spec/schedulingGates", json!(null)));
    assert_eq!(free.status.unwrap().conditions, None);
}

#[test]
fn gates_only_go_and_meanwhile_the_choice_of_nodes_only_narrows() {
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let in_zones = |zones: &[&str]| json!({"key": "zone", "operator": "In", "values": zones});
    let terms =
        |expressions: Value| json!({"nodeSelectorTerms": [{"matchExpressions": expressions}]});
    let pod = with(&gated(), "/spec/nodeSelector", json!({"disk": "ssd"}));
    let bound = with(&pod, required, terms(json!([in_zones(&["a"])])));
    let other = json!({"key": "gpu", "operator": "Exists"});
    check_updates::<Pods>(
        &bound,
        vec![
            ("/spec/schedulingGates", json!(null), ""),
            ("/spec/schedulingGates", json!([{"name": "d"}]), ""),
            (
                "/spec/schedulingGates",
                json!([{"name": "new"}]),
                "spec.schedulingGates[0]: Forbidden: only deletion is allowed, but found new scheduling gate 'new'",
            ),
            ("/spec/nodeSelector", json!({"disk": "ssd", "zone": "a"}), ""),
            (
                "/spec/nodeSelector",
                json!({"disk": "hdd"}),
                "spec.nodeSelector: Forbidden: only additions",
            ),
            (required, terms(json!([in_zones(&["a"]), other])), ""),
            (
                required,
                terms(json!([in_zones(&["a", "b"])])),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution: Forbidden: only additions",
            ),
            (
                "/spec/affinity/podAffinity",
                json!({}),
                "spec: Forbidden: pod updates may not change",
            ),
        ],
    );
    check_updates::<Pods>(&pod, vec![(required, terms(json!([other])), "")]);
    let free = with(&pod, "/spec/schedulingGates", json!(null));
    check_updates::<Pods>(
        &free,
        vec![
            (
                "/spec/schedulingGates",
                json!([{"name": "new"}]),
                "spec.schedulingGates[0]: Forbidden: only deletion is allowed",
            ),
            (
                "/spec/nodeSelector",
                json!({"disk": "ssd", "zone": "a"}),
                "spec: Forbidden: pod updates",
            ),
        ],
    );
}
