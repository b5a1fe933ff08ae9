//! What the tests stand on: nodes and pods as network namespaces, each held by a thread.
//!
//! A namespace lives exactly as long as its thread, so nothing is left behind by a test that
//! panics. The test's own thread never sends a packet: all traffic starts inside a namespace.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kubelet::network::{Attachment, BridgeNetwork, HostPort, NetworkConfig, PodNetwork};
use kubelet::nft::Connection;
use kubelet::proxy::{self, ProxyConfig};
use kubelet::state::{Change, ClusterState, StateHandle};
use nix::sched::{CloneFlags, unshare};
use proto::Peer;
use proto::k8s::api::core::v1::{Node, NodeAddress, NodeSpec, NodeStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long things may take. Generous: the machine may be busy, and only failures wait for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Whether namespaces can be made; says so if not.
pub(crate) fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test}: left out, it makes network namespaces and needs root");
    }
    root
}

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A network namespace with a runtime inside.
pub(crate) struct Namespace {
    jobs: mpsc::UnboundedSender<Job>,
    /// Id of the thread that holds it.
    pub(crate) tid: i32,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            // Nobody has the same address, and a router that is still asking whether its link-local one
            // is taken passes nothing on for seconds.
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("IPv6");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            send.send(nix::unistd::gettid().as_raw()).unwrap();
            runtime.block_on(async {
                while let Some(job) = queue.recv().await {
                    tokio::spawn(job);
                }
            });
            runtime.shutdown_background();
        });
        Self { jobs, tid: receive.recv().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/task/{}/ns/net", self.tid).into()
    }

    /// Starts something inside and lets it run.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        assert!(self.jobs.send(Box::pin(work)).is_ok(), "the namespace has died");
    }

    /// Runs something inside and waits for it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (send, receive) = std::sync::mpsc::channel();
        self.spawn(async move {
            let _ = send.send(work.await);
        });
        receive.recv().expect("what ran inside panicked")
    }

    /// Runs a program inside; returns what it printed.
    pub(crate) fn command(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(async move {
            let words: Vec<&str> = line.split_whitespace().collect();
            let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{line}: {errors}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// What a server says over TCP, on a connection of its own.
    pub(crate) fn ask_tcp(&self, server: impl ToString) -> io::Result<Answer> {
        self.ask_tcp_within(PATIENCE, server)
    }

    /// Likewise, with another patience.
    pub(crate) fn ask_tcp_within(
        &self,
        patience: Duration,
        server: impl ToString,
    ) -> io::Result<Answer> {
        let server: SocketAddr = server.to_string().parse().unwrap();
        self.run(over_tcp_within(patience, server))
    }

    /// What a server says over UDP, from a socket of its own.
    pub(crate) fn ask_udp(&self, server: impl ToString) -> io::Result<Answer> {
        self.run(over_udp(server.to_string().parse().unwrap()))
    }

    /// Starts servers of both families that say who they are and who asked.
    pub(crate) fn serve(&self, name: &str, port: u16) {
        let name = name.to_owned();
        self.run(async move {
            let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.unwrap();
            let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await.unwrap();
            let tcp_name = name.clone();
            tokio::spawn(async move {
                loop {
                    let (mut stream, client) = tcp.accept().await.unwrap();
                    let text = format!("{tcp_name} {}", client.ip().to_canonical());
                    // A client that has gone away is its own affair.
                    let _ = stream.write_all(text.as_bytes()).await;
                }
            });
            tokio::spawn(async move {
                let mut buffer = [0; 256];
                loop {
                    let Ok((_, client)) = udp.recv_from(&mut buffer).await else { continue };
                    let text = format!("{name} {}", client.ip().to_canonical());
                    let _ = udp.send_to(text.as_bytes(), client).await;
                }
            });
        });
    }
}

/// What a server says over TCP, on a connection of its own; in the namespace of the thread.
pub(crate) async fn over_tcp(server: SocketAddr) -> io::Result<Answer> {
    over_tcp_within(PATIENCE, server).await
}

async fn over_tcp_within(patience: Duration, server: SocketAddr) -> io::Result<Answer> {
    let asking = async {
        let mut stream = TcpStream::connect(server).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(Answer::of(&text))
    };
    within(patience, asking).await
}

/// What a server says over UDP, from a socket of its own; in the namespace of the thread.
pub(crate) async fn over_udp(server: SocketAddr) -> io::Result<Answer> {
    let asking = async {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(b"who?").await?;
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).await?;
        Ok(Answer::of(&String::from_utf8_lossy(&buffer[..length])))
    };
    within(PATIENCE, asking).await
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(patience, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Who answered, and whom it believed to be asked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) server: String,
    pub(crate) client: IpAddr,
}

impl Answer {
    fn of(text: &str) -> Self {
        let (server, client) = text.split_once(' ').unwrap_or_else(|| panic!("{text:?}"));
        Self { server: server.to_owned(), client: client.parse().unwrap() }
    }
}

/// Nodes on one segment, or on several with a router between.
pub(crate) struct Cluster {
    segments: Vec<Namespace>,
    pub(crate) router: Option<Namespace>,
    pub(crate) nodes: Vec<TestNode>,
    _folder: tempfile::TempDir,
}

pub(crate) struct TestNode {
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) state: StateHandle,
    pub(crate) network: Arc<BridgeNetwork>,
    pub(crate) network_config: NetworkConfig,
    pub(crate) proxy_config: ProxyConfig,
    connection: Connection,
    pub(crate) stop: CancellationToken,
}

pub(crate) struct TestPod {
    pub(crate) namespace: Namespace,
    pub(crate) address: Ipv4Addr,
}

impl Cluster {
    /// Nodes `node-0` … at `192.168.77.10` …, whose pods are in `10.244.N.0/24`.
    pub(crate) fn new(size: u8) -> Self {
        Self::on_segments(&[size], None)
    }

    /// So many nodes on each segment, with a router between that knows nothing of pods. Segment S is
    /// `192.168.(77 + S).0/24` and `fd00:(77 + S)::/64`; nodes have addresses of both.
    pub(crate) fn routed(sizes: &[u8]) -> Self {
        let router = Namespace::new();
        router.command("ip link set lo up");
        router.run(async {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            }
        });
        for range in ["10.244.0.0/16", "10.96.0.0/16", "fd00:10::/56", "fd00:96::/112"] {
            router.command(&format!("ip route add unreachable {range}"));
        }
        Self::on_segments(sizes, Some(router))
    }

    fn on_segments(sizes: &[u8], router: Option<Namespace>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut segments, mut nodes): (Vec<Namespace>, Vec<TestNode>) = (Vec::new(), Vec::new());
        for (number, size) in (77..).zip(sizes) {
            let segment = Namespace::new();
            segment.command("ip link add wire type bridge");
            segment.command("ip link set wire up");
            if let Some(router) = &router {
                plug(&segment, router, "router", &format!("to{number}"), number, 1);
            }
            for _ in 0..*size {
                let node = u8::try_from(nodes.len()).unwrap();
                nodes.push(TestNode::new(node, number, &segment, folder.path()));
                if router.is_some() {
                    let namespace = &nodes.last().unwrap().namespace;
                    namespace.command(&format!("ip route add default via 192.168.{number}.1"));
                    namespace.command(&format!("ip -6 route add default via fd00:{number}::1"));
                }
            }
            segments.push(segment);
        }
        let cluster = Self { segments, router, nodes, _folder: folder };
        for node in &cluster.nodes {
            cluster.introduce(node);
        }
        cluster
    }

    /// From now on the first segment carries packets of so many bytes at most.
    pub(crate) fn narrow(&self, mtu: u32) {
        if let Some(router) = &self.router {
            router.command(&format!("ip link set to77 mtu {mtu}"));
            self.segments[0].command(&format!("ip link set router mtu {mtu}"));
        }
        for node in &self.nodes {
            if node.address.octets()[2] == 77 {
                self.segments[0].command(&format!("ip link set {} mtu {mtu}", node.name));
                node.namespace.command(&format!("ip link set uplink mtu {mtu}"));
            }
        }
    }

    /// An address on the segment that is no node's.
    pub(crate) fn outsider(&self) -> Namespace {
        let outsider = Namespace::new();
        plug(&self.segments[0], &outsider, "outsider", "uplink", 77, 200);
        outsider
    }

    /// As if a node's kubelet was killed and started again, with an older state on its disk: what
    /// `edit` adds to what every node knows.
    pub(crate) fn restart_with(&mut self, node: usize, edit: impl FnOnce(&mut ClusterState)) {
        self.nodes[node].stop.cancel();
        self.nodes[node].state = StateHandle::default();
        self.introduce(&self.nodes[node]);
        self.nodes[node].state.write([Change::Everything], |state| {
            state.confirmed = false;
            edit(state);
        });
        self.nodes[node].restart();
    }

    /// Tells a node of itself and the others, as a master would.
    fn introduce(&self, node: &TestNode) {
        let peers: Vec<Peer> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, peer)| peer.name != node.name)
            .map(|(number, peer)| Peer {
                node: peer.name.clone(),
                addresses: vec![peer.address.into()],
                pod_cidrs: vec![format!("10.244.{number}.0/24")],
            })
            .collect();
        let own = self.nodes.iter().position(|other| other.name == node.name).unwrap();
        let object = Node {
            spec: Some(NodeSpec {
                pod_cidr: Some(format!("10.244.{own}.0/24")),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                addresses: Some(vec![NodeAddress {
                    type_: "InternalIP".into(),
                    address: node.address.to_string(),
                }]),
                ..NodeStatus::default()
            }),
            ..Node::default()
        };
        node.state.write([Change::Everything], |state| {
            state.confirmed = true;
            state.peers =
                peers.into_iter().map(|peer| (peer.node.clone(), Arc::new(peer))).collect();
            state.node = Some(Arc::new(object));
            state.pod_cidrs = vec!["10.244.0.0/16".into()];
            state.service_cidrs = vec!["10.96.0.0/16".into()];
            state.cluster_domain = "cluster.local".into();
        });
    }

    /// Changes what every node knows.
    pub(crate) fn tell(&self, changes: &[Change], edit: impl Fn(&mut ClusterState)) {
        for node in &self.nodes {
            node.state.write(changes.iter().cloned(), &edit);
        }
    }
}

/// Joins a namespace to a segment, as host `host` of it.
fn plug(
    segment: &Namespace,
    namespace: &Namespace,
    port: &str,
    uplink: &str,
    number: u8,
    host: u8,
) {
    let tid = namespace.tid;
    segment.command(&format!("ip link add {port} type veth peer name {uplink} netns {tid}"));
    segment.command(&format!("ip link set {port} master wire up"));
    namespace.command("ip link set lo up");
    namespace.command(&format!("ip address add 192.168.{number}.{host}/24 dev {uplink}"));
    namespace.command(&format!("ip address add fd00:{number}::{host}/64 dev {uplink} nodad"));
    namespace.command(&format!("ip link set {uplink} up"));
    // What is sent before the wire is ready is lost, and sent again after a second only.
    eventually(
        "the wire",
        || segment.command(&format!("ip -o link show {port}")),
        |link| link.contains("state UP"),
    );
}

impl TestNode {
    fn new(number: u8, segment_number: u8, segment: &Namespace, folder: &std::path::Path) -> Self {
        let namespace = Namespace::new();
        let name = format!("node-{number}");
        let address = Ipv4Addr::new(192, 168, segment_number, 10 + number);
        plug(segment, &namespace, &name, "uplink", segment_number, 10 + number);
        let state = StateHandle::default();
        let network_config = NetworkConfig {
            bridge: "kutter0".into(),
            state_dir: folder.join(&name),
            vxlan_port: 8472,
            table: "kutter-tunnel".into(),
        };
        let proxy_config = ProxyConfig {
            table: "kutter".into(),
            node_name: name.clone(),
            pods_of_range: true,
            node_port_addresses: Default::default(),
        };
        let stop = CancellationToken::new();
        let connection = Connection::default();
        let network = start(&namespace, &network_config, &proxy_config, &connection, &state, &stop);
        Self {
            namespace,
            name,
            address,
            state,
            network,
            network_config,
            proxy_config,
            connection,
            stop,
        }
    }

    /// As if the kubelet was killed and started again. What it made in the kernel stays.
    pub(crate) fn restart(&mut self) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        self.connection = Connection::default();
        self.network = start(
            &self.namespace,
            &self.network_config,
            &self.proxy_config,
            &self.connection,
            &self.state,
            &self.stop,
        );
    }

    /// Holds its pods to network policies. Those that no master knows of are cut off.
    pub(crate) fn guard(&self) {
        self.namespace.spawn(kubelet::policy::run(
            self.state.clone(),
            self.network.pod_addresses().guard(),
            self.connection.clone(),
            format!("{}-policy", self.proxy_config.table),
            self.stop.clone(),
        ));
    }

    pub(crate) fn pod(&self, uid: &str) -> TestPod {
        self.pod_with_ports(uid, &[])
    }

    pub(crate) fn pod_with_ports(&self, uid: &str, ports: &[HostPort]) -> TestPod {
        let namespace = Namespace::new();
        let address = self.attach(uid, &namespace, ports);
        TestPod { namespace, address }
    }

    pub(crate) fn attach(&self, uid: &str, namespace: &Namespace, ports: &[HostPort]) -> Ipv4Addr {
        match self.attach_all(uid, namespace, ports)[..] {
            [IpAddr::V4(address)] => address,
            ref other => panic!("{other:?}"),
        }
    }

    /// All addresses that a pod gets.
    pub(crate) fn attach_all(
        &self,
        uid: &str,
        namespace: &Namespace,
        ports: &[HostPort],
    ) -> Vec<IpAddr> {
        let (network, path) = (Arc::clone(&self.network), namespace.path());
        let (uid, ports) = (uid.to_owned(), ports.to_vec());
        self.namespace
            .run(async move { network.attach(&attachment(&uid, &path, &ports)).await })
            .unwrap()
    }

    pub(crate) fn detach(&self, uid: &str) {
        let (network, uid) = (Arc::clone(&self.network), uid.to_owned());
        self.namespace.run(async move { network.detach(&uid).await }).unwrap();
    }

    pub(crate) fn retain(&self, alive: &[&str]) {
        let network = Arc::clone(&self.network);
        let alive: Vec<String> = alive.iter().map(|uid| (*uid).to_owned()).collect();
        self.namespace.run(async move { network.retain(&alive).await }).unwrap();
    }

    pub(crate) fn teardown(&self) {
        self.stop.cancel();
        let (network, proxy) = (self.network_config.clone(), self.proxy_config.clone());
        self.namespace.run(async move {
            kubelet::policy::teardown(&format!("{}-policy", proxy.table)).await.unwrap();
            proxy::teardown(&proxy.table).await.unwrap();
            let attached = network.state_dir.join("cni");
            kubelet::network::teardown(&network, &attached).await.unwrap();
        });
    }

    /// The routes a kubelet has made.
    pub(crate) fn routes(&self) -> Vec<String> {
        let text = self.namespace.command("ip -4 route show proto 107");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// Interfaces of pods on this node.
    pub(crate) fn veths(&self) -> usize {
        let text = self.namespace.command("ip -o link show type veth");
        text.lines().filter(|line| line.contains(": kt")).count()
    }
}

fn start(
    namespace: &Namespace,
    network_config: &NetworkConfig,
    proxy_config: &ProxyConfig,
    connection: &Connection,
    state: &StateHandle,
    stop: &CancellationToken,
) -> Arc<BridgeNetwork> {
    let network =
        Arc::new(BridgeNetwork::new(network_config.clone(), state.clone()).expect("a network"));
    let (kept, shutdown) = (Arc::clone(&network), stop.clone());
    let rules = connection.clone();
    namespace.spawn(async move { kept.run(rules, shutdown).await });
    namespace.spawn(proxy::run(
        state.clone(),
        network.host_ports(),
        connection.clone(),
        proxy_config.clone(),
        stop.clone(),
    ));
    network
}

/// What a kubelet says of a pod to be attached.
pub(crate) fn attachment<'a>(
    uid: &'a str,
    netns: &'a Path,
    ports: &'a [HostPort],
) -> Attachment<'a> {
    Attachment { pod_uid: uid, namespace: "default", name: uid, netns, ports }
}

/// Asks until the answer is as expected: state reaches the kernel a moment after it is told.
pub(crate) fn eventually<T: std::fmt::Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    right: impl Fn(&T) -> bool,
) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if right(&seen) {
            return seen;
        }
        assert!(std::time::Instant::now() < deadline, "{what}: at last {seen:?}");
        std::thread::yield_now();
    }
}

/// How often each server answered.
pub(crate) fn tally(answers: impl IntoIterator<Item = Answer>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.server).or_default() += 1;
    }
    counts
}
