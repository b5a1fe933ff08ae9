//! What is wrong with a container.

use serde_json::json;

use super::super::super::testing::check;
use super::super::Pods;
use super::{full, minimal};

#[test]
fn a_container_keeps_to_the_rules() {
    let at = |rest: &str| format!("/spec/containers/0/{rest}");
    let name = "/spec/containers/0/name";
    check::<Pods>(
        &full(),
        vec![
            (&at("image"), json!(null), "spec.containers[0].image: Required value"),
            (
                &at("image"),
                json!(" nginx"),
                "spec.containers[0].image: Invalid value: \" nginx\": must not have leading or trailing whitespace",
            ),
            (
                &at("imagePullPolicy"),
                json!("Maybe"),
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ),
            (
                &at("terminationMessagePolicy"),
                json!("x"),
                "spec.containers[0].terminationMessagePolicy: Unsupported value: \"x\": supported values: \"File\", \"FallbackToLogsOnError\"",
            ),
            (
                &at("terminationMessagePath"),
                json!("log"),
                "spec.containers[0].terminationMessagePath: Invalid value: \"log\": must be an absolute path",
            ),
            (
                &at("workingDir"),
                json!("/a/../.."),
                "spec.containers[0].workingDir: Invalid value: \"/a/../..\": must not contain '..'",
            ),
            (
                &at("ports/0/containerPort"),
                json!(0),
                "spec.containers[0].ports[0].containerPort: Required value",
            ),
            (
                &at("ports/0/containerPort"),
                json!(70000),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                &at("ports/0/hostPort"),
                json!(-1),
                "spec.containers[0].ports[0].hostPort: Invalid value: -1",
            ),
            (
                &at("ports/0/hostIP"),
                json!("x"),
                "spec.containers[0].ports[0].hostIP: Invalid value: \"x\"",
            ),
            (
                &at("ports/0/protocol"),
                json!("ICMP"),
                "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                &at("ports/1/name"),
                json!("http"),
                "spec.containers[0].ports[1].name: Duplicate value: \"http\"",
            ),
            (
                &at("ports/1/name"),
                json!("53"),
                "spec.containers[0].ports[1].name: Invalid value: \"53\": must contain at least one letter (a-z)",
            ),
            (
                &at("ports/1"),
                json!({"containerPort": 81, "hostPort": 8080}),
                "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\"",
            ),
            (
                &at("resources/limits/cpu"),
                json!("x"),
                "spec.containers[0].resources.limits[cpu]: Invalid value: \"x\": quantities must match the regular expression",
            ),
            (
                &at("resources/requests/memory"),
                json!("-1"),
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                &at("resources/requests/cpu"),
                json!("2"),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 500m",
            ),
            (
                &at("resources/requests/pods"),
                json!("2"),
                "spec.containers[0].resources.requests[pods]: Invalid value: \"pods\": must be a standard resource for containers",
            ),
            (
                &at("securityContext/runAsGroup"),
                json!(-2),
                "spec.containers[0].securityContext.runAsGroup: Invalid value",
            ),
            (
                &at("securityContext/capabilities/add/0"),
                json!("FLY"),
                "spec.containers[0].securityContext.capabilities.add[0]: Invalid value: \"FLY\": is not a capability",
            ),
            (
                &at("securityContext/capabilities/add/0"),
                json!("CAP_SYS_ADMIN"),
                "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"capabilities\":",
            ),
            // Without new privileges it can be had, and Kubernetes lets it pass in this spelling.
            (&at("securityContext/capabilities/add/0"), json!("SYS_ADMIN"), ""),
            (
                &at("securityContext/procMount"),
                json!("Masked"),
                "spec.containers[0].securityContext.procMount: Unsupported value: \"Masked\": supported values: \"Default\", \"Unmasked\"",
            ),
            (&at("securityContext/procMount"), json!("Default"), ""),
            (
                &at("securityContext/appArmorProfile"),
                json!({"type": ""}),
                "spec.containers[0].securityContext.appArmorProfile.type: Required value: type is required when appArmorProfile is set",
            ),
            (
                &at("securityContext/appArmorProfile"),
                json!({"type": "Loose"}),
                "spec.containers[0].securityContext.appArmorProfile.type: Unsupported value: \"Loose\"",
            ),
            (
                &at("securityContext/appArmorProfile"),
                json!({"type": "Unconfined", "localhostProfile": "x"}),
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: \"x\": can only be set when AppArmor type is Localhost",
            ),
            (&at("securityContext/appArmorProfile"), json!({"type": "Unconfined"}), ""),
            (
                &at("securityContext/seccompProfile"),
                json!({"type": "Unconfined", "localhostProfile": "x"}),
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"x\": can only be set when seccomp type is Localhost",
            ),
            (
                &at("resizePolicy"),
                json!([{"resourceName": "cpu", "restartPolicy": "Restart"}]),
                "spec.containers[0].resizePolicy: Unsupported value: \"Restart\": supported values: \"NotRequired\", \"RestartContainer\"",
            ),
            (
                &at("resizePolicy"),
                json!([{"resourceName": "disk", "restartPolicy": "NotRequired"}]),
                "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            ),
            (
                &at("resizePolicy"),
                json!([
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                ]),
                "spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\"",
            ),
        ],
    );
    check::<Pods>(
        &minimal(),
        vec![
            (name, json!(""), "spec.containers[0].name: Required value"),
            (
                name,
                json!("Main"),
                "spec.containers[0].name: Invalid value: \"Main\": a lowercase RFC 1123 label",
            ),
            (
                "/spec/containers/1",
                json!({"name": "main", "image": "x"}),
                "spec.containers[1].name: Duplicate value: \"main\"",
            ),
        ],
    );
}
