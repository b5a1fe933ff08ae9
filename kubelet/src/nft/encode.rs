//! [`Command`]s as messages of nf_tables.
//!
//! The numbers are those of `linux/netfilter/nf_tables.h`, under the names they have there.

use super::expr::{ChainKind, Hook, HookPoint, Rule};
use super::expressions::{expression, verdict};
use super::message::{Headers, Messages};
use super::set::{Bytes, Element, Key, Kind, Part, Set, Value, Values, length};
use super::table::{Command, Family, Table};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_APPEND: u16 = 0x800;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// Operations of nf_tables.
mod operation {
    pub(super) const NEWTABLE: u16 = 0;
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const DELCHAIN: u16 = 5;
    pub(super) const NEWRULE: u16 = 6;
    pub(super) const DELRULE: u16 = 8;
    pub(super) const NEWSET: u16 = 9;
    pub(super) const DELSET: u16 = 11;
    pub(super) const NEWSETELEM: u16 = 12;
    pub(super) const DELSETELEM: u16 = 14;
}

/// So long a list of elements may get: its length has 16 bits, and the last element may still come
/// behind that.
const LIST_LIMIT: usize = 60_000;

/// A whole transaction, ready to be sent.
pub(crate) struct Transaction {
    /// All messages.
    pub(super) messages: Messages,
    /// What each message is about, by sequence number. The first and the last bracket the others.
    about: Vec<About>,
}

/// What a message does.
#[derive(Clone, Debug)]
enum About {
    Batch,
    Table(&'static str, String),
    Set(&'static str, String),
    Chain(&'static str, String),
    Rule { chain: String, comment: &'static str },
    Elements { verb: &'static str, set: String, count: usize },
}

impl Transaction {
    /// The commands, each list on its table. Sequence numbers start at 0.
    pub(crate) fn new(changes: &[(&Table, &[Command])]) -> Self {
        let mut transaction = Self { messages: Messages::default(), about: Vec::new() };
        transaction.bracket(NFNL_MSG_BATCH_BEGIN);
        let mut set_id = 0;
        for (table, commands) in changes {
            for command in *commands {
                Writer { transaction: &mut transaction, table, set_id: &mut set_id }.write(command);
            }
        }
        // An answer to the last one says that all is well; errors are answered in any case.
        transaction.messages.add_flags_to_last(NLM_F_ACK);
        transaction.bracket(NFNL_MSG_BATCH_END);
        transaction
    }

    /// Whether nothing would be done.
    pub(crate) fn is_empty(&self) -> bool {
        self.about.len() <= 2
    }

    /// The number of the message that is acknowledged when the transaction was committed.
    pub(super) fn last_sequence(&self) -> u32 {
        (self.about.len() as u32).saturating_sub(2)
    }

    /// What the message of this number does, as "add rule to chain dispatch".
    pub(super) fn describe(&self, sequence: u32) -> String {
        match self.about.get(sequence as usize) {
            None | Some(About::Batch) => "commit".to_owned(),
            Some(About::Table(verb, name)) => format!("{verb} table {name}"),
            Some(About::Set(verb, set)) => format!("{verb} set {set}"),
            Some(About::Chain(verb, chain)) => format!("{verb} chain {chain}"),
            Some(About::Rule { chain, comment }) => {
                format!("add rule {comment:?} to chain {chain}")
            }
            Some(About::Elements { verb, set, count }) => {
                format!("{verb} {count} elements of {set}")
            }
        }
    }

    fn bracket(&mut self, kind: u16) {
        let headers = Headers {
            kind,
            flags: NLM_F_REQUEST,
            sequence: self.about.len() as u32,
            family: 0,
            resource: NFNL_SUBSYS_NFTABLES,
        };
        self.about.push(About::Batch);
        self.messages.push(headers, |_| {});
    }
}

/// Appends messages about one table.
struct Writer<'a> {
    transaction: &'a mut Transaction,
    table: &'a Table,
    /// Later messages name sets by their names; the number only has to be unique.
    set_id: &'a mut u32,
}

impl Writer<'_> {
    fn push(
        &mut self,
        operation: u16,
        flags: u16,
        about: About,
        write: impl FnOnce(&mut Messages),
    ) {
        let headers = Headers {
            kind: NFNL_SUBSYS_NFTABLES << 8 | operation,
            flags: NLM_F_REQUEST | flags,
            sequence: self.transaction.about.len() as u32,
            family: self.table.family.number(),
            resource: 0,
        };
        self.transaction.about.push(about);
        let table = &self.table.name;
        // Every message about something in a table begins with the table's name.
        self.transaction.messages.push(headers, |message| {
            message.text(1, table);
            write(message);
        });
    }

    fn write(&mut self, command: &Command) {
        let family = self.table.family;
        match command {
            Command::AddTable => {
                let about = About::Table("add", self.table.name.clone());
                self.push(operation::NEWTABLE, NLM_F_CREATE, about, |message| {
                    message.number(2, 0);
                });
            }
            Command::DeleteTable => {
                let about = About::Table("delete", self.table.name.clone());
                self.push(operation::DELTABLE, 0, about, |_| {});
            }
            Command::AddSet(set) => {
                *self.set_id += 1;
                let id = *self.set_id;
                let about = About::Set("add", set.name.to_string());
                self.push(operation::NEWSET, NLM_F_CREATE, about, |message| {
                    add_set(message, set, id);
                });
            }
            Command::DeleteSet(set) => {
                let about = About::Set("delete", set.name.to_string());
                self.push(operation::DELSET, 0, about, |message| message.text(2, &set.name));
            }
            Command::AddChain { name, hook } => {
                let flags = NLM_F_CREATE | NLM_F_EXCL;
                let about = About::Chain("add", name.clone());
                self.push(operation::NEWCHAIN, flags, about, |message| {
                    add_chain(message, name, *hook);
                });
            }
            Command::DeleteChain { name } => {
                let about = About::Chain("delete", name.clone());
                self.push(operation::DELCHAIN, 0, about, |message| message.text(3, name));
            }
            Command::FlushChain { name } => {
                let about = About::Chain("flush", name.clone());
                self.push(operation::DELRULE, 0, about, |message| message.text(2, name));
            }
            Command::AddRule { chain, rule } => {
                let about = About::Rule { chain: chain.clone(), comment: rule.comment };
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                self.push(operation::NEWRULE, flags, about, |message| {
                    add_rule(message, family, chain, rule);
                });
            }
            Command::AddElements(set, elements) => {
                let lists = Lists {
                    operation: operation::NEWSETELEM,
                    flags: NLM_F_CREATE | NLM_F_EXCL,
                    verb: "add",
                };
                self.lists(lists, set, elements, |list, element: &Element| {
                    add_element(list, set, element);
                });
            }
            Command::DeleteElements(set, keys) => {
                let lists = Lists { operation: operation::DELSETELEM, flags: 0, verb: "delete" };
                self.lists(lists, set, keys, |list, key: &Key| delete_element(list, set, key));
            }
        }
    }

    /// As many messages as the list needs.
    fn lists<T>(
        &mut self,
        Lists { operation, flags, verb }: Lists,
        set: &Set,
        mut items: &[T],
        mut write: impl FnMut(&mut Messages, &T),
    ) {
        while !items.is_empty() {
            let mut count = 0;
            let about = About::Elements { verb, set: set.name.to_string(), count };
            self.push(operation, flags, about, |message| {
                message.text(2, &set.name);
                message.nest(3, |list| {
                    while count < items.len() && list.length_of_last() < LIST_LIMIT {
                        write(list, &items[count]);
                        count += 1;
                    }
                });
            });
            if let Some(About::Elements { count: noted, .. }) = self.transaction.about.last_mut() {
                *noted = count;
            }
            items = &items[count..];
        }
    }
}

/// What is done to elements.
struct Lists {
    operation: u16,
    flags: u16,
    verb: &'static str,
}

fn add_set(message: &mut Messages, set: &Set, id: u32) {
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const CONCATENATION: u32 = 0x80;
    const VERDICTS: u32 = 0xffff_ff00;

    let mut flags = match set.kind {
        Kind::Plain => 0,
        Kind::Intervals if set.key.len() > 1 => INTERVAL | CONCATENATION,
        Kind::Intervals => INTERVAL,
        Kind::Remembered { .. } => TIMEOUT | EVAL,
    };
    if set.values != Values::None {
        flags |= MAP;
    }
    message.text(2, &set.name);
    message.number(3, flags);
    message.number(4, data_type(set.key));
    message.number(5, length(set.key) as u32);
    match set.values {
        Values::None => {}
        Values::Verdicts => {
            message.number(6, VERDICTS);
            message.number(7, 0);
        }
        Values::Parts(parts) => {
            message.number(6, data_type(parts));
            message.number(7, length(parts) as u32);
        }
    }
    message.number(10, id);
    if set.key == [Part::Interface] {
        // Text is in the machine's byte order, which `nft` does not see by its type.
        const KEY_BYTE_ORDER: u8 = 0;
        let [a, b, c, d] = 1_u32.to_ne_bytes();
        message.bytes(13, &[KEY_BYTE_ORDER, 4, a, b, c, d]);
    }
    match set.kind {
        Kind::Intervals if set.key.len() > 1 => {
            // Ranges in several parts at once: the kernel has to know where each begins.
            message.nest(9, |description| {
                description.nest(2, |parts| {
                    for part in set.key {
                        parts.nest(1, |nested| nested.number(1, part.length() as u32));
                    }
                });
            });
        }
        Kind::Remembered { limit } => {
            message.nest(9, |description| description.number(1, limit));
        }
        Kind::Plain | Kind::Intervals => {}
    }
}

/// Numbers by which `nft` knows how to print a part; the kernel ignores them.
fn data_type(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |all, part| {
        let number = match part {
            Part::Ipv4 => 7,
            Part::Ipv6 => 8,
            Part::Protocol => 12,
            Part::Port => 13,
            Part::Number => 19,
            Part::Interface => 41,
            Part::Hardware => 9,
        };
        all << 6 | number
    })
}

fn add_chain(message: &mut Messages, name: &str, hook: Option<Hook>) {
    const ACCEPT: u32 = 1;

    message.text(3, name);
    let Some(hook) = hook else { return };
    // A bridge's hooks have the same numbers.
    let point = match hook.point {
        HookPoint::Prerouting => 0,
        HookPoint::Input => 1,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    };
    message.nest(4, |nested| {
        nested.number(1, point);
        nested.bytes(2, &hook.priority.to_be_bytes());
    });
    message.number(5, ACCEPT);
    message.text(
        7,
        match hook.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        },
    );
}

fn add_rule(message: &mut Messages, family: Family, chain: &str, rule: &Rule) {
    message.text(2, chain);
    message.nest(4, |list| {
        for expr in &rule.exprs {
            list.nest(1, |nested| expression(nested, family, expr));
        }
    });
    if !rule.comment.is_empty() {
        message.bytes(7, &comment(rule.comment));
    }
}

/// As `nft` keeps comments of rules and elements alike: type 0, length, text with its terminator.
fn comment(text: &str) -> Vec<u8> {
    // Those of rules are our own, those of elements were cut to 127 bytes.
    let mut bytes = vec![0, text.len() as u8 + 1];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

fn add_element(list: &mut Messages, set: &Set, element: &Element) {
    list.nest(1, |nested| {
        start(nested, set, &element.key);
        match &element.value {
            Value::None => {}
            Value::Bytes(value) => nested.nest(2, |data| bytes(data, value)),
            Value::Verdict(value) => nested.nest(2, |data| verdict(data, value)),
        }
        if !element.comment.is_empty() {
            nested.bytes(6, &comment(&element.comment));
        }
    });
    end(list, set, &element.key);
}

fn delete_element(list: &mut Messages, set: &Set, key: &Key) {
    list.nest(1, |nested| start(nested, set, key));
    end(list, set, key);
}

/// The key, or the first of a range; where ranges are in several parts, the last as well.
fn start(element: &mut Messages, set: &Set, key: &Key) {
    element.nest(1, |data| bytes(data, &key.from));
    if set.kind == Kind::Intervals && set.key.len() > 1 {
        let last = key.to.as_deref().unwrap_or(&key.from);
        element.nest(10, |data| bytes(data, last));
    }
}

/// Ranges of one part end with an element of their own: the first key behind them.
fn end(list: &mut Messages, set: &Set, key: &Key) {
    const INTERVAL_END: u32 = 1;

    if set.kind != Kind::Intervals || set.key.len() > 1 {
        return;
    }
    let Some(behind) = key.to.as_deref().unwrap_or(&key.from).next() else { return };
    list.nest(1, |nested| {
        nested.nest(1, |data| bytes(data, &behind));
        nested.number(3, INTERVAL_END);
    });
}

fn bytes(data: &mut Messages, bytes: &Bytes) {
    data.bytes(1, bytes.as_slice());
}
