//! Pods of both families, and of IPv6 alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use kubelet::network::{HostPort, PodNetwork};
use kubelet::node_status::address_beside;
use kubelet::state::Change;
use proto::k8s::api::core::v1::NodeAddress;
use serde_json::json;

use crate::ground::{Answer, Cluster, Namespace, TestNode, attachment, eventually, is_root};
use crate::services::{put_service, put_slice, refused, service, slice};

pub(crate) const V4: &str = "10.244.0.0/24";
pub(crate) const V6: &str = "fd00:10:0:0::/64";
/// The node, and somebody outside of the cluster.
pub(crate) const NODE: [&str; 2] = ["192.168.77.10", "fd00:77::10"];
const OUTSIDER: [&str; 2] = ["192.168.77.200", "fd00:77::200"];

/// A node whose pods have addresses of these ranges.
pub(crate) fn node_of(ranges: &[&str]) -> Cluster {
    let cluster = Cluster::new(1);
    let ranges: Vec<String> = ranges.iter().map(|range| (*range).to_owned()).collect();
    cluster.tell(&[Change::Everything], |state| {
        let mut node = state.node.as_deref().unwrap().clone();
        let spec = node.spec.as_mut().unwrap();
        spec.pod_cidr = ranges.first().cloned();
        spec.pod_cidrs = Some(ranges.clone());
        let internal =
            |address: &str| NodeAddress { type_: "InternalIP".into(), address: address.to_owned() };
        node.status.as_mut().unwrap().addresses = Some(NODE.map(internal).into());
        state.node = Some(Arc::new(node));
        state.pod_cidrs = vec!["10.244.0.0/16".into(), "fd00:10::/56".into()];
        state.service_cidrs = vec!["10.96.0.0/16".into(), "fd00:96::/112".into()];
    });
    cluster
}

pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    pub(crate) addresses: Vec<IpAddr>,
}

pub(crate) fn pod(node: &TestNode, name: &str, ports: &[HostPort]) -> Pod {
    let namespace = Namespace::new();
    let addresses = node.attach_all(name, &namespace, ports);
    namespace.serve(name, 8080);
    Pod { namespace, addresses }
}

fn of_family(addresses: &[IpAddr], like: IpAddr) -> IpAddr {
    *addresses.iter().find(|one| one.is_ipv4() == like.is_ipv4()).unwrap()
}

#[test]
fn pods_have_an_address_of_each_family_the_primary_first() {
    if !is_root("pods_have_an_address_of_each_family_the_primary_first") {
        return;
    }
    for (ranges, expected) in [
        (&[V4, V6][..], &["10.244.0.2", "fd00:10::2"][..]),
        (&[V6, V4], &["fd00:10::2", "10.244.0.2"]),
        (&[V6], &["fd00:10::2"]),
    ] {
        let cluster = node_of(ranges);
        let (a, b) = (pod(&cluster.nodes[0], "a", &[]), pod(&cluster.nodes[0], "b", &[]));
        let addresses: Vec<String> = a.addresses.iter().map(IpAddr::to_string).collect();
        assert_eq!(addresses, expected);
        for address in &b.addresses {
            let server = SocketAddr::new(*address, 8080);
            for answer in [a.namespace.ask_tcp(server), a.namespace.ask_udp(server)] {
                let answer = answer.unwrap();
                assert_eq!(answer.server, "b");
                assert_eq!(answer.client, of_family(&a.addresses, *address), "without NAT");
            }
            let from_node = cluster.nodes[0].namespace.ask_tcp(server).unwrap();
            assert_eq!(from_node.server, "b");
        }
    }
}

#[test]
fn pods_have_no_addresses_that_go_past_the_node_and_hear_of_no_routers() {
    if !is_root("pods_have_no_addresses_that_go_past_the_node_and_hear_of_no_routers") {
        return;
    }
    for ranges in [&[V4][..], &[V4, V6]] {
        let cluster = node_of(ranges);
        let a = pod(&cluster.nodes[0], "a", &[]);
        let shown = a.namespace.command("ip -6 address show dev eth0");
        assert!(!shown.contains("fe80"), "{shown}");
        assert!(!shown.contains("tentative"), "{shown}");
        let of_pod = |setting: &str| {
            let file = format!("/proc/sys/net/ipv6/conf/eth0/{setting}");
            a.namespace.command(&format!("cat {file}")).trim().to_owned()
        };
        assert_eq!(["accept_ra", "accept_redirects", "accept_dad"].map(of_pod), ["0"; 3]);
        let node = &cluster.nodes[0].namespace;
        if ranges.len() == 2 {
            let file = "cat /proc/sys/net/ipv6/conf/kutter0/accept_ra";
            assert_eq!(node.command(file).trim(), "0");
            let shown = node.command("ip -6 address show dev kutter0");
            assert!(shown.contains("fd00:10::1/64") && !shown.contains("tentative"), "{shown}");
        }
    }
}

#[test]
fn a_node_that_forwards_still_hears_of_its_own_routers() {
    if !is_root("a_node_that_forwards_still_hears_of_its_own_routers") {
        return;
    }
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0].namespace;
    let setting =
        |name: &str| node.command(&format!("cat /proc/sys/net/ipv6/conf/{name}")).trim().to_owned();
    node.command("ip link add deaf type veth peer name other");
    node.run(async { std::fs::write("/proc/sys/net/ipv6/conf/deaf/accept_ra", "0").unwrap() });
    assert_eq!(setting("uplink/accept_ra"), "1");
    assert_eq!(setting("all/forwarding"), "0", "IPv4's pods do not ask for it");
    cluster.tell(&[Change::Everything], |state| {
        let mut node = state.node.as_deref().unwrap().clone();
        node.spec.as_mut().unwrap().pod_cidrs = Some(vec![V4.into(), V6.into()]);
        state.node = Some(Arc::new(node));
    });
    eventually("forwarding", || setting("all/forwarding"), |value| value == "1");
    assert_eq!(setting("uplink/accept_ra"), "2", "as before, although the node forwards");
    assert_eq!(setting("deaf/accept_ra"), "0", "as before");
}

#[test]
fn the_outside_sees_the_node_in_both_families() {
    if !is_root("the_outside_sees_the_node_in_both_families") {
        return;
    }
    let cluster = node_of(&[V4, V6]);
    let outsider = cluster.outsider();
    outsider.serve("outsider", 8080);
    let a = pod(&cluster.nodes[0], "a", &[]);
    for (outside, node) in OUTSIDER.into_iter().zip(NODE) {
        let server = SocketAddr::new(outside.parse().unwrap(), 8080);
        // The outsider has no way to pods: only the node can be answered.
        let seen = || a.namespace.ask_tcp(server).map(|answer| answer.client.to_string());
        let seen = eventually("an answer", seen, Result::is_ok).unwrap();
        assert_eq!(seen, node);
    }
}

#[test]
fn host_ports_lead_to_their_pod_in_both_families() {
    if !is_root("host_ports_lead_to_their_pod_in_both_families") {
        return;
    }
    let cluster = node_of(&[V4, V6]);
    let node = &cluster.nodes[0];
    let port = |host_ip: Option<&str>, host_port| HostPort {
        protocol: "TCP".into(),
        host_ip: host_ip.map(|address| address.parse().unwrap()),
        host_port,
        container_port: 8080,
    };
    let _ported = pod(node, "ported", &[port(None, 8888), port(Some(NODE[1]), 9999)]);
    let neighbour = pod(node, "neighbour", &[]);
    let outsider = cluster.outsider();
    for (address, own) in NODE.into_iter().zip(OUTSIDER) {
        let server = SocketAddr::new(address.parse().unwrap(), 8888);
        let asked = || outsider.ask_tcp(server);
        let answer = eventually("the port", asked, Result::is_ok).unwrap();
        assert_eq!((answer.server.as_str(), answer.client.to_string().as_str()), ("ported", own));
        for from in [&neighbour.namespace, &node.namespace] {
            assert_eq!(from.ask_tcp(server).unwrap().server, "ported");
        }
    }
    assert_eq!(outsider.ask_tcp(format!("[{}]:9999", NODE[1])).unwrap().server, "ported");
    let of_other_family = outsider.ask_tcp(format!("{}:9999", NODE[0]));
    assert!(of_other_family.is_err(), "{of_other_family:?}");
    node.detach("ported");
    let refused = || outsider.ask_tcp(format!("[{}]:8888", NODE[1]));
    eventually("refusal", refused, Result::is_err).unwrap_err();
}

#[test]
fn a_host_port_of_one_address_is_another_pods_at_another() {
    if !is_root("a_host_port_of_one_address_is_another_pods_at_another") {
        return;
    }
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    node.namespace.command("ip address add 192.168.77.50/24 dev uplink");
    let outsider = cluster.outsider();
    let at = |address: &str| -> Vec<HostPort> {
        let port = |protocol: &str| HostPort {
            protocol: protocol.into(),
            host_ip: Some(address.parse().unwrap()),
            host_port: 8888,
            container_port: 8080,
        };
        vec![port("TCP"), port("UDP")]
    };
    let first = node.pod_with_ports("first", &at(NODE[0]));
    let second = node.pod_with_ports("second", &at("192.168.77.50"));
    let neighbour = node.pod("neighbour");
    first.namespace.serve("first", 8080);
    second.namespace.serve("second", 8080);
    let ports = [("first", "192.168.77.10:8888"), ("second", "192.168.77.50:8888")];
    for (name, server) in ports {
        let is_it = |answer: &io::Result<Answer>| answer.as_ref().is_ok_and(|a| a.server == name);
        let answer = eventually(server, || outsider.ask_tcp(server), is_it).unwrap();
        assert_eq!(answer.client.to_string(), OUTSIDER[0], "the true address");
        assert!(is_it(&outsider.ask_udp(server)), "{server} over UDP");
        for from in [&node.namespace, &neighbour.namespace] {
            assert!(is_it(&from.ask_tcp(server)), "{server}");
        }
    }
    let elsewhere = node.namespace.ask_tcp("127.0.0.1:8888");
    assert!(refused(&elsewhere), "{elsewhere:?}");
    node.detach("first");
    eventually("refusal", || outsider.ask_tcp(ports[0].1), refused).unwrap_err();
    assert_eq!(outsider.ask_tcp(ports[1].1).unwrap().server, "second");
}

#[test]
fn both_addresses_survive_a_restart_and_a_namespace_made_anew() {
    if !is_root("both_addresses_survive_a_restart_and_a_namespace_made_anew") {
        return;
    }
    let mut cluster = node_of(&[V4, V6]);
    let node = &mut cluster.nodes[0];
    let (a, b) = (pod(node, "a", &[]), pod(node, "b", &[]));
    node.restart();
    assert_eq!(node.attach_all("a", &a.namespace, &[]), a.addresses);
    let anew = Namespace::new();
    assert_eq!(node.attach_all("b", &anew, &[]), b.addresses);
    anew.serve("anew", 8080);
    for address in &b.addresses {
        let answer = a.namespace.ask_tcp(SocketAddr::new(*address, 8080)).unwrap();
        assert_eq!(answer.server, "anew");
    }
    node.retain(&["a"]);
    assert_eq!(node.veths(), 1);
}

#[test]
fn an_ipv6_address_that_another_pod_gets_leads_there_at_once() {
    if !is_root("an_ipv6_address_that_another_pod_gets_leads_there_at_once") {
        return;
    }
    let mut cluster = node_of(&[V4, V6]);
    let node = &mut cluster.nodes[0];
    let before = pod(node, "before", &[]);
    let server = SocketAddr::new(before.addresses[1], 8080);
    assert_eq!(node.namespace.ask_tcp(server).unwrap().server, "before");
    node.detach("before");
    // The IPv4 address is another one, and with it the hardware address.
    let file = node.network_config.state_dir.join("addresses.json");
    let mut leases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    leases["cursors"] = json!(["10.244.0.77", "fd00:10::2"]);
    leases["released"] = json!([]);
    std::fs::write(&file, leases.to_string()).unwrap();
    node.restart();
    let after = pod(node, "after", &[]);
    assert_eq!(after.addresses[1], before.addresses[1]);
    assert_ne!(after.addresses[0], before.addresses[0]);
    let asked = Instant::now();
    assert_eq!(node.namespace.ask_tcp(server).unwrap().server, "after");
    println!("answered after {:?}", asked.elapsed());
    let neighbours = node.namespace.command("ip -6 neighbour show fd00:10::2 dev kutter0");
    // Not what /sys has, which is the machine's.
    let mac = after.namespace.command("ip link show dev eth0");
    assert!(neighbours.contains("0a:58:0a:f4:00:4d"), "{neighbours}, {mac}");
}

/// The slices of the Service `web` on this node, one for each family.
pub(crate) fn put_endpoints(cluster: &Cluster, addresses: &[&[IpAddr]; 2]) {
    for (number, (family, addresses)) in ["IPv4", "IPv6"].into_iter().zip(addresses).enumerate() {
        let mut of_family = slice("web", &[]);
        of_family.metadata.name = Some(format!("web-{number}"));
        of_family.address_type = family.into();
        let endpoint = |address: &IpAddr| {
            json!({
                "addresses": [address.to_string()], "nodeName": cluster.nodes[0].name,
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        };
        let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
        of_family.endpoints = serde_json::from_value(json!(endpoints)).unwrap();
        put_slice(cluster, &of_family);
    }
}

/// The Service `web`, in both families.
fn put_web(cluster: &Cluster) {
    let both = json!({
        "clusterIPs": ["10.96.0.10", "fd00:96::10"], "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack",
    });
    put_service(cluster, &service("web", Ipv4Addr::new(10, 96, 0, 10), both));
}

#[test]
fn a_service_of_both_families_answers_in_both() {
    if !is_root("a_service_of_both_families_answers_in_both") {
        return;
    }
    let cluster = node_of(&[V4, V6]);
    let node = &cluster.nodes[0];
    let (server, client) = (pod(node, "server", &[]), pod(node, "client", &[]));
    put_web(&cluster);
    put_endpoints(&cluster, &[&server.addresses[..1], &server.addresses[1..]]);
    for at in ["10.96.0.10:80", "[fd00:96::10]:80"] {
        let asked = || client.namespace.ask_tcp(at);
        let answer = eventually("the service", asked, Result::is_ok).unwrap();
        assert_eq!(answer.server, "server");
        assert_eq!(client.namespace.ask_udp(at).unwrap(), answer);
        assert!(client.addresses.contains(&answer.client), "{}", answer.client);
        assert_eq!(node.namespace.ask_tcp(at).unwrap().server, "server");
        assert_eq!(node.namespace.ask_udp(at).unwrap().server, "server");
    }
}

/// Whoever can write endpoint slices past the API could have pods led to what listens on the node for the
/// node alone. With ::1 nothing but the node's own care is in the way: the kernel looks for it in packets
/// from outside before it rewrites them.
#[test]
fn no_service_leads_to_what_the_node_keeps_to_itself() {
    if !is_root("no_service_leads_to_what_the_node_keeps_to_itself") {
        return;
    }
    let cluster = node_of(&[V4, V6]);
    let node = &cluster.nodes[0];
    let (server, client) = (pod(node, "server", &[]), pod(node, "client", &[]));
    node.namespace.serve("node", 8080);
    for own in ["127.0.0.1:8080", "[::1]:8080"] {
        assert_eq!(node.namespace.ask_tcp(own).unwrap().server, "node");
    }
    put_web(&cluster);
    let own: [IpAddr; 2] = ["127.0.0.1", "::1"].map(|address| address.parse().unwrap());
    let mixed: Vec<[IpAddr; 2]> =
        (0..2).map(|family| [own[family], server.addresses[family]]).collect();
    put_endpoints(&cluster, &[&mixed[0], &mixed[1]]);
    let at = ["10.96.0.10:80", "[fd00:96::10]:80"];
    let places = [&client.namespace, &node.namespace];
    for at in at {
        eventually("the service", || client.namespace.ask_tcp(at), Result::is_ok).unwrap();
        for place in places {
            for _ in 0..16 {
                assert_eq!(place.ask_tcp(at).unwrap().server, "server", "at {at}");
                assert_eq!(place.ask_udp(at).unwrap().server, "server", "at {at}");
            }
        }
    }
    put_endpoints(&cluster, &[&own[..1], &own[1..]]);
    for at in at {
        for place in places {
            let error = eventually("a refusal", || place.ask_tcp(at), Result::is_err).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "at {at}: {error}");
        }
    }
}

#[test]
fn a_node_finds_its_address_of_the_other_family() {
    if !is_root("a_node_finds_its_address_of_the_other_family") {
        return;
    }
    let namespace = Namespace::new();
    for line in [
        "link add uplink type veth peer name other",
        "link set uplink up",
        "link set other up",
        "address add 192.168.77.10/24 dev uplink",
        "address add 192.168.77.11/24 dev uplink",
        "address add fd00:77::9/64 dev uplink nodad preferred_lft 0",
        "address add fd00:77::10/64 dev uplink nodad",
        "address add fd00:78::1/64 dev other nodad",
    ] {
        namespace.command(&format!("ip {line}"));
    }
    let beside = |text: &str| {
        let primary: IpAddr = text.parse().unwrap();
        namespace.run(async move { address_beside(primary).await }).map(|found| found.to_string())
    };
    // Neither the one that is not to be used any more, nor that of another interface; nor the second of a range.
    assert_eq!(beside("192.168.77.10").as_deref(), Some("fd00:77::10"));
    assert_eq!(beside("fd00:77::10").as_deref(), Some("192.168.77.10"));
    assert_eq!(beside("fd00:78::1"), None);
}

/// How long a pod's start waits for its network. The figure is printed; what is held is that nothing waits
/// for the second that asking for duplicate addresses takes.
#[test]
fn a_pod_does_not_wait_for_its_ipv6_address() {
    if !is_root("a_pod_does_not_wait_for_its_ipv6_address") {
        return;
    }
    for ranges in [&[V4][..], &[V4, V6]] {
        let cluster = node_of(ranges);
        let node = &cluster.nodes[0];
        pod(node, "first", &[]);
        let mut took = Vec::new();
        for number in 0..50 {
            let namespace = Namespace::new();
            let (network, path) = (Arc::clone(&node.network), namespace.path());
            let took_now = node.namespace.run(async move {
                let began = Instant::now();
                let uid = format!("pod-{number}");
                network.attach(&attachment(&uid, &path, &[])).await.unwrap();
                began.elapsed()
            });
            took.push(took_now);
            // It is there when attaching is done.
            let addresses = namespace.command("ip -6 address show tentative");
            assert!(addresses.trim().is_empty(), "{addresses}");
        }
        took.sort();
        println!("{ranges:?}: median {:?}, longest {:?}", took[25], took[49]);
    }
}
