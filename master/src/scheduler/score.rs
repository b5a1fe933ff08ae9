//! Which of the nodes that a pod fits is the best. Pure.

use std::cmp::Reverse;

use super::demand::Demand;
use super::filter::{NodeInfo, Usage};

/// Thousandths of thousandths: the unit in which load is told, so that loads have an order.
const FULL: i64 = 1_000_000;

/// How desirable a node is for a pod; the least is the best.
///
/// Spreading goes before balance: two replicas on one node are lost together, which costs more
/// than an uneven load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    /// What the pod, others and nodes' taints say they prefer; they said so, which goes before what nobody said.
    pub(crate) preference: Reverse<i64>,
    /// Pods of the same controller on the node.
    pub(crate) controller_pods: u32,
    /// Pods of the same Services on the node.
    pub(crate) service_pods: u32,
    /// How full the node is with the pod on it.
    pub(crate) load: i64,
}

/// How full a node is: the mean of CPU and memory, in millionths.
pub(crate) fn load(node: &NodeInfo, usage: &Usage) -> i64 {
    load_with(node, usage.nominal)
}

/// How full a node is with one more pod on it.
pub(crate) fn load_after(demand: &Demand, node: &NodeInfo, usage: &Usage) -> i64 {
    load_with(node, (usage.nominal.0 + demand.nominal.0, usage.nominal.1 + demand.nominal.1))
}

fn load_with(node: &NodeInfo, (cpu, memory): (i64, i64)) -> i64 {
    let part = |used: i64, offered: i64| {
        if offered <= 0 {
            return FULL;
        }
        // Amounts are below 2^50 each and there are few pods on a node, but 10^6 times that is
        // more than 64 bits hold.
        let part = i128::from(used) * i128::from(FULL) / i128::from(offered);
        i64::try_from(part).unwrap_or(i64::MAX / 2).min(i64::MAX / 2)
    };
    (part(cpu, node.allocatable.cpu_milli) + part(memory, node.allocatable.memory)) / 2
}
