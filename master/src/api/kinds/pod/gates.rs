//! `schedulingGates`: a pod is not scheduled while it has any. They are there from the start or not at
//! all; whoever has put one takes it away. Meanwhile it may still be said more narrowly where the pod may be.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodCondition, PodSchedulingGate,
    PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::{k8s as k8s_openapi, names};

use super::super::path::Path;
use super::validate::{invalid_each, unique};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::api::write::now;

const FIELD: &str = "schedulingGates";

/// The gates of a pod.
pub(crate) fn of(spec: &PodSpec) -> &[PodSchedulingGate] {
    spec.scheduling_gates.as_deref().unwrap_or_default()
}

/// All that is wrong with the gates themselves.
pub(super) fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let path = path.child(FIELD);
    let mut seen = BTreeSet::new();
    for (index, gate) in of(spec).iter().enumerate() {
        let path = path.index(index);
        let name = gate.name.as_str();
        invalid_each(&path.child("name"), name, names::qualified_name(name), errors);
        unique(&mut seen, name, &path, errors);
    }
}

/// A new pod cannot wait and have a node.
pub(super) fn validate_create(spec: &PodSpec) -> FieldErrors {
    let has_node = spec.node_name.as_ref().is_some_and(|node| !node.is_empty());
    if of(spec).is_empty() || !has_node {
        return FieldErrors::new();
    }
    let detail = "cannot be set until all schedulingGates have been cleared";
    FieldError::forbidden("spec.nodeName", detail).into()
}

/// Says of a new pod that it waits.
pub(super) fn tell(spec: &PodSpec, status: &mut PodStatus) {
    if of(spec).is_empty() {
        return;
    }
    status.conditions.get_or_insert_default().push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        last_transition_time: Some(Time(now())),
        // Of a new object.
        observed_generation: Some(1),
        ..PodCondition::default()
    });
}

/// Whether the pod still waits for somebody to open a gate.
pub(crate) fn are_closed(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| !of(spec).is_empty())
}

/// What an update may not change of the gates, and of where a pod may be that still has some. Puts what it
/// may change back in `rest`.
pub(super) fn validate_update(new: &PodSpec, old: &PodSpec, rest: &mut PodSpec) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for (index, gate) in of(new).iter().enumerate() {
        if !of(old).contains(gate) {
            let path = Path::new("spec").child(FIELD).index(index);
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    rest.scheduling_gates.clone_from(&old.scheduling_gates);
    if of(old).is_empty() {
        return errors;
    }
    let selected = new.node_selector.as_ref();
    let is_kept = |(key, value): (&String, &String)| {
        selected.and_then(|selector| selector.get(key)) == Some(value)
    };
    if old.node_selector.iter().flatten().all(is_kept) {
        rest.node_selector.clone_from(&old.node_selector);
    } else {
        let detail = "only additions are allowed while the pod has scheduling gates";
        errors.push(FieldError::forbidden("spec.nodeSelector", detail));
        rest.node_selector.clone_from(&old.node_selector);
    }
    narrow_affinity(new, old, rest, &mut errors);
    errors
}

/// What is demanded of nodes by affinity may become more, and what is preferred may change.
fn narrow_affinity(new: &PodSpec, old: &PodSpec, rest: &mut PodSpec, errors: &mut FieldErrors) {
    let nodes = |spec: &PodSpec| spec.affinity.as_ref().and_then(|one| one.node_affinity.clone());
    let (is, was) = (nodes(new), nodes(old));
    if is == was {
        return;
    }
    let terms = |affinity: &Option<NodeAffinity>| {
        let affinity = affinity.as_ref()?;
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        Some(required.node_selector_terms.clone())
    };
    let narrower = match (terms(&was), terms(&is)) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(was), Some(is)) => {
            was.len() == is.len() && was.iter().zip(&is).all(|(was, is)| adds_only(was, is))
        }
    };
    if !narrower {
        let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution";
        let detail = "only additions to the terms are allowed while the pod has scheduling gates";
        errors.push(FieldError::forbidden(path, detail));
    }
    // The rest of the affinity stays as it was.
    let mut back = rest.affinity.clone().unwrap_or_default();
    back.node_affinity = was;
    rest.affinity = match (&old.affinity, back) {
        (None, back) if back == Default::default() => None,
        (_, back) => Some(back),
    };
}

fn adds_only(was: &NodeSelectorTerm, is: &NodeSelectorTerm) -> bool {
    type Demands = Option<Vec<NodeSelectorRequirement>>;
    let kept = |was: &Demands, is: &Demands| {
        let is = is.as_deref().unwrap_or_default();
        was.iter().flatten().all(|one| is.contains(one))
    };
    // A term that demands nothing means no node, and with a demand it would mean some.
    let demands = |term: &NodeSelectorTerm| {
        term.match_expressions.iter().flatten().next().is_some()
            || term.match_fields.iter().flatten().next().is_some()
    };
    kept(&was.match_expressions, &is.match_expressions)
        && kept(&was.match_fields, &is.match_fields)
        && demands(was) == demands(is)
}
