//! Flows that are sent where they should no longer go.
//!
//! Rules decide on the first packet of a connection; the kernel remembers. A TCP connection to an
//! endpoint that is gone ends by itself, but UDP has no end: a client that goes on sending from one
//! port would never be sent elsewhere. So the kernel is made to forget such flows.
//!
//! Likewise those of other protocols that were never answered. A client that asks again, as TCP does
//! after a second, would go on asking where nobody is; and minutes later, another connection that
//! happens to come from the same port would.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use super::message::{Attributes, Headers, Messages, array, split};
use super::ruleset::{Frontend, Protocol, Ruleset, Target};
use super::socket::NetfilterSocket;

/// Frontends whose flows have to be looked through, each with where they may go.
pub(crate) type Changed = BTreeMap<Frontend, BTreeSet<Target>>;

/// Frontends from which endpoints went. Of UDP also those which got their first: somebody may have
/// asked before, and was not refused for good.
pub(crate) fn changed(before: &Ruleset, after: &Ruleset) -> Changed {
    let (old, new) = (targets(before), targets(after));
    let frontends: BTreeSet<Frontend> = old.keys().chain(new.keys()).copied().collect();
    let nothing = BTreeSet::new();
    frontends
        .into_iter()
        .filter_map(|at| {
            let had = old.get(&at).unwrap_or(&nothing);
            let has = new.get(&at).unwrap_or(&nothing);
            let first = at.protocol == Protocol::Udp && had.is_empty() && !has.is_empty();
            let matters = !had.is_subset(has) || first;
            matters.then(|| (at, has.clone()))
        })
        .collect()
}

fn targets(ruleset: &Ruleset) -> BTreeMap<Frontend, BTreeSet<Target>> {
    let services = ruleset
        .services
        .iter()
        .map(|(at, service)| (*at, service.targets.iter().copied().collect()));
    let host_ports = ruleset.host_ports.iter().map(|(at, target)| (*at, [*target].into()));
    services.chain(host_ports).collect()
}

/// A flow the kernel remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    protocol: Protocol,
    /// Whether anything came back.
    answered: bool,
    /// Where the client sends.
    original: Target,
    /// Who answers it.
    answering: Target,
    /// The client's side of it, and its number: that is how it is named to the kernel.
    client: Target,
    id: [u8; 4],
}

impl Flow {
    /// Whether the flow goes where nobody who turns there is sent any more.
    fn is_stale(&self, changed: &Changed, own: &BTreeSet<Ipv4Addr>) -> bool {
        if self.answered && self.protocol != Protocol::Udp {
            return false;
        }
        let Target { address, port } = self.original;
        let at = |address| Frontend { address, protocol: self.protocol, port };
        let to_node = own.contains(&address).then_some(Ipv4Addr::UNSPECIFIED);
        let frontends = [Some(address), to_node];
        frontends
            .into_iter()
            .flatten()
            .find_map(|address| changed.get(&at(address)))
            .is_some_and(|targets| !targets.contains(&self.answering))
    }
}

/// Has the kernel forget flows that go where they should not; returns how many.
pub(crate) fn forget(changed: &Changed) -> io::Result<usize> {
    if changed.is_empty() {
        return Ok(0);
    }
    let own = own_addresses()?;
    let socket = NetfilterSocket::open()?;
    let mut forgotten = 0;
    let only_unanswered = changed.keys().all(|at| at.protocol != Protocol::Udp);
    for flow in flows(&socket, only_unanswered)?.iter().filter(|flow| flow.is_stale(changed, &own))
    {
        forgotten += usize::from(delete(&socket, flow)?);
    }
    Ok(forgotten)
}

fn own_addresses() -> io::Result<BTreeSet<Ipv4Addr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| interface.address);
    Ok(addresses.filter_map(|address| Some(address.as_sockaddr_in()?.ip())).collect())
}

/// Numbers of `linux/netfilter/nfnetlink_conntrack.h`, and of netlink itself.
mod wire {
    pub(super) const GET: u16 = 1 << 8 | 1;
    pub(super) const DELETE: u16 = 1 << 8 | 2;
    pub(super) const REQUEST: u16 = 0x1;
    pub(super) const ACK: u16 = 0x4;
    pub(super) const DUMP: u16 = 0x300;
    pub(super) const ERROR: u16 = 2;
    pub(super) const DONE: u16 = 3;
    pub(super) const IPV4: u8 = 2;
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const ID: u16 = 12;
    pub(super) const STATUS_MASK: u16 = 26;
    /// Bit of the status: something came back.
    pub(super) const SEEN_REPLY: u32 = 2;
}

fn headers(kind: u16, flags: u16) -> Headers {
    Headers { kind, flags: wire::REQUEST | flags, sequence: 1, family: wire::IPV4, resource: 0 }
}

/// `only_unanswered` spares the kernel the others; one too old to know tells of them all the same.
fn flows(socket: &NetfilterSocket, only_unanswered: bool) -> io::Result<Vec<Flow>> {
    let mut request = Messages::default();
    request.push(headers(wire::GET, wire::DUMP), |message| {
        if only_unanswered {
            message.number(wire::STATUS, 0);
            message.number(wire::STATUS_MASK, wire::SEEN_REPLY);
        }
    });
    socket.send(request.as_slice())?;
    let mut flows = Vec::new();
    loop {
        let buffer = socket.receive()?;
        for message in split(&buffer) {
            match message.kind {
                wire::DONE => return Ok(flows),
                wire::ERROR => return Err(error_of(message.payload)),
                _ => flows.extend(message.payload.get(4..).and_then(parse)),
            }
        }
    }
}

fn error_of(payload: &[u8]) -> io::Error {
    let code = array(payload, 0).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(-code)
}

/// A flow from its attributes, if it is of a protocol that Services know.
fn parse(attributes: &[u8]) -> Option<Flow> {
    let find = |wanted: u16| {
        Attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    };
    let (protocol, client, original) = tuple(find(wire::TUPLE_ORIG)?)?;
    let (_, answering, _) = tuple(find(wire::TUPLE_REPLY)?)?;
    let status = u32::from_be_bytes(array(find(wire::STATUS)?, 0)?);
    let answered = status & wire::SEEN_REPLY != 0;
    let id = array(find(wire::ID)?, 0)?;
    Some(Flow { protocol, answered, original, answering, client, id })
}

/// Protocol, source and destination.
fn tuple(attributes: &[u8]) -> Option<(Protocol, Target, Target)> {
    let find = |within: &'_ [u8], wanted: u16| -> Option<Vec<u8>> {
        let mut all = Attributes(within);
        all.find(|(kind, _)| *kind == wanted).map(|(_, value)| value.to_vec())
    };
    let (ip, transport) = (find(attributes, 1)?, find(attributes, 2)?);
    let protocol = Protocol::of_number(*find(&transport, 1)?.first()?)?;
    let side = |address: u16, port: u16| {
        let address: [u8; 4] = array(&find(&ip, address)?, 0)?;
        let port = u16::from_be_bytes(array(&find(&transport, port)?, 0)?);
        Some(Target { address: address.into(), port })
    };
    Some((protocol, side(1, 2)?, side(2, 3)?))
}

/// Whether it was still there.
fn delete(socket: &NetfilterSocket, flow: &Flow) -> io::Result<bool> {
    let mut request = Messages::default();
    request.push(headers(wire::DELETE, wire::ACK), |message| {
        message.nest(wire::TUPLE_ORIG, |tuple| {
            tuple.nest(1, |ip| {
                ip.bytes(1, &flow.client.address.octets());
                ip.bytes(2, &flow.original.address.octets());
            });
            tuple.nest(2, |protocol| {
                protocol.bytes(1, &[flow.protocol.number()]);
                protocol.bytes(2, &flow.client.port.to_be_bytes());
                protocol.bytes(3, &flow.original.port.to_be_bytes());
            });
        });
        message.bytes(wire::ID, &flow.id);
    });
    socket.send(request.as_slice())?;
    loop {
        let buffer = socket.receive()?;
        let answer = split(&buffer).find(|message| message.kind == wire::ERROR);
        let Some(answer) = answer else { continue };
        let error = error_of(answer.payload);
        return match error.raw_os_error() {
            Some(0) => Ok(true),
            Some(code) if code == nix::errno::Errno::ENOENT as i32 => Ok(false),
            _ => Err(error),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        let (address, port) = text.split_once(':').unwrap();
        Target { address: address.parse().unwrap(), port: port.parse().unwrap() }
    }

    fn flow(original: &str, answering: &str) -> Flow {
        let client = target("10.244.0.9:4000");
        let (original, answering) = (target(original), target(answering));
        let protocol = Protocol::Udp;
        Flow { protocol, answered: true, original, answering, client, id: [0; 4] }
    }

    fn changed_to(at: &str, targets: &[&str]) -> Changed {
        changed_of(Protocol::Udp, at, targets)
    }

    fn changed_of(protocol: Protocol, at: &str, targets: &[&str]) -> Changed {
        let Target { address, port } = target(at);
        let at = Frontend { address, protocol, port };
        [(at, targets.iter().map(|text| target(text)).collect())].into()
    }

    #[test]
    fn flows_to_endpoints_that_are_gone_are_stale() {
        let own = ["192.168.7.1".parse().unwrap()].into();
        let changed = changed_to("10.96.0.10:53", &["10.244.1.1:5353"]);
        assert!(flow("10.96.0.10:53", "10.244.1.2:5353").is_stale(&changed, &own));
        assert!(!flow("10.96.0.10:53", "10.244.1.1:5353").is_stale(&changed, &own));
        assert!(!flow("10.96.0.11:53", "10.244.1.2:5353").is_stale(&changed, &own));
        assert!(!flow("10.96.0.10:54", "10.244.1.2:5353").is_stale(&changed, &own));
    }

    #[test]
    fn of_other_protocols_only_those_that_nobody_answered() {
        let own = BTreeSet::new();
        let changed = changed_of(Protocol::Tcp, "10.96.0.10:80", &["10.244.1.1:8080"]);
        let gone = flow("10.96.0.10:80", "10.244.1.2:8080");
        let asking = Flow { protocol: Protocol::Tcp, answered: false, ..gone.clone() };
        assert!(asking.is_stale(&changed, &own));
        assert!(!Flow { answered: true, ..asking.clone() }.is_stale(&changed, &own));
        assert!(!gone.is_stale(&changed, &own), "of UDP, on the same port");
        let there = flow("10.96.0.10:80", "10.244.1.1:8080");
        let asking = Flow { protocol: Protocol::Tcp, answered: false, ..there };
        assert!(!asking.is_stale(&changed, &own));
    }

    #[test]
    fn flows_to_node_ports_are_those_to_the_nodes_own_addresses() {
        let own = ["192.168.7.1".parse().unwrap()].into();
        let changed = changed_to("0.0.0.0:30053", &["10.244.1.1:5353"]);
        assert!(flow("192.168.7.1:30053", "10.244.1.2:5353").is_stale(&changed, &own));
        // Nobody was there to answer before: the node itself refused.
        assert!(flow("192.168.7.1:30053", "192.168.7.1:30053").is_stale(&changed, &own));
        assert!(!flow("203.0.113.1:30053", "203.0.113.1:30053").is_stale(&changed, &own));
    }
}
