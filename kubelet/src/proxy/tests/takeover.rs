//! What a kubelet finds in the kernel when it starts again.

use std::collections::BTreeMap;

use serde_json::json;

use super::changes::{Dice, change_something};
use super::{POD, World, at, endpoint, ranges};
use crate::nft::Connection;
use crate::nft::Found;
use crate::nft::expr::Ip;
use crate::nft::set::{Bytes, Element, Value};
use crate::proxy::diff::steps;
use crate::proxy::kernel::Kernel;
use crate::proxy::model::Model;
use crate::proxy::program::Shape;
use crate::proxy::ranges::Ranges;
use crate::proxy::ruleset::{Otherwise, Ruleset};
use crate::proxy::sets::Set;
use crate::proxy::takeover::{Unfit, layout, take_over};

impl World {
    /// The filter's table, as the kernel would tell it.
    fn found(&self, ip: Ip) -> Found {
        let machine = &self.machines[&ip];
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
        let length = Set::Affinity.describe(ip).key_length();
        let remembered = self.remembered.iter().filter(|(key, _)| key.len() == length);
        let remembered = remembered.map(|(key, (value, _))| {
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
        let found: Vec<Ruleset> =
            Ip::ALL.map(|ip| take_over(ip, &self.found(ip), &ranges(ip)).unwrap()).into();
        let frames = found.iter().map(|ruleset| (ruleset.ip, ruleset.frame.clone()));
        self.installed = Some(frames.collect());
        self.model = Model::carrying_on(self.place.clone(), found);
    }
}

/// Without what elements do not tell: the next number, the affinity where nobody is, and what would
/// be done without endpoints where there are some.
fn told(ruleset: &Ruleset) -> Ruleset {
    let mut told = Ruleset::new(ruleset.ip, ruleset.frame.ranges.clone());
    told.take_host_ports(ruleset.frame.host_ports.clone());
    for (at, service) in ruleset.services() {
        let mut service = service.as_ref().clone();
        service.choice.next_number = 0;
        service.inside.iter_mut().for_each(|inside| inside.next_number = 0);
        if service.targets().next().is_none() {
            service.affinity = None;
        }
        if !service.choice.targets.is_empty() {
            service.otherwise = Otherwise::Drop;
        }
        told.put(*at, Some(service.into()));
    }
    told
}

#[test]
fn a_ruleset_comes_back_from_its_elements() {
    for seed in 0..8 {
        let mut dice = Dice(seed);
        let mut world = World::default();
        for _ in 0..60 {
            change_something(&mut world, &mut dice);
            world.sync();
            let made = world.model.rulesets().clone();
            world.restart();
            for (ip, read) in world.model.rulesets() {
                assert_eq!(told(read), told(&made[ip]), "seed {seed}");
            }
            let steps = world.sync_everything();
            assert_eq!(steps, 0, "seed {seed}: an unchanged cluster means no change");
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
    assert_eq!(world.sync_everything(), 0);
}

#[test]
fn clients_stay_with_their_endpoints_and_numbers_are_not_given_again() {
    let mut world = World::with_web(json!({"sessionAffinity": "ClientIP"}));
    world.put_slice("web", json!([endpoint("10.244.0.2")]));
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.0.2:8080"]);
    world.put_slice("web", json!([endpoint("10.244.0.2"), endpoint("10.244.1.2")]));
    world.sync();
    world.restart();
    world.sync_everything();
    assert_eq!(world.lands(POD, "10.96.0.10:80"), ["10.244.0.2:8080"]);
    // The client's endpoint goes before a restart, another comes after it: it is not taken for the
    // one that the client is remembered with.
    world.put_slice("web", json!([endpoint("10.244.1.2")]));
    world.sync();
    world.put_slice("web", json!([]));
    world.sync();
    world.restart();
    world.put_slice("web", json!([endpoint("10.244.1.9")]));
    world.sync_everything();
    let service = at(world.ruleset(), "10.96.0.10:80");
    assert_eq!(service.choice.numbers, [1], "0 is what the client is remembered with");
}

#[test]
fn services_stay_while_no_master_was_heard_and_the_nodes_own_pods_are_followed() {
    let mut world = World::with_web(json!({}));
    world.sync();
    let services = world.ruleset().services().clone();
    world.restart();
    world.model.stay(world.place.clone());
    assert_eq!(world.install(&Default::default()), 0);
    let ports = crate::network::PodHostPorts {
        addresses: vec!["10.244.0.7".parse().unwrap()],
        ports: vec![crate::network::HostPort {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            protocol: "TCP".into(),
        }],
    };
    world.host_ports.insert("uid".to_owned(), ports);
    assert!(world.install(&Default::default()) > 0);
    assert_eq!(*world.ruleset().services(), services);
    let frame = &world.ruleset().frame;
    assert_eq!(frame.host_ports.len(), 1);
    assert_eq!(frame.hairpins.len(), 2, "the endpoint here and the pod with the host port");
}

#[test]
fn a_table_that_this_program_would_not_have_made_is_not_taken_over() {
    let mut world = World::with_web(json!({"type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}]}));
    world.sync();
    let found = world.found(Ip::V4);
    let take = |found: &Found| take_over(Ip::V4, found, &ranges(Ip::V4)).map(|_| ());
    assert_eq!(take(&found), Ok(()));
    assert_eq!(take(&Found::default()), Err(Unfit::Layout));
    let services = vec!["10.97.0.0/16".parse().unwrap()];
    let other = Ranges { services, ..ranges(Ip::V4) };
    assert_eq!(take_over(Ip::V4, &found, &other), Err(Unfit::Layout));
    assert_eq!(take_over(Ip::V6, &found, &ranges(Ip::V6)), Err(Unfit::Layout));

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
    let own = layout(Ip::V4, &ranges(Ip::V4));
    assert_eq!(own, layout(Ip::V4, &ranges(Ip::V4)));
    assert_ne!(own, layout(Ip::V4, &Ranges::default()));
    assert_ne!(own, layout(Ip::V6, &ranges(Ip::V4)));
    for shape in Shape::examples() {
        for affinity in [None, Some(10_800)] {
            let shape = Shape { count: 12, affinity, ..shape };
            assert_eq!(Shape::parse(&shape.to_string()), Some(shape));
        }
    }
    for name in ["dispatch", "service-", "service-x", "service-sticky-5", "node-port-1-sticky-"] {
        assert_eq!(Shape::parse(name), None, "{name}");
    }
}

/// Random histories, told to the kernel step by step: it takes every one, and tells the same again.
#[test]
fn the_kernel_takes_every_change_and_tells_the_same_again() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: it makes a network namespace and needs root");
        return;
    }
    let inside = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let kernel = Kernel::new(Connection::default().get().unwrap(), "kutter");
        for seed in 0..3 {
            let mut dice = Dice(seed);
            let mut world = World::default();
            for _ in 0..40 {
                change_something(&mut world, &mut dice);
                let news = world.news();
                let changed = world.model.update(news);
                let told_before = world.installed.as_ref();
                let steps = steps(told_before, &changed, world.model.rulesets());
                kernel.apply(&steps.ahead).unwrap();
                kernel.apply(&steps.then).unwrap();
                world.install(&changed);
                let found = kernel.take_over(&world.place.ranges);
                assert_eq!(found.len(), 2, "seed {seed}");
                for ruleset in found {
                    let made = &world.model.rulesets()[&ruleset.ip];
                    assert_eq!(told(&ruleset), told(made), "seed {seed}");
                }
            }
        }
        kernel.remove().unwrap();
        assert!(kernel.take_over(&World::default().place.ranges).is_empty());
    });
    inside.join().unwrap();
}
