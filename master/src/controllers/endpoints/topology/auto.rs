//! `service.kubernetes.io/topology-mode: Auto`: each zone is meant to have as large a part of a Service's
//! endpoints as it has of the cluster's CPUs, so that traffic stays in its zone and nobody is
//! overloaded. Pure; the rules are Kubernetes' "Topology Aware Routing".

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};
use proto::k8s as k8s_openapi;
use proto::quantity::Quantity;
use thiserror::Error;

use super::ZONE;
use crate::controllers::endpoints::addresses::{Family, Group};

/// The newer one first, which wins.
const MODES: [&str; 2] =
    ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];
/// How much more than its part an endpoint may get, in percent, as in Kubernetes: where there are too few
/// for that, nobody is kept to a zone. It is not looked at again when they have been shared out.
const OVERLOAD: u128 = 20;
/// What such a node has is for the control plane, and not counted.
const EXCLUDED: [&str; 2] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Whether a Service asks for it.
pub(crate) fn is_asked(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = MODES.iter().find_map(|key| annotations?.get(*key));
    mode.is_some_and(|mode| matches!(mode.as_str(), "Auto" | "auto"))
}

/// Why everybody is sent everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Unhinted {
    #[error("node {0} has no label {ZONE}, or no allocatable CPU")]
    NodeLacks(String),
    #[error("there are ready nodes in fewer than two zones")]
    FewZones,
    #[error("there are fewer ready endpoints ({endpoints}) than zones ({zones})")]
    FewEndpoints { endpoints: usize, zones: usize },
    #[error(
        "{endpoints} endpoints cannot be shared out to {zones} zones so that none of them gets more \
         than {OVERLOAD} % beyond its part of the traffic"
    )]
    Overload { endpoints: usize, zones: usize },
    #[error("the zone of endpoint {0} is not known")]
    NowhereEndpoint(String),
}

/// What nodes bring to their zones.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    nodes: BTreeMap<String, Brings>,
    zones: BTreeMap<String, Zone>,
    /// Nodes that do not say enough: as long as there is one, nothing is known of the parts.
    lacking: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Brings {
    /// Thousandths of CPUs.
    Cpu {
        zone: String,
        milli: u128,
    },
    Unsaid,
}

#[derive(Debug, Default)]
struct Zone {
    nodes: usize,
    /// Thousandths of CPUs.
    milli: u128,
}

impl Zones {
    /// Takes in what became of a node; tells whether that changes anything.
    pub(crate) fn node_changed(&mut self, name: &str, node: Option<&Node>) -> bool {
        let new = node.and_then(brings);
        let old = match new.clone() {
            Some(new) => self.nodes.insert(name.to_owned(), new),
            None => self.nodes.remove(name),
        };
        if old == new {
            return false;
        }
        match old {
            Some(Brings::Cpu { zone, milli }) => {
                let left = self.zones.get_mut(&zone).is_some_and(|of| {
                    of.nodes -= 1;
                    of.milli -= milli;
                    of.nodes > 0
                });
                if !left {
                    self.zones.remove(&zone);
                }
            }
            Some(Brings::Unsaid) => drop(self.lacking.remove(name)),
            None => {}
        }
        match new {
            Some(Brings::Cpu { zone, milli }) => {
                let of = self.zones.entry(zone).or_default();
                of.nodes += 1;
                of.milli += milli;
            }
            Some(Brings::Unsaid) => drop(self.lacking.insert(name.to_owned())),
            None => {}
        }
        true
    }
}

/// Nothing if the node does not count.
fn brings(node: &Node) -> Option<Brings> {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let status = node.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    if EXCLUDED.iter().any(|key| label(key).is_some())
        || !conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    {
        return None;
    }
    let cpu = status.allocatable.as_ref().and_then(|allocatable| allocatable.get("cpu"));
    let milli = cpu.and_then(|cpu| Quantity::parse(&cpu.0).ok()).map_or(0, |cpu| cpu.milli_value());
    let zone = label(ZONE).filter(|zone| !zone.is_empty());
    Some(match (zone, u128::try_from(milli)) {
        (Some(zone), Ok(milli @ 1..)) => Brings::Cpu { zone: zone.clone(), milli },
        _ => Brings::Unsaid,
    })
}

/// Says of the ready endpoints for which zone each is meant, family by family; of none, where there are
/// too few, or too little is known. Then everybody is sent everywhere.
pub(crate) fn hint(
    groups: &mut BTreeMap<Group, Vec<Endpoint>>,
    zones: &Zones,
) -> BTreeMap<Family, Result<(), Unhinted>> {
    let mut ready = BTreeMap::<Family, Vec<&mut Endpoint>>::new();
    for ((family, _), endpoints) in groups {
        let of_family = ready.entry(*family).or_default();
        for endpoint in endpoints {
            endpoint.hints = None;
            if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true) {
                of_family.push(endpoint);
            }
        }
    }
    let hint = |(family, mut endpoints): (Family, Vec<&mut Endpoint>)| {
        let outcome = allocate(&endpoints, zones).map(|meant| {
            for (endpoint, name) in endpoints.iter_mut().zip(meant) {
                let for_zones = Some(vec![ForZone { name }]);
                endpoint.hints = Some(EndpointHints { for_zones, for_nodes: None });
            }
        });
        (family, outcome)
    };
    ready.into_iter().map(hint).collect()
}

/// How many endpoints are meant for a zone, and how many should be. Parts of an endpoint are counted
/// as parts of all CPUs, so that nothing is rounded.
struct Share {
    has: u128,
    /// As few as it takes so that none of them gets too much.
    least: u128,
    /// Its part of all endpoints, times all CPUs.
    wanted: u128,
}

/// The zone that each is meant for.
fn allocate(endpoints: &[&mut Endpoint], zones: &Zones) -> Result<Vec<String>, Unhinted> {
    if let Some(node) = zones.lacking.first() {
        return Err(Unhinted::NodeLacks(node.clone()));
    }
    let counts = (endpoints.len(), zones.zones.len());
    let (count, total) = (counts.0 as u128, zones.zones.values().map(|zone| zone.milli).sum());
    if counts.1 < 2 {
        return Err(Unhinted::FewZones);
    }
    if counts.1 > counts.0 {
        return Err(Unhinted::FewEndpoints { endpoints: counts.0, zones: counts.1 });
    }
    let share = |(zone, Zone { milli, .. }): (&String, &Zone)| {
        let least = (milli * count * 100).div_ceil(total * (100 + OVERLOAD));
        let wanted = (milli * count).max(least * total);
        (zone.clone(), Share { has: 0, least, wanted })
    };
    let mut shares: BTreeMap<String, Share> = zones.zones.iter().map(share).collect();
    if shares.values().map(|share| share.least).sum::<u128>() > count {
        return Err(Unhinted::Overload { endpoints: counts.0, zones: counts.1 });
    }
    let mut meant = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let Some(zone) = endpoint.zone.clone().filter(|zone| !zone.is_empty()) else {
            return Err(Unhinted::NowhereEndpoint(endpoint.addresses.join(", ")));
        };
        if let Some(share) = shares.get_mut(&zone) {
            share.has += 1;
        }
        meant.push(zone);
    }
    for (giver, taker) in moves(&mut shares, total) {
        if let Some(zone) = meant.iter_mut().rfind(|zone| **zone == giver) {
            *zone = taker;
        }
    }
    // A zone may still have fewer than it should, even none: those of zones that do not count are not
    // given away, nor is one that its zone would miss as much. Nodes of a zone that has none take all.
    Ok(meant)
}

/// From which zone to which endpoints go, one at a time: from the one that has the most beyond its
/// part to the one that lacks the most, as long as that brings both closer to theirs.
fn moves(shares: &mut BTreeMap<String, Share>, total: u128) -> Vec<(String, String)> {
    let mut moves = Vec::new();
    loop {
        let beyond = |share: &Share| (share.has * total).saturating_sub(share.wanted);
        let lacks = |share: &Share| share.wanted.saturating_sub(share.has * total);
        // The first of equal ones, so that the same is said each time.
        let most = |of: &dyn Fn(&Share) -> u128| {
            let all = shares.iter().map(|(zone, share)| (of(share), zone));
            all.reduce(|best, next| if next.0 > best.0 { next } else { best })
                .map(|(amount, zone)| (amount, zone.clone()))
        };
        let (Some((surplus, giver)), Some((need, taker))) = (most(&beyond), most(&lacks)) else {
            return moves;
        };
        if 2 * surplus.min(need) < total || surplus.max(need) < total {
            return moves;
        }
        if let Some(from) = shares.get_mut(&giver) {
            from.has -= 1;
        }
        if let Some(to) = shares.get_mut(&taker) {
            to.has += 1;
        }
        moves.push((giver, taker));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::endpoints::addresses;
    use crate::dice::Dice;

    fn node(zone: &str, cpu: &str, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {ZONE: zone}},
            "status": {
                "allocatable": {"cpu": cpu},
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }))
        .unwrap()
    }

    fn zones(cpus: &[(&str, &str)]) -> Zones {
        let mut zones = Zones::default();
        for (index, (zone, cpu)) in cpus.iter().enumerate() {
            assert!(zones.node_changed(&format!("n{index}"), Some(&node(zone, cpu, "True"))));
        }
        zones
    }

    fn endpoint(zone: char, ready: bool) -> Endpoint {
        let zone = (zone != '-').then(|| zone.to_string());
        let conditions = json!({"ready": ready});
        let endpoint = json!({"addresses": ["10.0.0.1"], "zone": zone, "conditions": conditions});
        serde_json::from_value(endpoint).unwrap()
    }

    /// The zones that ready endpoints are meant for, by the zones where they are.
    fn hinted(of: &str, zones: &Zones) -> Result<String, Unhinted> {
        let endpoints = of.chars().map(|zone| endpoint(zone, true)).collect();
        let mut groups = BTreeMap::from([((Family::V4, Vec::new()), endpoints)]);
        let outcome = hint(&mut groups, zones).remove(&Family::V4).unwrap();
        let meant: String = groups.values().flatten().map(meant).collect();
        assert!(outcome.is_ok() || meant.chars().all(|hint| hint == '-'), "all or none: {meant}");
        outcome.map(|()| meant)
    }

    fn meant(endpoint: &Endpoint) -> String {
        let hints = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
        hints.map_or("-".to_owned(), |zones| zones[0].name.clone())
    }

    #[test]
    fn endpoints_are_meant_for_their_own_zone_where_they_are_spread_as_the_cpus_are() {
        let even = zones(&[("a", "2"), ("b", "1"), ("b", "1000m")]);
        assert_eq!(hinted("abab", &even).unwrap(), "abab");
        assert_eq!(hinted("abababab", &even).unwrap(), "abababab");
        let uneven = zones(&[("a", "3"), ("b", "1")]);
        assert_eq!(hinted("aaab", &uneven).unwrap(), "aaab");
    }

    #[test]
    fn a_zone_with_too_few_gets_some_of_another() {
        let even = zones(&[("a", "1"), ("b", "1")]);
        assert_eq!(hinted("aaaaaa", &even).unwrap(), "aaabbb");
        assert_eq!(hinted("aaaaaaabbbbb", &even).unwrap(), "aaaaaabbbbbb", "also if it can do");
        let three = zones(&[("a", "1"), ("b", "1"), ("c", "1")]);
        assert_eq!(hinted("aaaabb", &three).unwrap(), "aaccbb");
        // One beyond another by less than half of an endpoint stays.
        assert_eq!(hinted("aaaaaabbbbb", &even).unwrap(), "aaaaaabbbbb");
    }

    #[test]
    fn nobody_is_kept_to_a_zone_where_that_cannot_be_done_well() {
        let even = zones(&[("a", "1"), ("b", "1")]);
        assert_eq!(hinted("aaaa", &zones(&[("a", "1")])), Err(Unhinted::FewZones));
        assert_eq!(hinted("", &zones(&[])), Err(Unhinted::FewZones));
        assert_eq!(hinted("a", &even), Err(Unhinted::FewEndpoints { endpoints: 1, zones: 2 }));
        let nowhere = hinted("ab-", &zones(&[("a", "2"), ("b", "1")]));
        assert_eq!(nowhere, Err(Unhinted::NowhereEndpoint("10.0.0.1".to_owned())));
        // One of three would get half of the traffic.
        assert_eq!(hinted("aab", &even), Err(Unhinted::Overload { endpoints: 3, zones: 2 }));
    }

    #[test]
    fn endpoints_of_zones_that_do_not_count_are_meant_for_these() {
        let even = zones(&[("a", "1"), ("b", "1")]);
        assert_eq!(hinted("aaaaabbbbbz", &even).unwrap(), "aaaaabbbbbz");
        // Without those that are elsewhere each has half of what it should have.
        assert_eq!(hinted("abzz", &even).unwrap(), "abzz");
    }

    #[test]
    fn a_zone_without_any_gets_none_of_zones_that_would_miss_it_as_much() {
        // Each of the three large ones has a third of an endpoint more than its part.
        let zones = zones(&[("a", "17"), ("b", "17"), ("c", "17"), ("d", "3")]);
        assert_eq!(hinted("aaaaaabbbbbbcccccc", &zones).unwrap(), "aaaaaabbbbbbcccccc");
        // With one more of them there is one to give.
        assert_eq!(hinted("aaaaaaabbbbbbcccccc", &zones).unwrap(), "aaaaaadbbbbbbcccccc");
    }

    #[test]
    fn families_are_counted_apart_and_ports_together() {
        let port = |number| addresses::Port {
            name: String::new(),
            protocol: "TCP".to_owned(),
            port: Some(number),
            app_protocol: None,
        };
        let of = |zones: &str| zones.chars().map(|zone| endpoint(zone, true)).collect::<Vec<_>>();
        let mut groups = BTreeMap::from([
            ((Family::V4, vec![port(80)]), of("aa")),
            ((Family::V4, vec![port(81)]), of("bb")),
            ((Family::V6, vec![port(80)]), of("a")),
        ]);
        let outcomes = hint(&mut groups, &zones(&[("a", "1"), ("b", "1")]));
        assert_eq!(outcomes[&Family::V4], Ok(()));
        assert!(matches!(outcomes[&Family::V6], Err(Unhinted::FewEndpoints { .. })));
        let meant: Vec<_> = groups.values().flatten().map(meant).collect();
        assert_eq!(meant, ["a", "a", "b", "b", "-"]);
    }

    #[test]
    fn endpoints_that_are_not_ready_are_neither_counted_nor_meant_for_anybody() {
        let endpoints = vec![endpoint('a', true), endpoint('-', false), endpoint('b', true)];
        let mut groups = BTreeMap::from([((Family::V4, Vec::new()), endpoints)]);
        hint(&mut groups, &zones(&[("a", "1"), ("b", "1")]))[&Family::V4].clone().unwrap();
        assert_eq!(groups.values().flatten().map(meant).collect::<String>(), "a-b");
    }

    #[test]
    fn only_ready_nodes_count_and_each_has_to_say_enough() {
        let mut zones = zones(&[("a", "1"), ("b", "1")]);
        assert!(!zones.node_changed("n1", Some(&node("b", "1", "True"))), "as before");
        assert!(zones.node_changed("n1", Some(&node("b", "1", "Unknown"))));
        assert_eq!(hinted("abab", &zones), Err(Unhinted::FewZones));
        assert!(!zones.node_changed("n1", None));
        assert!(zones.node_changed("n1", Some(&node("b", "1", "True"))));
        assert_eq!(hinted("abab", &zones).unwrap(), "abab");
        for lacking in [node("", "1", "True"), node("b", "0", "True")] {
            assert!(zones.node_changed("n2", Some(&lacking)));
            assert_eq!(hinted("abab", &zones), Err(Unhinted::NodeLacks("n2".to_owned())));
            assert!(zones.node_changed("n2", None));
        }
        let mut master = node("", "8", "True");
        master
            .metadata
            .labels
            .get_or_insert_default()
            .insert(EXCLUDED[0].to_owned(), String::new());
        assert!(!zones.node_changed("n2", Some(&master)), "the control plane's do not count");
        assert!(zones.node_changed("n1", Some(&node("b", "7", "True"))));
        assert_eq!(hinted("aaaaaaab", &zones).unwrap(), "abbbbbbb");
    }

    /// As in Kubernetes: where there are enough for nobody to get more than a fifth beyond its part, they
    /// are shared out until no zone could give one to another that needs it more.
    #[test]
    fn they_are_shared_out_as_far_as_that_helps_however_they_are_spread() {
        let mut dice = Dice::new(7);
        for _ in 0..2_000 {
            let names = ["a", "b", "c", "d"];
            let cpus: Vec<(&str, String)> = (0..dice.below(6) + 1)
                .map(|_| (names[dice.below(4)], (dice.below(9) + 1).to_string()))
                .collect();
            let cpus: Vec<(&str, &str)> = cpus.iter().map(|(zone, cpu)| (*zone, &**cpu)).collect();
            let zones = zones(&cpus);
            let of: String = (0..dice.below(40)).map(|_| names[dice.below(4)]).collect();
            let all: usize = cpus.iter().map(|(_, cpu)| cpu.parse::<usize>().unwrap()).sum();
            let shares = zones.zones.keys().map(|zone| {
                let of_zone = cpus.iter().filter(|(of, _)| of == zone);
                let part = of_zone.map(|(_, cpu)| cpu.parse::<usize>().unwrap()).sum::<usize>();
                let least = (part * of.len() * 100).div_ceil(all * 120);
                (zone, least, (part * of.len()).max(least * all))
            });
            let shares: Vec<_> = shares.collect();
            let outcome = hinted(&of, &zones);
            let enough = shares.iter().map(|(_, least, _)| least).sum::<usize>() <= of.len();
            let can = zones.zones.len() >= 2 && zones.zones.len() <= of.len() && enough;
            assert_eq!(outcome.is_ok(), can, "{of} {cpus:?}: {outcome:?}");
            let Ok(meant) = outcome else { continue };
            let counted = |zone: &str| (of.matches(zone).count(), meant.matches(zone).count());
            let (mut surplus, mut need) = (0, 0);
            for (zone, _, wanted) in shares {
                let (had, has) = counted(zone);
                surplus = surplus.max((has * all).saturating_sub(wanted));
                need = need.max(wanted.saturating_sub(has * all));
                // None gives so many that it has too few, or gets so many that it has too many.
                assert!(has >= had || 2 * wanted <= (2 * has + 1) * all, "{of} {meant} {cpus:?}");
                assert!(has <= had || 2 * has * all <= 2 * wanted + all, "{of} {meant} {cpus:?}");
            }
            let helps = 2 * surplus.min(need) >= all && surplus.max(need) >= all;
            assert!(!helps, "{of} {meant} {cpus:?}");
            for elsewhere in names.iter().filter(|zone| !zones.zones.contains_key(**zone)) {
                let (had, has) = counted(elsewhere);
                assert_eq!(had, has, "{of} {meant} {cpus:?}");
            }
            assert_eq!(hinted(&of, &zones).unwrap(), meant, "as before");
        }
    }

    #[test]
    fn the_annotation_asks_for_it() {
        let asks = |annotations: serde_json::Value| {
            let metadata = json!({"annotations": annotations});
            is_asked(&serde_json::from_value(json!({"metadata": metadata})).unwrap())
        };
        let [mode, hints] = MODES;
        assert!(asks(json!({mode: "Auto"})) && asks(json!({mode: "auto"})));
        assert!(asks(json!({hints: "Auto"})));
        assert!(!asks(json!({mode: "Disabled"})) && !asks(json!({"other": "Auto"})));
    }
}
