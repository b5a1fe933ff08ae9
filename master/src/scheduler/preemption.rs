//! Who gives way to a pod that fits nowhere. Pure.
//!
//! A node is considered without its less important pods. If the pod fits then, they are put back, the
//! most important first, as long as it still does: who cannot be put back has to go. Of the nodes,
//! the one with the least harm is taken. (There are no PodDisruptionBudgets that could be harmed.)

use std::cmp::Reverse;
use std::sync::Arc;

use super::demand::PodInfo;
use super::model::{Model, NodeId};

/// So many nodes on which it could be done are compared at least, and otherwise a tenth of all: in a
/// large cluster the best of a hundred is good enough. Kubernetes' values.
const COMPARED: (usize, usize) = (100, 10);

/// What makes room for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) node: NodeId,
    /// Those that have to be ended.
    pub(crate) victims: Vec<PodInfo>,
    /// Those that have to be gone, the victims among them; others are leaving already.
    pub(crate) awaited: Vec<Arc<str>>,
}

/// Why nobody gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The pod does not want it.
    Never,
    /// So many nodes would not do either way, so many others have nobody less important whose place
    /// would do.
    Nobody { not_helpful: usize, no_victims: usize },
}

impl Refusal {
    /// In Kubernetes' words; nothing when there are no nodes.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Never => " preemption: not eligible due to preemptionPolicy=Never.".to_owned(),
            Self::Nobody { not_helpful: 0, no_victims: 0 } => String::new(),
            Self::Nobody { not_helpful, no_victims } => {
                let parts = [
                    (no_victims, "No preemption victims found for incoming pod"),
                    (not_helpful, "Preemption is not helpful for scheduling"),
                ];
                let parts = parts.into_iter().filter(|(count, _)| **count > 0);
                let parts: Vec<String> =
                    parts.map(|(count, words)| format!("{count} {words}")).collect();
                let nodes = not_helpful + no_victims;
                format!(" preemption: 0/{nodes} nodes are available: {}.", parts.join(", "))
            }
        }
    }
}

/// A less important pod on a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lesser<'a> {
    pub(crate) pod: &'a PodInfo,
    /// It will be gone soon in any case.
    pub(crate) leaving: bool,
}

/// Who of the less important pods has to go, so that `fits` holds of those that are absent then. Nothing
/// when it does not even hold without all of them. Those who leave already are absent at no cost.
pub(crate) fn victims<'a>(
    lesser: &[Lesser<'a>],
    fits: impl Fn(&[&'a PodInfo]) -> bool,
) -> Option<Vec<&'a PodInfo>> {
    let leaving = lesser.iter().filter(|one| one.leaving).map(|one| one.pod);
    let mut staying: Vec<&PodInfo> =
        lesser.iter().filter(|one| !one.leaving).map(|one| one.pod).collect();
    // The most important is put back first: the higher, and of equals the older.
    staying.sort_by_key(|pod| (Reverse(pod.demand.priority), pod.created, &pod.key));
    let mut absent: Vec<&PodInfo> = leaving.chain(staying.iter().copied()).collect();
    if !fits(&absent) {
        return None;
    }
    let mut victims = Vec::new();
    for pod in staying {
        let Some(place) = absent.iter().position(|one| one.uid == pod.uid) else { continue };
        absent.remove(place);
        if !fits(&absent) {
            absent.insert(place, pod);
            victims.push(pod);
        }
    }
    Some(victims)
}

/// See [`harm`].
type Harm = (Option<i32>, i64, usize, Reverse<Option<i64>>);

/// How bad it is to end these; less is better. As in Kubernetes, the most important of them counts first,
/// then all of them together, then how many they are, then how long the most important have run.
pub(crate) fn harm(victims: &[&PodInfo]) -> Harm {
    let highest = victims.iter().map(|pod| pod.demand.priority).max();
    // From the lowest that there can be, so that one more is never less.
    let above = |priority: i32| i64::from(priority) - i64::from(i32::MIN) + 1;
    let sum: i64 = victims.iter().map(|pod| above(pod.demand.priority)).sum();
    let most_important = victims.iter().filter(|pod| Some(pod.demand.priority) == highest);
    let oldest = most_important.map(|pod| pod.created).min();
    (highest, sum, victims.len(), Reverse(oldest))
}

impl Model {
    /// How room could be made for a pod that fits nowhere.
    pub(crate) fn preempt(&self, pod: &PodInfo) -> Result<Plan, Refusal> {
        if !pod.demand.preempts {
            return Err(Refusal::Never);
        }
        let (mut not_helpful, mut no_victims) = (0, 0);
        let mut best: Option<(Harm, NodeId, Vec<&PodInfo>, Vec<Lesser<'_>>)> = None;
        let mut found = 0;
        let enough = COMPARED.0.max(self.node_count() / COMPARED.1);
        let somebody = self.lowest_priority().is_some_and(|lowest| lowest < pod.demand.priority);
        let around = self.surroundings(&pod.demand);
        let seeking = (pod, &around);
        for node in self.node_ids() {
            if !self.could_ever_fit(seeking, node) {
                not_helpful += 1;
                continue;
            }
            let lesser = match somebody {
                true => self.lesser_pods(pod, node),
                false => Vec::new(),
            };
            let fits = |absent: &[&PodInfo]| self.fits_without(seeking, node, absent);
            let victims = (!lesser.is_empty()).then(|| victims(&lesser, fits)).flatten();
            let Some(victims) = victims else {
                no_victims += 1;
                continue;
            };
            let harm = harm(&victims);
            if best.as_ref().is_none_or(|(least, ..)| harm < *least) {
                best = Some((harm, node, victims, lesser));
            }
            found += 1;
            if found >= enough {
                break;
            }
        }
        let Some((_, node, victims, lesser)) = best else {
            return Err(Refusal::Nobody { not_helpful, no_victims });
        };
        let leaving = lesser.iter().filter(|one| one.leaving).map(|one| one.pod);
        let awaited = leaving.chain(victims.iter().copied()).map(|pod| Arc::clone(&pod.uid));
        let awaited = awaited.collect();
        Ok(Plan { node, victims: victims.into_iter().cloned().collect(), awaited })
    }
}
