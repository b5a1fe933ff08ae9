//! The node's DNS server: the cluster's names out of what the node knows, all others from the host's
//! resolvers.
//!
//! ```text
//! state ──changes──▶ names ──▶ zone (pure) ─┐
//!                                           ├─▶ serve: UDP and TCP at the bridge's address
//! host's resolvers ◀── forward (cache) ─────┘
//! ```
//!
//! It answers where the pods' gateway is, so that a question leaves the node only when its answer is
//! elsewhere, and works while no master can be reached.

mod forward;
mod message;
mod names;
mod serve;
mod zone;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::forward::Forward;
use self::names::Names;
use self::serve::Server;
use self::zone::Zone;
use crate::network::{ipv4_ranges, own_range};
use crate::state::{Change, ClusterState, StateHandle};

/// Where servers of names listen.
const PORT: u16 = 53;
/// Between attempts to listen.
const RETRY: Duration = Duration::from_secs(1);

/// What the answers are made of.
pub(crate) struct Known {
    pub(crate) zone: Zone,
    pub(crate) names: Names,
}

/// The same, followed by one and read by many.
pub(crate) type Shared = Arc<RwLock<Known>>;

/// The address of the node's server, once the node has a range for pods.
pub(crate) fn server_address(state: &ClusterState) -> Option<Ipv4Addr> {
    Some(own_range(state.node.as_deref()?)?.gateway())
}

/// Answers questions until shutdown.
pub async fn run(state: StateHandle, shutdown: CancellationToken) {
    let mut changes = state.changes();
    let mut running: Option<Running> = None;
    loop {
        let zone = state.read(zone_of);
        let same = running.as_ref().zip(zone.as_ref()).is_some_and(|(running, zone)| {
            running.zone.server == zone.server && running.zone.domain == zone.domain
        });
        let mut failed = false;
        if !same {
            // The old one gives its address back first.
            running = None;
            if let Some(zone) = zone {
                match Running::start(&state, zone) {
                    Ok(started) => running = Some(started),
                    Err(error) => {
                        warn!(%error, "cannot answer for names");
                        failed = true;
                    }
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = follow(&mut changes, &state, running.as_ref()) => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// A server, and what it answers from.
struct Running {
    zone: Zone,
    known: Shared,
    _server: Server,
}

impl Running {
    fn start(state: &StateHandle, zone: Zone) -> std::io::Result<Self> {
        let names = state.read(Names::of);
        let known = Arc::new(RwLock::new(Known { zone: zone.clone(), names }));
        let forward = Forward::of_host(zone.server.into());
        let server = Server::start((zone.server, PORT).into(), Arc::clone(&known), forward)?;
        info!(address = %zone.server, domain = %zone.domain, "answering for names");
        Ok(Self { zone, known, _server: server })
    }
}

/// Keeps the names as the state is; returns when the zone itself may be another.
async fn follow(changes: &mut Receiver<Change>, state: &StateHandle, running: Option<&Running>) {
    loop {
        let change = match changes.recv().await {
            Ok(change) => change,
            Err(RecvError::Lagged(_)) => Change::Everything,
            // The sender lives as long as the handle we hold.
            Err(RecvError::Closed) => std::future::pending().await,
        };
        if let Some(running) = running {
            let mut known = running.known.write().unwrap_or_else(PoisonError::into_inner);
            state.read(|state| {
                if known.names.follow(&change, state) {
                    known.names = Names::of(state);
                    known.zone.ranges = zone_of(state).map(|zone| zone.ranges).unwrap_or_default();
                }
            });
        }
        if matches!(change, Change::Everything | Change::Node) {
            return;
        }
    }
}

/// The zone, once the cluster's domain and this node's range are known.
fn zone_of(state: &ClusterState) -> Option<Zone> {
    let server = server_address(state)?;
    if !state.loaded || state.cluster_domain.is_empty() {
        return None;
    }
    let mut domain = Name::from_ascii(&state.cluster_domain).ok()?.to_lowercase();
    domain.set_fqdn(true);
    let ranges = state.pod_cidrs.iter().chain(&state.service_cidrs);
    Some(Zone { domain, ranges: ipv4_ranges(ranges), server })
}
