//! What the kernel has, read back.
//!
//! Lists come in several messages, between which the kernel may change: it says so then, and the
//! list is read again.

use std::collections::BTreeMap;
use std::io;

use super::encode::{NFNL_SUBSYS_NFTABLES, NFPROTO_IPV4};
use super::{NLMSG_ERROR, Nft, NftError};
use crate::proxy::elements::{Bytes, Element, Key, Value};
use crate::proxy::expr::Set;
use crate::proxy::message::{Attributes, Headers, Messages, array, split};
use crate::proxy::takeover::Found;

const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSETELEM: u16 = 13;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_DONE: u16 = 3;
/// `struct nfgenmsg`, before the attributes.
const FAMILY_HEADER: usize = 4;

/// Whoever changes rules of this network namespace interrupts, also those of other tables.
const ATTEMPTS: usize = 50;

impl Nft {
    /// The table as it is; nothing if there is none.
    pub(crate) fn dump(&self) -> Result<Option<Found>, NftError> {
        let mut found = Found::default();
        let mut chains = BTreeMap::new();
        self.list("chains", GETCHAIN, None, |attributes| {
            if text(attributes, 1) == Some(&self.table) {
                chains.extend(text(attributes, 3).map(|name| (name.to_owned(), 0)));
            }
        })?;
        if chains.is_empty() {
            return Ok(None);
        }
        self.list("rules", GETRULE, None, |attributes| {
            if text(attributes, 1) == Some(&self.table)
                && let Some(rules) = text(attributes, 2).and_then(|name| chains.get_mut(name))
            {
                *rules += 1;
            }
        })?;
        found.chains = chains;
        for set in Set::ALL {
            self.list(set.name(), GETSETELEM, Some(set), |attributes| {
                let list = find(attributes, 3).unwrap_or_default();
                let parsed = Attributes(list).filter_map(|(_, element)| parse(set, element));
                found.elements.extend(parsed);
            })?;
        }
        Ok(Some(found))
    }

    /// Reads a whole list, one call of `each` for the attributes of each message.
    fn list(
        &self,
        what: &str,
        operation: u16,
        of: Option<Set>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NftError> {
        let failed =
            |source| NftError::Socket { operation: format!("read the table's {what}"), source };
        for _ in 0..ATTEMPTS {
            let answers = self.ask(operation, of).map_err(failed)?;
            let Some(answers) = answers else { continue };
            for answer in &answers {
                let messages = split(answer).filter(|message| message.kind != NLMSG_DONE);
                messages.for_each(|message| {
                    each(message.payload.get(FAMILY_HEADER..).unwrap_or_default());
                });
            }
            return Ok(());
        }
        Err(failed(io::Error::new(io::ErrorKind::Interrupted, "it changes all the time")))
    }

    /// All answers to a question; nothing if they do not belong to one moment.
    fn ask(&self, operation: u16, of: Option<Set>) -> io::Result<Option<Vec<Vec<u8>>>> {
        let headers = Headers {
            kind: NFNL_SUBSYS_NFTABLES << 8 | operation,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            sequence: 0,
            family: NFPROTO_IPV4,
            resource: 0,
        };
        let mut request = Messages::default();
        request.push(headers, |message| {
            if let Some(set) = of {
                message.text(1, &self.table);
                message.text(2, set.name());
            }
        });
        self.socket.send(request.as_slice())?;
        let mut answers = Vec::new();
        let mut whole = true;
        loop {
            let mut answer = self.socket.receive()?;
            answer.shrink_to_fit();
            let mut done = false;
            for message in split(&answer) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR => {
                        let code = array(message.payload, 0).map_or(0, i32::from_ne_bytes);
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    _ => {}
                }
            }
            answers.push(answer);
            if done {
                return Ok(whole.then_some(answers));
            }
        }
    }
}

fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn text(attributes: &[u8], wanted: u16) -> Option<&str> {
    let bytes = find(attributes, wanted)?;
    std::str::from_utf8(bytes).ok().map(|text| text.trim_end_matches('\0'))
}

/// An element; nothing if it is none that this program makes, which is found out when all that was
/// read is compared with what should be there.
fn parse(set: Set, element: &[u8]) -> Option<Element> {
    let bytes = |data: &[u8]| find(data, 1).and_then(Bytes::from_slice);
    let key = Key { set, bytes: bytes(find(element, 1)?)? };
    let value = match find(element, 2) {
        None => Value::None,
        Some(data) => match find(data, 2) {
            Some(verdict) => Value::Goto(text(verdict, 2)?.to_owned()),
            None => Value::Bytes(bytes(data)?),
        },
    };
    let comment = find(element, 6).and_then(comment).unwrap_or_default();
    Some(Element { key, value, comment })
}

/// Type 0, length, text with its terminator.
fn comment(bytes: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = bytes else { return None };
    let text = rest.get(..usize::from(*length))?;
    Some(std::str::from_utf8(text).ok()?.trim_end_matches('\0').to_owned())
}
