//! What is answered, out of a state; and the sockets, on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proto::ObjectKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::forward::Forward;
use super::names::Names;
use super::serve::Server;
use super::zone::{Answer, Zone};
use super::{Known, zone_of};
use crate::state::{Change, ClusterState};

fn put_service(state: &mut ClusterState, namespace: &str, name: &str, spec: Value) -> Change {
    let key = ObjectKey::new(namespace, name);
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
    state.services.insert(key.clone(), Arc::new(serde_json::from_value(object).unwrap()));
    Change::Service(key)
}

fn put_slice(state: &mut ClusterState, service: &str, name: &str, endpoints: Value) -> Change {
    let key = ObjectKey::new("shop", name);
    let object = json!({
        "metadata": {
            "name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    });
    state.endpoint_slices.insert(key.clone(), Arc::new(serde_json::from_value(object).unwrap()));
    Change::EndpointSlice(key)
}

fn state() -> ClusterState {
    let mut state = ClusterState {
        loaded: true,
        pod_cidrs: vec!["10.244.0.0/16".to_owned()],
        service_cidrs: vec!["10.96.0.0/16".to_owned()],
        cluster_domain: "Cluster.Local".to_owned(),
        ..ClusterState::default()
    };
    let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24"}});
    state.node = Some(Arc::new(serde_json::from_value(node).unwrap()));
    let ports = json!([
        {"name": "http", "protocol": "TCP", "port": 80},
        {"name": "dns", "protocol": "UDP", "port": 53},
        {"port": 9000},
    ]);
    put_service(
        &mut state,
        "shop",
        "web",
        json!({"clusterIP": "10.96.0.10",
        "clusterIPs": ["10.96.0.10", "fd00::10"], "ports": ports}),
    );
    let one = json!([{"name": "http", "port": 80}]);
    put_service(&mut state, "shop", "db", json!({"clusterIP": "None", "ports": one}));
    put_slice(
        &mut state,
        "db",
        "db-1",
        json!([
            {"addresses": ["10.244.1.7"], "hostname": "db-0"},
            {"addresses": ["10.244.2.8"], "conditions": {"ready": true}},
            {"addresses": ["10.244.2.9"], "conditions": {"ready": false}},
        ]),
    );
    put_service(&mut state, "shop", "none", json!({"clusterIP": "None", "ports": one}));
    put_service(
        &mut state,
        "shop",
        "far",
        json!({"type": "ExternalName", "externalName": "www.example.org"}),
    );
    put_service(
        &mut state,
        "shop",
        "near",
        json!({"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"}),
    );
    state
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn told(record: &Record) -> String {
    match &record.data {
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target),
        data => data.to_string(),
    }
}

/// The answer in words: `-` no such name, `nothing`, `elsewhere`, or the records.
fn ask(zone: &Zone, names: &Names, question: &str, record_type: RecordType) -> String {
    match zone.answer(names, &name(question), record_type, 0) {
        Answer::Records { answers, additionals } => {
            let words =
                |records: &[Record]| records.iter().map(told).collect::<Vec<_>>().join(", ");
            match additionals.as_slice() {
                [] => words(&answers),
                more => format!("{} + {}", words(&answers), words(more)),
            }
        }
        Answer::Nothing(soa) | Answer::NoSuchName(soa) if soa.name != zone.domain => {
            panic!("the record of another zone: {soa}")
        }
        Answer::Nothing(_) => "nothing".to_owned(),
        Answer::NoSuchName(_) => "-".to_owned(),
        Answer::Alias(record, _) => told(&record),
        Answer::Elsewhere => "elsewhere".to_owned(),
    }
}

#[test]
fn names_are_answered_as_the_specification_has_them() {
    use RecordType as T;
    let state = state();
    let (zone, names) = (zone_of(&state).unwrap(), Names::of(&state));
    let cases = [
        // A Service with an address.
        ("web.shop.svc.cluster.local", T::A, "10.96.0.10"),
        ("WEB.Shop.SVC.Cluster.LOCAL", T::A, "10.96.0.10"),
        ("web.shop.svc.cluster.local", T::AAAA, "fd00::10"),
        ("web.shop.svc.cluster.local", T::TXT, "nothing"),
        (
            "_http._tcp.web.shop.svc.cluster.local",
            T::SRV,
            "0 100 80 web.shop.svc.cluster.local. + 10.96.0.10, fd00::10",
        ),
        (
            "_dns._udp.web.shop.svc.cluster.local",
            T::SRV,
            "0 100 53 web.shop.svc.cluster.local. + 10.96.0.10, fd00::10",
        ),
        ("_http._tcp.web.shop.svc.cluster.local", T::A, "nothing"),
        ("_http._udp.web.shop.svc.cluster.local", T::SRV, "-"),
        ("_tcp.web.shop.svc.cluster.local", T::SRV, "nothing"),
        ("_sctp.web.shop.svc.cluster.local", T::SRV, "-"),
        ("x.web.shop.svc.cluster.local", T::A, "-"),
        ("10.0.96.10.in-addr.arpa", T::PTR, "web.shop.svc.cluster.local."),
        ("10.0.96.10.in-addr.arpa", T::A, "nothing"),
        // A headless one.
        ("db.shop.svc.cluster.local", T::A, "10.244.1.7, 10.244.2.8"),
        ("db.shop.svc.cluster.local", T::AAAA, "nothing"),
        ("db-0.db.shop.svc.cluster.local", T::A, "10.244.1.7"),
        ("10-244-2-8.db.shop.svc.cluster.local", T::A, "10.244.2.8"),
        ("10-244-2-9.db.shop.svc.cluster.local", T::A, "-"),
        (
            "_http._tcp.db.shop.svc.cluster.local",
            T::SRV,
            "0 50 8080 db-0.db.shop.svc.cluster.local., \
             0 50 8080 10-244-2-8.db.shop.svc.cluster.local. + 10.244.1.7, 10.244.2.8",
        ),
        ("none.shop.svc.cluster.local", T::A, "-"),
        // Another name.
        ("far.shop.svc.cluster.local", T::A, "www.example.org."),
        ("far.shop.svc.cluster.local", T::CNAME, "www.example.org."),
        // Pods by their address.
        ("10-244-2-8.shop.pod.cluster.local", T::A, "10.244.2.8"),
        ("192-0-2-1.shop.pod.cluster.local", T::A, "-"),
        ("x.shop.pod.cluster.local", T::A, "-"),
        // The zone.
        ("dns-version.cluster.local", T::TXT, "1.1.0"),
        ("cluster.local", T::A, "nothing"),
        ("cluster.local", T::NS, "ns.dns.cluster.local."),
        ("ns.dns.cluster.local", T::A, "10.244.1.1"),
        ("svc.cluster.local", T::A, "nothing"),
        ("shop.svc.cluster.local", T::A, "nothing"),
        ("empty.svc.cluster.local", T::A, "-"),
        ("web.empty.svc.cluster.local", T::A, "-"),
        ("missing.shop.svc.cluster.local", T::A, "-"),
        ("www.example.org.cluster.local", T::A, "-"),
        // What is not the cluster's.
        ("www.example.org", T::A, "elsewhere"),
        ("local", T::A, "elsewhere"),
        ("1.2.0.192.in-addr.arpa", T::PTR, "elsewhere"),
        ("10.in-addr.arpa", T::PTR, "elsewhere"),
    ];
    for (question, record_type, wanted) in cases {
        assert_eq!(ask(&zone, &names, question, record_type), wanted, "{question} {record_type}");
    }
    let reverse = [
        ("10.0.96.10", "elsewhere"),
        ("10.96.0.10", "web.shop.svc.cluster.local."),
        ("10.244.1.7", "db-0.db.shop.svc.cluster.local."),
        ("10.244.2.8", "10-244-2-8.db.shop.svc.cluster.local."),
        ("10.244.2.9", "-"),
        ("10.96.0.11", "-"),
    ];
    for (address, wanted) in reverse {
        let octets: Vec<&str> = address.split('.').rev().collect();
        let question = format!("{}.in-addr.arpa", octets.join("."));
        assert_eq!(ask(&zone, &names, &question, T::PTR), wanted, "{address}");
    }
    let Answer::Records { answers, .. } =
        zone.answer(&names, &name("db.shop.svc.cluster.local"), T::A, 1)
    else {
        panic!("no records")
    };
    assert_eq!(answers.iter().map(told).collect::<Vec<_>>(), ["10.244.2.8", "10.244.1.7"]);
}

/// Changes a state, given what makes endpoints of an address.
type Edit = fn(&mut ClusterState, &dyn Fn(&str) -> Value) -> Change;

#[test]
fn names_follow_what_changes() {
    let mut state = state();
    let mut names = Names::of(&state);
    let zone = zone_of(&state).unwrap();
    let endpoint = |address: &str| json!([{"addresses": [address]}]);
    let changes: [Edit; 9] = [
        |state, one| put_slice(state, "db", "db-1", one("10.244.1.20")),
        |state, one| put_slice(state, "db", "db-2", one("10.244.1.21")),
        // A slice that changes hands.
        |state, one| put_slice(state, "none", "db-2", one("10.244.1.21")),
        |state, _| put_service(state, "shop", "web", json!({"clusterIP": "10.96.0.99"})),
        // From an address to none, and to another name.
        |state, _| put_service(state, "shop", "web", json!({"clusterIP": "None"})),
        |state, _| put_service(state, "shop", "db", json!({"clusterIP": "10.96.0.50"})),
        |state, _| {
            let key = ObjectKey::new("shop", "db-1");
            state.endpoint_slices.remove(&key);
            Change::EndpointSlice(key)
        },
        |state, _| {
            let key = ObjectKey::new("shop", "db");
            state.services.remove(&key);
            Change::Service(key)
        },
        |state, _| put_service(state, "other", "first", json!({"clusterIP": "10.96.0.60"})),
    ];
    let questions = [
        ("web.shop.svc.cluster.local", RecordType::A),
        ("db.shop.svc.cluster.local", RecordType::A),
        ("none.shop.svc.cluster.local", RecordType::A),
        ("first.other.svc.cluster.local", RecordType::A),
        ("other.svc.cluster.local", RecordType::A),
        ("20.1.244.10.in-addr.arpa", RecordType::PTR),
        ("21.1.244.10.in-addr.arpa", RecordType::PTR),
        ("7.1.244.10.in-addr.arpa", RecordType::PTR),
        ("10.0.96.10.in-addr.arpa", RecordType::PTR),
        ("99.0.96.10.in-addr.arpa", RecordType::PTR),
        ("50.0.96.10.in-addr.arpa", RecordType::PTR),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let change = change(&mut state, &endpoint);
        assert!(!names.follow(&change, &state));
        let anew = Names::of(&state);
        for (question, record_type) in questions {
            let followed = ask(&zone, &names, question, record_type);
            let wanted = ask(&zone, &anew, question, record_type);
            assert_eq!(followed, wanted, "change {number}: {question}");
        }
    }
    assert!(names.follow(&Change::Everything, &state));
}

/// A server that others are asked of: `big.example.org` has a hundred addresses, `www` one, the
/// rest none.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let asked = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(asked.clone());
            if asked.name.to_string().starts_with("www.") {
                let data = RData::A(A::new(192, 0, 2, 1));
                answer.add_answer(Record::from_rdata(asked.name, 60, data));
            } else {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

async fn server() -> (Server, Arc<RwLock<Known>>) {
    let state = state();
    let known = Known { zone: zone_of(&state).unwrap(), names: Names::of(&state) };
    let known = Arc::new(RwLock::new(known));
    let upstream = upstream().await;
    let forward = Forward::to(move || Ok(vec![upstream]));
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    (Server::start(address, Arc::clone(&known), forward).unwrap(), known)
}

fn question(text: &str, record_type: RecordType, room: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), record_type));
    if let Some(room) = room {
        let mut edns = Edns::new();
        edns.set_max_payload(room);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

async fn over_udp(server: SocketAddr, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn over_tcp(stream: &mut TcpStream, bytes: &[u8]) -> Message {
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

#[tokio::test]
async fn questions_are_answered_here_or_passed_on() {
    let (server, _known) = server().await;
    let asked = question("web.shop.svc.cluster.local", RecordType::A, None);
    let ours = over_udp(server.address, &asked).await;
    assert_eq!(ours.metadata.id, 7);
    assert!(ours.metadata.authoritative && ours.metadata.recursion_available);
    assert_eq!(ours.answers.iter().map(told).collect::<Vec<_>>(), ["10.96.0.10"]);
    assert!(ours.edns.is_none());

    let others =
        over_udp(server.address, &question("www.example.org", RecordType::A, Some(4096))).await;
    assert!(!others.metadata.authoritative);
    assert_eq!(others.answers.iter().map(told).collect::<Vec<_>>(), ["192.0.2.1"]);
    assert!(others.edns.is_some());

    let none = over_udp(server.address, &question("nobody.example.org", RecordType::A, None)).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);

    // Another name: its own answer follows, wherever it is from.
    for (alias, wanted) in [
        ("far", ["www.example.org.", "192.0.2.1"]),
        ("near", ["web.shop.svc.cluster.local.", "10.96.0.10"]),
    ] {
        let alias = format!("{alias}.shop.svc.cluster.local");
        let answer = over_udp(server.address, &question(&alias, RecordType::A, None)).await;
        assert_eq!(answer.answers.iter().map(told).collect::<Vec<_>>(), wanted);
    }
}

#[tokio::test]
async fn what_has_no_room_in_a_datagram_is_told_over_tcp() {
    let (server, known) = server().await;
    let mut state = state();
    let many: Vec<Value> =
        (1..=200).map(|number| json!({"addresses": [format!("10.244.3.{number}")]})).collect();
    let change = put_slice(&mut state, "db", "db-1", json!(many));
    known.write().unwrap().names.follow(&change, &state);
    let asked = |room| question("db.shop.svc.cluster.local", RecordType::A, room);
    for room in [None, Some(512), Some(1232), Some(65535)] {
        let cut = over_udp(server.address, &asked(room)).await;
        assert!(cut.metadata.truncation && cut.answers.is_empty(), "{room:?}");
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // One after the other on one connection.
    for _ in 0..2 {
        let whole = over_tcp(&mut stream, &asked(None)).await;
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
    }
}

#[tokio::test]
async fn what_is_no_question_is_refused_and_harms_nobody() {
    let (server, _known) = server().await;
    let good = question("web.shop.svc.cluster.local", RecordType::A, None);
    let mut two = Message::from_vec(&good).unwrap();
    two.add_query(Query::query(name("a.b"), RecordType::A));
    let mut update = Message::from_vec(&good).unwrap();
    update.metadata.op_code = OpCode::Update;
    let mut versions = Message::from_vec(&question("a.b", RecordType::A, Some(1232))).unwrap();
    versions.edns.as_mut().unwrap().set_version(1);
    let cases = [
        (two.to_vec().unwrap(), ResponseCode::FormErr),
        (update.to_vec().unwrap(), ResponseCode::NotImp),
        (versions.to_vec().unwrap(), ResponseCode::BADVERS),
        (good[..good.len() - 3].to_vec(), ResponseCode::FormErr),
    ];
    for (bytes, wanted) in cases {
        let answer = over_udp(server.address, &bytes).await;
        assert_eq!(answer.metadata.id, 7);
        // Two names of one number.
        assert_eq!(u16::from(answer.metadata.response_code), u16::from(wanted));
    }
    // Nobody is told of these: answers, and what has no number.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut answer = Message::from_vec(&good).unwrap();
    answer.metadata.message_type = MessageType::Response;
    for bytes in [answer.to_vec().unwrap(), vec![0; 5], Vec::new()] {
        socket.send_to(&bytes, server.address).await.unwrap();
    }
    socket.send_to(&good, server.address).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let first = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(first.answers.len(), 1, "the first to be answered is the good one");
}
