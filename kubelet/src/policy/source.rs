//! With whose address a pod sends: its own, or what it sends goes no further than its interface.
//!
//! Policies believe what a packet says of its source. So frames that come in by a pod's interface are looked at
//! before the bridge learns from them, in a table that sees frames:
//!
//! ```text
//! entrance ─ by a pod's interface? ─ from its hardware address? to the node, or to everybody?
//!    │ IPv4, IPv6: from an address of the pod
//!    │ ARP and neighbour discovery: about an address of the pod
//!    ▼
//! passage  ─ what is for everybody is for the node: other pods do not get it
//! ```
//!
//! What one pod sends to another the node routes, by its rules. A frame from port to port would go
//! past them, so there is none, but for what was for the node when it came in and a Service leads to
//! a pod: that may take the short way (see `network::links`).
//!
//! Pure. With plugins of CNI the interfaces are not ours, and there is no such table.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::program::{Content, rule};
use crate::network::{Addresses, hardware_address, interface_of};
use crate::nft::expr::{
    Chain, ChainKind, Expr, Field, Hook, HookPoint, Ip, Register, Rule, Verdict,
};
use crate::nft::set::{Bytes, Kind, Part, Value, Values};

/// Interfaces of pods.
const PORTS: &str = "ports";
/// With the hardware address that frames come from.
const SENDERS: &str = "senders";
/// With those that single frames may go to.
const GATEWAYS: &str = "gateways";
/// With the addresses that packets come from.
const ADDRESSES4: &str = "addresses4";
const ADDRESSES6: &str = "addresses6";
/// With the pairs of addresses that ARP is about.
const NEIGHBOURS: &str = "neighbours";

const FIRST: Register = Register(0);
/// Behind the name of an interface.
const SECOND: Register = Register(4);
/// Behind a hardware address behind that.
const THIRD: Register = Register(6);

const ICMPV6: u8 = 58;
/// The ICMPv6 message that says who has an address.
const ADVERTISEMENT: u8 = 136;

/// The table for these pods, whose ways out are these.
pub(super) fn content(pods: &Addresses, gateways: &[IpAddr]) -> Content {
    let mut content = Content {
        chains: BTreeMap::from([
            ("entrance".to_owned(), entrance()),
            ("passage".to_owned(), passage()),
        ]),
        ..Content::default()
    };
    let sets: [(&str, &'static [Part]); 6] = [
        (PORTS, &[Part::Interface]),
        (SENDERS, &[Part::Interface, Part::Hardware]),
        (GATEWAYS, &[Part::Interface, Part::Hardware]),
        (ADDRESSES4, &[Part::Interface, Part::Ipv4]),
        (ADDRESSES6, &[Part::Interface, Part::Ipv6]),
        (NEIGHBOURS, &[Part::Interface, Part::Hardware, Part::Ipv4]),
    ];
    for (name, key) in sets {
        content.set(name, key, Values::None, Kind::Plain);
    }
    for (uid, addresses) in pods {
        let mut name = [0; 16];
        let text = interface_of(uid);
        name[..text.len()].copy_from_slice(text.as_bytes());
        let port = Bytes::EMPTY.with(&name);
        let own = hardware_address(addresses);
        content.put(PORTS, port.into(), Value::None);
        content.put(SENDERS, port.with(&own).into(), Value::None);
        for gateway in gateways {
            // The bridge has that of one of them: of which, is settled when it is made.
            let hardware = hardware_address(&[*gateway]);
            content.put(GATEWAYS, port.with(&hardware).into(), Value::None);
        }
        // Whoever asks whether an address is taken has none yet.
        let nobody = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        for address in addresses.iter().copied().filter(IpAddr::is_ipv4) {
            content.put(ADDRESSES4, port.address(address).into(), Value::None);
            for told in [address, nobody] {
                content.put(NEIGHBOURS, port.with(&own).address(told).into(), Value::None);
            }
        }
        for address in addresses.iter().copied().filter(IpAddr::is_ipv6) {
            content.put(ADDRESSES6, port.address(address).into(), Value::None);
        }
    }
    content
}

fn hooked(point: HookPoint, rules: Vec<Rule>) -> Chain {
    // Before `br_netfilter`, which leads packets elsewhere.
    Chain { hook: Some(Hook { kind: ChainKind::Filter, point, priority: -300 }), rules }
}

fn not_of_a_pod() -> Rule {
    let exprs = vec![
        Expr::Load(Field::InputName, FIRST),
        Expr::Lacks(PORTS.into(), FIRST),
        Expr::Verdict(Verdict::Accept),
    ];
    rule("not of a pod", exprs)
}

/// Goes on for frames to more than one.
fn to_many(many: bool) -> Vec<Expr> {
    let bit = [u8::from(many)];
    vec![
        Expr::Load(Field::HardwareDestination, FIRST),
        Expr::Mask(FIRST, Bytes::EMPTY.with(&[1])),
        Expr::Equal(FIRST, Bytes::EMPTY.with(&bit)),
    ]
}

fn carries(kind: u16) -> Vec<Expr> {
    vec![
        Expr::Load(Field::EtherType, FIRST),
        Expr::Equal(FIRST, Bytes::EMPTY.with(&kind.to_be_bytes())),
    ]
}

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

fn is(field: Field, byte: u8) -> [Expr; 2] {
    [Expr::Load(field, FIRST), Expr::Equal(FIRST, Bytes::EMPTY.with(&[byte]))]
}

fn of_port(field: Field) -> Vec<Expr> {
    vec![Expr::Load(Field::InputName, FIRST), Expr::Load(field, SECOND)]
}

fn entrance() -> Chain {
    let accept = || vec![Expr::Verdict(Verdict::Accept)];
    let drop = || vec![Expr::Verdict(Verdict::Drop)];
    let in_set = |set: &'static str| vec![Expr::Contains(set.into(), FIRST)];
    let not_in = |set: &'static str| vec![Expr::Lacks(set.into(), FIRST)];
    let nobody = Bytes::EMPTY.address(Ipv6Addr::UNSPECIFIED.into());
    let rules = vec![
        not_of_a_pod(),
        rule(
            "another's hardware address",
            [of_port(Field::HardwareSource), not_in(SENDERS), drop()].concat(),
        ),
        rule(
            "past the node",
            [to_many(false), of_port(Field::HardwareDestination), not_in(GATEWAYS), drop()]
                .concat(),
        ),
        rule(
            "",
            [carries(IPV4), of_port(Field::SourceAddress(Ip::V4)), in_set(ADDRESSES4), accept()]
                .concat(),
        ),
        rule(
            "another has this address",
            [
                carries(IPV6),
                is(Field::Protocol, ICMPV6).to_vec(),
                is(Field::IcmpType, ADVERTISEMENT).to_vec(),
                of_port(Field::NeighbourTarget),
                not_in(ADDRESSES6),
                drop(),
            ]
            .concat(),
        ),
        rule(
            "",
            [carries(IPV6), of_port(Field::SourceAddress(Ip::V6)), in_set(ADDRESSES6), accept()]
                .concat(),
        ),
        rule(
            "asks whether an address is taken, or says which groups it is in",
            [
                carries(IPV6),
                is(Field::Protocol, ICMPV6).to_vec(),
                to_many(true),
                vec![Expr::Load(Field::SourceAddress(Ip::V6), FIRST), Expr::Equal(FIRST, nobody)],
                accept(),
            ]
            .concat(),
        ),
        rule(
            "",
            [
                carries(ARP),
                of_port(Field::ArpHardwareSource),
                vec![Expr::Load(Field::ArpSource, THIRD)],
                in_set(NEIGHBOURS),
                accept(),
            ]
            .concat(),
        ),
        rule("with no address of its own", drop()),
    ];
    hooked(HookPoint::Prerouting, rules)
}

fn passage() -> Chain {
    let drop = vec![Expr::Verdict(Verdict::Drop)];
    hooked(
        HookPoint::Forward,
        vec![not_of_a_pod(), rule("for the node", [to_many(true), drop].concat())],
    )
}
