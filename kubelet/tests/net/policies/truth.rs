//! The truth table: three namespaces of three pods on two nodes, and somebody outside; every pair of them,
//! two ports of two protocols in both families, under hundreds of policies.
//!
//! What the kernel does with every connection is compared with what the documentation says. Whoever is refused
//! hears of it, so that no answer has to be waited for in vain.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use kubelet::state::Change;
use proto::ObjectKey;
use proto::k8s::api::networking::v1::NetworkPolicy;
use serde_json::json;

use super::oracle::{self, Connection, End, Pod};
use super::world::{self, PORTS, PROTOCOLS};
use super::{marker, tell};
use crate::ground::{self, Cluster, Namespace, eventually, is_root};

const OUTSIDE: [&str; 2] = ["192.168.77.200", "fd00:77::200"];
/// Rounds of policies made by chance.
const ROUNDS: usize = 40;
/// Connections that one client begins at once.
const AT_ONCE: usize = 16;

/// The node that a pod is on: namespaces are on both.
fn node_of(pod: usize) -> usize {
    pod % 2
}

pub(super) fn object(
    namespace: &str,
    name: &str,
    pod: Option<&Pod>,
) -> Arc<proto::k8s::api::core::v1::Pod> {
    let ports = pod.iter().flat_map(|pod| &pod.ports).map(|(name, protocol, number)| {
        json!({"name": name, "containerPort": number, "protocol": protocol})
    });
    let ports: Vec<_> = ports.collect();
    let meta = json!({
        "namespace": namespace, "name": name, "uid": uid(namespace, name), "labels": pod.map(|pod| &pod.labels),
    });
    let spec = json!({"containers": [{"name": "main", "ports": ports}]});
    Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
}

pub(super) fn uid(namespace: &str, name: &str) -> String {
    format!("{namespace}-{name}")
}

/// Two nodes whose pods have addresses of both families.
pub(super) fn nodes_of_both_families() -> Cluster {
    let cluster = Cluster::new(2);
    let addresses =
        |number: usize| [format!("192.168.77.1{number}"), format!("fd00:77::1{number}")];
    let ranges =
        |number: usize| [format!("10.244.{number}.0/24"), format!("fd00:10:0:{number}::/64")];
    for (number, node) in cluster.nodes.iter().enumerate() {
        node.state.write([Change::Everything], |state| {
            let own = Arc::make_mut(state.node.as_mut().unwrap());
            own.spec.as_mut().unwrap().pod_cidrs = Some(ranges(number).into());
            let listed = addresses(number).map(|address| {
                serde_json::from_value(json!({"type": "InternalIP", "address": address})).unwrap()
            });
            own.status.as_mut().unwrap().addresses = Some(listed.into());
            for peer in state.peers.values_mut() {
                let peer = Arc::make_mut(peer);
                peer.addresses = addresses(1 - number).map(|text| text.parse().unwrap()).into();
                peer.pod_cidrs = ranges(1 - number).into();
            }
            state.pod_cidrs = vec!["10.244.0.0/16".into(), "fd00:10::/56".into()];
        });
    }
    for node in &cluster.nodes {
        // A refusal is told by ICMP, of which the kernel lets few through by default.
        for limit in [
            "ipv4.icmp_ratelimit=0",
            "ipv4.icmp_msgs_per_sec=1000000",
            "ipv4.icmp_msgs_burst=1000000",
            "ipv6.icmp.ratelimit=0",
        ] {
            node.namespace.command(&format!("sysctl -qw net.{limit}"));
        }
    }
    cluster
}

struct World {
    cluster: Cluster,
    pods: Vec<Pod>,
    /// Those of the pods, then the one outside.
    namespaces: Vec<Namespace>,
    outside: [IpAddr; 2],
    told: u16,
    _marks: Vec<Namespace>,
}

impl World {
    fn new() -> Self {
        let cluster = nodes_of_both_families();
        let empty = world::pods(|_| Vec::new());
        for (number, node) in cluster.nodes.iter().enumerate() {
            node.state.write([Change::Everything], |state| {
                for pod in empty.iter().enumerate().filter(|(pod, _)| node_of(*pod) == number) {
                    let object = object(&pod.1.namespace, &pod.1.name, Some(pod.1));
                    state.pods.insert(ObjectKey::new(&*pod.1.namespace, &*pod.1.name), object);
                }
            });
            node.guard();
        }
        let mut namespaces = Vec::new();
        let mut addresses = Vec::new();
        for (number, pod) in empty.iter().enumerate() {
            let namespace = Namespace::new();
            let node = &cluster.nodes[node_of(number)];
            addresses.push(node.attach_all(&uid(&pod.namespace, &pod.name), &namespace, &[]));
            PORTS.iter().for_each(|port| namespace.serve(&number.to_string(), *port));
            namespaces.push(namespace);
        }
        let marks = cluster.nodes.iter().map(marker).collect();
        let outsider = cluster.outsider();
        for number in 0..2 {
            outsider
                .command(&format!("ip route add 10.244.{number}.0/24 via 192.168.77.1{number}"));
            outsider
                .command(&format!("ip route add fd00:10:0:{number}::/64 via fd00:77::1{number}"));
        }
        PORTS.iter().for_each(|port| outsider.serve(&addresses.len().to_string(), *port));
        namespaces.push(outsider);
        Self {
            cluster,
            pods: world::pods(|number| addresses[number].clone()),
            namespaces,
            outside: OUTSIDE.map(|address| address.parse().unwrap()),
            told: 0,
            _marks: marks,
        }
    }

    fn tell(&mut self, policies: &[NetworkPolicy]) {
        let peers = world::peers(policies, &self.pods);
        tell(&self.cluster.nodes, &mut self.told, policies, &peers);
    }

    fn end(&self, number: usize, family: usize) -> End<'_> {
        match self.pods.get(number) {
            Some(pod) => End { pod: Some(pod), address: pod.addresses[family] },
            None => End { pod: None, address: self.outside[family] },
        }
    }

    /// Every connection that a client may begin, by the number of its server.
    fn connections(&self, from: usize) -> Vec<(usize, Connection<'_>)> {
        let servers = (0..self.namespaces.len()).filter(|to| from.min(*to) < self.pods.len());
        let ends = servers.flat_map(|to| [0, 1].map(|family| (to, family)));
        ends.flat_map(|(to, family)| {
            let ports = PORTS.iter().flat_map(|port| PROTOCOLS.map(|protocol| (*port, protocol)));
            ports.map(move |(port, protocol)| {
                let (from, destination) = (self.end(from, family), self.end(to, family));
                (to, Connection { from, to: destination, protocol, port })
            })
        })
        .collect()
    }

    /// Begins them all, and says what became of each.
    fn begin(&self, from: usize) -> Vec<io::Result<String>> {
        let asked = self.connections(from).into_iter().map(|(_, connection)| {
            let server = SocketAddr::new(connection.to.address, connection.port);
            (server, connection.protocol == "TCP")
        });
        let asked: Vec<(SocketAddr, bool)> = asked.collect();
        self.namespaces[from].run(async move {
            let answers = stream::iter(asked).map(|(server, tcp)| async move {
                let answer = if tcp {
                    ground::over_tcp(server).await
                } else {
                    ground::over_udp(server).await
                };
                answer.map(|answer| answer.server)
            });
            answers.buffered(AT_ONCE).collect().await
        })
    }

    /// Whether every connection fares as the documentation says; how many were allowed, and how many refused.
    fn check(&self, policies: &[NetworkPolicy]) -> Result<[usize; 2], String> {
        let found: Vec<Vec<io::Result<String>>> = std::thread::scope(|scope| {
            let clients =
                (0..self.namespaces.len()).map(|from| scope.spawn(move || self.begin(from)));
            let clients: Vec<_> = clients.collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let mut counts = [0; 2];
        for (from, found) in found.into_iter().enumerate() {
            for ((to, connection), found) in self.connections(from).into_iter().zip(found) {
                let wanted = oracle::allows(policies, &connection);
                let right = match &found {
                    Ok(server) => wanted && *server == to.to_string(),
                    Err(error) => !wanted && is_refusal(error, connection.protocol),
                };
                if !right {
                    let Connection { from, to, protocol, port } = connection;
                    return Err(format!(
                        "{} to {} {protocol} port {port}: {found:?}, and that should be {}",
                        from.address,
                        to.address,
                        if wanted { "allowed" } else { "refused" },
                    ));
                }
                counts[usize::from(!wanted)] += 1;
            }
        }
        Ok(counts)
    }
}

/// Whether an error says that it is not allowed, and not that nobody listens.
fn is_refusal(error: &io::Error, protocol: &str) -> bool {
    match protocol {
        "TCP" => error.kind() == ErrorKind::ConnectionRefused,
        _ => matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::PermissionDenied),
    }
}

#[test]
fn what_is_allowed_is_what_the_documentation_says() {
    if !is_root("what_is_allowed_is_what_the_documentation_says") {
        return;
    }
    let seed = std::env::var("KUTTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    println!("KUTTER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::new();
    // Routes, and whoever has to be found first.
    eventually("all to be open", || world.check(&[]), Result::is_ok).unwrap();
    let mut rounds = world::all_sayings(&mut random, &world.pods);
    for _ in 0..ROUNDS {
        let many = 1 + random.usize(..12);
        let policies = (0..many)
            .map(|number| world::any_policy(&mut random, &format!("any-{number}"), &world.pods));
        rounds.push(policies.collect());
    }
    let mut counts = BTreeMap::new();
    for (number, policies) in rounds.iter().enumerate() {
        world.tell(policies);
        match world.check(policies) {
            Ok([allowed, refused]) => {
                *counts.entry("policies").or_insert(0) += policies.len();
                *counts.entry("allowed").or_insert(0) += allowed;
                *counts.entry("refused").or_insert(0) += refused;
            }
            Err(wrong) => {
                let policies = serde_json::to_string_pretty(policies).unwrap();
                panic!("KUTTER_SEED={seed}, round {number}: {wrong}; under {policies}");
            }
        }
    }
    println!("{counts:?}");
    // A table that is all of one kind would show little.
    assert!(
        counts["policies"] > 300 && counts["allowed"].min(counts["refused"]) > 10_000,
        "{counts:?}"
    );
}
