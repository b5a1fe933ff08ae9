//! Ways into a Service beside its cluster address, and how long a client is remembered.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use crate::ground::{Answer, Namespace, TestPod, eventually, is_root, tally};
use crate::services::{Web, put_service, put_slice, service, slice, tally_tcp, web_service};
use crate::takeover::clients_remembered;

/// An address outside of the cluster.
const EXTERNAL: &str = "203.0.113.7";

/// Somebody else has the address, too, and is asked as long as no Service says that it has it: whether a
/// packet is refused cannot be asked often, for the kernel sends few ICMP messages to one receiver.
#[test]
fn external_addresses_are_reached_from_outside_and_from_pods() {
    if !is_root("external_addresses_are_reached_from_outside_and_from_pods") {
        return;
    }
    let web = Web::new(&web_service());
    let [node, elsewhere] = &web.cluster.nodes[..] else { panic!("two nodes") };
    elsewhere.namespace.command(&format!("ip address add {EXTERNAL} dev lo"));
    elsewhere.namespace.serve("elsewhere", 80);
    node.namespace.command(&format!("ip route add {EXTERNAL} via {}", elsewhere.address));
    let outsider = web.cluster.outsider();
    // All of them are neighbours, and the node would say that there is a shorter way.
    node.namespace.run(async {
        for interface in ["all", "uplink"] {
            let file = format!("/proc/sys/net/ipv4/conf/{interface}/send_redirects");
            std::fs::write(file, "0").unwrap();
        }
    });
    outsider.command(&format!("ip route add {EXTERNAL} via {}", node.address));
    let at = format!("{EXTERNAL}:80");
    // To one outside the answer has to come back by way of the node that has sent the question on.
    let of_node = vec![node.address, Ipv4Addr::new(10, 244, 0, 1)];
    let own = vec![web.client.address];
    let places: [(&Namespace, _); 2] = [(&outsider, of_node), (&web.client.namespace, own)];
    let is_elsewhere = || {
        for (from, _) in &places {
            let asked = || from.ask_tcp(&at).map(|answer| answer.server);
            let right = |server: &io::Result<String>| matches!(server.as_deref(), Ok("elsewhere"));
            eventually("who has the address", asked, right).unwrap();
        }
    };
    is_elsewhere();

    let address = Ipv4Addr::new(10, 96, 0, 10);
    put_service(&web.cluster, &service("web", address, json!({"externalIPs": [EXTERNAL]})));
    for (from, seen) in &places {
        let spread = |answers: &BTreeMap<String, usize>| {
            answers.contains_key("near") && answers.contains_key("far") && answers.len() == 2
        };
        eventually("both endpoints", || tally_tcp(from, &at, 16), spread);
        // The other node may know of the address first: it then answers what this one sends on to it.
        let by_this_node = |answer: &io::Result<Answer>| match answer {
            Ok(Answer { client: IpAddr::V4(client), .. }) => seen.contains(client),
            _ => false,
        };
        eventually("TCP by way of the node", || from.ask_tcp(&at), by_this_node).unwrap();
        eventually("UDP by way of the node", || from.ask_udp(&at), by_this_node).unwrap();
    }
    put_service(&web.cluster, &web_service());
    is_elsewhere();
}

#[test]
fn a_client_that_was_quiet_for_its_time_is_spread_anew() {
    if !is_root("a_client_that_was_quiet_for_its_time_is_spread_anew") {
        return;
    }
    let web = Web::new(&web_service());
    let affinity = json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}},
    });
    put_service(&web.cluster, &service("sticky", Ipv4Addr::new(10, 96, 0, 12), affinity));
    let ends = [(web.near.address, "node-0", true), (web.far.address, "node-1", true)];
    put_slice(&web.cluster, &slice("sticky", &ends));
    let node = &web.cluster.nodes[0];
    let ask = |client: &TestPod| client.namespace.ask_tcp("10.96.0.12:80");
    let first = eventually("the service", || ask(&web.client), io::Result::is_ok).unwrap().server;
    // Each time it is as likely as not to come to the same one again.
    for _ in 0..60 {
        eventually("it is forgotten", || clients_remembered(node), |clients| *clients == 0);
        if ask(&web.client).unwrap().server != first {
            return;
        }
    }
    panic!("sixty times at {first}: {:?}", tally((0..8).map(|_| ask(&web.client).unwrap())));
}
