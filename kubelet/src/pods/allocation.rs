//! What this node has promised its pods of CPU, memory, huge pages and host ports, and whether it can
//! promise more.
//!
//! A pod that is bound to the node is promised what it asks for then. When it asks for something else
//! later (`resize`), it is promised that if there is room: [`decide`] says, and the [`Ledger`] sees to
//! it that no two pods are promised the same room.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::k8s::api::core::v1::{Node, Pod, ResourceRequirements};
use proto::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use tokio::sync::watch;

use super::bounds::Asked;
use super::huge_pages::HugePages;
use super::resources::QosClass;
use super::spec::Role;
use crate::network::HostPort;

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

    /// What running the pod takes beside its containers.
    pub(crate) fn overhead(pod: &Pod) -> Self {
        let list = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref());
        let named = |name| list.and_then(|list| quantity(list, name));
        Self {
            cpu_milli: named("cpu").map_or(0, |cpu| cpu.milli_value()),
            memory: named("memory").map_or(0, |memory| memory.value()),
        }
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

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
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
    book: Arc<Mutex<Book>>,
    freed: watch::Sender<()>,
    asked: watch::Sender<Asked>,
}

#[derive(Default)]
struct Book {
    pods: BTreeMap<String, (QosClass, Amounts)>,
    /// Of those that were promised any.
    pages: BTreeMap<String, HugePages>,
    /// Of those that have any.
    host_ports: BTreeMap<String, Vec<HostPort>>,
    /// Of processors, by class: kept with each change.
    asked: Asked,
}

impl Book {
    fn set(&mut self, uid: &str, place: Option<(QosClass, Amounts)>) {
        let had = match place {
            Some(place) => self.pods.insert(uid.to_owned(), place),
            None => self.pods.remove(uid),
        };
        for (place, sign) in [(had, -1), (place, 1)] {
            let Some((class, amounts)) = place else { continue };
            *self.asked.entry(class).or_default() += sign * amounts.cpu_milli;
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        let asked = watch::Sender::new(Asked::new());
        Self { book: Arc::default(), freed: watch::Sender::new(()), asked }
    }
}

impl Ledger {
    /// Enters what a pod has already, until the entry is dropped.
    pub(crate) fn enter(&self, uid: &str, class: QosClass, amounts: Amounts) -> Entry {
        self.set(&mut self.book(), uid, Some((class, amounts)));
        Entry { ledger: self.clone(), uid: uid.to_owned(), class }
    }

    /// What those of these pods that are in the ledger were promised, and how many they are.
    pub(crate) fn promised_to(&self, is_meant: impl Fn(&str) -> bool) -> (Amounts, usize) {
        let book = self.book();
        let meant = book.pods.iter().filter(|(uid, _)| is_meant(uid));
        let none = (Amounts::default(), 0);
        meant.fold(none, |(sum, count), (_, (_, one))| (sum.plus(*one), count + 1))
    }

    /// What those of these pods that are in the ledger were promised of huge pages.
    pub(crate) fn pages_of(&self, is_meant: impl Fn(&str) -> bool) -> HugePages {
        let mut sum = HugePages::default();
        let book = self.book();
        book.pages.iter().filter(|(uid, _)| is_meant(uid)).for_each(|(_, pages)| sum.add(pages));
        sum
    }

    /// The host ports of those of these pods that are in the ledger.
    pub(crate) fn host_ports_of(&self, is_meant: impl Fn(&str) -> bool) -> Vec<HostPort> {
        let book = self.book();
        let meant = book.host_ports.iter().filter(|(uid, _)| is_meant(uid));
        meant.flat_map(|(_, ports)| ports.iter().cloned()).collect()
    }

    /// What the pods of each class were promised of processors, and the news of it.
    pub(crate) fn asked(&self) -> watch::Receiver<Asked> {
        self.asked.subscribe()
    }

    /// Tells when there is more room than before.
    pub(crate) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in between two steps of a change can panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, book: &mut Book, uid: &str, place: Option<(QosClass, Amounts)>) {
        book.set(uid, place);
        self.asked.send_if_modified(|known| {
            let is_news = *known != book.asked;
            if is_news {
                known.clone_from(&book.asked);
            }
            is_news
        });
    }
}

/// A pod's place in the ledger.
pub(crate) struct Entry {
    ledger: Ledger,
    uid: String,
    class: QosClass,
}

impl Entry {
    /// Enters the huge pages that the pod has beside the rest.
    pub(crate) fn with_pages(self, pages: HugePages) -> Self {
        if pages != HugePages::default() {
            self.ledger.book().pages.insert(self.uid.clone(), pages);
        }
        self
    }

    /// Enters the host ports that the pod has beside the rest.
    pub(crate) fn with_host_ports(self, ports: Vec<HostPort>) -> Self {
        if !ports.is_empty() {
            self.ledger.book().host_ports.insert(self.uid.clone(), ports);
        }
        self
    }

    /// Promises the pod something else, if there is room.
    pub(crate) fn change(&self, wants: Amounts, allocatable: Amounts) -> Result<(), Pending> {
        let mut book = self.ledger.book();
        let had = book.pods.get(&self.uid).map(|(_, had)| *had).unwrap_or_default();
        let others = book.pods.iter().filter(|(uid, _)| **uid != self.uid);
        let others = others.fold(Amounts::default(), |sum, (_, (_, one))| sum.plus(*one));
        decide(had, wants, others, allocatable)?;
        self.ledger.set(&mut book, &self.uid, Some((self.class, wants)));
        drop(book);
        self.ledger.freed.send_replace(());
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        book.pages.remove(&self.uid);
        book.host_ports.remove(&self.uid);
        self.ledger.set(&mut book, &self.uid, None);
        drop(book);
        self.ledger.freed.send_replace(());
    }
}
