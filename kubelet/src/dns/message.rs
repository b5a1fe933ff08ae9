//! Questions and answers as bytes.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::DNSClass;

/// What is told over UDP to those who have the room: more may arrive in pieces, and pieces get lost.
const MAX_DATAGRAM: u16 = 1232;
/// What everybody has room for.
const MIN_DATAGRAM: u16 = 512;
/// The only version of EDNS there is.
const EDNS_VERSION: u8 = 0;

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
    edns: Option<u16>,
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
        let edns = message.edns.as_ref().map(Edns::max_payload);
        let query = message.queries.first().cloned().unwrap_or_default();
        let question = Self { query, metadata: message.metadata, edns };
        let refusal = if message.metadata.op_code != OpCode::Query {
            Some(ResponseCode::NotImp)
        } else if message.queries.len() != 1 {
            Some(ResponseCode::FormErr)
        } else if message.edns.as_ref().is_some_and(|edns| edns.version() != EDNS_VERSION) {
            Some(ResponseCode::BADVERS)
        } else if !matches!(question.query.query_class, DNSClass::IN | DNSClass::ANY) {
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
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM).set_version(EDNS_VERSION);
            message.set_edns(edns);
        }
        Reply(message)
    }

    /// How long an answer over UDP may be.
    pub(crate) fn room(&self) -> usize {
        usize::from(self.edns.unwrap_or(0).clamp(MIN_DATAGRAM, MAX_DATAGRAM))
    }

    /// The number that its asker knows it by.
    pub(crate) fn id(&self) -> u16 {
        self.metadata.id
    }
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
    /// Its bytes; without any records, and saying so, if they are more than there is room for.
    pub(crate) fn into_bytes(self, room: usize) -> Vec<u8> {
        match self.0.to_vec() {
            Ok(bytes) if bytes.len() <= room => bytes,
            // A list of addresses that is too long for TCP, too.
            Ok(_) | Err(_) => self.0.truncate().to_vec().unwrap_or_default(),
        }
    }
}
