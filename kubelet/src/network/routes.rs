//! Routes to the pods of the other nodes, and to the Services.
//!
//! `desired` decides, `sync` performs one pass, `run` loops until shutdown. All our routes carry a
//! protocol number of our own, which is how stale ones are known, also after a crash.
//!
//! A node on one of our segments is the gateway to its pods. What lies beyond a router needs an
//! overlay; [`Reach`] is where that will be told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::links::{InterfaceAddress, Links, VETH_PREFIX, name_of, unless};
use super::news::News;
use super::ranges::{ipv4_ranges, own_ipv4_range};
use super::{NetworkConfig, NetworkError};
use crate::state::{Change, ClusterState, StateHandle};

/// Who made a route: the number is nobody else's (iproute2 lists those in use).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x6b);
/// Pauses between attempts when the kernel refuses: it may be a matter of order (an address that
/// is about to come) or a lasting one.
const RETRY: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    /// Where to.
    pub(crate) destination: Ipv4Net,
    /// Over which node; nothing: right there on the interface.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// The interface's number.
    pub(crate) interface: u32,
}

/// What of the cluster's state routes follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Whether a master has said so since the kubelet started: what was on disk may lack a node.
    pub(crate) confirmed: bool,
    /// The range of this node's pods.
    pub(crate) own_range: Option<Ipv4Net>,
    /// Addresses and pod ranges of the other nodes, by name.
    pub(crate) peers: BTreeMap<String, (Vec<Ipv4Addr>, Vec<Ipv4Net>)>,
    /// Where Services have their addresses.
    pub(crate) service_ranges: Vec<Ipv4Net>,
}

impl View {
    pub(crate) fn of(state: &ClusterState) -> Self {
        let own_range = state.node.as_deref().and_then(own_ipv4_range);
        let peers = state.peers.values().map(|peer| {
            let addresses = peer.addresses.iter().filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            });
            let mut ranges = ipv4_ranges(&peer.pod_cidrs);
            ranges.retain(|range| Some(*range) != own_range);
            (peer.node.clone(), (addresses.collect(), ranges))
        });
        Self {
            confirmed: state.confirmed,
            own_range,
            peers: peers.collect(),
            service_ranges: ipv4_ranges(&state.service_cidrs),
        }
    }
}

/// How another node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// It is on a segment of ours.
    Direct { gateway: Ipv4Addr, interface: u32 },
    /// It is behind a router, which knows nothing of pods.
    Beyond,
}

fn reach(addresses: &[Ipv4Addr], interfaces: &[InterfaceAddress], bridge: u32) -> Reach {
    let on_segment = |address: &Ipv4Addr| {
        interfaces
            .iter()
            .filter(|own| own.interface != bridge && own.range.contains(address))
            .max_by_key(|own| own.range.prefix_len())
            .map(|own| Reach::Direct { gateway: *address, interface: own.interface })
    };
    addresses.iter().find_map(on_segment).unwrap_or(Reach::Beyond)
}

/// The routes there should be, and the names of nodes to which no way is known.
pub(crate) fn desired(
    view: &View,
    interfaces: &[InterfaceAddress],
    bridge: u32,
) -> (BTreeSet<Route>, BTreeSet<String>) {
    // Processes of the node need a route to Services before the rules of the proxy can send them
    // elsewhere. This one also gives them the address under which all pods can answer. What no rule
    // takes ends on the bridge, where nobody has that address.
    let to_services = view.service_ranges.iter().map(|range| Route {
        destination: *range,
        gateway: None,
        interface: bridge,
    });
    let mut routes: BTreeSet<Route> = to_services.collect();
    let mut beyond = BTreeSet::new();
    for (node, (addresses, ranges)) in &view.peers {
        match reach(addresses, interfaces, bridge) {
            Reach::Direct { gateway, interface } => {
                routes.extend(ranges.iter().map(|range| Route {
                    destination: *range,
                    gateway: Some(gateway),
                    interface,
                }));
            }
            Reach::Beyond if ranges.is_empty() => {}
            Reach::Beyond => {
                beyond.insert(node.clone());
            }
        }
    }
    (routes, beyond)
}

/// One change of the kernel's routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteAction {
    /// There is none to this destination; one that is not ours is left alone.
    Add(Route),
    /// One of ours leads elsewhere: exchanged in one step, so that no packet finds none.
    Replace(Route),
    /// Ours, and no longer wanted.
    Remove(Route),
}

/// What leads from the routes that are there to those that should be.
pub(crate) fn reconcile(desired: &BTreeSet<Route>, observed: &BTreeSet<Route>) -> Vec<RouteAction> {
    let wanted: BTreeSet<Ipv4Net> = desired.iter().map(|route| route.destination).collect();
    let there: BTreeSet<Ipv4Net> = observed.iter().map(|route| route.destination).collect();
    let removed = observed
        .iter()
        .filter(|route| !wanted.contains(&route.destination))
        .map(|route| RouteAction::Remove(*route));
    let added = desired.difference(observed).map(|route| {
        if there.contains(&route.destination) {
            RouteAction::Replace(*route)
        } else {
            RouteAction::Add(*route)
        }
    });
    removed.chain(added).collect()
}

/// Keeps the bridge and the routes as the state says, until shutdown.
pub(crate) async fn run(config: &NetworkConfig, state: &StateHandle, shutdown: CancellationToken) {
    let mut changes = state.changes();
    let mut kernel = None;
    let mut beyond = BTreeSet::new();
    let mut retry = *RETRY.start();
    loop {
        if kernel.is_none() {
            kernel = News::of(&GROUPS)
                .inspect_err(|error| warn!(%error, "cannot hear of changed interfaces"))
                .ok();
        }
        let outcome = sync(config, &state.read(View::of)).await;
        let pause = match outcome {
            Ok(now_beyond) => {
                for node in now_beyond.difference(&beyond) {
                    warn!(node, "on no segment of this node: its pods are left to the router");
                }
                beyond = now_beyond;
                retry = *RETRY.start();
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
            () = shutdown.cancelled() => return,
            () = concerning(&mut changes) => {}
            lost = kernel_news(&mut kernel) => if lost { kernel = None },
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
const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];

/// Waits until an interface, address or route changed that is not a pod's; `true`: the connection
/// was lost.
async fn kernel_news(kernel: &mut Option<News>) -> bool {
    let Some(news) = kernel else { return std::future::pending().await };
    loop {
        let Some(message) = news.next().await else { return true };
        let of_pod = match &message.payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
            ) => name_of(link).is_some_and(|name| name.starts_with(VETH_PREFIX)),
            _ => false,
        };
        if !of_pod {
            news.skip();
            return false;
        }
    }
}

/// One pass. Returns the nodes to which no way is known.
async fn sync(config: &NetworkConfig, view: &View) -> Result<BTreeSet<String>, NetworkError> {
    let Some(own_range) = view.own_range else { return Ok(BTreeSet::new()) };
    let during = |what: &'static str| {
        move |error: rtnetlink::Error| NetworkError {
            operation: what.to_owned(),
            reason: error.to_string(),
        }
    };
    let links = Links::open().map_err(|error| NetworkError {
        operation: "open a netlink socket".into(),
        reason: error.to_string(),
    })?;
    let bridge =
        links.ensure_bridge(&config.bridge, own_range).await.map_err(during("make the bridge"))?;
    super::bridge::allow_forwarding().map_err(|error| NetworkError {
        operation: "turn forwarding on".into(),
        reason: error.to_string(),
    })?;
    let interfaces = links.addresses().await.map_err(during("list addresses"))?;
    let observed = ours(&links).await.map_err(during("list routes"))?;
    let (desired, beyond) = desired(view, &interfaces, bridge);
    let mut failed = None;
    for action in reconcile(&desired, &observed) {
        if matches!(action, RouteAction::Remove(_)) && !view.confirmed {
            continue;
        }
        // One route that is refused must not keep the others from being made.
        match apply(&links, action).await {
            Ok(()) => info!(?action, "changed a route"),
            Err(error) => {
                failed = Some(NetworkError {
                    operation: format!("change a route ({action:?})"),
                    reason: error.to_string(),
                });
            }
        }
    }
    failed.map_or(Ok(beyond), Err)
}

async fn apply(links: &Links, action: RouteAction) -> Result<(), rtnetlink::Error> {
    let routes = links.handle.route();
    match action {
        RouteAction::Add(route) => routes.add(message(route)).execute().await,
        RouteAction::Replace(route) => routes.add(message(route)).replace().execute().await,
        RouteAction::Remove(route) => {
            unless(routes.del(message(route)).execute().await, Errno::ESRCH)
        }
    }
}

fn message(route: Route) -> RouteMessage {
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix_len())
        .output_interface(route.interface)
        .protocol(PROTOCOL);
    match route.gateway {
        Some(gateway) => builder.gateway(gateway).build(),
        None => builder.scope(RouteScope::Link).build(),
    }
}

/// The routes we have made, this process or an earlier one.
async fn ours(links: &Links) -> Result<BTreeSet<Route>, rtnetlink::Error> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = links.handle.route().get(all).execute().try_collect().await?;
    let ours = routes.iter().filter(|route| {
        route.header.protocol == PROTOCOL && route.header.table == RouteHeader::RT_TABLE_MAIN
    });
    Ok(ours.filter_map(observed).collect())
}

fn observed(message: &RouteMessage) -> Option<Route> {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut gateway = None;
    let mut interface = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let length = message.header.destination_prefix_length;
    let destination = Ipv4Net::new(destination, length).ok()?;
    Some(Route { destination, gateway, interface: interface? })
}

/// Removes every route of ours.
pub(crate) async fn remove_all(links: &Links) -> Result<(), rtnetlink::Error> {
    for route in ours(links).await? {
        apply(links, RouteAction::Remove(route)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: u32 = 9;

    fn own(interface: u32, text: &str) -> InterfaceAddress {
        let (address, prefix) = text.split_once('/').unwrap();
        let address: Ipv4Addr = address.parse().unwrap();
        let range = Ipv4Net::new(address, prefix.parse().unwrap()).unwrap().trunc();
        InterfaceAddress { interface, address, range }
    }

    fn view(peers: &[(&str, &str, &str)]) -> View {
        let peers = peers.iter().map(|(name, address, range)| {
            ((*name).to_owned(), (vec![address.parse().unwrap()], vec![range.parse().unwrap()]))
        });
        View {
            confirmed: true,
            own_range: Some("10.244.0.0/24".parse().unwrap()),
            peers: peers.collect(),
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        }
    }

    fn text(route: &Route) -> String {
        match route.gateway {
            Some(gateway) => format!("{} via {gateway} dev {}", route.destination, route.interface),
            None => format!("{} dev {}", route.destination, route.interface),
        }
    }

    fn routes(view: &View, interfaces: &[InterfaceAddress]) -> Vec<String> {
        desired(view, interfaces, BRIDGE).0.iter().map(text).collect()
    }

    #[test]
    fn leads_to_pods_over_the_node_they_are_on() {
        let view =
            view(&[("b", "192.168.7.2", "10.244.1.0/24"), ("c", "192.168.7.3", "10.244.2.0/24")]);
        let interfaces = [own(1, "127.0.0.1/8"), own(2, "192.168.7.1/24")];
        assert_eq!(
            routes(&view, &interfaces),
            [
                "10.96.0.0/16 dev 9",
                "10.244.1.0/24 via 192.168.7.2 dev 2",
                "10.244.2.0/24 via 192.168.7.3 dev 2"
            ]
        );
    }

    #[test]
    fn prefers_the_narrowest_segment_and_never_the_bridge() {
        let view = view(&[("b", "192.168.7.2", "10.244.1.0/24")]);
        let interfaces =
            [own(2, "192.168.0.1/16"), own(3, "192.168.7.1/24"), own(BRIDGE, "192.168.7.9/28")];
        assert_eq!(routes(&view, &interfaces)[1], "10.244.1.0/24 via 192.168.7.2 dev 3");
    }

    #[test]
    fn names_nodes_behind_a_router() {
        let view = view(&[("b", "172.16.0.1", "10.244.1.0/24")]);
        let (routes, beyond) = desired(&view, &[own(2, "192.168.7.1/24")], BRIDGE);
        assert_eq!(routes.len(), 1);
        assert_eq!(beyond.into_iter().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn settles_after_one_pass_from_any_start() {
        let interfaces = [own(2, "192.168.7.1/24")];
        let states = [
            view(&[]),
            view(&[("b", "192.168.7.2", "10.244.1.0/24")]),
            view(&[("b", "192.168.7.5", "10.244.1.0/24")]),
            view(&[("b", "192.168.7.5", "10.244.1.0/24"), ("c", "192.168.7.3", "10.244.2.0/24")]),
        ];
        for from in &states {
            for to in &states {
                let mut kernel = desired(from, &interfaces, BRIDGE).0;
                let wanted = desired(to, &interfaces, BRIDGE).0;
                for action in reconcile(&wanted, &kernel) {
                    match action {
                        RouteAction::Add(route) => {
                            assert!(kernel.iter().all(|old| old.destination != route.destination));
                            kernel.insert(route);
                        }
                        RouteAction::Replace(route) => {
                            kernel.retain(|old| old.destination != route.destination);
                            kernel.insert(route);
                        }
                        RouteAction::Remove(route) => assert!(kernel.remove(&route)),
                    }
                }
                assert_eq!(kernel, wanted);
                assert_eq!(reconcile(&wanted, &kernel), []);
            }
        }
    }
}
