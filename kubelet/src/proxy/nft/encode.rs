//! [`Command`]s as messages of nf_tables.
//!
//! The numbers are those of `linux/netfilter/nf_tables.h`, under the names they have there.

use super::expressions::{expression, verdict};
use crate::proxy::diff::Command;
use crate::proxy::elements::{Bytes, Element, Key, Value};
use crate::proxy::expr::{ChainKind, Hook, HookPoint, Part, Rule, Set, Values, Verdict};
use crate::proxy::message::{Headers, Messages};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_APPEND: u16 = 0x800;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
pub(crate) const NFNL_SUBSYS_NFTABLES: u16 = 10;

pub(super) const NFPROTO_IPV4: u8 = 2;

/// Operations of nf_tables.
mod operation {
    pub(super) const NEWTABLE: u16 = 0;
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const DELCHAIN: u16 = 5;
    pub(super) const NEWRULE: u16 = 6;
    pub(super) const DELRULE: u16 = 8;
    pub(super) const NEWSET: u16 = 9;
    pub(super) const NEWSETELEM: u16 = 12;
    pub(super) const DELSETELEM: u16 = 14;
}

/// So long a list of elements may get: its length has 16 bits.
const LIST_LIMIT: usize = 60_000;

/// A whole transaction, ready to be sent.
pub(crate) struct Transaction {
    /// All messages.
    pub(crate) messages: Messages,
    /// What each message is about, by sequence number. The first and the last bracket the others.
    about: Vec<About>,
}

/// What a message does.
#[derive(Clone, Debug)]
enum About {
    Batch,
    Table(&'static str),
    Set(Set),
    Chain(&'static str, String),
    Rule { chain: String, comment: &'static str },
    Elements { verb: &'static str, set: Set, count: usize },
}

impl Transaction {
    /// The commands on the table of this name. Sequence numbers start at 0.
    pub(crate) fn new(table: &str, commands: &[Command]) -> Self {
        let mut transaction = Self { messages: Messages::default(), about: Vec::new() };
        transaction.bracket(NFNL_MSG_BATCH_BEGIN);
        for command in commands {
            transaction.command(table, command);
        }
        // An answer to the last one says that all is well; errors are answered in any case.
        transaction.acknowledge_last();
        transaction.bracket(NFNL_MSG_BATCH_END);
        transaction
    }

    /// Whether nothing would be done.
    pub(crate) fn is_empty(&self) -> bool {
        self.about.len() <= 2
    }

    /// The number of the message that is acknowledged when the transaction was committed.
    pub(crate) fn last_sequence(&self) -> u32 {
        (self.about.len() as u32).saturating_sub(2)
    }

    /// What the message of this number does, as "add rule to chain dispatch".
    pub(crate) fn describe(&self, sequence: u32) -> String {
        match self.about.get(sequence as usize) {
            None | Some(About::Batch) => "commit".to_owned(),
            Some(About::Table(verb)) => format!("{verb} the table"),
            Some(About::Set(set)) => format!("add set {}", set.name()),
            Some(About::Chain(verb, chain)) => format!("{verb} chain {chain}"),
            Some(About::Rule { chain, comment }) => {
                format!("add rule {comment:?} to chain {chain}")
            }
            Some(About::Elements { verb, set, count }) => {
                format!("{verb} {count} elements of {}", set.name())
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

    fn acknowledge_last(&mut self) {
        self.messages.add_flags_to_last(NLM_F_ACK);
    }

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
            sequence: self.about.len() as u32,
            family: NFPROTO_IPV4,
            resource: 0,
        };
        self.about.push(about);
        self.messages.push(headers, write);
    }

    fn command(&mut self, table: &str, command: &Command) {
        match command {
            Command::AddTable => {
                self.push(operation::NEWTABLE, NLM_F_CREATE, About::Table("add"), |message| {
                    message.text(1, table);
                    message.number(2, 0);
                });
            }
            Command::DeleteTable => {
                self.push(operation::DELTABLE, 0, About::Table("delete"), |message| {
                    message.text(1, table);
                });
            }
            Command::AddSet(set) => {
                // Later messages name sets by their names; the number only has to be unique.
                let id = *set as u32 + 1;
                self.push(operation::NEWSET, NLM_F_CREATE, About::Set(*set), |message| {
                    add_set(message, table, *set, id);
                });
            }
            Command::AddChain { name, hook } => {
                let flags = NLM_F_CREATE | NLM_F_EXCL;
                let about = About::Chain("add", name.clone());
                self.push(operation::NEWCHAIN, flags, about, |message| {
                    add_chain(message, table, name, *hook);
                });
            }
            Command::DeleteChain { name } => {
                let about = About::Chain("delete", name.clone());
                self.push(operation::DELCHAIN, 0, about, |message| {
                    message.text(1, table);
                    message.text(3, name);
                });
            }
            Command::FlushChain { name } => {
                let about = About::Chain("flush", name.clone());
                self.push(operation::DELRULE, 0, about, |message| {
                    message.text(1, table);
                    message.text(2, name);
                });
            }
            Command::AddRule { chain, rule } => {
                let about = About::Rule { chain: chain.clone(), comment: rule.comment };
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                self.push(operation::NEWRULE, flags, about, |message| {
                    add_rule(message, table, chain, rule);
                });
            }
            Command::AddElements(set, elements) => {
                let flags = NLM_F_CREATE | NLM_F_EXCL;
                let verb = "add";
                self.lists(operation::NEWSETELEM, flags, verb, table, *set, elements, add_element);
            }
            Command::DeleteElements(set, keys) => {
                let verb = "delete";
                self.lists(operation::DELSETELEM, 0, verb, table, *set, keys, |list, key: &Key| {
                    list.nest(1, |element| element.nest(1, |data| bytes(data, key.bytes)));
                });
            }
        }
    }

    /// As many messages as the list needs.
    #[allow(clippy::too_many_arguments)]
    fn lists<T>(
        &mut self,
        operation: u16,
        flags: u16,
        verb: &'static str,
        table: &str,
        set: Set,
        mut items: &[T],
        mut write: impl FnMut(&mut Messages, &T),
    ) {
        while !items.is_empty() {
            let mut count = 0;
            self.push(operation, flags, About::Elements { verb, set, count }, |message| {
                message.text(1, table);
                message.text(2, set.name());
                message.nest(3, |list| {
                    while count < items.len() && list.length_of_last() < LIST_LIMIT {
                        write(list, &items[count]);
                        count += 1;
                    }
                });
            });
            if let Some(About::Elements { count: noted, .. }) = self.about.last_mut() {
                *noted = count;
            }
            items = &items[count..];
        }
    }
}

fn add_set(message: &mut Messages, table: &str, set: Set, id: u32) {
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const VERDICTS: u32 = 0xffff_ff00;

    let values = set.values();
    let mut flags = 0;
    if values != Values::None {
        flags |= MAP;
    }
    if set.is_dynamic() {
        flags |= TIMEOUT | EVAL;
    }
    message.text(1, table);
    message.text(2, set.name());
    message.number(3, flags);
    message.number(4, data_type(set.key()));
    message.number(5, length(set.key()));
    match values {
        Values::None => {}
        Values::Verdicts => {
            message.number(6, VERDICTS);
            message.number(7, 0);
        }
        Values::Parts(parts) => {
            message.number(6, data_type(parts));
            message.number(7, length(parts));
        }
    }
    message.number(10, id);
    if set.is_dynamic() {
        message.nest(9, |description| description.number(1, AFFINITY_LIMIT));
    }
}

/// So many clients are remembered for all sticky Services together, at some hundred bytes each.
/// Further ones are sent anywhere.
const AFFINITY_LIMIT: u32 = 1 << 18;

/// Numbers by which `nft` knows how to print a part; the kernel ignores them.
fn data_type(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |all, part| {
        let number = match part {
            Part::Address => 7,
            Part::Protocol => 12,
            Part::Port => 13,
            Part::Number => 19,
        };
        all << 6 | number
    })
}

fn length(parts: &[Part]) -> u32 {
    parts.len() as u32 * 4
}

fn add_chain(message: &mut Messages, table: &str, name: &str, hook: Option<Hook>) {
    const ACCEPT: u32 = 1;

    message.text(1, table);
    message.text(3, name);
    let Some(hook) = hook else { return };
    let point = match hook.point {
        HookPoint::Prerouting => 0,
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

fn add_rule(message: &mut Messages, table: &str, chain: &str, rule: &Rule) {
    message.text(1, table);
    message.text(2, chain);
    message.nest(4, |list| {
        for expr in &rule.exprs {
            list.nest(1, |nested| expression(nested, expr));
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

fn add_element(list: &mut Messages, element: &Element) {
    list.nest(1, |nested| {
        nested.nest(1, |data| bytes(data, element.key.bytes));
        match &element.value {
            Value::None => {}
            Value::Bytes(value) => nested.nest(2, |data| bytes(data, *value)),
            Value::Goto(chain) => {
                nested.nest(2, |data| verdict(data, &Verdict::Goto(chain.clone())));
            }
        }
        if !element.comment.is_empty() {
            nested.bytes(6, &comment(&element.comment));
        }
    });
}

fn bytes(data: &mut Messages, bytes: Bytes) {
    data.bytes(1, bytes.as_slice());
}
