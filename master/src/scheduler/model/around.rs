//! Decisions that hang on where other pods are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use proto::selector::Requirement;

use super::{Entry, Group, Model, NodeId, labels_of};
use crate::scheduler::affinity::Affinity;
use crate::scheduler::demand::{Demand, PodInfo};
use crate::scheduler::filter::NodeInfo;
use crate::scheduler::spread::Counts;
use crate::scheduler::surroundings::{Nodes, Surroundings};

impl Nodes for Vec<Option<Entry>> {
    fn all(&self) -> impl Iterator<Item = (NodeId, &NodeInfo)> {
        let entries = self.iter().enumerate();
        // 2^32 nodes do not fit in memory.
        entries.filter_map(|(id, entry)| Some((id as NodeId, entry.as_ref()?.info.as_ref()?)))
    }

    fn labels(&self, node: NodeId) -> Option<&BTreeMap<String, String>> {
        labels_of(self, node)
    }
}

impl Model {
    /// A pod with this demand is about to be decided on: what that needs is counted from now on.
    pub(crate) fn attend(&mut self, demand: &Demand) {
        for (crowd, topology) in demand.affinity.iter().flat_map(|affinity| affinity.followed()) {
            self.crowds.follow(crowd, topology, |node| labels_of(&self.nodes, node));
        }
    }

    /// A namespace has these labels, or (nothing) is gone.
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        self.crowds.set_namespace(name, labels);
    }

    /// What other pods mean to one with this demand.
    pub(in crate::scheduler) fn surroundings<'a>(&'a self, demand: &'a Demand) -> Surroundings<'a> {
        Surroundings::of(demand, &self.crowds, &self.nodes)
    }

    /// Whether that a pod came to a node (or else left one) may help one that fits nowhere.
    pub(crate) fn concerns(&self, waiting: &Demand, changed: &Demand, came: bool) -> bool {
        let of = |demand: &Demand| (demand.namespace.clone(), demand.labels.clone());
        let (namespace, labels) = of(changed);
        let affinity = waiting.affinity.iter();
        let mut heeds = affinity.flat_map(|affinity| {
            let near = affinity.company.iter();
            let spread = affinity.spread.iter().filter(|one| one.hard).map(|one| &one.crowd);
            let apart = affinity.apart.iter().filter(|_| !came).map(|term| &term.crowd);
            near.chain(spread).chain(apart)
        });
        if heeds.any(|crowd| self.crowds.has(crowd, &namespace, &labels)) {
            return true;
        }
        let (namespace, labels) = of(waiting);
        let mut apart = changed.affinity.iter().flat_map(|affinity| &affinity.apart);
        !came && apart.any(|term| self.crowds.has(&term.crowd, &namespace, &labels))
    }

    /// The best node for a pod that wants something of nodes or of other pods, or of which others do. All
    /// nodes that may do are looked at, and no pods.
    pub(super) fn place_choosy(
        &self,
        groups: &[Group],
        pod: &PodInfo,
        around: &Surroundings<'_>,
    ) -> Option<NodeId> {
        let demand = &*pod.demand;
        let named = demand.affinity.as_deref().and_then(|affinity| self.named(affinity));
        let candidates: Vec<NodeId> = match (named, self.smallest_labelled(demand)) {
            (Some(named), Some(labelled)) if labelled.len() < named.len() => {
                labelled.iter().copied().collect()
            }
            (Some(named), _) => named.into_iter().collect(),
            (None, Some(labelled)) => labelled.iter().copied().collect(),
            (None, None) => self.node_ids().collect(),
        };
        let fitting: Vec<NodeId> =
            candidates.into_iter().filter(|node| self.takes_in(pod, around, *node)).collect();
        let infos: Vec<&NodeInfo> =
            fitting.iter().filter_map(|node| self.node(*node).info.as_ref()).collect();
        let preferences = around.preferences(demand, &infos);
        let counts: Vec<(&Group, Option<&Counts>)> =
            groups.iter().map(|group| (group, self.spread.counts(group))).collect();
        let scored = fitting.iter().zip(preferences).filter_map(|(node, preference)| {
            let mut score = self.score(&counts, demand, *node)?;
            score.preference = Reverse(preference);
            Some((score, *node))
        });
        scored.min().map(|(_, node)| node)
    }

    /// The nodes that the pod's own terms can mean, found by name or label; nothing when they do not say
    /// so in such a way.
    fn named(&self, affinity: &Affinity) -> Option<BTreeSet<NodeId>> {
        let mut nodes = BTreeSet::new();
        for term in affinity.nodes.as_ref()? {
            if let Some(name) = term.name() {
                nodes.extend(self.ids.get(name));
                continue;
            }
            let (key, values) = term.requirements().iter().find_map(|one| match one {
                Requirement::In(key, values) => Some((key, values)),
                _ => None,
            })?;
            let known = self.labels.get(key);
            let labelled = values.iter().filter_map(|value| known?.get(value));
            nodes.extend(labelled.flatten());
        }
        Some(nodes)
    }
}
