//! The answers of the cluster's own zone, as Kubernetes' DNS specification (version 1.1) has them. Pure.
//!
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proto::ObjectKey;

use super::names::{Holder, NamedEndpoint, Names, Told};
use crate::network::Cidr4;

/// Seconds for which an answer holds, negative ones included: an endpoint that is gone is asked for
/// no longer.
const TTL: u32 = 5;

/// The version of the specification.
const VERSION: &str = "1.1.0";

/// A zone, and what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    /// As `cluster.local.`
    pub(crate) domain: Name,
    /// Ranges whose addresses have names here or nowhere.
    pub(crate) ranges: Vec<Cidr4>,
    /// Where this server answers.
    pub(crate) server: Ipv4Addr,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Records of the type that was asked for, and more that will be asked for next.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name has records, but none of this type; the zone's own record says for how long.
    Nothing(Record),
    /// There is no such name.
    NoSuchName(Record),
    /// The name is another one's, which may be anywhere.
    Alias(Record, Name),
    /// The zone is not ours.
    Elsewhere,
}

/// What stands at a name.
enum Place {
    /// Records of some types.
    Node(Vec<RData>),
    /// Names stand below it only.
    Branch,
    Alias(Name),
    Nowhere,
}

impl Zone {
    /// Answers a question. `turn` chooses with which of several addresses the answer begins.
    pub(crate) fn answer(
        &self,
        names: &Names,
        name: &Name,
        record_type: RecordType,
        turn: u16,
    ) -> Answer {
        let lower = name.to_lowercase();
        let place = if self.domain.zone_of(&lower) {
            let depth = usize::from(lower.num_labels() - self.domain.num_labels());
            let labels = lower.iter().take(depth).map(|label| String::from_utf8_lossy(label));
            let mut labels: Vec<String> = labels.map(Into::into).collect();
            labels.reverse();
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            self.place(names, &labels)
        } else {
            match lower.parse_arpa_name() {
                Ok(net) if net.prefix_len() == net.max_prefix_len() && self.is_ours(net.addr()) => {
                    self.reverse(names, net.addr())
                }
                _ => return Answer::Elsewhere,
            }
        };
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        match place {
            Place::Nowhere => Answer::NoSuchName(self.authority()),
            Place::Branch => Answer::Nothing(self.authority()),
            Place::Alias(target) => {
                Answer::Alias(record(RData::CNAME(CNAME(target.clone()))), target)
            }
            Place::Node(data) => {
                let of_type = data.into_iter().filter(|data| {
                    record_type == RecordType::ANY || data.record_type() == record_type
                });
                let mut answers: Vec<Record> = of_type.map(record).collect();
                if answers.is_empty() {
                    return Answer::Nothing(self.authority());
                }
                let turn = usize::from(turn) % answers.len();
                answers.rotate_left(turn);
                let additionals = self.targets(names, &answers);
                Answer::Records { answers, additionals }
            }
        }
    }

    /// The zone's own record, which says how long an answer without records holds.
    fn authority(&self) -> Record {
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(self.soa()))
    }

    fn soa(&self) -> SOA {
        let below = |label| self.below(&[label]).unwrap_or_else(|| self.domain.clone());
        SOA::new(below("ns.dns"), below("hostmaster"), 1, 7200, 1800, 86400, TTL)
    }

    /// What stands at a place in the zone. The labels begin next to the domain.
    fn place(&self, names: &Names, labels: &[&str]) -> Place {
        match labels {
            [] => Place::Node(vec![
                RData::SOA(self.soa()),
                RData::NS(NS(self.below(&["ns.dns"]).unwrap_or_else(|| self.domain.clone()))),
            ]),
            ["dns-version"] => Place::Node(vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))]),
            ["dns"] | ["svc"] | ["pod"] => Place::Branch,
            ["dns", "ns"] => Place::Node(vec![RData::A(A(self.server))]),
            ["svc" | "pod", namespace] if names.has_namespace(namespace) => Place::Branch,
            ["svc", namespace, service] => {
                self.service(names, &ObjectKey::new(*namespace, *service))
            }
            ["svc", namespace, service, below @ ..] => {
                self.below_service(names, &ObjectKey::new(*namespace, *service), below)
            }
            ["pod", _, address] => self.pod(address),
            _ => Place::Nowhere,
        }
    }

    fn service(&self, names: &Names, key: &ObjectKey) -> Place {
        match names.told(key) {
            None => Place::Nowhere,
            Some(Told::Alias(target)) => match Name::from_ascii(&target) {
                Ok(mut target) if !target.is_root() => {
                    target.set_fqdn(true);
                    Place::Alias(target)
                }
                _ => Place::Branch,
            },
            Some(Told::Addresses(addresses)) => {
                let mut data = addresses_of(&addresses);
                data.extend(self.srv_of_service(names, key, None));
                Place::Node(data)
            }
            Some(Told::Endpoints) => {
                let endpoints: Vec<NamedEndpoint> = names.endpoints(key).collect();
                // Kubernetes has no name for a headless Service that nobody answers for.
                if endpoints.is_empty() {
                    return Place::Nowhere;
                }
                let addresses = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
                let mut data = addresses_of(addresses);
                data.extend(self.srv_of_endpoints(key, &endpoints, None));
                Place::Node(data)
            }
        }
    }

    /// `_http._tcp` below a Service, or an endpoint of a headless one.
    fn below_service(&self, names: &Names, key: &ObjectKey, labels: &[&str]) -> Place {
        let headless = match names.told(key) {
            Some(Told::Endpoints) => true,
            Some(Told::Addresses(_)) => false,
            Some(Told::Alias(_)) | None => return Place::Nowhere,
        };
        let endpoints: Vec<NamedEndpoint> =
            if headless { names.endpoints(key).collect() } else { Vec::new() };
        match labels {
            [protocol] if protocol.starts_with('_') => {
                let ports = names.ports(key).into_iter();
                let ports = ports.chain(endpoints.into_iter().flat_map(|one| one.ports));
                let mut named = ports.filter(|(name, _, _)| !name.is_empty());
                let there = named.any(|(_, known, _)| protocol[1..] == known);
                if there { Place::Branch } else { Place::Nowhere }
            }
            [protocol, port] if protocol.starts_with('_') && port.starts_with('_') => {
                let wanted = Some((&port[1..], &protocol[1..]));
                let data = if headless {
                    self.srv_of_endpoints(key, &endpoints, wanted)
                } else {
                    self.srv_of_service(names, key, wanted)
                };
                if data.is_empty() { Place::Nowhere } else { Place::Node(data) }
            }
            [label] => {
                let named = endpoints.iter().filter(|endpoint| endpoint.label == *label);
                let addresses: Vec<&IpAddr> =
                    named.flat_map(|endpoint| &endpoint.addresses).collect();
                if addresses.is_empty() {
                    Place::Nowhere
                } else {
                    Place::Node(addresses_of(addresses))
                }
            }
            _ => Place::Nowhere,
        }
    }

    fn srv_of_service(
        &self,
        names: &Names,
        key: &ObjectKey,
        wanted: Option<(&str, &str)>,
    ) -> Vec<RData> {
        let Some(target) = self.name_of(key, None) else { return Vec::new() };
        let ports = names.ports(key);
        let ports: Vec<u16> = ports
            .iter()
            .filter(|(name, protocol, _)| is_wanted(name, protocol, wanted))
            .map(|(_, _, number)| *number)
            .collect();
        srv(ports.into_iter().map(|port| (port, target.clone())).collect())
    }

    fn srv_of_endpoints(
        &self,
        key: &ObjectKey,
        endpoints: &[NamedEndpoint],
        wanted: Option<(&str, &str)>,
    ) -> Vec<RData> {
        let targets = endpoints.iter().flat_map(|endpoint| {
            let ports = endpoint.ports.iter();
            let ports = ports.filter(|(name, protocol, _)| is_wanted(name, protocol, wanted));
            ports
                .filter_map(|(_, _, port)| Some((*port, self.name_of(key, Some(&endpoint.label))?)))
        });
        srv(targets.collect())
    }

    /// The addresses of the names that the answers lead to.
    fn targets(&self, names: &Names, answers: &[Record]) -> Vec<Record> {
        let mut additionals: Vec<Record> = Vec::new();
        let mut seen: Vec<&Name> = Vec::new();
        for answer in answers {
            let RData::SRV(srv) = &answer.data else { continue };
            if seen.contains(&&srv.target) {
                continue;
            }
            seen.push(&srv.target);
            for record_type in [RecordType::A, RecordType::AAAA] {
                let found = self.answer(names, &srv.target, record_type, 0);
                if let Answer::Records { answers, .. } = found {
                    additionals.extend(answers);
                }
            }
        }
        additionals
    }

    /// `10-244-1-7.NAMESPACE.pod`: whoever knows the address knows as much as is told here.
    fn pod(&self, label: &str) -> Place {
        let address = label.replace('-', ".").parse::<Ipv4Addr>();
        match address {
            Ok(address) if self.is_ours(address.into()) => Place::Node(vec![RData::A(A(address))]),
            _ => Place::Nowhere,
        }
    }

    fn reverse(&self, names: &Names, address: IpAddr) -> Place {
        let found = names.holders(address).filter_map(|holder| match holder {
            Holder::Service(key) => self.name_of(key, None),
            Holder::Endpoint(key, label) => self.name_of(key, Some(label)),
        });
        let data: Vec<RData> = found.map(|name| RData::PTR(PTR(name))).collect();
        if data.is_empty() { Place::Nowhere } else { Place::Node(data) }
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ranges.iter().any(|range| range.contains(address)),
            IpAddr::V6(_) => false,
        }
    }

    /// The name of a Service, or of an endpoint of it.
    fn name_of(&self, key: &ObjectKey, label: Option<&str>) -> Option<Name> {
        let service = format!("{}.{}.svc", key.name, key.namespace);
        match label {
            Some(label) => self.below(&[label, &service]),
            None => self.below(&[&service]),
        }
    }

    fn below(&self, labels: &[&str]) -> Option<Name> {
        Name::from_ascii(labels.join(".")).ok()?.append_domain(&self.domain).ok()
    }
}

fn is_wanted(name: &str, protocol: &str, wanted: Option<(&str, &str)>) -> bool {
    wanted.is_none_or(|wanted| !name.is_empty() && wanted == (name, protocol))
}

/// All of the same rank, together with a weight of a hundred.
fn srv(targets: Vec<(u16, Name)>) -> Vec<RData> {
    let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
    let record = |(port, target)| RData::SRV(SRV::new(0, weight, port, target));
    targets.into_iter().map(record).collect()
}

fn addresses_of<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Vec<RData> {
    let record = |address: &IpAddr| match address {
        IpAddr::V4(address) => RData::A(A(*address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
    };
    addresses.into_iter().map(record).collect()
}
