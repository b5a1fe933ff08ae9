//! The pods that have no node yet.
//!
//! Pods with equal demands form a line. A line is either *ready*, and then its first pod takes part
//! in the race for the next attempt, or it *waits*, because its demand is known to fit no node.
//! When something changes that may help, the line is woken and its first pod tried; that one
//! failing answers for all behind it. So ten thousand pods that do not fit cost one attempt, and a
//! pod that fits is never behind one that does not.
//!
//! ```text
//!   push ──► ready ──pop──► (tried) ──► bound
//!              ▲               │
//!             wake           refuse
//!              └── waiting ◄───┘
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::demand::{Demand, PodInfo};

/// When a pod came; smaller is earlier.
type Ticket = u64;

/// Higher priority first, then the earlier.
type Rank = (Reverse<i32>, Ticket);

/// Why a demand fits no node, as people are told.
pub(crate) type Verdict = Arc<str>;

#[derive(Debug, Default)]
struct Line {
    pods: BTreeMap<Ticket, Waiting>,
    /// Present while the line waits.
    verdict: Option<Verdict>,
}

#[derive(Debug)]
struct Waiting {
    pod: PodInfo,
    /// Whether somebody was told why it waits.
    told: bool,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: HashMap<Arc<Demand>, Line>,
    /// The first pod of every ready line.
    heads: BTreeMap<Rank, Arc<Demand>>,
    tickets: HashMap<Arc<str>, (Arc<Demand>, Ticket)>,
    next_ticket: Ticket,
    /// Pods of the lines that wait.
    waiting: usize,
}

impl Queue {
    /// A pod has no node. Gives the verdict when its demand is already known to fit none.
    pub(crate) fn push(&mut self, pod: PodInfo) -> Option<Verdict> {
        let known = self.tickets.get(&pod.uid).cloned();
        let ticket = match known {
            // A demand does not change, but what Services and controllers it belongs to may.
            Some((demand, ticket)) if demand == pod.demand => {
                let waiting = self.lines.get_mut(&demand)?.pods.get_mut(&ticket)?;
                waiting.pod = pod;
                return None;
            }
            // A changed demand keeps its place.
            Some((_, ticket)) => {
                self.remove(&pod.uid);
                ticket
            }
            None => {
                self.next_ticket += 1;
                self.next_ticket
            }
        };
        self.insert(pod, ticket)
    }

    /// A pod is tried again later, at the place it had when it was taken.
    pub(crate) fn put_back(&mut self, pod: PodInfo, ticket: Ticket) -> Option<Verdict> {
        if self.tickets.contains_key(&pod.uid) {
            return None;
        }
        self.insert(pod, ticket)
    }

    fn insert(&mut self, pod: PodInfo, ticket: Ticket) -> Option<Verdict> {
        let demand = match self.lines.get_key_value(&pod.demand) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::clone(&pod.demand),
        };
        let uid = Arc::clone(&pod.uid);
        self.unhead(&demand);
        let line = self.lines.entry(Arc::clone(&demand)).or_default();
        let verdict = line.verdict.clone();
        line.pods.insert(ticket, Waiting { pod, told: verdict.is_some() });
        self.waiting += usize::from(verdict.is_some());
        self.head(&demand);
        self.tickets.insert(uid, (demand, ticket));
        verdict
    }

    /// A pod is gone, or was given a node by somebody else.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<PodInfo> {
        let (demand, ticket) = self.tickets.remove(uid)?;
        self.unhead(&demand);
        let line = self.lines.get_mut(&demand)?;
        let waiting = line.pods.remove(&ticket);
        self.waiting -= usize::from(line.verdict.is_some());
        if line.pods.is_empty() {
            self.lines.remove(&demand);
        } else {
            self.head(&demand);
        }
        waiting.map(|waiting| waiting.pod)
    }

    /// Whether the pod is here.
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.tickets.contains_key(uid)
    }

    /// Takes the pod that is next, with the place it had.
    pub(crate) fn pop(&mut self) -> Option<(PodInfo, Ticket)> {
        let ((_, ticket), demand) = self.heads.pop_first()?;
        let line = self.lines.get_mut(&demand)?;
        let waiting = line.pods.remove(&ticket)?;
        self.tickets.remove(&waiting.pod.uid);
        if line.pods.is_empty() {
            self.lines.remove(&demand);
        } else {
            self.head(&demand);
        }
        Some((waiting.pod, ticket))
    }

    /// A pod that was taken fits no node, so its line waits. Gives the pods that have to be told:
    /// this one, and those of its line that nobody has told yet.
    pub(crate) fn refuse(
        &mut self,
        pod: PodInfo,
        ticket: Ticket,
        verdict: &Verdict,
    ) -> Vec<PodInfo> {
        self.unhead(&pod.demand);
        self.insert(pod.clone(), ticket);
        self.unhead(&pod.demand);
        let mut told = Vec::new();
        if let Some(line) = self.lines.get_mut(&pod.demand) {
            if line.verdict.replace(Arc::clone(verdict)).is_none() {
                self.waiting += line.pods.len();
            }
            for (other, waiting) in &mut line.pods {
                if *other == ticket || !waiting.told {
                    waiting.told = true;
                    told.push(waiting.pod.clone());
                }
            }
        }
        told
    }

    /// Something changed: the waiting lines whose demand may fit now are tried again.
    pub(crate) fn wake(&mut self, mut may_fit: impl FnMut(&Demand) -> bool) {
        let woken: Vec<Arc<Demand>> = self
            .lines
            .iter()
            .filter(|(demand, line)| line.verdict.is_some() && may_fit(demand))
            .map(|(demand, _)| Arc::clone(demand))
            .collect();
        for demand in woken {
            if let Some(line) = self.lines.get_mut(&demand) {
                line.verdict = None;
                self.waiting -= line.pods.len();
            }
            self.head(&demand);
        }
    }

    /// Whether a pod could be taken.
    pub(crate) fn has_ready(&self) -> bool {
        !self.heads.is_empty()
    }

    /// How many pods have no node.
    pub(crate) fn len(&self) -> usize {
        self.tickets.len()
    }

    /// How many of them are known to fit none.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    fn rank(&self, demand: &Arc<Demand>) -> Option<Rank> {
        let line = self.lines.get(demand)?;
        let (ticket, _) = line.pods.first_key_value()?;
        line.verdict.is_none().then_some((Reverse(demand.priority), *ticket))
    }

    fn head(&mut self, demand: &Arc<Demand>) {
        if let Some(rank) = self.rank(demand) {
            self.heads.insert(rank, Arc::clone(demand));
        }
    }

    fn unhead(&mut self, demand: &Arc<Demand>) {
        if let Some(rank) = self.rank(demand) {
            self.heads.remove(&rank);
        }
    }
}
