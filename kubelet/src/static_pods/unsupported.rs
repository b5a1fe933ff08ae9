//! What the API would refuse of a pod because nobody does as it says: a pod in a file says it in vain, too.
//! Pure. A test holds this to the list of what masters refuse.

use proto::k8s::api::core::v1::PodSpec;
use serde_json::Value;

use super::manifest::Problem;

/// Fields, with `*` for whatever index, and what to do instead. `containers` stands for init containers, too.
const FIELDS: &[(&str, &str)] = &[
    ("evictionResponders", "pods are deleted gracefully"),
    ("overhead", "it is said by a RuntimeClass, which files do not have"),
    ("resources", "say them for each container"),
    ("runtimeClassName", "RuntimeClasses are objects of the API"),
    ("schedulingGroup", "pods are scheduled one by one"),
    ("securityContext.windowsOptions", LINUX),
    ("containers.*.env.*.valueFrom.fileKeyRef", "write the value"),
    ("containers.*.lifecycle.postStart.httpGet.protocol", HTTP),
    ("containers.*.lifecycle.postStart.tcpSocket", HOOKS),
    ("containers.*.lifecycle.preStop.httpGet.protocol", HTTP),
    ("containers.*.lifecycle.preStop.tcpSocket", HOOKS),
    ("containers.*.livenessProbe.httpGet.protocol", HTTP),
    ("containers.*.readinessProbe.httpGet.protocol", HTTP),
    ("containers.*.startupProbe.httpGet.protocol", HTTP),
    ("containers.*.resources.claims", "there are no devices to claim"),
    ("containers.*.securityContext.windowsOptions", LINUX),
    ("containers.*.volumeMounts.*.bindMountOptions", "use readOnly"),
];

const LINUX: &str = "nodes run Linux";
const HTTP: &str = "requests are sent by HTTP/1.1";
const HOOKS: &str = "use exec, httpGet or sleep";

/// Kinds of volumes that need nothing of the API, beside a volume's name.
const VOLUMES: &[&str] = &["name", "emptyDir", "hostPath", "downwardAPI", "projected", "image"];
/// Kinds that are told to need the API, by others.
const OF_API: &[&str] = &["secret", "configMap", "persistentVolumeClaim", "ephemeral", "csi"];

/// All that nobody would do.
pub(super) fn check(spec: &PodSpec) -> Vec<Problem> {
    // A specification always is JSON.
    let tree = serde_json::to_value(spec).unwrap_or_default();
    let mut problems = Vec::new();
    let mut refuse = |path: String, instead: &str| {
        problems.push(Problem::new(path, format!("Forbidden: is not supported: {instead}")));
    };
    for (field, instead) in FIELDS {
        let mut found = Vec::new();
        for list in ["containers", "initContainers"] {
            let field = match field.strip_prefix("containers.") {
                Some(rest) => format!("{list}.{rest}"),
                None if list == "containers" => (*field).to_owned(),
                None => continue,
            };
            find(&tree, &field, "spec".to_owned(), &mut found);
        }
        found.into_iter().for_each(|path| refuse(path, instead));
    }
    for (index, volume) in tree["volumes"].as_array().into_iter().flatten().enumerate() {
        let kinds = volume.as_object().into_iter().flat_map(|volume| volume.keys());
        for kind in kinds.map(String::as_str) {
            if !VOLUMES.contains(&kind) && !OF_API.contains(&kind) {
                let path = format!("spec.volumes[{index}].{kind}");
                refuse(path, "use emptyDir, hostPath, downwardAPI, projected or image");
            }
        }
    }
    problems
}

/// Where in `value`, which is at `path`, the field says something.
fn find(value: &Value, field: &str, path: String, found: &mut Vec<String>) {
    let (first, rest) =
        field.split_once('.').map_or((field, None), |(one, rest)| (one, Some(rest)));
    let values: Vec<(String, &Value)> = match (first, value) {
        ("*", Value::Array(items)) => {
            let items = items.iter().enumerate();
            items.map(|(index, item)| (format!("{path}[{index}]"), item)).collect()
        }
        _ => value.get(first).map(|inner| (format!("{path}.{first}"), inner)).into_iter().collect(),
    };
    for (path, value) in values {
        match rest {
            Some(rest) => find(value, rest, path, found),
            None if says_nothing(value) => {}
            None => found.push(path),
        }
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
