//! The text of a file, made the pod that it means. Pure.

use std::collections::BTreeMap;
use std::fmt;

use proto::k8s::api::core::v1::{Pod, PodSpec, PodStatus, Toleration};
use proto::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::{pod_defaults, priority};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{HASH_ANNOTATION, SOURCE_ANNOTATION, rules, unsupported};

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// As `spec.containers[0].image`; empty: the file itself.
    pub(super) field: String,
    /// What is wrong, with the value and the remedy.
    pub(super) what: String,
}

impl Problem {
    pub(super) fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" | "." => f.write_str(&self.what),
            field => write!(f, "{field}: {}", self.what),
        }
    }
}

/// The pod of a file called `file` on the node; all that is wrong with it otherwise.
pub(super) fn pod(text: &[u8], file: &str, node: &str) -> Result<Pod, Vec<Problem>> {
    let one = |field: &str, what: String| vec![Problem::new(field, what)];
    // JSON is YAML.
    let mut tree: Value = serde_yaml::from_slice(text)
        .map_err(|error| one("", format!("neither YAML nor JSON: {error}")))?;
    for (field, wanted) in [("apiVersion", "v1"), ("kind", "Pod")] {
        match tree.get(field).and_then(Value::as_str) {
            Some(said) if said == wanted => {}
            said => {
                let said = said.unwrap_or_default();
                let what = format!("Invalid value: {said:?}: a file holds one {wanted:?}");
                return Err(one(field, what));
            }
        }
    }
    spell_quantities(&mut tree);
    let pod: Pod = serde_path_to_error::deserialize(&tree)
        .map_err(|error| one(&error.path().to_string(), error.inner().to_string()))?;
    // What is left out on the way back was no field.
    let decoded = serde_json::to_value(&pod).unwrap_or_default();
    let mut problems = Vec::new();
    unknown(&tree, &decoded, "", &mut problems);
    let pod = complete(pod, file, node);
    problems.extend(rules::check(&pod, node));
    problems.extend(pod.spec.iter().flat_map(unsupported::check));
    if problems.is_empty() { Ok(pod) } else { Err(problems) }
}

/// Makes it a pod of this node, with what it does not say.
fn complete(pod: Pod, file: &str, node: &str) -> Pod {
    // The same content gives the same pod, also to the next kubelet; on another node, or in another file,
    // it is another one.
    let mut hash = Sha256::new();
    for part in [node.as_bytes(), file.as_bytes(), &serde_json::to_vec(&pod).unwrap_or_default()] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let uid: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let Pod { mut metadata, spec, status: _ } = pod;
    let ObjectMeta { name, namespace, annotations, .. } = &mut metadata;
    if let Some(name) = name {
        *name = format!("{name}-{node}");
    }
    namespace.get_or_insert_with(|| "default".to_owned());
    let annotations = annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(SOURCE_ANNOTATION.to_owned(), "file".to_owned());
    annotations.insert(HASH_ANNOTATION.to_owned(), uid.clone());
    metadata.uid.get_or_insert(uid);
    let mut spec: PodSpec = spec.unwrap_or_default();
    pod_defaults::pod(&mut spec);
    // A node knows the classes that every cluster has; the API's image of the pod is given the same.
    if let Some(class) = spec.priority_class_name.as_deref().and_then(priority::system_class) {
        spec.priority.get_or_insert(class.value);
    }
    spec.node_name.get_or_insert_with(|| node.to_owned());
    // As in Kubernetes: it is not for others to say that it has to leave.
    let stays = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&stays) {
        tolerations.push(stays);
    }
    let status = PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() };
    Pod { metadata, spec: Some(spec), status: Some(status) }
}

/// Amounts may be written as numbers; what decodes them wants text.
fn spell_quantities(tree: &mut Value) {
    fn spell(value: &mut Value) {
        if let Value::Number(number) = value {
            *value = Value::String(number.to_string());
        }
    }
    match tree {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), &mut *value) {
                    ("limits" | "requests", Value::Object(amounts)) => {
                        amounts.values_mut().for_each(spell);
                    }
                    ("sizeLimit" | "divisor", amount) => spell(amount),
                    (_, other) => spell_quantities(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(spell_quantities),
        _ => {}
    }
}

/// The fields of `said` that `known` does not have.
fn unknown(said: &Value, known: &Value, path: &str, problems: &mut Vec<Problem>) {
    match (said, known) {
        (Value::Object(fields), Value::Object(others)) => {
            for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match others.get(key) {
                    Some(other) => unknown(value, other, &path, problems),
                    None => {
                        let what = "unknown field; correct its spelling or remove it";
                        problems.push(Problem::new(path, what));
                    }
                }
            }
        }
        (Value::Array(items), Value::Array(others)) => {
            for (index, (item, other)) in items.iter().zip(others).enumerate() {
                unknown(item, other, &format!("{path}[{index}]"), problems);
            }
        }
        _ => {}
    }
}
