//! The elements of our sets and maps that a ruleset asks for.

use ipnet::IpNet;

use super::address::{Frontend, Protocol, Target};
use super::program::{REJECT, Side};
use super::ruleset::{Frame, Otherwise, ServicePort};
use super::sets::Set;
use crate::nft::expr::{Ip, Verdict};
use crate::nft::set::{Bytes, Element, Parts, Value};

/// The bytes that a frontend begins keys with.
fn frontend(at: Frontend) -> Bytes {
    Bytes::EMPTY.address(at.address).protocol(at.protocol.number()).port(at.port)
}

fn target(target: Target) -> Value {
    Value::Bytes(Bytes::EMPTY.address(target.address).port(target.port))
}

/// Reads a frontend where one begins.
pub(crate) fn read_frontend(ip: Ip, parts: &mut Parts<'_>) -> Option<Frontend> {
    let address = parts.address(ip)?;
    let protocol = Protocol::of_number(parts.protocol()?)?;
    Some(Frontend { address, protocol, port: parts.port()? })
}

/// Reads an endpoint.
pub(crate) fn read_target(ip: Ip, parts: &mut Parts<'_>) -> Option<Target> {
    Some(Target { address: parts.address(ip)?, port: parts.port()? })
}

/// Reads a range of clients.
pub(crate) fn read_range(ip: Ip, parts: &mut Parts<'_>) -> Option<IpNet> {
    let address = parts.address(ip)?;
    IpNet::new(address, u8::try_from(parts.number()?).ok()?).ok()
}

/// The elements of one frontend. Those of different ones never have a key in common.
pub(crate) fn of_service(at: Frontend, service: &ServicePort, put: &mut impl FnMut(Set, Element)) {
    let key = frontend(at);
    if service.choice.targets.is_empty() {
        let verdict = match service.otherwise {
            Otherwise::Reject => Verdict::Goto(REJECT.into()),
            Otherwise::Drop => Verdict::Drop,
        };
        let element = Element::new(key, Value::Verdict(verdict));
        put(Set::Refused, element.with_comment(&service.name));
    }
    if service.masquerade {
        put(Set::Masqueraded, Element::new(key, Value::None));
    }
    if let Some(sources) = &service.sources {
        put(Set::Guarded, Element::new(key, Value::None));
        for range in sources {
            let key = key.address(range.network()).number(range.prefix_len().into());
            put(Set::Sources, Element::new(key, Value::None));
        }
    }
    for (shape, choice) in service.shapes(at) {
        let set = match shape.side {
            Side::Everybody => Set::Services,
            Side::Inside => Set::Inside,
        };
        let value = Value::Verdict(Verdict::Goto(shape.to_string().into()));
        put(set, Element::new(key, value).with_comment(&service.name));
        let first = shape.side.first_number();
        let endpoint = |number: u32, to: &Target| {
            Element::new(key.number(first.wrapping_add(number)), target(*to))
        };
        if service.affinity.is_none() {
            for (place, to) in (0..).zip(&choice.targets) {
                put(Set::Endpoints, endpoint(place, to));
            }
            continue;
        }
        for (own, to) in choice.numbers.iter().zip(&choice.targets) {
            put(Set::Endpoints, endpoint(*own, to));
        }
        for (place, own) in (0..).zip(&choice.numbers) {
            let value = Value::Bytes(Bytes::EMPTY.number(first.wrapping_add(*own)));
            put(Set::Numbers, Element::new(key.number(first.wrapping_add(place)), value));
        }
    }
}

/// The elements that belong to no Service.
pub(crate) fn of_node(frame: &Frame, put: &mut impl FnMut(Set, Element)) {
    for (at, to) in &frame.host_ports {
        put(Set::HostPorts, Element::new(frontend(*at), target(*to)));
    }
    for pod in &frame.hairpins {
        put(Set::Hairpins, Element::new(Bytes::EMPTY.address(*pod).address(*pod), Value::None));
    }
}
