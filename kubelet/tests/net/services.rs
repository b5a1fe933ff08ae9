//! Services reach their pods: what is tested is who answered, and whom it saw.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use kubelet::network::HostPort;
use kubelet::state::{self, Change, ClusterState};
use proto::ObjectKey;
use proto::k8s::api::core::v1::Service;
use proto::k8s::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::ground::{Answer, Cluster, Namespace, TestPod, eventually, is_root, tally};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// A Service `default/NAME` on port 80 (TCP and UDP).
pub(crate) fn service(name: &str, address: Ipv4Addr, extra: Value) -> Arc<Service> {
    let mut spec = json!({
        "clusterIP": address.to_string(),
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 80},
            {"name": "udp", "protocol": "UDP", "port": 80},
        ],
    });
    let fields = extra.as_object().cloned().unwrap_or_default();
    spec.as_object_mut().unwrap().extend(fields);
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn node_port_service(name: &str, address: Ipv4Addr, number: u16) -> Arc<Service> {
    let ports = json!([
        {"name": "tcp", "protocol": "TCP", "port": 80, "nodePort": number},
        {"name": "udp", "protocol": "UDP", "port": 80, "nodePort": number},
    ]);
    service(name, address, json!({"type": "NodePort", "ports": ports}))
}

/// The slice of a Service: addresses, the node of each, whether each is ready.
pub(crate) fn slice(service: &str, endpoints: &[(Ipv4Addr, &str, bool)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, ready)| {
            json!({
                "addresses": [address.to_string()],
                "nodeName": node,
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
            })
        })
        .collect();
    let object = json!({
        "metadata": {
            "name": format!("{service}-1"),
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 8080},
            {"name": "udp", "protocol": "UDP", "port": 8080},
        ],
        "endpoints": endpoints,
    });
    serde_json::from_value(object).unwrap()
}

pub(crate) fn put_service(cluster: &Cluster, service: &Arc<Service>) {
    let key = ObjectKey::new("default", service.metadata.name.clone().unwrap());
    cluster.tell(&[Change::Service(key.clone())], |state: &mut ClusterState| {
        state.services.insert(key.clone(), Arc::clone(service));
    });
}

pub(crate) fn put_slice(cluster: &Cluster, slice: &EndpointSlice) {
    let (key, kept) = kept(slice);
    cluster.tell(&[Change::EndpointSlice(key.clone())], |state: &mut ClusterState| {
        state.endpoint_slices.insert(key.clone(), Arc::clone(&kept));
    });
}

/// A slice as nodes keep it, and its key.
pub(crate) fn kept(slice: &EndpointSlice) -> (ObjectKey, Arc<state::EndpointSlice>) {
    let key = ObjectKey::new("default", slice.metadata.name.clone().unwrap());
    let kept = serde_json::from_value(serde_json::to_value(slice).unwrap()).unwrap();
    (key, Arc::new(kept))
}

/// Two nodes; a client and a server on the first, a server on the second.
pub(crate) struct Web {
    pub(crate) cluster: Cluster,
    pub(crate) client: TestPod,
    pub(crate) near: TestPod,
    pub(crate) far: TestPod,
}

impl Web {
    /// With a Service `web`, of which both servers are endpoints.
    pub(crate) fn new(service: &Arc<Service>) -> Self {
        let cluster = Cluster::new(2);
        let client = cluster.nodes[0].pod("client");
        let near = cluster.nodes[0].pod("near");
        let far = cluster.nodes[1].pod("far");
        near.namespace.serve("near", 8080);
        far.namespace.serve("far", 8080);
        let web = Self { cluster, client, near, far };
        put_service(&web.cluster, service);
        web.endpoints(&[("near", true), ("far", true)]);
        for node in &web.cluster.nodes {
            eventually("routes", || node.routes(), |routes| routes.len() == 3);
        }
        for node in &web.cluster.nodes {
            eventually(
                "the service",
                || tally_tcp(&node.namespace, "10.96.0.10:80", 8),
                |answers| answers.len() == 2,
            );
        }
        web
    }

    /// Tells which servers are endpoints, and whether each is ready.
    pub(crate) fn endpoints(&self, servers: &[(&str, bool)]) {
        let endpoints: Vec<_> = servers
            .iter()
            .map(|(server, ready)| match *server {
                "near" => (self.near.address, "node-0", *ready),
                "far" => (self.far.address, "node-1", *ready),
                "client" => (self.client.address, "node-0", *ready),
                other => panic!("{other}"),
            })
            .collect();
        put_slice(&self.cluster, &slice("web", &endpoints));
    }
}

pub(crate) fn web_service() -> Arc<Service> {
    service("web", WEB, json!({}))
}

/// Who answered so many connections; empty if one of them failed.
pub(crate) fn tally_tcp(from: &Namespace, server: &str, times: usize) -> BTreeMap<String, usize> {
    let answers: io::Result<Vec<Answer>> = (0..times).map(|_| from.ask_tcp(server)).collect();
    answers.map(tally).unwrap_or_default()
}

fn both(answers: &BTreeMap<String, usize>) -> bool {
    answers.contains_key("near") && answers.contains_key("far")
}

pub(crate) fn refused(outcome: &io::Result<Answer>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn a_pod_reaches_every_endpoint_through_the_cluster_address() {
    if !is_root("a_pod_reaches_every_endpoint_through_the_cluster_address") {
        return;
    }
    let web = Web::new(&web_service());
    assert!(both(&tally_tcp(&web.client.namespace, "10.96.0.10:80", 32)));
    for _ in 0..8 {
        // Pods see pods, not nodes.
        let answer = web.client.namespace.ask_tcp("10.96.0.10:80").unwrap();
        assert_eq!(answer.client, IpAddr::V4(web.client.address));
    }
    let udp: Vec<Answer> =
        (0..32).map(|_| web.client.namespace.ask_udp("10.96.0.10:80").unwrap()).collect();
    assert!(udp.iter().all(|answer| answer.client == IpAddr::V4(web.client.address)));
    assert!(both(&tally(udp)));
}

#[test]
fn the_node_itself_reaches_every_endpoint_through_the_cluster_address() {
    if !is_root("the_node_itself_reaches_every_endpoint_through_the_cluster_address") {
        return;
    }
    let web = Web::new(&web_service());
    for node in &web.cluster.nodes {
        assert!(both(&tally_tcp(&node.namespace, "10.96.0.10:80", 32)), "{}", node.name);
        assert!(node.namespace.ask_udp("10.96.0.10:80").is_ok());
    }
}

#[test]
fn node_ports_work_on_every_node_from_everywhere() {
    if !is_root("node_ports_work_on_every_node_from_everywhere") {
        return;
    }
    let web = Web::new(&node_port_service("web", WEB, 30080));
    let outsider = web.cluster.outsider();
    let (first, second) = (&web.cluster.nodes[0], &web.cluster.nodes[1]);
    let places = [
        &outsider,
        &first.namespace,
        &second.namespace,
        &web.client.namespace,
        &web.near.namespace,
    ];
    for node in ["192.168.77.10:30080", "192.168.77.11:30080"] {
        for (place, from) in places.iter().enumerate() {
            assert!(both(&tally_tcp(from, node, 32)), "from {place} to {node}");
            assert!(from.ask_udp(node).is_ok(), "from {place} to {node}");
        }
    }
    for node in &web.cluster.nodes {
        let answers = tally_tcp(&node.namespace, "127.0.0.1:30080", 32);
        assert!(both(&answers), "{} at the loopback address: {answers:?}", node.name);
    }
}

#[test]
fn the_loopback_address_stays_closed_to_neighbours() {
    if !is_root("the_loopback_address_stays_closed_to_neighbours") {
        return;
    }
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    put_service(&cluster, &web_service());
    let localnet = "cat /proc/sys/net/ipv4/conf/all/route_localnet";
    eventually("rules", || node.namespace.command(localnet), |text| text.trim() == "1");
    node.namespace.serve("private", 7070);
    assert!(node.namespace.ask_tcp("127.0.0.1:7070").is_ok());
    let outsider = cluster.outsider();
    outsider.command("sysctl -q net.ipv4.conf.all.route_localnet=1");
    outsider.command("ip address del 127.0.0.1/8 dev lo");
    outsider.command("ip route add 127.0.0.0/8 via 192.168.77.10 src 192.168.77.200");
    let outcome = outsider.ask_tcp_within(Duration::from_millis(500), "127.0.0.1:7070");
    assert!(outcome.is_err(), "{outcome:?}");
    // It was the rule that kept it out: without it the neighbour would be let in.
    let rules = node.namespace.command("nft list chain ip kutter filter-prerouting");
    assert!(rules.contains("127.0.0.0/8"), "{rules}");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    if !is_root("a_pod_reaches_itself_through_its_service") {
        return;
    }
    let web = Web::new(&node_port_service("web", WEB, 30081));
    for service in ["10.96.0.10:80", "192.168.77.10:30081", "192.168.77.11:30081"] {
        let answers = tally_tcp(&web.near.namespace, service, 32);
        assert!(both(&answers), "{service}: {answers:?}");
    }
    let udp = (0..32).map(|_| web.near.namespace.ask_udp("10.96.0.10:80").unwrap());
    assert!(both(&tally(udp)));
}

#[test]
fn endpoints_follow_at_once() {
    if !is_root("endpoints_follow_at_once") {
        return;
    }
    let web = Web::new(&web_service());
    let ask = || tally_tcp(&web.client.namespace, "10.96.0.10:80", 16);
    web.endpoints(&[("near", false), ("far", true)]);
    eventually("only far", ask, |answers| answers.len() == 1 && answers.contains_key("far"));
    web.endpoints(&[("near", true)]);
    eventually("only near", ask, |answers| answers.len() == 1 && answers.contains_key("near"));
    web.endpoints(&[("far", true), ("near", true)]);
    eventually("both", ask, both);
}

#[test]
fn a_service_without_endpoints_is_refused_at_once() {
    if !is_root("a_service_without_endpoints_is_refused_at_once") {
        return;
    }
    let web = Web::new(&node_port_service("web", WEB, 30082));
    let outsider = web.cluster.outsider();
    web.endpoints(&[("near", false)]);
    eventually("refusal", || web.client.namespace.ask_tcp("10.96.0.10:80"), refused).unwrap_err();
    eventually("refusal", || web.cluster.nodes[1].namespace.ask_tcp("10.96.0.10:80"), refused)
        .unwrap_err();
    let places = [
        ("pod", &web.client.namespace),
        ("node", &web.cluster.nodes[0].namespace),
        ("outsider", &outsider),
    ];
    for (place, from) in places {
        let mut services = vec!["192.168.77.10:30082"];
        if place != "outsider" {
            // Also ports and addresses that no Service has.
            services.extend(["10.96.0.10:80", "10.96.0.10:81", "10.96.99.99:80"]);
        }
        for service in services {
            let (tcp, udp) = (from.ask_tcp(service), from.ask_udp(service));
            assert!(refused(&tcp), "TCP from {place} to {service}: {tcp:?}");
            // A process of the node hears it from its own send call.
            let at_once = refused(&udp)
                || udp.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
            assert!(at_once, "UDP from {place} to {service}: {udp:?}");
        }
    }
    // Each counts against the refusals that the kernel sends to a pod in a time, and pods heed none.
    let redirects = web.cluster.nodes[0].namespace.command("nstat -asz IcmpOutRedirects");
    let count = redirects.lines().last().and_then(|line| line.split_whitespace().nth(1));
    assert_eq!(count, Some("0"), "{redirects}");
    web.endpoints(&[("far", true)]);
    let ask = || tally_tcp(&web.client.namespace, "10.96.0.10:80", 1);
    eventually("service again", ask, |answers| answers.contains_key("far"));
}

#[test]
fn connections_outlive_the_change_of_endpoints_and_the_kubelet() {
    if !is_root("connections_outlive_the_change_of_endpoints_and_the_kubelet") {
        return;
    }
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut web = Web::new(&web_service());
    web.endpoints(&[("far", true)]);
    let ask = || tally_tcp(&web.client.namespace, "10.96.0.10:80", 16);
    eventually("only far", ask, |answers| answers.len() == 1 && answers.contains_key("far"));
    // A server that echoes, on a port of its own.
    web.far.namespace.run(async {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:8081").await.unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    });
    let echo: Arc<Service> = Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": "echo", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.11", "ports": [{"port": 7}]},
        }))
        .unwrap(),
    );
    put_service(&web.cluster, &echo);
    let mut echo_slice = slice("echo", &[(web.far.address, "node-1", true)]);
    echo_slice.ports =
        serde_json::from_value(json!([{"name": "", "protocol": "TCP", "port": 8081}])).unwrap();
    put_slice(&web.cluster, &echo_slice);
    let connect = || {
        web.client.namespace.run(async {
            let connect = tokio::net::TcpStream::connect("10.96.0.11:7");
            tokio::time::timeout(crate::ground::PATIENCE, connect).await?
        })
    };
    let mut stream =
        eventually("the service", connect, |stream: &io::Result<_>| stream.is_ok()).unwrap();
    let echoes = |stream: tokio::net::TcpStream, word: &'static str| {
        web.client.namespace.run(async move {
            let mut stream = stream;
            stream.write_all(word.as_bytes()).await.unwrap();
            let mut buffer = vec![0; word.len()];
            tokio::time::timeout(crate::ground::PATIENCE, stream.read_exact(&mut buffer))
                .await
                .expect("an answer")
                .unwrap();
            assert_eq!(buffer, word.as_bytes());
            stream
        })
    };
    stream = echoes(stream, "hello");
    put_slice(&web.cluster, &slice("echo", &[]));
    eventually("refusal", connect, |stream| {
        stream.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
    .unwrap_err();
    stream = echoes(stream, "still there");
    for node in &mut web.cluster.nodes {
        node.restart();
    }
    eventually(
        "the rules anew",
        || tally_tcp(&web.cluster.nodes[0].namespace, "10.96.0.10:80", 1),
        |answers| answers.len() == 1,
    );
    drop(echoes(stream, "even now"));
}

#[test]
fn a_client_stays_with_its_endpoint_until_that_goes() {
    if !is_root("a_client_stays_with_its_endpoint_until_that_goes") {
        return;
    }
    let sticky =
        service("web", Ipv4Addr::new(10, 96, 0, 12), json!({"sessionAffinity": "ClientIP"}));
    let sticky = {
        let mut renamed = sticky.as_ref().clone();
        renamed.metadata.name = Some("sticky".into());
        Arc::new(renamed)
    };
    let web = Web::new(&web_service());
    put_service(&web.cluster, &sticky);
    let endpoints = |servers: &[(Ipv4Addr, &str, bool)]| {
        put_slice(&web.cluster, &slice("sticky", servers));
    };
    let (near, far) = ((web.near.address, "node-0", true), (web.far.address, "node-1", true));
    endpoints(&[near, far]);
    let ask = || tally_tcp(&web.client.namespace, "10.96.0.12:80", 16);
    let first = eventually("the service", ask, |answers| !answers.is_empty());
    assert_eq!(first.len(), 1, "{first:?}");
    let (own, others) = if first.contains_key("near") { (near, far) } else { (far, near) };
    let own_name = first.keys().next().unwrap().clone();
    // Clients are spread all the same.
    let clients: Vec<TestPod> =
        (0..12).map(|number| web.cluster.nodes[0].pod(&format!("client-{number}"))).collect();
    let ask_all =
        || tally(clients.iter().map(|client| client.namespace.ask_tcp("10.96.0.12:80").unwrap()));
    assert!(both(&ask_all()), "twelve clients at one endpoint");
    let again = || -> Vec<String> {
        let ask = |client: &TestPod| client.namespace.ask_tcp("10.96.0.12:80").unwrap().server;
        clients.iter().map(ask).collect()
    };
    assert_eq!(again(), again());
    // Its endpoint goes: the client is sent to the other, and stays there when the first is back.
    endpoints(&[others]);
    eventually("the other", ask, |answers| answers.len() == 1 && !answers.contains_key(&own_name));
    endpoints(&[others, own]);
    let strangers = || {
        tally((0..4).map(|number| {
            let uid = format!("stranger-{number}");
            let stranger = web.cluster.nodes[0].pod(&uid);
            let answer = stranger.namespace.ask_tcp("10.96.0.12:80").unwrap();
            web.cluster.nodes[0].detach(&uid);
            answer
        }))
    };
    eventually("both for strangers", strangers, both);
    let after = ask();
    assert!(after.len() == 1 && !after.contains_key(&own_name), "{after:?}");
}

#[test]
fn host_ports_lead_to_their_pod() {
    if !is_root("host_ports_lead_to_their_pod") {
        return;
    }
    let cluster = Cluster::new(2);
    let ports: Vec<HostPort> = ["TCP", "UDP"]
        .map(|protocol| HostPort {
            protocol: protocol.into(),
            host_ip: None,
            host_port: 8888,
            container_port: 8080,
        })
        .into();
    let node = &cluster.nodes[0];
    let pod = node.pod_with_ports("ported", &ports);
    pod.namespace.serve("ported", 8080);
    let neighbour = node.pod("neighbour");
    let outsider = cluster.outsider();
    eventually("the port", || outsider.ask_tcp("192.168.77.10:8888").is_ok(), |works| *works);
    let answer = outsider.ask_tcp("192.168.77.10:8888").unwrap();
    assert_eq!(answer.client, IpAddr::V4(Ipv4Addr::new(192, 168, 77, 200)), "its true address");
    assert!(outsider.ask_udp("192.168.77.10:8888").is_ok());
    for server in ["192.168.77.10:8888", "127.0.0.1:8888"] {
        assert_eq!(node.namespace.ask_tcp(server).unwrap().server, "ported", "{server}");
    }
    for from in [&neighbour.namespace, &pod.namespace, &cluster.nodes[1].namespace] {
        assert_eq!(from.ask_tcp("192.168.77.10:8888").unwrap().server, "ported");
    }
    node.detach("ported");
    eventually("refusal", || outsider.ask_tcp("192.168.77.10:8888"), refused).unwrap_err();
}

#[test]
fn what_leaves_the_cluster_comes_from_the_node() {
    if !is_root("what_leaves_the_cluster_comes_from_the_node") {
        return;
    }
    let web = Web::new(&web_service());
    let outsider = web.cluster.outsider();
    outsider.serve("outsider", 8080);
    let answer = web.client.namespace.ask_tcp("192.168.77.200:8080").unwrap();
    assert_eq!(answer.client, IpAddr::V4(web.cluster.nodes[0].address));
}

#[test]
fn endpoints_outside_of_the_cluster_are_reached_too() {
    if !is_root("endpoints_outside_of_the_cluster_are_reached_too") {
        return;
    }
    // As `default/kubernetes` does: its endpoints are addresses of nodes, also of the node itself.
    let web = Web::new(&web_service());
    let nodes = &web.cluster.nodes;
    nodes[0].namespace.serve("master", 8080);
    put_service(&web.cluster, &service("master", Ipv4Addr::new(10, 96, 0, 1), json!({})));
    put_slice(&web.cluster, &slice("master", &[(nodes[0].address, "node-0", true)]));
    let places =
        [&web.client.namespace, &web.far.namespace, &nodes[0].namespace, &nodes[1].namespace];
    for from in places {
        let ask = || from.ask_tcp("10.96.0.1:80").map(|answer| answer.server);
        let server =
            eventually("the service", ask, |answer: &io::Result<String>| answer.is_ok()).unwrap();
        assert_eq!(server, "master");
    }
}

#[test]
fn nothing_is_left_when_all_services_are_gone() {
    if !is_root("nothing_is_left_when_all_services_are_gone") {
        return;
    }
    let web = Web::new(&node_port_service("web", WEB, 30083));
    let rules = || web.cluster.nodes[0].namespace.command("nft list table ip kutter");
    assert!(rules().contains("default/web:tcp"), "{}", rules());
    web.cluster.tell(&[Change::Everything], |state| {
        state.services.clear();
        state.endpoint_slices.clear();
    });
    eventually("no elements", rules, |rules| !rules.contains("elements = {"));
    web.cluster.nodes[0].teardown();
    let tables = web.cluster.nodes[0].namespace.command("nft list tables");
    assert!(!tables.contains("kutter"), "{tables}");
}

#[test]
fn a_udp_client_that_goes_on_from_one_port_is_sent_elsewhere() {
    if !is_root("a_udp_client_that_goes_on_from_one_port_is_sent_elsewhere") {
        return;
    }
    use tokio::net::UdpSocket;

    let web = Web::new(&node_port_service("web", WEB, 30084));
    for server in ["10.96.0.10:80", "192.168.77.11:30084"] {
        web.endpoints(&[("near", true)]);
        let socket = web.client.namespace.run(async move {
            let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            socket.connect(server).await.unwrap();
            Arc::new(socket)
        });
        let ask = || {
            let socket = Arc::clone(&socket);
            web.client.namespace.run(async move {
                socket.send(b"who?").await.ok()?;
                let mut buffer = [0; 64];
                let answer = socket.recv(&mut buffer);
                let answer = tokio::time::timeout(Duration::from_millis(200), answer);
                let length = answer.await.ok()?.ok()?;
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                Some(text.split(' ').next()?.to_owned())
            })
        };
        eventually("near", ask, |answer| answer.as_deref() == Some("near"));
        web.endpoints(&[("far", true)]);
        eventually("far", ask, |answer| answer.as_deref() == Some("far"));
    }
}

#[test]
fn services_work_whether_or_not_bridges_call_netfilter() {
    if !is_root("services_work_whether_or_not_bridges_call_netfilter") {
        return;
    }
    let web = Web::new(&web_service());
    let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if !std::path::Path::new(setting).exists() {
        eprintln!("left out: no bridge netfilter in this kernel");
        return;
    }
    web.endpoints(&[("near", true)]);
    for value in ["0", "1"] {
        let node = &web.cluster.nodes[0].namespace;
        node.run(async move { std::fs::write(setting, value).unwrap() });
        for from in [&web.client.namespace, &web.near.namespace, node] {
            let ask = || tally_tcp(from, "10.96.0.10:80", 8);
            eventually("near", ask, |answers| answers.len() == 1 && answers.contains_key("near"));
            assert!(from.ask_udp("10.96.0.10:80").is_ok(), "{value}");
        }
    }
}

#[test]
fn thousands_of_services_are_made_in_one_transaction() {
    if !is_root("thousands_of_services_are_made_in_one_transaction") {
        return;
    }
    let web = Web::new(&web_service());
    let address = |number: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 16, 0)) + number);
    let others: Vec<_> = (0..2000)
        .map(|number| {
            let name = format!("other-{number}");
            let endpoints: Vec<_> = (1..=4)
                .map(|last| (Ipv4Addr::new(10, 244, (number % 250) as u8, last), "node-9", true))
                .collect();
            (service(&name, address(number), json!({})), kept(&slice(&name, &endpoints)))
        })
        .collect();
    web.cluster.tell(&[Change::Everything], |state| {
        for (service, (key, slice)) in &others {
            state.endpoint_slices.insert(key.clone(), Arc::clone(slice));
            let key = ObjectKey::new("default", service.metadata.name.clone().unwrap());
            state.services.insert(key, Arc::clone(service));
        }
    });
    // A change after that shows that the kernel has taken it all.
    web.endpoints(&[("far", true)]);
    let ask = || tally_tcp(&web.client.namespace, "10.96.0.10:80", 8);
    eventually("far", ask, |answers| answers.len() == 1 && answers.contains_key("far"));
    let count = || {
        let services = web.cluster.nodes[0].namespace.command("nft list map ip kutter services");
        services.matches("default/other-").count()
    };
    eventually("all of the services", count, |count| *count == 2 * 2000);
}
