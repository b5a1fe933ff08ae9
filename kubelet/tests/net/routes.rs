//! Routes between nodes of both families.

use std::sync::Arc;

use kubelet::state::Change;
use proto::k8s::api::core::v1::NodeSpec;

use crate::ground::{Cluster, eventually, is_root};

#[test]
fn routes_lead_over_the_address_of_their_own_family() {
    if !is_root("routes_lead_over_the_address_of_their_own_family") {
        return;
    }
    let cluster = Cluster::new(2);
    let node = &cluster.nodes[0];
    node.state.write([Change::Everything], |state| {
        let mut own = state.node.as_deref().unwrap().clone();
        own.spec = Some(NodeSpec {
            pod_cidrs: Some(vec!["10.244.0.0/24".into(), "fd00:10::/64".into()]),
            ..own.spec.unwrap()
        });
        state.node = Some(Arc::new(own));
        let mut peer = state.peers["node-1"].as_ref().clone();
        peer.addresses.push("fd00:77::11".parse().unwrap());
        peer.pod_cidrs.push("fd00:10:0:1::/64".into());
        state.peers.insert(peer.node.clone(), Arc::new(peer));
        state.pod_cidrs.push("fd00:10::/56".into());
        state.service_cidrs.push("fd00:96::/112".into());
    });
    let routes = || node.namespace.command("ip -6 route show proto 107");
    let all_there = |routes: &String| {
        routes.contains("fd00:10:0:1::/64 via fd00:77::11 dev uplink")
            && routes.contains("unreachable fd00:10::/56")
            && routes.contains("fd00:96::/112 dev kutter0")
            && routes.lines().count() == 3
    };
    eventually("routes", routes, all_there);

    // Somebody takes them away.
    node.namespace.command("ip -6 route del fd00:10:0:1::/64");
    eventually("the route again", routes, all_there);
    node.namespace.command("ip -6 route del unreachable fd00:10::/56");
    eventually("the route again", routes, all_there);

    node.state.write([Change::Peers], |state| {
        let mut peer = state.peers["node-1"].as_ref().clone();
        peer.addresses = vec!["192.168.77.11".parse().unwrap(), "fd00:77::66".parse().unwrap()];
        state.peers.insert(peer.node.clone(), Arc::new(peer));
    });
    eventually("another way", routes, |routes| {
        routes.contains("fd00:10:0:1::/64 via fd00:77::66") && routes.lines().count() == 3
    });
    node.state.write([Change::Peers], |state| state.peers.clear());
    eventually("no way", routes, |routes| routes.lines().count() == 2);
    node.teardown();
    assert_eq!(routes(), "");
}

#[test]
fn forwarding_that_somebody_turns_off_is_turned_on_again() {
    if !is_root("forwarding_that_somebody_turns_off_is_turned_on_again") {
        return;
    }
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0].namespace;
    let forwards = || node.command("cat /proc/sys/net/ipv4/ip_forward");
    eventually("it forwards", forwards, |text| text.trim() == "1");
    // What else a new node hears of may have it look the first time.
    for _ in 0..2 {
        node.command("sysctl -q net.ipv4.ip_forward=0");
        eventually("it forwards again", forwards, |text| text.trim() == "1");
    }
}
