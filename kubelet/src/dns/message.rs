//! Questions and answers as bytes.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// What is told over UDP to those who have the room: more may arrive in pieces, and pieces get lost.
pub(crate) const MAX_DATAGRAM: u16 = 1232;
/// What everybody has room for.
const MIN_DATAGRAM: u16 = 512;
/// The only version of EDNS there is.
const EDNS_VERSION: u8 = 0;
/// A record of EDNS without options, as bytes.
const EDNS_LENGTH: u16 = 11;
/// The smallest record, with its name told before: what has no room for so many has none for more.
const SMALLEST_RECORD: usize = 16;
/// Where a message says how many records it has behind its answers.
const ADDITIONALS: std::ops::Range<usize> = 10..12;

/// A message that came: its one question, or what is answered at once.
pub(crate) enum Asked {
    Question(Box<Question>),
    /// Something is wrong with it.
    Refused(Vec<u8>),
    /// Nothing that could be answered: not even the sender is told.
    Nonsense,
}

/// A question, and what its asker understands.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) query: Query,
    metadata: Metadata,
    edns: Option<Offer>,
}

/// What an asker says of itself.
#[derive(Clone, Copy, Debug)]
struct Offer {
    payload: u16,
    /// It wants the records that prove an answer.
    proofs: bool,
}

impl Question {
    /// Reads a message.
    pub(crate) fn read(bytes: &[u8]) -> Asked {
        let Ok(message) = Message::from_vec(bytes) else {
            return refuse_unread(bytes);
        };
        if message.metadata.message_type != MessageType::Query {
            return Asked::Nonsense;
        }
        let offer =
            |edns: &Edns| Offer { payload: edns.max_payload(), proofs: edns.flags().dnssec_ok };
        let edns = message.edns.as_ref().map(offer);
        let query = message.queries.first().cloned().unwrap_or_default();
        let question = Self { query, metadata: message.metadata, edns };
        let transfer = matches!(question.query.query_type, RecordType::AXFR | RecordType::IXFR);
        let refusal = if message.metadata.op_code != OpCode::Query {
            Some(ResponseCode::NotImp)
        } else if message.queries.len() != 1 {
            Some(ResponseCode::FormErr)
        } else if message.edns.as_ref().is_some_and(|edns| edns.version() != EDNS_VERSION) {
            Some(ResponseCode::BADVERS)
        } else if transfer || !matches!(question.query.query_class, DNSClass::IN | DNSClass::ANY) {
            Some(ResponseCode::Refused)
        } else {
            None
        };
        match refusal {
            Some(code) => Asked::Refused(question.answer(code).into_bytes(usize::MAX)),
            None => Asked::Question(Box::new(question)),
        }
    }

    /// An answer to be filled in.
    pub(crate) fn answer(&self, code: ResponseCode) -> Reply {
        let mut metadata = Metadata::response_from_request(&self.metadata);
        metadata.recursion_available = true;
        metadata.response_code = code;
        let mut message = Message::new(metadata.id, MessageType::Response, metadata.op_code);
        message.metadata = metadata;
        message.add_query(self.query.clone());
        if let Some(offer) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM).set_version(EDNS_VERSION);
            edns.set_dnssec_ok(offer.proofs);
            message.set_edns(edns);
        }
        Reply(message)
    }

    /// How long an answer over UDP may be, in bytes.
    pub(crate) fn room(&self) -> usize {
        let payload = self.edns.map_or(0, |offer| offer.payload);
        usize::from(payload.clamp(MIN_DATAGRAM, MAX_DATAGRAM))
    }

    /// The number that its asker knows it by.
    pub(crate) fn id(&self) -> u16 {
        self.metadata.id
    }

    /// Whether the records that prove an answer are wanted.
    pub(crate) fn wants_proofs(&self) -> bool {
        self.edns.is_some_and(|offer| offer.proofs)
    }

    /// Whether the asker checks proofs by itself, and takes answers that fail the check.
    pub(crate) fn checks_itself(&self) -> bool {
        self.metadata.checking_disabled
    }
}

/// How many records a message of so many bytes can have, and one more, which does not fit.
pub(crate) fn most_records(room: usize) -> usize {
    room / SMALLEST_RECORD + 1
}

/// What cannot be read is refused by its number, as far as that can be read.
fn refuse_unread(bytes: &[u8]) -> Asked {
    /// The flag of answers, in the third byte.
    const ANSWER: u8 = 0x80;
    match bytes {
        [first, second, flags, _, ..] if bytes.len() >= 12 && flags & ANSWER == 0 => {
            let id = u16::from_be_bytes([*first, *second]);
            let mut message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            message.metadata.message_type = MessageType::Response;
            message.to_vec().map_or(Asked::Nonsense, Asked::Refused)
        }
        _ => Asked::Nonsense,
    }
}

/// An answer.
pub(crate) struct Reply(pub(crate) Message);

impl Reply {
    /// Its bytes, at most so many. What is dispensable goes first, silently; then as many answers as
    /// have room are told and the rest can be had over TCP: some C libraries never ask there, and use
    /// what they got.
    pub(crate) fn into_bytes(self, room: usize) -> Vec<u8> {
        let Self(mut message) = self;
        let fits = |message: &Message| {
            let bytes = message.to_vec().ok()?;
            // What is too long for any transport was cut short.
            (bytes.len() <= room && !is_cut(&bytes)).then_some(bytes)
        };
        if let Some(bytes) = fits(&message) {
            return bytes;
        }
        message.additionals.clear();
        if !message.answers.is_empty() {
            message.authorities.clear();
        }
        fits(&message).or_else(|| cut(message, room)).unwrap_or_default()
    }
}

/// Whether a message says that it is not all there is.
fn is_cut(bytes: &[u8]) -> bool {
    /// The flag of what was cut, in the third byte.
    const CUT: u8 = 0x02;
    bytes.get(2).is_some_and(|flags| flags & CUT != 0)
}

/// As much of a message as there is room for; it says so itself.
fn cut(mut message: Message, room: usize) -> Option<Vec<u8>> {
    let room = u16::try_from(room).unwrap_or(u16::MAX);
    // What says how much room there is comes last, and has to have some.
    let edns = message.edns.take();
    let mut bytes = Vec::with_capacity(usize::from(room));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(room - edns.as_ref().map_or(0, |_| EDNS_LENGTH));
    message.emit(&mut encoder).ok()?;
    // A record that had no room has left its beginning.
    encoder.trim();
    if let Some(edns) = edns {
        let [high, low] = edns.max_payload().to_be_bytes();
        let flags = if edns.flags().dnssec_ok { 0x80 } else { 0 };
        let record = [0, 0, 41, high, low, 0, EDNS_VERSION, flags, 0, 0, 0];
        bytes.extend_from_slice(&record);
        bytes.get_mut(ADDITIONALS)?.copy_from_slice(&1_u16.to_be_bytes());
    }
    Some(bytes)
}
