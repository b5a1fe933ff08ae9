//! Expressions as attributes of nf_tables.
//!
//! The numbers are those of `linux/netfilter/nf_tables.h`.

use super::expr::{Expr, Field, Ip, Register, Rejection, Verdict};
use super::message::Messages;
use super::set::Bytes;
use super::table::Family;

/// A verdict, as rules and elements have it.
pub(super) fn verdict(data: &mut Messages, verdict: &Verdict) {
    let code: i32 = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Jump(_) => -3,
        Verdict::Goto(_) => -4,
        Verdict::Return => -5,
    };
    data.nest(2, |nested| {
        nested.bytes(1, &code.to_be_bytes());
        if let Some(chain) = verdict.chain() {
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

/// An expression of a table of this family, by its name and with its parameters.
pub(super) fn expression(nested: &mut Messages, family: Family, expr: &Expr) {
    let mut named = |name: &str, write: &dyn Fn(&mut Messages)| {
        nested.text(1, name);
        nested.nest(2, |data| write(data));
    };
    match expr {
        Expr::Load(field, into) => load(nested, *field, register(*into)),
        Expr::Constant(value, into) => named("immediate", &|data| {
            data.number(1, register(*into));
            data.nest(2, |nested| nested.bytes(1, value.as_slice()));
        }),
        Expr::Mask(on, mask) => named("bitwise", &|data| {
            let length = mask.as_slice().len();
            data.number(1, register(*on));
            data.number(2, register(*on));
            data.number(3, length as u32);
            data.nest(4, |nested| nested.bytes(1, mask.as_slice()));
            data.nest(5, |nested| nested.bytes(1, &[0; 64][..length]));
        }),
        Expr::Equal(on, value) => named("cmp", &|data| compare(data, *on, 0, value)),
        Expr::Differs(on, value) => named("cmp", &|data| compare(data, *on, 1, value)),
        Expr::Random { modulus, first, into } => named("numgen", &|data| {
            const RANDOM: u32 = 1;
            data.number(1, register(*into));
            data.number(2, *modulus);
            data.number(3, RANDOM);
            data.number(4, *first);
        }),
        Expr::Contains(set, key) => named("lookup", &|data| lookup(data, set, *key)),
        Expr::Lacks(set, key) => named("lookup", &|data| {
            const INVERTED: u32 = 1;
            lookup(data, set, *key);
            data.number(5, INVERTED);
        }),
        Expr::Get(set, key, into) => named("lookup", &|data| {
            lookup(data, set, *key);
            data.number(3, register(*into));
        }),
        Expr::Vmap(set, key) => named("lookup", &|data| {
            lookup(data, set, *key);
            data.number(3, VERDICT_REGISTER);
        }),
        Expr::Remember { set, key, value, seconds } => named("dynset", &|data| {
            const UPDATE: u32 = 1;
            dynset(data, set, UPDATE, *key, *value);
            data.bytes(6, &(u64::from(*seconds) * 1000).to_be_bytes());
        }),
        Expr::Forget { set, key, value } => named("dynset", &|data| {
            const DELETE: u32 = 2;
            dynset(data, set, DELETE, *key, *value);
        }),
        Expr::SetPriority(value) => named("meta", &|data| {
            data.number(2, META_PRIORITY);
            data.number(3, register(*value));
        }),
        Expr::SetConnectionMark(value) => named("ct", &|data| {
            data.number(2, CT_MARK);
            data.number(4, register(*value));
        }),
        Expr::SendTo(ip, address, port) => named("nat", &|data| {
            const DNAT: u32 = 1;
            data.number(1, DNAT);
            data.number(2, u32::from(ip.number()));
            data.number(3, register(*address));
            data.number(5, register(*port));
        }),
        Expr::Masquerade => named("masq", &|data| {
            // Ports by chance: two connections at the same moment would otherwise pick the same
            // one, and the second loses its first packet.
            const PROTO_RANDOM_FULLY: u32 = 1 << 4;
            data.number(1, PROTO_RANDOM_FULLY);
        }),
        Expr::Reject(rejection) => named("reject", &|data| {
            let (kind, code) = reject(family, *rejection);
            data.number(1, kind);
            data.bytes(2, &[code]);
        }),
        Expr::Verdict(verdict_of) => named("immediate", &|data| {
            data.number(1, VERDICT_REGISTER);
            data.nest(2, |nested| verdict(nested, verdict_of));
        }),
    }
}

fn compare(data: &mut Messages, on: Register, operator: u32, value: &Bytes) {
    data.number(1, register(on));
    data.number(2, operator);
    data.nest(3, |nested| nested.bytes(1, value.as_slice()));
}

fn lookup(data: &mut Messages, set: &str, key: Register) {
    data.text(1, set);
    data.number(2, register(key));
}

fn dynset(data: &mut Messages, set: &str, operation: u32, key: Register, value: Register) {
    data.text(1, set);
    data.number(3, operation);
    data.number(4, register(key));
    data.number(5, register(value));
}

/// Kind and code. Tables that see both versions of IP have words for both.
fn reject(family: Family, rejection: Rejection) -> (u32, u8) {
    const ICMP: u32 = 0;
    const TCP_RESET: u32 = 1;
    const EITHER_ICMP: u32 = 2;
    match (family, rejection) {
        (_, Rejection::TcpReset) => (TCP_RESET, 0),
        (Family::Ipv4, Rejection::PortUnreachable) => (ICMP, 3),
        (Family::Ipv4, Rejection::Prohibited) => (ICMP, 13),
        (Family::Ipv6, Rejection::PortUnreachable) => (ICMP, 4),
        (Family::Ipv6, Rejection::Prohibited) => (ICMP, 1),
        (Family::Inet | Family::Bridge, Rejection::PortUnreachable) => (EITHER_ICMP, 1),
        (Family::Inet | Family::Bridge, Rejection::Prohibited) => (EITHER_ICMP, 3),
    }
}

const META_PRIORITY: u32 = 2;
const META_MARK: u32 = 3;
const CT_MARK: u32 = 3;

fn load(nested: &mut Messages, field: Field, into: u32) {
    let mut named = |name: &str, write: &dyn Fn(&mut Messages)| {
        nested.text(1, name);
        nested.nest(2, |data| write(data));
    };
    let link = 0;
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
    let address_type = |of: u32| {
        const ADDRTYPE: u32 = 3;
        move |data: &mut Messages| {
            data.number(1, into);
            data.number(2, ADDRTYPE);
            data.number(3, of);
        }
    };
    match field {
        Field::Family => named("meta", &meta(15)),
        Field::EtherType => named("meta", &meta(1)),
        Field::HardwareDestination => named("payload", &payload(link, 0, 6)),
        Field::HardwareSource => named("payload", &payload(link, 6, 6)),
        // Both follow from Ethernet and IPv4 being what is resolved.
        Field::ArpHardwareSource => named("payload", &payload(network, 8, 6)),
        Field::ArpSource => named("payload", &payload(network, 14, 4)),
        Field::IcmpType => named("payload", &payload(transport, 0, 1)),
        Field::NeighbourTarget => named("payload", &payload(transport, 8, 16)),
        Field::SourceAddress(Ip::V4) => named("payload", &payload(network, 12, 4)),
        Field::SourceAddress(Ip::V6) => named("payload", &payload(network, 8, 16)),
        Field::DestinationAddress(Ip::V4) => named("payload", &payload(network, 16, 4)),
        Field::DestinationAddress(Ip::V6) => named("payload", &payload(network, 24, 16)),
        Field::SourcePort => named("payload", &payload(transport, 0, 2)),
        Field::DestinationPort => named("payload", &payload(transport, 2, 2)),
        Field::InputInterface => named("meta", &meta(4)),
        Field::OutputInterface => named("meta", &meta(5)),
        Field::InputName => named("meta", &meta(6)),
        Field::OutputName => named("meta", &meta(7)),
        Field::Protocol => named("meta", &meta(16)),
        Field::Priority => named("meta", &meta(META_PRIORITY)),
        Field::Mark => named("meta", &meta(META_MARK)),
        Field::SourceType => named("fib", &address_type(1)),
        Field::DestinationType => named("fib", &address_type(2)),
        Field::ConnectionState => named("ct", &meta(0)),
        Field::ConnectionDirection => named("ct", &meta(1)),
        Field::ConnectionStatus => named("ct", &meta(2)),
        Field::ConnectionMark => named("ct", &meta(CT_MARK)),
        Field::OriginalSourceAddress(Ip::V4) => named("ct", &original(19)),
        Field::OriginalDestinationAddress(Ip::V4) => named("ct", &original(20)),
        Field::OriginalSourceAddress(Ip::V6) => named("ct", &original(21)),
        Field::OriginalDestinationAddress(Ip::V6) => named("ct", &original(22)),
        Field::OriginalDestinationPort => named("ct", &original(12)),
    }
}
