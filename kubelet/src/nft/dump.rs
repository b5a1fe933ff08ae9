//! What the kernel has, read back.
//!
//! Lists come in several messages, between which the kernel may change: it says so then, and the
//! list is read again.

use std::collections::BTreeMap;
use std::io;

use super::encode::NFNL_SUBSYS_NFTABLES;
use super::expr::Verdict;
use super::message::{Attributes, Headers, Messages, array, split};
use super::set::{Bytes, Element, Key, Kind, Set, Value};
use super::table::{Family, Table};
use super::{NLMSG_ERROR, Nft, NftError};

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

/// A table of the kernel's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// How many rules each chain has.
    pub(crate) chains: BTreeMap<String, usize>,
    /// Of each set that was asked for and that there is, by name; in any order.
    pub(crate) sets: BTreeMap<String, Vec<Element>>,
}

impl Nft {
    /// The table as it is, with the elements of these sets; nothing if there is none. Comes to
    /// nothing when one of the sets is missing: the table is another's, or another version's.
    pub(crate) fn dump(&self, table: &Table, sets: &[Set]) -> Result<Option<Found>, NftError> {
        let mut found = Found::default();
        let family = table.family;
        self.list("chains", family, GETCHAIN, None, |attributes| {
            if text(attributes, 1) == Some(&table.name) {
                found.chains.extend(text(attributes, 3).map(|name| (name.to_owned(), 0)));
            }
        })?;
        if found.chains.is_empty() {
            return Ok(None);
        }
        self.list("rules", family, GETRULE, None, |attributes| {
            if text(attributes, 1) == Some(&table.name)
                && let Some(rules) = text(attributes, 2).and_then(|name| found.chains.get_mut(name))
            {
                *rules += 1;
            }
        })?;
        for set in sets {
            let mut parsed = Vec::new();
            let listed =
                self.list(&set.name, family, GETSETELEM, Some((table, set)), |attributes| {
                    let list = find(attributes, 3).unwrap_or_default();
                    parsed.extend(Attributes(list).filter_map(|(_, element)| parse(element)));
                });
            match listed {
                Ok(()) => {}
                Err(NftError::Socket { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            found.sets.insert(set.name.to_string(), joined(set, parsed));
        }
        Ok(Some(found))
    }

    /// Reads a whole list, one call of `each` for the attributes of each message.
    fn list(
        &self,
        what: &str,
        family: Family,
        operation: u16,
        of: Option<(&Table, &Set)>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NftError> {
        let failed =
            |source| NftError::Socket { operation: format!("read the table's {what}"), source };
        for _ in 0..ATTEMPTS {
            let answers = self.ask(family, operation, of).map_err(failed)?;
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
    fn ask(
        &self,
        family: Family,
        operation: u16,
        of: Option<(&Table, &Set)>,
    ) -> io::Result<Option<Vec<Vec<u8>>>> {
        let headers = Headers {
            kind: NFNL_SUBSYS_NFTABLES << 8 | operation,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            sequence: 0,
            family: family.number(),
            resource: 0,
        };
        let mut request = Messages::default();
        request.push(headers, |message| {
            if let Some((table, set)) = of {
                message.text(1, &table.name);
                message.text(2, &set.name);
            }
        });
        let socket = self.socket();
        socket.send(request.as_slice())?;
        let mut answers = Vec::new();
        let mut whole = true;
        loop {
            let mut answer = socket.receive()?;
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

/// An element as the kernel has it.
struct Raw {
    element: Element,
    /// It is where a range of one part ends.
    is_end: bool,
}

/// An element; nothing if it is none that this program makes, which is found out when all that was
/// read is compared with what should be there.
fn parse(element: &[u8]) -> Option<Raw> {
    const INTERVAL_END: u32 = 1;

    let bytes = |data: &[u8]| find(data, 1).and_then(Bytes::from_slice);
    let from = bytes(find(element, 1)?)?;
    let to = find(element, 10).and_then(bytes).map(Box::new);
    let value = match find(element, 2) {
        None => Value::None,
        Some(data) => match find(data, 2) {
            Some(found) => Value::Verdict(verdict(found)?),
            None => Value::Bytes(bytes(data)?),
        },
    };
    let comment = find(element, 6).and_then(comment).unwrap_or_default();
    let flags = find(element, 3).and_then(|flags| array(flags, 0)).map_or(0, u32::from_be_bytes);
    let element = Element { key: Key { from, to }, value, comment };
    Some(Raw { element, is_end: flags & INTERVAL_END != 0 })
}

/// Puts the ends of ranges to their beginnings.
fn joined(set: &Set, raw: Vec<Raw>) -> Vec<Element> {
    if set.kind != Kind::Intervals || set.key.len() > 1 {
        return raw.into_iter().map(|raw| raw.element).collect();
    }
    let (ends, starts): (Vec<Raw>, Vec<Raw>) = raw.into_iter().partition(|raw| raw.is_end);
    let mut ends: Vec<Bytes> = ends.into_iter().map(|end| end.element.key.from).collect();
    ends.sort_unstable();
    let last = vec![u8::MAX; set.key_length()];
    starts
        .into_iter()
        .map(|Raw { mut element, .. }| {
            let behind = ends.partition_point(|end| *end <= element.key.from);
            let to = match ends.get(behind) {
                Some(end) => end.previous(),
                None => Bytes::from_slice(&last),
            };
            element.key.to = to.map(Box::new);
            element
        })
        .collect()
}

fn verdict(nested: &[u8]) -> Option<Verdict> {
    let chain = || text(nested, 2).map(Box::from);
    Some(match array(find(nested, 1)?, 0).map(i32::from_be_bytes)? {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

/// Type 0, length, text with its terminator.
fn comment(bytes: &[u8]) -> Option<Box<str>> {
    let [0, length, rest @ ..] = bytes else { return None };
    let text = rest.get(..usize::from(*length))?;
    Some(std::str::from_utf8(text).ok()?.trim_end_matches('\0').into())
}
