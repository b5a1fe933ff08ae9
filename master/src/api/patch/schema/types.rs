//! The table itself: every type on the way to a field that merges in a special way.

use super::{Field, Strategy, Topology};

pub(super) type Fields = &'static [(&'static str, Field)];

/// A type in which nothing is remarkable.
const PLAIN: &str = "";

const NONE: Strategy = Strategy { merge: false, retain_keys: false, key: None };

const fn field(of: &'static str, topology: Topology) -> Field {
    Field { of, topology, whole_items: false, strategy: NONE }
}

const fn object(of: &'static str) -> Field {
    field(of, Topology::Granular)
}

/// A list of objects with keys.
const fn map(of: &'static str, keys: &'static [&'static str]) -> Field {
    field(of, Topology::Map(keys))
}

/// The same; each item has one owner.
const fn map_of_wholes(keys: &'static [&'static str]) -> Field {
    Field { whole_items: true, ..map(PLAIN, keys) }
}

const ATOMIC: Field = field(PLAIN, Topology::Atomic);
const SET: Field = field(PLAIN, Topology::Set);

impl Field {
    const fn merged(self) -> Self {
        Self { strategy: Strategy { merge: true, ..self.strategy }, ..self }
    }

    const fn merged_by(self, key: &'static str) -> Self {
        Self { strategy: Strategy { merge: true, key: Some(key), ..self.strategy }, ..self }
    }

    const fn retaining_keys(self) -> Self {
        Self { strategy: Strategy { retain_keys: true, ..self.strategy }, ..self }
    }
}

const METADATA: Fields = &[("metadata", object("ObjectMeta"))];
const CONDITIONS: Fields = &[("conditions", map(PLAIN, &["type"]).merged_by("type"))];
const SECRET_REF: Fields = &[("secretRef", ATOMIC)];

pub(super) const TYPES: &[(&str, Fields)] = &[
    (
        "Pod",
        &[
            ("metadata", object("ObjectMeta")),
            ("spec", object("PodSpec")),
            ("status", object("PodStatus")),
        ],
    ),
    (
        "ObjectMeta",
        &[
            ("ownerReferences", map_of_wholes(&["uid"]).merged_by("uid")),
            ("finalizers", SET.merged()),
        ],
    ),
    (
        "PodSpec",
        &[
            ("volumes", map("Volume", &["name"]).retaining_keys().merged_by("name")),
            ("initContainers", map("Container", &["name"]).merged_by("name")),
            ("containers", map("Container", &["name"]).merged_by("name")),
            ("ephemeralContainers", map("EphemeralContainer", &["name"]).merged_by("name")),
            ("nodeSelector", ATOMIC),
            ("imagePullSecrets", map_of_wholes(&["name"]).merged_by("name")),
            ("affinity", object("Affinity")),
            ("hostAliases", map(PLAIN, &["ip"]).merged_by("ip")),
            (
                "topologySpreadConstraints",
                map("TopologySpreadConstraint", &["topologyKey", "whenUnsatisfiable"])
                    .merged_by("topologyKey"),
            ),
            ("schedulingGates", map(PLAIN, &["name"]).merged_by("name")),
            ("resourceClaims", map(PLAIN, &["name"]).retaining_keys().merged_by("name")),
            ("resources", object("ResourceRequirements")),
            ("evictionResponders", map_of_wholes(&["name"]).merged_by("name")),
        ],
    ),
    (
        "Volume",
        &[
            ("iscsi", object("ISCSIVolumeSource")),
            ("rbd", object("RBDVolumeSource")),
            ("flexVolume", object("FlexVolumeSource")),
            ("cinder", object("CinderVolumeSource")),
            ("cephfs", object("CephFSVolumeSource")),
            ("scaleIO", object("ScaleIOVolumeSource")),
            ("storageos", object("StorageOSVolumeSource")),
            ("csi", object("CSIVolumeSource")),
            ("ephemeral", object("EphemeralVolumeSource")),
        ],
    ),
    ("ISCSIVolumeSource", SECRET_REF),
    ("RBDVolumeSource", SECRET_REF),
    ("FlexVolumeSource", SECRET_REF),
    ("CinderVolumeSource", SECRET_REF),
    ("CephFSVolumeSource", SECRET_REF),
    ("ScaleIOVolumeSource", SECRET_REF),
    ("StorageOSVolumeSource", SECRET_REF),
    ("CSIVolumeSource", &[("nodePublishSecretRef", ATOMIC)]),
    ("EphemeralVolumeSource", &[("volumeClaimTemplate", object("PersistentVolumeClaimTemplate"))]),
    (
        "PersistentVolumeClaimTemplate",
        &[("metadata", object("ObjectMeta")), ("spec", object("PersistentVolumeClaimSpec"))],
    ),
    ("PersistentVolumeClaimSpec", &[("selector", ATOMIC), ("dataSource", ATOMIC)]),
    (
        "Container",
        &[
            ("ports", map(PLAIN, &["containerPort", "protocol"]).merged_by("containerPort")),
            ("env", map("EnvVar", &["name"]).merged_by("name")),
            ("resources", object("ResourceRequirements")),
            ("volumeMounts", map("VolumeMount", &["mountPath"]).merged_by("mountPath")),
            ("volumeDevices", map(PLAIN, &["devicePath"]).merged_by("devicePath")),
        ],
    ),
    ("EnvVar", &[("valueFrom", object("EnvVarSource"))]),
    (
        "EnvVarSource",
        &[
            ("fieldRef", ATOMIC),
            ("resourceFieldRef", ATOMIC),
            ("configMapKeyRef", ATOMIC),
            ("secretKeyRef", ATOMIC),
            ("fileKeyRef", ATOMIC),
        ],
    ),
    ("ResourceRequirements", &[("claims", map(PLAIN, &["name"]))]),
    ("VolumeMount", &[("bindMountOptions", SET)]),
    (
        "EphemeralContainer",
        &[
            ("ports", map(PLAIN, &["containerPort", "protocol"]).merged_by("containerPort")),
            ("env", map("EnvVar", &["name"]).merged_by("name")),
            ("resources", object("ResourceRequirements")),
            ("volumeMounts", map("VolumeMount", &["mountPath"]).merged_by("mountPath")),
            ("volumeDevices", map(PLAIN, &["devicePath"]).merged_by("devicePath")),
        ],
    ),
    ("Affinity", &[("nodeAffinity", object("NodeAffinity"))]),
    ("NodeAffinity", &[("requiredDuringSchedulingIgnoredDuringExecution", ATOMIC)]),
    ("TopologySpreadConstraint", &[("labelSelector", ATOMIC)]),
    (
        "PodStatus",
        &[
            ("conditions", map(PLAIN, &["type"]).merged_by("type")),
            ("hostIPs", ATOMIC.merged_by("ip")),
            ("podIPs", map(PLAIN, &["ip"]).merged_by("ip")),
            ("resourceClaimStatuses", map(PLAIN, &["name"]).retaining_keys().merged_by("name")),
            ("resources", object("ResourceRequirements")),
            (
                "nodeAllocatableResourceClaimStatuses",
                map("NodeAllocatableResourceClaimStatus", &["resourceClaimName"])
                    .merged_by("resourceClaimName"),
            ),
            ("volumeHealth", map("PodVolumeHealth", &["name"])),
        ],
    ),
    (
        "NodeAllocatableResourceClaimStatus",
        &[
            ("containers", SET),
            ("mapping", map(PLAIN, &["name"]).merged_by("name")),
            ("overhead", map(PLAIN, &["name"]).merged_by("name")),
        ],
    ),
    (
        "PodVolumeHealth",
        &[("healthConditions", map(PLAIN, &["status", "reason"]).merged_by("status"))],
    ),
    ("PodTemplate", &[("metadata", object("ObjectMeta")), ("template", object("PodTemplateSpec"))]),
    ("PodTemplateSpec", &[("metadata", object("ObjectMeta")), ("spec", object("PodSpec"))]),
    (
        "ReplicationController",
        &[
            ("metadata", object("ObjectMeta")),
            ("spec", object("ReplicationControllerSpec")),
            ("status", object("ReplicationControllerStatus")),
        ],
    ),
    ("ReplicationControllerSpec", &[("selector", ATOMIC), ("template", object("PodTemplateSpec"))]),
    ("ReplicationControllerStatus", CONDITIONS),
    (
        "Service",
        &[
            ("metadata", object("ObjectMeta")),
            ("spec", object("ServiceSpec")),
            ("status", object("ServiceStatus")),
        ],
    ),
    (
        "ServiceSpec",
        &[("ports", map(PLAIN, &["port", "protocol"]).merged_by("port")), ("selector", ATOMIC)],
    ),
    ("ServiceStatus", CONDITIONS),
    ("Endpoints", METADATA),
    (
        "Node",
        &[
            ("metadata", object("ObjectMeta")),
            ("spec", object("NodeSpec")),
            ("status", object("NodeStatus")),
        ],
    ),
    (
        "NodeSpec",
        &[("podCIDRs", SET.merged()), ("podPreemptionPolicy", object("NodePodPreemptionPolicy"))],
    ),
    ("NodePodPreemptionPolicy", &[("disableResizePreemption", SET)]),
    (
        "NodeStatus",
        &[
            ("conditions", map(PLAIN, &["type"]).merged_by("type")),
            ("addresses", map(PLAIN, &["type"]).merged_by("type")),
        ],
    ),
    ("Namespace", &[("metadata", object("ObjectMeta")), ("status", object("NamespaceStatus"))]),
    ("NamespaceStatus", CONDITIONS),
    ("ConfigMap", METADATA),
    ("Secret", METADATA),
    (
        "ServiceAccount",
        &[
            ("metadata", object("ObjectMeta")),
            ("secrets", map_of_wholes(&["name"]).merged_by("name")),
        ],
    ),
    ("LimitRange", METADATA),
    ("ResourceQuota", &[("metadata", object("ObjectMeta")), ("spec", object("ResourceQuotaSpec"))]),
    ("ResourceQuotaSpec", &[("scopeSelector", ATOMIC)]),
    (
        "Event",
        &[
            ("metadata", object("ObjectMeta")),
            ("involvedObject", ATOMIC),
            ("related", ATOMIC),
            ("regarding", ATOMIC),
        ],
    ),
    ("Lease", METADATA),
    ("PriorityClass", METADATA),
    ("RuntimeClass", &[("metadata", object("ObjectMeta")), ("scheduling", object("Scheduling"))]),
    ("Scheduling", &[("tolerations", ATOMIC)]),
    ("EndpointSlice", METADATA),
    ("NetworkPolicy", &[("metadata", object("ObjectMeta")), ("spec", object("NetworkPolicySpec"))]),
    ("NetworkPolicySpec", &[("podSelector", ATOMIC)]),
    (
        "Deployment",
        &[
            ("metadata", object("ObjectMeta")),
            ("spec", object("DeploymentSpec")),
            ("status", object("DeploymentStatus")),
        ],
    ),
    (
        "DeploymentSpec",
        &[
            ("selector", ATOMIC),
            ("template", object("PodTemplateSpec")),
            ("strategy", object(PLAIN).retaining_keys()),
        ],
    ),
    ("DeploymentStatus", CONDITIONS),
    (
        "ReplicaSet",
        &[
            ("metadata", object("ObjectMeta")),
            ("spec", object("ReplicaSetSpec")),
            ("status", object("ReplicaSetStatus")),
        ],
    ),
    ("ReplicaSetSpec", &[("selector", ATOMIC), ("template", object("PodTemplateSpec"))]),
    ("ReplicaSetStatus", CONDITIONS),
    ("Scale", METADATA),
];
