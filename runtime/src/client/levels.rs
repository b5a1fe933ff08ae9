//! Which categories of SELinux those of each sandbox are: none have the same two. They are written down with the
//! sandbox, and free again once nothing of that is left.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::SandboxId;
use crate::isolation::selinux::Level;

/// The levels that are given.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<HashMap<SandboxId, Level>>);

impl Levels {
    /// A level for a sandbox, the same if it has one. There are half a million: a machine does not run out of them.
    pub(super) fn give(&self, sandbox: &SandboxId) -> Level {
        let mut given = self.given();
        if let Some(level) = given.get(sandbox) {
            return *level;
        }
        // Not in order: what a sandbox has left behind on the machine is not soon another's.
        let mut hasher = DefaultHasher::new();
        sandbox.hash(&mut hasher);
        let first = (hasher.finish() % u64::from(Level::NUMBERS)) as u32;
        let numbers = (0..Level::NUMBERS).map(|step| (first + step) % Level::NUMBERS);
        let free = |level: &Level| !given.values().any(|other| other == level);
        let level = numbers.map(Level::number).find(free).unwrap_or(Level::number(first));
        given.insert(sandbox.clone(), level);
        level
    }

    /// Takes note of what an earlier life has given.
    pub(super) fn note(&self, sandbox: &SandboxId, level: Level) {
        self.given().insert(sandbox.clone(), level);
    }

    pub(super) fn take_back(&self, sandbox: &SandboxId) {
        self.given().remove(sandbox);
    }

    fn given(&self) -> MutexGuard<'_, HashMap<SandboxId, Level>> {
        // Only ever changed in one step, so it is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SandboxId {
        SandboxId(name.to_owned())
    }

    #[test]
    fn a_sandbox_keeps_its_level_and_no_other_gets_it() {
        let levels = Levels::default();
        let level = levels.give(&id("a"));
        assert_eq!(levels.give(&id("a")), level);
        levels.take_back(&id("a"));
        // An earlier life has given the one that this sandbox would have.
        levels.note(&id("old"), level);
        assert_ne!(levels.give(&id("a")), level);
    }
}
