//! The network of one node: a bridge, and a veth pair per pod.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{HostPort, HostPorts, NetworkError, PodNetwork};
use crate::state::StateHandle;

/// How a node's pod network is called and where it is remembered.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the bridge all pods of the node are attached to, as `kutter0`.
    pub bridge: String,
    /// Where the addresses in use are kept. What is here lives as long as the network namespaces
    /// of the pods, so a folder below the run dir is right.
    pub state_dir: PathBuf,
}

/// A bridge per node, a veth pair per pod, a route per peer.
pub struct BridgeNetwork {
    config: NetworkConfig,
    state: StateHandle,
    host_ports: HostPorts,
}

impl BridgeNetwork {
    /// The network of this node. Reads which addresses are in use; touches no interface yet.
    pub fn new(config: NetworkConfig, state: StateHandle) -> Result<Self, NetworkError> {
        Ok(Self { config, state, host_ports: HostPorts::default() })
    }

    /// The host ports of the pods attached here, for the proxy.
    pub fn host_ports(&self) -> HostPorts {
        self.host_ports.clone()
    }

    /// Keeps the bridge and the routes to the other nodes' pods as the state says, until shutdown.
    pub async fn run(&self, shutdown: CancellationToken) {
        let _ = (&self.config, &self.state);
        shutdown.cancelled().await;
    }
}

#[async_trait::async_trait]
impl PodNetwork for BridgeNetwork {
    async fn attach(
        &self,
        pod_uid: &str,
        _netns: &Path,
        _ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, NetworkError> {
        Err(NetworkError { operation: format!("attach {pod_uid}"), reason: "unwritten".into() })
    }

    async fn detach(&self, _pod_uid: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn retain(&self, _alive: &[String]) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// Removes all that a [`BridgeNetwork`] of this configuration has made in the kernel.
pub async fn teardown(_config: &NetworkConfig) -> Result<(), NetworkError> {
    Ok(())
}
