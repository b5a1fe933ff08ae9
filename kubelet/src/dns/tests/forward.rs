//! Names that are not the cluster's, asked of resolvers that behave in all kinds of ways.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA, TXT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::task::AbortOnDropHandle;

use super::serve::{over_udp, question, records, serve};
use super::*;

/// By which way a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Udp,
    Tcp,
}

type Behaviour = dyn Fn(&Message, Way) -> Option<Message> + Send + Sync;

/// A resolver that others are asked of.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// Questions that came, but for those that look for loops.
    asked: Arc<AtomicUsize>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Upstream {
    /// One that answers as it is told.
    pub(super) async fn new(
        behaviour: impl Fn(&Message, Way) -> Option<Message> + Send + Sync + 'static,
    ) -> Self {
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let answer = {
            let asked = Arc::clone(&asked);
            move |bytes: &[u8], way: Way| {
                let question = Message::from_vec(bytes).unwrap();
                if question.queries[0].query_type != RecordType::HINFO {
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                Some(behaviour(&question, way)?.to_vec().unwrap())
            }
        };
        let over_tcp = answer.clone();
        let udp = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                if let Some(answer) = answer(&buffer[..length], Way::Udp) {
                    socket.send_to(&answer, client).await.unwrap();
                }
            }
        });
        let tcp = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut bytes).await.unwrap();
                if let Some(answer) = over_tcp(&bytes, Way::Tcp) {
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        Self { address, asked, _tasks: [udp, tcp].map(AbortOnDropHandle::new) }
    }

    /// One that knows `www.` anything, and nothing else.
    pub(super) async fn customary() -> Self {
        Self::new(|question, _| Some(customary(question, 60))).await
    }

    /// One that never answers.
    pub(super) async fn silent() -> Self {
        Self::new(|_, _| None).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// An answer without anything.
fn empty(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.response_code = code;
    answer.add_query(question.queries[0].clone());
    answer
}

fn customary(question: &Message, ttl: u32) -> Message {
    let asked = question.queries[0].name.clone();
    let mut answer = empty(question, ResponseCode::NoError);
    if asked.to_string().to_lowercase().starts_with("www.") {
        let data = RData::A(A::new(192, 0, 2, 1));
        answer.add_answer(Record::from_rdata(asked, ttl, data));
    } else {
        answer.metadata.response_code = ResponseCode::NXDomain;
        let zone = name("example.org");
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, ttl);
        answer.add_authority(Record::from_rdata(zone, 3600, RData::SOA(soa)));
    }
    answer
}

async fn asked(server: SocketAddr, text: &str) -> Message {
    over_udp(server, &question(text, RecordType::A, None)).await
}

#[tokio::test]
async fn answers_are_remembered_while_they_hold_negative_ones_too() {
    let upstream = Upstream::customary().await;
    let fleeting = Upstream::new(|question, _| Some(customary(question, 0))).await;
    for (upstream, wanted) in [(&upstream, 2), (&fleeting, 6)] {
        let (server, _known) = serve(&state(), vec![upstream.address]);
        for _ in 0..3 {
            assert_eq!(records(&asked(server.address, "www.example.org").await), ["192.0.2.1"]);
            let none = asked(server.address, "none.example.org").await;
            assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
            assert_eq!(none.authorities.len(), 1, "it says how long it holds");
        }
        assert_eq!(upstream.asked(), wanted);
    }
}

#[tokio::test]
async fn many_who_ask_the_same_wait_for_one_answer() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = Mutex::new(told);
    let upstream = Upstream::new(move |question, _| {
        if question.queries[0].query_type == RecordType::HINFO {
            return None;
        }
        // Not before all have asked.
        told.lock().unwrap().recv().unwrap();
        Some(customary(question, 0))
    });
    let upstream = upstream.await;
    let (server, _known) = serve(&state(), vec![upstream.address]);
    tell.send(()).unwrap();
    let mut askers = tokio::task::JoinSet::new();
    let barrier = Arc::new(tokio::sync::Barrier::new(20));
    for _ in 0..20 {
        let barrier = Arc::clone(&barrier);
        askers.spawn(async move {
            barrier.wait().await;
            records(&asked(server.address, "www.example.org").await)
        });
    }
    while let Some(found) = askers.join_next().await {
        assert_eq!(found.unwrap(), ["192.0.2.1"]);
        // Whoever came after the first answer asks anew: it held for no time.
        let _ = tell.send(());
    }
    assert!(upstream.asked() <= 20);
}

#[tokio::test]
async fn another_resolver_is_asked_when_one_is_silent_refuses_or_is_not_there() {
    let good = Upstream::customary().await;
    let silent = Upstream::silent().await;
    let refuses = |code| Upstream::new(move |question, _| Some(empty(question, code)));
    let (refused, failed) =
        (refuses(ResponseCode::Refused).await, refuses(ResponseCode::ServFail).await);
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (first, what) in [
        (silent.address, "silent"),
        (refused.address, "refuses"),
        (failed.address, "fails"),
        (nobody, "not there"),
    ] {
        let (server, _known) = serve(&state(), vec![first, good.address]);
        assert_eq!(
            records(&asked(server.address, "www.example.org").await),
            ["192.0.2.1"],
            "{what}"
        );
    }
    // One that is known to be silent is not waited for.
    let before = silent.asked();
    let (server, _known) = serve(&state(), vec![silent.address, good.address]);
    for number in 0..5 {
        let text = format!("www.{number}.example.org");
        assert_eq!(records(&asked(server.address, &text).await), ["192.0.2.1"]);
    }
    assert_eq!(silent.asked(), before + 1);
    // What all of them refuse is told.
    let (server, _known) = serve(&state(), vec![refused.address]);
    let answer = asked(server.address, "www.example.org").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let (server, _known) = serve(&state(), Vec::new());
    let answer = asked(server.address, "www.example.org").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_lost_question_is_asked_again() {
    let lost = AtomicUsize::new(0);
    let upstream = Upstream::new(move |question, _| {
        let of_us = question.queries[0].query_type == RecordType::A;
        let is_lost = of_us && lost.fetch_add(1, Ordering::Relaxed) == 0;
        (!is_lost).then(|| customary(question, 60))
    });
    let upstream = upstream.await;
    let (server, _known) = serve(&state(), vec![upstream.address]);
    assert_eq!(records(&asked(server.address, "www.example.org").await), ["192.0.2.1"]);
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test]
async fn what_was_cut_short_is_asked_for_over_tcp() {
    let upstream = Upstream::new(|question, way| {
        let mut answer = empty(question, ResponseCode::NoError);
        answer.metadata.truncation = way == Way::Udp;
        if way == Way::Tcp {
            let text = RData::TXT(TXT::new(vec!["x".repeat(200); 30]));
            answer.add_answer(Record::from_rdata(question.queries[0].name.clone(), 60, text));
        }
        Some(answer)
    });
    let upstream = upstream.await;
    let (server, _known) = serve(&state(), vec![upstream.address]);
    let asked = question("big.example.org", RecordType::TXT, Some(1232));
    let cut = over_udp(server.address, &asked).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    stream.write_u16(u16::try_from(asked.len()).unwrap()).await.unwrap();
    stream.write_all(&asked).await.unwrap();
    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 1);
    assert_eq!(upstream.asked(), 2, "the second question was answered from memory");
}

#[tokio::test]
async fn what_proves_an_answer_is_asked_for_if_the_asker_wants_it() {
    let upstream = Upstream::new(|question, _| {
        let proofs = question.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let unchecked = question.metadata.checking_disabled;
        let mut answer = empty(question, ResponseCode::NoError);
        answer.metadata.authentic_data = !unchecked;
        let said = RData::TXT(TXT::new(vec![format!("proofs {proofs}, unchecked {unchecked}")]));
        answer.add_answer(Record::from_rdata(question.queries[0].name.clone(), 60, said));
        Some(answer)
    });
    let upstream = upstream.await;
    let (server, _known) = serve(&state(), vec![upstream.address]);
    // Each of them twice, the second time from memory.
    for (proofs, unchecked) in
        [(false, false), (true, false), (true, true), (false, true)].repeat(2)
    {
        let mut message =
            Message::from_vec(&question("www.example.org", RecordType::TXT, None)).unwrap();
        message.metadata.checking_disabled = unchecked;
        let mut edns = Edns::new();
        edns.set_dnssec_ok(proofs).set_max_payload(1232);
        message.set_edns(edns);
        let answer = over_udp(server.address, &message.to_vec().unwrap()).await;
        let said = records(&answer).join("");
        assert!(said.contains(&format!("proofs {proofs}, unchecked {unchecked}")), "{said}");
        assert_eq!(answer.metadata.authentic_data, !unchecked);
        assert_eq!(answer.edns.unwrap().flags().dnssec_ok, proofs);
    }
    assert_eq!(upstream.asked(), 4);
}

#[tokio::test]
async fn a_resolver_that_asks_this_server_is_asked_no_more() {
    // It sends every question to whom it is told, as a resolver of the host's would that is configured
    // to ask the node.
    let target: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let (to, asks) = (Arc::clone(&target), Arc::clone(&socket));
    let _relay = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = asks.recv_from(&mut buffer).await.unwrap();
            let Some(server) = *to.lock().unwrap() else { continue };
            let (bytes, back) = (buffer[..length].to_vec(), Arc::clone(&asks));
            tokio::spawn(async move {
                let answer = over_udp(server, &bytes).await.to_vec().unwrap();
                back.send_to(&answer, client).await.unwrap();
            });
        }
    }));
    let good = Upstream::customary().await;
    let (server, _known) = serve(&state(), vec![address, good.address]);
    *target.lock().unwrap() = Some(server.address);
    // The first one shows the loop, if only by its probe; all are answered by the other resolver.
    for number in 0..3 {
        let text = format!("www.{number}.example.org");
        assert_eq!(records(&asked(server.address, &text).await), ["192.0.2.1"]);
    }
    // The one question waits for itself, until its time is up.
    let (alone, _known) = serve(&state(), vec![address]);
    *target.lock().unwrap() = Some(alone.address);
    let answer = asked(alone.address, "www.example.org").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}
