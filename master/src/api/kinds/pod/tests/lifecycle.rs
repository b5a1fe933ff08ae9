//! What is wrong with hooks, signals, restart rules, gates and deadlines.

use serde_json::json;

use super::super::super::testing::{check, check_updates, with};
use super::super::Pods;
use super::full;

#[test]
fn hooks_keep_to_the_rules() {
    let at = |rest: &str| format!("/spec/containers/0/lifecycle/{rest}");
    let path = "spec.containers[0].lifecycle";
    let cases = [
        ("postStart", json!({}), "postStart: Required value: must specify a handler type"),
        (
            "postStart/sleep",
            json!({"seconds": 1}),
            "postStart.sleep: Forbidden: may not specify more than 1 handler type",
        ),
        ("postStart/exec/command", json!([]), "postStart.exec.command: Required value"),
        ("preStop/httpGet/port", json!("Http"), "preStop.httpGet.port: Invalid value: \"Http\""),
        // Kubernetes lets it pass, and has it fail when it is called.
        (
            "preStop",
            json!({"tcpSocket": {"port": 80}}),
            "preStop.tcpSocket: Forbidden: is not supported by this version of Kutter: use exec, httpGet or sleep",
        ),
        ("preStop", json!({"sleep": {"seconds": 0}}), ""),
        (
            "preStop",
            json!({"sleep": {"seconds": -1}}),
            "preStop.sleep: Invalid value: -1: must be non-negative and less than terminationGracePeriodSeconds (5)",
        ),
        ("preStop", json!({"sleep": {"seconds": 6}}), "preStop.sleep: Invalid value: 6"),
        ("stopSignal", json!("SIGUSR1"), ""),
        ("stopSignal", json!("SIGRTMAX-14"), ""),
        ("stopSignal", json!("SIGRTMIN+16"), "stopSignal: Unsupported value: \"SIGRTMIN+16\""),
        ("stopSignal", json!("TERM"), "stopSignal: Unsupported value: \"TERM\": supported values"),
    ];
    for (field, value, told) in cases {
        let told = if told.is_empty() { String::new() } else { format!("{path}.{told}") };
        check::<Pods>(&full(), vec![(&at(field), value, &told)]);
    }
    check::<Pods>(
        &full(),
        vec![(
            "/spec/os",
            json!(null),
            "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
        )],
    );
}

#[test]
fn restart_rules_keep_to_the_rules() {
    let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}});
    let at = |rest: &str| format!("/spec/containers/0/{rest}");
    let ruled = with(&full(), &at("restartPolicy"), json!("Never"));
    let ruled = with(&ruled, &at("restartPolicyRules"), json!([rule]));
    check::<Pods>(
        &ruled,
        vec![
            (
                &at("restartPolicy"),
                json!("x"),
                "spec.containers[0].restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ),
            (
                &at("restartPolicy"),
                json!(null),
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            ),
            (
                &at("restartPolicyRules"),
                json!(vec![rule; 21]),
                "spec.containers[0].restartPolicyRules: Too many: 21: must have at most 20 items",
            ),
            (
                &at("restartPolicyRules/0/action"),
                json!("RestartAllContainers"),
                "spec.containers[0].restartPolicyRules[0].action: Forbidden: \"RestartAllContainers\" is not supported",
            ),
            (
                &at("restartPolicyRules/0/action"),
                json!("Stop"),
                "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\"",
            ),
            (
                &at("restartPolicyRules/0/exitCodes"),
                json!(null),
                "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
            ),
            (
                &at("restartPolicyRules/0/exitCodes/operator"),
                json!("Is"),
                "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\"",
            ),
            (
                &at("restartPolicyRules/0/exitCodes/values"),
                json!(vec![1; 256]),
                "spec.containers[0].restartPolicyRules[0].exitCodes.values: Too many: 256",
            ),
        ],
    );
}

#[test]
fn gates_and_deadlines_keep_to_the_rules() {
    check::<Pods>(
        &full(),
        vec![
            (
                "/spec/readinessGates/0/conditionType",
                json!("a b"),
                "spec.readinessGates[0].conditionType: Invalid value: \"a b\": name part must consist of",
            ),
            (
                "/spec/activeDeadlineSeconds",
                json!(0),
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ),
        ],
    );
}

#[test]
fn a_deadline_may_come_and_come_nearer_and_no_more() {
    let pod = with(&full(), "/spec/activeDeadlineSeconds", json!(600));
    let at = "/spec/activeDeadlineSeconds";
    check_updates::<Pods>(
        &pod,
        vec![
            (at, json!(60), ""),
            (
                at,
                json!(700),
                "spec.activeDeadlineSeconds: Invalid value: 700: must be less than or equal to previous value",
            ),
            (
                at,
                json!(null),
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
            ),
        ],
    );
}

#[test]
fn names_of_the_host_keep_to_the_rules() {
    let named = with(&full(), "/spec/setHostnameAsFQDN", json!(null));
    let at = "/spec/hostnameOverride";
    check::<Pods>(
        &named,
        vec![
            (
                "/spec/subdomain",
                json!("a.b"),
                "spec.subdomain: Invalid value: \"a.b\": must not contain dots",
            ),
            (at, json!("shop.example"), ""),
            (at, json!("A"), "spec.hostnameOverride: Invalid value: \"A\": a lowercase RFC 1123"),
            (
                at,
                json!(format!("{0}.{0}", "a".repeat(40))),
                "spec.hostnameOverride: Too long: may not be more than 64 bytes",
            ),
        ],
    );
    check::<Pods>(
        &full(),
        vec![(
            at,
            json!("shop.example"),
            "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
        )],
    );
}
