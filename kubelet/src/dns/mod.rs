//! The node's DNS server: the cluster's names out of what the node knows, all others from the host's
//! resolvers.
//!
//! ```text
//! state ──changes──▶ names ──▶ zone (pure) ─┐
//!                                           ├─▶ answer ─▶ serve: UDP and TCP at the bridge's addresses
//! host's resolvers ◀── forward (cache) ─────┘
//! ```
//!
//! It answers where the pods' gateway is, so that a question leaves the node only when its answer is
//! elsewhere, and works while no master can be reached.

mod answer;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod label;
mod message;
mod names;
mod seats;
mod serve;
mod zone;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::answer::{Answerer, Known, Shared};
use self::forward::Forward;
use self::names::Names;
use self::serve::{Limits, Server};
use self::zone::Zone;
use crate::network::{PodRange, own_ranges};
use crate::state::{Change, ClusterState, StateHandle};

/// Where servers of names listen.
const PORT: u16 = 53;
/// Between attempts to listen.
const RETRY: Duration = Duration::from_secs(1);

/// The addresses of the node's server, once the node has ranges for pods.
pub(crate) fn server_addresses(state: &ClusterState) -> Vec<IpAddr> {
    let Some(node) = state.node.as_deref() else { return Vec::new() };
    own_ranges(node).into_iter().map(PodRange::gateway).collect()
}

/// Answers questions until shutdown.
pub async fn run(state: StateHandle, shutdown: CancellationToken) {
    let mut changes = state.changes();
    let mut running: Option<Running> = None;
    loop {
        let zone = state.read(zone_of);
        let same = running.as_ref().zip(zone.as_ref()).is_some_and(|(running, zone)| {
            running.zone.servers == zone.servers && running.zone.domain == zone.domain
        });
        let mut failed = false;
        if !same {
            // The old one gives its addresses back first.
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

/// Servers, and what they answer from.
struct Running {
    zone: Zone,
    known: Shared,
    _servers: Vec<Server>,
}

impl Running {
    fn start(state: &StateHandle, zone: Zone) -> std::io::Result<Self> {
        let names = Names::of(state.read(names::objects));
        let known = Arc::new(RwLock::new(Known { zone: zone.clone(), names }));
        let forward = Forward::of_host(zone.servers.clone());
        let answerer = Answerer::new(Arc::clone(&known), forward);
        let limits = Limits::default();
        let servers = zone.servers.iter().map(|address| {
            info!(%address, domain = %zone.domain, "answering for names");
            Server::start((*address, PORT).into(), Arc::clone(&answerer), limits.clone())
        });
        let servers = servers.collect::<std::io::Result<_>>()?;
        Ok(Self { zone, known, _servers: servers })
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
            update(&running.known, &change, state);
        }
        if matches!(change, Change::Everything | Change::Node) {
            return;
        }
    }
}

/// Makes what is known follow a change. Questions are answered meanwhile, but for the moment of the
/// change itself.
fn update(known: &Shared, change: &Change, state: &StateHandle) {
    let write = || known.write().unwrap_or_else(PoisonError::into_inner);
    match change {
        Change::Everything => {
            if let Some(zone) = state.read(zone_of) {
                write().zone = zone;
            }
            // One after the other: neither are all names in memory twice, nor does a question wait for all.
            let objects = state.read(names::objects);
            let renewals =
                known.read().unwrap_or_else(PoisonError::into_inner).names.renewals(objects);
            for renewal in renewals {
                write().names.renew(renewal);
            }
        }
        Change::Node | Change::Peers => {
            if let Some(zone) = state.read(zone_of) {
                write().zone = zone;
            }
        }
        Change::Service(_) | Change::EndpointSlice(_) => {
            state.read(|state| write().names.follow(change, state));
        }
        Change::Pod(_)
        | Change::Mirror(_)
        | Change::ConfigMap(_)
        | Change::Secret(_)
        | Change::NetworkPolicy(_)
        | Change::PolicyPeer(_) => {}
    }
}

/// The zone, once the cluster's domain and this node's range are known.
fn zone_of(state: &ClusterState) -> Option<Zone> {
    let servers = server_addresses(state);
    if servers.is_empty() || !state.loaded || state.cluster_domain.is_empty() {
        return None;
    }
    let mut domain = Name::from_ascii(&state.cluster_domain).ok()?.to_lowercase();
    domain.set_fqdn(true);
    let ranges = state.pod_cidrs.iter().chain(&state.service_cidrs);
    let ranges: Vec<IpNet> = ranges.filter_map(|range| range.parse().ok()).collect();
    let mut hosts: HashSet<IpAddr> =
        state.peers.values().flat_map(|peer| peer.addresses.iter().copied()).collect();
    let own = state.node.iter().flat_map(|node| node.status.iter());
    let own = own.flat_map(|status| status.addresses.iter().flatten());
    hosts.extend(own.filter_map(|address| address.address.parse::<IpAddr>().ok()));
    Some(Zone { domain, ranges, hosts, servers })
}
