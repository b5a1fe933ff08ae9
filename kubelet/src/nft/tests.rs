//! What the kernel takes, and tells again.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::sched::{CloneFlags, unshare};

use super::encode::Transaction;
use super::expr::{
    Chain, ChainKind, Expr, Field, Hook, HookPoint, Ip, Register, Rejection, Rule, Verdict, number,
    state,
};
use super::message::split;
use super::set::{Bytes, Element, Key, Kind, Part, Set, Value, Values};
use super::table::{Command, Family, Table};
use super::{Nft, NftError};

/// Runs in a network namespace of its own, which goes with the thread; needs root.
fn inside(test: &'static str, work: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{test}: left out, it makes a network namespace and needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        work();
    });
    thread.join().unwrap();
}

fn table(family: Family) -> Table {
    Table { family, name: "kutter".to_owned() }
}

fn chain(name: &str, chain: Chain) -> Vec<Command> {
    let mut commands = vec![Command::AddChain { name: name.to_owned(), hook: chain.hook }];
    let rules = chain.rules.into_iter();
    commands.extend(rules.map(|rule| Command::AddRule { chain: name.to_owned(), rule }));
    commands
}

fn rule(exprs: Vec<Expr>) -> Rule {
    Rule { exprs, comment: "because" }
}

#[test]
fn a_refused_message_is_named_and_nothing_is_changed() {
    inside("a_refused_message_is_named_and_nothing_is_changed", || {
        let nft = Nft::open().unwrap();
        let table = table(Family::Ipv4);
        let gone = |name: &str| Command::DeleteChain { name: name.to_owned() };
        let commands = [Command::AddTable, gone("nowhere"), gone("neither")];
        let error = nft.apply(&[(&table, &commands)]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("delete chain nowhere"), "{text}");
        assert!(text.contains("(1 further errors)"), "{text}");
        let NftError::Refused { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
        // The table was not made either: without it there is nothing to delete.
        assert!(nft.apply(&[(&table, &[Command::DeleteTable])]).is_err());
        nft.apply(&[]).unwrap();
    });
}

#[test]
fn every_message_of_a_transaction_can_be_told_from_the_others() {
    let (v4, v6) = (table(Family::Ipv4), table(Family::Ipv6));
    let commands = [Command::AddTable, Command::DeleteTable, Command::AddTable];
    let transaction = Transaction::new(&[(&v4, &commands), (&v6, &commands)]);
    let sequences: Vec<u32> =
        split(transaction.messages.as_slice()).map(|message| message.sequence).collect();
    assert_eq!(sequences.iter().collect::<BTreeSet<_>>().len(), sequences.len());
    assert_eq!(transaction.last_sequence(), sequences[sequences.len() - 2]);
    assert_eq!(transaction.describe(0), "commit");
    assert_eq!(transaction.describe(1), "add table kutter");
}

fn interface(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

/// One set of every kind, each with elements.
fn sets(ip: Ip) -> Vec<(Set, Vec<Element>)> {
    let (key, ports, text): (&[Part], &[Part], _) = match ip {
        Ip::V4 => (&[Part::Ipv4], &[Part::Interface, Part::Ipv4, Part::Port], "10.1.0.0"),
        Ip::V6 => (&[Part::Ipv6], &[Part::Interface, Part::Ipv6, Part::Port], "fd00:1::"),
    };
    let set = |name: &'static str, key, values, kind| Set { name: name.into(), key, values, kind };
    let first: IpAddr = text.parse().unwrap();
    let at = |last: u8| match first {
        IpAddr::V4(address) => IpAddr::from((u32::from(address) + u32::from(last)).to_be_bytes()),
        IpAddr::V6(address) => IpAddr::from((u128::from(address) + u128::from(last)).to_be_bytes()),
    };
    let range = |from, to| Key::range(Bytes::EMPTY.address(at(from)), Bytes::EMPTY.address(at(to)));
    let all_ones = Bytes::from_slice(&[255; 16][..usize::from(ip.address_length())]).unwrap();
    let to_end = Key::range(Bytes::EMPTY.address(at(200)), all_ones);
    let port = |name: &str, from: u8, to: u8, ports: (u16, u16)| {
        let part = |last, port| Bytes::EMPTY.with(&interface(name)).address(at(last)).port(port);
        Element::new(Key::range(part(from, ports.0), part(to, ports.1)), Value::None)
    };
    vec![
        (
            set("plain", key, Values::None, Kind::Plain),
            vec![Element::new(Bytes::EMPTY.address(at(7)), Value::None).with_comment("seven")],
        ),
        (
            set("numbers", key, Values::Parts(&[Part::Number]), Kind::Plain),
            vec![Element::new(Bytes::EMPTY.address(at(7)), Value::Bytes(Bytes::EMPTY.number(7)))],
        ),
        (
            set("verdicts", key, Values::Verdicts, Kind::Intervals),
            vec![
                Element::new(range(0, 3), Value::Verdict(Verdict::Accept)),
                Element::new(range(4, 7), Value::Verdict(Verdict::Jump("inner".into()))),
                Element::new(Bytes::EMPTY.address(at(9)), Value::Verdict(Verdict::Return)),
                Element::new(to_end, Value::Verdict(Verdict::Drop)).with_comment("all others"),
            ],
        ),
        (
            set("ports", ports, Values::None, Kind::Intervals),
            vec![port("eth0", 0, 255, (80, 90)), port("eth1", 4, 4, (0, u16::MAX))],
        ),
        (
            set("senders", &[Part::Interface, Part::Hardware], Values::None, Kind::Plain),
            vec![Element::new(
                Bytes::EMPTY.with(&interface("eth0")).with(&[0x0a, 0x58, 10, 244, 0, 2]),
                Value::None,
            )],
        ),
        (
            set("clients", key, Values::Parts(&[Part::Number]), Kind::Remembered { limit: 9 }),
            vec![],
        ),
    ]
}

/// Rules with every expression that such a table knows.
fn rules(family: Family, ip: Ip) -> Vec<Rule> {
    let (a, b) = (Register(0), Register(4));
    let width = ip.address_length() / 4;
    let ports = Register(4 + width);
    let ones = Bytes::from_slice(&[255; 16][..usize::from(ip.address_length())]).unwrap();
    let mut rules = vec![
        rule(vec![
            Expr::Load(Field::ConnectionState, a),
            Expr::Mask(a, number(state::ESTABLISHED | state::RELATED)),
            Expr::Differs(a, number(0)),
            Expr::Verdict(Verdict::Accept),
        ]),
        rule(vec![
            Expr::Load(Field::InputName, a),
            Expr::Equal(a, Bytes::EMPTY.with(&interface("eth0"))),
            Expr::Load(Field::SourceAddress(ip), b),
            Expr::Mask(b, ones),
            Expr::Lacks("plain".into(), b),
            Expr::Load(Field::ConnectionMark, a),
            Expr::Constant(number(7), a),
            Expr::SetConnectionMark(a),
            Expr::Verdict(Verdict::Return),
        ]),
        rule(vec![
            Expr::Load(Field::InputName, a),
            Expr::Load(Field::DestinationAddress(ip), b),
            Expr::Load(Field::DestinationPort, ports),
            Expr::Contains("ports".into(), a),
        ]),
        rule(vec![
            Expr::Load(Field::SourceAddress(ip), a),
            Expr::Get("numbers".into(), a, Register(8)),
            Expr::Remember { set: "clients".into(), key: a, value: Register(8), seconds: 5 },
        ]),
        rule(vec![
            Expr::Load(Field::ConnectionDirection, a),
            Expr::Load(Field::OriginalSourceAddress(ip), a),
            Expr::Load(Field::OriginalDestinationAddress(ip), a),
            Expr::Vmap("verdicts".into(), a),
        ]),
        rule(vec![Expr::Reject(Rejection::PortUnreachable)]),
        rule(vec![
            Expr::Load(Field::Protocol, a),
            Expr::Equal(a, Bytes::EMPTY.protocol(6)),
            Expr::Reject(Rejection::TcpReset),
        ]),
        rule(vec![Expr::Reject(Rejection::Prohibited)]),
    ];
    if family == Family::Bridge {
        // Connections are known there, and refusals possible, only to kernels built for it.
        let needs_more = |expr: &Expr| match expr {
            Expr::Load(field, _) => format!("{field:?}").contains("Connection"),
            Expr::Reject(_) => true,
            _ => false,
        };
        rules.retain(|rule| !rule.exprs.iter().any(needs_more));
    }
    if matches!(family, Family::Inet | Family::Bridge) {
        rules.push(rule(vec![
            Expr::Load(Field::EtherType, a),
            Expr::Equal(a, Bytes::EMPTY.with(&[0x86, 0xdd])),
            Expr::Load(Field::Family, a),
            Expr::Equal(a, Bytes::EMPTY.with(&[ip.number()])),
        ]));
    }
    if family == Family::Bridge {
        rules.push(rule(vec![
            Expr::Load(Field::InputName, a),
            Expr::Load(Field::HardwareSource, b),
            Expr::Contains("senders".into(), a),
            Expr::Load(Field::HardwareDestination, a),
            Expr::Mask(a, Bytes::EMPTY.with(&[1])),
            Expr::Load(Field::ArpHardwareSource, a),
            Expr::Load(Field::ArpSource, b),
            Expr::Load(Field::IcmpType, a),
            Expr::Load(Field::NeighbourTarget, b),
        ]));
    }
    rules
}

#[test]
fn tables_of_every_family_are_made_read_back_changed_and_removed() {
    inside("tables_of_every_family_are_made_read_back_changed_and_removed", || {
        let nft = Nft::open().unwrap();
        let families = [
            (Family::Ipv4, Ip::V4),
            (Family::Ipv6, Ip::V6),
            (Family::Inet, Ip::V4),
            (Family::Inet, Ip::V6),
            (Family::Bridge, Ip::V4),
            (Family::Bridge, Ip::V6),
        ];
        for (family, ip) in families {
            let table = table(family);
            let sets = sets(ip);
            let mut commands = vec![Command::AddTable, Command::DeleteTable, Command::AddTable];
            commands.extend(sets.iter().map(|(set, _)| Command::AddSet(set.clone())));
            commands.extend(chain("inner", Chain { hook: None, rules: Vec::new() }));
            let point = HookPoint::Prerouting;
            let hook = Some(Hook { kind: ChainKind::Filter, point, priority: -5 });
            commands.extend(chain("hooked", Chain { hook, rules: rules(family, ip) }));
            let added = sets.iter().filter(|(_, elements)| !elements.is_empty());
            commands.extend(
                added.map(|(set, elements)| Command::AddElements(set.clone(), elements.clone())),
            );
            // Again and again, on whatever is there.
            for _ in 0..2 {
                nft.apply(&[(&table, &commands)]).unwrap_or_else(|error| panic!("{error:?}"));
            }
            let only_sets: Vec<Set> = sets.iter().map(|(set, _)| set.clone()).collect();
            let found = nft.dump(&table, &only_sets).unwrap().unwrap();
            assert_eq!(found.chains["hooked"], rules(family, ip).len());
            assert_eq!(found.chains["inner"], 0);
            for (set, elements) in &sets {
                let mut read = found.sets[&*set.name].clone();
                read.sort_by_key(|element| element.key.clone());
                let mut made = elements.clone();
                if set.kind == Kind::Intervals && set.key.len() == 1 {
                    // A single key in a set of ranges is a range of one.
                    for element in &mut made {
                        element.key.to.get_or_insert_with(|| Box::new(element.key.from));
                    }
                }
                made.sort_by_key(|element| element.key.clone());
                assert_eq!(read, made, "{family:?} {}", set.name);
                let keys = elements.iter().map(|element| element.key.clone()).collect();
                nft.apply(&[(&table, &[Command::DeleteElements(set.clone(), keys)])]).unwrap();
            }
            let found = nft.dump(&table, &only_sets).unwrap().unwrap();
            assert!(found.sets.values().all(Vec::is_empty));
            let missing = Set { name: "missing".into(), ..only_sets[0].clone() };
            assert!(nft.dump(&table, &[missing]).unwrap().is_none());
            let removed = only_sets.into_iter().map(Command::DeleteSet);
            let mut commands = vec![Command::FlushChain { name: "hooked".into() }];
            commands.extend(removed);
            nft.apply(&[(&table, &commands)]).unwrap();
            nft.apply(&[(&table, &[Command::DeleteTable])]).unwrap();
            assert!(nft.dump(&table, &[]).unwrap().is_none());
        }
    });
}

#[test]
fn one_transaction_changes_several_tables_or_none() {
    inside("one_transaction_changes_several_tables_or_none", || {
        let nft = Nft::open().unwrap();
        let (v4, v6) = (table(Family::Ipv4), table(Family::Ipv6));
        let made = [Command::AddTable];
        let wrong = [Command::AddTable, Command::FlushChain { name: "nowhere".into() }];
        assert!(nft.apply(&[(&v4, &made), (&v6, &wrong)]).is_err());
        assert!(nft.apply(&[(&v4, &[Command::DeleteTable])]).is_err());
        nft.apply(&[(&v4, &made), (&v6, &made)]).unwrap();
        nft.apply(&[(&v4, &[Command::DeleteTable]), (&v6, &[Command::DeleteTable])]).unwrap();
    });
}
