//! What a pod wants of nodes and of the pods around it, in a form that is quickly held against them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PodAffinityTerm, PodSpec, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proto::k8s as k8s_openapi;
use proto::node_affinity::{self, NodeTerm};
use proto::selector::{Requirement, Selector};

type Labels = BTreeMap<String, String>;

/// Everything of the kind. Pods that say nothing of it, the many, have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Affinity {
    /// The node meets one of these.
    pub(crate) nodes: Option<Vec<NodeTerm>>,
    /// Nodes that are better, by how much.
    pub(crate) preferred_nodes: Vec<(i64, NodeTerm)>,
    /// In each of these parts of the cluster is a pod that all these terms mean.
    pub(crate) near: Vec<Term>,
    /// The pods that all of these mean.
    pub(crate) company: Option<Arc<Crowd>>,
    /// In none of these parts is a pod that the term means.
    pub(crate) apart: Vec<Term>,
    /// Parts that are better for each pod there that the term means, or (below zero) worse.
    pub(crate) preferred: Vec<(i64, Term)>,
    /// How evenly pods of a kind lie over parts of the cluster.
    pub(crate) spread: Vec<Constraint>,
}

/// Pods that are meant, and the label whose values tell the parts of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    pub(crate) topology: String,
    pub(crate) crowd: Arc<Crowd>,
}

/// Which pods are meant: those that meet every clause.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Crowd {
    pub(crate) clauses: Vec<Clause>,
    /// Without those whose deletion is under way.
    pub(crate) staying: bool,
}

/// What is demanded of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Clause {
    namespaces: BTreeSet<String>,
    /// Namespaces by their labels, beside those by name.
    namespace_selector: Option<Selector>,
    /// Nothing selects no pod.
    labels: Option<Selector>,
}

impl Crowd {
    /// Whether the pod with these labels is meant; `of` tells the labels of a namespace.
    pub(crate) fn has<'a>(
        &self,
        namespace: &str,
        labels: &Labels,
        of: impl Fn(&str) -> Option<&'a Labels>,
    ) -> bool {
        self.clauses.iter().all(|clause| {
            clause.labels.as_ref().is_some_and(|selector| selector.matches(labels))
                && clause.is_of(namespace, &of)
        })
    }

    /// Whether it hangs on the labels of namespaces.
    pub(crate) fn asks_namespaces(&self) -> bool {
        self.clauses.iter().any(|clause| clause.namespace_selector.is_some())
    }

    /// Labels of which a pod has to have one, to be looked up; nothing when no such are demanded.
    pub(crate) fn demanded(&self) -> Option<(&str, &BTreeSet<String>)> {
        let selectors = self.clauses.iter().filter_map(|clause| clause.labels.as_ref());
        selectors.flat_map(|selector| selector.requirements()).find_map(|one| match one {
            Requirement::In(key, values) => Some((key.as_str(), values)),
            _ => None,
        })
    }
}

impl Clause {
    fn is_of<'a>(&self, namespace: &str, of: &impl Fn(&str) -> Option<&'a Labels>) -> bool {
        static NONE: Labels = Labels::new();
        self.namespaces.contains(namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                selector.is_everything() || selector.matches(of(namespace).unwrap_or(&NONE))
            })
    }
}

/// How evenly pods lie over parts of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Constraint {
    /// By how many pods a part may be above the one with the fewest.
    pub(crate) max_skew: i64,
    pub(crate) topology: String,
    /// Rather not at all than otherwise.
    pub(crate) hard: bool,
    pub(crate) crowd: Arc<Crowd>,
    /// With fewer parts than these, one more without any pod is thought of.
    pub(crate) min_domains: usize,
    /// Nodes on which the pod may not be do not count.
    pub(crate) honours_affinity: bool,
    /// Nodes whose taints the pod does not tolerate do not count.
    pub(crate) honours_taints: bool,
    /// The pod is one of those that are spread.
    pub(crate) counts_itself: bool,
}

impl Affinity {
    /// Nothing when the pod says nothing of the kind.
    pub(crate) fn of(spec: &PodSpec, namespace: &str, labels: &Labels) -> Option<Self> {
        let mut this = Self { nodes: node_affinity::required(spec), ..Self::default() };
        if let Some(affinity) = &spec.affinity {
            let nodes = affinity.node_affinity.as_ref();
            let preferred = nodes.and_then(|nodes| {
                nodes.preferred_during_scheduling_ignored_during_execution.as_ref()
            });
            for one in preferred.into_iter().flatten() {
                this.preferred_nodes.push((one.weight.into(), NodeTerm::of(&one.preference)));
            }
            let term = |one: &PodAffinityTerm| Term::of(one, namespace, labels);
            if let Some(pods) = &affinity.pod_affinity {
                let required = &pods.required_during_scheduling_ignored_during_execution;
                this.near = required.iter().flatten().map(term).collect();
                let clauses = this.near.iter().flat_map(|term| term.crowd.clauses.clone());
                let company = Crowd { clauses: clauses.collect(), staying: false };
                this.company = (!this.near.is_empty()).then(|| Arc::new(company));
                let preferred = &pods.preferred_during_scheduling_ignored_during_execution;
                let preferred = preferred.iter().flatten();
                this.preferred
                    .extend(preferred.map(|one| (one.weight.into(), term(&one.pod_affinity_term))));
            }
            if let Some(pods) = &affinity.pod_anti_affinity {
                let required = &pods.required_during_scheduling_ignored_during_execution;
                this.apart = required.iter().flatten().map(term).collect();
                let preferred = &pods.preferred_during_scheduling_ignored_during_execution;
                let preferred = preferred.iter().flatten();
                this.preferred.extend(
                    preferred.map(|one| (-i64::from(one.weight), term(&one.pod_affinity_term))),
                );
            }
        }
        let constraints = spec.topology_spread_constraints.iter().flatten();
        this.spread = constraints.map(|one| Constraint::of(one, namespace, labels)).collect();
        (this != Self::default()).then_some(this)
    }

    /// The crowds whose pods matter, each with the label by which.
    pub(crate) fn followed(&self) -> impl Iterator<Item = (&Arc<Crowd>, &str)> {
        let near =
            self.near.iter().filter_map(|term| Some((self.company.as_ref()?, &term.topology)));
        let preferred = self.preferred.iter().map(|(_, term)| term);
        let terms = self.apart.iter().chain(preferred).map(|term| (&term.crowd, &term.topology));
        let spread = self.spread.iter().map(|one| (&one.crowd, &one.topology));
        near.chain(terms).chain(spread).map(|(crowd, topology)| (crowd, topology.as_str()))
    }

    /// Whether where other pods are decides where this one may be.
    pub(crate) fn heeds_pods(&self) -> bool {
        !self.near.is_empty() || !self.apart.is_empty() || self.spread.iter().any(|one| one.hard)
    }

    /// Whether a node is one of those on which the pod may be.
    pub(crate) fn admits(&self, name: &str, labels: &Labels) -> bool {
        let terms = self.nodes.as_ref();
        terms.is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }
}

impl Term {
    fn of(term: &PodAffinityTerm, namespace: &str, own: &Labels) -> Self {
        let mut selector = select(term.label_selector.as_ref());
        for (keys, matches) in [(&term.match_label_keys, true), (&term.mismatch_label_keys, false)]
        {
            selector = by_own_labels(selector, keys.as_deref(), own, matches);
        }
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        let namespace_selector = select(term.namespace_selector.as_ref());
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        let clause = Clause { namespaces, namespace_selector, labels: selector };
        let crowd = Arc::new(Crowd { clauses: vec![clause], staying: false });
        Self { topology: term.topology_key.clone(), crowd }
    }
}

impl Constraint {
    fn of(said: &TopologySpreadConstraint, namespace: &str, own: &Labels) -> Self {
        let selector = select(said.label_selector.as_ref());
        let selector = by_own_labels(selector, said.match_label_keys.as_deref(), own, true);
        let counts_itself = selector.as_ref().is_some_and(|selector| selector.matches(own));
        let clause = Clause {
            namespaces: BTreeSet::from([namespace.to_owned()]),
            namespace_selector: None,
            labels: selector,
        };
        Self {
            max_skew: said.max_skew.into(),
            topology: said.topology_key.clone(),
            hard: said.when_unsatisfiable != "ScheduleAnyway",
            crowd: Arc::new(Crowd { clauses: vec![clause], staying: true }),
            min_domains: said
                .min_domains
                .and_then(|least| usize::try_from(least).ok())
                .unwrap_or(1),
            honours_affinity: said.node_affinity_policy.as_deref() != Some("Ignore"),
            honours_taints: said.node_taints_policy.as_deref() == Some("Honor"),
            counts_itself,
        }
    }
}

/// Validation lets no selector into the store that cannot be read.
fn select(selector: Option<&LabelSelector>) -> Option<Selector> {
    Selector::from_label_selector(selector?).ok()
}

/// Demands the pod's own values of these labels, or others than these. Labels that it does not have are
/// left out, as Kubernetes does.
fn by_own_labels(
    selector: Option<Selector>,
    keys: Option<&[String]>,
    own: &Labels,
    same: bool,
) -> Option<Selector> {
    let mut selector = selector?;
    for key in keys.into_iter().flatten() {
        if let Some(value) = own.get(key) {
            let values = BTreeSet::from([value.clone()]);
            selector = selector.with(match same {
                true => Requirement::In(key.clone(), values),
                false => Requirement::NotIn(key.clone(), values),
            });
        }
    }
    Some(selector)
}
