//! The answer to a question: out of the zone, or with what others know.

use std::sync::{Arc, PoisonError, RwLock};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;

use super::forward::{Forward, Records};
use super::message::{Question, Reply, most_records};
use super::names::Names;
use super::zone::{Answer, Asked, Zone};

/// Aliases that are followed, one to the next.
const MAX_ALIASES: usize = 8;

/// What the answers are made of.
pub(crate) struct Known {
    pub(crate) zone: Zone,
    pub(crate) names: Names,
}

/// The same, followed by one and read by many.
pub(crate) type Shared = Arc<RwLock<Known>>;

/// Answers questions.
pub(crate) struct Answerer {
    known: Shared,
    forward: Forward,
}

/// How an answer goes on.
pub(crate) enum Next {
    Done(Reply),
    AskOthers(Box<Pending>),
}

/// An answer that others have to complete: what there is of it, and the name to ask them for.
pub(crate) struct Pending {
    reply: Reply,
    name: Name,
}

impl Answerer {
    /// Out of what is known, and of what others know.
    pub(crate) fn new(known: Shared, forward: Forward) -> Arc<Self> {
        Arc::new(Self { known, forward })
    }

    /// The answer, if all of it is known here. Nothing is put into it that has no room in so many bytes.
    pub(crate) fn at_once(&self, question: &Question, room: usize) -> Next {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let record_type = question.query.query_type;
        let mut reply = question.answer(ResponseCode::NoError);
        let mut name = question.query.name.clone();
        for _ in 0..MAX_ALIASES {
            let (turn, most) = (question.id(), most_records(room));
            let asked = Asked { name: &name, record_type, turn, most };
            let answer = known.zone.answer(&known.names, asked);
            if reply.0.answers.is_empty() {
                reply.0.metadata.authoritative = !matches!(answer, Answer::Elsewhere);
            }
            match answer {
                Answer::Records { answers, additionals } => {
                    reply.0.answers.extend(answers);
                    reply.0.additionals.extend(additionals);
                    return Next::Done(reply);
                }
                Answer::Nothing(authority) => {
                    reply.0.authorities.push(authority);
                    return Next::Done(reply);
                }
                Answer::NoSuchName(authority) => {
                    reply.0.metadata.response_code = ResponseCode::NXDomain;
                    reply.0.authorities.push(authority);
                    return Next::Done(reply);
                }
                Answer::Alias(record, target) => {
                    let wanted = record_type == record.record_type();
                    reply.0.answers.push(record);
                    if wanted {
                        return Next::Done(reply);
                    }
                    name = target;
                }
                Answer::Elsewhere if self.forward.is_own(&question.query) => break,
                Answer::Elsewhere => return Next::AskOthers(Box::new(Pending { reply, name })),
            }
        }
        reply.0.metadata.response_code = ResponseCode::ServFail;
        Next::Done(reply)
    }

    /// The answer with what others know.
    pub(crate) async fn later(&self, question: &Question, pending: Box<Pending>) -> Reply {
        let Pending { mut reply, name } = *pending;
        let told = self.forward.ask(&name, question).await;
        reply.0.metadata.response_code = told.code;
        reply.0.metadata.authentic_data = told.authentic && reply.0.answers.is_empty();
        let Records { mut answers, authorities, additionals } = told.records();
        // Somebody else may have asked for it in other letters.
        for record in answers.iter_mut().filter(|record| record.name == name) {
            record.name = name.clone();
        }
        reply.0.answers.extend(answers);
        reply.0.authorities.extend(authorities);
        reply.0.additionals.extend(additionals);
        reply
    }

    /// What those are told for whom there is no room at the moment.
    pub(crate) fn busy(question: &Question) -> Reply {
        question.answer(ResponseCode::ServFail)
    }
}
