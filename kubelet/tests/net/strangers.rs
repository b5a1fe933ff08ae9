//! Who is let into the tunnels between segments: VXLAN itself asks nobody who he is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::ground::{Cluster, Namespace, eventually, is_root};
use crate::segments::{move_to, wait_for_routes};

/// The number of the cluster's network in the tunnels.
const NETWORK: u8 = 0x6b;

/// A datagram of UDP to port 9090 of a pod, in a frame, in VXLAN: what a tunnel carries, by hand.
fn encapsulated(hardware: [u8; 6], source: Ipv4Addr, pod: Ipv4Addr, text: &str) -> Vec<u8> {
    let mut packet = vec![0x08, 0, 0, 0, 0, 0, NETWORK, 0];
    packet.extend(hardware);
    packet.extend([0x0a, 0x6b, 1, 2, 3, 4]);
    packet.extend([0x08, 0x00]);
    let udp = 8 + u16::try_from(text.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend((20 + udp).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend(source.octets());
    header.extend(pod.octets());
    let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    packet.extend(header);
    // Without a checksum, as IPv4 allows.
    packet.extend([9090_u16, 9090, udp, 0].map(u16::to_be_bytes).concat());
    packet.extend(text.as_bytes());
    packet
}

/// Sends a packet as it is.
fn send(from: &Namespace, to: SocketAddr, packet: Vec<u8>) {
    from.run(async move {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await.unwrap();
        socket.send_to(&packet, to).await.unwrap();
    });
}

/// What arrives at port 9090.
fn listen(at: &Namespace) -> UnboundedReceiver<String> {
    let (told, heard) = unbounded_channel();
    at.run(async move {
        let socket = UdpSocket::bind("0.0.0.0:9090").await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(length) = socket.recv(&mut buffer).await {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if told.send(text).is_err() {
                    return;
                }
            }
        });
    });
    heard
}

fn hardware_of(node: &Namespace, device: &str) -> [u8; 6] {
    let link = node.command(&format!("ip -o link show {device}"));
    let (_, text) = link.split_once("link/ether ").unwrap();
    let bytes: Vec<u8> =
        text[..17].split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// The addresses that a tunnel's rules let in.
fn admitted(node: &Namespace, family: &str) -> String {
    node.command(&format!("nft list set {family} kutter-tunnel nodes"))
}

#[test]
fn only_nodes_put_packets_into_a_tunnel() {
    if !is_root("only_nodes_put_packets_into_a_tunnel") {
        return;
    }
    let cluster = Cluster::routed(&[1, 1]);
    wait_for_routes(&cluster);
    let (near, far) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (server, client) = (near.pod("server"), far.pod("client"));
    let outsider = cluster.outsider();
    near.namespace.serve("node", 7070);
    let mut heard = listen(&server.namespace);
    let addresses = |outer: &str, node: usize| -> IpAddr {
        let prefix = if outer == "ip" { "192.168.7" } else { "fd00:7" };
        let middle = if outer == "ip" { ".1" } else { "::1" };
        format!("{prefix}{}{middle}{node}", 7 + node).parse().unwrap()
    };
    for (outer, device) in [("ip", "kutter-vxlan"), ("ip6", "kutter-vxlan6")] {
        move_to(&cluster, |node| vec![addresses(outer, node)]);
        for node in &cluster.nodes {
            eventually(
                "the way through this tunnel",
                || node.routes(),
                |routes| routes.iter().any(|route| route.contains(&format!("dev {device} "))),
            );
        }
        let own = addresses(outer, 0);
        let tunnel = SocketAddr::new(own, 8472);
        let hardware = hardware_of(&near.namespace, device);
        let packet = |text: &str| encapsulated(hardware, client.address, server.address, text);
        // A stranger of the same segment, a pod of this node, and one of the other: what that sends would
        // come from its node's address. Pods here have IPv4 only.
        let pods = [&server.namespace, &client.namespace].into_iter().filter(|_| outer == "ip");
        for stranger in std::iter::once(&outsider).chain(pods) {
            send(stranger, tunnel, packet("stranger"));
            // When this is answered, what was sent before is there.
            stranger.ask_tcp(SocketAddr::new(own, 7070)).unwrap();
        }
        send(&far.namespace, tunnel, packet("node"));
        assert_eq!(heard.blocking_recv().unwrap(), "node", "in {device}");
        assert!(heard.try_recv().is_err(), "in {device}");
    }
    // It was the rules that kept the stranger out.
    near.stop.cancel();
    near.namespace.command("nft delete table ip6 kutter-tunnel");
    let hardware = hardware_of(&near.namespace, "kutter-vxlan6");
    let packet = encapsulated(hardware, client.address, server.address, "stranger");
    send(&outsider, SocketAddr::new(addresses("ip6", 0), 8472), packet);
    assert_eq!(heard.blocking_recv().unwrap(), "stranger");
}

#[test]
fn who_is_let_into_a_tunnel_follows_the_nodes() {
    if !is_root("who_is_let_into_a_tunnel_follows_the_nodes") {
        return;
    }
    let mut cluster = Cluster::routed(&[1, 1]);
    wait_for_routes(&cluster);
    let contains = |address: &'static str| move |list: &String| list.contains(address);
    let look = |cluster: &Cluster| admitted(&cluster.nodes[0].namespace, "ip");
    eventually("the other node", || look(&cluster), contains("192.168.78.11"));

    // It takes another address.
    cluster.nodes[1].namespace.command("ip address add 192.168.78.50/24 dev uplink");
    move_to(&cluster, |node| {
        vec![if node == 0 { "192.168.77.10" } else { "192.168.78.50" }.parse().unwrap()]
    });
    let list = eventually("its new address", || look(&cluster), contains("192.168.78.50"));
    assert!(!list.contains("192.168.78.11"), "{list}");

    // Somebody removes the rules.
    cluster.nodes[0].namespace.command("nft delete table ip kutter-tunnel");
    let tables = || cluster.nodes[0].namespace.command("nft list tables");
    eventually("the rules", tables, |tables| tables.contains("table ip kutter-tunnel"));
    assert!(look(&cluster).contains("192.168.78.50"));

    // A kubelet that no master has told anything yet knows an older state: nobody is shut out for that.
    cluster.restart_with(0, |state| {
        let peer = state.peers.get_mut("node-1").unwrap();
        std::sync::Arc::make_mut(peer).addresses = vec!["192.168.78.60".parse().unwrap()];
    });
    let list = eventually("what it knows", || look(&cluster), contains("192.168.78.60"));
    assert!(list.contains("192.168.78.50"), "{list}");
    cluster.tell(&[kubelet::state::Change::Everything], |state| state.confirmed = true);
    let list = eventually("what is so", || look(&cluster), |list| !list.contains("192.168.78.50"));
    assert!(list.contains("192.168.78.60"), "{list}");

    // Without a node behind a router there is neither tunnel nor rules; nor are there after a teardown.
    move_to(&cluster, |node| vec![format!("192.168.77.1{node}").parse().unwrap()]);
    let tables = || cluster.nodes[0].namespace.command("nft list tables");
    eventually("no rules", tables, |tables| !tables.contains("kutter-tunnel"));
    move_to(&cluster, |node| vec![format!("192.168.7{}.1{node}", 7 + node).parse().unwrap()]);
    eventually("rules again", tables, |tables| tables.contains("ip kutter-tunnel"));
    cluster.nodes[0].teardown();
    let left = tables();
    assert!(left.is_empty(), "{left}");
}
