//! How many of which pods are where: what decisions by affinity and spreading rest on.
//!
//! Pods with equal demands, thus of one namespace and with equal labels, form a class. Whom an affinity means
//! is a crowd: all pods of some classes. A crowd is counted once, from the classes, when it is first
//! asked for; from then on each pod that comes or goes changes the counts of the crowds that its class
//! belongs to. So a decision looks through neither pods nor, mostly, classes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::affinity::{Crowd, Term};
use super::demand::Demand;
use super::model::NodeId;

type Labels = BTreeMap<String, String>;

/// So many crowds are counted at a time. One that is forgotten is counted again when somebody asks.
const MAX_COUNTED: usize = 1024;

/// Pods by node.
type ByNode = HashMap<NodeId, u32>;

/// Pods by the value that a label has of their nodes.
pub(crate) type Domains = HashMap<String, u32>;

#[derive(Debug, Default)]
struct Class {
    pods: ByNode,
    /// Those of them whose deletion is under way.
    leaving: ByNode,
    crowds: Vec<Arc<Crowd>>,
}

impl Class {
    fn count(&self, crowd: &Crowd, node: NodeId) -> u32 {
        let of = |pods: &ByNode| pods.get(&node).copied().unwrap_or(0);
        of(&self.pods) - if crowd.staying { of(&self.leaving) } else { 0 }
    }
}

/// How many pods of a crowd there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    nodes: ByNode,
    /// By topology, as far as somebody asked.
    topologies: BTreeMap<String, Domains>,
}

impl Counted {
    /// On one node.
    pub(crate) fn on(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).copied().unwrap_or(0)
    }

    /// By value of a label, where it was asked for in time.
    pub(crate) fn domains(&self, topology: &str) -> Option<&Domains> {
        self.topologies.get(topology)
    }

    /// By value of a label, counted anew. `labels` tells those of a node.
    pub(crate) fn count_domains<'a>(
        &self,
        topology: &str,
        labels: impl Fn(NodeId) -> Option<&'a Labels>,
    ) -> Domains {
        let mut domains = Domains::new();
        for (node, count) in &self.nodes {
            if let Some(value) = labels(*node).and_then(|labels| labels.get(topology)) {
                *domains.entry(value.clone()).or_default() += count;
            }
        }
        domains
    }

    fn change(&mut self, node: NodeId, labels: Option<&Labels>, more: bool) {
        step(&mut self.nodes, &node, 1, more);
        self.change_domains(labels, 1, more);
    }

    fn change_domains(&mut self, labels: Option<&Labels>, by: u32, more: bool) {
        let Some(labels) = labels else { return };
        for (topology, domains) in &mut self.topologies {
            if let Some(value) = labels.get(topology) {
                step(domains, value, by, more);
            }
        }
    }
}

fn step<K: Clone + Eq + std::hash::Hash>(
    counts: &mut HashMap<K, u32>,
    key: &K,
    by: u32,
    more: bool,
) {
    match counts.get_mut(key) {
        Some(count) if more => *count += by,
        Some(count) if *count > by => *count -= by,
        Some(_) => {
            counts.remove(key);
        }
        None if more => {
            counts.insert(key.clone(), by);
        }
        None => {}
    }
}

/// Why a pod that has a node matters to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Pull {
    /// It lets nobody near that the term means.
    Repels,
    /// Those that the term means are better near, or (below zero) worse.
    Likes(i64),
}

/// Whom a pod means, and what it wants of them.
type Wish = (Arc<Term>, Pull);

/// What pods that have a node want of others.
#[derive(Debug, Default)]
struct Wishes {
    by_term: HashMap<Wish, Counted>,
    /// The terms by a label that those they mean have to have.
    by_label: HashMap<(String, String), Vec<Wish>>,
    /// Those that demand none.
    by_nothing: Vec<Wish>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Crowds {
    classes: HashMap<Arc<Demand>, Class>,
    counted: HashMap<Arc<Crowd>, Counted>,
    wishes: Wishes,
    namespaces: HashMap<String, Labels>,
}

impl Crowds {
    /// A pod is on the node; `node_labels` are the node's, if it is there. Gives the demand that all of its
    /// class share.
    pub(crate) fn add(
        &mut self,
        demand: Arc<Demand>,
        node: NodeId,
        node_labels: Option<&Labels>,
    ) -> Arc<Demand> {
        let Self { classes, counted, namespaces, .. } = self;
        let (demand, class) = match classes.entry(demand) {
            Entry::Occupied(known) => (Arc::clone(known.key()), known.into_mut()),
            Entry::Vacant(place) => {
                let demand = Arc::clone(place.key());
                let of = |name: &str| namespaces.get(name);
                let has = |one: &&Arc<Crowd>| one.has(&demand.namespace, &demand.labels, of);
                let crowds = counted.keys().filter(has).cloned().collect();
                (demand, place.insert(Class { crowds, ..Class::default() }))
            }
        };
        step(&mut class.pods, &node, 1, true);
        for crowd in &class.crowds {
            if let Some(counted) = counted.get_mut(crowd) {
                counted.change(node, node_labels, true);
            }
        }
        demand
    }

    /// A pod that was on the node is so no longer.
    pub(crate) fn remove(
        &mut self,
        demand: &Arc<Demand>,
        node: NodeId,
        node_labels: Option<&Labels>,
    ) {
        let Some(class) = self.classes.get_mut(demand) else { return };
        step(&mut class.pods, &node, 1, false);
        for crowd in &class.crowds {
            if let Some(counted) = self.counted.get_mut(crowd) {
                counted.change(node, node_labels, false);
            }
        }
        if class.pods.is_empty() {
            self.classes.remove(demand);
        }
    }

    /// A pod on the node begins to leave, or (`leaves` is false) one that did is about to be gone.
    pub(crate) fn set_leaving(
        &mut self,
        demand: &Arc<Demand>,
        node: NodeId,
        node_labels: Option<&Labels>,
        leaves: bool,
    ) {
        let Some(class) = self.classes.get_mut(demand) else { return };
        step(&mut class.leaving, &node, 1, leaves);
        for crowd in class.crowds.iter().filter(|crowd| crowd.staying) {
            if let Some(counted) = self.counted.get_mut(crowd) {
                counted.change(node, node_labels, !leaves);
            }
        }
    }

    /// The labels of a node became others.
    pub(crate) fn relabel(&mut self, node: NodeId, old: Option<&Labels>, new: Option<&Labels>) {
        for counted in self.counted.values_mut().chain(self.wishes.by_term.values_mut()) {
            let count = counted.on(node);
            if count > 0 {
                counted.change_domains(old, count, false);
                counted.change_domains(new, count, true);
            }
        }
    }

    /// A namespace has these labels, or (nothing) is gone.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        self.forget(|crowd| !crowd.asks_namespaces());
    }

    fn forget(&mut self, keep: impl Fn(&Crowd) -> bool) {
        let before = self.counted.len();
        self.counted.retain(|crowd, _| keep(crowd));
        if self.counted.len() < before {
            for class in self.classes.values_mut() {
                class.crowds.retain(|crowd| keep(crowd));
            }
        }
    }

    /// Whether the crowd has a pod with these labels.
    pub(crate) fn has(&self, crowd: &Crowd, namespace: &str, labels: &Labels) -> bool {
        crowd.has(namespace, labels, |name| self.namespaces.get(name))
    }

    /// The crowd's pods are counted by this label from now on.
    pub(crate) fn follow<'a>(
        &mut self,
        crowd: &Arc<Crowd>,
        topology: &str,
        labels: impl Fn(NodeId) -> Option<&'a Labels>,
    ) {
        if !self.counted.contains_key(crowd) {
            if self.counted.len() >= MAX_COUNTED {
                self.forget(|_| false);
            }
            let counted = self.count(crowd);
            let of = |name: &str| self.namespaces.get(name);
            for (demand, class) in &mut self.classes {
                if crowd.has(&demand.namespace, &demand.labels, of) {
                    class.crowds.push(Arc::clone(crowd));
                }
            }
            self.counted.insert(Arc::clone(crowd), counted);
        }
        if let Some(counted) = self.counted.get_mut(crowd)
            && counted.domains(topology).is_none()
        {
            let domains = counted.count_domains(topology, labels);
            counted.topologies.insert(topology.to_owned(), domains);
        }
    }

    /// How many pods of the crowd there are, if that is followed.
    pub(crate) fn followed(&self, crowd: &Crowd) -> Option<&Counted> {
        self.counted.get(crowd)
    }

    /// The same, counted anew.
    pub(crate) fn count(&self, crowd: &Crowd) -> Counted {
        let mut counted = Counted::default();
        for (demand, class) in &self.classes {
            if self.has(crowd, &demand.namespace, &demand.labels) {
                for node in class.pods.keys() {
                    let count = class.count(crowd, *node);
                    if count > 0 {
                        step(&mut counted.nodes, node, count, true);
                    }
                }
            }
        }
        counted
    }

    /// A pod on the node wants this of others, or (`more` is false) does so no longer.
    pub(crate) fn wish(
        &mut self,
        term: &Term,
        pull: Pull,
        node: NodeId,
        node_labels: Option<&Labels>,
        more: bool,
    ) {
        let Wishes { by_term, by_label, by_nothing } = &mut self.wishes;
        let key = (Arc::new(term.clone()), pull);
        let places = |term: &Term| {
            let (key, values) = term.crowd.demanded()?;
            let pairs = values.iter().map(|value| (key.to_owned(), value.clone()));
            Some(pairs.collect::<Vec<_>>())
        };
        if more && !by_term.contains_key(&key) {
            let mut counted = Counted::default();
            counted.topologies.insert(term.topology.clone(), Domains::new());
            by_term.insert(key.clone(), counted);
            match places(term) {
                Some(pairs) => {
                    for pair in pairs {
                        by_label.entry(pair).or_default().push(key.clone());
                    }
                }
                None => by_nothing.push(key.clone()),
            }
        }
        let Some(counted) = by_term.get_mut(&key) else { return };
        counted.change(node, node_labels, more);
        if counted.nodes.is_empty() {
            by_term.remove(&key);
            match places(term) {
                Some(pairs) => {
                    for pair in pairs {
                        if let Some(terms) = by_label.get_mut(&pair) {
                            terms.retain(|one| *one != key);
                            if terms.is_empty() {
                                by_label.remove(&pair);
                            }
                        }
                    }
                }
                None => by_nothing.retain(|one| *one != key),
            }
        }
    }

    /// What pods that have a node want of one with these labels, with where these are.
    pub(crate) fn wishes_about<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = (&'a Term, Pull, &'a Domains)> {
        let Wishes { by_term, by_label, by_nothing } = &self.wishes;
        // Most clusters have none, and then no label is looked up.
        let asked = if by_label.is_empty() { None } else { Some(labels) };
        let by_label = asked
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| by_label.get(&(key.clone(), value.clone())));
        by_label.flatten().chain(by_nothing).filter_map(move |(term, pull)| {
            let counted = by_term.get(&(Arc::clone(term), *pull))?;
            let domains = counted.domains(&term.topology)?;
            self.has(&term.crowd, namespace, labels).then_some((&**term, *pull, domains))
        })
    }

    /// Whether nothing is remembered of any pod.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let Wishes { by_term, by_label, by_nothing } = &self.wishes;
        self.classes.is_empty()
            && by_term.is_empty()
            && by_label.is_empty()
            && by_nothing.is_empty()
            && self.counted.values().all(|counted| {
                counted.nodes.is_empty() && counted.topologies.values().all(HashMap::is_empty)
            })
    }
}
