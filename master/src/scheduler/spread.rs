//! How the pods of one controller, or of one Service, are spread over the nodes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use proto::ObjectKey;

use super::model::NodeId;

/// Pods that are better not on one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Those of a controller, by its uid.
    Controller(Arc<str>),
    /// Those that a Service selects.
    Service(Arc<ObjectKey>),
}

/// How many pods of a group run on which node.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    by_node: HashMap<NodeId, u32>,
    by_count: BTreeMap<u32, HashSet<NodeId>>,
    /// How many of the nodes are plain: when all plain nodes are, none is free of the group.
    plain_nodes: usize,
}

impl Counts {
    /// Pods of the group on the node.
    pub(crate) fn on(&self, node: NodeId) -> u32 {
        self.by_node.get(&node).copied().unwrap_or(0)
    }

    /// How many plain nodes have pods of the group.
    pub(crate) fn plain_nodes(&self) -> usize {
        self.plain_nodes
    }

    /// The nodes that have pods of the group, those with the fewest first.
    pub(crate) fn ascending(&self) -> impl Iterator<Item = (u32, &HashSet<NodeId>)> {
        self.by_count.iter().map(|(count, nodes)| (*count, nodes))
    }

    /// Gives the count before and after.
    fn change(&mut self, node: NodeId, change: impl FnOnce(u32) -> u32) -> (u32, u32) {
        let before = self.on(node);
        let after = change(before);
        if let Some(nodes) = self.by_count.get_mut(&before) {
            nodes.remove(&node);
            if nodes.is_empty() {
                self.by_count.remove(&before);
            }
        }
        if after == 0 {
            self.by_node.remove(&node);
        } else {
            self.by_node.insert(node, after);
            self.by_count.entry(after).or_default().insert(node);
        }
        (before, after)
    }
}

/// The counts of every group that has pods.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    groups: HashMap<Group, Counts>,
}

impl Spread {
    /// Whether no group has pods.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The counts of a group; nothing when none of its pods runs.
    pub(crate) fn counts(&self, group: &Group) -> Option<&Counts> {
        self.groups.get(group)
    }

    /// One more pod of the group on the node, which is plain or not.
    pub(crate) fn add(&mut self, group: &Group, node: NodeId, plain: bool) {
        let counts = self.groups.entry(group.clone()).or_default();
        let (before, _) = counts.change(node, |count| count + 1);
        if plain && before == 0 {
            counts.plain_nodes += 1;
        }
    }

    /// One pod of the group less on the node.
    pub(crate) fn subtract(&mut self, group: &Group, node: NodeId, plain: bool) {
        let Some(counts) = self.groups.get_mut(group) else { return };
        let (before, after) = counts.change(node, |count| count.saturating_sub(1));
        if plain && before > 0 && after == 0 {
            counts.plain_nodes -= 1;
        }
        if counts.by_node.is_empty() {
            self.groups.remove(group);
        }
    }

    /// A node that has pods of the group became plain, or is no longer.
    pub(crate) fn set_plain(&mut self, group: &Group, plain: bool) {
        if let Some(counts) = self.groups.get_mut(group) {
            if plain {
                counts.plain_nodes += 1;
            } else {
                counts.plain_nodes -= 1;
            }
        }
    }
}
