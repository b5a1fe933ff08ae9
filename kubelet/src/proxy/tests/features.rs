//! What Services may ask for beside endpoints and addresses, with pretend packets of both versions
//! of IP.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{BRIDGE, FAR_POD, NODE, NODE6, POD, STRANGER, World, endpoint, endpoint_with, v4, v6};
use crate::network::{HostPort, PodHostPorts};
use crate::proxy::address::Protocol;

const BOTH: [&str; 2] = ["10.244.0.2:8080", "10.244.1.2:8080"];
const BOTH_MASQUERADED: [&str; 2] = ["10.244.0.2:8080 (snat)", "10.244.1.2:8080 (snat)"];

fn balancer(addresses: Value, extra: Value) -> Value {
    let mut spec = json!({
        "type": "LoadBalancer",
        "ports": [{"port": 80, "nodePort": 30080}],
        "status": {"loadBalancer": {"ingress": addresses}},
    });
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

const POD6: IpAddr = v6(0x244, 0, 0, 9);
const FAR_POD6: IpAddr = v6(0x244, 0, 5, 9);
const STRANGER6: IpAddr = v6(0x2001, 0, 0, 7);

/// A Service of both versions, with endpoints `…:2` here and elsewhere.
fn dual(extra: Value) -> World {
    let mut spec = json!({"clusterIPs": ["10.96.0.10", "fd00:96::10"]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let mut world = World::with_web(spec);
    let ends = json!([endpoint("fd00:244::2"), endpoint("fd00:244:0:1::2")]);
    world.put_slice_named("web-6", "web", "IPv6", json!([{"port": 8080}]), ends);
    world
}

const BOTH6: [&str; 2] = ["[fd00:244:0:1::2]:8080", "[fd00:244::2]:8080"];
const BOTH6_MASQUERADED: [&str; 2] = ["[fd00:244:0:1::2]:8080 (snat)", "[fd00:244::2]:8080 (snat)"];

#[test]
fn each_version_of_ip_has_its_own_address_and_endpoints() {
    let mut world = dual(json!({}));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), BOTH);
    assert_eq!(world.lands(POD6, "[fd00:96::10]:80"), BOTH6);
    assert_eq!(world.lands(NODE6, "[fd00:96::10]:80"), BOTH6_MASQUERADED);
    // Endpoints of one version say nothing of the other.
    world.remove_slice("web-6");
    assert_eq!(world.lands(POD6, "[fd00:96::10]:80"), ["reset"]);
    assert_eq!(world.lands_by(Protocol::Udp, POD6, "[fd00:96::10]:80"), ["unreachable"]);
    assert_eq!(world.lands(POD6, "[fd00:96::77]:80"), ["reset"], "nobody has this address");
    assert_eq!(world.lands(POD, "10.96.0.10:80"), BOTH);
}

#[test]
fn ipv6_has_all_entrances_too() {
    let mut world = dual(balancer(
        json!([{"ip": "2001:db8::80"}]),
        json!({"externalIPs": ["2001:db8::1"], "sessionAffinity": "ClientIP"}),
    ));
    for to in ["[fd00:77::10]:30080", "[2001:db8::1]:80", "[2001:db8::80]:80"] {
        let first = world.lands(STRANGER6, to);
        assert_eq!(first.len(), 1, "{to}: whatever chance says");
        assert!(BOTH6_MASQUERADED.contains(&&*first[0]), "{to} {first:?}");
    }
    let mut world = dual(json!({}));
    let hairpin = world.lands(v6(0x244, 0, 0, 2), "[fd00:96::10]:80");
    assert_eq!(hairpin, ["[fd00:244:0:1::2]:8080", "[fd00:244::2]:8080 (snat)"]);
    assert_eq!(world.lands(POD6, "[2001:db8::5]:443"), ["[2001:db8::5]:443 (snat)"]);
    assert_eq!(world.lands(POD6, "[fd00:244:0:5::9]:80"), ["[fd00:244:0:5::9]:80"]);
    assert_eq!(world.lands(FAR_POD6, "[fd00:244::9]:80"), ["[fd00:244::9]:80"]);
}

#[test]
fn node_ports_of_ipv6_are_not_served_at_the_loopback_address() {
    let mut world = dual(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
    assert_eq!(world.lands(NODE6, "[fd00:77::10]:30080"), BOTH6_MASQUERADED);
    assert_eq!(world.lands(NODE6, "[::1]:30080"), ["[::1]:30080"]);
}

#[test]
fn host_ports_are_served_by_the_pods_address_of_the_same_version() {
    let mut world = World::with_web(json!({}));
    let port = |host_ip: Option<&str>, host_port| HostPort {
        protocol: "TCP".into(),
        host_ip: host_ip.map(|text| text.parse().unwrap()),
        host_port,
        container_port: 80,
    };
    let ports = PodHostPorts {
        addresses: vec!["10.244.0.7".parse().unwrap(), "fd00:244::7".parse().unwrap()],
        ports: vec![port(None, 8001), port(Some("0.0.0.0"), 8002), port(Some("::"), 8003)],
    };
    let protocols = ["TCP", "UDP", "SCTP"].map(|protocol| HostPort {
        protocol: protocol.into(),
        container_port: 1000 + u16::try_from(protocol.len()).unwrap(),
        ..port(None, 8004)
    });
    let ports = PodHostPorts { ports: [ports.ports, protocols.into()].concat(), ..ports };
    world.host_ports.insert("uid".into(), ports);
    for (protocol, lands) in [
        (Protocol::Tcp, "10.244.0.7:1003"),
        (Protocol::Udp, "10.244.0.7:1003"),
        (Protocol::Sctp, "10.244.0.7:1004"),
    ] {
        assert_eq!(world.lands_by(protocol, STRANGER, "192.168.77.10:8004"), [lands]);
    }
    assert_eq!(world.lands(STRANGER, "192.168.77.10:8001"), ["10.244.0.7:80"]);
    assert_eq!(world.lands(STRANGER6, "[fd00:77::10]:8001"), ["[fd00:244::7]:80"]);
    assert_eq!(world.lands(STRANGER, "192.168.77.10:8002"), ["10.244.0.7:80"]);
    assert_eq!(world.lands(STRANGER6, "[fd00:77::10]:8002"), ["[fd00:77::10]:8002"]);
    assert_eq!(world.lands(STRANGER6, "[fd00:77::10]:8003"), ["[fd00:244::7]:80"]);
}

#[test]
fn every_entrance_serves_all_protocols() {
    let ports = json!([
        {"name": "tcp", "port": 80, "nodePort": 30080},
        {"name": "udp", "port": 80, "nodePort": 30080, "protocol": "UDP"},
        {"name": "sctp", "port": 80, "nodePort": 30080, "protocol": "SCTP"},
    ]);
    let extra = json!({"ports": ports, "externalIPs": ["198.51.100.1"]});
    let mut world = World::with_web(balancer(json!([{"ip": "198.51.100.2"}]), extra));
    let ports = json!([
        {"name": "tcp", "port": 8001},
        {"name": "udp", "port": 8002, "protocol": "UDP"},
        {"name": "sctp", "port": 8003, "protocol": "SCTP"},
    ]);
    world.put_slice_of_ports("web", ports, json!([endpoint("10.244.1.2")]));
    for (protocol, port) in [(Protocol::Tcp, 1), (Protocol::Udp, 2), (Protocol::Sctp, 3)] {
        let lands = format!("10.244.1.2:800{port}");
        assert_eq!(world.lands_by(protocol, POD, "10.96.0.10:80"), [&*lands]);
        for to in ["192.168.77.10:30080", "198.51.100.1:80", "198.51.100.2:80"] {
            let masqueraded = format!("{lands} (snat)");
            assert_eq!(world.lands_by(protocol, STRANGER, to), [masqueraded], "{to}");
        }
    }
}

#[test]
fn a_load_balancers_address_is_served_unless_it_makes_connections_of_its_own() {
    let addresses = json!([
        {"ip": "198.51.100.1"},
        {"ip": "198.51.100.2", "ipMode": "VIP"},
        {"ip": "198.51.100.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.org"},
    ]);
    let mut world = World::with_web(balancer(addresses, json!({})));
    for to in ["198.51.100.1:80", "198.51.100.2:80"] {
        assert_eq!(world.lands(STRANGER, to), BOTH_MASQUERADED, "{to}");
        assert_eq!(world.lands(POD, to), BOTH, "{to}");
    }
    assert_eq!(world.lands(POD, "198.51.100.3:80"), ["198.51.100.3:80 (snat)"]);
}

#[test]
fn a_load_balancer_is_open_to_its_source_ranges_only() {
    let ranges =
        json!({"loadBalancerSourceRanges": ["203.0.113.0/28", " 10.244.0.0/24 ", "fd00::/8"]});
    let mut world = World::with_web(balancer(json!([{"ip": "198.51.100.1"}]), ranges));
    let to = "198.51.100.1:80";
    assert_eq!(world.lands(STRANGER, to), BOTH_MASQUERADED);
    assert_eq!(world.lands(v4(203, 0, 113, 16), to), ["dropped"], "behind the range");
    assert_eq!(world.lands(POD, to), BOTH);
    assert_eq!(world.lands(FAR_POD, to), ["dropped"]);
    assert_eq!(world.lands(NODE, to), ["dropped"], "the node is in no range");
    // All other ways to it are open.
    let other = v4(192, 0, 2, 9);
    assert_eq!(world.lands(other, "192.168.77.10:30080"), BOTH_MASQUERADED);
    assert_eq!(world.lands(FAR_POD, "10.96.0.10:80"), BOTH_MASQUERADED);
    // The address may have been put on the node: then it is what the node comes from.
    let ranges = json!({"loadBalancerSourceRanges": ["192.168.77.0/24"]});
    world.put_service("web", "10.96.0.10", balancer(json!([{"ip": "198.51.100.1"}]), ranges));
    assert_eq!(world.lands(NODE, to), BOTH_MASQUERADED);
    assert_eq!(world.lands(v4(198, 51, 100, 1), to).len(), 2);
    // A long range and a short one that begin alike are not mixed up.
    let ranges = json!({"loadBalancerSourceRanges": ["203.0.0.0/24", "198.18.0.0/15"]});
    world.put_service("web", "10.96.0.10", balancer(json!([{"ip": "198.51.100.1"}]), ranges));
    assert_eq!(world.lands(v4(203, 0, 0, 9), to), BOTH_MASQUERADED);
    assert_eq!(world.lands(v4(203, 1, 0, 9), to), ["dropped"]);
    assert_eq!(world.lands(v4(198, 19, 0, 9), to), BOTH_MASQUERADED);
    let open = json!({"loadBalancerSourceRanges": ["0.0.0.0/0"]});
    world.put_service("web", "10.96.0.10", balancer(json!([{"ip": "198.51.100.1"}]), open));
    assert_eq!(world.lands(v4(203, 1, 0, 9), to), BOTH_MASQUERADED);
}

#[test]
fn node_ports_keep_to_the_addresses_that_the_operator_names() {
    let mut world = World::with_web(json!({
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}, {"name": "idle", "port": 81, "nodePort": 30081}],
    }));
    let ranges = world.place.ranges.get_mut(&crate::nft::expr::Ip::V4).unwrap();
    ranges.node_ports = vec!["192.168.0.0/16".parse().unwrap()];
    assert_eq!(world.lands(STRANGER, "192.168.77.10:30080"), BOTH_MASQUERADED);
    assert_eq!(world.lands(STRANGER, "192.168.77.10:30081"), ["reset"]);
    assert_eq!(world.lands(STRANGER, "10.244.0.1:30080"), ["10.244.0.1:30080"]);
    assert_eq!(world.lands(STRANGER, "10.244.0.1:30081"), ["10.244.0.1:30081"]);
    let loopback = v4(127, 0, 0, 1);
    assert_eq!(world.lands(loopback, "127.0.0.1:30080"), ["127.0.0.1:30080"]);
    // In the range, but not this node's.
    assert_eq!(world.lands(POD, "192.168.77.11:30080"), ["192.168.77.11:30080 (snat)"]);
}

#[test]
fn external_policy_local_holds_at_every_entrance() {
    let extra = json!({"externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.1"]});
    let mut world = World::with_web(balancer(json!([{"ip": "198.51.100.2"}]), extra));
    for to in ["192.168.77.10:30080", "198.51.100.1:80", "198.51.100.2:80"] {
        for from in [STRANGER, FAR_POD] {
            assert_eq!(world.lands(from, to), ["10.244.0.2:8080"], "{from} {to}");
        }
        assert_eq!(world.lands(POD, to), BOTH, "{to}");
        assert_eq!(world.lands(BRIDGE, to), BOTH, "{to}");
        assert_eq!(world.lands(NODE, to), BOTH_MASQUERADED, "{to}");
    }
}

#[test]
fn both_sides_of_a_local_service_keep_their_clients() {
    let mut world = World::with_web(json!({
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}],
        "externalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP",
    }));
    let to = "192.168.77.10:30080";
    assert_eq!(world.lands(STRANGER, to), ["10.244.0.2:8080"]);
    let first = world.lands(POD, to);
    assert_eq!(first.len(), 1, "whatever chance says");
    world.put_slice(
        "web",
        json!([endpoint("10.244.0.2"), endpoint("10.244.0.3"), endpoint("10.244.1.2")]),
    );
    assert_eq!(world.lands(POD, to), first);
    assert_eq!(world.lands(STRANGER, to), ["10.244.0.2:8080"]);
}

#[test]
fn without_an_endpoint_here_an_internal_service_is_silent_on_this_node() {
    let mut world = World::with_web(json!({"internalTrafficPolicy": "Local"}));
    world.put_slice("web", json!([endpoint("10.244.1.2")]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["dropped"]);
    world.put_slice("web", json!([]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["reset"]);
}

#[test]
fn policies_ask_each_by_itself_whether_leaving_endpoints_have_to_do() {
    let leaving = json!({"ready": false, "serving": true, "terminating": true});
    let mut world = World::with_web(json!({
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}],
        "externalTrafficPolicy": "Local",
    }));
    let ends = json!([endpoint_with("10.244.0.2", leaving.clone()), endpoint("10.244.1.2")]);
    world.put_slice("web", ends);
    assert_eq!(world.lands(STRANGER, "192.168.77.10:30080"), ["10.244.0.2:8080"]);
    assert_eq!(world.lands(POD, "192.168.77.10:30080"), ["10.244.1.2:8080"]);
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.1.2:8080"]);
    let ends = [endpoint_with("10.244.0.2", leaving.clone()), endpoint_with("10.244.1.2", leaving)];
    world.put_slice("web", json!(ends));
    assert_eq!(world.lands(STRANGER, "192.168.77.10:30080"), ["10.244.0.2:8080"]);
    assert_eq!(world.lands(POD, "10.96.0.10:80"), BOTH);
}

fn hinted(address: &str, zones: &[&str], nodes: &[&str]) -> Value {
    let named =
        |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"name": name})).collect() };
    let mut endpoint = endpoint(address);
    endpoint["hints"] = json!({"forZones": named(zones), "forNodes": named(nodes)});
    endpoint
}

/// This node is `here`, in zone `a`.
#[test]
fn hints_are_followed_where_that_leaves_nobody_without() {
    let (near, far) = ("10.244.0.2", "10.244.1.2");
    let not_ready = |mut endpoint: Value| {
        endpoint["conditions"] = json!({"ready": false});
        endpoint
    };
    let cases = [
        ("by zone", [hinted(near, &["a"], &[]), hinted(far, &["b"], &[])], vec![BOTH[0]]),
        ("for both zones", [hinted(near, &["a"], &[]), hinted(far, &["b", "a"], &[])], BOTH.into()),
        ("one without", [hinted(near, &["a"], &[]), endpoint(far)], BOTH.into()),
        ("none for us", [hinted(near, &["b"], &[]), hinted(far, &["c"], &[])], BOTH.into()),
        (
            "by node before zone",
            [hinted(near, &["a"], &["there"]), hinted(far, &["a"], &["here"])],
            vec![BOTH[1]],
        ),
        (
            "by zone when no node is meant",
            [hinted(near, &["a"], &["x"]), hinted(far, &["b"], &["y"])],
            vec![BOTH[0]],
        ),
        (
            "those that are not ready say nothing",
            [not_ready(endpoint(near)), hinted(far, &["a"], &[])],
            vec![BOTH[1]],
        ),
        (
            "the only one for us is not ready",
            [not_ready(hinted(near, &["a"], &[])), hinted(far, &["b"], &[])],
            vec![BOTH[1]],
        ),
    ];
    for (what, endpoints, expected) in cases {
        let mut world = World::with_web(json!({}));
        world.put_slice("web", json!(endpoints));
        assert_eq!(world.lands(POD, "10.96.0.10:80"), expected, "{what}");
    }
    // The node's zone may change, and local policies know no hints.
    let mut world = World::with_web(json!({}));
    world.put_slice("web", json!([hinted(near, &["a"], &[]), hinted(far, &["b"], &[])]));
    world.sync();
    world.place.here.zone = Some("b".into());
    assert_eq!(world.lands(POD, "10.96.0.10:80"), [BOTH[1]]);
    world.put_service("web", "10.96.0.10", json!({"internalTrafficPolicy": "Local"}));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), [BOTH[0]]);
}

#[test]
fn a_service_that_another_program_proxies_is_left_to_it() {
    let mut world = World::with_web(json!({}));
    let key = proto::ObjectKey::new("default", "web");
    let mut service = world.services[&key].as_ref().clone();
    let label = ("service.kubernetes.io/service-proxy-name".to_owned(), "other".to_owned());
    service.metadata.labels = Some([label].into());
    world.put(service);
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["reset"], "as every address nobody has");
}

#[test]
fn balancers_are_told_of_ready_endpoints_here() {
    let extra = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
    let mut world = World::with_web(balancer(json!([]), extra));
    let leaving = json!({"ready": false, "serving": true, "terminating": true});
    world.put_slice(
        "web",
        json!([
            endpoint("10.244.0.2"),
            endpoint("10.244.0.3"),
            endpoint_with("10.244.0.4", leaving),
            endpoint("10.244.1.2"),
        ]),
    );
    world.sync();
    let key = proto::ObjectKey::new("default", "web");
    let asked = world.model.health()[&key];
    assert_eq!((asked.port, asked.endpoints), (31000, 2));
    world.put_slice("web", json!([endpoint("10.244.1.2")]));
    world.sync();
    assert_eq!(world.model.health()[&key].endpoints, 0);
    world.put_service("web", "10.96.0.10", json!({"healthCheckNodePort": 31000}));
    world.sync();
    assert!(world.model.health().is_empty(), "a cluster address needs no balancer");
}
