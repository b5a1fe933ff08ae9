//! The host ports of this node's pods: written where pods are attached, read by the proxy.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::HostPort;

/// Which host ports lead to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHostPorts {
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports of the node that lead there.
    pub ports: Vec<HostPort>,
}

/// A shared handle to the host ports in use, by pod uid. Pods without host ports are not in it.
#[derive(Clone)]
pub struct HostPorts {
    pods: Arc<watch::Sender<BTreeMap<String, PodHostPorts>>>,
}

impl Default for HostPorts {
    fn default() -> Self {
        Self { pods: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
}

impl HostPorts {
    /// Notes a pod's host ports; readers hear of it only when that changes anything.
    pub fn set(&self, pod_uid: &str, ports: PodHostPorts) {
        self.pods.send_if_modified(|pods| {
            if ports.ports.is_empty() {
                return pods.remove(pod_uid).is_some();
            }
            pods.insert(pod_uid.to_owned(), ports.clone()).as_ref() != Some(&ports)
        });
    }

    /// Forgets a pod's host ports.
    pub fn remove(&self, pod_uid: &str) {
        self.pods.send_if_modified(|pods| pods.remove(pod_uid).is_some());
    }

    /// The present host ports, and the news of them.
    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<String, PodHostPorts>> {
        self.pods.subscribe()
    }
}
