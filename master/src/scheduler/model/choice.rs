//! Which node a pod gets, of those that it fits, or why it fits none.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Model, NodeId};
use crate::scheduler::demand::{Demand, PodInfo};
use crate::scheduler::diagnosis::Diagnosis;
use crate::scheduler::filter;
use crate::scheduler::score::{self, Score};
use crate::scheduler::spread::{Counts, Group};
use crate::scheduler::surroundings::Surroundings;

/// How many fitting nodes are compared before the best of them is taken. Nodes are met in the order
/// of their load, so more would only refine the choice by Service and by the pod's own size.
const LOOK: usize = 64;

/// A pod that needs a node, and what is around.
type Seeking<'a> = (&'a PodInfo, &'a Surroundings<'a>);

impl Model {
    /// Whether a pod with this demand might run on the node now: room that is made for one as important
    /// counts, as it may be the same.
    pub(crate) fn fits_on(&self, demand: &Demand, node: NodeId) -> bool {
        let entry = self.node(node);
        let Some(info) = &entry.info else { return false };
        let usage = self.usage_with(entry, |nominee| nominee.demand.priority > demand.priority);
        let objection =
            || self.surroundings(demand).objection(&info.labels, (&[], &[]), &self.crowds);
        filter::fits(demand, info, &usage) && objection().is_none()
    }

    /// Whether the pod could run on the node now.
    pub(crate) fn takes(&self, pod: &PodInfo, node: NodeId) -> bool {
        self.takes_in(pod, &self.surroundings(&pod.demand), node)
    }

    pub(super) fn takes_in(&self, pod: &PodInfo, around: &Surroundings<'_>, node: NodeId) -> bool {
        let entry = self.node(node);
        let Some(info) = &entry.info else { return false };
        filter::fits(&pod.demand, info, &self.usage_for(entry, pod))
            && (!around.restricts()
                || around.objection(&info.labels, (&[], &[]), &self.crowds).is_none())
    }

    /// The best node for a pod; nothing when it fits none.
    pub(crate) fn place(&self, pod: &PodInfo) -> Option<NodeId> {
        let around = self.surroundings(&pod.demand);
        if let Some((_, node)) = self.nominees.get(&pod.uid)
            && self.takes_in(pod, &around, *node)
        {
            return Some(*node);
        }
        let groups = self.groups_of(pod);
        if pod.demand.affinity.is_some() || around.prefers() {
            return self.place_choosy(&groups, pod, &around);
        }
        let pod = (pod, &around);
        self.place_modest(&groups, pod)
    }

    /// The best node for a pod that wants nothing of others.
    fn place_modest(&self, groups: &[Group], pod: Seeking<'_>) -> Option<NodeId> {
        let demand = &pod.0.demand;
        if let Some(nodes) = self.smallest_labelled(demand) {
            return self.best(groups, pod, nodes.iter().copied(), usize::MAX);
        }
        let mut best = self.place_on_plain(groups, pod);
        if !demand.tolerations.is_empty() {
            best = self.best(groups, pod, ids(&self.special).chain(best), usize::MAX);
        }
        // Most find a node that nothing speaks against, and these are then of no interest.
        let is_content = |node: NodeId| {
            !demand.may_not_avoid()
                && self.node(node).info.as_ref().is_some_and(|info| demand.avoids(info) == 0)
        };
        if self.avoided.is_empty() || best.is_some_and(is_content) {
            return best;
        }
        self.best(groups, pod, ids(&self.avoided).chain(best), usize::MAX)
    }

    /// Why a pod fits no node.
    pub(crate) fn diagnose(&self, pod: &PodInfo) -> Diagnosis {
        let around = self.surroundings(&pod.demand);
        let mut diagnosis = Diagnosis::default();
        for entry in self.nodes.iter().flatten() {
            if let Some(info) = &entry.info {
                diagnosis.count_node();
                let usage = self.usage_for(entry, pod);
                let mut fits = true;
                filter::filter(&pod.demand, info, &usage, |reason| {
                    fits = false;
                    diagnosis.count(reason);
                });
                let objection = || around.objection(&info.labels, (&[], &[]), &self.crowds);
                if let Some(reason) = fits.then(objection).flatten() {
                    diagnosis.count(reason);
                }
            }
        }
        diagnosis
    }

    /// The fewest pods of the first group decide first, so the nodes are looked at class by class
    /// of that count, and the search ends with the first class in which the pod fits.
    fn place_on_plain(&self, groups: &[Group], pod: Seeking<'_>) -> Option<NodeId> {
        let by_load = || self.plain.iter().map(|(_, node)| *node);
        let Some(counts) = groups.first().and_then(|group| self.spread.counts(group)) else {
            return self.best(groups, pod, by_load(), LOOK);
        };
        if counts.plain_nodes() < self.plain.len() {
            let free = by_load().filter(|node| counts.on(*node) == 0);
            let best = self.best(groups, pod, free, LOOK);
            if best.is_some() {
                return best;
            }
        }
        counts.ascending().find_map(|(count, nodes)| {
            if nodes.len() <= LOOK {
                let nodes = nodes.iter().copied().filter(|node| self.node(*node).plain());
                self.best(groups, pod, nodes, usize::MAX)
            } else {
                let nodes = by_load().filter(|node| counts.on(*node) == count);
                self.best(groups, pod, nodes, LOOK)
            }
        })
    }

    /// The best of the first `look` nodes that the pod fits.
    fn best(
        &self,
        groups: &[Group],
        (pod, around): Seeking<'_>,
        nodes: impl Iterator<Item = NodeId>,
        look: usize,
    ) -> Option<NodeId> {
        let counts: Vec<(&Group, Option<&Counts>)> =
            groups.iter().map(|group| (group, self.spread.counts(group))).collect();
        nodes
            .filter(|node| self.takes_in(pod, around, *node))
            .take(look)
            .filter_map(|node| Some((self.score(&counts, &pod.demand, node)?, node)))
            .min()
            .map(|(_, node)| node)
    }

    pub(super) fn score(
        &self,
        counts: &[(&Group, Option<&Counts>)],
        demand: &Demand,
        node: NodeId,
    ) -> Option<Score> {
        let entry = self.node(node);
        let info = entry.info.as_ref()?;
        let mut score = Score {
            preference: Reverse(-demand.avoids(info)),
            controller_pods: 0,
            service_pods: 0,
            load: score::load_after(demand, info, &entry.usage),
        };
        for (group, counts) in counts {
            let pods = counts.map_or(0, |counts| counts.on(node));
            match group {
                Group::Controller(_) => score.controller_pods += pods,
                Group::Service(_) => score.service_pods += pods,
            }
        }
        Some(score)
    }

    /// Of the labels that the pod demands, the nodes of the rarest. Nothing when it demands none.
    pub(super) fn smallest_labelled(&self, demand: &Demand) -> Option<&BTreeSet<NodeId>> {
        static NONE: BTreeSet<NodeId> = BTreeSet::new();
        let of = |(key, value): (&String, &String)| {
            self.labels.get(key).and_then(|values| values.get(value)).unwrap_or(&NONE)
        };
        demand.node_selector.iter().map(of).min_by_key(|nodes| nodes.len())
    }
}

fn ids(nodes: &BTreeSet<(i64, NodeId)>) -> impl Iterator<Item = NodeId> {
    nodes.iter().map(|(_, node)| *node)
}
