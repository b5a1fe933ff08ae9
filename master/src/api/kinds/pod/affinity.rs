//! What a pod may want of nodes and of other pods: `affinity` and `topologySpreadConstraints`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proto::{k8s as k8s_openapi, names};
use serde_json::json;

use super::super::metadata;
use super::super::path::Path;
use super::validate::{invalid_each, one_of};
use crate::api::field_error::{FieldError, FieldErrors};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const UNSATISFIABLE: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
const POLICIES: &[&str] = &["Honor", "Ignore"];
const POSITIVE: &str = "must be greater than 0";

/// All that is wrong with both.
pub(super) fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if let Some(affinity) = &spec.affinity {
        validate_affinity(affinity, &path.child("affinity"), errors);
    }
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    validate_constraints(constraints, &path.child("topologySpreadConstraints"), errors);
}

fn validate_affinity(affinity: &Affinity, path: &Path, errors: &mut FieldErrors) {
    let Affinity { node_affinity, pod_affinity, pod_anti_affinity } = affinity;
    if let Some(nodes) = node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(selector) = &nodes.required_during_scheduling_ignored_during_execution {
            let path = path.child(REQUIRED).child("nodeSelectorTerms");
            if selector.node_selector_terms.is_empty() {
                let detail = "must have at least one node selector term";
                errors.push(FieldError::required(&path, detail));
            }
            for (index, term) in selector.node_selector_terms.iter().enumerate() {
                validate_node_term(term, &path.index(index), errors);
            }
        }
        let preferred = nodes.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (index, one) in preferred.enumerate() {
            let path = path.child(PREFERRED).index(index);
            validate_weight(one.weight, &path, errors);
            validate_node_term(&one.preference, &path.child("preference"), errors);
        }
    }
    let both = [
        (
            "podAffinity",
            pod_affinity.as_ref().map(|pods| {
                (
                    &pods.required_during_scheduling_ignored_during_execution,
                    &pods.preferred_during_scheduling_ignored_during_execution,
                )
            }),
        ),
        (
            "podAntiAffinity",
            pod_anti_affinity.as_ref().map(|pods| {
                (
                    &pods.required_during_scheduling_ignored_during_execution,
                    &pods.preferred_during_scheduling_ignored_during_execution,
                )
            }),
        ),
    ];
    for (field, terms) in both {
        let Some((required, preferred)) = terms else { continue };
        let path = path.child(field);
        for (index, term) in required.iter().flatten().enumerate() {
            validate_pod_term(term, &path.child(REQUIRED).index(index), errors);
        }
        for (index, one) in preferred.iter().flatten().enumerate() {
            let WeightedPodAffinityTerm { pod_affinity_term, weight } = one;
            let path = path.child(PREFERRED).index(index);
            validate_weight(*weight, &path, errors);
            validate_pod_term(pod_affinity_term, &path.child("podAffinityTerm"), errors);
        }
    }
}

fn validate_weight(weight: i32, path: &Path, errors: &mut FieldErrors) {
    if !(1..=100).contains(&weight) {
        let detail = "must be in the range 1-100";
        errors.push(FieldError::invalid(path.child("weight"), weight, detail));
    }
}

fn validate_node_term(term: &NodeSelectorTerm, path: &Path, errors: &mut FieldErrors) {
    let NodeSelectorTerm { match_expressions, match_fields } = term;
    for (index, one) in match_expressions.iter().flatten().enumerate() {
        validate_node_labels(one, &path.child("matchExpressions").index(index), errors);
    }
    for (index, one) in match_fields.iter().flatten().enumerate() {
        validate_node_fields(one, &path.child("matchFields").index(index), errors);
    }
}

fn validate_node_labels(one: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let values = one.values.as_deref().unwrap_or_default();
    let at = path.child("values");
    match one.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&at, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&at, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&at, detail));
        }
        // Kubernetes takes any text here, and then finds no node.
        "Gt" | "Lt" if values[0].parse::<i64>().is_err() => {
            let detail = "must be an integer when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::invalid(at.index(0), values[0].as_str(), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => unknown_operator(other, path, errors),
    }
    label_key(&one.key, &path.child("key"), errors);
    if matches!(one.operator.as_str(), "In" | "NotIn") {
        for (index, value) in values.iter().enumerate() {
            invalid_each(&at.index(index), value, names::label_value(value), errors);
        }
    }
}

fn validate_node_fields(one: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let values = one.values.as_deref().unwrap_or_default();
    let at = path.child("values");
    match one.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field \
                          selector";
            errors.push(FieldError::required(&at, detail));
        }
        "In" | "NotIn" => {}
        other => unknown_operator(other, path, errors),
    }
    if one.key != "metadata.name" {
        let detail = "not a valid field selector key";
        errors.push(FieldError::invalid(path.child("key"), one.key.as_str(), detail));
        return;
    }
    for (index, value) in values.iter().enumerate() {
        invalid_each(&at.index(index), value, names::dns_subdomain(value), errors);
    }
}

fn unknown_operator(operator: &str, path: &Path, errors: &mut FieldErrors) {
    let detail = "not a valid selector operator";
    errors.push(FieldError::invalid(path.child("operator"), operator, detail));
}

fn label_key(key: &str, path: &Path, errors: &mut FieldErrors) {
    invalid_each(path, key, names::qualified_name(key), errors);
}

fn topology_key(key: &str, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("topologyKey");
    match key {
        "" => errors.push(FieldError::required(&path, "can not be empty")),
        key => label_key(key, &path, errors),
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut FieldErrors) {
    let PodAffinityTerm {
        label_selector,
        match_label_keys,
        mismatch_label_keys,
        namespace_selector,
        namespaces,
        topology_key: topology,
    } = term;
    for (field, selector) in
        [("labelSelector", label_selector), ("namespaceSelector", namespace_selector)]
    {
        if let Some(selector) = selector {
            metadata::selector(selector, &path.child(field), errors);
        }
    }
    for (index, name) in namespaces.iter().flatten().enumerate() {
        let path = path.child("namespaces").index(index);
        invalid_each(&path, name, names::dns_label(name), errors);
    }
    topology_key(topology, path, errors);
    let matched = match_label_keys.as_deref().unwrap_or_default();
    let mismatched = mismatch_label_keys.as_deref().unwrap_or_default();
    let selector = label_selector.as_ref();
    validate_own_keys(matched, selector, &path.child("matchLabelKeys"), errors);
    validate_own_keys(mismatched, selector, &path.child("mismatchLabelKeys"), errors);
    for (index, key) in matched.iter().enumerate() {
        if mismatched.contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            let path = path.child("matchLabelKeys").index(index);
            errors.push(FieldError::invalid(path, key.as_str(), detail));
        }
    }
}

/// Keys of labels whose values are the pod's own.
fn validate_own_keys(
    keys: &[String],
    selector: Option<&LabelSelector>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        let detail = "must not be specified when labelSelector is not set";
        errors.push(FieldError::forbidden(path, detail));
    }
    for (index, key) in keys.iter().enumerate() {
        label_key(key, &path.index(index), errors);
    }
}

fn validate_constraints(all: &[TopologySpreadConstraint], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, constraint) in all.iter().enumerate() {
        let TopologySpreadConstraint {
            label_selector,
            match_label_keys,
            max_skew,
            min_domains,
            node_affinity_policy,
            node_taints_policy,
            topology_key: topology,
            when_unsatisfiable,
        } = constraint;
        let path = path.index(index);
        if *max_skew <= 0 {
            errors.push(FieldError::invalid(path.child("maxSkew"), *max_skew, POSITIVE));
        }
        topology_key(topology, &path, errors);
        let when = when_unsatisfiable.as_str();
        one_of(Some(when), UNSATISFIABLE, &path.child("whenUnsatisfiable"), errors);
        if !seen.insert((topology, when)) {
            let value = format!("{{{topology}, {when}}}");
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(path, value));
        }
        if let Some(least) = *min_domains {
            let path = path.child("minDomains");
            if least <= 0 {
                errors.push(FieldError::invalid(&path, least, POSITIVE));
            }
            if when == "ScheduleAnyway" {
                let detail = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}"
                );
                errors.push(FieldError::invalid(&path, json!(least), detail));
            }
        }
        for (field, policy) in
            [("nodeAffinityPolicy", node_affinity_policy), ("nodeTaintsPolicy", node_taints_policy)]
        {
            if policy.is_some() {
                one_of(policy.as_deref(), POLICIES, &path.child(field), errors);
            }
        }
        if let Some(selector) = label_selector {
            metadata::selector(selector, &path.child("labelSelector"), errors);
        }
        let keys = match_label_keys.as_deref().unwrap_or_default();
        validate_own_keys(keys, label_selector.as_ref(), &path.child("matchLabelKeys"), errors);
        let demanded = |key: &String| {
            label_selector.as_ref().is_some_and(|selector| {
                selector.match_labels.as_ref().is_some_and(|labels| labels.contains_key(key))
                    || selector.match_expressions.iter().flatten().any(|one| one.key == *key)
            })
        };
        for (index, key) in keys.iter().enumerate().filter(|(_, key)| demanded(key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            let path = path.child("matchLabelKeys").index(index);
            errors.push(FieldError::invalid(path, key.as_str(), detail));
        }
    }
}
