//! Where packets land.

use std::net::IpAddr;

use serde_json::json;

use super::{BRIDGE, FAR_POD, NODE, POD, STRANGER, World, endpoint, endpoint_with, v4};
use crate::network::{HostPort, PodHostPorts};
use crate::proxy::address::Protocol;

const BOTH: [&str; 2] = ["10.244.0.2:8080", "10.244.1.2:8080"];
const BOTH_MASQUERADED: [&str; 2] = ["10.244.0.2:8080 (snat)", "10.244.1.2:8080 (snat)"];

#[test]
fn a_pod_lands_on_every_ready_endpoint_under_its_own_address() {
    assert_eq!(World::with_web(json!({})).lands(POD, "10.96.0.10:80"), BOTH);
}

#[test]
fn processes_of_the_node_land_there_too() {
    // With the address that the route to Services gives them, pods of all nodes can answer them.
    assert_eq!(World::with_web(json!({})).lands(BRIDGE, "10.96.0.10:80"), BOTH);
    assert_eq!(World::with_web(json!({})).lands(NODE, "10.96.0.10:80"), BOTH_MASQUERADED);
}

#[test]
fn a_pod_that_lands_on_itself_is_masqueraded() {
    let own = v4(10, 244, 0, 2);
    assert_eq!(
        World::with_web(json!({})).lands(own, "10.96.0.10:80"),
        ["10.244.0.2:8080 (snat)", "10.244.1.2:8080"]
    );
}

#[test]
fn other_traffic_is_left_alone() {
    let mut world = World::with_web(json!({}));
    assert_eq!(world.lands(POD, "10.244.1.2:8080"), ["10.244.1.2:8080"]);
    assert_eq!(world.lands(POD, "10.244.0.2:8080"), ["10.244.0.2:8080"]);
    assert_eq!(world.lands(FAR_POD, "10.244.0.2:8080"), ["10.244.0.2:8080"]);
    assert_eq!(world.lands(POD, "192.168.77.10:22"), ["192.168.77.10:22"]);
    assert_eq!(world.lands(NODE, "203.0.113.7:443"), ["203.0.113.7:443"]);
    assert_eq!(world.lands(STRANGER, "192.168.77.10:22"), ["192.168.77.10:22"]);
}

#[test]
fn pods_reach_the_outside_as_their_node() {
    let mut world = World::with_web(json!({}));
    assert_eq!(world.lands(POD, "203.0.113.7:443"), ["203.0.113.7:443 (snat)"]);
}

#[test]
fn ports_and_protocols_are_kept_apart() {
    let mut world = World::default();
    let ports = json!([
        {"name": "http", "port": 80},
        {"name": "https", "port": 443},
        {"name": "dns", "port": 80, "protocol": "UDP"},
    ]);
    world.put_service("web", "10.96.0.10", json!({"ports": ports}));
    let ports = json!([
        {"name": "http", "port": 8080},
        {"name": "https", "port": 8443},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
    ]);
    world.put_slice_of_ports("web", ports, json!([endpoint("10.244.1.2")]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.1.2:8080"]);
    assert_eq!(world.lands(POD, "10.96.0.10:443"), ["10.244.1.2:8443"]);
    assert_eq!(world.lands_by(Protocol::Udp, POD, "10.96.0.10:80"), ["10.244.1.2:5353"]);
    assert_eq!(world.lands_by(Protocol::Sctp, POD, "10.96.0.10:80"), ["unreachable"]);
    assert_eq!(world.lands(POD, "10.96.0.10:8080"), ["reset"]);
}

#[test]
fn endpoints_come_from_all_slices_of_the_service_and_no_other() {
    let mut world = World::with_web(json!({}));
    let ports = || json!([{"port": 9090}]);
    let more = json!([endpoint("10.244.2.2"), endpoint("10.244.1.2")]);
    world.put_slice_named("more", "web", "IPv4", ports(), more);
    world.put_slice_named("v6", "web", "IPv6", ports(), json!([endpoint("fd00::2")]));
    world.put_slice_named("name", "web", "FQDN", ports(), json!([endpoint("example.org")]));
    world.put_slice_named("other", "other", "IPv4", ports(), json!([endpoint("10.244.3.3")]));
    assert_eq!(
        world.lands(POD, "10.96.0.10:80"),
        ["10.244.0.2:8080", "10.244.1.2:8080", "10.244.1.2:9090", "10.244.2.2:9090"]
    );
}

#[test]
fn only_ready_endpoints_count() {
    let mut world = World::with_web(json!({}));
    world.put_slice(
        "web",
        json!([
            endpoint_with("10.244.1.1", json!({"ready": false})),
            endpoint_with("10.244.1.2", json!({})),
            endpoint_with("10.244.1.3", json!({"ready": true})),
            endpoint_with(
                "10.244.1.4",
                json!({"ready": false, "serving": true, "terminating": true})
            ),
        ]),
    );
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.1.2:8080", "10.244.1.3:8080"]);
}

#[test]
fn endpoints_that_leave_but_serve_are_better_than_none() {
    let mut world = World::with_web(json!({}));
    let leaving = json!({"ready": false, "serving": true, "terminating": true});
    let gone = json!({"ready": false, "serving": false, "terminating": true});
    world.put_slice(
        "web",
        json!([
            endpoint_with("10.244.1.1", leaving),
            endpoint_with("10.244.1.2", gone),
            endpoint_with("10.244.1.3", json!({"ready": false, "serving": true})),
        ]),
    );
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.1.1:8080"]);
}

#[test]
fn without_endpoints_everybody_is_refused_at_once() {
    let mut world = World::with_web(json!({
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}, {"name": "udp", "port": 80, "protocol": "UDP"}],
        "externalIPs": ["198.51.100.1"],
    }));
    world.put_slice("web", json!([]));
    for from in [POD, BRIDGE, NODE, STRANGER] {
        assert_eq!(world.lands(from, "10.96.0.10:80"), ["reset"], "{from}");
        assert_eq!(world.lands(from, "192.168.77.10:30080"), ["reset"], "{from}");
        assert_eq!(world.lands(from, "198.51.100.1:80"), ["reset"], "{from}");
        assert_eq!(world.lands_by(Protocol::Udp, from, "10.96.0.10:80"), ["unreachable"]);
    }
    // Somebody else's node port is not ours to refuse.
    assert_eq!(world.lands(POD, "192.168.77.99:30080"), ["192.168.77.99:30080 (snat)"]);
}

#[test]
fn service_addresses_that_nobody_has_are_refused() {
    let mut world = World::default();
    assert_eq!(world.lands(POD, "10.96.7.7:80"), ["reset"]);
    assert_eq!(world.lands(NODE, "10.96.7.7:80"), ["reset"]);
}

#[test]
fn node_ports_work_at_all_addresses_of_the_node() {
    let mut world = World::with_web(json!({
        "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}],
    }));
    for to in ["192.168.77.10:30080", "10.244.0.1:30080"] {
        // Endpoints must answer through this node, except to its own pods, whose way it is anyway.
        assert_eq!(world.lands(STRANGER, to), BOTH_MASQUERADED, "{to}");
        assert_eq!(world.lands(FAR_POD, to), BOTH_MASQUERADED, "{to}");
        assert_eq!(world.lands(POD, to), BOTH, "{to}");
        assert_eq!(world.lands(NODE, to), BOTH_MASQUERADED, "{to}");
    }
    assert_eq!(world.lands(v4(127, 0, 0, 1), "127.0.0.1:30080"), BOTH_MASQUERADED);
    assert_eq!(world.lands_by(Protocol::Udp, POD, "192.168.77.10:30080"), ["192.168.77.10:30080"]);
    // A ClusterIP Service keeps no node port, whatever the field still says.
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    world.put_service("web", "10.96.0.10", json!({"type": "ClusterIP", "ports": ports}));
    assert_eq!(world.lands(STRANGER, "192.168.77.10:30080"), ["192.168.77.10:30080"]);
}

#[test]
fn the_loopback_address_is_closed_to_the_outside() {
    let mut world = World::with_web(json!({}));
    assert_eq!(world.lands(STRANGER, "127.0.0.1:6443"), ["dropped"]);
    assert_eq!(world.lands(POD, "127.0.0.1:6443"), ["dropped"]);
    assert_eq!(world.lands(NODE, "127.0.0.1:6443"), ["127.0.0.1:6443"]);
}

#[test]
fn external_addresses_lead_to_endpoints() {
    let mut world = World::with_web(json!({"externalIPs": ["198.51.100.1"]}));
    assert_eq!(world.lands(STRANGER, "198.51.100.1:80"), BOTH_MASQUERADED);
    assert_eq!(world.lands(POD, "198.51.100.1:80"), BOTH);
}

#[test]
fn external_policy_local_keeps_to_this_node_and_the_clients_address() {
    let mut world = World::with_web(json!({
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}],
        "externalTrafficPolicy": "Local",
    }));
    assert_eq!(world.lands(STRANGER, "192.168.77.10:30080"), ["10.244.0.2:8080"]);
    assert_eq!(world.lands(FAR_POD, "192.168.77.10:30080"), ["10.244.0.2:8080"]);
    assert_eq!(world.lands(POD, "10.96.0.10:80"), BOTH, "within the cluster nothing changes");
    // What begins on this node goes everywhere, as if it had gone out and come in elsewhere.
    assert_eq!(world.lands(POD, "192.168.77.10:30080"), BOTH);
    assert_eq!(world.lands(NODE, "192.168.77.10:30080"), BOTH_MASQUERADED);
    world.put_slice("web", json!([endpoint("10.244.1.2")]));
    // A load balancer is to try another node.
    assert_eq!(world.lands(STRANGER, "192.168.77.10:30080"), ["dropped"]);
    assert_eq!(world.lands(POD, "192.168.77.10:30080"), ["10.244.1.2:8080"]);
    assert_eq!(world.lands(NODE, "192.168.77.10:30080"), ["10.244.1.2:8080 (snat)"]);
    world.put_slice("web", json!([]));
    for from in [STRANGER, POD, NODE] {
        assert_eq!(world.lands(from, "192.168.77.10:30080"), ["reset"], "{from}");
    }
}

#[test]
fn internal_policy_local_keeps_to_this_node() {
    let mut world = World::with_web(json!({
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}],
        "internalTrafficPolicy": "Local",
    }));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.0.2:8080"]);
    assert_eq!(world.lands(STRANGER, "192.168.77.10:30080"), BOTH_MASQUERADED);
}

#[test]
fn headless_services_and_names_have_no_rules() {
    let mut world = World::default();
    world.put_service("headless", "None", json!({}));
    world.put_service("name", "", json!({"type": "ExternalName", "externalName": "example.org"}));
    world.put_slice("headless", json!([endpoint("10.244.1.2")]));
    world.sync();
    assert!(world.ruleset().services().is_empty());
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let mut world = World::with_web(json!({"sessionAffinity": "ClientIP"}));
    let first = world.lands(POD, "10.96.0.10:80");
    assert_eq!(first.len(), 1, "whatever chance says");
    // Others go elsewhere: here chance decides once for each.
    let all: std::collections::BTreeSet<String> = (0..8)
        .flat_map(|number| {
            world.remembered.clear();
            let client = v4(10, 244, 0, 100 + number);
            let packet = super::Packet {
                source: client,
                destination: "10.96.0.10".parse().unwrap(),
                protocol: Protocol::Tcp,
                port: 80,
                chance: u32::from(number),
                at: 0,
            };
            let outcome = world.send(packet);
            assert_eq!(world.send(super::Packet { chance: 7, ..packet }), outcome);
            Some(format!("{outcome:?}"))
        })
        .collect();
    assert_eq!(all.len(), 2);
}

#[test]
fn a_client_is_forgotten_after_the_time_the_service_says() {
    let config = json!({"clientIP": {"timeoutSeconds": 60}});
    let mut world =
        World::with_web(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}));
    let packet = super::Packet {
        source: POD,
        destination: "10.96.0.10".parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 80,
        chance: 0,
        at: 0,
    };
    let first = world.send(packet);
    let other_chance = super::Packet { chance: 1, ..packet };
    world.now = 59;
    assert_eq!(world.send(other_chance), first);
    // Each connection begins the time anew.
    world.now = 118;
    assert_eq!(world.send(other_chance), first);
    world.now = 178;
    assert_ne!(world.send(other_chance), first);
}

#[test]
fn a_client_whose_endpoint_is_gone_gets_another_and_stays_there() {
    let mut world = World::with_web(json!({"sessionAffinity": "ClientIP"}));
    let first = world.lands(POD, "10.96.0.10:80");
    let (own, other) = if first == ["10.244.0.2:8080"] {
        ("10.244.0.2", "10.244.1.2")
    } else {
        ("10.244.1.2", "10.244.0.2")
    };
    // Another client is at the other endpoint and must not notice.
    let neighbour = v4(10, 244, 0, 77);
    while world.lands(neighbour, "10.96.0.10:80") == first {
        world.remembered.retain(|key, _| key[..4] != [10, 244, 0, 77]);
        world.put_slice("web", json!([endpoint(other)]));
        world.lands(neighbour, "10.96.0.10:80");
        world.put_slice("web", json!([endpoint(own), endpoint(other)]));
    }
    let others = [format!("{other}:8080")];
    world.put_slice("web", json!([endpoint(other)]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), others);
    assert_eq!(world.lands(neighbour, "10.96.0.10:80"), others);
    world.put_slice("web", json!([endpoint(own), endpoint(other), endpoint("10.244.3.3")]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), others);
    assert_eq!(world.lands(neighbour, "10.96.0.10:80"), others);
}

#[test]
fn host_ports_lead_to_their_pod_with_the_clients_address() {
    let mut world = World::with_web(json!({}));
    let port = |host_ip: Option<IpAddr>, host_port| HostPort {
        protocol: "TCP".into(),
        host_ip,
        host_port,
        container_port: 8080,
    };
    let ports = PodHostPorts {
        addresses: vec!["10.244.0.2".parse().unwrap()],
        ports: vec![port(None, 8888), port(Some(NODE), 9999)],
    };
    world.host_ports.insert("uid".into(), ports);
    for to in ["192.168.77.10:8888", "192.168.77.10:9999", "10.244.0.1:8888"] {
        assert_eq!(world.lands(STRANGER, to), ["10.244.0.2:8080"], "{to}");
    }
    assert_eq!(world.lands(STRANGER, "10.244.0.1:9999"), ["10.244.0.1:9999"]);
    let itself = v4(10, 244, 0, 2);
    assert_eq!(world.lands(itself, "192.168.77.10:8888"), ["10.244.0.2:8080 (snat)"]);
    let local = world.lands(v4(127, 0, 0, 1), "127.0.0.1:8888");
    assert_eq!(local, ["10.244.0.2:8080 (snat)"]);
    world.host_ports.clear();
    assert_eq!(world.lands(STRANGER, "192.168.77.10:8888"), ["192.168.77.10:8888"]);
}

#[test]
fn of_two_services_with_one_address_the_older_has_it() {
    let mut world = World::default();
    for (name, created) in [("younger", "2026-01-02T00:00:00Z"), ("older", "2026-01-01T00:00:00Z")]
    {
        world.put_service(name, "10.96.0.10", json!({}));
        let key = proto::ObjectKey::new("default", name);
        let mut service = world.services[&key].as_ref().clone();
        service.metadata.creation_timestamp = Some(serde_json::from_value(json!(created)).unwrap());
        world.put(service);
    }
    world.put_slice("older", json!([endpoint("10.244.1.1")]));
    world.put_slice("younger", json!([endpoint("10.244.1.2")]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.1.1:8080"]);
    assert_eq!(world.model.conflicts().into_iter().collect::<Vec<_>>(), ["default/younger"]);
    world.remove_service("older");
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.1.2:8080"]);
    assert!(world.model.conflicts().is_empty());
}

#[test]
fn no_entrance_takes_another_services_own_address() {
    let mut world = World::with_web(json!({}));
    world.put_service("a-thief", "10.96.0.66", json!({"externalIPs": ["10.96.0.10"]}));
    world.put_slice("a-thief", json!([endpoint("10.244.6.6")]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), BOTH);
}
