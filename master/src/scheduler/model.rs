//! The scheduler's own picture of the cluster: what every node offers, what its pods have taken,
//! and indexes over both.
//!
//! Events keep it up to date; [`Model::assume`] runs ahead of them for pods whose binding is being
//! written. [`Model::place`] answers for the common pod (requests only) by walking nodes from the
//! emptiest on and stopping early, not by looking at all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use proto::ObjectKey;

use super::affinity::Term;
use super::crowds::{Crowds, Pull};
use super::demand::{Demand, PodInfo};
use super::filter::{NodeInfo, Usage};
use super::score;
use super::spread::{Group, Spread};
use crate::selection::Selection;

mod around;
mod choice;
mod room;

/// A node's place in the model.
pub(crate) type NodeId = u32;

/// A node, or only its name when pods name it that it does not have (yet, or any more).
#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    info: Option<NodeInfo>,
    usage: Usage,
    pods: HashSet<Arc<str>>,
    /// Pods for which room is being made here.
    nominees: Vec<Arc<str>>,
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
    /// Its deletion is under way.
    leaving: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Model {
    ids: HashMap<Arc<str>, NodeId>,
    nodes: Vec<Option<Entry>>,
    free: Vec<NodeId>,
    /// Nodes without taints or cordon, the emptiest first.
    plain: BTreeSet<(i64, NodeId)>,
    /// Nodes that say no more than that pods are better elsewhere.
    avoided: BTreeSet<(i64, NodeId)>,
    /// The other nodes that exist.
    special: BTreeSet<(i64, NodeId)>,
    labels: HashMap<String, HashMap<String, BTreeSet<NodeId>>>,
    pods: HashMap<Arc<str>, Placed>,
    /// How many of these have which priority.
    priorities: BTreeMap<i32, usize>,
    /// Pods for which room is being made, with the node.
    nominees: HashMap<Arc<str>, (PodInfo, NodeId)>,
    services: Selection<Arc<str>>,
    spread: Spread,
    crowds: Crowds,
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
        let Placed { pod, node, leaving, .. } = self.pods.remove(uid)?;
        let labels = labels_of(&self.nodes, node);
        if leaving {
            self.crowds.set_leaving(&pod.demand, node, labels, false);
        }
        self.crowds.remove(&pod.demand, node, labels);
        for (term, pull) in wishes(&pod.demand) {
            self.crowds.wish(term, pull, node, labels, false);
        }
        let plain = self.node(node).plain();
        for group in self.groups_of(&pod) {
            self.spread.subtract(&group, node, plain);
        }
        self.services.remove_pod(&pod.key.namespace, &pod.labels, uid);
        self.change_usage(node, |usage| usage.subtract(&pod.demand));
        let priority = pod.demand.priority;
        if let Some(count) = self.priorities.get_mut(&priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&priority);
            }
        }
        self.node_mut(node).pods.remove(uid);
        (!self.release_if_empty(node)).then_some(node)
    }

    /// Counts a pod on the node that was chosen for it, before the store knows.
    pub(crate) fn assume(&mut self, pod: PodInfo, node: NodeId) {
        self.remove_pod(&pod.uid);
        self.denominate(&pod.uid);
        self.insert(pod, node, true);
    }

    /// Takes an assumption back. A pod that the store has confirmed meanwhile stays. Gives the node
    /// that has more room now.
    pub(crate) fn forget(&mut self, uid: &str) -> Option<NodeId> {
        self.pods.get(uid)?.assumed.then_some(())?;
        self.remove_pod(uid)
    }

    /// What a pod that is counted on a node demands.
    pub(crate) fn demand_of(&self, uid: &str) -> Option<Arc<Demand>> {
        self.pods.get(uid).map(|placed| Arc::clone(&placed.pod.demand))
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
            && self.avoided.is_empty()
            && self.special.is_empty()
            && self.labels.is_empty()
            && self.pods.is_empty()
            && self.priorities.is_empty()
            && self.nominees.is_empty()
            && self.spread.is_empty()
            && self.crowds.is_empty()
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

    /// The controller first: its pods matter more to each other than those of a Service.
    fn groups_of(&self, pod: &PodInfo) -> Vec<Group> {
        let services = self.services.of(&pod.key.namespace, &pod.labels);
        let controller = pod.controller.iter().cloned().map(Group::Controller);
        controller.chain(services.into_iter().map(Group::Service)).collect()
    }

    fn insert(&mut self, mut pod: PodInfo, node: NodeId, assumed: bool) {
        let labels = labels_of(&self.nodes, node);
        pod.demand = self.crowds.add(pod.demand, node, labels);
        for (term, pull) in wishes(&pod.demand) {
            self.crowds.wish(term, pull, node, labels, true);
        }
        self.services.add_pod(&pod.key.namespace, &pod.labels, Arc::clone(&pod.uid));
        let plain = self.node(node).plain();
        for group in self.groups_of(&pod) {
            self.spread.add(&group, node, plain);
        }
        self.change_usage(node, |usage| usage.add(&pod.demand));
        self.node_mut(node).pods.insert(Arc::clone(&pod.uid));
        *self.priorities.entry(pod.demand.priority).or_default() += 1;
        let placed = Placed { pod, node, assumed, leaving: false };
        self.pods.insert(Arc::clone(&placed.pod.uid), placed);
    }

    fn change_usage(&mut self, node: NodeId, change: impl FnOnce(&mut Usage)) {
        self.unindex(node);
        change(&mut self.node_mut(node).usage);
        self.index(node);
    }

    fn replace_info(&mut self, node: NodeId, info: Option<NodeInfo>) {
        let was_plain = self.node(node).plain();
        self.unindex(node);
        let old = self.node_mut(node).info.take();
        let labels = |info: &'_ Option<NodeInfo>| info.as_ref().map(|info| info.labels.clone());
        if labels(&old) != labels(&info) {
            self.crowds.relabel(node, labels(&old).as_ref(), labels(&info).as_ref());
        }
        if let Some(old) = old {
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
        self.avoided.remove(&(load, node));
        self.special.remove(&(load, node));
    }

    fn index(&mut self, node: NodeId) {
        let Some(entry) = &mut self.nodes[node as usize] else { return };
        let Some(info) = &entry.info else { return };
        entry.load = score::load(info, &entry.usage);
        let load = entry.load;
        let index = match (info.is_plain(), info.is_open()) {
            (true, _) => &mut self.plain,
            (false, true) => &mut self.avoided,
            (false, false) => &mut self.special,
        };
        index.insert((load, node));
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
            nominees: Vec::new(),
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
        if entry.info.is_some() || !entry.pods.is_empty() || !entry.nominees.is_empty() {
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

/// The labels of a node that exists.
fn labels_of(nodes: &[Option<Entry>], node: NodeId) -> Option<&BTreeMap<String, String>> {
    nodes.get(node as usize)?.as_ref()?.info.as_ref().map(|info| &info.labels)
}

/// What a pod that has a node wants of others.
fn wishes(demand: &Demand) -> impl Iterator<Item = (&Term, Pull)> {
    demand.affinity.iter().flat_map(|affinity| {
        let apart = affinity.apart.iter().map(|term| (term, Pull::Repels));
        // That it has to be near them makes it good for them to be near it, as in Kubernetes.
        let near = affinity.near.iter().map(|term| (term, Pull::Likes(1)));
        let preferred = affinity.preferred.iter();
        apart.chain(near).chain(preferred.map(|(weight, term)| (term, Pull::Likes(*weight))))
    })
}
