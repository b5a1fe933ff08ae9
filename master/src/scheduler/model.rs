//! The scheduler's own picture of the cluster: what every node offers, what its pods have taken,
//! and indexes over both.
//!
//! Events keep it up to date; [`Model::assume`] runs ahead of them for pods whose binding is being
//! written. [`Model::place`] answers for the common pod (requests only) by walking nodes from the
//! emptiest on and stopping early, not by looking at all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use proto::ObjectKey;

use super::demand::{Demand, PodInfo};
use super::diagnosis::Diagnosis;
use super::filter::{self, NodeInfo, Usage};
use super::score::{self, Score};
use super::spread::{Counts, Group, Spread};
use crate::selection::Selection;

/// How many fitting nodes are compared before the best of them is taken. Nodes are met in the order
/// of their load, so more would only refine the choice by Service and by the pod's own size.
const LOOK: usize = 64;

/// A node's place in the model.
pub(crate) type NodeId = u32;

/// A node, or only its name when pods name it that it does not have (yet, or any more).
#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    info: Option<NodeInfo>,
    usage: Usage,
    pods: HashSet<Arc<str>>,
    /// Under which load it is found in the index.
    load: i64,
}

impl Entry {
    fn plain(&self) -> bool {
        self.info.as_ref().is_some_and(NodeInfo::is_plain)
    }
}

/// A pod that is on a node, or assumed to be.
#[derive(Debug)]
struct Placed {
    pod: PodInfo,
    node: NodeId,
    assumed: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Model {
    ids: HashMap<Arc<str>, NodeId>,
    nodes: Vec<Option<Entry>>,
    free: Vec<NodeId>,
    /// Nodes without taints or cordon, the emptiest first.
    plain: BTreeSet<(i64, NodeId)>,
    /// The other nodes that exist.
    special: BTreeSet<(i64, NodeId)>,
    labels: HashMap<String, HashMap<String, BTreeSet<NodeId>>>,
    pods: HashMap<Arc<str>, Placed>,
    services: Selection<Arc<str>>,
    spread: Spread,
    /// Every demand once, however many pods share it.
    demands: HashSet<Arc<Demand>>,
}

impl Model {
    /// A node is new or changed. Gives its id when it differs from what was known.
    pub(crate) fn set_node(&mut self, info: NodeInfo) -> Option<NodeId> {
        let id = self.entry(&info.name);
        if self.node(id).info.as_ref() == Some(&info) {
            return None;
        }
        self.replace_info(id, Some(info));
        Some(id)
    }

    /// A node is gone. Pods that name it are remembered until they go too.
    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(id) = self.ids.get(name).copied() {
            self.replace_info(id, None);
            self.release_if_empty(id);
        }
    }

    /// A pod is on a node for certain: the store says so. Gives the node that may have more room now, if
    /// the pod was counted otherwise before.
    pub(crate) fn set_pod(&mut self, pod: PodInfo, node: &str) -> Option<NodeId> {
        let id = self.entry(node);
        let mut changed = None;
        if let Some(placed) = self.pods.get_mut(&pod.uid) {
            if placed.node == id && placed.pod == pod {
                placed.assumed = false;
                return None;
            }
            let uid = Arc::clone(&pod.uid);
            changed = self.remove_pod(&uid);
        }
        // Removing the pod may have released the entry.
        let id = self.entry(node);
        self.insert(pod, id, false);
        changed
    }

    /// The store says that a pod is on this node. Tells whether that is where it is counted.
    pub(crate) fn confirm(&mut self, uid: &str, node: &str) -> bool {
        let Some(placed) = self.pods.get_mut(uid) else { return false };
        let here = self.ids.get(node) == Some(&placed.node);
        placed.assumed &= !here;
        here
    }

    /// A pod is gone or finished. Gives the node that has more room now.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> Option<NodeId> {
        let Placed { pod, node, .. } = self.pods.remove(uid)?;
        let plain = self.node(node).plain();
        for group in self.groups_of(&pod) {
            self.spread.subtract(&group, node, plain);
        }
        self.services.remove_pod(&pod.key.namespace, &pod.labels, uid);
        self.change_usage(node, |usage| usage.subtract(&pod.demand));
        self.node_mut(node).pods.remove(uid);
        let demand = Arc::clone(&pod.demand);
        drop(pod);
        // One in the set, one here.
        if Arc::strong_count(&demand) == 2 {
            self.demands.remove(&demand);
        }
        (!self.release_if_empty(node)).then_some(node)
    }

    /// Counts a pod on the node that was chosen for it, before the store knows.
    pub(crate) fn assume(&mut self, pod: PodInfo, node: NodeId) {
        self.remove_pod(&pod.uid);
        self.insert(pod, node, true);
    }

    /// Takes an assumption back. A pod that the store has confirmed meanwhile stays. Gives the node
    /// that has more room now.
    pub(crate) fn forget(&mut self, uid: &str) -> Option<NodeId> {
        self.pods.get(uid)?.assumed.then_some(())?;
        self.remove_pod(uid)
    }

    /// Whether the pod is counted on a node.
    pub(crate) fn has_pod(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Whether nothing is remembered of anything.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
            && self.plain.is_empty()
            && self.special.is_empty()
            && self.labels.is_empty()
            && self.pods.is_empty()
            && self.demands.is_empty()
            && self.spread.is_empty()
            && self.services.is_empty()
    }

    /// A Service is new or changed; an empty selector means that it is gone or selects nothing.
    pub(crate) fn set_service(&mut self, key: ObjectKey, selector: BTreeMap<String, String>) {
        let key = Arc::new(key);
        let (lost, gained) = self.services.set(&key, selector);
        let group = Group::Service(key);
        for (uids, more) in [(lost, false), (gained, true)] {
            for uid in uids {
                let Some(placed) = self.pods.get(&uid) else { continue };
                let node = placed.node;
                let plain = self.node(node).plain();
                if more {
                    self.spread.add(&group, node, plain);
                } else {
                    self.spread.subtract(&group, node, plain);
                }
            }
        }
    }

    /// The name of a node.
    pub(crate) fn name(&self, node: NodeId) -> &Arc<str> {
        &self.node(node).name
    }

    /// Whether a pod with this demand could run on the node now.
    pub(crate) fn fits_on(&self, demand: &Demand, node: NodeId) -> bool {
        let entry = self.node(node);
        entry.info.as_ref().is_some_and(|info| filter::fits(demand, info, &entry.usage))
    }

    /// The best node for a pod; nothing when it fits none.
    pub(crate) fn place(&self, pod: &PodInfo) -> Option<NodeId> {
        let demand = &*pod.demand;
        let groups = self.groups_of(pod);
        if let Some(nodes) = self.smallest_labelled(demand) {
            return self.best(&groups, demand, nodes.iter().copied(), usize::MAX);
        }
        let plain = self.place_on_plain(&groups, demand);
        if demand.tolerations.is_empty() {
            return plain;
        }
        let special = self.special.iter().map(|(_, node)| *node);
        self.best(&groups, demand, special.chain(plain), usize::MAX)
    }

    /// Why a pod fits no node.
    pub(crate) fn diagnose(&self, demand: &Demand) -> Diagnosis {
        let mut diagnosis = Diagnosis::default();
        for entry in self.nodes.iter().flatten() {
            if let Some(info) = &entry.info {
                diagnosis.count_node();
                filter::filter(demand, info, &entry.usage, |reason| diagnosis.count(reason));
            }
        }
        diagnosis
    }

    /// The fewest pods of the first group decide first, so the nodes are looked at class by class
    /// of that count, and the search ends with the first class in which the pod fits.
    fn place_on_plain(&self, groups: &[Group], demand: &Demand) -> Option<NodeId> {
        let by_load = || self.plain.iter().map(|(_, node)| *node);
        let Some(counts) = groups.first().and_then(|group| self.spread.counts(group)) else {
            return self.best(groups, demand, by_load(), LOOK);
        };
        if counts.plain_nodes() < self.plain.len() {
            let free = by_load().filter(|node| counts.on(*node) == 0);
            let best = self.best(groups, demand, free, LOOK);
            if best.is_some() {
                return best;
            }
        }
        counts.ascending().find_map(|(count, nodes)| {
            if nodes.len() <= LOOK {
                let nodes = nodes.iter().copied().filter(|node| self.node(*node).plain());
                self.best(groups, demand, nodes, usize::MAX)
            } else {
                let nodes = by_load().filter(|node| counts.on(*node) == count);
                self.best(groups, demand, nodes, LOOK)
            }
        })
    }

    /// The best of the first `look` nodes that the pod fits.
    fn best(
        &self,
        groups: &[Group],
        demand: &Demand,
        nodes: impl Iterator<Item = NodeId>,
        look: usize,
    ) -> Option<NodeId> {
        let counts: Vec<(&Group, Option<&Counts>)> =
            groups.iter().map(|group| (group, self.spread.counts(group))).collect();
        nodes
            .filter(|node| self.fits_on(demand, *node))
            .take(look)
            .filter_map(|node| Some((self.score(&counts, demand, node)?, node)))
            .min()
            .map(|(_, node)| node)
    }

    fn score(
        &self,
        counts: &[(&Group, Option<&Counts>)],
        demand: &Demand,
        node: NodeId,
    ) -> Option<Score> {
        let entry = self.node(node);
        let mut score = Score {
            controller_pods: 0,
            service_pods: 0,
            load: score::load_after(demand, entry.info.as_ref()?, &entry.usage),
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
    fn smallest_labelled(&self, demand: &Demand) -> Option<&BTreeSet<NodeId>> {
        static NONE: BTreeSet<NodeId> = BTreeSet::new();
        let of = |(key, value): (&String, &String)| {
            self.labels.get(key).and_then(|values| values.get(value)).unwrap_or(&NONE)
        };
        demand.node_selector.iter().map(of).min_by_key(|nodes| nodes.len())
    }

    /// The controller first: its pods matter more to each other than those of a Service.
    fn groups_of(&self, pod: &PodInfo) -> Vec<Group> {
        let services = self.services.of(&pod.key.namespace, &pod.labels);
        let controller = pod.controller.iter().cloned().map(Group::Controller);
        controller.chain(services.into_iter().map(Group::Service)).collect()
    }

    fn insert(&mut self, mut pod: PodInfo, node: NodeId, assumed: bool) {
        match self.demands.get(&pod.demand) {
            Some(known) => pod.demand = Arc::clone(known),
            None => {
                self.demands.insert(Arc::clone(&pod.demand));
            }
        }
        self.services.add_pod(&pod.key.namespace, &pod.labels, Arc::clone(&pod.uid));
        let plain = self.node(node).plain();
        for group in self.groups_of(&pod) {
            self.spread.add(&group, node, plain);
        }
        self.change_usage(node, |usage| usage.add(&pod.demand));
        self.node_mut(node).pods.insert(Arc::clone(&pod.uid));
        self.pods.insert(Arc::clone(&pod.uid), Placed { pod, node, assumed });
    }

    fn change_usage(&mut self, node: NodeId, change: impl FnOnce(&mut Usage)) {
        self.unindex(node);
        change(&mut self.node_mut(node).usage);
        self.index(node);
    }

    fn replace_info(&mut self, node: NodeId, info: Option<NodeInfo>) {
        let was_plain = self.node(node).plain();
        self.unindex(node);
        if let Some(old) = self.node_mut(node).info.take() {
            for (key, value) in &old.labels {
                let Some(values) = self.labels.get_mut(key) else { continue };
                if let Some(nodes) = values.get_mut(value) {
                    nodes.remove(&node);
                    if nodes.is_empty() {
                        values.remove(value);
                    }
                }
                if values.is_empty() {
                    self.labels.remove(key);
                }
            }
        }
        for (key, value) in info.iter().flat_map(|info| &info.labels) {
            let values = self.labels.entry(key.clone()).or_default();
            values.entry(value.clone()).or_default().insert(node);
        }
        self.node_mut(node).info = info;
        self.index(node);
        let plain = self.node(node).plain();
        if plain != was_plain {
            let here: HashSet<Group> = self
                .node(node)
                .pods
                .iter()
                .filter_map(|uid| self.pods.get(uid))
                .flat_map(|placed| self.groups_of(&placed.pod))
                .collect();
            for group in here {
                self.spread.set_plain(&group, plain);
            }
        }
    }

    fn unindex(&mut self, node: NodeId) {
        let load = self.node(node).load;
        self.plain.remove(&(load, node));
        self.special.remove(&(load, node));
    }

    fn index(&mut self, node: NodeId) {
        let entry = self.node_mut(node);
        let Some(info) = &entry.info else { return };
        entry.load = score::load(info, &entry.usage);
        let (load, plain) = (entry.load, info.is_plain());
        if plain { &mut self.plain } else { &mut self.special }.insert((load, node));
    }

    /// The id of a node by name, made when there is none.
    fn entry(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        let entry = Entry {
            name: Arc::clone(&name),
            info: None,
            usage: Usage::default(),
            pods: HashSet::new(),
            load: 0,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = Some(entry);
                id
            }
            None => {
                self.nodes.push(Some(entry));
                // 2^32 nodes do not fit in memory.
                (self.nodes.len() - 1) as NodeId
            }
        };
        self.ids.insert(name, id);
        id
    }

    /// Drops a node that neither exists nor is named by a pod. Tells whether it did.
    fn release_if_empty(&mut self, node: NodeId) -> bool {
        let entry = self.node(node);
        if entry.info.is_some() || !entry.pods.is_empty() {
            return false;
        }
        let name = Arc::clone(&entry.name);
        self.ids.remove(&name);
        self.nodes[node as usize] = None;
        self.free.push(node);
        true
    }

    fn node(&self, node: NodeId) -> &Entry {
        self.nodes[node as usize].as_ref().expect("ids are only kept while their node is")
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Entry {
        self.nodes[node as usize].as_mut().expect("ids are only kept while their node is")
    }
}
