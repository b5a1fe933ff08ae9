//! The keys that a controller has to look at, in the order they became due. Pure: time is an input.
//!
//! A key is in one place at a time:
//!
//! ```text
//!   add ──► ready ──take──► running ──done──► (gone)
//!            ▲  ▲              │ ▲
//!       due  │  └─added again──┘ └ added meanwhile: ready again when done
//!          later ◄── failed, or asked to be looked at again
//! ```
//!
//! A key may rest for a moment after a pass: what is added meanwhile waits, so that a pass that costs
//! much looks at many changes at once. The first change after a quiet time never waits.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The first wait after a failure. A conflict with another writer is over by then.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait after failures in a row. What still fails then waits for something slower than
/// the cluster, and a minute is as long as a person wants to wait after having repaired it.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// See the module's documentation. Its size is bounded by the number of different keys.
#[derive(Debug)]
pub(crate) struct WorkQueue<K> {
    ready: VecDeque<K>,
    is_ready: HashSet<K>,
    /// With whether the key was added again meanwhile.
    running: HashMap<K, bool>,
    later: BTreeMap<(Instant, u64), K>,
    is_later: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    /// Keys that rest, with until when; and the same by time, to forget them.
    resting: HashMap<K, Instant>,
    rested: BTreeMap<(Instant, u64), K>,
    sequence: u64,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is as desired.
    Done,
    /// Time alone will make something to do.
    Again(Instant),
    /// To be tried again, after a while that grows.
    Failed,
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            is_ready: HashSet::new(),
            running: HashMap::new(),
            later: BTreeMap::new(),
            is_later: HashMap::new(),
            failures: HashMap::new(),
            resting: HashMap::new(),
            rested: BTreeMap::new(),
            sequence: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// Something about the key changed.
    pub(crate) fn add(&mut self, key: K) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = true;
            return;
        }
        if let Some(until) = self.resting.get(&key).copied() {
            if self.is_later.get(&key).is_none_or(|(at, _)| *at > until) {
                self.put_off(key, until);
            }
            return;
        }
        if let Some(at) = self.is_later.remove(&key) {
            self.later.remove(&at);
        }
        if self.is_ready.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn put_off(&mut self, key: K, until: Instant) {
        if let Some(at) = self.is_later.remove(&key) {
            self.later.remove(&at);
        }
        self.sequence += 1;
        self.later.insert((until, self.sequence), key.clone());
        self.is_later.insert(key, (until, self.sequence));
    }

    /// The next key that is due; it runs until [`done`](Self::done).
    pub(crate) fn take(&mut self, now: Instant) -> Option<K> {
        while let Some(entry) = self.rested.first_entry()
            && entry.key().0 <= now
        {
            self.resting.remove(&entry.remove());
        }
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let key = entry.remove();
            self.is_later.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.is_ready.remove(&key);
        self.running.insert(key.clone(), false);
        Some(key)
    }

    /// The pass of a key that was taken is over; it rests for `rest`.
    pub(crate) fn done(&mut self, key: K, outcome: Outcome, rest: Duration, now: Instant) {
        if !rest.is_zero() {
            self.sequence += 1;
            self.resting.insert(key.clone(), now + rest);
            self.rested.insert((now + rest, self.sequence), key.clone());
        }
        let again = self.running.remove(&key).unwrap_or(false);
        let at = match outcome {
            Outcome::Done => {
                self.failures.remove(&key);
                None
            }
            Outcome::Again(at) => {
                self.failures.remove(&key);
                Some(at)
            }
            Outcome::Failed => {
                let failures = self.failures.entry(key.clone()).or_default();
                *failures += 1;
                let factor = 1_u32 << (*failures - 1).min(16);
                Some(now + (FIRST_BACKOFF * factor).min(LONGEST_BACKOFF))
            }
        };
        if again {
            self.add(key);
        } else if let Some(at) = at {
            self.put_off(key, at);
        }
    }

    /// How many keys could be taken.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// When the earliest key that waits for its time is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.later.first_key_value().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_key_added_twice_is_taken_once_and_in_order() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        for key in ["a", "b", "a"] {
            queue.add(key);
        }
        assert_eq!(queue.take(now), Some("a"));
        assert_eq!(queue.take(now), Some("b"));
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn a_key_never_runs_twice_at_a_time_and_is_looked_at_again_when_it_was_added_meanwhile() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("a");
        assert_eq!(queue.take(now), Some("a"));
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.take(now), None);
        queue.done("a", Outcome::Done, Duration::ZERO, now);
        assert_eq!(queue.take(now), Some("a"));
        queue.done("a", Outcome::Done, Duration::ZERO, now);
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn failures_in_a_row_wait_longer_and_longer_up_to_a_bound() {
        let (mut queue, mut now) = (WorkQueue::default(), Instant::now());
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..14 {
            assert_eq!(queue.take(now), Some("a"));
            queue.done("a", Outcome::Failed, Duration::ZERO, now);
            let due = queue.next_due().unwrap();
            waits.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(waits[..4], [50, 100, 200, 400]);
        assert_eq!(waits[13], 60_000);
        queue.take(now);
        queue.done("a", Outcome::Done, Duration::ZERO, now);
        queue.add("a");
        queue.take(now);
        queue.done("a", Outcome::Failed, Duration::ZERO, now);
        assert_eq!(queue.next_due(), Some(after(now, 50)));
    }

    #[test]
    fn a_change_does_not_wait_for_the_time_of_a_retry() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("a");
        queue.take(now);
        queue.done("a", Outcome::Failed, Duration::ZERO, now);
        assert_eq!(queue.take(now), None);
        queue.add("a");
        assert_eq!(queue.take(now), Some("a"));
        queue.done("a", Outcome::Done, Duration::ZERO, now);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn a_change_during_a_failing_pass_is_looked_at_without_a_wait() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("a");
        queue.take(now);
        queue.add("a");
        queue.done("a", Outcome::Failed, Duration::ZERO, now);
        assert_eq!(queue.take(now), Some("a"));
    }

    #[test]
    fn keys_come_back_when_their_time_has_come() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        for (key, wait) in [("late", 20), ("early", 10)] {
            queue.add(key);
            queue.take(now);
            queue.done(key, Outcome::Again(after(now, wait)), Duration::ZERO, now);
        }
        assert_eq!(queue.next_due(), Some(after(now, 10)));
        assert_eq!(queue.take(after(now, 9)), None);
        assert_eq!(queue.take(after(now, 30)), Some("early"));
        assert_eq!(queue.take(after(now, 30)), Some("late"));
    }

    #[test]
    fn a_resting_key_takes_what_comes_meanwhile_together() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("a");
        queue.take(now);
        queue.add("a");
        queue.done("a", Outcome::Done, Duration::from_millis(10), now);
        queue.add("a");
        assert_eq!(queue.take(after(now, 9)), None);
        assert_eq!(queue.next_due(), Some(after(now, 10)));
        assert_eq!(queue.take(after(now, 10)), Some("a"));
        queue.done("a", Outcome::Done, Duration::from_millis(10), after(now, 10));
        assert_eq!(queue.next_due(), None);
        assert_eq!(queue.take(after(now, 30)), None);
        queue.add("a");
        assert_eq!(queue.take(after(now, 30)), Some("a"));
        assert!(queue.rested.is_empty() && queue.resting.is_empty());
    }

    #[test]
    fn a_change_brings_a_later_time_nearer_but_not_into_the_rest() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("a");
        queue.take(now);
        queue.done("a", Outcome::Again(after(now, 60_000)), Duration::from_millis(10), now);
        queue.add("a");
        assert_eq!(queue.next_due(), Some(after(now, 10)));
        assert_eq!(queue.take(after(now, 10)), Some("a"));
        assert_eq!(queue.next_due(), None);
    }
}
