//! Nodes on two segments with a router between, which knows nothing of pods.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kubelet::state::Change;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::ground::{Cluster, Namespace, PATIENCE, TestNode, TestPod, eventually, is_root};
use crate::services::{put_service, put_slice, service, slice};

/// Waits until every node has a route to the pods of each other one.
pub(crate) fn wait_for_routes(cluster: &Cluster) {
    let wanted = cluster.nodes.len() + 1;
    for node in &cluster.nodes {
        eventually("routes", || node.routes(), |routes| routes.len() == wanted);
    }
}

fn route(node: &TestNode, range: &str) -> String {
    node.namespace.command(&format!("ip route show {range}")).trim().to_owned()
}

/// Tells every node that the nodes of the cluster have other addresses.
pub(crate) fn move_to(cluster: &Cluster, address: impl Fn(usize) -> Vec<IpAddr>) {
    cluster.tell(&[Change::Peers, Change::Node], |state| {
        for (number, node) in cluster.nodes.iter().enumerate() {
            if let Some(peer) = state.peers.get_mut(&node.name) {
                Arc::make_mut(peer).addresses = address(number);
            } else if let Some(own) = &mut state.node {
                let own = Arc::make_mut(own);
                let listed = address(number).into_iter().map(|address| {
                    serde_json::from_value(
                        json!({"type": "InternalIP", "address": address.to_string()}),
                    )
                });
                let listed: Result<Vec<_>, _> = listed.collect();
                own.status.as_mut().unwrap().addresses = Some(listed.unwrap());
            }
        }
    });
}

/// Sends so much to whoever connects, and counts what it is sent.
fn serve_much(namespace: &Namespace, port: u16, bytes: usize) {
    namespace.run(async move {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut heard = vec![0; bytes];
                if stream.read_exact(&mut heard).await.is_ok() {
                    // The client's patience says whether it arrived.
                    let _ = stream.write_all(&heard).await;
                }
            }
        });
    });
}

/// Sends so much to a server and gets it back.
fn exchange(client: &Namespace, server: SocketAddr, bytes: usize) -> io::Result<()> {
    client.run(async move {
        let work = async move {
            let sent: Vec<u8> = (0..bytes).map(|byte| byte.to_le_bytes()[byte % 3]).collect();
            let mut stream = TcpStream::connect(server).await?;
            stream.write_all(&sent).await?;
            let mut heard = vec![0; bytes];
            stream.read_exact(&mut heard).await?;
            if heard == sent { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
        };
        tokio::time::timeout(PATIENCE, work).await?
    })
}

/// What a socket that speaks to a server is bound to.
fn any(server: &SocketAddr) -> &'static str {
    if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
}

/// Sends a datagram of `size` bytes again and again until the pod is told that it is too large.
/// Returns how many bytes its way carries then.
fn told_path_mtu(client: &TestPod, server: SocketAddr, size: usize) -> String {
    client.namespace.run(async move {
        let socket = UdpSocket::bind(any(&server)).await.unwrap();
        socket.connect(server).await.unwrap();
        let work = async {
            let mut buffer = [0; 1];
            socket.send(&vec![7; size]).await?;
            socket.recv(&mut buffer).await
        };
        let told = tokio::time::timeout(PATIENCE, work).await.expect("nobody says a word");
        assert_eq!(told.unwrap_err().raw_os_error(), Some(nix::errno::Errno::EMSGSIZE as i32));
    });
    client.namespace.command(&format!("ip route get {}", server.ip()))
}

/// Has a datagram of so many bytes answered, if it is not lost.
fn ask_with(client: &Namespace, server: SocketAddr, size: usize) -> io::Result<()> {
    client.run(async move {
        let socket = UdpSocket::bind(any(&server)).await?;
        socket.connect(server).await?;
        socket.send(&vec![7; size]).await?;
        let mut buffer = [0; 256];
        tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await??;
        Ok(())
    })
}

fn at(pod: &TestPod, port: u16) -> SocketAddr {
    (pod.address, port).into()
}

#[test]
fn pods_of_all_segments_reach_each_other_without_nat() {
    if !is_root("pods_of_all_segments_reach_each_other_without_nat") {
        return;
    }
    let cluster = Cluster::routed(&[2, 2]);
    wait_for_routes(&cluster);
    let pods: Vec<TestPod> = cluster.nodes.iter().map(|node| node.pod(&node.name)).collect();
    for (node, pod) in cluster.nodes.iter().zip(&pods) {
        pod.namespace.serve(&node.name, 8080);
    }
    for client in &pods {
        for (node, server) in cluster.nodes.iter().zip(&pods) {
            for answer in [
                client.namespace.ask_tcp(at(server, 8080)).unwrap(),
                client.namespace.ask_udp(at(server, 8080)).unwrap(),
            ] {
                assert_eq!((&answer.server, answer.client), (&node.name, client.address.into()));
            }
        }
    }
    // Which way it goes is decided for each pair.
    let node = &cluster.nodes[0];
    let near = route(node, "10.244.1.0/24");
    assert!(near.contains("via 192.168.77.11 dev uplink") && !near.contains("mtu"), "{near}");
    let far = route(node, "10.244.2.0/24");
    assert!(far.contains("via 10.244.2.1 dev kutter-vxlan") && far.contains("mtu 1450"), "{far}");

    // A node's own programs are answered the way they came.
    let answer = node.namespace.ask_tcp(at(&pods[3], 8080)).unwrap();
    assert_eq!(
        (answer.server.as_str(), answer.client.to_string()),
        ("node-3", "10.244.0.1".into())
    );

    // Nothing floods, and nothing is learnt.
    let link = node.namespace.command("ip -d link show kutter-vxlan");
    assert!(link.contains("nolearning") && link.contains("addrgenmode none"), "{link}");
    let entries = node.namespace.command("bridge fdb show dev kutter-vxlan");
    let mut entries: Vec<&str> = entries.lines().map(str::trim).collect();
    entries.sort_unstable();
    let wanted = [
        "0a:6b:c0:a8:4e:0c dst 192.168.78.12 self permanent",
        "0a:6b:c0:a8:4e:0d dst 192.168.78.13 self permanent",
    ];
    assert_eq!(entries, wanted);
}

#[test]
fn what_is_too_large_for_a_tunnel_is_told_to_the_pod() {
    if !is_root("what_is_too_large_for_a_tunnel_is_told_to_the_pod") {
        return;
    }
    let cluster = Cluster::routed(&[2, 1]);
    wait_for_routes(&cluster);
    let client = cluster.nodes[0].pod("client");
    let (near, far) = (cluster.nodes[1].pod("near"), cluster.nodes[2].pod("far"));
    for pod in [&near, &far] {
        pod.namespace.serve("udp", 8080);
        serve_much(&pod.namespace, 9090, 1 << 20);
    }
    // Pods of one segment have all of their uplink.
    ask_with(&client.namespace, at(&near, 8080), 1472).unwrap();
    exchange(&client.namespace, at(&near, 9090), 1 << 20).unwrap();
    let way = client.namespace.command(&format!("ip route get {}", near.address));
    assert!(!way.contains("mtu"), "{way}");

    let way = told_path_mtu(&client, at(&far, 8080), 1472);
    assert!(way.contains("mtu 1450"), "{way}");
    // Exactly what fits goes through in one piece, and what does not in two.
    ask_with(&client.namespace, at(&far, 8080), 1422).unwrap();
    ask_with(&client.namespace, at(&far, 8080), 1472).unwrap();
    // A pod that was told nothing yet.
    let other = cluster.nodes[0].pod("other");
    exchange(&other.namespace, at(&far, 9090), 1 << 20).unwrap();
    exchange(&cluster.nodes[0].namespace, at(&far, 9090), 1 << 20).unwrap();
}

#[test]
fn a_tunnel_has_room_for_what_its_uplink_carries() {
    if !is_root("a_tunnel_has_room_for_what_its_uplink_carries") {
        return;
    }
    let cluster = Cluster::routed(&[1, 1]);
    wait_for_routes(&cluster);
    let node = &cluster.nodes[0];
    let client = node.pod("client");
    let far = cluster.nodes[1].pod("far");
    serve_much(&far.namespace, 9090, 1 << 20);
    cluster.narrow(1400);
    eventually(
        "a smaller tunnel",
        || route(node, "10.244.1.0/24") + &node.namespace.command("ip link show kutter-vxlan"),
        |text| text.contains("mtu 1350") && !text.contains("mtu 1450"),
    );
    exchange(&client.namespace, at(&far, 9090), 1 << 20).unwrap();
}

#[test]
fn tunnels_are_of_either_family() {
    if !is_root("tunnels_are_of_either_family") {
        return;
    }
    let cluster = Cluster::routed(&[2, 1]);
    wait_for_routes(&cluster);
    let (client, far) = (cluster.nodes[0].pod("client"), cluster.nodes[2].pod("far"));
    far.namespace.serve("far", 8080);
    serve_much(&far.namespace, 9090, 1 << 20);
    // Nodes that know each other by IPv6 only lead to IPv4 pods through tunnels, on one segment too.
    move_to(&cluster, |node| {
        vec![format!("fd00:{}::1{node}", if node < 2 { 77 } else { 78 }).parse().unwrap()]
    });
    for node in &cluster.nodes {
        eventually(
            "routes through the other tunnel",
            || node.routes(),
            |routes| {
                let through = routes.iter().filter(|route| route.contains("dev kutter-vxlan6"));
                through.filter(|route| route.contains("mtu 1430")).count() == 2
            },
        );
        // Nothing leads through the old one any longer.
        eventually(
            "one device",
            || node.namespace.command("ip -o link show type vxlan"),
            |links| links.lines().count() == 1 && links.contains("kutter-vxlan6"),
        );
    }
    let answer = client.namespace.ask_tcp(at(&far, 8080)).unwrap();
    assert_eq!((answer.server.as_str(), answer.client), ("far", client.address.into()));
    exchange(&client.namespace, at(&far, 9090), 1 << 20).unwrap();
}

/// Makes it a cluster of both families, whose nodes are known by these addresses.
fn make_dual(cluster: &Cluster, addresses: impl Fn(usize) -> Vec<IpAddr>) {
    let ranges =
        |number: usize| vec![format!("10.244.{number}.0/24"), format!("fd00:10:0:{number}::/64")];
    cluster.tell(&[Change::Everything], |state| {
        for (number, node) in cluster.nodes.iter().enumerate() {
            if let Some(peer) = state.peers.get_mut(&node.name) {
                Arc::make_mut(peer).pod_cidrs = ranges(number);
            } else if let Some(own) = &mut state.node {
                let spec = Arc::make_mut(own).spec.as_mut().unwrap();
                spec.pod_cidrs = Some(ranges(number));
            }
        }
        state.pod_cidrs = vec!["10.244.0.0/16".into(), "fd00:10::/56".into()];
        state.service_cidrs = vec!["10.96.0.0/16".into(), "fd00:96::/112".into()];
    });
    move_to(cluster, addresses);
}

#[test]
fn pods_of_both_families_reach_each_other_whatever_the_nodes_have() {
    if !is_root("pods_of_both_families_reach_each_other_whatever_the_nodes_have") {
        return;
    }
    let v4 = |node: usize| format!("192.168.{}.1{node}", if node < 2 { 77 } else { 78 });
    let v6 = |node: usize| format!("fd00:{}::1{node}", if node < 2 { 77 } else { 78 });
    // To a node of the same segment, and to one of the other: which ways IPv6 goes, and what they carry.
    for (families, near, far, carries) in [
        ("46", "via fd00:77::11 dev uplink", "dev kutter-vxlan ", 1450),
        ("4", "via fd00:10:0:1::1 dev kutter-vxlan ", "dev kutter-vxlan ", 1450),
        ("6", "via fd00:77::11 dev uplink", "dev kutter-vxlan6 ", 1430),
    ] {
        let cluster = Cluster::routed(&[2, 1]);
        make_dual(&cluster, |node| {
            let of = |family| if family == '4' { v4(node) } else { v6(node) };
            families.chars().map(|family| of(family).parse().unwrap()).collect()
        });
        for (range, wanted) in [("fd00:10:0:1::/64", near), ("fd00:10:0:2::/64", far)] {
            let command = format!("ip -6 route show {range}");
            let node = &cluster.nodes[0].namespace;
            eventually(range, || node.command(&command), |route| route.contains(wanted));
        }
        for node in &cluster.nodes[1..] {
            let command = "ip -6 route show fd00:10::/64";
            eventually("back", || node.namespace.command(command), |route| route.contains("via"));
        }
        let pods: Vec<(Namespace, Vec<IpAddr>)> = cluster
            .nodes
            .iter()
            .map(|node| {
                let namespace = Namespace::new();
                let addresses = node.attach_all(&node.name, &namespace, &[]);
                namespace.serve(&node.name, 8080);
                serve_much(&namespace, 9090, 1 << 20);
                (namespace, addresses)
            })
            .collect();
        let (client, own) = &pods[0];
        for (node, (_, addresses)) in cluster.nodes.iter().zip(&pods).skip(1) {
            for address in addresses {
                let ask = || {
                    client.ask_tcp_within(Duration::from_secs(2), SocketAddr::new(*address, 8080))
                };
                // Neighbours of a namespace just made may not be found at once.
                let answer = eventually("an answer", ask, Result::is_ok).unwrap();
                let as_itself = own.iter().find(|own| own.is_ipv4() == address.is_ipv4()).unwrap();
                assert_eq!((&answer.server, answer.client), (&node.name, *as_itself));
                exchange(client, (*address, 9090).into(), 1 << 20).unwrap();
            }
        }
        let far = pods[2].1.iter().find(|address| address.is_ipv6()).unwrap();
        // What the exchange was told.
        let way = client.command(&format!("ip route get {far}"));
        assert!(way.contains(&format!("mtu {carries}")), "{families}: {way}");
        ask_with(client, (*far, 8080).into(), carries - 48).unwrap();
        ask_with(client, (*far, 8080).into(), 1452).unwrap();
    }
}

/// What the kernel has of a node's ways to others.
fn ways(node: &TestNode) -> String {
    let commands = [
        "ip -o -d link show type vxlan",
        "ip -o address show",
        "ip route show proto 107",
        "ip neighbour show nud permanent",
        "bridge fdb show",
    ];
    let text = commands.map(|command| node.namespace.command(command)).concat();
    // In the kernel's order at any time; whether the bridge has a pod matters to nobody here.
    let concerns = |line: &&str| line.contains("kutter-vxlan") || line.contains("unreachable");
    let mut lines: Vec<&str> = text.lines().filter(concerns).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn tunnels_follow_the_nodes() {
    if !is_root("tunnels_follow_the_nodes") {
        return;
    }
    let mut cluster = Cluster::routed(&[1, 2]);
    wait_for_routes(&cluster);
    let node = &cluster.nodes[0];
    let before = ways(node);
    assert!(
        before.contains("10.244.1.1 dev kutter-vxlan lladdr 0a:6b:c0:a8:4e:0b PERMANENT"),
        "{before}"
    );

    // A node takes another address behind the router.
    let tell = |change: &dyn Fn(&mut kubelet::state::ClusterState)| {
        node.state.write([Change::Peers], change);
    };
    let readdress = |address: &'static str| {
        move |state: &mut kubelet::state::ClusterState| {
            let peer = state.peers.get_mut("node-1").unwrap();
            Arc::make_mut(peer).addresses = vec![address.parse().unwrap()];
        }
    };
    tell(&readdress("192.168.78.99"));
    eventually(
        "the new address",
        || ways(node),
        |ways| {
            ways.contains("10.244.1.1 dev kutter-vxlan lladdr 0a:6b:c0:a8:4e:63 PERMANENT")
                && ways.contains("0a:6b:c0:a8:4e:63 dev kutter-vxlan dst 192.168.78.99")
                && !ways.contains("0a:6b:c0:a8:4e:0b")
        },
    );
    // It comes to this segment, and goes back.
    tell(&readdress("192.168.77.99"));
    eventually(
        "a direct way",
        || ways(node),
        |ways| {
            !ways.contains("10.244.1.0/24 via 10.244.1.1")
                && !ways.contains("10.244.1.1 dev kutter-vxlan lladdr")
                && !ways.contains("0a:6b:c0:a8:4e:63")
        },
    );
    tell(&readdress("192.168.78.11"));
    eventually("as it was", || ways(node), |ways| *ways == before);

    // A kubelet that starts again finds all as it should be, and touches nothing: a device made
    // anew had another number.
    cluster.nodes[0].restart();
    let node = &cluster.nodes[0];
    node.namespace.command("ip route del unreachable 10.244.0.0/16");
    eventually("a pass of the new one", || ways(node), |ways| *ways == before);

    // This node takes another address.
    node.namespace.command("ip address add 192.168.77.50/24 dev uplink");
    move_to(&cluster, |number| match number {
        0 => vec!["192.168.77.50".parse().unwrap()],
        number => vec![format!("192.168.78.1{number}").parse().unwrap()],
    });
    let node = &cluster.nodes[0];
    eventually(
        "a device with it",
        || ways(node),
        |ways| {
            ways.contains("local 192.168.77.50") && ways.contains("10.244.2.0/24 via 10.244.2.1")
        },
    );
    let (client, far) = (node.pod("client"), cluster.nodes[2].pod("far"));
    far.namespace.serve("far", 8080);
    let far = at(&far, 8080);
    let answer = eventually("an answer", || client.namespace.ask_tcp(far), Result::is_ok);
    assert_eq!(answer.unwrap().server, "far");

    // It loses that address for a while, and its way out with it.
    node.namespace.command("ip -4 address flush dev uplink");
    eventually("no device", || node.namespace.command("ip link"), |links| !links.contains("vxlan"));
    node.namespace.command("ip address add 192.168.77.50/24 dev uplink");
    node.namespace.command("ip route add default via 192.168.77.1");
    let answer = eventually("an answer", || client.namespace.ask_tcp(far), Result::is_ok);
    assert_eq!(answer.unwrap().server, "far");

    // All others are gone.
    node.state.write([Change::Peers], |state| state.peers.clear());
    eventually("no device", || node.namespace.command("ip link"), |links| !links.contains("vxlan"));
}

#[test]
fn tunnels_move_to_another_port_with_their_kubelets() {
    if !is_root("tunnels_move_to_another_port_with_their_kubelets") {
        return;
    }
    let mut cluster = Cluster::routed(&[1, 1]);
    wait_for_routes(&cluster);
    let (client, far) = (cluster.nodes[0].pod("client"), cluster.nodes[1].pod("far"));
    far.namespace.serve("far", 8080);
    for node in &mut cluster.nodes {
        assert!(ways(node).contains("dstport 8472"));
        node.network_config.vxlan_port = 4789;
        node.restart();
    }
    for node in &cluster.nodes {
        eventually(
            "the other port",
            || ways(node),
            |ways| ways.contains("dstport 4789") && ways.contains("dev kutter-vxlan onlink"),
        );
    }
    assert_eq!(client.namespace.ask_tcp(at(&far, 8080)).unwrap().server, "far");
}

#[test]
fn tunnels_that_somebody_takes_away_come_back() {
    if !is_root("tunnels_that_somebody_takes_away_come_back") {
        return;
    }
    let cluster = Cluster::routed(&[1, 1]);
    wait_for_routes(&cluster);
    let node = &cluster.nodes[0];
    let (client, far) = (node.pod("client"), cluster.nodes[1].pod("far"));
    far.namespace.serve("far", 8080);
    for harm in [
        "ip link del kutter-vxlan",
        "ip link set kutter-vxlan down",
        "ip link set kutter-vxlan mtu 1500",
        "ip route del 10.244.1.0/24",
        "ip neighbour del 10.244.1.1 dev kutter-vxlan",
        "bridge fdb del 0a:6b:c0:a8:4e:0b dev kutter-vxlan dst 192.168.78.11",
        "bridge fdb append 00:00:00:00:00:00 dev kutter-vxlan dst 192.168.78.66",
        "ip address del 10.244.0.1/32 dev kutter-vxlan",
    ] {
        node.namespace.command(harm);
        let began = std::time::Instant::now();
        eventually(
            harm,
            || ways(node),
            |ways| {
                ways.contains("10.244.1.0/24 via 10.244.1.1 dev kutter-vxlan onlink mtu 1450")
                    && ways.contains("mtu 1450 qdisc")
                    && ways
                        .contains("10.244.1.1 dev kutter-vxlan lladdr 0a:6b:c0:a8:4e:0b PERMANENT")
                    && ways.contains("0a:6b:c0:a8:4e:0b dev kutter-vxlan dst 192.168.78.11")
                    && !ways.contains("192.168.78.66")
                    && ways.contains("inet 10.244.0.1/32")
            },
        );
        eprintln!("{harm}: mended after {:?}", began.elapsed());
        assert_eq!(client.namespace.ask_tcp(at(&far, 8080)).unwrap().server, "far", "{harm}");
    }
    node.teardown();
    let left = node.namespace.command("ip link");
    assert!(!left.contains("kutter"), "{left}");
}

#[test]
fn services_reach_endpoints_on_other_segments() {
    if !is_root("services_reach_endpoints_on_other_segments") {
        return;
    }
    let cluster = Cluster::routed(&[1, 1]);
    wait_for_routes(&cluster);
    let (near, far) = (&cluster.nodes[0], &cluster.nodes[1]);
    // Red Hat's default: a packet whose answer would go another way is dropped.
    for node in &cluster.nodes {
        node.namespace.command("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    }
    let client = near.pod("client");
    let server = far.pod("server");
    server.namespace.serve("server", 8080);
    let ports = json!([{"name": "tcp", "protocol": "TCP", "port": 80, "nodePort": 30080}]);
    let address = Ipv4Addr::new(10, 96, 0, 10);
    put_service(&cluster, &service("web", address, json!({"type": "NodePort", "ports": ports})));
    put_slice(&cluster, &slice("web", &[(server.address, "node-1", true)]));
    let patience = Duration::from_secs(2);
    let ask = |from: &Namespace, to: String| {
        eventually(&to, || from.ask_tcp_within(patience, &to), Result::is_ok).unwrap()
    };
    // A pod is seen as itself, and a node under the address that its pods know.
    let answer = ask(&client.namespace, "10.96.0.10:80".into());
    assert_eq!((answer.server.as_str(), answer.client), ("server", client.address.into()));
    let answer = ask(&near.namespace, "10.96.0.10:80".into());
    assert_eq!(
        (answer.server.as_str(), answer.client.to_string()),
        ("server", "10.244.0.1".into())
    );
    // Somebody outside, by the node that has no endpoint.
    let outsider = cluster.outsider();
    let answer = ask(&outsider, format!("{}:30080", near.address));
    assert_eq!(
        (answer.server.as_str(), answer.client.to_string()),
        ("server", "10.244.0.1".into())
    );
    // The router saw nothing of pods and Services: it has no way to them.
    let router = cluster.router.as_ref().unwrap();
    let refused = router.ask_tcp(at(&server, 8080)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::HostUnreachable, "{refused}");
}
