//! Pods that send with addresses of others, or past the node. Each test sees it succeed while nobody guards
//! the pods, and fail as soon as somebody does.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use kubelet::state::Change;
use proto::ObjectKey;
use serde_json::json;
use tokio::net::UdpSocket;

use super::truth::{nodes_of_both_families, object, uid};
use crate::ground::{Answer, Cluster, Namespace, TestNode, eventually, is_root};
use crate::services::{put_service, put_slice, service, slice};

const PORT: u16 = 9;
const GATEWAYS: [&str; 2] = ["10.244.0.1", "fd00:10::1"];

/// A pod with all capabilities, one whose addresses it takes, and one that it speaks to.
struct Three {
    cluster: Cluster,
    pods: Vec<(Namespace, Vec<IpAddr>)>,
    heard: Arc<Mutex<Vec<String>>>,
}

const NAMES: [&str; 3] = ["thief", "victim", "server"];

impl Three {
    fn new() -> Self {
        let cluster = nodes_of_both_families();
        let node = &cluster.nodes[0];
        node.state.write([Change::Everything], |state| {
            for name in NAMES {
                state.pods.insert(ObjectKey::new("x", name), object("x", name, None));
            }
        });
        let pods = NAMES.map(|name| {
            let namespace = Namespace::new();
            let addresses = node.attach_all(&uid("x", name), &namespace, &[]);
            (namespace, addresses)
        });
        let heard = Arc::new(Mutex::new(Vec::new()));
        for (namespace, _) in &pods[1..] {
            listen(namespace, &heard);
        }
        Self { cluster, pods: pods.into(), heard }
    }

    fn node(&self) -> &TestNode {
        &self.cluster.nodes[0]
    }

    fn guard(&self) {
        let node = self.node();
        node.guard();
        eventually(
            "the rules",
            || node.namespace.command("nft list tables"),
            |tables| {
                tables.contains("bridge kutter-policy") && tables.contains("ip6 kutter-policy")
            },
        );
    }

    /// Whether `text` is heard, by when a pod hears what somebody honest says after it.
    fn is_heard(&self, pod: usize, text: &str, said: impl Fn()) -> bool {
        self.heard.lock().unwrap().clear();
        said();
        let honest = format!("honest after {text}");
        let addresses = &self.pods[pod].1;
        for address in addresses {
            say(&self.node().namespace, None, SocketAddr::new(*address, PORT), &honest);
        }
        let count = || self.heard.lock().unwrap().iter().filter(|one| **one == honest).count();
        eventually("who is honest", count, |count| *count == addresses.len());
        self.heard.lock().unwrap().iter().any(|one| one == text)
    }
}

fn listen(namespace: &Namespace, heard: &Arc<Mutex<Vec<String>>>) {
    let heard = heard.clone();
    namespace.run(async move {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            loop {
                let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                heard.lock().unwrap().push(text);
            }
        });
    });
}

/// Sends a datagram, from one of the addresses of the namespace if this is said.
fn say(namespace: &Namespace, from: Option<IpAddr>, to: SocketAddr, text: &str) {
    let text = text.to_owned();
    namespace.run(async move {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((from.unwrap_or(any), 0)).await.unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(text.as_bytes(), to).await.unwrap();
    });
}

fn mac(namespace: &Namespace) -> String {
    let link = namespace.command("ip -o link show eth0");
    let words: Vec<&str> = link.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "link/ether").unwrap();
    words[at + 1].to_owned()
}

/// Whether what a bridge carries passes the packet filter of IP; where the kernel can have it so.
fn bridges_call(node: &Namespace, call: bool) {
    node.run(async move {
        for filter in ["iptables", "ip6tables"] {
            let file = format!("/proc/sys/net/bridge/bridge-nf-call-{filter}");
            if std::fs::exists(&file).unwrap() {
                std::fs::write(&file, if call { "1" } else { "0" }).unwrap();
            }
        }
    });
}

fn prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[test]
fn a_pod_sends_with_no_address_but_its_own() {
    if !is_root("a_pod_sends_with_no_address_but_its_own") {
        return;
    }
    let three = Three::new();
    let [(thief, own), (_, victim), (_, server)] = &three.pods[..] else { panic!() };
    for (number, address) in victim.iter().enumerate() {
        let nodad = if address.is_ipv6() { "nodad" } else { "" };
        thief.command(&format!("ip address add {address}/{} dev eth0 {nodad}", prefix(*address)));
        let to = SocketAddr::new(server[number], PORT);
        let stolen = || three.is_heard(2, "stolen", || say(thief, Some(*address), to, "stolen"));
        eventually("to be heard unguarded", stolen, |heard| *heard);
    }
    three.guard();
    listen(&three.node().namespace, &three.heard);
    for (number, address) in victim.iter().enumerate() {
        let to = SocketAddr::new(server[number], PORT);
        let stolen = || say(thief, Some(*address), to, "stolen");
        assert!(!three.is_heard(2, "stolen", stolen), "{address}");
        // Nor does it get to the node.
        let node = SocketAddr::new(GATEWAYS[number].parse().unwrap(), PORT);
        assert!(!three.is_heard(2, "to the node", || say(
            thief,
            Some(*address),
            node,
            "to the node"
        )));
        for to in [to, node] {
            let own = || say(thief, Some(own[number]), to, "its own");
            eventually("its own", || three.is_heard(2, "its own", own), |heard| *heard);
        }
    }
}

#[test]
fn a_pod_makes_nobody_believe_that_it_has_anothers_address() {
    if !is_root("a_pod_makes_nobody_believe_that_it_has_anothers_address") {
        return;
    }
    let three = Three::new();
    let [(thief, _), (victim, addresses), _] = &three.pods[..] else { panic!() };
    let node = &three.node().namespace;
    let (own, right) = (mac(thief), mac(victim));
    for address in addresses {
        let nodad = if address.is_ipv6() { "nodad" } else { "" };
        thief.command(&format!("ip address add {address}/{} dev eth0 {nodad}", prefix(*address)));
    }
    let said = |number: usize| {
        let address = addresses[number];
        // Whoever looks for somebody says who asks.
        thief.command("ip neighbour flush dev eth0");
        say(
            thief,
            Some(address),
            SocketAddr::new(GATEWAYS[number].parse().unwrap(), PORT),
            "hello",
        );
        node.command(&format!("ip neighbour show {address} dev kutter0"))
    };
    for number in [0, 1] {
        eventually("to be believed unguarded", || said(number), |text| text.contains(&own));
    }
    three.guard();
    for (number, address) in addresses.iter().enumerate() {
        node.command("ip neighbour flush dev kutter0");
        for _ in 0..3 {
            let believed = said(number);
            assert!(!believed.contains(&own), "{believed}");
        }
        // Asked by the node, both answer; only one is heard.
        say(node, None, SocketAddr::new(*address, PORT), "who has it?");
        let found = || node.command(&format!("ip neighbour show {address} dev kutter0"));
        eventually("the right one", found, |text| text.contains(&right));
        assert!(three.is_heard(1, "is it you?", || {
            say(node, None, SocketAddr::new(*address, PORT), "is it you?");
        }));
    }
    // With the hardware address of another the bridge would send the other's packets here.
    thief.command(&format!("ip link set eth0 address {right}"));
    for (number, gateway) in GATEWAYS.iter().enumerate() {
        let gateway = SocketAddr::new(gateway.parse().unwrap(), PORT);
        thief.run(async move {
            let socket =
                UdpSocket::bind(if number == 0 { "0.0.0.0:0" } else { "[::]:0" }).await.unwrap();
            // It may have no way any more, which is as good.
            let _ = socket.send_to(b"hello", gateway).await;
        });
        let to = SocketAddr::new(addresses[number], PORT);
        assert!(three.is_heard(1, "still you?", || say(node, None, to, "still you?")));
    }
}

#[test]
fn a_pod_reaches_no_other_past_the_node() {
    if !is_root("a_pod_reaches_no_other_past_the_node") {
        return;
    }
    let three = Three::new();
    let [(thief, own), (victim, addresses), _] = &three.pods[..] else { panic!() };
    let there = mac(victim);
    for address in addresses {
        thief.command(&format!("ip neighbour add {address} lladdr {there} dev eth0 nud permanent"));
        thief.command(&format!("ip route add {address}/{} dev eth0", prefix(*address)));
    }
    thief.command("ip route add 224.0.0.99/32 dev eth0");
    thief.command("ip route add 255.255.255.255/32 dev eth0");
    let node = &three.node().namespace;
    // Where a bridge calls into the packet filter of IP, frames do not get past it.
    bridges_call(node, false);
    // The node passes nothing on to the victim: what arrives came another way.
    for (ip, address) in ["ip", "ip6"].iter().zip(addresses) {
        node.command(&format!("nft add table {ip} closed"));
        node.command(&format!(
            "nft add chain {ip} closed forward {{ type filter hook forward priority 0 ; }}"
        ));
        node.command(&format!("nft add rule {ip} closed forward {ip} daddr {address} drop"));
    }
    let past = |number: usize| {
        three.is_heard(1, "past", || {
            say(thief, Some(own[number]), SocketAddr::new(addresses[number], PORT), "past")
        })
    };
    let all = SocketAddr::new([255, 255, 255, 255].into(), PORT);
    let to_all = || three.is_heard(1, "to all", || say(thief, Some(own[0]), all, "to all"));
    for number in [0, 1] {
        eventually("to get past unguarded", || past(number), |heard| *heard);
    }
    eventually("to get to all unguarded", to_all, |heard| *heard);
    three.guard();
    assert!(!past(0) && !past(1) && !to_all());
    // Who says it to the node is heard: the one that listens there.
    listen(node, &three.heard);
    eventually("to reach the node", to_all, |heard| *heard);
}

#[test]
fn interfaces_are_guarded_as_they_come_and_go_and_when_somebody_meddles() {
    if !is_root("interfaces_are_guarded_as_they_come_and_go_and_when_somebody_meddles") {
        return;
    }
    let three = Three::new();
    three.guard();
    let node = three.node();
    let ports = || node.namespace.command("nft list set bridge kutter-policy ports");
    let count = |text: &String| text.matches("\"kt").count();
    assert_eq!(count(&ports()), 3, "{}", ports());
    node.detach(&uid("x", "victim"));
    eventually("two", ports, |text| count(text) == 2);
    node.namespace.command("nft delete table bridge kutter-policy");
    let tables = || node.namespace.command("nft list tables");
    eventually("the table", tables, |tables| tables.contains("bridge kutter-policy"));
    assert_eq!(count(&ports()), 2);
    // As each of them can be printed for people.
    let printed = node.namespace.command("nft list table bridge kutter-policy");
    assert!(printed.contains("10.244.0.2"), "{printed}");
    node.teardown();
    assert!(!tables().contains("bridge"), "{}", tables());
}

#[test]
fn services_lead_to_pods_beside_and_to_the_pod_itself_while_pods_are_guarded() {
    if !is_root("services_lead_to_pods_beside_and_to_the_pod_itself_while_pods_are_guarded") {
        return;
    }
    let three = Three::new();
    three.guard();
    for ((namespace, _), name) in three.pods.iter().zip(NAMES) {
        namespace.serve(name, 8080);
    }
    let [(client, own), _, (_, server)] = &three.pods[..] else { panic!() };
    put_service(&three.cluster, &service("web", [10, 96, 0, 10].into(), json!({})));
    for (endpoint, name) in [(server[0], "server"), (own[0], "thief")] {
        let IpAddr::V4(endpoint) = endpoint else { panic!("{endpoint}") };
        put_slice(&three.cluster, &slice("web", &[(endpoint, "node-0", true)]));
        for call in [true, false] {
            bridges_call(&three.node().namespace, call);
            let asked = || client.ask_tcp("10.96.0.10:80");
            let is_right = |answer: &std::io::Result<Answer>| {
                answer.as_ref().is_ok_and(|answer| answer.server == name)
            };
            eventually("the service", asked, is_right).unwrap();
            assert_eq!(client.ask_udp("10.96.0.10:80").unwrap().server, name, "{call}");
        }
    }
}
