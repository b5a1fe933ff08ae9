//! What was begun before a policy forbade it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kubelet::state::Change;
use proto::ObjectKey;
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::policy::{PodPeer, Policy};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::truth::{nodes_of_both_families, object, uid};
use super::world::policy;
use super::{Peers, marker, tell};
use crate::ground::{Cluster, Namespace, PATIENCE, TestNode, eventually, is_root};

const PORT: u16 = 7;

/// A server, two clients on its node and two on another.
struct Flows {
    cluster: Cluster,
    server: Namespace,
    addresses: Vec<IpAddr>,
    clients: Vec<Client>,
    told: RefCell<u16>,
    _marks: Vec<Namespace>,
}

struct Client {
    name: String,
    namespace: Namespace,
    addresses: Vec<IpAddr>,
}

/// Both ends of something that was begun, over whichever protocol.
#[derive(Debug)]
enum Flow {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    async fn begin(server: SocketAddr, tcp: bool) -> std::io::Result<Self> {
        if tcp {
            return TcpStream::connect(server).await.map(Self::Tcp);
        }
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        Ok(Self::Udp(socket))
    }

    /// Says something and hears it again.
    async fn echo(&mut self) -> std::io::Result<()> {
        let mut heard = [0; 4];
        let work = async {
            match self {
                Self::Tcp(stream) => {
                    stream.write_all(b"ping").await?;
                    stream.read_exact(&mut heard).await?;
                }
                Self::Udp(socket) => {
                    socket.send(b"ping").await?;
                    socket.recv(&mut heard).await?;
                }
            }
            std::io::Result::Ok(())
        };
        tokio::time::timeout(PATIENCE, work).await??;
        assert_eq!(&heard, b"ping");
        Ok(())
    }
}

/// Says again whatever it hears.
fn echo(namespace: &Namespace) {
    namespace.run(async {
        let any = (std::net::Ipv6Addr::UNSPECIFIED, PORT);
        let tcp = TcpListener::bind(any).await.unwrap();
        let udp = UdpSocket::bind(any).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    // Ends with the connection, however that ends.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        tokio::spawn(async move {
            let mut heard = [0; 16];
            loop {
                let Ok((length, client)) = udp.recv_from(&mut heard).await else { continue };
                let _ = udp.send_to(&heard[..length], client).await;
            }
        });
    });
}

impl Flows {
    fn new() -> Self {
        let cluster = nodes_of_both_families();
        let names = ["cut-here", "kept-here", "cut-there", "kept-there"];
        for (number, node) in cluster.nodes.iter().enumerate() {
            node.state.write([Change::Everything], |state| {
                let here = names.iter().filter(|name| name.ends_with("-here") == (number == 0));
                for name in here.chain((number == 0).then_some(&"server")) {
                    state.pods.insert(ObjectKey::new("x", *name), object("x", name, None));
                }
            });
            node.guard();
        }
        let attach = |node: &TestNode, name: &str| {
            let namespace = Namespace::new();
            let addresses = node.attach_all(&uid("x", name), &namespace, &[]);
            (namespace, addresses)
        };
        let (server, addresses) = attach(&cluster.nodes[0], "server");
        echo(&server);
        let clients = names.iter().map(|name| {
            let (namespace, addresses) =
                attach(&cluster.nodes[usize::from(name.ends_with("-there"))], name);
            Client { name: (*name).to_owned(), namespace, addresses }
        });
        let clients = clients.collect();
        let marks = cluster.nodes.iter().map(marker).collect();
        Self { cluster, server, addresses, clients, told: RefCell::new(0), _marks: marks }
    }

    /// Tells the policies, and what the pods they name are: those that `peers` lets through.
    fn tell(&self, policies: &[NetworkPolicy], peers: impl Fn(&Client) -> bool) {
        let mut sets = Peers::new();
        for policy in policies {
            for set in Policy::of(policy).unwrap().peer_sets() {
                let peers = self.clients.iter().filter(|client| peers(client)).map(|client| {
                    let addresses = client.addresses.clone();
                    (client.name.clone(), Arc::new(PodPeer { addresses, ports: Vec::new() }))
                });
                sets.insert(set.to_string(), peers.collect());
            }
        }
        tell(&self.cluster.nodes, &mut self.told.borrow_mut(), policies, &sets);
    }

    /// Begins something from every client over every protocol and family; `forbid` makes policies that forbid
    /// it to those whose name says so.
    fn hold(&self, forbid: impl FnOnce()) {
        let mut flows = Vec::new();
        for client in &self.clients {
            for (address, tcp) in self.addresses.iter().flat_map(|one| [(one, true), (one, false)])
            {
                let server = SocketAddr::new(*address, PORT);
                let begun = || {
                    client.namespace.run(async move {
                        let mut flow = Flow::begin(server, tcp).await?;
                        flow.echo().await.map(|()| flow)
                    })
                };
                let flow = eventually("to begin", begun, Result::is_ok).unwrap();
                flows.push((client, server, tcp, flow));
            }
        }
        forbid();
        for (client, server, tcp, mut flow) in flows {
            let outcome = client.namespace.run(async move { flow.echo().await });
            let what = format!("{} to {server}, tcp {tcp}: {outcome:?}", client.name);
            if client.name.starts_with("kept") {
                assert!(outcome.is_ok(), "{what}");
                continue;
            }
            let error = outcome.expect_err(&what);
            assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{what}");
            // Nor is anything begun anew.
            let again =
                client.namespace.run(async move { Flow::begin(server, tcp).await?.echo().await });
            let error = again.expect_err(&what);
            assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{what}");
        }
    }
}

fn only_peers(direction: &str) -> NetworkPolicy {
    match direction {
        "Ingress" => policy(
            "x",
            "p",
            json!({
                "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}],
            }),
        ),
        // Of the clients, those that are cut off lose their egress.
        _ => policy(
            "x",
            "p",
            json!({
                "podSelector": {"matchLabels": {"cut": "yes"}}, "policyTypes": ["Egress"],
            }),
        ),
    }
}

#[test]
fn what_was_begun_ends_when_a_policy_begins_to_forbid_it() {
    if !is_root("what_was_begun_ends_when_a_policy_begins_to_forbid_it") {
        return;
    }
    let flows = Flows::new();
    let kept = |client: &Client| client.name.starts_with("kept");
    // Where the server is.
    flows.hold(|| flows.tell(&[only_peers("Ingress")], kept));
    // Where the clients are, on both nodes.
    flows.tell(&[], |_| true);
    for node in &flows.cluster.nodes {
        let cut = |key: &&ObjectKey| key.name.starts_with("cut");
        let pods =
            node.state.read(|state| state.pods.keys().filter(cut).cloned().collect::<Vec<_>>());
        node.state.write(pods.iter().cloned().map(Change::Pod), |state| {
            for key in &pods {
                let labels = [("cut".to_owned(), "yes".to_owned())].into();
                Arc::make_mut(state.pods.get_mut(key).unwrap()).metadata.labels = Some(labels);
            }
        });
    }
    flows.hold(|| flows.tell(&[only_peers("Egress")], kept));
}

#[test]
fn what_was_begun_ends_when_a_pod_is_a_peer_no_more() {
    if !is_root("what_was_begun_ends_when_a_pod_is_a_peer_no_more") {
        return;
    }
    let flows = Flows::new();
    flows.tell(&[only_peers("Ingress")], |_| true);
    flows.hold(|| flows.tell(&[only_peers("Ingress")], |client| client.name.starts_with("kept")));
}

#[test]
fn a_server_that_speaks_first_is_told_as_well() {
    if !is_root("a_server_that_speaks_first_is_told_as_well") {
        return;
    }
    let flows = Flows::new();
    for client in flows.clients.iter().filter(|client| client.name.starts_with("cut")) {
        for address in &client.addresses {
            // The one who began is the server's pod; who says something first after the change is the other.
            let listening = client.namespace.run(async {
                TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, 0)).await.unwrap()
            });
            let to = SocketAddr::new(*address, listening.local_addr().unwrap().port());
            let begun = || flows.server.run(async move { TcpStream::connect(to).await });
            let kept = eventually("to begin", begun, Result::is_ok).unwrap();
            let (mut accepted, listening) = client
                .namespace
                .run(async move { (listening.accept().await.unwrap().0, listening) });
            flows.tell(
                &[policy("x", "p", json!({"podSelector": {}, "policyTypes": ["Egress"]}))],
                |_| true,
            );
            let outcome = client.namespace.run(async move {
                accepted.write_all(b"ping").await?;
                tokio::time::timeout(PATIENCE, accepted.read_exact(&mut [0; 1])).await?
            });
            let error = outcome.unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset,
                "{} {error}",
                client.name
            );
            drop((kept, listening));
            flows.tell(&[], |_| true);
        }
    }
}
