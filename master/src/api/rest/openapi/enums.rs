//! Fields with a few values only. `k8s-openapi` tells them as plain text; Kubernetes' documents list
//! the values, and `kubectl explain` shows them.
//!
//! The values are those of the constants that `k8s.io/api` marks with `+enum`, in their order there:
//! that of the alphabet.

use serde_json::{Value, json};

const CORE: &str = "io.k8s.api.core.v1";

type Values = &'static [&'static str];

const PROTOCOL: Values = &["SCTP", "TCP", "UDP"];
const PULL_POLICY: Values = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICY: Values = &["FallbackToLogsOnError", "File"];
const PROFILE: Values = &["Localhost", "RuntimeDefault", "Unconfined"];
const TAINT_EFFECT: Values = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
const INCLUSION_POLICY: Values = &["Honor", "Ignore"];
const TRAFFIC_POLICY: Values = &["Cluster", "Local"];
const QUOTA_SCOPE: Values = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Type (of the core group unless it says otherwise), field, values; of a list, those of its items.
const ENUMS: &[(&str, &str, Values)] = &[
    ("AppArmorProfile", "type", PROFILE),
    ("Container", "imagePullPolicy", PULL_POLICY),
    ("Container", "terminationMessagePolicy", MESSAGE_POLICY),
    ("ContainerPort", "protocol", PROTOCOL),
    ("EndpointPort", "protocol", PROTOCOL),
    ("EphemeralContainer", "imagePullPolicy", PULL_POLICY),
    ("EphemeralContainer", "terminationMessagePolicy", MESSAGE_POLICY),
    ("HTTPGetAction", "scheme", &["HTTP", "HTTPS"]),
    (
        "HostPathVolumeSource",
        "type",
        &[
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ],
    ),
    ("ImageVolumeSource", "pullPolicy", PULL_POLICY),
    ("NamespaceStatus", "phase", &["Active", "Terminating"]),
    ("NodeSelectorRequirement", "operator", &["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"]),
    ("NodeStatus", "phase", &["Pending", "Running", "Terminated"]),
    ("PodSecurityContext", "fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
    ("PodSecurityContext", "supplementalGroupsPolicy", &["Merge", "Strict"]),
    ("PodSpec", "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]),
    ("PodSpec", "preemptionPolicy", &["Never", "PreemptLowerPriority"]),
    ("PodSpec", "restartPolicy", &["Always", "Never", "OnFailure"]),
    ("PodStatus", "phase", &["Failed", "Pending", "Running", "Succeeded", "Unknown"]),
    ("PodStatus", "qosClass", &["BestEffort", "Burstable", "Guaranteed"]),
    ("ResourceQuotaSpec", "scopes", QUOTA_SCOPE),
    ("ScopedResourceSelectorRequirement", "operator", &["DoesNotExist", "Exists", "In", "NotIn"]),
    ("ScopedResourceSelectorRequirement", "scopeName", QUOTA_SCOPE),
    ("SeccompProfile", "type", PROFILE),
    ("SecurityContext", "procMount", &["Default", "Unmasked"]),
    ("ServicePort", "protocol", PROTOCOL),
    ("ServiceSpec", "externalTrafficPolicy", TRAFFIC_POLICY),
    ("ServiceSpec", "internalTrafficPolicy", TRAFFIC_POLICY),
    ("ServiceSpec", "ipFamilies", &["", "IPv4", "IPv6"]),
    ("ServiceSpec", "ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"]),
    ("ServiceSpec", "sessionAffinity", &["ClientIP", "None"]),
    ("ServiceSpec", "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]),
    ("Taint", "effect", TAINT_EFFECT),
    ("Toleration", "effect", TAINT_EFFECT),
    ("Toleration", "operator", &["Equal", "Exists", "Gt", "Lt"]),
    ("TopologySpreadConstraint", "nodeAffinityPolicy", INCLUSION_POLICY),
    ("TopologySpreadConstraint", "nodeTaintsPolicy", INCLUSION_POLICY),
    ("TopologySpreadConstraint", "whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"]),
    ("VolumeMount", "mountPropagation", &["Bidirectional", "HostToContainer", "None"]),
    ("io.k8s.api.apps.v1.DeploymentStrategy", "type", &["Recreate", "RollingUpdate"]),
    ("io.k8s.api.discovery.v1.EndpointPort", "protocol", PROTOCOL),
    ("io.k8s.api.discovery.v1.EndpointSlice", "addressType", &["FQDN", "IPv4", "IPv6"]),
];

/// Adds the values to the fields of a type.
pub(crate) fn list_values(name: &str, schema: &mut Value) {
    let short = name.strip_prefix(CORE).and_then(|name| name.strip_prefix('.')).unwrap_or(name);
    for (_, field, values) in ENUMS.iter().filter(|(of, _, _)| *of == short) {
        let field = &mut schema["properties"][*field];
        let place = if field["type"] == "array" { &mut field["items"] } else { field };
        place["enum"] = json!(values);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{described, types::types};
    use super::*;
    use crate::api::kinds;

    #[test]
    fn every_field_with_values_is_text_of_a_type_that_is_served() {
        let kinds = described::all(&kinds::registry());
        let schemas = types(&kinds, &kinds).schemas;
        for (of, field, values) in ENUMS {
            let name = if of.contains('.') { (*of).to_owned() } else { format!("{CORE}.{of}") };
            let field = &schemas[&name]["properties"][*field];
            let place = if field["type"] == "array" { &field["items"] } else { field };
            assert_eq!(place["type"], "string", "{name}: {field}");
            assert_eq!(place["enum"], json!(values), "{name}");
            assert!(values.is_sorted(), "{values:?}");
        }
    }
}
