//! How pods are run.

use super::*;

fn class() -> Value {
    json!({
        "metadata": {"name": "safe"}, "handler": "kutter",
        "overhead": {"podFixed": {"cpu": "100m", "memory": "16Mi"}},
        "scheduling": {
            "nodeSelector": {"safe": "yes"}, "tolerations": [{"key": "safe", "operator": "Exists"}],
        },
    })
}

#[test]
fn runtime_classes_keep_to_the_rules() {
    settles::<RuntimeClasses>(&class());
    check::<RuntimeClasses>(
        &class(),
        vec![
            ("/handler", json!("some-other"), ""),
            ("/overhead", json!(null), ""),
            ("/scheduling", json!(null), ""),
            (
                "/handler",
                json!("Some.Other"),
                "handler: Invalid value: \"Some.Other\": a lowercase RFC 1123 label",
            ),
            ("/handler", json!(""), "handler: Invalid value: \"\": a lowercase RFC 1123 label"),
            (
                "/overhead/podFixed/cpu",
                json!("-1"),
                "overhead.podFixed[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                "/overhead/podFixed/pods",
                json!("1"),
                "overhead.podFixed[pods]: Invalid value: \"pods\": must be a standard resource for containers",
            ),
            (
                "/scheduling/nodeSelector/safe",
                json!("not quite"),
                "scheduling.nodeSelector: Invalid value: \"not quite\"",
            ),
            (
                "/scheduling/tolerations/0/operator",
                json!("Maybe"),
                "scheduling.tolerations[0].operator: Unsupported value: \"Maybe\"",
            ),
            (
                "/scheduling/tolerations",
                json!([{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "Exists"}]),
                "scheduling.tolerations[1]: Duplicate value",
            ),
        ],
    );
    check_updates::<RuntimeClasses>(
        &class(),
        vec![
            ("/overhead", json!(null), ""),
            ("/scheduling", json!(null), ""),
            ("/handler", json!("other"), "handler: Invalid value: \"other\": field is immutable"),
        ],
    );
}

#[test]
fn a_runtime_class_is_shown_with_its_handler() {
    assert_eq!(row::<RuntimeClasses>(&class())[..2], ["safe", "kutter"]);
}
