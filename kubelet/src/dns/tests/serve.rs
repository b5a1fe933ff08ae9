//! The sockets.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::super::answer::{Answerer, Known, Shared};
use super::super::forward::Forward;
use super::super::serve::{Limits, Server};
use super::forward::Upstream;
use super::*;

/// A server of a state on loopback, with a resolver behind it.
pub(super) fn serve(state: &ClusterState, upstreams: Vec<SocketAddr>) -> (Server, Shared) {
    let known = Known { zone: zone_of(state).unwrap(), names: Names::of(objects(state)) };
    let known = Arc::new(RwLock::new(known));
    let forward = Forward::to(move || Ok(upstreams.clone()));
    let answerer = Answerer::new(Arc::clone(&known), forward);
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    (Server::start(address, answerer, Limits::default()).unwrap(), known)
}

pub(super) fn question(text: &str, record_type: RecordType, room: Option<u16>) -> Vec<u8> {
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

pub(super) async fn over_udp(server: SocketAddr, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

pub(super) async fn over_tcp(stream: &mut TcpStream, bytes: &[u8]) -> Message {
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

pub(super) fn records(message: &Message) -> Vec<String> {
    message.answers.iter().map(told).collect()
}

#[tokio::test]
async fn questions_are_answered_here_or_passed_on() {
    let upstream = Upstream::customary().await;
    let (server, _known) = serve(&state(), vec![upstream.address]);
    let asked = question("web.shop.svc.cluster.local", RecordType::A, None);
    let ours = over_udp(server.address, &asked).await;
    assert_eq!(ours.metadata.id, 7);
    assert!(ours.metadata.authoritative && ours.metadata.recursion_available);
    assert_eq!(records(&ours), ["10.96.0.10"]);
    assert!(ours.edns.is_none());

    let others =
        over_udp(server.address, &question("www.example.org", RecordType::A, Some(4096))).await;
    assert!(!others.metadata.authoritative);
    assert_eq!(records(&others), ["192.0.2.1"]);
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
        assert_eq!(records(&answer), wanted);
    }
}

#[tokio::test]
async fn letters_come_back_as_they_were_sent() {
    let upstream = Upstream::customary().await;
    let (server, _known) = serve(&state(), vec![upstream.address]);
    for text in ["wEb.ShOp.sVc.cLuSTer.loCAl.", "WwW.eXamPle.oRG.", "wWw.ExaMple.Org."] {
        let answer = over_udp(server.address, &question(text, RecordType::A, None)).await;
        assert_eq!(answer.queries[0].name.to_string(), text);
        assert_eq!(answer.answers[0].name.to_string(), text);
    }
}

#[tokio::test]
async fn what_has_no_room_in_a_datagram_is_told_over_tcp() {
    let (server, known) = serve(&state(), Vec::new());
    let mut state = state();
    let many: Vec<Value> =
        (1..=200).map(|number| json!({"addresses": [format!("10.244.3.{number}")]})).collect();
    let change = put_slice(&mut state, "db", "db-1", json!(many));
    known.write().unwrap().names.follow(&change, &state);
    let asked = |room| question("db.shop.svc.cluster.local", RecordType::A, room);
    for (room, length) in
        [(None, 512), (Some(0), 512), (Some(512), 512), (Some(1232), 1232), (Some(65535), 1232)]
    {
        let cut = over_udp(server.address, &asked(room)).await;
        // As many as have room are told: not every C library asks over TCP.
        let told = cut.to_vec().unwrap().len();
        assert!(cut.metadata.truncation, "{room:?}");
        assert!(told <= length && told > length - 64, "{room:?}: {told}");
        assert_eq!(cut.edns.as_ref().map(Edns::max_payload), room.map(|_| 1232));
        assert!(!cut.answers.is_empty());
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // One after the other on one connection.
    for _ in 0..2 {
        let whole = over_tcp(&mut stream, &asked(None)).await;
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 200);
    }
    // Additional records have no part in it.
    let many: Vec<Value> = (1..=16)
        .map(|n| json!({"addresses": [format!("10.244.3.{n}")], "hostname": format!("db-{n}")}))
        .collect();
    let change = put_slice(&mut state, "db", "db-1", json!(many));
    known.write().unwrap().names.follow(&change, &state);
    let asked = question("_http._tcp.db.shop.svc.cluster.local", RecordType::SRV, Some(1232));
    let whole = over_udp(server.address, &asked).await;
    assert!(!whole.metadata.truncation && whole.additionals.is_empty(), "{whole}");
    assert_eq!(whole.answers.len(), 18);
}

#[tokio::test]
async fn what_is_no_question_is_refused_and_harms_nobody() {
    let (server, _known) = serve(&state(), Vec::new());
    let good = question("web.shop.svc.cluster.local", RecordType::A, None);
    let mut two = Message::from_vec(&good).unwrap();
    two.add_query(Query::query(name("a.b"), RecordType::A));
    let mut update = Message::from_vec(&good).unwrap();
    update.metadata.op_code = OpCode::Update;
    let mut versions = Message::from_vec(&question("a.b", RecordType::A, Some(1232))).unwrap();
    versions.edns.as_mut().unwrap().set_version(1);
    let transfer = question("cluster.local", RecordType::AXFR, None);
    let cases = [
        (two.to_vec().unwrap(), ResponseCode::FormErr),
        (update.to_vec().unwrap(), ResponseCode::NotImp),
        (versions.to_vec().unwrap(), ResponseCode::BADVERS),
        (transfer, ResponseCode::Refused),
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

#[tokio::test]
async fn one_client_has_a_bounded_number_of_connections() {
    let (server, _known) = serve(&state(), Vec::new());
    let asked = question("web.shop.svc.cluster.local", RecordType::A, None);
    let mut held = Vec::new();
    // One after the other, so that each has its seat.
    for _ in 0..16 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(over_tcp(&mut stream, &asked).await.answers.len(), 1);
        held.push(stream);
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    let read = refused.read(&mut [0; 1]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    // Over UDP it is answered all the same, and another client has connections.
    assert_eq!(over_udp(server.address, &asked).await.answers.len(), 1);
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(server.address).await.unwrap();
    assert_eq!(over_tcp(&mut other, &asked).await.answers.len(), 1);
    // A seat is free as soon as a connection has ended.
    let mut last = held.pop().unwrap();
    last.shutdown().await.unwrap();
    assert_eq!(last.read(&mut [0; 1]).await.unwrap(), 0);
    drop(last);
    loop {
        let mut again = TcpStream::connect(server.address).await.unwrap();
        again.write_all(&[&[0, asked.len() as u8][..], &asked].concat()).await.unwrap();
        // The end of the other one may not have been noticed yet.
        if again.read_u16().await.is_ok() {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed() {
    let (server, _known) = serve(&state(), Vec::new());
    let begun = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    // Half a question is as good as none.
    silent.write_all(&[0, 40, 1]).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(begun.elapsed() >= Duration::from_secs(10));
}

#[tokio::test]
async fn one_client_that_waits_leaves_others_their_answers() {
    let silent = Upstream::silent().await;
    let (server, _known) = serve(&state(), vec![silent.address]);
    let greedy = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // More than one client may have waiting.
    for number in 0..=128 {
        let asked = question(&format!("w{number}.example.org"), RecordType::A, None);
        greedy.send_to(&asked, server.address).await.unwrap();
    }
    let mut buffer = [0; 512];
    let length = greedy.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // It is the one beyond them.
    assert_eq!(answer.queries[0].name, name("w128.example.org"));
    let asked = question("web.shop.svc.cluster.local", RecordType::A, None);
    assert_eq!(records(&over_udp(server.address, &asked).await), ["10.96.0.10"]);
}
