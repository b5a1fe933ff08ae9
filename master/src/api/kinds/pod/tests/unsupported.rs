//! What this version does not do is refused.

use serde_json::{Value, json};

use super::super::super::testing::{check, with};
use super::super::Pods;
use super::full;

type Fields<'a> = &'a [(&'a str, Value)];

#[test]
fn what_is_not_honoured_is_refused_with_a_sentence() {
    let of_pod = [
        ("affinity", json!({"nodeAffinity": {}})),
        ("overhead", json!({"cpu": "1"})),
        ("preemptionPolicy", json!("Never")),
        ("priority", json!(1)),
        ("priorityClassName", json!("system-node-critical")),
        ("resourceClaims", json!([{"name": "x"}])),
        ("resources", json!({"limits": {"cpu": "1"}})),
        ("runtimeClassName", json!("kata")),
        ("schedulingGates", json!([{"name": "x"}])),
        (
            "topologySpreadConstraints",
            json!([{"maxSkew": 1, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule"}]),
        ),
    ];
    let of_pod_context =
        [("seLinuxOptions", json!({"level": "s0"})), ("windowsOptions", json!({}))];
    let of_container = [("volumeDevices", json!([{"name": "x", "devicePath": "/dev/x"}]))];
    let of_context = [("seLinuxOptions", json!({"level": "s0"})), ("windowsOptions", json!({}))];
    let of_mount = [("bindMountOptions", json!(["noexec"]))];
    let places: [(&str, &str, Fields<'_>); 5] = [
        ("/spec", "spec", &of_pod),
        ("/spec/securityContext", "spec.securityContext", &of_pod_context),
        ("/spec/containers/0", "spec.containers[0]", &of_container),
        ("/spec/containers/0/securityContext", "spec.containers[0].securityContext", &of_context),
        ("/spec/containers/0/volumeMounts/0", "spec.containers[0].volumeMounts[0]", &of_mount),
    ];
    // What would not go together with some of them.
    let pointer = "/spec/containers/0/securityContext/allowPrivilegeEscalation";
    let manifest = with(&full(), pointer, json!(null));
    for (pointer, path, fields) in places {
        for (field, value) in fields {
            let told = match value {
                Value::Array(list) if list[0].is_object() => String::new(),
                Value::Object(_) => String::new(),
                value => format!("{value} "),
            };
            check::<Pods>(
                &manifest,
                vec![(
                    &format!("{pointer}/{field}"),
                    value.clone(),
                    &format!(
                        "{path}.{field}: Forbidden: {told}is not supported by this version of Kutter: "
                    ),
                )],
            );
        }
    }
    check::<Pods>(
        &with(&full(), "/spec/containers/0/lifecycle", json!(null)),
        vec![
            (
                "/spec/os",
                json!({"name": "windows"}),
                "spec.os: Forbidden: \"windows\" is not supported by this version of Kutter: nodes run Linux",
            ),
            ("/spec/os", json!({"name": ""}), "spec.os.name: Required value: cannot be empty"),
            (
                "/spec/os",
                json!({"name": "beos"}),
                "spec.os: Unsupported value: \"beos\": supported values: \"linux\", \"windows\"",
            ),
            (
                "/spec/securityContext/appArmorProfile",
                json!({"type": "RuntimeDefault"}),
                "spec.securityContext.appArmorProfile.type: Forbidden: \"RuntimeDefault\" is not supported",
            ),
            (
                "/spec/containers/0/securityContext/appArmorProfile",
                json!({"type": "Localhost", "localhostProfile": "x"}),
                "spec.containers[0].securityContext.appArmorProfile.type: Forbidden: \"Localhost\" is not supported",
            ),
            (
                "/spec/containers/0/resources/limits/example.com~1gpu",
                json!("1"),
                "spec.containers[0].resources.limits[example.com/gpu]: Forbidden: is not supported",
            ),
            (
                "/metadata/annotations",
                json!({"kubernetes.io/ingress-bandwidth": "1M"}),
                "metadata.annotations[kubernetes.io/ingress-bandwidth]: Forbidden: \"1M\" is not supported",
            ),
            (
                "/spec/containers/0/ports/0",
                json!({"containerPort": 1, "hostPort": 1, "protocol": "SCTP"}),
                "spec.containers[0].ports[0].protocol: Forbidden: \"SCTP\" is not supported",
            ),
        ],
    );
}
