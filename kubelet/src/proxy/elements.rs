//! The elements of our sets and maps that a [`Ruleset`] asks for.

use std::net::IpAddr;

use super::ruleset::{Frontend, Protocol, Ruleset, ServicePort, Target};
use super::sets::Set;
use crate::nft::expr::Verdict;
use crate::nft::set::{Bytes, Element, Parts, Value};

/// The bytes that a frontend begins keys with.
pub(crate) fn frontend(at: Frontend) -> Bytes {
    Bytes::EMPTY.address(at.address.into()).protocol(at.protocol.number()).port(at.port)
}

fn target(target: Target) -> Value {
    Value::Bytes(Bytes::EMPTY.address(target.address.into()).port(target.port))
}

/// Reads what [`frontend`] wrote.
pub(crate) fn read_frontend(parts: &mut Parts<'_>) -> Option<Frontend> {
    let address = parts.ipv4()?;
    let protocol = Protocol::of_number(parts.protocol()?)?;
    let IpAddr::V4(address) = address else { return None };
    Some(Frontend { address, protocol, port: parts.port()? })
}

/// Reads an endpoint.
pub(crate) fn read_target(parts: &mut Parts<'_>) -> Option<Target> {
    let IpAddr::V4(address) = parts.ipv4()? else { return None };
    Some(Target { address, port: parts.port()? })
}

/// The elements of one frontend. Those of different ones never have a key in common.
pub(crate) fn of_service(at: Frontend, service: &ServicePort, put: &mut impl FnMut(Set, Element)) {
    let key = frontend(at);
    let (set, value) = match service.shape(at) {
        Some(shape) => (Set::Services, Value::Verdict(Verdict::Goto(shape.to_string().into()))),
        None => (Set::Refused, Value::None),
    };
    put(set, Element::new(key, value).with_comment(&service.name));
    if service.masquerade {
        put(Set::Masqueraded, Element::new(key, Value::None));
    }
    let mut endpoint = |index: u32, to: &Target| {
        put(Set::Endpoints, Element::new(key.number(index), target(*to)));
    };
    if service.affinity.is_none() {
        for (place, to) in (0..).zip(&service.targets) {
            endpoint(place, to);
        }
        return;
    }
    for (own, to) in service.numbers.iter().zip(&service.targets) {
        endpoint(*own, to);
    }
    for (place, own) in (0..).zip(&service.numbers) {
        let value = Value::Bytes(Bytes::EMPTY.number(*own));
        put(Set::Numbers, Element::new(key.number(place), value));
    }
}

/// The elements that belong to no Service.
pub(crate) fn of_node(ruleset: &Ruleset, put: &mut impl FnMut(Set, Element)) {
    for (at, to) in &ruleset.host_ports {
        put(Set::HostPorts, Element::new(frontend(*at), target(*to)));
    }
    for pod in &ruleset.hairpins {
        let key = Bytes::EMPTY.address((*pod).into()).address((*pod).into());
        put(Set::Hairpins, Element::new(key, Value::None));
    }
}
