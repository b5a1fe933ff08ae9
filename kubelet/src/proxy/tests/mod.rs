//! Pretend packets, sent through a ruleset: where do they land?

mod changes;
mod features;
mod fuzz;
mod machine;
mod packets;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Service;
use serde_json::{Value, json};

use self::machine::{Machine, Outcome, Packet, Remembered};
use super::address::Protocol;
use super::diff::{Steps, steps};
use super::endpoints::Here;
use super::model::{Changed, Model, News, Place};
use super::program::Shape;
use super::ranges::Ranges;
use super::ruleset::{Frame, Ruleset, ServicePort};
use crate::network::PodHostPorts;
use crate::nft::expr::{Ip, Rejection};
use crate::nft::table::Command;
use crate::state::EndpointSlice;

/// A cluster as this node, `here`, knows it, and the filter of this node.
struct World {
    services: BTreeMap<ObjectKey, Arc<Service>>,
    slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    host_ports: BTreeMap<String, PodHostPorts>,
    place: Place,
    /// What was told since the last pass.
    told: (BTreeSet<ObjectKey>, BTreeSet<ObjectKey>),
    model: Model,
    installed: Option<BTreeMap<Ip, Frame>>,
    /// What the last pass had the kernel do.
    last: BTreeMap<Ip, Vec<Command>>,
    machines: BTreeMap<Ip, Machine>,
    remembered: Remembered,
    /// Seconds since the beginning.
    now: u64,
}

impl Default for World {
    fn default() -> Self {
        let place = Place {
            here: Here { node: "here".into(), zone: Some("a".into()) },
            addresses: vec![NODE, NODE6],
            ranges: Ip::ALL.map(|ip| (ip, ranges(ip))).into(),
        };
        Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            host_ports: BTreeMap::new(),
            model: Model::carrying_on(place.clone(), Vec::new()),
            place,
            told: Default::default(),
            installed: None,
            last: BTreeMap::new(),
            machines: BTreeMap::new(),
            remembered: Remembered::new(),
            now: 0,
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(a: u16, b: u16, c: u16, d: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, d))
}

/// Addresses that are this node's own.
const NODE: IpAddr = v4(192, 168, 77, 10);
const NODE6: IpAddr = v6(0x77, 0, 0, 0x10);
/// A pod on this node, one elsewhere, somebody outside.
const POD: IpAddr = v4(10, 244, 0, 9);
const FAR_POD: IpAddr = v4(10, 244, 5, 9);
const STRANGER: IpAddr = v4(203, 0, 113, 7);
/// The node's address on its bridge.
const BRIDGE: IpAddr = v4(10, 244, 0, 1);

/// A Service's port at a frontend.
fn at<'a>(ruleset: &'a Ruleset, text: &str) -> &'a ServicePort {
    let at: std::net::SocketAddr = text.parse().unwrap();
    let of = |frontend: &super::address::Frontend| {
        (frontend.address, frontend.port) == (at.ip(), at.port())
    };
    ruleset.services().iter().find(|(frontend, _)| of(frontend)).unwrap().1
}

impl World {
    /// With a Service `default/web`, TCP port 80 of `10.96.0.10`, whose endpoints are
    /// `10.244.0.2:8080` here and `10.244.1.2:8080` elsewhere.
    fn with_web(extra: Value) -> Self {
        let mut world = Self::default();
        world.put_service("web", "10.96.0.10", extra);
        world.put_slice("web", json!([endpoint("10.244.0.2"), endpoint("10.244.1.2")]));
        world
    }

    fn put_service(&mut self, name: &str, address: &str, extra: Value) {
        let mut spec = json!({"clusterIP": address, "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        if let Some(status) = object["spec"].as_object_mut().unwrap().remove("status") {
            object["status"] = status;
        }
        self.put(serde_json::from_value(object).unwrap());
    }

    fn put(&mut self, service: Service) {
        let key = ObjectKey::new("default", service.metadata.name.clone().unwrap());
        self.told.0.insert(key.clone());
        self.services.insert(key, Arc::new(service));
    }

    fn remove_service(&mut self, name: &str) {
        let key = ObjectKey::new("default", name);
        self.services.remove(&key);
        self.told.0.insert(key);
    }

    fn put_slice(&mut self, service: &str, endpoints: Value) {
        self.put_slice_of_ports(service, json!([{"port": 8080}]), endpoints);
    }

    fn put_slice_of_ports(&mut self, service: &str, ports: Value, endpoints: Value) {
        self.put_slice_named(service, service, "IPv4", ports, endpoints);
    }

    fn put_slice_named(
        &mut self,
        name: &str,
        service: &str,
        version: &str,
        ports: Value,
        endpoints: Value,
    ) {
        let object = json!({
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": version,
            "ports": ports,
            "endpoints": endpoints,
        });
        let slice = Arc::new(serde_json::from_value(object).unwrap());
        let key = ObjectKey::new("default", name);
        self.told.1.insert(key.clone());
        self.slices.insert(key, slice);
    }

    fn remove_slice(&mut self, name: &str) {
        let key = ObjectKey::new("default", name);
        self.slices.remove(&key);
        self.told.1.insert(key);
    }

    /// All that there is.
    fn everything(&self) -> News {
        let services = self.services.iter().map(|(key, of)| (key.clone(), Some(of.clone())));
        let slices = self.slices.iter().map(|(key, of)| (key.clone(), Some(of.clone())));
        News {
            everything: true,
            services: services.collect(),
            slices: slices.collect(),
            place: self.place.clone(),
        }
    }

    /// What was told since the last pass.
    fn news(&mut self) -> News {
        let (services, slices) = std::mem::take(&mut self.told);
        let services = services.into_iter().map(|key| {
            let service = self.services.get(&key).cloned();
            (key, service)
        });
        let slices = slices.into_iter().map(|key| {
            let slice = self.slices.get(&key).cloned();
            (key, slice)
        });
        News {
            everything: false,
            services: services.collect(),
            slices: slices.collect(),
            place: self.place.clone(),
        }
    }

    /// Brings the filter up to date; returns how many commands that took.
    fn sync(&mut self) -> usize {
        let news = self.news();
        self.take_in(news)
    }

    /// Likewise, as if told everything anew.
    fn sync_everything(&mut self) -> usize {
        let news = self.everything();
        self.take_in(news)
    }

    fn take_in(&mut self, news: News) -> usize {
        let changed = self.model.update(news);
        self.install(&changed)
    }

    fn install(&mut self, changed: &Changed) -> usize {
        self.model.set_host_ports(&self.host_ports);
        let Steps { ahead, then } = steps(self.installed.as_ref(), changed, self.model.rulesets());
        let count = ahead.values().chain(then.values()).map(Vec::len).sum();
        self.last = ahead.clone();
        for ip in Ip::ALL {
            let machine = self.machines.entry(ip).or_default();
            // What goes ahead leads nobody anywhere yet.
            let sets = machine.sets.clone();
            machine.apply(ahead.get(&ip).map(Vec::as_slice).unwrap_or_default());
            assert_eq!(machine.sets, sets);
            let makes_a_choice = |command: &Command| match command {
                Command::AddChain { name, .. } => Shape::parse(name).is_some(),
                _ => false,
            };
            let steps = then.get(&ip).cloned().unwrap_or_default();
            assert!(self.installed.is_none() || !steps.iter().any(makes_a_choice));
            machine.apply(&steps);
            self.last.entry(ip).or_default().extend(steps);
        }
        let frames = self.model.rulesets().iter();
        self.installed = Some(frames.map(|(ip, ruleset)| (*ip, ruleset.frame.clone())).collect());
        count
    }

    fn ruleset(&self) -> &Ruleset {
        &self.model.rulesets()[&Ip::V4]
    }

    fn send(&mut self, packet: Packet) -> Outcome {
        self.sync();
        let machine = &self.machines[&Ip::of(packet.source)];
        machine.send(Packet { at: self.now, ..packet }, &mut self.remembered)
    }

    /// All places where a TCP packet may land, as `10.244.0.2:8080`, with ` (snat)` if the receiver
    /// sees the node; or how it ends otherwise.
    fn lands(&mut self, source: IpAddr, destination: &str) -> Vec<String> {
        self.lands_by(Protocol::Tcp, source, destination)
    }

    fn lands_by(&mut self, protocol: Protocol, source: IpAddr, to: &str) -> Vec<String> {
        let to: std::net::SocketAddr = to.parse().unwrap();
        let (destination, port) = (to.ip(), to.port());
        let outcomes: BTreeSet<String> = (0..12)
            .map(|chance| {
                let packet = Packet { source, destination, protocol, port, chance, at: 0 };
                match self.send(packet) {
                    Outcome::Sent { to: (address, port), masqueraded } => {
                        let mark = if masqueraded { " (snat)" } else { "" };
                        format!("{}{mark}", std::net::SocketAddr::new(address, port))
                    }
                    Outcome::Refused(Rejection::TcpReset) => "reset".to_owned(),
                    Outcome::Refused(Rejection::PortUnreachable) => "unreachable".to_owned(),
                    Outcome::Refused(Rejection::Prohibited) => "prohibited".to_owned(),
                    Outcome::Dropped => "dropped".to_owned(),
                }
            })
            .collect();
        outcomes.into_iter().collect()
    }
}

fn ranges(ip: Ip) -> Ranges {
    let range = |v4: &str, v6: &str| match ip {
        Ip::V4 => v4.parse().unwrap(),
        Ip::V6 => v6.parse().unwrap(),
    };
    Ranges {
        own: Some(range("10.244.0.0/24", "fd00:244::/64")),
        pods: vec![range("10.244.0.0/16", "fd00:244::/48")],
        services: vec![range("10.96.0.0/16", "fd00:96::/112")],
        node_ports: Vec::new(),
    }
}

/// A ready endpoint; those in `10.244.0.0/24` and `fd00:244::/64` are on this node.
fn endpoint(address: &str) -> Value {
    let is_here = address.starts_with("10.244.0.") || address.starts_with("fd00:244::");
    let node = if is_here { "here" } else { "there" };
    json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
}

fn endpoint_with(address: &str, conditions: Value) -> Value {
    let mut endpoint = endpoint(address);
    endpoint["conditions"] = conditions;
    endpoint
}
