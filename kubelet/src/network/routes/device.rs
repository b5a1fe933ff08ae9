//! The kernel's side of the tunnels: VXLAN devices, and what they know of the other nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::tunnel::{Entries, Entry, Mac, Outer, Tunnel};
use crate::network::links::{Links, Problem, mtu_of, unless};
use crate::network::sysctl;

/// The number of our network in the tunnels: any that nobody else has on the same port. It is that
/// of our routes' protocol; flannel's and Cilium's are 1 and 2, Docker's and Calico's begin at 4096.
const NETWORK: u32 = 0x6b;

/// The interface numbers of the devices that are there.
pub(crate) type Devices = BTreeMap<Outer, u32>;

/// The devices that are there, of whatever kind: their names are ours.
pub(crate) async fn devices(links: &Links) -> Result<Devices, rtnetlink::Error> {
    let mut devices = Devices::new();
    for outer in Outer::ALL {
        if let Some(link) = links.find(outer.device()).await? {
            devices.insert(outer, link.header.index);
        }
    }
    Ok(devices)
}

/// Makes a device, or what is missing of it, and enters the nodes at the other ends. What it knows
/// too much stays: a route may still lead there. Returns the interface's number.
pub(crate) async fn ensure(
    links: &Links,
    outer: Outer,
    tunnel: &Tunnel,
    port: u16,
) -> Result<u32, Problem> {
    let name = outer.device();
    let mut found = links.find(name).await?;
    if found.as_ref().is_some_and(|link| !is_as_it_should_be(link, tunnel, port)) {
        // The kernel changes none of this in a device that is there.
        links.remove(name).await?;
        found = None;
    }
    let link = match found {
        Some(link) => link,
        None => make(links, name, tunnel, port).await?,
    };
    let index = link.header.index;
    if !link.header.flags.contains(LinkFlags::Up) || mtu_of(&link) != Some(tunnel.mtu) {
        let change = LinkUnspec::new_with_index(index).mtu(tunnel.mtu).up().build();
        links.handle.link().change(change).execute().await?;
    }
    if tunnel.addresses.iter().any(IpAddr::is_ipv6) {
        sysctl::ipv6_of_node(name)?;
    }
    address(links, index, tunnel).await?;
    let there = entries(links, index).await?;
    for entry in tunnel.entries.missing(&there) {
        enter(links, index, entry).await?;
    }
    Ok(index)
}

/// Removes what a device knows of nodes that are no longer at its other ends.
pub(crate) async fn forget(
    links: &Links,
    index: u32,
    wanted: &Entries,
) -> Result<(), rtnetlink::Error> {
    let there = entries(links, index).await?;
    for entry in wanted.stale(&there) {
        remove(links, index, entry).await?;
    }
    Ok(())
}

/// Removes every device of ours.
pub(crate) async fn remove_all(links: &Links) -> Result<(), rtnetlink::Error> {
    for outer in Outer::ALL {
        links.remove(outer.device()).await?;
    }
    Ok(())
}

fn is_as_it_should_be(link: &LinkMessage, tunnel: &Tunnel, port: u16) -> bool {
    let mac = tunnel.mac();
    let has_mac = link
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::Address(address) if *address == mac.0));
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let vxlan = infos.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(settings)) => Some(settings),
        _ => None,
    });
    let wanted =
        [InfoVxlan::Id(NETWORK), InfoVxlan::Port(port), InfoVxlan::Learning(false), local(tunnel)];
    has_mac && vxlan.is_some_and(|settings| wanted.iter().all(|one| settings.contains(one)))
}

fn local(tunnel: &Tunnel) -> InfoVxlan {
    match tunnel.local {
        IpAddr::V4(address) => InfoVxlan::Local(address),
        IpAddr::V6(address) => InfoVxlan::Local6(address),
    }
}

async fn make(
    links: &Links,
    name: &str,
    tunnel: &Tunnel,
    port: u16,
) -> Result<LinkMessage, rtnetlink::Error> {
    let message = LinkMessageBuilder::<LinkVxlan>::new(name)
        .id(NETWORK)
        .port(port)
        .learning(false)
        .append_info_data(local(tunnel))
        .address(tunnel.mac().0.to_vec())
        .mtu(tunnel.mtu)
        .build();
    unless(links.handle.link().add(message).execute().await, Errno::EEXIST)?;
    let link = links.find(name).await?.ok_or(rtnetlink::Error::RequestFailed)?;
    // Nobody is there to see a link-local address, and what comes with it. Where the machine does
    // without IPv6 there is none.
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let change = LinkUnspec::new_with_index(link.header.index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_address]))
        .build();
    unless(links.handle.link().change(change).execute().await, Errno::EAFNOSUPPORT)?;
    Ok(link)
}

/// Gives a device this node's addresses, and takes others away.
async fn address(links: &Links, index: u32, tunnel: &Tunnel) -> Result<(), rtnetlink::Error> {
    for address in &tunnel.addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        links.add_address(index, *address, length).await?;
    }
    let request = links.handle.address().get().set_link_index_filter(index);
    let there: Vec<AddressMessage> = request.execute().try_collect().await?;
    for message in there {
        let wanted = message.attributes.iter().any(|attribute| match attribute {
            AddressAttribute::Address(address) => tunnel.addresses.contains(address),
            _ => false,
        });
        if !wanted {
            let removed = links.handle.address().del(message).execute().await;
            unless(removed, Errno::EADDRNOTAVAIL)?;
        }
    }
    Ok(())
}

/// What a device knows.
async fn entries(links: &Links, index: u32) -> Result<Entries, rtnetlink::Error> {
    let mut entries = Entries::default();
    for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
        let mut found = links.handle.neighbours().get().set_address_family(family).execute();
        while let Some(message) = found.try_next().await? {
            if message.header.ifindex != index {
                continue;
            }
            match entry(&message) {
                Some(Entry::Neighbour(gateway, mac)) => {
                    entries.neighbours.insert(gateway, mac);
                }
                Some(Entry::Forwarding(mac, node)) => {
                    entries.forwarding.insert(mac, node);
                }
                None => {}
            }
        }
    }
    Ok(entries)
}

/// An entry that somebody made, other than what the kernel finds out: that goes for neighbours only,
/// since the device learns nothing.
fn entry(message: &NeighbourMessage) -> Option<Entry> {
    let is_forwarding = message.header.family == AddressFamily::Bridge;
    if !is_forwarding && message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut mac, mut to) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::Destination(address) => to = ip(address),
            _ => {}
        }
    }
    let (mac, to) = (Mac(mac?), to?);
    Some(if is_forwarding { Entry::Forwarding(mac, to) } else { Entry::Neighbour(to, mac) })
}

fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some(IpAddr::V4(*address)),
        NeighbourAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        // In forwarding tables the length says which.
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    }
}

async fn enter(links: &Links, index: u32, entry: Entry) -> Result<(), rtnetlink::Error> {
    let neighbours = links.handle.neighbours();
    match entry {
        Entry::Neighbour(gateway, mac) => {
            neighbours.add(index, gateway).link_layer_address(&mac.0).replace().execute().await
        }
        Entry::Forwarding(mac, node) => {
            let request = neighbours.add_bridge(index, &mac.0).destination(node);
            request.flags(NeighbourFlags::Own).replace().execute().await
        }
    }
}

async fn remove(links: &Links, index: u32, entry: Entry) -> Result<(), rtnetlink::Error> {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    match entry {
        Entry::Neighbour(gateway, _) => {
            let v4 = gateway.is_ipv4();
            message.header.family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
            message.attributes.push(NeighbourAttribute::Destination(gateway.into()));
        }
        Entry::Forwarding(mac, node) => {
            message.header.family = AddressFamily::Bridge;
            message.header.flags = NeighbourFlags::Own;
            message.attributes.extend([
                NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
                NeighbourAttribute::Destination(node.into()),
            ]);
        }
    }
    unless(links.handle.neighbours().del(message).execute().await, Errno::ENOENT)
}
