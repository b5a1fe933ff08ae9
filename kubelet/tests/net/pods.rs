//! Pods reach each other.

use std::sync::Arc;

use kubelet::network::PodNetwork;
use kubelet::state::Change;

use crate::ground::{Cluster, Namespace, attachment, eventually, is_root};

#[test]
fn pods_reach_pods_on_the_same_node_without_nat() {
    if !is_root("pods_reach_pods_on_the_same_node_without_nat") {
        return;
    }
    let cluster = Cluster::new(1);
    let (a, b) = (cluster.nodes[0].pod("a"), cluster.nodes[0].pod("b"));
    b.namespace.serve("b", 8080);
    for answer in [
        a.namespace.ask_tcp(format!("{}:8080", b.address)).unwrap(),
        a.namespace.ask_udp(format!("{}:8080", b.address)).unwrap(),
    ] {
        assert_eq!(answer.server, "b");
        assert_eq!(answer.client, a.address);
    }
}

#[test]
fn a_bridge_that_somebody_removes_is_made_anew_with_its_pods() {
    if !is_root("a_bridge_that_somebody_removes_is_made_anew_with_its_pods") {
        return;
    }
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    let (a, b) = (node.pod("a"), node.pod("b"));
    b.namespace.serve("b", 8080);
    let bridge =
        node.namespace.command("ip -o link show type bridge").split(": ").nth(1).map(str::to_owned);
    node.namespace.command(&format!("ip link del {}", bridge.unwrap()));
    let from_pod = || a.namespace.ask_tcp(format!("{}:8080", b.address)).ok();
    eventually("b is reached from a", from_pod, |answer| {
        answer.as_ref().is_some_and(|a| a.server == "b")
    });
    let from_node = || node.namespace.ask_tcp(format!("{}:8080", b.address)).ok();
    eventually("and from the node", from_node, |answer| {
        answer.as_ref().is_some_and(|a| a.server == "b")
    });
    let ports = node.namespace.command("bridge -d link show");
    assert_eq!(ports.matches("hairpin on").count(), 2, "{ports}");
}

#[test]
fn pods_reach_pods_on_other_nodes_without_nat() {
    if !is_root("pods_reach_pods_on_other_nodes_without_nat") {
        return;
    }
    let cluster = Cluster::new(3);
    let a = cluster.nodes[0].pod("a");
    let b = cluster.nodes[2].pod("b");
    b.namespace.serve("b", 8080);
    let server = format!("{}:8080", b.address);
    eventually("the routes", || cluster.nodes[2].routes(), |routes| routes.len() == 4);
    eventually("the routes", || cluster.nodes[0].routes(), |routes| routes.len() == 4);
    let answer = a.namespace.ask_tcp(&server).unwrap();
    assert_eq!((answer.server.as_str(), answer.client), ("b", a.address.into()));
    let answer = cluster.nodes[1].namespace.ask_tcp(&server).unwrap();
    assert_eq!(answer.client, cluster.nodes[1].address, "a node is seen as itself");
}

#[test]
fn pods_and_their_node_reach_each_other() {
    if !is_root("pods_and_their_node_reach_each_other") {
        return;
    }
    let cluster = Cluster::new(1);
    let (node, a) = (&cluster.nodes[0], cluster.nodes[0].pod("a"));
    a.namespace.serve("a", 8080);
    node.namespace.serve("node", 9090);
    assert_eq!(node.namespace.ask_tcp(format!("{}:8080", a.address)).unwrap().server, "a");
    let answer = a.namespace.ask_tcp(format!("{}:9090", node.address)).unwrap();
    assert_eq!((answer.server.as_str(), answer.client), ("node", a.address.into()));
    // Its own loopback interface works as well.
    assert_eq!(a.namespace.ask_tcp("127.0.0.1:8080").unwrap().server, "a");
}

#[test]
fn routes_follow_the_other_nodes_at_once() {
    if !is_root("routes_follow_the_other_nodes_at_once") {
        return;
    }
    let cluster = Cluster::new(2);
    let node = &cluster.nodes[0];
    let route = "10.244.1.0/24 via 192.168.77.11 dev uplink";
    let has = |text: &'static str| {
        move |routes: &Vec<String>| routes.iter().any(|route| route.starts_with(text))
    };
    eventually("a route", || node.routes(), has(route));

    // The node takes another address.
    node.state.write([Change::Peers], |state| {
        let mut peer = state.peers["node-1"].as_ref().clone();
        peer.addresses = vec!["192.168.77.66".parse().unwrap()];
        state.peers.insert(peer.node.clone(), Arc::new(peer));
    });
    eventually("a new way", || node.routes(), has("10.244.1.0/24 via 192.168.77.66"));

    // Links that go down take their routes along without a word.
    node.namespace.command("ip link set uplink down");
    node.namespace.command("ip link set uplink up");
    eventually("the route again", || node.routes(), has("10.244.1.0/24 via 192.168.77.66"));
    node.namespace.command("ip route del 10.244.1.0/24");
    eventually("the route again", || node.routes(), has("10.244.1.0/24 via 192.168.77.66"));

    // The node is gone.
    node.state.write([Change::Peers], |state| state.peers.clear());
    let left = eventually("no route", || node.routes(), |routes| routes.len() == 2);
    assert!(left[0].starts_with("10.96.0.0/16 dev kutter0"), "{left:?}");
    assert!(left[1].starts_with("unreachable 10.244.0.0/16"), "{left:?}");
}

#[test]
fn leaves_routes_of_others_alone() {
    if !is_root("leaves_routes_of_others_alone") {
        return;
    }
    let cluster = Cluster::new(2);
    let node = &cluster.nodes[0];
    eventually("a route", || node.routes(), |routes| routes.len() == 3);
    node.namespace.command("ip route add 172.31.0.0/16 via 192.168.77.11");
    node.state.write([Change::Peers], |state| state.peers.clear());
    eventually("no route", || node.routes(), |routes| routes.len() == 2);
    let all = node.namespace.command("ip -4 route show");
    assert!(all.contains("172.31.0.0/16 via 192.168.77.11"), "{all}");
}

#[test]
fn attaching_again_changes_nothing() {
    if !is_root("attaching_again_changes_nothing") {
        return;
    }
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    let (a, b) = (node.pod("a"), node.pod("b"));
    b.namespace.serve("b", 8080);
    assert_eq!(node.attach("b", &b.namespace, &[]), b.address);
    assert_eq!(node.veths(), 2);
    assert_eq!(a.namespace.ask_tcp(format!("{}:8080", b.address)).unwrap().server, "b");
}

#[test]
fn a_pod_whose_sandbox_was_made_anew_keeps_its_address() {
    if !is_root("a_pod_whose_sandbox_was_made_anew_keeps_its_address") {
        return;
    }
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    let (a, b) = (node.pod("a"), node.pod("b"));
    // The old namespace lives on beside the new one.
    let anew = Namespace::new();
    assert_eq!(node.attach("b", &anew, &[]), b.address);
    anew.serve("b anew".replace(' ', "-").as_str(), 8080);
    let answer = a.namespace.ask_tcp(format!("{}:8080", b.address)).unwrap();
    assert_eq!(answer.server, "b-anew");
    assert_eq!(node.veths(), 2);
}

#[test]
fn addresses_survive_a_restart_and_are_not_given_again_at_once() {
    if !is_root("addresses_survive_a_restart_and_are_not_given_again_at_once") {
        return;
    }
    let mut cluster = Cluster::new(1);
    let node = &mut cluster.nodes[0];
    let (a, b) = (node.pod("a"), node.pod("b"));
    a.namespace.serve("a", 8080);
    node.restart();
    assert_eq!(node.attach("a", &a.namespace, &[]), a.address);
    assert_eq!(b.namespace.ask_tcp(format!("{}:8080", a.address)).unwrap().server, "a");
    node.detach("b");
    let c = node.pod("c");
    assert!(c.address != a.address && c.address != b.address, "{}", c.address);
}

#[test]
fn retain_removes_what_a_crash_left() {
    if !is_root("retain_removes_what_a_crash_left") {
        return;
    }
    let mut cluster = Cluster::new(1);
    let node = &mut cluster.nodes[0];
    let pods: Vec<_> = ["a", "b", "c"].iter().map(|uid| node.pod(uid)).collect();
    // A lease that was lost, as if the folder had been removed.
    std::fs::remove_dir_all(&node.network_config.state_dir).unwrap();
    node.restart();
    node.attach("a", &pods[0].namespace, &[]);
    node.retain(&["a"]);
    assert_eq!(node.veths(), 1);
    node.retain(&[]);
    assert_eq!(node.veths(), 0);
}

#[test]
fn many_pods_are_attached_at_once() {
    if !is_root("many_pods_are_attached_at_once") {
        return;
    }
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    let pods: Vec<Namespace> = (0..40).map(|_| Namespace::new()).collect();
    let network = Arc::clone(&node.network);
    let paths: Vec<_> = pods.iter().map(Namespace::path).collect();
    let mut addresses = node.namespace.run(async move {
        let attached = paths.iter().enumerate().map(|(number, path)| {
            let network = Arc::clone(&network);
            async move {
                let uid = format!("pod-{number}");
                network.attach(&attachment(&uid, path, &[])).await.unwrap()
            }
        });
        futures::future::join_all(attached).await.concat()
    });
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 40);
    assert_eq!(node.veths(), 40);
}

#[test]
fn teardown_leaves_nothing() {
    if !is_root("teardown_leaves_nothing") {
        return;
    }
    let cluster = Cluster::new(2);
    let node = &cluster.nodes[0];
    let _pods = [node.pod("a"), node.pod("b")];
    eventually("the routes", || node.routes(), |routes| routes.len() == 3);
    node.teardown();
    assert_eq!(node.routes(), Vec::<String>::new());
    let links = node.namespace.command("ip -o link show");
    let left: Vec<&str> = links.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    assert!(left.iter().all(|name| *name == "lo" || name.starts_with("uplink")), "{left:?}");
    // A second time there is nothing to do.
    node.teardown();
}
