//! What leads from one ruleset to another.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::json;

use super::machine::Machine;
use super::{World, endpoint, ranges, v4};
use crate::nft::expr::Ip;
use crate::nft::table::Command;
use crate::proxy::address::Target;
use crate::proxy::diff::{chains, steps};
use crate::proxy::endpoints::arrange;
use crate::proxy::model::{Changed, Model};
use crate::proxy::ruleset::{Choice, Ruleset};
use crate::proxy::takeover::layout;

/// Added and deleted elements.
fn elements(commands: &[Command]) -> (usize, usize) {
    let mut counts = (0, 0);
    for command in commands {
        match command {
            Command::AddElements(_, elements) => counts.0 += elements.len(),
            Command::DeleteElements(_, keys) => counts.1 += keys.len(),
            _ => {}
        }
    }
    counts
}

fn addresses(count: u8) -> serde_json::Value {
    (1..=count).map(|last| endpoint(&format!("10.244.1.{last}"))).collect()
}

/// The commands of the next pass.
fn next(world: &mut World) -> Vec<Command> {
    world.sync();
    assert!(world.last[&Ip::V6].is_empty());
    world.last[&Ip::V4].clone()
}

#[test]
fn nothing_changed_means_nothing_to_do() {
    let mut world = World::with_web(json!({"sessionAffinity": "ClientIP"}));
    assert!(world.sync() > 0);
    assert_eq!(world.sync(), 0);
    // Equal objects that were sent anew change nothing either.
    world.put_service("web", "10.96.0.10", json!({"sessionAffinity": "ClientIP"}));
    assert_eq!(world.sync(), 0);
}

#[test]
fn one_endpoint_more_is_one_element_and_another_choice() {
    let mut world = World::with_web(json!({}));
    world.put_slice("web", addresses(20));
    world.sync();
    world.put_slice("web", addresses(21));
    let commands = next(&mut world);
    // The endpoint, and which chain the service leads to.
    assert_eq!(elements(&commands), (2, 1), "{commands:#?}");
    // The chain for 21 comes, that for 20 goes.
    assert_eq!(commands.len(), 6);
}

#[test]
fn an_endpoint_in_place_of_another_leaves_the_chains_alone() {
    let mut world = World::with_web(json!({}));
    world.put_slice("web", addresses(20));
    world.sync();
    let mut endpoints = addresses(20);
    endpoints[3] = endpoint("10.244.7.7");
    world.put_slice("web", endpoints);
    let commands = next(&mut world);
    assert_eq!(elements(&commands), (1, 1));
    assert_eq!(commands.len(), 2);
}

#[test]
fn a_service_beside_many_costs_the_same_as_beside_none() {
    let mut world = World::default();
    for number in 0..50 {
        let name = format!("service-{number}");
        world.put_service(&name, &format!("10.96.1.{number}"), json!({}));
        world.put_slice(&name, addresses(3));
    }
    world.sync();
    world.put_service("web", "10.96.0.10", json!({}));
    world.put_slice("web", addresses(3));
    let commands = next(&mut world);
    assert_eq!(elements(&commands), (4, 0));
    assert_eq!(commands.len(), 2, "no chain: services with three endpoints share theirs");
}

#[test]
fn what_one_service_gives_up_another_may_take_in_the_same_change() {
    let mut world = World::with_web(json!({}));
    world.sync();
    world.remove_service("web");
    world.remove_slice("web");
    world.put_service("other", "10.96.0.10", json!({}));
    world.put_slice("other", addresses(1));
    // The filter in memory is as strict as the kernel.
    world.sync();
    assert_eq!(world.lands(super::POD, "10.96.0.10:80"), ["10.244.1.1:8080"]);
}

#[test]
fn nothing_is_left_of_services_that_are_gone() {
    let mut world = World::with_web(json!({
        "type": "NodePort",
        "ports": [{"port": 80, "nodePort": 30080}],
        "sessionAffinity": "ClientIP",
        "externalIPs": ["198.51.100.1"],
    }));
    let mut empty = World::default();
    empty.sync();
    world.sync();
    assert_ne!(world.machines, empty.machines);
    world.remove_service("web");
    world.remove_slice("web");
    world.sync();
    assert_eq!(world.machines, empty.machines);
    assert_eq!(world.model.rulesets(), empty.model.rulesets());
}

/// Small numbers in an order that looks random and is always the same.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

pub(super) fn change_something(world: &mut World, dice: &mut Dice) {
    let name = format!("service-{}", dice.roll(5));
    match dice.roll(10) {
        0 => world.remove_service(&name),
        1 => world.remove_slice(&name),
        2..=4 => {
            let last = dice.roll(4);
            let address = format!("10.96.0.{last}");
            let mut pick = |of: &[&str]| of[dice.roll(of.len() as u64) as usize].to_owned();
            let affinity = pick(&["None", "ClientIP"]);
            let kind = pick(&["ClusterIP", "NodePort", "LoadBalancer"]);
            let policy = pick(&["Cluster", "Local"]);
            let internal = pick(&["Cluster", "Cluster", "Local"]);
            let balancer = pick(&["198.51.100.1", "198.51.100.2"]);
            let open_to = pick(&["0.0.0.0/0", "203.0.113.0/24", "203.0.113.0/28", "fd00::/8"]);
            let node_port = 30_000 + dice.roll(3);
            let both = [address.clone(), format!("fd00:96::{last}")];
            let extra = json!({
                "type": kind,
                "clusterIPs": both[..1 + dice.roll(2) as usize],
                "sessionAffinity": affinity,
                "externalTrafficPolicy": policy,
                "internalTrafficPolicy": internal,
                "loadBalancerSourceRanges": [open_to],
                "healthCheckNodePort": 31_000 + dice.roll(2),
                "ports": [{"port": 80 + dice.roll(2), "nodePort": node_port}],
                "status": {"loadBalancer": {"ingress": [{"ip": balancer}]}},
            });
            world.put_service(&name, &address, extra);
        }
        5 => {
            let endpoints: Vec<_> = (0..dice.roll(4))
                .map(|_| endpoint(&format!("fd00:244:0:{}::{}", dice.roll(2), 2 + dice.roll(4))))
                .collect();
            let slice = format!("{name}-v6");
            world.put_slice_named(&slice, &name, "IPv6", json!([{"port": 8080}]), endpoints.into());
        }
        _ => {
            let endpoints: Vec<_> = (0..dice.roll(6))
                .map(|_| endpoint(&format!("10.244.{}.{}", dice.roll(2), 2 + dice.roll(8))))
                .collect();
            world.put_slice(&name, endpoints.into());
        }
    }
}

/// Without what depends on the way there: which endpoint is at which place.
fn in_order(ruleset: &Ruleset) -> Vec<String> {
    let choice = |choice: &Choice| {
        let mut targets = choice.targets.clone();
        targets.sort();
        targets
    };
    let services = ruleset.services().iter().map(|(at, service)| {
        let (choice, inside) = (choice(&service.choice), service.inside.as_ref().map(choice));
        let (name, sources) = (&service.name, &service.sources);
        let (affinity, otherwise) = (service.affinity, service.otherwise);
        let flags = (service.masquerade, affinity, otherwise);
        format!("{at:?} {name} {choice:?} {inside:?} {flags:?} {sources:?}")
    });
    services.chain([format!("{:?}", ruleset.frame)]).collect()
}

#[test]
fn changes_lead_to_what_a_replacement_would() {
    for seed in 0..16 {
        let mut dice = Dice(seed);
        let mut world = World::default();
        world.sync();
        for _ in 0..60 {
            for _ in 0..=dice.roll(3) {
                change_something(&mut world, &mut dice);
            }
            world.sync();
            let whole = steps(None, &Changed::new(), world.model.rulesets());
            for (ip, machine) in &world.machines {
                let mut anew = Machine::default();
                anew.apply(&whole.then[ip]);
                assert_eq!(*machine, anew, "seed {seed}");
            }
            assert_eq!(world.sync(), 0, "seed {seed} does not settle");
            assert_eq!(world.sync_everything(), 0, "seed {seed}: a change was passed over");
            // Whoever comes new finds the same.
            let mut other = Model::carrying_on(world.place.clone(), Vec::new());
            other.update(world.everything());
            for (ip, ruleset) in other.rulesets() {
                assert_eq!(in_order(ruleset), in_order(&world.model.rulesets()[ip]), "{seed}");
            }
            assert_eq!(other.conflicts(), world.model.conflicts());
            assert_eq!(other.health(), world.model.health());
        }
    }
}

#[test]
fn endpoints_keep_their_places_as_far_as_they_can() {
    let targets = |lasts: &[u8]| -> Vec<Target> {
        let target = |last: &u8| Target { address: v4(10, 0, 0, *last), port: 80 };
        lasts.iter().map(target).collect()
    };
    let arranged = |before: &[u8], wanted: &[u8]| {
        arrange(&targets(before), &targets(wanted).into_iter().collect())
    };
    assert_eq!(arranged(&[], &[3, 1, 2]), targets(&[1, 2, 3]));
    assert_eq!(arranged(&[3, 1, 2], &[1, 2, 3]), targets(&[3, 1, 2]));
    assert_eq!(arranged(&[3, 1, 2], &[1, 2, 3, 4]), targets(&[3, 1, 2, 4]));
    assert_eq!(arranged(&[3, 1, 2], &[1, 2, 4]), targets(&[4, 1, 2]));
    assert_eq!(arranged(&[3, 1, 2], &[1, 2]), targets(&[2, 1]));
    assert_eq!(arranged(&[3, 1, 2], &[]), targets(&[]));
    let mut dice = Dice(7);
    let mut before = Vec::new();
    for _ in 0..500 {
        let wanted: BTreeSet<Target> = (0..dice.roll(12))
            .map(|_| Target { address: v4(10, 0, 0, dice.roll(16) as u8), port: 80 })
            .collect();
        let after = arrange(&before, &wanted);
        assert_eq!(after.iter().copied().collect::<BTreeSet<_>>(), wanted);
        assert_eq!(after.len(), wanted.len(), "no endpoint twice");
        before = after;
    }
}

#[test]
fn the_rules_read_as_they_did() {
    let mut world = World::with_web(json!({
        "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    }));
    let ports = json!([{"name": "http", "port": 8080}]);
    let endpoints = json!([endpoint("10.244.0.2"), endpoint("10.244.1.2")]);
    world.put_slice_of_ports("web", ports, endpoints);
    world.put_service("sticky", "10.96.0.11", json!({"sessionAffinity": "ClientIP"}));
    world.put_slice("sticky", json!([endpoint("10.244.1.2")]));
    world.put_service("idle", "10.96.0.12", json!({}));
    world.put_service(
        "local",
        "10.96.0.13",
        json!({
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["203.0.113.0/24"],
            "ports": [{"port": 80, "nodePort": 30081}],
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
        }),
    );
    world.put_slice("local", json!([endpoint("10.244.1.2")]));
    world.sync();
    let mut text = String::new();
    let mut chains = chains(Ip::V4, &world.ruleset().frame);
    // Its name stands for all the others.
    let mark = chains.remove(&layout(Ip::V4, &ranges(Ip::V4)));
    assert!(mark.is_some_and(|chain| chain.rules.is_empty()));
    for (name, chain) in chains {
        writeln!(text, "chain {name}").unwrap();
        if let Some(hook) = chain.hook {
            writeln!(text, "  {:?} at {:?} {}", hook.kind, hook.point, hook.priority).unwrap();
        }
        for rule in chain.rules {
            let exprs: Vec<String> = rule.exprs.iter().map(ToString::to_string).collect();
            let comment = if rule.comment.is_empty() {
                String::new()
            } else {
                format!("  # {}", rule.comment)
            };
            writeln!(text, "  {}{comment}", exprs.join("; ")).unwrap();
        }
    }
    for (set, (_, elements)) in &world.machines[&Ip::V4].sets {
        writeln!(text, "set {set}").unwrap();
        for (key, (value, comment)) in elements {
            let line = format!("  {key:?} {value:?} {comment}");
            writeln!(text, "{}", line.trim_end()).unwrap();
        }
    }
    let expected = include_str!("rules.txt");
    assert_eq!(text, expected, "if it is meant to change, rules.txt is to hold:\n{text}");
}
