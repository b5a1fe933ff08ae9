//! On which nodes a pod may be: `nodeSelector` and `nodeAffinity`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::selector::Requirement;

/// What is demanded of a node, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    /// Names, and whether the node has to have them or must not.
    names: Vec<(String, bool)>,
    /// No node meets it: it demands nothing at all, or what cannot be.
    impossible: bool,
}

impl NodeTerm {
    /// Out of an object. A term without any demand matches no node, as in Kubernetes.
    pub fn of(term: &NodeSelectorTerm) -> Self {
        let mut this = Self::default();
        for expression in term.match_expressions.iter().flatten() {
            match requirement(expression) {
                Some(requirement) => this.labels.push(requirement),
                None => this.impossible = true,
            }
        }
        for field in term.match_fields.iter().flatten() {
            let name = field.values.iter().flatten().next().cloned().unwrap_or_default();
            match (field.key.as_str(), field.operator.as_str()) {
                ("metadata.name", "In") => this.names.push((name, true)),
                ("metadata.name", "NotIn") => this.names.push((name, false)),
                _ => this.impossible = true,
            }
        }
        this.impossible |= this.labels.is_empty() && this.names.is_empty();
        this
    }

    /// Whether the node meets it.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.impossible
            && self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.names.iter().all(|(other, same)| (name == other) == *same)
    }

    /// What it demands of labels, for those who look for an index to use.
    pub fn requirements(&self) -> &[Requirement] {
        &self.labels
    }

    /// The only node that can meet it, if it names one.
    pub fn name(&self) -> Option<&str> {
        self.names.iter().find(|(_, same)| *same).map(|(name, _)| name.as_str())
    }
}

/// Nothing for what no label can meet.
fn requirement(said: &NodeSelectorRequirement) -> Option<Requirement> {
    let key = said.key.clone();
    let values: BTreeSet<String> = said.values.iter().flatten().cloned().collect();
    let bound = || values.first()?.parse::<i64>().ok();
    Some(match said.operator.as_str() {
        "In" => Requirement::In(key, values),
        "NotIn" => Requirement::NotIn(key, values),
        "Exists" => Requirement::Exists(key),
        "DoesNotExist" => Requirement::DoesNotExist(key),
        "Gt" => Requirement::GreaterThan(key, bound()?),
        "Lt" => Requirement::LessThan(key, bound()?),
        _ => return None,
    })
}

/// The terms of which a node has to meet one; nothing when the pod demands none.
pub fn required(spec: &PodSpec) -> Option<Vec<NodeTerm>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let selector = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(selector.node_selector_terms.iter().map(NodeTerm::of).collect())
}

/// Whether a node is one of those on which the pod may be.
pub fn admits(spec: &PodSpec, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let selected = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    spec.node_selector.iter().flatten().all(selected)
        && required(spec).is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn admitted(terms: Value) -> bool {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [], "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": terms,
            }},
        }}))
        .unwrap();
        let labels = [("zone", "a"), ("cores", "8"), ("odd", "x")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        admits(&spec, "n1", &labels)
    }

    #[test]
    fn each_operator_means_what_it_means_in_kubernetes() {
        let one = |key: &str, operator: &str, values: Value| {
            admitted(json!([
                {"matchExpressions": [{"key": key, "operator": operator, "values": values}]},
            ]))
        };
        for (key, operator, values, expected) in [
            ("zone", "In", json!(["a", "b"]), true),
            ("zone", "In", json!(["b"]), false),
            ("absent", "In", json!(["b"]), false),
            ("zone", "NotIn", json!(["b"]), true),
            ("zone", "NotIn", json!(["a"]), false),
            ("absent", "NotIn", json!(["a"]), true),
            ("zone", "Exists", json!(null), true),
            ("absent", "Exists", json!(null), false),
            ("zone", "DoesNotExist", json!(null), false),
            ("absent", "DoesNotExist", json!(null), true),
            ("cores", "Gt", json!(["7"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("cores", "Lt", json!(["8"]), false),
            ("odd", "Gt", json!(["1"]), false),
            ("absent", "Lt", json!(["1"]), false),
            ("cores", "Gt", json!(["many"]), false),
        ] {
            assert_eq!(one(key, operator, values.clone()), expected, "{key} {operator} {values}");
        }
    }

    #[test]
    fn one_term_has_to_be_met_and_all_of_it() {
        let zone = |value: &str| json!({"key": "zone", "operator": "In", "values": [value]});
        let name = |operator: &str, value: &str| json!([{"key": "metadata.name", "operator": operator, "values": [value]}]);
        let many = json!({"key": "cores", "operator": "Gt", "values": ["4"]});
        assert!(admitted(json!([{"matchExpressions": [zone("a"), many]}])));
        assert!(!admitted(json!([{"matchExpressions": [zone("b"), many]}])));
        assert!(admitted(json!([{"matchExpressions": [zone("b")]}, {"matchExpressions": [many]}])));
        assert!(!admitted(json!([{}])));
        assert!(admitted(json!([{"matchFields": name("In", "n1")}])));
        assert!(!admitted(json!([{"matchFields": name("In", "n2")}])));
        assert!(admitted(json!([{"matchFields": name("NotIn", "n2")}])));
        let both = |zone_: &str| json!([{"matchFields": name("In", "n1"), "matchExpressions": [zone(zone_)]}]);
        assert!(admitted(both("a")) && !admitted(both("b")));
    }
}
