//! Services over IPv6, at every entrance and over both protocols.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::UdpSocket;

use crate::families::{self, NODE, put_endpoints};
use crate::ground::{Namespace, eventually, is_root};
use crate::services::{put_service, service};

/// Addresses of the outside that the Service is given, one of each family.
const EXTERNAL: [&str; 2] = ["198.51.100.1", "2001:db8::1"];

#[test]
fn ipv6_is_served_over_tcp_and_udp_at_every_entrance() {
    if !is_root("ipv6_is_served_over_tcp_and_udp_at_every_entrance") {
        return;
    }
    let cluster = families::node_of(&[families::V4, families::V6]);
    let node = &cluster.nodes[0];
    let pod = |name: &str| families::pod(node, name, &[]);
    let (one, other, client) = (pod("one"), pod("other"), pod("client"));
    let entrances = json!({
        "type": "NodePort", "clusterIPs": ["10.96.0.10", "fd00:96::10"],
        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
        "externalIPs": EXTERNAL,
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 80, "nodePort": 30090},
            {"name": "udp", "protocol": "UDP", "port": 80, "nodePort": 30090},
        ],
    });
    put_service(&cluster, &service("web", Ipv4Addr::new(10, 96, 0, 10), entrances));
    put_endpoints(&cluster, &[&[], &one.addresses[1..]]);
    let outsider = cluster.outsider();
    outsider.command(&format!("ip -6 route add {} via {}", EXTERNAL[1], NODE[1]));
    let (inside, at_node) = ("[fd00:96::10]:80".to_owned(), format!("[{}]:30090", NODE[1]));
    let outside = format!("[{}]:80", EXTERNAL[1]);
    eventually("the service", || client.namespace.ask_tcp(&inside), Result::is_ok).unwrap();
    let ways: [(&str, &Namespace, &String); 6] = [
        ("a pod", &client.namespace, &inside),
        ("a pod", &client.namespace, &at_node),
        ("a pod", &client.namespace, &outside),
        ("the node", &node.namespace, &inside),
        ("outside", &outsider, &at_node),
        ("outside", &outsider, &outside),
    ];
    for (place, from, server) in ways {
        for answer in [from.ask_tcp(server), from.ask_udp(server)] {
            let answer = answer.unwrap_or_else(|error| panic!("{place} to {server}: {error}"));
            assert_eq!(answer.server, "one", "{place} to {server}");
            assert!(answer.client.is_ipv6(), "{place} to {server}: {}", answer.client);
        }
    }
    // Pods see pods, not nodes.
    assert!(client.addresses.contains(&client.namespace.ask_udp(&inside).unwrap().client));

    // Who goes on from one port is led elsewhere when the endpoint is another.
    let sockets: Vec<_> =
        ways.iter().map(|(place, from, server)| (*place, *from, flow(from, server))).collect();
    for (place, from, socket) in &sockets {
        let asked = || goes_on(from, socket);
        eventually(place, asked, |who| who.as_deref() == Some("one"));
    }
    put_endpoints(&cluster, &[&[], &other.addresses[1..]]);
    for (place, from, socket) in &sockets {
        let asked = || goes_on(from, socket);
        eventually(place, asked, |who| who.as_deref() == Some("other"));
    }
}

/// A socket that stays.
fn flow(from: &Namespace, server: &str) -> Arc<UdpSocket> {
    let server: SocketAddr = server.parse().unwrap();
    from.run(async move {
        let socket = UdpSocket::bind("[::]:0").await.unwrap();
        socket.connect(server).await.unwrap();
        Arc::new(socket)
    })
}

/// Who answers at a socket that was asked from before; nobody says nothing for a moment.
fn goes_on(from: &Namespace, socket: &Arc<UdpSocket>) -> Option<String> {
    let socket = Arc::clone(socket);
    from.run(async move {
        socket.send(b"who?").await.ok()?;
        let mut buffer = [0; 256];
        let answer = tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut buffer));
        let length = answer.await.ok()?.ok()?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Some(text.split(' ').next()?.to_owned())
    })
}
