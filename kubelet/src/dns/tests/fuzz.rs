//! The fuzzer's targets, over a bounded number of cases.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, SOA};

use super::super::fuzzing;
use super::*;
use crate::fuzzing::run;

/// Pieces of packets that mean something: pointers to before, to themselves and to nowhere, lengths
/// beyond the end, records of EDNS, counts.
const PIECES: [&[u8]; 12] = [
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\xc0\xff",
    b"\xff\xff",
    b"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x00",
    b"\x00\x00\x29\xff\xff\x00\x01\x00\x00\xff\xff",
    b"\x3f",
    b"\x00",
    b"\x07cluster\x05local\x00",
    b"\x03far\x04shop\x03svc",
    b"\x00\x21\x00\x01",
    b"\x00\xff\x00\xff",
];

fn questions() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    for (text, record_type) in [
        ("web.shop.svc.cluster.local.", RecordType::A),
        ("db.shop.svc.cluster.local.", RecordType::A),
        ("_http._tcp.db.shop.svc.cluster.local.", RecordType::SRV),
        ("far.shop.svc.cluster.local.", RecordType::A),
        ("self.shop.svc.cluster.local.", RecordType::AAAA),
        ("7.1.244.10.in-addr.arpa.", RecordType::PTR),
        ("dns-version.cluster.local.", RecordType::TXT),
        ("10-244-2-8.shop.pod.cluster.local.", RecordType::ANY),
        ("www.example.org.", RecordType::HTTPS),
    ] {
        for room in [None, Some(512), Some(4096)] {
            let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name(text), record_type));
            if let Some(room) = room {
                let mut edns = Edns::new();
                edns.set_max_payload(room).set_dnssec_ok(true);
                message.set_edns(edns);
            }
            corpus.push(message.to_vec().unwrap());
        }
    }
    corpus
}

#[test]
fn any_packet_that_comes_is_answered_soundly_or_not_at_all() {
    run(fuzzing::question, &PIECES, &questions());
}

#[test]
fn any_packet_of_a_resolver_is_told_soundly_or_not_at_all() {
    let asked = name("www.example.org.");
    let record = Record::from_rdata(asked.clone(), 86_400, RData::A(A::new(192, 0, 2, 1)));
    let soa = SOA::new(asked.clone(), asked.clone(), 1, 1, 1, 1, u32::MAX);
    let soa = Record::from_rdata(asked.clone(), u32::MAX, RData::SOA(soa));
    let mut corpus = Vec::new();
    for (answers, authorities) in
        [(vec![record.clone()], vec![]), (vec![], vec![soa.clone()]), (vec![record; 40], vec![soa])]
    {
        let mut message = Message::response(0x1234, OpCode::Query);
        message.add_query(Query::query(asked.clone(), RecordType::A));
        message.add_answers(answers);
        message.add_authorities(authorities);
        corpus.push(message.to_vec().unwrap());
    }
    run(fuzzing::answer, &PIECES, &corpus);
}
