//! Interfaces, addresses and their settings, over rtnetlink.
//!
//! ```text
//!   pod netns              │ node netns
//!   eth0 10.244.1.7/32 ────┼──── kt1f0c… ── kutter0 10.244.1.1/24 ──(routing)── uplink
//!   default via 10.244.1.1 │
//! ```
//!
//! Pods have host addresses (`/32`) and know nothing but their gateway: everything they send is
//! routed by the node, also to a pod beside them. That is what lets the rules of the proxy see both
//! directions of every flow without the bridge being made to call into netfilter.
//!
//! Others may make it call (`bridge-nf-call-iptables`, as Docker does). Then the kernel takes the
//! short way from port to port for what a Service sends to a pod on the same bridge. So the ports
//! must not be isolated, and must be in hairpin mode for pods that reach themselves.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;
use std::time::Duration;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, State,
};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};

use super::news::News;
use super::ranges::PodRange;

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

    /// All interfaces.
    pub(crate) async fn all(&self) -> Result<Vec<LinkMessage>, rtnetlink::Error> {
        self.handle.link().get().execute().try_collect().await
    }

    /// All IPv4 addresses of all interfaces, with the range each is in.
    pub(crate) async fn addresses(&self) -> Result<Vec<InterfaceAddress>, rtnetlink::Error> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let messages: Vec<AddressMessage> = request.execute().try_collect().await?;
        Ok(messages.iter().filter_map(InterfaceAddress::of).collect())
    }

    /// Makes the bridge with the gateway's address, or completes what there is of it. Returns its
    /// interface number.
    pub(crate) async fn ensure_bridge(
        &self,
        name: &str,
        range: Ipv4Net,
    ) -> Result<u32, rtnetlink::Error> {
        let gateway = range.gateway();
        let link = match self.find(name).await? {
            Some(link) => link,
            None => {
                // A fixed hardware address: otherwise the bridge takes the lowest of its ports',
                // and pods lose their gateway for a while whenever a pod comes or goes.
                let bridge = LinkBridge::new(name).address(mac(gateway)).up().build();
                unless(self.handle.link().add(bridge).execute().await, nix::errno::Errno::EEXIST)?;
                self.find(name).await?.ok_or(rtnetlink::Error::RequestFailed)?
            }
        };
        let index = link.header.index;
        if !link.header.flags.contains(LinkFlags::Up) {
            let up = LinkUnspec::new_with_index(index).up().build();
            self.handle.link().change(up).execute().await?;
        }
        let address = self
            .handle
            .address()
            .add(index, IpAddr::V4(gateway), range.prefix_len())
            .execute()
            .await;
        unless(address, nix::errno::Errno::EEXIST)?;
        Ok(index)
    }

    /// Makes a veth pair: one end on the bridge, the other in the pod's network namespace.
    pub(crate) async fn add_veth(&self, veth: &Veth<'_>) -> Result<(), rtnetlink::Error> {
        let inside = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_INTERFACE)
            .mtu(veth.mtu)
            // Follows from the address, so that nobody has a stale neighbour entry when the
            // address is given to another pod.
            .address(mac(veth.address))
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
        let port = LinkMessageBuilder::<LinkBridgePort>::default()
            .set_port_kind(InfoPortKind::Bridge)
            .name(veth.name)
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

    /// Inside a pod's namespace: its address, its loopback interface and the way out. Nothing when
    /// the pod's interface is not there.
    pub(crate) async fn set_up_pod(
        &self,
        address: Ipv4Addr,
        gateway: Ipv4Addr,
    ) -> Result<Option<()>, rtnetlink::Error> {
        use nix::errno::Errno::EEXIST;

        let Some(link) = self.find(POD_INTERFACE).await? else { return Ok(None) };
        let index = link.header.index;
        let address = self.handle.address().add(index, IpAddr::V4(address), 32).execute().await;
        unless(address, EEXIST)?;
        for index in [LOOPBACK, index] {
            let up = LinkUnspec::new_with_index(index).up().build();
            self.handle.link().change(up).execute().await?;
        }
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(index)
            .scope(rtnetlink::packet_route::route::RouteScope::Link)
            .build();
        unless(self.handle.route().add(to_gateway).execute().await, EEXIST)?;
        let default =
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
        unless(self.handle.route().add(default).execute().await, EEXIST)?;
        Ok(Some(()))
    }
}

/// A veth pair to be made.
pub(crate) struct Veth<'a> {
    /// Name of the end on the node.
    pub(crate) name: &'a str,
    /// Interface number of the bridge.
    pub(crate) bridge: u32,
    /// Descriptor of the pod's network namespace.
    pub(crate) netns: RawFd,
    /// The address the pod will have.
    pub(crate) address: Ipv4Addr,
    /// Largest packet.
    pub(crate) mtu: u32,
}

/// An IPv4 address of an interface of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    /// The interface's number.
    pub(crate) interface: u32,
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// Who is reached over the interface without a router.
    pub(crate) range: Ipv4Net,
}

impl InterfaceAddress {
    fn of(message: &AddressMessage) -> Option<Self> {
        let find = |local: bool| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) if local => Some(*address),
                AddressAttribute::Address(IpAddr::V4(address)) if !local => Some(*address),
                _ => None,
            })
        };
        // On a point-to-point link the local address differs, and the range is around the peer's.
        let peer = find(false);
        let address = find(true).or(peer)?;
        let range = Ipv4Net::new(peer.unwrap_or(address), message.header.prefix_len).ok()?.trunc();
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

/// A locally administered hardware address that follows from an IPv4 address.
fn mac(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x0a, 0x58, a, b, c, d]
}
