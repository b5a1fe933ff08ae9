//! The addresses at which the node answers for names. With the bridge they are the pods' gateways; with
//! plugins they are on an interface of their own, to which nothing is attached.

use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::network::links::{Links, Problem};
use crate::network::ranges::{PodRange, own_ranges};
use crate::state::{Change, StateHandle};

/// Between attempts when the kernel refuses.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps these addresses on the interface of this name, until shutdown.
pub async fn keep_addresses_of_names(
    interface: String,
    state: StateHandle,
    shutdown: CancellationToken,
) {
    let mut changes = state.changes();
    loop {
        let ranges = state.read(|state| state.node.as_deref().map(own_ranges)).unwrap_or_default();
        let addresses: Vec<IpNet> =
            ranges.iter().map(|range| IpNet::from(range.gateway())).collect();
        let outcome = give(&interface, &addresses).await;
        if let Err(error) = &outcome {
            warn!(%error, interface, "pods cannot ask this node for names");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = node_changes(&mut changes) => {}
            () = tokio::time::sleep(RETRY), if outcome.is_err() => {}
        }
    }
}

async fn give(interface: &str, addresses: &[IpNet]) -> Result<(), Problem> {
    if addresses.is_empty() {
        return Ok(());
    }
    Links::open()?.ensure_bridge(interface, addresses).await.map(drop)
}

async fn node_changes(changes: &mut tokio::sync::broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(Change::Everything | Change::Node) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            // The sender lives as long as the handle we hold.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
