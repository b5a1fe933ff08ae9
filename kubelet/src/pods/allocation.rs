//! What this node has promised its pods of CPU and memory, and whether it can promise more.
//!
//! A pod that is bound to the node is promised what it asks for then. When it asks for something else
//! later (`resize`), it is promised that if there is room: [`decide`] says, and the [`Ledger`] sees to
//! it that no two pods are promised the same room.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::k8s::api::core::v1::{Node, ResourceRequirements};
use proto::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use tokio::sync::watch;

use super::spec::Role;

/// CPU in thousandths, memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
}

impl Amounts {
    /// What a pod needs whose containers ask for so much, in the order of their start: all that stay
    /// together, or an init container beside the sidecars before it, whichever is more.
    pub(crate) fn of<'a>(all: impl Iterator<Item = (Role, &'a ResourceRequirements)>) -> Self {
        let (mut staying, mut starting) = (Self::default(), Self::default());
        for (role, resources) in all {
            let asked = Self::asked(resources);
            match role {
                Role::Init => starting = starting.max(staying.plus(asked)),
                Role::Sidecar | Role::Regular => staying = staying.plus(asked),
                Role::Ephemeral => {}
            }
        }
        staying.max(starting)
    }

    fn asked(resources: &ResourceRequirements) -> Self {
        let named = |name| {
            let lists = [resources.requests.as_ref(), resources.limits.as_ref()];
            lists.into_iter().flatten().find_map(|list| quantity(list, name))
        };
        Self {
            cpu_milli: named("cpu").map_or(0, |cpu| cpu.milli_value()),
            memory: named("memory").map_or(0, |memory| memory.value()),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu_milli: self.cpu_milli + other.cpu_milli, memory: self.memory + other.memory }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory: self.memory.max(other.memory),
        }
    }

    /// What a node has for pods; without bounds while it is not known.
    pub(crate) fn allocatable(node: Option<&Node>) -> Self {
        let list = node.and_then(|node| node.status.as_ref()?.allocatable.as_ref());
        let named = |name| list.and_then(|list| quantity(list, name));
        Self {
            cpu_milli: named("cpu").map_or(i64::MAX, |cpu| cpu.milli_value()),
            memory: named("memory").map_or(i64::MAX, |memory| memory.value()),
        }
    }
}

fn quantity(list: &BTreeMap<String, WireQuantity>, name: &str) -> Option<Quantity> {
    Quantity::try_from(list.get(name)?).ok()
}

/// Why a pod is not promised what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// As in the condition `PodResizePending`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The reason of what may be had later.
const DEFERRED: &str = "Deferred";
/// The reason of what this node can never give.
const INFEASIBLE: &str = "Infeasible";

impl Pending {
    /// Whether it is worth asking again when others have gone.
    pub(crate) fn is_deferred(&self) -> bool {
        self.reason == DEFERRED
    }
}

/// Whether a pod that `had` so much can have what it `wants` beside the `others`.
pub(crate) fn decide(
    had: Amounts,
    wants: Amounts,
    others: Amounts,
    allocatable: Amounts,
) -> Result<(), Pending> {
    let resources = [
        ("cpu", had.cpu_milli, wants.cpu_milli, others.cpu_milli, allocatable.cpu_milli),
        ("memory", had.memory, wants.memory, others.memory, allocatable.memory),
    ];
    // What does not grow had room before.
    let growing = || resources.iter().filter(|(_, had, wants, ..)| wants > had);
    for (name, _, wants, _, all) in growing() {
        if wants > all {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {wants}, capacity: {all}"
            );
            return Err(Pending { reason: INFEASIBLE, message });
        }
    }
    for (name, _, wants, others, all) in growing() {
        if wants.saturating_add(*others) > *all {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wants}, used: {others}, \
                 capacity: {all}"
            );
            return Err(Pending { reason: DEFERRED, message });
        }
    }
    Ok(())
}

/// What every pod of this node was promised. Clones are the same ledger.
#[derive(Clone)]
pub(crate) struct Ledger {
    pods: Arc<Mutex<BTreeMap<String, Amounts>>>,
    freed: watch::Sender<()>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { pods: Arc::default(), freed: watch::Sender::new(()) }
    }
}

impl Ledger {
    /// Enters what a pod has already, until the entry is dropped.
    pub(crate) fn enter(&self, uid: &str, amounts: Amounts) -> Entry {
        self.pods().insert(uid.to_owned(), amounts);
        Entry { ledger: self.clone(), uid: uid.to_owned() }
    }

    /// What those of these pods that are in the ledger were promised, and how many they are.
    pub(crate) fn promised_to(&self, is_meant: impl Fn(&str) -> bool) -> (Amounts, usize) {
        let pods = self.pods();
        let meant = pods.iter().filter(|(uid, _)| is_meant(uid));
        meant.fold((Amounts::default(), 0), |(sum, count), (_, one)| (sum.plus(*one), count + 1))
    }

    /// Tells when there is more room than before.
    pub(crate) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Amounts>> {
        // Every change is one step, so it is whole whoever panicked.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pod's place in the ledger.
pub(crate) struct Entry {
    ledger: Ledger,
    uid: String,
}

impl Entry {
    /// Promises the pod something else, if there is room.
    pub(crate) fn change(&self, wants: Amounts, allocatable: Amounts) -> Result<(), Pending> {
        let mut pods = self.ledger.pods();
        let had = pods.get(&self.uid).copied().unwrap_or_default();
        let others = pods.iter().filter(|(uid, _)| **uid != self.uid);
        let others = others.fold(Amounts::default(), |sum, (_, one)| sum.plus(*one));
        decide(had, wants, others, allocatable)?;
        pods.insert(self.uid.clone(), wants);
        drop(pods);
        self.ledger.freed.send_replace(());
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.pods().remove(&self.uid);
        self.ledger.freed.send_replace(());
    }
}
