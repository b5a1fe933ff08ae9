//! Routes to the pods of the other nodes, and to the Services.
//!
//! A node on one of our segments is the gateway to its pods. To one behind a router leads a tunnel,
//! since routers know nothing of pods. Which of the two it is is decided for each pair of nodes, by
//! their addresses.
//!
//! `plan` decides which routes and tunnels there should be. `route` and `tunnel` say what leads there
//! from what is there, `device` has the kernel's side of tunnels; `sync` performs one pass, `run` loops
//! until shutdown. All our routes carry a protocol number of our own, which is how stale ones are
//! known, also after a crash; our devices are known by their names.

mod admission;
mod device;
mod plan;
mod route;
#[cfg(test)]
mod tests;
mod tunnel;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::admission::{Admission, senders};
use self::device::Devices;
use self::plan::{Interfaces, Plan};
use self::route::{RouteAction, apply, ours, reconcile};
use self::tunnel::Outer;
use self::view::View;
use super::links::{Links, VETH_PREFIX, mtu_of, name_of};
use super::news::News;
use super::settings::SettingNews;
use super::{NetworkConfig, NetworkError};
use crate::join::Chain;
use crate::nft::Connection;
use crate::state::{Change, StateHandle};

/// Pauses between attempts when the kernel refuses: it may be a matter of order (an address that
/// is about to come) or a lasting one.
const RETRY: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);

/// Keeps the bridge, the routes and the tunnels as the state says, until shutdown.
pub(crate) async fn run(
    config: &NetworkConfig,
    state: &StateHandle,
    connection: Connection,
    shutdown: CancellationToken,
) {
    let mut admission = Admission::new(config.table.clone(), config.vxlan_port, connection);
    let mut changes = state.changes();
    let mut kernel: Option<Kernel> = None;
    let mut devices = Devices::new();
    let mut beyond = BTreeSet::new();
    let mut retry = *RETRY.start();
    loop {
        if kernel.as_ref().is_none_or(|kernel| !kernel.hears_of(&devices)) {
            kernel = Kernel::hear(&devices)
                .inspect_err(|error| warn!(%error, "cannot hear of changed interfaces"))
                .ok();
        }
        let outcome = sync(config, &state.read(View::of), &mut admission).await;
        let pause = match outcome {
            Ok(synced) => {
                for node in synced.beyond.difference(&beyond) {
                    warn!(
                        node,
                        "no way to its pods: neither is it on a segment of this node, nor do both \
                         have addresses of one family that are on an interface; see --node-ip"
                    );
                }
                (beyond, devices) = (synced.beyond, synced.devices);
                retry = *RETRY.start();
                if kernel.as_ref().is_some_and(|kernel| !kernel.hears_of(&devices)) {
                    // What happens to new devices until they are heard of is seen in another pass.
                    continue;
                }
                None
            }
            Err(error) => {
                warn!(%error, retry = ?retry, "the pod network is not as it should be");
                let pause = retry;
                retry = (retry * 2).min(*RETRY.end());
                Some(pause)
            }
        };
        tokio::select! {
            // Whoever removes the tables ends us first, and is not to find them made anew.
            biased;
            () = shutdown.cancelled() => return,
            () = concerning(&mut changes) => {}
            () = admission.meddled() => if !admission.mend(&shutdown).await { return },
            lost = kernel_news(&mut kernel, &devices) => if lost { kernel = None },
            () = async { tokio::time::sleep(pause.unwrap_or_default()).await }, if pause.is_some() => {}
        }
    }
}

/// Waits for a change of the state that routes may follow from.
async fn concerning(changes: &mut tokio::sync::broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(Change::Everything | Change::Peers | Change::Node) | Err(RecvError::Lagged(_)) => {
                return;
            }
            Ok(_) => {}
            // The sender lives as long as the handle we hold.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// What the kernel tells of that routes may follow from.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// What is heard from the kernel.
struct Kernel {
    news: News,
    settings: SettingNews,
    /// Whether that includes the entries of tunnels.
    of_entries: bool,
}

impl Kernel {
    fn hear(devices: &Devices) -> io::Result<Self> {
        let (mut groups, of_entries) = (GROUPS.to_vec(), !devices.is_empty());
        if of_entries {
            // Not without need: there is news of every pod's and neighbour's hardware address.
            groups.push(MulticastGroup::Neigh);
        }
        Ok(Self { news: News::of(&groups)?, settings: SettingNews::new()?, of_entries })
    }

    fn hears_of(&self, devices: &Devices) -> bool {
        self.of_entries || devices.is_empty()
    }
}

/// Waits until something changed that routes may follow from; `true`: the connection was lost.
async fn kernel_news(kernel: &mut Option<Kernel>, devices: &Devices) -> bool {
    let Some(Kernel { news, settings, .. }) = kernel else { return std::future::pending().await };
    loop {
        let message = tokio::select! {
            message = news.next() => message,
            changed = settings.next() => return changed.is_err(),
        };
        let Some(message) = message else { return true };
        let concerns_us = match &message.payload {
            NetlinkPayload::InnerMessage(message) => concerns(message, devices),
            // Some were lost, for instance.
            _ => true,
        };
        if concerns_us {
            news.skip();
            return false;
        }
    }
}

/// Whether routes may follow from it. With every pod come and go an interface, and what the kernel
/// makes for each that has IPv6: a link-local address, and routes for it and to groups.
fn concerns(message: &RouteNetlinkMessage, devices: &Devices) -> bool {
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            !name_of(link).is_some_and(|name| name.starts_with(VETH_PREFIX))
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            !address.attributes.iter().any(|attribute| {
                matches!(attribute, AddressAttribute::Address(address) if is_of_link(address))
            })
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            is_in_main_table(route)
                && !route::destination(route).is_some_and(|range| is_of_link(&range.addr()))
        }
        RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry) => {
            devices.values().any(|index| *index == entry.header.ifindex)
        }
        _ => true,
    }
}

fn is_in_main_table(route: &RouteMessage) -> bool {
    route.header.table == RouteHeader::RT_TABLE_MAIN
}

fn is_of_link(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local() || address.is_multicast())
}

/// What a pass came to.
struct Synced {
    /// The tunnels' devices.
    devices: Devices,
    /// The nodes to which there is no way.
    beyond: BTreeSet<String>,
}

/// One pass.
async fn sync(
    config: &NetworkConfig,
    view: &View,
    admission: &mut Admission,
) -> Result<Synced, NetworkError> {
    if view.own_ranges.is_empty() {
        return Ok(Synced { devices: Devices::new(), beyond: BTreeSet::new() });
    }
    let links = Links::open().map_err(during("open a netlink socket"))?;
    let bridge = links
        .ensure_bridge(&config.bridge, &view.own_ranges)
        .await
        .map_err(during("make the bridge"))?;
    super::sysctl::allow_forwarding(&view.own_ranges).map_err(during("turn forwarding on"))?;
    let interfaces = look(&links, view, bridge).await.map_err(during("list addresses"))?;
    let plan = plan::desired(view, &interfaces);
    let mut devices = device::devices(&links).await.map_err(during("look for tunnels"))?;
    // What is refused must not keep the rest from being made.
    let mut failed = None;
    for (outer, tunnel) in &plan.tunnels {
        // Before the tunnel: there is no moment in which everybody is let in.
        let admitted = admission.admit(*outer, senders(view, *outer), view.confirmed).await;
        if let Err(error) = admitted {
            failed = Some(during("keep strangers out of a tunnel")(Chain(&error)));
            continue;
        }
        match device::ensure(&links, *outer, tunnel, config.vxlan_port).await {
            Ok(index) => {
                if devices.insert(*outer, index) != Some(index) {
                    info!(device = outer.device(), ?tunnel, "made a tunnel");
                }
            }
            Err(error) => failed = Some(during("make a tunnel")(error)),
        }
    }
    failed = follow(&links, view, &plan, &devices).await.err().or(failed);
    if view.confirmed {
        clean_up(&links, &plan, &mut devices).await.map_err(during("clean up tunnels"))?;
        for outer in Outer::ALL.into_iter().filter(|outer| !devices.contains_key(outer)) {
            let dismissed = admission.dismiss(outer).await;
            dismissed.map_err(|error| during("remove the rules of a tunnel")(Chain(&error)))?;
        }
    }
    failed.map_or(Ok(Synced { devices, beyond: plan.beyond }), Err)
}

fn during<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> NetworkError {
    move |error| NetworkError { operation: what.to_owned(), reason: error.to_string() }
}

/// Looks at the interfaces.
async fn look(links: &Links, view: &View, bridge: u32) -> Result<Interfaces, rtnetlink::Error> {
    let addresses = links.addresses().await?;
    let mut interfaces = Interfaces { bridge, addresses, mtus: BTreeMap::new() };
    let uplinks: BTreeSet<u32> =
        view.own_addresses.iter().filter_map(|own| interfaces.with(own)).collect();
    for index in uplinks {
        let mtu = links.numbered(index).await?.as_ref().and_then(mtu_of);
        interfaces.mtus.extend(mtu.map(|mtu| (index, mtu)));
    }
    Ok(interfaces)
}

/// Makes the routes what they should be.
async fn follow(
    links: &Links,
    view: &View,
    plan: &Plan,
    devices: &Devices,
) -> Result<(), NetworkError> {
    let observed = ours(links, devices).await.map_err(during("list routes"))?;
    let mut failed = None;
    for action in reconcile(&plan.routes, &observed) {
        if matches!(action, RouteAction::Remove(_)) && !view.confirmed {
            continue;
        }
        match apply(links, devices, action).await {
            Ok(()) => info!(?action, "changed a route"),
            Err(error) => {
                failed = Some(NetworkError {
                    operation: format!("change a route ({action:?})"),
                    reason: error.to_string(),
                });
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Removes tunnels, and entries in them, that no route leads to any longer.
async fn clean_up(
    links: &Links,
    plan: &Plan,
    devices: &mut Devices,
) -> Result<(), rtnetlink::Error> {
    for (outer, index) in devices.clone() {
        match plan.tunnels.get(&outer) {
            Some(tunnel) => device::forget(links, index, &tunnel.entries).await?,
            None => {
                links.remove(outer.device()).await?;
                devices.remove(&outer);
                info!(device = outer.device(), "removed a tunnel");
            }
        }
    }
    Ok(())
}

/// Removes every route and tunnel of ours, and the rules in these tables.
pub(crate) async fn remove_all(links: &Links, table: &str) -> Result<(), NetworkError> {
    route::remove_all(links).await.map_err(during("remove routes"))?;
    device::remove_all(links).await.map_err(during("remove tunnels"))?;
    let removed = admission::remove_all(table).await;
    removed.map_err(|error| during("remove the rules of tunnels")(Chain(&error)))
}
