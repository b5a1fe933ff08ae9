//! Which thresholds are passed, what the node has to say of it, and what is to be done now. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::threshold::{Condition, Resource, Signal, Threshold};

/// What was seen of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// So much is free.
    pub available: i64,
    /// Of so much.
    pub capacity: i64,
}

/// What was seen.
pub type Observations = BTreeMap<Signal, Level>;

/// What is remembered from one look to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// Since when each threshold (by its place) is passed.
    since: BTreeMap<usize, Timestamp>,
    /// Those that were passed for long enough, and not yet mended.
    due: BTreeSet<usize>,
    /// When each condition was last true by a threshold.
    seen: BTreeMap<Condition, Timestamp>,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Decision {
    /// What the node says.
    pub(super) conditions: BTreeSet<Condition>,
    /// The first threshold to do something about.
    pub(super) act: Option<Passed>,
    /// When to look again at the latest, should time alone make a difference.
    pub(super) look_at: Option<Timestamp>,
}

/// A threshold that is passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Passed {
    pub(super) threshold: Threshold,
    pub(super) level: Level,
}

impl Passed {
    /// What there is too little of.
    pub(super) fn resource(&self) -> Resource {
        self.threshold.signal.resource()
    }

    /// The bound as a number.
    pub(super) fn bound(&self) -> i64 {
        self.threshold.amount.of(self.level.capacity)
    }
}

/// The threshold, if it is passed; with `reclaim`, also when it is not yet mended by its margin.
fn passed(threshold: &Threshold, observations: &Observations, reclaim: bool) -> Option<Passed> {
    let level = *observations.get(&threshold.signal)?;
    let margin = threshold.minimum_reclaim.filter(|_| reclaim);
    let margin = margin.map_or(0, |amount| amount.of(level.capacity));
    let passed = Passed { threshold: *threshold, level };
    (level.available < passed.bound().saturating_add(margin)).then_some(passed)
}

/// Whether anything is still short, margins included.
pub(super) fn is_short(thresholds: &[Threshold], observations: &Observations) -> bool {
    thresholds.iter().any(|threshold| passed(threshold, observations, true).is_some())
}

/// One look. A condition holds for `transition` after it was last seen, so that nothing flaps.
pub(super) fn decide(
    thresholds: &[Threshold],
    memory: &mut Memory,
    observations: &Observations,
    transition: Duration,
    now: Timestamp,
) -> Decision {
    let was_due = std::mem::take(&mut memory.due);
    let met: BTreeMap<usize, Passed> = thresholds
        .iter()
        .enumerate()
        .filter_map(|(index, threshold)| {
            let passed = passed(threshold, observations, was_due.contains(&index))?;
            Some((index, passed))
        })
        .collect();
    memory.since.retain(|index, _| met.contains_key(index));
    let mut decision = Decision::default();
    let mut look_at = |at: Timestamp| {
        decision.look_at = Some(decision.look_at.map_or(at, |earlier: Timestamp| earlier.min(at)));
    };
    for (&index, passed) in &met {
        memory.seen.insert(passed.threshold.signal.condition(), now);
        let since = *memory.since.entry(index).or_insert(now);
        let due_at = add(since, passed.threshold.grace.unwrap_or_default());
        if due_at <= now {
            memory.due.insert(index);
        } else {
            look_at(due_at);
        }
    }
    memory.seen.retain(|_, seen| *seen == now || add(*seen, transition) > now);
    for seen in memory.seen.values().filter(|seen| **seen != now) {
        look_at(add(*seen, transition));
    }
    decision.conditions = memory.seen.keys().copied().collect();
    // Memory first: without it the rest cannot be mended either.
    let mut due: Vec<&Passed> = memory.due.iter().map(|index| &met[index]).collect();
    due.sort_by_key(|passed| passed.resource() != Resource::Memory);
    decision.act = due.first().map(|passed| **passed);
    decision
}

fn add(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}
