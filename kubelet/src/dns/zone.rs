//! The answers of the cluster's own zone, as Kubernetes' DNS specification (version 1.1) has them. Pure.
//!
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>
//!
//! What it leaves open is as in CoreDNS: endpoints of Services with an address have names, too; there
//! are no wildcards; `10-244-1-7.NAMESPACE.pod` names an address of the cluster.

use std::collections::HashSet;
use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use proto::ObjectKey;

use super::label;
use super::names::{NamedEndpoint, Names, Port, Told};

/// Seconds for which an answer holds, negative ones included: an endpoint that is gone is asked for
/// no longer.
const TTL: u32 = 5;

/// The version of the specification.
const VERSION: &str = "1.1.0";

/// A zone, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    /// As `cluster.local.`
    pub(crate) domain: Name,
    /// Ranges whose addresses have names here or nowhere.
    pub(crate) ranges: Vec<IpNet>,
    /// The nodes' addresses, which pods on their network have.
    pub(crate) hosts: HashSet<IpAddr>,
    /// Where this server answers.
    pub(crate) servers: Vec<IpAddr>,
}

/// A question, and how much of its answer is of use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a Name,
    pub(crate) record_type: RecordType,
    /// Chooses with which of several records the answer begins.
    pub(crate) turn: u16,
    /// No more records than this have room.
    pub(crate) most: usize,
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
    /// Answers a question.
    pub(crate) fn answer(&self, names: &Names, asked: Asked<'_>) -> Answer {
        let Asked { name, record_type, turn, most } = asked;
        let lower = name.to_lowercase();
        let place = if self.domain.zone_of(&lower) {
            let depth = usize::from(lower.num_labels() - self.domain.num_labels());
            let labels = lower.iter().take(depth).map(|label| String::from_utf8_lossy(label));
            let mut labels: Vec<String> = labels.map(Into::into).collect();
            labels.reverse();
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            self.place(names, &labels, record_type)
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
            Place::Node(mut data) => {
                // Who asks for any type gets one that there is (RFC 8482): all of them would be a
                // means to make others drown in answers.
                let wanted = match record_type {
                    RecordType::ANY => data.first().map_or(record_type, RData::record_type),
                    one => one,
                };
                data.retain(|data| data.record_type() == wanted);
                if data.is_empty() {
                    return Answer::Nothing(self.authority());
                }
                let turn = usize::from(turn) % data.len();
                data.rotate_left(turn);
                let answers: Vec<Record> = data.into_iter().take(most).map(record).collect();
                let additionals = self.targets(names, &answers, most);
                Answer::Records { answers, additionals }
            }
        }
    }

    /// The zone's own record, which says how long an answer without records holds.
    fn authority(&self) -> Record {
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(self.soa()))
    }

    fn soa(&self) -> SOA {
        SOA::new(self.name_server(), self.below_domain(&["hostmaster"]), 1, 7200, 1800, 86400, TTL)
    }

    fn name_server(&self) -> Name {
        self.below_domain(&["ns.dns"])
    }

    fn below_domain(&self, labels: &[&str]) -> Name {
        // A domain that leaves no room for these has no Services either.
        self.below(labels).unwrap_or_else(|| self.domain.clone())
    }

    /// What stands at a place in the zone. The labels begin next to the domain.
    fn place(&self, names: &Names, labels: &[&str], record_type: RecordType) -> Place {
        match labels {
            [] => Place::Node(vec![RData::NS(NS(self.name_server())), RData::SOA(self.soa())]),
            ["dns-version"] => Place::Node(vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))]),
            ["dns"] | ["svc"] | ["pod"] => Place::Branch,
            ["dns", "ns"] => Place::Node(addresses_of(self.servers.iter().copied())),
            ["svc" | "pod", namespace] if names.has_namespace(namespace) => Place::Branch,
            ["svc", namespace, service] => {
                self.service(names, &ObjectKey::new(*namespace, *service), record_type)
            }
            ["svc", namespace, service, below @ ..] => {
                self.below_service(names, &ObjectKey::new(*namespace, *service), below)
            }
            ["pod", _, address] => self.pod(address),
            _ => Place::Nowhere,
        }
    }

    fn service(&self, names: &Names, key: &ObjectKey, record_type: RecordType) -> Place {
        let (mut data, headless) = match names.told(key) {
            None => return Place::Nowhere,
            Some(Told::Alias(target)) => {
                return match Name::from_ascii(&target) {
                    Ok(mut target) if !target.is_root() => {
                        target.set_fqdn(true);
                        Place::Alias(target)
                    }
                    _ => Place::Branch,
                };
            }
            Some(Told::Addresses(addresses)) => (addresses_of(addresses), false),
            Some(Told::Endpoints) => {
                let data = addresses_of(names.endpoints(key).map(|endpoint| endpoint.address));
                // The specification has no name for a headless Service that nobody answers for.
                if data.is_empty() {
                    return Place::Nowhere;
                }
                (data, true)
            }
        };
        // Many, of which the most are not asked for.
        if record_type == RecordType::SRV {
            data = self.srv_of(names, key, headless, |_| true);
        }
        Place::Node(data)
    }

    /// `_http._tcp` below a Service, or one of its endpoints.
    fn below_service(&self, names: &Names, key: &ObjectKey, labels: &[&str]) -> Place {
        let headless = match names.told(key) {
            Some(Told::Endpoints) => true,
            Some(Told::Addresses(_)) => false,
            Some(Told::Alias(_)) | None => return Place::Nowhere,
        };
        let is = |port: &Port<'_>, protocol: &str| {
            !port.name.is_empty() && port.protocol.eq_ignore_ascii_case(&protocol[1..])
        };
        match labels {
            [protocol] if protocol.starts_with('_') => {
                let there = if headless {
                    names.endpoints(key).any(|one| one.ports().any(|port| is(&port, protocol)))
                } else {
                    names.ports(key).any(|port| is(&port, protocol))
                };
                if there { Place::Branch } else { Place::Nowhere }
            }
            [protocol, name] if protocol.starts_with('_') && name.starts_with('_') => {
                let data = self.srv_of(names, key, headless, |port| {
                    is(port, protocol) && port.name.eq_ignore_ascii_case(&name[1..])
                });
                if data.is_empty() { Place::Nowhere } else { Place::Node(data) }
            }
            [label] => {
                let data = addresses_of(names.endpoint(key, label));
                if data.is_empty() { Place::Nowhere } else { Place::Node(data) }
            }
            _ => Place::Nowhere,
        }
    }

    /// Where the ports are that somebody wants: at the Service, or at its endpoints. All of the same
    /// rank, together with a weight of a hundred.
    fn srv_of(
        &self,
        names: &Names,
        key: &ObjectKey,
        headless: bool,
        wanted: impl Fn(&Port<'_>) -> bool,
    ) -> Vec<RData> {
        let mut targets: Vec<(u16, Name)> = Vec::new();
        if headless {
            for endpoint in names.endpoints(key) {
                let Some(name) = self.name_of_endpoint(key, &endpoint) else { continue };
                let ports = endpoint.ports().filter(|port| wanted(port));
                targets.extend(ports.map(|port| (port.number, name.clone())));
            }
            // An endpoint may have addresses of both families.
            let mut seen = HashSet::new();
            targets.retain(|target| seen.insert(target.clone()));
        } else if let Some(name) = self.name_of_service(key) {
            let ports = names.ports(key).filter(|port| wanted(port));
            targets.extend(ports.map(|port| (port.number, name.clone())));
        }
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        let record = |(port, target)| RData::SRV(SRV::new(0, weight, port, target));
        targets.into_iter().map(record).collect()
    }

    /// The addresses of the names that the answers lead to.
    fn targets(&self, names: &Names, answers: &[Record], most: usize) -> Vec<Record> {
        let mut additionals: Vec<Record> = Vec::new();
        let mut seen: HashSet<&Name> = HashSet::new();
        for answer in answers {
            let target = match &answer.data {
                RData::SRV(srv) => &srv.target,
                RData::NS(server) => &server.0,
                _ => continue,
            };
            if !seen.insert(target) {
                continue;
            }
            for record_type in [RecordType::A, RecordType::AAAA] {
                if additionals.len() >= most {
                    return additionals;
                }
                let asked = Asked { name: target, record_type, turn: 0, most };
                if let Answer::Records { answers, .. } = self.answer(names, asked) {
                    additionals.extend(answers);
                }
            }
        }
        additionals
    }

    /// `10-244-1-7.NAMESPACE.pod`: whoever knows the address knows as much as is told here.
    fn pod(&self, label: &str) -> Place {
        match label::address(label) {
            Some(address) if self.is_ours(address) || self.hosts.contains(&address) => {
                Place::Node(addresses_of([address]))
            }
            _ => Place::Nowhere,
        }
    }

    /// The names of the Services at an address, else of the endpoints, chosen names first.
    fn reverse(&self, names: &Names, address: IpAddr) -> Place {
        let services = names.services_at(address).filter_map(|key| self.name_of_service(key));
        let mut found: Vec<Name> = services.collect();
        if found.is_empty() {
            let mut endpoints: Vec<_> = names
                .endpoints_at(address)
                .filter(|(key, _)| !matches!(names.told(key), None | Some(Told::Alias(_))))
                .collect();
            endpoints.sort_by_key(|(_, endpoint)| endpoint.label() == label::of_address(address));
            let of_endpoints = endpoints.into_iter();
            found.extend(of_endpoints.filter_map(|(key, one)| self.name_of_endpoint(key, &one)));
            let mut seen = HashSet::new();
            found.retain(|name| seen.insert(name.clone()));
        }
        let data: Vec<RData> = found.into_iter().map(|name| RData::PTR(PTR(name))).collect();
        if data.is_empty() { Place::Nowhere } else { Place::Node(data) }
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    fn name_of_service(&self, key: &ObjectKey) -> Option<Name> {
        self.below(&[&key.name, &key.namespace, "svc"])
    }

    fn name_of_endpoint(&self, key: &ObjectKey, endpoint: &NamedEndpoint<'_>) -> Option<Name> {
        self.below(&[&endpoint.label(), &key.name, &key.namespace, "svc"])
    }

    fn below(&self, labels: &[&str]) -> Option<Name> {
        Name::from_ascii(labels.join(".")).ok()?.append_domain(&self.domain).ok()
    }
}

/// Each once, in their order.
fn addresses_of(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<RData> {
    let mut seen = HashSet::new();
    let once = addresses.into_iter().filter(|address| seen.insert(*address));
    once.map(|address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    })
    .collect()
}
