//! What a kubelet finds in the kernel when it starts again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::changes::{Dice, change_something};
use super::{POD, World, endpoint, ranges};
use crate::nft::Found;
use crate::nft::set::{Bytes, Element, Value};
use crate::proxy::diff::difference;
use crate::proxy::program::{Door, Shape};
use crate::proxy::ruleset::{Ranges, Ruleset, with_same_services};
use crate::proxy::sets::Set;
use crate::proxy::takeover::{Unfit, layout, take_over};

impl World {
    /// The filter's table, as the kernel would tell it.
    fn found(&self) -> Found {
        let machine = &self.machine;
        let chains = machine.chains.iter();
        let element = |bytes: &[u8], value: &Value, comment: &str| {
            let key = Bytes::from_slice(bytes).unwrap();
            Element::new(key, value.clone()).with_comment(comment)
        };
        let mut sets: BTreeMap<String, Vec<Element>> = machine
            .sets
            .iter()
            .map(|(name, (_, elements))| {
                let elements = elements.iter();
                let told = elements.map(|(key, (value, comment))| element(key, value, comment));
                (name.clone(), told.collect())
            })
            .collect();
        let remembered = self.remembered.iter().map(|(key, (value, _))| {
            element(key, &Value::Bytes(Bytes::from_slice(value).unwrap()), "")
        });
        sets.entry(Set::Affinity.name().to_owned()).or_default().extend(remembered);
        Found {
            chains: chains.map(|(name, chain)| (name.clone(), chain.rules.len())).collect(),
            sets,
        }
    }

    /// As if the kubelet was killed and started again.
    fn restart(&mut self) {
        self.ruleset = Some(take_over(&self.found(), &ranges()).unwrap());
    }
}

/// Without what elements do not tell: the next number, and the affinity where nobody is.
fn told(ruleset: &Ruleset) -> Ruleset {
    let mut ruleset = ruleset.clone();
    for service in ruleset.services.values_mut() {
        let service = Arc::make_mut(service);
        service.next_number = 0;
        service.affinity = service.affinity.filter(|_| !service.targets.is_empty());
    }
    ruleset
}

#[test]
fn a_ruleset_comes_back_from_its_elements() {
    for seed in 0..8 {
        let mut dice = Dice(seed);
        let mut world = World::default();
        for _ in 0..60 {
            change_something(&mut world, &mut dice);
            world.sync();
            let made = world.ruleset.clone().unwrap();
            world.restart();
            let read = world.ruleset.as_ref().unwrap();
            assert_eq!(told(read), told(&made), "seed {seed}");
            assert!(difference(read, &made).is_empty(), "seed {seed}");
            assert_eq!(world.sync(), 0, "seed {seed}: an unchanged cluster means no change");
        }
    }
}

#[test]
fn a_name_longer_than_a_comment_is_no_change() {
    let mut world = World::default();
    let name = "s".repeat(140);
    world.put_service(&name, "10.96.0.10", json!({}));
    world.put_slice(&name, json!([endpoint("10.244.0.2")]));
    world.sync();
    world.restart();
    assert_eq!(world.sync(), 0);
}

#[test]
fn clients_stay_with_their_endpoints_and_numbers_are_not_given_again() {
    let mut world = World::with_web(json!({"sessionAffinity": "ClientIP"}));
    world.put_slice("web", json!([endpoint("10.244.0.2")]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.0.2:8080"]);
    world.put_slice("web", json!([endpoint("10.244.0.2"), endpoint("10.244.1.2")]));
    world.sync();
    world.restart();
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.0.2:8080"]);
    // The client's endpoint goes before a restart, another comes after it: it is not taken for the
    // one that the client is remembered with.
    world.put_slice("web", json!([endpoint("10.244.1.2")]));
    world.sync();
    world.put_slice("web", json!([]));
    world.sync();
    world.restart();
    world.put_slice("web", json!([endpoint("10.244.1.9")]));
    world.sync();
    let service = world.ruleset.as_ref().unwrap().services.values().next().unwrap();
    assert_eq!(service.numbers, [1], "0 is what the client is remembered with");
}

#[test]
fn services_stay_while_no_master_was_heard_and_the_nodes_own_pods_are_followed() {
    let mut world = World::with_web(json!({}));
    world.sync();
    world.restart();
    let kept = with_same_services(&ranges(), &world.host_ports, world.ruleset.as_ref().unwrap());
    assert!(difference(world.ruleset.as_ref().unwrap(), &kept).is_empty());
    let ports = crate::network::PodHostPorts {
        addresses: vec!["10.244.0.7".parse().unwrap()],
        ports: vec![crate::network::HostPort {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            protocol: "TCP".into(),
        }],
    };
    let ports = [("uid".to_owned(), ports)].into();
    let with_port = with_same_services(&ranges(), &ports, &kept);
    assert_eq!(with_port.services, kept.services);
    assert_eq!(with_port.host_ports.len(), 1);
    assert_eq!(with_port.hairpins.len(), 2, "the endpoint here and the pod with the host port");
}

#[test]
fn a_table_that_this_program_would_not_have_made_is_not_taken_over() {
    let mut world = World::with_web(json!({"type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}]}));
    world.sync();
    let found = world.found();
    let take = |found: &Found| take_over(found, &ranges()).map(|_| ());
    assert_eq!(take(&found), Ok(()));
    assert_eq!(take(&Found::default()), Err(Unfit::Layout));
    let other = Ranges { services: vec!["10.97.0.0/16".parse().unwrap()], ..ranges() };
    assert_eq!(take_over(&found, &other), Err(Unfit::Layout));

    let mut flushed = found.clone();
    flushed.chains.insert("refuse".into(), 0);
    assert_eq!(take(&flushed), Err(Unfit::Chain("refuse".into())));
    let mut extra = found.clone();
    extra.chains.insert("mine".into(), 1);
    assert_eq!(take(&extra), Err(Unfit::Chain("mine".into())));
    for (set, elements) in &found.sets {
        for index in 0..elements.len() {
            let mut less = found.clone();
            let gone = less.sets.get_mut(set).unwrap().remove(index);
            // Without it, it looks like a Service that does not ask for it: the next pass mends that.
            let fits = set == Set::Masqueraded.name();
            assert_eq!(take(&less).is_ok(), fits, "{set} {gone:?}");
        }
    }
}

#[test]
fn the_layout_stands_for_what_chains_do() {
    assert_eq!(layout(&ranges()), layout(&ranges()));
    assert_ne!(layout(&ranges()), layout(&Ranges::default()));
    for door in [Door::Address, Door::NodePort] {
        for affinity in [None, Some(10_800)] {
            let shape = Shape { door, count: 12, affinity };
            assert_eq!(Shape::parse(&shape.to_string()), Some(shape));
        }
    }
    for name in ["dispatch", "service-", "service-x", "service-sticky-5", "node-port-1-sticky-"] {
        assert_eq!(Shape::parse(name), None, "{name}");
    }
}
