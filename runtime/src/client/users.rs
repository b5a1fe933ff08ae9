//! Which users of the machine those of each sandbox are: ranges out of one supply, none of them given
//! twice. A range is written down with its sandbox, and free again once nothing of that is left.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::{IdRange, SandboxId};

/// So many users and groups a sandbox has: as many as a machine of old had, and as images use.
pub(super) const IDS_PER_SANDBOX: u32 = 65_536;

/// The ranges that are given, and those that are left.
#[derive(Debug)]
pub(super) struct Ranges {
    supply: IdRange,
    given: Mutex<Given>,
}

#[derive(Debug, Default)]
struct Given {
    by_sandbox: HashMap<SandboxId, IdRange>,
    /// Where to look next: what a sandbox has left behind on the machine is not at once another's.
    next: u32,
}

impl Ranges {
    pub(super) fn new(supply: IdRange) -> Ranges {
        Ranges { supply, given: Mutex::default() }
    }

    /// A range for a sandbox, the same if it has one; nothing when all are given.
    pub(super) fn give(&self, sandbox: &SandboxId) -> Option<IdRange> {
        let mut given = self.given();
        if let Some(range) = given.by_sandbox.get(sandbox) {
            return Some(*range);
        }
        let count = self.supply.count / IDS_PER_SANDBOX;
        let next = given.next;
        let range = (0..count)
            .map(|step| (next.wrapping_add(step)) % count)
            .map(|number| IdRange {
                first: self.supply.first + number * IDS_PER_SANDBOX,
                count: IDS_PER_SANDBOX,
            })
            .find(|range| !given.by_sandbox.values().any(|other| overlap(range, other)))?;
        given.next = (range.first - self.supply.first) / IDS_PER_SANDBOX + 1;
        given.by_sandbox.insert(sandbox.clone(), range);
        Some(range)
    }

    /// Takes note of what an earlier life has given, out of whatever supply it had.
    pub(super) fn note(&self, sandbox: &SandboxId, range: IdRange) {
        self.given().by_sandbox.insert(sandbox.clone(), range);
    }

    pub(super) fn take_back(&self, sandbox: &SandboxId) {
        self.given().by_sandbox.remove(sandbox);
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        // Only ever changed in one step, so it is whole whoever panicked.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn overlap(one: &IdRange, other: &IdRange) -> bool {
    let end = |range: &IdRange| u64::from(range.first) + u64::from(range.count);
    u64::from(one.first) < end(other) && u64::from(other.first) < end(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SandboxId {
        SandboxId(name.to_owned())
    }

    fn ranges(sandboxes: u32) -> Ranges {
        Ranges::new(IdRange { first: 1_000_000, count: sandboxes * IDS_PER_SANDBOX })
    }

    #[test]
    fn no_range_is_given_twice_and_all_are_given() {
        let ranges = ranges(3);
        let mut firsts: Vec<u32> =
            ["a", "b", "c"].map(|name| ranges.give(&id(name)).unwrap().first).into();
        assert_eq!(ranges.give(&id("a")).unwrap().first, firsts[0]);
        firsts.dedup();
        assert_eq!(firsts.len(), 3);
        assert_eq!(ranges.give(&id("d")), None);
        ranges.take_back(&id("b"));
        assert_eq!(ranges.give(&id("d")).unwrap().first, firsts[1]);
    }

    #[test]
    fn a_range_is_not_given_again_at_once() {
        let ranges = ranges(3);
        let first = ranges.give(&id("a")).unwrap();
        ranges.take_back(&id("a"));
        assert_ne!(ranges.give(&id("b")).unwrap(), first);
    }

    #[test]
    fn what_was_given_before_counts_also_out_of_another_supply() {
        let ranges = ranges(2);
        ranges.note(&id("old"), IdRange { first: 1_000_001, count: IDS_PER_SANDBOX - 1 });
        assert_eq!(ranges.give(&id("new")).unwrap().first, 1_000_000 + IDS_PER_SANDBOX);
        assert_eq!(ranges.give(&id("newer")), None);
    }
}
