//! What is wrong with a pod, field by field.

use serde_json::json;

use super::super::super::testing::{check, errors};
use super::super::Pods;
use super::full;

#[test]
fn a_spec_keeps_to_the_rules() {
    let long = "a".repeat(64);
    check::<Pods>(
        &full(),
        vec![
            ("/spec/containers", json!([]), "spec.containers: Required value"),
            (
                "/spec/restartPolicy",
                json!("Sometimes"),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            ("/spec/dnsPolicy", json!("x"), "spec.dnsPolicy: Unsupported value"),
            (
                "/spec/dnsConfig",
                json!(null),
                "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            ),
            (
                "/spec/dnsConfig/nameservers",
                json!([]),
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ),
            (
                "/spec/dnsConfig/nameservers/0",
                json!("010.0.0.1"),
                "spec.dnsConfig.nameservers[0]: Invalid value: \"010.0.0.1\": must not have leading 0s",
            ),
            (
                "/spec/dnsConfig/nameservers/0",
                json!("a.b"),
                "spec.dnsConfig.nameservers[0]: Invalid value: \"a.b\": must be a valid IP address",
            ),
            (
                "/spec/dnsConfig/nameservers",
                json!(["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]),
                "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"1.1.1.4\"]: must not have more than 3 nameservers",
            ),
            (
                "/spec/dnsConfig/searches",
                json!(vec!["a.b"; 33]),
                "spec.dnsConfig.searches: Invalid value: [\"a.b\",",
            ),
            (
                "/spec/dnsConfig/searches",
                json!(vec![format!("{0}.{0}.{0}", "a".repeat(60)); 12]),
                "spec.dnsConfig.searches: Invalid value: [\"aaa",
            ),
            (
                "/spec/dnsConfig/searches/0",
                json!("a_.b"),
                "spec.dnsConfig.searches[0]: Invalid value: \"a_.b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_'",
            ),
            ("/spec/dnsConfig/searches/0", json!("_sip._tcp.a_b.example."), ""),
            ("/spec/dnsConfig/searches/0", json!("."), ""),
            (
                "/spec/dnsConfig/options/0/name",
                json!(""),
                "spec.dnsConfig.options[0]: Required value: must not be empty",
            ),
            (
                "/spec/dnsConfig/options/0/value",
                json!("2\nnameserver 6.6.6.6"),
                "spec.dnsConfig.options[0]: Invalid value",
            ),
            (
                "/spec/hostAliases/0/ip",
                json!("x"),
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                "/spec/hostAliases/0/hostnames/0",
                json!("a b"),
                "spec.hostAliases[0].hostnames[0]: Invalid value",
            ),
            // It is taken for the shortest that is one.
            ("/spec/terminationGracePeriodSeconds", json!(-1), ""),
            ("/spec/schedulerName", json!("My_Scheduler"), ""),
            (
                "/spec/nodeSelector",
                json!({"a b": "c"}),
                "spec.nodeSelector: Invalid value: \"a b\": name part must consist of",
            ),
            (
                "/spec/nodeSelector",
                json!({"a": "c d"}),
                "spec.nodeSelector: Invalid value: \"c d\": a valid label must be",
            ),
            (
                "/spec/nodeName",
                json!("A"),
                "spec.nodeName: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
            ),
            (
                "/spec/hostname",
                json!("a.b"),
                "spec.hostname: Invalid value: \"a.b\": must not contain dots",
            ),
            ("/spec/hostname", json!(long), "spec.hostname: Invalid value"),
            ("/spec/serviceAccountName", json!("A"), "spec.serviceAccountName: Invalid value"),
            ("/spec/imagePullSecrets/0/name", json!(""), ""),
            (
                "/spec/tolerations/2/value",
                json!("a b"),
                "spec.tolerations[2].operator: Invalid value: \"a b\": a valid label must be",
            ),
            (
                "/spec/tolerations/0/value",
                json!("x"),
                "spec.tolerations[0].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
            ),
            (
                "/spec/tolerations/1/operator",
                json!("Equal"),
                "spec.tolerations[1].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty",
            ),
            (
                "/spec/tolerations/2/effect",
                json!("Never"),
                "spec.tolerations[2].effect: Unsupported value: \"Never\"",
            ),
            (
                "/spec/tolerations/2/tolerationSeconds",
                json!(1),
                "spec.tolerations[2].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when",
            ),
            (
                "/spec/tolerations/2/operator",
                json!("Near"),
                "spec.tolerations[2].operator: Unsupported value",
            ),
            (
                "/spec/securityContext/runAsUser",
                json!(-1),
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ),
            (
                "/spec/securityContext/supplementalGroups/0",
                json!(4294967296_i64),
                "spec.securityContext.supplementalGroups[0]: Invalid value",
            ),
            (
                "/spec/securityContext/seccompProfile",
                json!({"type": "Localhost"}),
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ),
            (
                "/spec/securityContext/seccompProfile",
                json!({"type": "Localhost", "localhostProfile": "a/../b"}),
                "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"a/../b\": must not contain '..'",
            ),
            (
                "/spec/securityContext/seccompProfile",
                json!({"type": "Localhost", "localhostProfile": "profiles/audit.json"}),
                "",
            ),
            (
                "/spec/securityContext/seccompProfile/type",
                json!("Loose"),
                "spec.securityContext.seccompProfile.type: Unsupported value",
            ),
            (
                "/spec/securityContext/seccompProfile",
                json!({"type": ""}),
                "spec.securityContext.seccompProfile.type: Required value",
            ),
            (
                "/spec/securityContext/supplementalGroupsPolicy",
                json!("Mine"),
                "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"Mine\": supported values: \"Merge\", \"Strict\"",
            ),
            ("/spec/securityContext/supplementalGroupsPolicy", json!("Merge"), ""),
            ("/spec/securityContext/supplementalGroupsPolicy", json!("Strict"), ""),
            ("/spec/securityContext/fsGroup", json!(2000), ""),
            (
                "/spec/securityContext/fsGroup",
                json!(-1),
                "spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ),
            ("/spec/securityContext/fsGroupChangePolicy", json!("OnRootMismatch"), ""),
            (
                "/spec/securityContext/fsGroupChangePolicy",
                json!("Never"),
                "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
            ),
            ("/spec/securityContext/seLinuxOptions", json!({"level": "s0:c1,c2"}), ""),
            ("/spec/containers/0/securityContext/seLinuxOptions", json!({"type": "spc_t"}), ""),
            ("/spec/securityContext/seLinuxChangePolicy", json!("MountOption"), ""),
            (
                "/spec/securityContext/seLinuxChangePolicy",
                json!("Never"),
                "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"Never\": supported values: \"MountOption\", \"Recursive\"",
            ),
            ("/spec/preemptionPolicy", json!("PreemptLowerPriority"), ""),
            ("/spec/preemptionPolicy", json!("Never"), ""),
            (
                "/spec/preemptionPolicy",
                json!("Always"),
                "spec.preemptionPolicy: Unsupported value: \"Always\": supported values: \"PreemptLowerPriority\", \"Never\"",
            ),
            ("/spec/priority", json!(0), ""),
            ("/spec/priorityClassName", json!("important"), ""),
            (
                "/spec/priorityClassName",
                json!("very important"),
                "spec.priorityClassName: Invalid value: \"very important\": ",
            ),
            ("/spec/runtimeClassName", json!("safe"), ""),
            ("/spec/overhead", json!({"cpu": "100m", "memory": "16Mi"}), ""),
            (
                "/spec/overhead",
                json!({"cpu": "-1"}),
                "spec.overhead[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                "/spec/overhead",
                json!({"pods": "1"}),
                "spec.overhead[pods]: Invalid value: \"pods\": must be a standard resource for containers",
            ),
            ("/spec/os", json!({"name": "linux"}), ""),
            ("/spec/hostNetwork", json!(false), ""),
            ("/spec/automountServiceAccountToken", json!(false), ""),
            ("/spec/affinity", json!({}), ""),
        ],
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let bad = json!({
        "metadata": {"name": "web"},
        "spec": {
            "restartPolicy": "x",
            "runtimeClassName": "very safe",
            "volumes": [{"name": "A"}],
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "z"}}}, {"image": "b"}],
        },
    });
    let found = errors::<Pods>(&bad);
    for path in [
        "spec.restartPolicy",
        "spec.runtimeClassName",
        "spec.volumes[0].name",
        "spec.containers[0].image",
        "spec.containers[0].resources.limits[cpu]",
        "spec.containers[1].name",
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(&format!("{path}: "))),
            "{path}: {found:?}"
        );
    }
    assert_eq!(found.len(), 6, "{found:?}");
}
