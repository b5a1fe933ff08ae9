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
use std::net::{IpAddr, SocketAddr};

use super::address::{Frontend, Protocol, Target, any};
use super::ruleset::ServicePort;
use crate::nft::conntrack::{Conntrack, Flow};
use crate::nft::expr::Ip;

/// Frontends whose flows have to be looked through, each with where they may go.
pub(crate) type Changed = BTreeMap<Frontend, BTreeSet<Target>>;

/// Adds a frontend if endpoints went from it. Of UDP also one which got its first: somebody may have
/// asked before, and was not refused for good.
pub(crate) fn note(
    at: Frontend,
    before: impl IntoIterator<Item = Target>,
    after: impl IntoIterator<Item = Target>,
    changed: &mut Changed,
) {
    let has: BTreeSet<Target> = after.into_iter().collect();
    let mut had = before.into_iter().peekable();
    let first = at.protocol == Protocol::Udp && had.peek().is_none() && !has.is_empty();
    if first || had.any(|target| !has.contains(&target)) {
        changed.insert(at, has);
    }
}

/// Where clients may be sent, if a Service is served at all.
pub(crate) fn targets(service: Option<&ServicePort>) -> impl Iterator<Item = Target> {
    service.into_iter().flat_map(|service| service.targets().copied())
}

/// Whether a flow goes where nobody who turns there is sent any more.
fn is_stale(flow: &Flow, changed: &Changed, own: &BTreeSet<IpAddr>) -> bool {
    let Some(protocol) = Protocol::of_number(flow.protocol) else { return false };
    if flow.answered && protocol != Protocol::Udp {
        return false;
    }
    let Target { address, port } = target(flow.original.destination);
    let at = |address| Frontend { address, protocol, port };
    let to_node = own.contains(&address).then(|| any(Ip::of(address)));
    let frontends = [Some(address), to_node];
    frontends
        .into_iter()
        .flatten()
        .find_map(|address| changed.get(&at(address)))
        .is_some_and(|targets| !targets.contains(&target(flow.reply.source)))
}

fn target(address: SocketAddr) -> Target {
    Target { address: address.ip(), port: address.port() }
}

/// Has the kernel forget flows that go where they should not; returns how many.
pub(crate) fn forget(changed: &Changed) -> io::Result<usize> {
    if changed.is_empty() {
        return Ok(0);
    }
    let own = own_addresses()?;
    let conntrack = Conntrack::open()?;
    let mut forgotten = 0;
    let only_unanswered = changed.keys().all(|at| at.protocol != Protocol::Udp);
    for flow in conntrack.flows(only_unanswered)? {
        if is_stale(&flow, changed, &own) {
            forgotten += usize::from(conntrack.forget(&flow)?);
        }
    }
    Ok(forgotten)
}

fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| interface.address);
    Ok(addresses
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::conntrack::Direction;

    fn target(text: &str) -> Target {
        super::target(text.parse().unwrap())
    }

    fn flow(original: &str, answering: &str) -> Flow {
        let client = "10.244.0.9:4000".parse().unwrap();
        let original = Direction { source: client, destination: original.parse().unwrap() };
        let reply = Direction { source: answering.parse().unwrap(), destination: client };
        let protocol = Protocol::Udp.number();
        Flow { protocol, answered: true, original, reply, id: [0; 4] }
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
        assert!(is_stale(&flow("10.96.0.10:53", "10.244.1.2:5353"), &changed, &own));
        assert!(!is_stale(&flow("10.96.0.10:53", "10.244.1.1:5353"), &changed, &own));
        assert!(!is_stale(&flow("10.96.0.11:53", "10.244.1.2:5353"), &changed, &own));
        assert!(!is_stale(&flow("10.96.0.10:54", "10.244.1.2:5353"), &changed, &own));
    }

    #[test]
    fn of_other_protocols_only_those_that_nobody_answered() {
        let own = BTreeSet::new();
        let changed = changed_of(Protocol::Tcp, "10.96.0.10:80", &["10.244.1.1:8080"]);
        let gone = flow("10.96.0.10:80", "10.244.1.2:8080");
        let asking = Flow { protocol: Protocol::Tcp.number(), answered: false, ..gone.clone() };
        assert!(is_stale(&asking, &changed, &own));
        assert!(!is_stale(&Flow { answered: true, ..asking.clone() }, &changed, &own));
        assert!(!is_stale(&gone, &changed, &own), "of UDP, on the same port");
        let there = flow("10.96.0.10:80", "10.244.1.1:8080");
        let asking = Flow { protocol: Protocol::Tcp.number(), answered: false, ..there };
        assert!(!is_stale(&asking, &changed, &own));
    }

    #[test]
    fn flows_to_node_ports_are_those_to_the_nodes_own_addresses() {
        let own = ["192.168.7.1".parse().unwrap()].into();
        let changed = changed_to("0.0.0.0:30053", &["10.244.1.1:5353"]);
        assert!(is_stale(&flow("192.168.7.1:30053", "10.244.1.2:5353"), &changed, &own));
        // Nobody was there to answer before: the node itself refused.
        assert!(is_stale(&flow("192.168.7.1:30053", "192.168.7.1:30053"), &changed, &own));
        assert!(!is_stale(&flow("203.0.113.1:30053", "203.0.113.1:30053"), &changed, &own));
    }
}
