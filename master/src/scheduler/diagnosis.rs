//! Why a pod fits no node, in Kubernetes' words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::filter::Reason;

/// Reasons with the number of nodes each holds for.
#[derive(Debug, Default)]
pub(crate) struct Diagnosis {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
}

impl Diagnosis {
    /// One more node was looked at.
    pub(crate) fn count_node(&mut self) {
        self.nodes += 1;
    }

    /// Such a node did not fit because of this.
    pub(crate) fn count(&mut self, reason: Reason<'_>) {
        let words = match reason {
            Reason::Unschedulable => "node(s) were unschedulable".to_owned(),
            Reason::UntoleratedTaint(taint) => format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key,
                taint.value.as_deref().unwrap_or_default()
            ),
            Reason::NodeSelector => "node(s) didn't match Pod's node affinity/selector".to_owned(),
            Reason::HostPort => {
                "node(s) didn't have free ports for the requested pod ports".to_owned()
            }
            Reason::TooManyPods => "Too many pods".to_owned(),
            Reason::Insufficient(resource) => format!("Insufficient {resource}"),
            Reason::NoTopology => "node(s) didn't match pod topology spread constraints (missing \
                                   required label)"
                .to_owned(),
            Reason::Skew => "node(s) didn't match pod topology spread constraints".to_owned(),
            Reason::PodAffinity => "node(s) didn't match pod affinity rules".to_owned(),
            Reason::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules".to_owned(),
            Reason::ExistingAntiAffinity => {
                "node(s) didn't satisfy existing pods anti-affinity rules".to_owned()
            }
        };
        *self.reasons.entry(words).or_default() += 1;
    }

    /// `0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.`
    pub(crate) fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut parts: Vec<String> =
            self.reasons.iter().map(|(words, count)| format!("{count} {words}")).collect();
        parts.sort();
        let mut message = format!("0/{} nodes are available", self.nodes);
        // Writing to a String cannot fail.
        let _ = write!(message, ": {}.", parts.join(", "));
        message
    }
}
