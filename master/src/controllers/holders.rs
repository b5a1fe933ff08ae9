//! Who holds what of the cluster, found both ways.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use proto::ObjectKey;

/// Objects, and what each of them holds.
#[derive(Debug)]
pub(super) struct Holders<T> {
    holders: HashMap<T, BTreeSet<ObjectKey>>,
    held: HashMap<ObjectKey, BTreeSet<T>>,
}

impl<T> Default for Holders<T> {
    fn default() -> Self {
        Self { holders: HashMap::new(), held: HashMap::new() }
    }
}

impl<T: Clone + Ord + Hash> Holders<T> {
    /// The holders of something, in the order of their keys.
    pub(super) fn of(&self, what: &T) -> impl Iterator<Item = &ObjectKey> {
        self.holders.get(what).into_iter().flatten()
    }

    /// Says all that an object holds from now on. Returns what is held now and was not, or the other way round.
    pub(super) fn set(&mut self, holder: &ObjectKey, new: BTreeSet<T>) -> Vec<T> {
        let old = self.held.remove(holder).unwrap_or_default();
        let changed: Vec<T> = old.symmetric_difference(&new).cloned().collect();
        for what in &changed {
            let holders = self.holders.entry(what.clone()).or_default();
            if new.contains(what) {
                holders.insert(holder.clone());
            } else {
                holders.remove(holder);
            }
            if holders.is_empty() {
                self.holders.remove(what);
            }
        }
        if !new.is_empty() {
            self.held.insert(holder.clone(), new);
        }
        changed
    }
}
