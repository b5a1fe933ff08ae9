//! Pretend packets, sent through a ruleset: where do they land?

mod changes;
mod machine;
mod packets;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Service;
use proto::k8s::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use self::machine::{Machine, Outcome, Packet, Remembered};
use super::diff::{chains_ahead, difference, replacement};
use super::program::Shape;
use super::ruleset::{Protocol, Ranges, Ruleset, View, ruleset};
use crate::network::PodHostPorts;
use crate::nft::expr::Rejection;
use crate::nft::table::Command;

/// A cluster as this node, `here`, knows it, and the filter of this node.
#[derive(Default)]
struct World {
    services: BTreeMap<ObjectKey, Arc<Service>>,
    slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    host_ports: BTreeMap<String, PodHostPorts>,
    ruleset: Option<Ruleset>,
    machine: Machine,
    remembered: Remembered,
    conflicts: BTreeSet<String>,
    /// Seconds since the beginning.
    now: u64,
}

/// A pod on this node, one elsewhere, somebody outside.
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 9);
const FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 5, 9);
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// The node's address on its bridge.
const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

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
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let service = Arc::new(serde_json::from_value(object).unwrap());
        self.services.insert(ObjectKey::new("default", name), service);
    }

    fn put_slice(&mut self, service: &str, endpoints: Value) {
        self.put_slice_of_ports(service, json!([{"port": 8080}]), endpoints);
    }

    fn put_slice_of_ports(&mut self, service: &str, ports: Value, endpoints: Value) {
        let object = json!({
            "metadata": {
                "name": service,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": endpoints,
        });
        let slice = Arc::new(serde_json::from_value(object).unwrap());
        self.slices.insert(ObjectKey::new("default", service), slice);
    }

    /// Brings the filter up to date; returns how many commands that took.
    fn sync(&mut self) -> usize {
        let view = View {
            confirmed: true,
            ranges: ranges(),
            services: self.services.iter().map(|(key, of)| (key.clone(), of.clone())).collect(),
            slices: self.slices.values().cloned().collect(),
        };
        let nothing = Ruleset::default();
        let before = self.ruleset.as_ref().unwrap_or(&nothing);
        let (after, conflicts) = ruleset(&view, "here", &self.host_ports, before);
        let commands = match &self.ruleset {
            Some(before) => difference(before, &after),
            None => replacement(&after),
        };
        let steps = commands.len();
        let (ahead, rest) = match &self.ruleset {
            Some(_) => chains_ahead(commands),
            None => (Vec::new(), commands),
        };
        // What goes ahead leads nobody anywhere yet.
        let sets = self.machine.sets.clone();
        self.machine.apply(&ahead);
        assert_eq!(self.machine.sets, sets);
        assert!(
            !rest.iter().any(|command| match command {
                Command::AddChain { name, .. } => Shape::parse(name).is_some(),
                _ => false,
            }) || self.ruleset.is_none()
        );
        self.machine.apply(&rest);
        self.ruleset = Some(after);
        self.conflicts = conflicts;
        steps
    }

    fn send(&mut self, packet: Packet) -> Outcome {
        self.sync();
        self.machine.send(Packet { at: self.now, ..packet }, &mut self.remembered)
    }

    /// All places where a TCP packet may land, as `10.244.0.2:8080`, with ` (snat)` if the receiver
    /// sees the node; or how it ends otherwise.
    fn lands(&mut self, source: Ipv4Addr, destination: &str) -> Vec<String> {
        self.lands_by(Protocol::Tcp, source, destination)
    }

    fn lands_by(&mut self, protocol: Protocol, source: Ipv4Addr, to: &str) -> Vec<String> {
        let (address, port) = to.split_once(':').unwrap();
        let (destination, port) = (address.parse().unwrap(), port.parse().unwrap());
        let outcomes: BTreeSet<String> = (0..12)
            .map(|chance| {
                let packet = Packet { source, destination, protocol, port, chance, at: 0 };
                match self.send(packet) {
                    Outcome::Sent { to: (address, port), masqueraded } => {
                        let mark = if masqueraded { " (snat)" } else { "" };
                        format!("{address}:{port}{mark}")
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

fn ranges() -> Ranges {
    Ranges {
        own: Some("10.244.0.0/24".parse().unwrap()),
        pods: vec!["10.244.0.0/16".parse().unwrap()],
        services: vec!["10.96.0.0/16".parse().unwrap()],
    }
}

/// A ready endpoint; those in `10.244.0.0/24` are on this node.
fn endpoint(address: &str) -> Value {
    let node = if address.starts_with("10.244.0.") { "here" } else { "there" };
    json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
}

fn endpoint_with(address: &str, conditions: Value) -> Value {
    let mut endpoint = endpoint(address);
    endpoint["conditions"] = conditions;
    endpoint
}
