//! What others say of a name, and for how long it holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};
use moka::Expiry;

use super::Key;

/// What holds for longer is asked for again by then.
const LONGEST: Duration = Duration::from_secs(3600);
/// The same, of what is not there: it may come into being.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(900);
/// That nobody answers is remembered, too (RFC 9520), and not for longer than the least that this
/// allows: whoever asks again is to find a network that is mended.
const FAILURE: Duration = Duration::from_secs(1);
/// What an answer takes beside its records, in bytes.
const ENTRY: usize = 512;
/// How much larger records are than on the wire.
const UNPACKED: usize = 4;

/// What others say of a name.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) code: ResponseCode,
    /// Whether the resolver has checked it.
    pub(crate) authentic: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    since: Instant,
    holds: Duration,
    /// Bytes on the wire.
    length: usize,
}

/// The records of an answer.
pub(crate) struct Records {
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Told {
    /// What a message says.
    pub(crate) fn of(message: Message) -> Self {
        let holds = holds(&message);
        let length = message.to_vec().map_or(usize::from(u16::MAX), |bytes| bytes.len());
        Self {
            code: message.metadata.response_code,
            authentic: message.metadata.authentic_data,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
            since: Instant::now(),
            holds,
            length,
        }
    }

    /// Nobody says anything.
    pub(crate) fn failed() -> Self {
        Self {
            code: ResponseCode::ServFail,
            authentic: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            since: Instant::now(),
            holds: FAILURE,
            length: 0,
        }
    }

    /// The records, which hold for as much longer as is left.
    pub(crate) fn records(&self) -> Records {
        let passed = u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        let most = u32::try_from(self.holds.as_secs()).unwrap_or(u32::MAX).max(1);
        let aged = |records: &[Record]| {
            let aged = records.iter().cloned().map(|mut record| {
                record.ttl = record.ttl.saturating_sub(passed).min(most);
                record
            });
            aged.collect()
        };
        Records {
            answers: aged(&self.answers),
            authorities: aged(&self.authorities),
            additionals: aged(&self.additionals),
        }
    }

    /// What it takes to remember it, in bytes.
    pub(crate) fn weight(&self) -> u32 {
        u32::try_from(ENTRY + self.length * UNPACKED).unwrap_or(u32::MAX)
    }
}

/// For how long what a message says holds: as its shortest record does, without any as the zone's own
/// record says, and without that not at all.
fn holds(message: &Message) -> Duration {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        _ => return FAILURE,
    }
    let shortest = message.answers.iter().map(|record| seconds(record.ttl)).min();
    // An alias to a name that is not there has both.
    let negative = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(seconds(record.ttl.min(soa.minimum)).min(LONGEST_NEGATIVE)),
        _ => None,
    });
    let is_negative =
        message.answers.is_empty() || message.metadata.response_code == ResponseCode::NXDomain;
    match (shortest, negative) {
        (Some(shortest), Some(negative)) => shortest.min(negative).min(LONGEST),
        (Some(shortest), None) if !is_negative => shortest.min(LONGEST),
        (None, Some(negative)) => negative,
        (Some(_) | None, None) => Duration::ZERO,
    }
}

/// Forgets what does not hold any more.
pub(crate) struct Expires;

impl Expiry<Key, Arc<Told>> for Expires {
    fn expire_after_create(&self, _: &Key, told: &Arc<Told>, _: Instant) -> Option<Duration> {
        Some(told.holds)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        told: &Arc<Told>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(told.holds)
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    #[test]
    fn answers_hold_as_long_as_their_records_and_negative_ones_as_the_zone_says() {
        let name = Name::from_ascii("example.org.").unwrap();
        let a = |ttl| Record::from_rdata(name.clone(), ttl, RData::A(A::new(192, 0, 2, 1)));
        let soa = |ttl, minimum| {
            let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
            Record::from_rdata(name.clone(), ttl, RData::SOA(soa))
        };
        let (yes, no) = (ResponseCode::NoError, ResponseCode::NXDomain);
        for (code, answers, authorities, wanted) in [
            (yes, vec![a(60), a(30)], vec![], 30),
            (yes, vec![a(0)], vec![], 0),
            (yes, vec![a(86_400)], vec![], 3600),
            (yes, vec![], vec![soa(300, 20)], 20),
            (no, vec![], vec![soa(15, 20)], 15),
            (no, vec![], vec![soa(86_400, 86_400)], 900),
            // An alias whose target is not there.
            (no, vec![a(10)], vec![soa(300, 20)], 10),
            (no, vec![a(60)], vec![soa(300, 20)], 20),
            (no, vec![a(60)], vec![], 0),
            (no, vec![], vec![], 0),
            (yes, vec![], vec![], 0),
            (ResponseCode::Refused, vec![], vec![], 1),
        ] {
            let mut message = Message::response(1, OpCode::Query);
            message.metadata.response_code = code;
            let said = format!("{code} {answers:?} {authorities:?}");
            message.add_answers(answers);
            message.add_authorities(authorities);
            assert_eq!(holds(&message), Duration::from_secs(wanted), "{said}");
        }
    }
}
