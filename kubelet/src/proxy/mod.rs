//! The service proxy: Services and endpoint slices, made into rules of the kernel.

use tokio_util::sync::CancellationToken;

use crate::network::HostPorts;
use crate::state::StateHandle;

/// How a node's proxy is set up.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Name of the nftables table, all of which belongs to the proxy.
    pub table: String,
    /// This node's name, as endpoint slices have it.
    pub node_name: String,
    /// The bridge pods are attached to.
    pub bridge: String,
}

/// Why the kernel's rules could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {}

/// Keeps the kernel's rules as the state says, until shutdown. The rules stay.
pub async fn run(
    state: StateHandle,
    host_ports: HostPorts,
    config: ProxyConfig,
    shutdown: CancellationToken,
) {
    let _ = (state, host_ports, config);
    shutdown.cancelled().await;
}

/// Removes the proxy's table.
pub async fn teardown(_config: &ProxyConfig) -> Result<(), ProxyError> {
    Ok(())
}
