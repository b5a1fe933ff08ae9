//! How the fields of Kubernetes' types merge in a strategic merge patch.
//!
//! Written down from the `patchStrategy` and `patchMergeKey` tags of the API types. A field that is
//! not here merges as its JSON suggests: objects field by field, lists as a whole.

/// How a field merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    /// An object of this type, field by field.
    Object(&'static str),
    /// The same; `$retainKeys` lists what may stay.
    RetainKeys(&'static str),
    /// A list of objects of this type, each known by the value of a key.
    ByKey(&'static str, &'static str),
    /// The same; `$retainKeys` may stand in an item.
    ByKeyRetaining(&'static str, &'static str),
    /// A list of plain values, taken as a set.
    Set,
}

impl Merge {
    /// The merge key of a list of objects.
    pub(crate) fn key(self) -> Option<&'static str> {
        match self {
            Self::ByKey(_, key) | Self::ByKeyRetaining(_, key) => Some(key),
            Self::Object(_) | Self::RetainKeys(_) | Self::Set => None,
        }
    }
}

use Merge::{ByKey, ByKeyRetaining, Object, RetainKeys, Set};

/// A type without any field that merges in a special way.
const OTHER: &str = "";

/// How a field of a type merges; nothing when as its JSON suggests.
pub(crate) fn field(of: &str, name: &str) -> Option<Merge> {
    let (_, fields) = TYPES.iter().find(|(type_name, _)| *type_name == of)?;
    fields.iter().find(|(field, _)| *field == name).map(|(_, merge)| *merge)
}

type Fields = &'static [(&'static str, Merge)];

const TEMPLATED: Fields = &[("template", Object("PodTemplateSpec"))];
const CONDITIONS: Fields = &[("conditions", ByKey(OTHER, "type"))];
const CONTAINER: Fields = &[
    ("ports", ByKey(OTHER, "containerPort")),
    ("env", ByKey(OTHER, "name")),
    ("volumeMounts", ByKey(OTHER, "mountPath")),
    ("volumeDevices", ByKey(OTHER, "devicePath")),
];

const TYPES: &[(&str, Fields)] = &[
    ("ObjectMeta", &[("ownerReferences", ByKey(OTHER, "uid")), ("finalizers", Set)]),
    (
        "Pod",
        &[
            ("metadata", Object("ObjectMeta")),
            ("spec", Object("PodSpec")),
            ("status", Object("PodStatus")),
        ],
    ),
    ("PodTemplateSpec", &[("metadata", Object("ObjectMeta")), ("spec", Object("PodSpec"))]),
    ("PodTemplate", &[("metadata", Object("ObjectMeta")), ("template", Object("PodTemplateSpec"))]),
    (
        "PodSpec",
        &[
            ("volumes", ByKeyRetaining(OTHER, "name")),
            ("initContainers", ByKey("Container", "name")),
            ("containers", ByKey("Container", "name")),
            ("ephemeralContainers", ByKey("Container", "name")),
            ("imagePullSecrets", ByKey(OTHER, "name")),
            ("hostAliases", ByKey(OTHER, "ip")),
            ("topologySpreadConstraints", ByKey(OTHER, "topologyKey")),
            ("schedulingGates", ByKey(OTHER, "name")),
            ("resourceClaims", ByKeyRetaining(OTHER, "name")),
        ],
    ),
    ("Container", CONTAINER),
    (
        "PodStatus",
        &[
            ("conditions", ByKey(OTHER, "type")),
            ("podIPs", ByKey(OTHER, "ip")),
            ("hostIPs", ByKey(OTHER, "ip")),
            ("resourceClaimStatuses", ByKeyRetaining(OTHER, "name")),
        ],
    ),
    (
        "ReplicationController",
        &[
            ("metadata", Object("ObjectMeta")),
            ("spec", Object("Templated")),
            ("status", Object("Conditions")),
        ],
    ),
    (
        "ReplicaSet",
        &[
            ("metadata", Object("ObjectMeta")),
            ("spec", Object("Templated")),
            ("status", Object("Conditions")),
        ],
    ),
    (
        "Deployment",
        &[
            ("metadata", Object("ObjectMeta")),
            ("spec", Object("DeploymentSpec")),
            ("status", Object("Conditions")),
        ],
    ),
    ("DeploymentSpec", &[("template", Object("PodTemplateSpec")), ("strategy", RetainKeys(OTHER))]),
    ("Templated", TEMPLATED),
    ("Conditions", CONDITIONS),
    (
        "Service",
        &[
            ("metadata", Object("ObjectMeta")),
            ("spec", Object("ServiceSpec")),
            ("status", Object("Conditions")),
        ],
    ),
    ("ServiceSpec", &[("ports", ByKey(OTHER, "port"))]),
    ("ServiceAccount", &[("metadata", Object("ObjectMeta")), ("secrets", ByKey(OTHER, "name"))]),
    (
        "Node",
        &[
            ("metadata", Object("ObjectMeta")),
            ("spec", Object("NodeSpec")),
            ("status", Object("NodeStatus")),
        ],
    ),
    ("NodeSpec", &[("podCIDRs", Set)]),
    ("NodeStatus", &[("conditions", ByKey(OTHER, "type")), ("addresses", ByKey(OTHER, "type"))]),
    ("Namespace", &[("metadata", Object("ObjectMeta")), ("status", Object("Conditions"))]),
    ("ConfigMap", &[("metadata", Object("ObjectMeta"))]),
    ("Secret", &[("metadata", Object("ObjectMeta"))]),
    ("Endpoints", &[("metadata", Object("ObjectMeta"))]),
    ("EndpointSlice", &[("metadata", Object("ObjectMeta"))]),
    ("Event", &[("metadata", Object("ObjectMeta"))]),
    ("Lease", &[("metadata", Object("ObjectMeta"))]),
    ("LimitRange", &[("metadata", Object("ObjectMeta"))]),
    ("ResourceQuota", &[("metadata", Object("ObjectMeta"))]),
    ("Scale", &[("metadata", Object("ObjectMeta"))]),
];
