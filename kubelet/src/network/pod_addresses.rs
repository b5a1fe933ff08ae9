//! The addresses of this node's pods: written where pods are attached, read by whoever guards them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

/// The addresses of attached pods, by uid.
pub(crate) type Addresses = BTreeMap<String, Vec<IpAddr>>;

/// A shared handle to the addresses in use.
#[derive(Clone)]
pub struct PodAddresses {
    pods: Arc<watch::Sender<Addresses>>,
    /// The pods whose rules are in the kernel; nothing while nobody guards them.
    guarded: Arc<watch::Sender<Option<BTreeSet<String>>>>,
    own_interfaces: bool,
}

impl Default for PodAddresses {
    fn default() -> Self {
        Self {
            pods: Arc::new(watch::Sender::new(Addresses::new())),
            guarded: Arc::new(watch::Sender::new(None)),
            own_interfaces: false,
        }
    }
}

/// The end of who guards the pods.
pub struct PodGuard {
    pub(crate) pods: watch::Receiver<Addresses>,
    guarded: Arc<watch::Sender<Option<BTreeSet<String>>>>,
    /// Whether the pods' interfaces are those of a [`BridgeNetwork`](super::BridgeNetwork).
    pub(crate) own_interfaces: bool,
}

impl PodAddresses {
    /// Of pods whose interfaces are made here.
    pub(super) fn of_own_interfaces() -> Self {
        Self { own_interfaces: true, ..Self::default() }
    }

    pub(crate) fn set(&self, pod_uid: &str, addresses: &[IpAddr]) {
        self.pods.send_if_modified(|pods| {
            let old = pods.insert(pod_uid.to_owned(), addresses.to_vec());
            old.as_deref() != Some(addresses)
        });
    }

    pub(crate) fn remove(&self, pod_uid: &str) {
        self.guarded.send_if_modified(|guarded| {
            guarded.as_mut().is_some_and(|guarded| guarded.remove(pod_uid))
        });
        self.pods.send_if_modified(|pods| pods.remove(pod_uid).is_some());
    }

    /// Waits until the rules for a pod are in the kernel.
    pub(crate) async fn guarded(&self, pod_uid: &str) {
        let mut guarded = self.guarded.subscribe();
        let there = |guarded: &Option<BTreeSet<String>>| {
            guarded.as_ref().is_none_or(|guarded| guarded.contains(pod_uid))
        };
        // The sender lives as long as we do.
        let _ = guarded.wait_for(there).await;
    }

    /// From now on no pod is attached before it is said to be guarded.
    pub fn guard(&self) -> PodGuard {
        self.guarded.send_if_modified(|guarded| {
            guarded.get_or_insert_default();
            false
        });
        PodGuard {
            pods: self.pods.subscribe(),
            guarded: Arc::clone(&self.guarded),
            own_interfaces: self.own_interfaces,
        }
    }
}

impl PodGuard {
    /// The rules for these pods are in the kernel.
    pub(crate) fn guards(&self, pods: impl IntoIterator<Item = String>) {
        self.guarded.send_replace(Some(pods.into_iter().collect()));
    }
}
