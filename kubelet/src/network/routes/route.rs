//! A route of ours: what leads from those that are there to those that should be, and how the
//! kernel is told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};

use super::device::{Devices, devices};
use super::tunnel::Outer;
use crate::network::links::{Links, unless};

/// Who made a route: the number is nobody else's (iproute2 lists those in use).
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x6b);
/// Nearly the worst there is: such a route is for what no other route of the same range takes.
const LAST_RESORT: u32 = u32::MAX - 1;

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    /// Where to.
    pub(crate) destination: IpNet,
    /// Which way.
    pub(crate) way: Way,
}

/// Which way packets go. Interfaces are told by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Over another node on a segment of this one.
    Node { gateway: IpAddr, interface: u32 },
    /// Right there on the interface.
    Link { interface: u32 },
    /// Through a tunnel, to the node that has this gateway; packets have at most so many bytes.
    Tunnel { outer: Outer, gateway: IpAddr, mtu: u32 },
    /// Nowhere: the sender is told that nobody is reached.
    Nowhere,
}

impl Route {
    /// The kernel has one route in each slot.
    fn slot(&self) -> (IpNet, bool) {
        (self.destination, self.way == Way::Nowhere)
    }

    /// Nothing for a way through a tunnel that is not there.
    fn message(&self, devices: &Devices) -> Option<RouteMessage> {
        let (network, length) = (self.destination.network(), self.destination.prefix_len());
        let mut message = match network {
            IpAddr::V4(network) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(network, length).build()
            }
            IpAddr::V6(network) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(network, length).build()
            }
        };
        message.header.protocol = PROTOCOL;
        match self.way {
            Way::Node { gateway, interface } => message
                .attributes
                .extend([RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(interface)]),
            Way::Link { interface } => {
                message.header.scope = RouteScope::Link;
                message.attributes.push(RouteAttribute::Oif(interface));
            }
            Way::Tunnel { outer, gateway, mtu } => {
                // The gateway is on no network of ours; where it is, the tunnel's entries say.
                message.header.flags |= RouteFlags::Onlink;
                message.attributes.extend([
                    RouteAttribute::Gateway(gateway.into()),
                    RouteAttribute::Oif(*devices.get(&outer)?),
                    RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]),
                ]);
            }
            Way::Nowhere => {
                message.header.kind = RouteType::Unreachable;
                message.attributes.push(RouteAttribute::Priority(LAST_RESORT));
            }
        }
        Some(message)
    }

    fn of(message: &RouteMessage, devices: &Devices) -> Option<Self> {
        let destination = destination(message)?;
        let (mut gateway, mut interface, mut mtu) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Gateway(address) => gateway = Some(ip(address)?),
                RouteAttribute::Oif(index) => interface = Some(*index),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let tunnel = devices.iter().find(|(_, index)| Some(**index) == interface);
        // The kernel names an interface for IPv6 routes that lead nowhere, too.
        let way = match (message.header.kind, gateway, tunnel) {
            (RouteType::Unreachable, ..) => Way::Nowhere,
            (_, Some(gateway), Some((outer, _))) => {
                Way::Tunnel { outer: *outer, gateway, mtu: mtu.unwrap_or_default() }
            }
            (_, Some(gateway), None) => Way::Node { gateway, interface: interface? },
            (_, None, _) => Way::Link { interface: interface? },
        };
        Some(Self { destination, way })
    }
}

/// Where a route leads; nothing for other protocols than IP.
pub(crate) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let told = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    let address = match (told, message.header.address_family) {
        (Some(address), _) => ip(address)?,
        (None, AddressFamily::Inet) => Ipv4Addr::UNSPECIFIED.into(),
        (None, AddressFamily::Inet6) => Ipv6Addr::UNSPECIFIED.into(),
        (None, _) => return None,
    };
    IpNet::new(address, message.header.destination_prefix_length).ok()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
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
    let wanted: BTreeSet<_> = desired.iter().map(Route::slot).collect();
    let there: BTreeSet<_> = observed.iter().map(Route::slot).collect();
    let removed = observed
        .iter()
        .filter(|route| !wanted.contains(&route.slot()))
        .map(|route| RouteAction::Remove(*route));
    let added = desired.difference(observed).map(|route| {
        if there.contains(&route.slot()) {
            RouteAction::Replace(*route)
        } else {
            RouteAction::Add(*route)
        }
    });
    removed.chain(added).collect()
}

/// Nothing is done about a route through a tunnel that is not there.
pub(crate) async fn apply(
    links: &Links,
    devices: &Devices,
    action: RouteAction,
) -> Result<(), rtnetlink::Error> {
    let (RouteAction::Add(route) | RouteAction::Replace(route) | RouteAction::Remove(route)) =
        action;
    let Some(message) = route.message(devices) else { return Ok(()) };
    let routes = links.handle.route();
    match action {
        RouteAction::Add(_) => routes.add(message).execute().await,
        RouteAction::Replace(_) => routes.add(message).replace().execute().await,
        RouteAction::Remove(_) => unless(routes.del(message).execute().await, Errno::ESRCH),
    }
}

/// The routes we have made, this process or an earlier one.
pub(crate) async fn ours(
    links: &Links,
    devices: &Devices,
) -> Result<BTreeSet<Route>, rtnetlink::Error> {
    let mut ours = BTreeSet::new();
    for all in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let mut routes = links.handle.route().get(all).execute();
        while let Some(message) = routes.try_next().await? {
            if is_ours(&message) {
                ours.extend(Route::of(&message, devices));
            }
        }
    }
    Ok(ours)
}

/// Whether somebody with our number made a route. What the kernel notes of a path, such as its MTU,
/// has the number of the route that it comes from.
fn is_ours(message: &RouteMessage) -> bool {
    message.header.protocol == PROTOCOL
        && message.header.table == RouteHeader::RT_TABLE_MAIN
        && !message.header.flags.contains(RouteFlags::Cloned)
}

/// Removes every route of ours.
pub(crate) async fn remove_all(links: &Links) -> Result<(), rtnetlink::Error> {
    let devices = devices(links).await?;
    for route in ours(links, &devices).await? {
        apply(links, &devices, RouteAction::Remove(route)).await?;
    }
    Ok(())
}
