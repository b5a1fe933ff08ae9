//! Expressions as attributes of nf_tables.
//!
//! The numbers are those of `linux/netfilter/nf_tables.h`.

use super::encode::NFPROTO_IPV4;
use crate::proxy::expr::{Expr, Field, Register, Rejection, Set, Verdict};
use crate::proxy::message::Messages;

/// A verdict, as rules and elements have it.
pub(super) fn verdict(data: &mut Messages, verdict: &Verdict) {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    data.nest(2, |nested| {
        nested.bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            nested.text(2, chain);
        }
    });
}

/// The kernel's number for a register of four bytes.
fn register(register: Register) -> u32 {
    8 + u32::from(register.0)
}

/// The register that takes verdicts.
const VERDICT_REGISTER: u32 = 0;

/// An expression, by its name and with its parameters.
pub(super) fn expression(nested: &mut Messages, expr: &Expr) {
    let mut named = |name: &str, write: &dyn Fn(&mut Messages)| {
        nested.text(1, name);
        nested.nest(2, |data| write(data));
    };
    match expr {
        Expr::Load(field, into) => load(nested, *field, register(*into)),
        Expr::Constant(value, into) => named("immediate", &|data| {
            data.number(1, register(*into));
            data.nest(2, |nested| nested.bytes(1, value));
        }),
        Expr::Mask(on, mask) => named("bitwise", &|data| {
            data.number(1, register(*on));
            data.number(2, register(*on));
            data.number(3, 4);
            data.nest(4, |nested| nested.bytes(1, mask));
            data.nest(5, |nested| nested.bytes(1, &[0; 4]));
        }),
        Expr::Equal(on, value) => named("cmp", &|data| compare(data, *on, 0, value)),
        Expr::Differs(on, value) => named("cmp", &|data| compare(data, *on, 1, value)),
        Expr::Random { modulus, into } => named("numgen", &|data| {
            const RANDOM: u32 = 1;
            data.number(1, register(*into));
            data.number(2, *modulus);
            data.number(3, RANDOM);
        }),
        Expr::Contains(set, key) => named("lookup", &|data| {
            data.text(1, set.name());
            data.number(2, register(*key));
        }),
        Expr::Get(set, key, into) => named("lookup", &|data| {
            data.text(1, set.name());
            data.number(2, register(*key));
            data.number(3, register(*into));
        }),
        Expr::Vmap(set, key) => named("lookup", &|data| {
            data.text(1, set.name());
            data.number(2, register(*key));
            data.number(3, VERDICT_REGISTER);
        }),
        Expr::Remember { set, key, value, seconds } => named("dynset", &|data| {
            const UPDATE: u32 = 1;
            dynset(data, *set, UPDATE, *key, *value);
            data.bytes(6, &(u64::from(*seconds) * 1000).to_be_bytes());
        }),
        Expr::Forget { set, key, value } => named("dynset", &|data| {
            const DELETE: u32 = 2;
            dynset(data, *set, DELETE, *key, *value);
        }),
        Expr::SetPriority(value) => named("meta", &|data| {
            data.number(2, META_PRIORITY);
            data.number(3, register(*value));
        }),
        Expr::SendTo(address, port) => named("nat", &|data| {
            const DNAT: u32 = 1;
            data.number(1, DNAT);
            data.number(2, u32::from(NFPROTO_IPV4));
            data.number(3, register(*address));
            data.number(5, register(*port));
        }),
        Expr::Masquerade => named("masq", &|data| {
            // Ports by chance: two connections at the same moment would otherwise pick the same
            // one, and the second loses its first packet.
            const PROTO_RANDOM_FULLY: u32 = 1 << 4;
            data.number(1, PROTO_RANDOM_FULLY);
        }),
        Expr::Reject(Rejection::TcpReset) => named("reject", &|data| {
            data.number(1, 1);
            data.bytes(2, &[0]);
        }),
        Expr::Reject(Rejection::PortUnreachable) => named("reject", &|data| {
            data.number(1, 0);
            data.bytes(2, &[3]);
        }),
        Expr::Verdict(verdict_of) => named("immediate", &|data| {
            data.number(1, VERDICT_REGISTER);
            data.nest(2, |nested| verdict(nested, verdict_of));
        }),
    }
}

fn compare(data: &mut Messages, on: Register, operator: u32, value: &[u8; 4]) {
    data.number(1, register(on));
    data.number(2, operator);
    data.nest(3, |nested| nested.bytes(1, value));
}

fn dynset(data: &mut Messages, set: Set, operation: u32, key: Register, value: Register) {
    data.text(1, set.name());
    data.number(3, operation);
    data.number(4, register(key));
    data.number(5, register(value));
}

const META_PRIORITY: u32 = 2;

fn load(nested: &mut Messages, field: Field, into: u32) {
    let mut named = |name: &str, write: &dyn Fn(&mut Messages)| {
        nested.text(1, name);
        nested.nest(2, |data| write(data));
    };
    let network = 1;
    let transport = 2;
    let payload = |base: u32, offset: u32, length: u32| {
        move |data: &mut Messages| {
            data.number(1, into);
            data.number(2, base);
            data.number(3, offset);
            data.number(4, length);
        }
    };
    let meta = |key: u32| {
        move |data: &mut Messages| {
            data.number(1, into);
            data.number(2, key);
        }
    };
    let original = |key: u32| {
        move |data: &mut Messages| {
            data.number(1, into);
            data.number(2, key);
            data.bytes(3, &[0]);
        }
    };
    match field {
        Field::SourceAddress => named("payload", &payload(network, 12, 4)),
        Field::DestinationAddress => named("payload", &payload(network, 16, 4)),
        Field::DestinationPort => named("payload", &payload(transport, 2, 2)),
        Field::InputInterface => named("meta", &meta(4)),
        Field::OutputInterface => named("meta", &meta(5)),
        Field::Protocol => named("meta", &meta(16)),
        Field::Priority => named("meta", &meta(META_PRIORITY)),
        Field::DestinationType => named("fib", &|data| {
            const ADDRTYPE: u32 = 3;
            const BY_DESTINATION: u32 = 2;
            data.number(1, into);
            data.number(2, ADDRTYPE);
            data.number(3, BY_DESTINATION);
        }),
        Field::ConnectionState => named("ct", &meta(0)),
        Field::ConnectionStatus => named("ct", &meta(2)),
        Field::OriginalDestinationAddress => named("ct", &original(20)),
        Field::OriginalDestinationPort => named("ct", &original(12)),
    }
}
