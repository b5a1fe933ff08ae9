//! Room that is made for pods, and room that there would be.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Entry, Model, NodeId, labels_of};
use crate::scheduler::demand::PodInfo;
use crate::scheduler::filter::{self, Reason, Usage};
use crate::scheduler::preemption::Lesser;
use crate::scheduler::surroundings::Surroundings;

impl Model {
    /// What the node's pods have taken, and those for which room is made there to which this one has
    /// to give way.
    pub(super) fn usage_for<'a>(&self, entry: &'a Entry, pod: &PodInfo) -> Cow<'a, Usage> {
        self.usage_with(entry, |nominee| {
            nominee.uid != pod.uid && nominee.demand.priority >= pod.demand.priority
        })
    }

    pub(super) fn usage_with<'a>(
        &self,
        entry: &'a Entry,
        counts: impl Fn(&PodInfo) -> bool,
    ) -> Cow<'a, Usage> {
        let mut usage = Cow::Borrowed(&entry.usage);
        let nominees = entry.nominees.iter().filter_map(|uid| self.nominees.get(uid));
        for (nominee, _) in nominees.filter(|(nominee, _)| counts(nominee)) {
            usage.to_mut().add(&nominee.demand);
        }
        usage
    }

    /// Whether the pod could run on the node if these of its pods were gone.
    pub(in crate::scheduler) fn fits_without(
        &self,
        (pod, around): (&PodInfo, &Surroundings<'_>),
        node: NodeId,
        absent: &[&PodInfo],
    ) -> bool {
        let entry = self.node(node);
        let Some(info) = &entry.info else { return false };
        let mut usage = self.usage_for(entry, pod).into_owned();
        for absent in absent {
            usage.subtract(&absent.demand);
        }
        let leaving =
            |pod: &&&PodInfo| self.pods.get(&pod.uid).is_some_and(|placed| placed.leaving);
        let objection = || {
            let staying: Vec<&PodInfo> =
                absent.iter().filter(|pod| !leaving(pod)).copied().collect();
            around.objection(&info.labels, (absent, &staying), &self.crowds)
        };
        filter::fits(&pod.demand, info, &usage) && objection().is_none()
    }

    /// Whether it could help a pod that others leave the node: not when it is too small, or when the pod
    /// may not be there or needs company that is not there.
    pub(in crate::scheduler) fn could_ever_fit(
        &self,
        (pod, around): (&PodInfo, &Surroundings<'_>),
        node: NodeId,
    ) -> bool {
        let Some(info) = &self.node(node).info else { return false };
        let objection = || around.objection(&info.labels, (&[], &[]), &self.crowds);
        filter::fits(&pod.demand, info, &Usage::default())
            && !matches!(objection(), Some(Reason::NoTopology | Reason::PodAffinity))
    }

    /// The pods of the node that are less important than this one.
    pub(in crate::scheduler) fn lesser_pods(&self, pod: &PodInfo, node: NodeId) -> Vec<Lesser<'_>> {
        let placed = self.node(node).pods.iter().filter_map(|uid| self.pods.get(uid));
        placed
            .filter(|placed| placed.pod.demand.priority < pod.demand.priority)
            .map(|placed| Lesser { pod: &placed.pod, leaving: placed.leaving })
            .collect()
    }

    /// The priority of the least important pod that has a node.
    pub(in crate::scheduler) fn lowest_priority(&self) -> Option<i32> {
        self.priorities.first_key_value().map(|(priority, _)| *priority)
    }

    /// The nodes that exist.
    pub(in crate::scheduler) fn node_ids(&self) -> impl Iterator<Item = NodeId> {
        self.plain.iter().chain(&self.avoided).chain(&self.special).map(|(_, node)| *node)
    }

    /// How many these are.
    pub(in crate::scheduler) fn node_count(&self) -> usize {
        self.plain.len() + self.avoided.len() + self.special.len()
    }

    /// A pod's deletion is under way. Tells whether that is news.
    pub(crate) fn set_leaving(&mut self, uid: &str) -> bool {
        let placed = self.pods.get_mut(uid).filter(|placed| !placed.leaving);
        let Some(placed) = placed else { return false };
        placed.leaving = true;
        let of_node = labels_of(&self.nodes, placed.node);
        self.crowds.set_leaving(&placed.pod.demand, placed.node, of_node, true);
        true
    }

    /// Room is being made for the pod: others to whom it need not give way do not get it.
    pub(crate) fn nominate(&mut self, pod: PodInfo, node: &str) {
        self.denominate(&pod.uid);
        let node = self.entry(node);
        self.node_mut(node).nominees.push(Arc::clone(&pod.uid));
        self.nominees.insert(Arc::clone(&pod.uid), (pod, node));
    }

    /// No room is being made for the pod any more. Gives the node that may take others now.
    pub(crate) fn denominate(&mut self, uid: &str) -> Option<NodeId> {
        let (_, node) = self.nominees.remove(uid)?;
        self.node_mut(node).nominees.retain(|nominee| **nominee != *uid);
        (!self.release_if_empty(node)).then_some(node)
    }

    /// The pods for which room is made on the node and which are less important than this one.
    pub(crate) fn lesser_nominees(&self, pod: &PodInfo, node: NodeId) -> Vec<Arc<str>> {
        let nominees = self.node(node).nominees.iter().filter_map(|uid| self.nominees.get(uid));
        nominees
            .filter(|(nominee, _)| nominee.demand.priority < pod.demand.priority)
            .map(|(nominee, _)| Arc::clone(&nominee.uid))
            .collect()
    }
}
