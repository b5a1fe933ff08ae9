//! Interfaces, addresses and their settings, over rtnetlink.
//!
//! ```text
//!   pod netns              │ node netns
//!   eth0 10.244.1.7/32 ────┼──── kt1f0c… ── kutter0 10.244.1.1/24 ──(routing)── uplink
//!        fd00:10:0:1::7/128│                        fd00:10:0:1::1/64
//!   default via 10.244.1.1,│
//!     via fd00:10:0:1::1   │
//! ```
//!
//! Pods have host addresses (`/32`, `/128`) and know nothing but their gateways: everything they send is
//! routed by the node, also to a pod beside them. That is what lets the rules of the proxy see both
//! directions of every flow without the bridge being made to call into netfilter.
//!
//! Others may make it call (`bridge-nf-call-iptables`, as Docker does). Then the kernel takes the
//! short way from port to port for what a Service sends to a pod on the same bridge. So the ports
//! must not be isolated, and must be in hairpin mode for pods that reach themselves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::time::Duration;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, State,
};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use sha2::{Digest, Sha256};

use super::news::News;
use super::ranges::PodRange;
use super::sysctl;

/// The name of a pod's interface inside the pod.
pub(crate) const POD_INTERFACE: &str = "eth0";
/// What the names of the pods' interfaces on the node begin with.
pub(crate) const VETH_PREFIX: &str = "kt";
/// Every network namespace has its loopback interface under this number.
const LOOPBACK: u32 = 1;

/// A connection to the kernel about links, addresses and routes. Made where it is needed: it costs
/// a few microseconds, and one that is kept can die unnoticed.
pub(crate) struct Links {
    pub(crate) handle: Handle,
}

/// How long an interface may take to pass packets after it was told to.
const UP_PATIENCE: Duration = Duration::from_secs(1);

/// Whether the kernel answered with this errno.
pub(crate) fn is(error: &rtnetlink::Error, errno: nix::errno::Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -(errno as i32))
}

/// Takes one errno as success: what was to be made is there, or what was to go is gone.
pub(crate) fn unless(
    result: Result<(), rtnetlink::Error>,
    errno: nix::errno::Errno,
) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if is(&error, errno) => Ok(()),
        other => other,
    }
}

impl Links {
    /// A connection in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        // Ends by itself with the handle.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Waits until an interface passes packets. The kernel lets it do so a moment after both ends
    /// of a veth pair are up, in a task of its own; what is sent before is lost, and a lost first
    /// packet costs the sender a second.
    pub(crate) async fn wait_until_up(
        &self,
        name: &str,
        news: &mut News,
    ) -> Result<(), rtnetlink::Error> {
        let is_up =
            |link: &LinkMessage| link.attributes.contains(&LinkAttribute::OperState(State::Up));
        let up = async {
            while !self.find(name).await?.is_some_and(|link| is_up(&link)) {
                if news.next().await.is_none() {
                    break;
                }
                news.skip();
            }
            Ok(())
        };
        // It is no reason to fail: the interface comes up in its time.
        tokio::time::timeout(UP_PATIENCE, up).await.unwrap_or(Ok(()))
    }

    /// The interface of this name, if there is one.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<LinkMessage>, rtnetlink::Error> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is(&error, nix::errno::Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The interface of this number, if there is one.
    pub(crate) async fn numbered(
        &self,
        index: u32,
    ) -> Result<Option<LinkMessage>, rtnetlink::Error> {
        let mut found = self.handle.link().get().match_index(index).execute();
        match found.try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is(&error, nix::errno::Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All interfaces.
    pub(crate) async fn all(&self) -> Result<Vec<LinkMessage>, rtnetlink::Error> {
        self.handle.link().get().execute().try_collect().await
    }

    /// All addresses of all interfaces, with the range each is in.
    pub(crate) async fn addresses(&self) -> Result<Vec<InterfaceAddress>, rtnetlink::Error> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await?;
        Ok(messages.iter().filter_map(InterfaceAddress::of).collect())
    }

    /// Makes the bridge with the gateways' addresses, or completes what there is of it. Returns its
    /// interface number.
    pub(crate) async fn ensure_bridge(&self, name: &str, ranges: &[IpNet]) -> Result<u32, Problem> {
        let gateways: Vec<IpAddr> = ranges.iter().map(|range| range.gateway()).collect();
        let link = match self.find(name).await? {
            Some(link) => link,
            None => {
                // A fixed hardware address: otherwise the bridge takes the lowest of its ports',
                // and pods lose their gateway for a while whenever a pod comes or goes.
                let bridge = LinkBridge::new(name).address(mac(&gateways).into()).up().build();
                unless(self.handle.link().add(bridge).execute().await, nix::errno::Errno::EEXIST)?;
                let link = self.find(name).await?.ok_or(Problem::Vanished)?;
                self.attach_strays(link.header.index).await?;
                link
            }
        };
        let index = link.header.index;
        if !link.header.flags.contains(LinkFlags::Up) {
            self.set_up(index).await?;
        }
        if gateways.iter().any(IpAddr::is_ipv4) {
            sysctl::silence_redirects(name)?;
        }
        if gateways.iter().any(IpAddr::is_ipv6) {
            sysctl::ipv6_of_node(name)?;
        }
        for (gateway, range) in gateways.into_iter().zip(ranges) {
            self.add_address(index, gateway, range.prefix_len()).await?;
        }
        Ok(index)
    }

    /// Puts the pods' interfaces that are on no bridge on this one: theirs was taken away.
    async fn attach_strays(&self, bridge: u32) -> Result<(), rtnetlink::Error> {
        for link in self.all().await? {
            let Some(name) = name_of(&link).filter(|name| name.starts_with(VETH_PREFIX)) else {
                continue;
            };
            if controller_of(&link).is_some() {
                continue;
            }
            let attached =
                LinkUnspec::new_with_index(link.header.index).controller(bridge).up().build();
            let attached = self.handle.link().change(attached).execute().await;
            // It may go just now, with its pod.
            unless(attached, nix::errno::Errno::ENODEV)?;
            unless(self.let_through_hairpins(name).await, nix::errno::Errno::ENODEV)?;
        }
        Ok(())
    }

    /// Gives an interface an address that nobody else has, unless it has it.
    pub(crate) async fn add_address(
        &self,
        interface: u32,
        address: IpAddr,
        prefix_len: u8,
    ) -> Result<(), rtnetlink::Error> {
        let mut request = self.handle.address().add(interface, address, prefix_len);
        if address.is_ipv6() {
            // It counts at once, instead of after a second in which others might object.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        unless(request.execute().await, nix::errno::Errno::EEXIST)
    }

    /// Makes a veth pair: one end on the bridge, the other in the pod's network namespace.
    pub(crate) async fn add_veth(&self, veth: &Veth<'_>) -> Result<(), rtnetlink::Error> {
        let inside = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_INTERFACE)
            .mtu(veth.mtu)
            // Follows from the address, so that nobody has a stale neighbour entry when the
            // address is given to another pod.
            .address(mac(veth.addresses).into())
            .setns_by_fd(veth.netns)
            .build();
        let outside = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(veth.name)
            .mtu(veth.mtu)
            .controller(veth.bridge)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
            .up()
            .build();
        self.handle.link().add(outside).execute().await?;
        self.let_through_hairpins(veth.name).await
    }

    /// Lets what comes through a port of the bridge leave by it: a pod may reach itself.
    async fn let_through_hairpins(&self, name: &str) -> Result<(), rtnetlink::Error> {
        let port = LinkMessageBuilder::<LinkBridgePort>::default()
            .set_port_kind(InfoPortKind::Bridge)
            .name(name)
            .hairpin(true)
            .build();
        self.handle.link().set_port(port).execute().await
    }

    /// Removes an interface, if it is there.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), rtnetlink::Error> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        let removed = self.handle.link().del(link.header.index).execute().await;
        unless(removed, nix::errno::Errno::ENODEV)
    }

    /// Tells the node at which hardware address a pod is, so that nobody asks the one before it.
    pub(crate) async fn introduce(&self, veth: &Veth<'_>) -> Result<(), rtnetlink::Error> {
        // IPv4 addresses have theirs for good.
        for address in veth.addresses.iter().filter(|address| address.is_ipv6()) {
            let neighbours = self.handle.neighbours();
            let entry = neighbours
                .add(veth.bridge, *address)
                .link_layer_address(&mac(veth.addresses))
                // To be used, looked after, and forgotten as if it had been asked for.
                .state(NeighbourState::Stale)
                .replace();
            entry.execute().await?;
        }
        Ok(())
    }

    /// Inside a pod's namespace: its addresses, its loopback interface and the ways out.
    pub(crate) async fn set_up_pod(
        &self,
        addresses: &[IpAddr],
        gateways: &[IpAddr],
    ) -> Result<(), Problem> {
        let index = self.find(POD_INTERFACE).await?.ok_or(Problem::Vanished)?.header.index;
        for address in addresses {
            self.add_address(index, *address, host_prefix(*address)).await?;
        }
        self.set_loopback_up().await?;
        self.set_up(index).await?;
        for gateway in gateways {
            // Only a pod with an address of a family has a way out in it.
            if addresses.iter().any(|address| address.is_ipv6() == gateway.is_ipv6()) {
                self.add_way_out(index, *gateway).await?;
            }
        }
        Ok(())
    }

    /// Lets processes of a namespace talk to each other.
    pub(crate) async fn set_loopback_up(&self) -> Result<(), rtnetlink::Error> {
        self.set_up(LOOPBACK).await
    }

    async fn set_up(&self, interface: u32) -> Result<(), rtnetlink::Error> {
        let up = LinkUnspec::new_with_index(interface).up().build();
        self.handle.link().change(up).execute().await
    }

    async fn add_way_out(&self, interface: u32, gateway: IpAddr) -> Result<(), rtnetlink::Error> {
        let (to_gateway, default) = match gateway {
            IpAddr::V4(gateway) => {
                let route = || RouteMessageBuilder::<Ipv4Addr>::new().output_interface(interface);
                let direct = route().destination_prefix(gateway, 32).scope(RouteScope::Link);
                (direct.build(), route().gateway(gateway).build())
            }
            IpAddr::V6(gateway) => {
                let route = || RouteMessageBuilder::<Ipv6Addr>::new().output_interface(interface);
                let direct = route().destination_prefix(gateway, 128);
                (direct.build(), route().gateway(gateway).build())
            }
        };
        for route in [to_gateway, default] {
            unless(self.handle.route().add(route).execute().await, nix::errno::Errno::EEXIST)?;
        }
        Ok(())
    }
}

/// Why an interface is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{0}")]
    Netlink(#[from] rtnetlink::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the interface vanished while it was set up")]
    Vanished,
    #[error("{0}")]
    Reason(String),
}

/// A veth pair to be made.
pub(crate) struct Veth<'a> {
    /// Name of the end on the node.
    pub(crate) name: &'a str,
    /// Interface number of the bridge.
    pub(crate) bridge: u32,
    /// Descriptor of the pod's network namespace.
    pub(crate) netns: RawFd,
    /// The addresses the pod will have.
    pub(crate) addresses: &'a [IpAddr],
    /// Largest packet.
    pub(crate) mtu: u32,
}

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnAddress {
    /// The number of the interface that has it.
    pub(crate) interface: u32,
    /// The address.
    pub(crate) address: IpAddr,
    /// Whether it is there to stay, and the first of its range: neither one that changes for privacy,
    /// nor one that is about to go or that somebody else may have.
    pub(crate) lasts: bool,
}

/// The addresses of this machine, in the network namespace of the calling thread.
pub(crate) async fn own_addresses() -> Result<Vec<OwnAddress>, Problem> {
    const PASSING: AddressHeaderFlags = AddressHeaderFlags::Secondary
        .union(AddressHeaderFlags::Deprecated)
        .union(AddressHeaderFlags::Tentative)
        .union(AddressHeaderFlags::Dadfailed);
    let links = Links::open()?;
    let messages: Vec<AddressMessage> =
        links.handle.address().get().execute().try_collect().await?;
    let own = messages.iter().filter_map(|message| {
        let InterfaceAddress { interface, address, range: _ } = InterfaceAddress::of(message)?;
        Some(OwnAddress { interface, address, lasts: !message.header.flags.intersects(PASSING) })
    });
    Ok(own.collect())
}

/// An address of an interface of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    /// The interface's number.
    pub(crate) interface: u32,
    /// The address.
    pub(crate) address: IpAddr,
    /// Who is reached over the interface without a router.
    pub(crate) range: IpNet,
}

impl InterfaceAddress {
    fn of(message: &AddressMessage) -> Option<Self> {
        let find = |local: bool| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
        };
        // On a point-to-point link the local address differs, and the range is around the peer's.
        let peer = find(false);
        let address = find(true).or(peer)?;
        let range = IpNet::new(peer.unwrap_or(address), message.header.prefix_len).ok()?.trunc();
        Some(Self { interface: message.header.index, address, range })
    }
}

/// The name of an interface.
pub(crate) fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The bridge an interface is attached to.
pub(crate) fn controller_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

/// The largest packet an interface carries.
pub(crate) fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// A locally administered hardware address that follows from the IPv4 address among these; without
/// one, from the IPv6 address: so much of its hash as fits.
pub(crate) fn mac(addresses: &[IpAddr]) -> [u8; 6] {
    let of_ipv4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let of_ipv6 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Sha256::digest(address.octets()).first_chunk().copied(),
    });
    let [a, b, c, d] = of_ipv4.or(of_ipv6).unwrap_or_default();
    [0x0a, 0x58, a, b, c, d]
}

/// How many bits say which one address is meant.
fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
