use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use proto::k8s::api::core::v1::Pod;
use runtime::image::{Image, ImageConfig, StoredImage};
use serde_json::json;

use super::decide::{Decision, Level, Memory, Observations, Passed, decide, is_short};
use super::images::{ImageGc, InUse, removable};
use super::rank::{Candidate, Use, is_critical, message, over_limit, rank};
use super::threshold::*;

mod acting;

const TRANSITION: Duration = Duration::from_secs(300);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn hard(text: &str) -> Vec<Threshold> {
    let none = (Graces::default(), Reclaims::default());
    thresholds(&text.parse().unwrap(), &Statements(Vec::new()), &none.0, &none.1).unwrap()
}

fn seen(levels: &[(Signal, i64, i64)]) -> Observations {
    let level = |&(signal, available, capacity): &_| (signal, Level { available, capacity });
    levels.iter().map(level).collect()
}

#[test]
fn thresholds_are_read_as_kubernetes_writes_them() {
    let parse = |text: &str| text.parse::<Statements>().map(|all| all.0);
    assert_eq!(
        parse("memory.available<100Mi, nodefs.available<10%").unwrap(),
        [
            (Signal::MemoryAvailable, Amount::Fixed(100 << 20)),
            (Signal::NodefsAvailable, Amount::Share(0.1)),
        ]
    );
    assert_eq!(parse("").unwrap(), []);
    assert_eq!(parse("nodefs.available<0%,imagefs.available<100%").unwrap(), []);
    for (text, reason) in [
        ("memory.available", "is not written SIGNAL<VALUE"),
        ("memory.free<1Gi", "unsupported eviction signal \"memory.free\""),
        ("memory.available<-1Gi", "not above zero"),
        ("memory.available<0", "not above zero"),
        ("nodefs.available<101%", "not between"),
        ("nodefs.available<x%", "is no share"),
        ("pid.available<1,pid.available<2", "said twice"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn times_are_read_as_go_writes_them() {
    let millis = |text: &str| text.parse::<Period>().map(|period| period.0.as_millis());
    for (text, expected) in
        [("0", 0), ("5m", 300_000), ("1m30s", 90_000), ("1h0m0.5s", 3_600_500), ("300ms", 300)]
    {
        assert_eq!(millis(text), Ok(expected), "{text}");
    }
    for text in ["", "5", "m", "5x", "-5s", "1m5"] {
        assert!(millis(text).is_err(), "{text}");
    }
}

#[test]
fn a_hard_threshold_counts_at_once_and_its_condition_stays_a_while() {
    let thresholds = hard("memory.available<100");
    let mut memory = Memory::default();
    let mut look = |available, second| {
        let seen = seen(&[(Signal::MemoryAvailable, available, 1000)]);
        decide(&thresholds, &mut memory, &seen, TRANSITION, at(second))
    };
    assert_eq!(look(100, 0), Decision::default());
    let low = look(99, 10);
    assert_eq!(low.conditions, BTreeSet::from([Condition::Memory]));
    assert_eq!(low.act.unwrap().threshold, thresholds[0]);
    let better = look(500, 20);
    assert_eq!(better.conditions, BTreeSet::from([Condition::Memory]));
    assert_eq!((better.act, better.look_at), (None, Some(at(310))));
    assert_eq!(look(500, 309).conditions.len(), 1);
    assert_eq!(look(500, 310), Decision::default());
}

#[test]
fn a_soft_threshold_waits_for_its_time() {
    let soft = Statements(vec![(Signal::NodefsAvailable, Amount::Share(0.2))]);
    let graces = "nodefs.available=1m".parse().unwrap();
    let reclaims = Reclaims::default();
    let thresholds = thresholds(&Statements(Vec::new()), &soft, &graces, &reclaims).unwrap();
    let mut memory = Memory::default();
    let mut look = |available, second| {
        let seen = seen(&[(Signal::NodefsAvailable, available, 1000)]);
        decide(&thresholds, &mut memory, &seen, TRANSITION, at(second))
    };
    let first = look(199, 0);
    assert_eq!((first.act, first.look_at), (None, Some(at(60))));
    assert_eq!(first.conditions, BTreeSet::from([Condition::Disk]));
    // A moment of ease, and the time begins anew.
    assert_eq!(look(200, 30).act, None);
    assert_eq!(look(199, 59).act, None);
    assert_eq!(look(199, 118).act, None);
    assert!(look(199, 119).act.is_some());
}

#[test]
fn what_has_to_be_won_back_is_more_than_the_bound() {
    let none = Graces::default();
    let reclaims = "memory.available=50".parse().unwrap();
    let hard: Statements = "memory.available<100".parse().unwrap();
    let thresholds = thresholds(&hard, &Statements(Vec::new()), &none, &reclaims).unwrap();
    let mut memory = Memory::default();
    let mut acts = |available, second| {
        let seen = seen(&[(Signal::MemoryAvailable, available, 1000)]);
        decide(&thresholds, &mut memory, &seen, TRANSITION, at(second)).act.is_some()
    };
    assert!(!acts(120, 0));
    assert!(acts(99, 1));
    assert!(acts(120, 2));
    assert!(!acts(150, 3));
    assert!(!acts(120, 4));
    let level = |available| seen(&[(Signal::MemoryAvailable, available, 1000)]);
    assert!(is_short(&thresholds, &level(149)) && !is_short(&thresholds, &level(150)));
}

#[test]
fn memory_comes_before_disk_and_what_is_not_seen_is_not_short() {
    let thresholds = hard("nodefs.inodesFree<5%,memory.available<100,pid.available<10");
    let seen = seen(&[(Signal::NodefsInodesFree, 1, 100), (Signal::MemoryAvailable, 1, 1000)]);
    let decision = decide(&thresholds, &mut Memory::default(), &seen, TRANSITION, at(0));
    assert_eq!(decision.act.unwrap().threshold.signal, Signal::MemoryAvailable);
    assert_eq!(decision.conditions, BTreeSet::from([Condition::Memory, Condition::Disk]));
}

fn pod(name: &str, spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
        .unwrap()
}

fn asking(name: &str, priority: i32, memory: &str, disk: &str) -> Pod {
    let requests = json!({"memory": memory, "ephemeral-storage": disk});
    let container = json!({"name": "main", "resources": {"requests": requests}});
    pod(name, json!({"priority": priority, "containers": [container]}))
}

fn using(pod: &Pod, used: Use) -> Candidate<'_> {
    let containers = vec![("main".to_owned(), used)];
    Candidate { pod, all: used, containers, volumes: Vec::new() }
}

#[test]
fn pods_go_in_kubernetes_order() {
    let pods = [
        ("within", asking("within", -5, "100", "100"), 100),
        ("important", asking("important", 10, "0", "0"), 1000),
        ("little", asking("little", 0, "50", "50"), 60),
        ("much", asking("much", 0, "50", "50"), 90),
        ("just-within", asking("just-within", -5, "1000", "1000"), 999),
    ];
    for resource in [Resource::Memory, Resource::EphemeralStorage] {
        let mut candidates: Vec<Candidate<'_>> = pods
            .iter()
            .map(|(_, pod, used)| {
                let used = match resource {
                    Resource::Memory => Use { memory: *used, ..Use::default() },
                    _ => Use { disk: *used, ..Use::default() },
                };
                using(pod, used)
            })
            .collect();
        rank(&mut candidates, resource);
        let order: Vec<&str> =
            candidates.iter().map(|one| one.pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(order, ["much", "little", "important", "within", "just-within"], "{resource:?}");
    }
    let (few, many) = (asking("few", 0, "1", "1"), asking("many", 0, "1", "1"));
    let low = asking("low", -1, "1", "1");
    let processes = |processes| Use { processes, ..Use::default() };
    let mut candidates =
        [using(&few, processes(2)), using(&many, processes(9)), using(&low, processes(1))];
    rank(&mut candidates, Resource::Pids);
    let order: Vec<_> =
        candidates.iter().map(|one| one.pod.metadata.name.clone().unwrap()).collect();
    assert_eq!(order, ["low", "many", "few"]);
}

#[test]
fn a_pod_is_told_why_in_kubernetes_words() {
    let pod = asking("web", 0, "50Mi", "0");
    let used = Use { memory: 90 << 20, disk: 3 << 30, ..Use::default() };
    let candidate = using(&pod, used);
    let passed = |signal, amount, available| Passed {
        threshold: Threshold { signal, amount, grace: None, minimum_reclaim: None },
        level: Level { available, capacity: 1 << 30 },
    };
    assert_eq!(
        message(&candidate, &passed(Signal::MemoryAvailable, Amount::Fixed(100 << 20), 60 << 20)),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. \
         Container main was using 90Mi, request is 50Mi, has larger consumption of memory. "
    );
    assert_eq!(
        message(&candidate, &passed(Signal::NodefsAvailable, Amount::Share(0.25), 1 << 10)),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 256Mi, available: \
         1Ki. Container main was using 3Gi, request is 0, has larger consumption of \
         ephemeral-storage. "
    );
    assert_eq!(
        message(&candidate, &passed(Signal::NodefsInodesFree, Amount::Fixed(1000), 12)),
        "The node was low on resource: inodes. Threshold quantity: 1k, available: 12. "
    );
}

#[test]
fn a_pod_that_fills_more_than_its_own_limits_has_to_go() {
    let container = |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
    let two = pod("two", json!({"containers": [container("a", "1Mi"), container("b", "2Mi")]}));
    let disk = |mebibytes: i64| Use { disk: mebibytes << 20, ..Use::default() };
    let over = |all: i64, a: i64, volumes: &[(&str, i64)], pod: &Pod| {
        let volumes = volumes.iter().map(|(name, used)| ((*name).to_owned(), used << 20)).collect();
        let containers = vec![("a".to_owned(), disk(a))];
        over_limit(&Candidate { pod, all: disk(all), containers, volumes })
    };
    assert_eq!(over(3, 1, &[], &two), None);
    assert_eq!(
        over(4, 1, &[], &two).unwrap(),
        "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "
    );
    assert_eq!(
        over(3, 2, &[], &two).unwrap(),
        "Container a exceeded its local ephemeral storage limit \"1Mi\". "
    );
    // Init containers and sidecars count as they do when the pod is placed.
    let limited = |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
    let init = pod(
        "init",
        json!({"initContainers": [limited("i", "9Mi")], "containers": [limited("a", "2Mi")]}),
    );
    assert_eq!(over(9, 2, &[], &init), None);
    assert!(over(10, 2, &[], &init).unwrap().ends_with("total limit of containers 9Mi. "));
    let mut sidecar = limited("a", "2Mi");
    sidecar["restartPolicy"] = json!("Always");
    let served =
        pod("served", json!({"initContainers": [sidecar], "containers": [limited("b", "3Mi")]}));
    assert_eq!(over(5, 2, &[], &served), None);
    assert!(over(6, 2, &[], &served).unwrap().ends_with("total limit of containers 5Mi. "));
    assert!(over(5, 3, &[], &served).unwrap().starts_with("Container a exceeded"));
    let volume = json!([{"name": "cache", "emptyDir": {"sizeLimit": "5Mi"}},
                        {"name": "free", "emptyDir": {}}]);
    let cached = pod("cached", json!({"containers": [{"name": "a"}], "volumes": volume}));
    assert_eq!(over(9, 9, &[("cache", 5), ("free", 9)], &cached), None);
    assert_eq!(
        over(9, 9, &[("cache", 6)], &cached).unwrap(),
        "Usage of EmptyDir volume \"cache\" exceeds the limit \"5Mi\". "
    );
}

#[test]
fn pods_of_the_system_stay() {
    let of_priority = |priority: i32| pod("p", json!({"priority": priority, "containers": []}));
    assert!(is_critical(&of_priority(2_000_000_000)) && !is_critical(&of_priority(1_999_999_999)));
    let mut fixed = of_priority(0);
    let annotations = [("kubernetes.io/config.source".to_owned(), "file".to_owned())];
    fixed.metadata.annotations = Some(annotations.into());
    assert!(is_critical(&fixed));
}

fn stored(name: &str, added: u64, used: u64) -> StoredImage {
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let image = Image {
        id: format!("sha256:{name}"),
        repo_digests: vec![format!("docker.io/library/{name}@sha256:00")],
        tags: vec![format!("docker.io/library/{name}:1")],
        layers: Vec::new(),
        size_bytes: 1,
        config: ImageConfig::default(),
    };
    StoredImage { image, added_at: time(added), last_used_at: time(used) }
}

#[test]
fn images_go_by_their_last_use_but_never_those_in_use_or_fresh_ones() {
    let images = [
        stored("a", 10, 50),
        stored("b", 10, 20),
        stored("c", 10, 90),
        stored("named", 1, 1),
        stored("running", 1, 1),
        stored("pulled", 1, 1),
        stored("mounted", 1, 1),
        stored("fresh", 95, 2),
        stored("over", 10, 30),
    ];
    let mut over = pod("over", json!({"containers": [{"name": "x", "image": "over:1"}]}));
    over.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
    let pods = [
        pod(
            "one",
            json!({"containers": [{"name": "x", "image": "other"}],
                          "initContainers": [{"name": "y", "image": "named:1"}],
                          "volumes": [{"name": "z", "image": {"reference": "mounted:1"}}]}),
        ),
        over,
    ];
    let ids = ["sha256:running", "docker.io/library/pulled@sha256:00"].map(str::to_owned);
    let in_use = InUse::new(ids.into(), pods.iter());
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    let order: Vec<&str> = removable(&images, &in_use, Duration::from_secs(10), now)
        .iter()
        .map(|stored| &stored.image.id[7..])
        .collect();
    assert_eq!(order, ["b", "over", "a", "c"]);
}

#[test]
fn images_give_back_what_brings_the_disk_below_the_low_mark() {
    let gc = ImageGc { high_percent: 85, low_percent: 80, minimum_age: Duration::ZERO };
    for (available, expected) in [(16, None), (15, Some(5)), (0, Some(20)), (100, None)] {
        assert_eq!(gc.excess(available, 100), expected, "{available}");
    }
    assert_eq!(gc.excess(0, 0), None);
    assert_eq!(ImageGc { high_percent: 100, ..gc }.excess(0, 100), None);
}
