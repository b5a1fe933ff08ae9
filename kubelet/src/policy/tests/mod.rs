//! Pretend packets through the rules, and what changes of the rules consist of.

mod machine;
#[path = "../../../tests/net/policies/oracle.rs"]
mod oracle;
#[path = "../../../tests/net/policies/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fastrand::Rng;
use proto::ObjectKey;
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::policy::{PodPeer, PodPort, Policy, protocol_number};
use serde_json::json;

use self::machine::{Machine, Outcome, Packet};
use self::oracle::{Connection, End, Pod};
use self::world::{PORTS, PROTOCOLS};
use super::Policies;
use super::model::{Edit, KnownPod, Model};
use super::program::{Content, additions, changes, numbered, numbered_replacement};
use super::understood;
use crate::network::Addresses;
use crate::nft::expr::{Ip, Rejection};
use crate::nft::table::Command;

const ROUND: u32 = 7;

fn seed() -> u64 {
    let seed = std::env::var("KUTTER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("KUTTER_SEED={seed}");
    seed
}

fn pods() -> Vec<Pod> {
    world::pods(|number| {
        vec![
            IpAddr::from([10, 244, 0, number as u8 + 2]),
            format!("fd00:10::{:x}", number + 2).parse().unwrap(),
        ]
    })
}

fn uid(pod: &Pod) -> String {
    format!("{}-{}", pod.namespace, pod.name)
}

fn known(pod: &Pod) -> Edit {
    let ports = pod.ports.iter().map(|(name, protocol, number)| PodPort {
        name: (*name).to_owned(),
        protocol: protocol_number(protocol).unwrap(),
        number: *number,
    });
    let known = KnownPod {
        namespace: pod.namespace.clone(),
        labels: pod.labels.clone(),
        ports: ports.collect(),
    };
    Edit::Pods(ObjectKey::new(&*pod.namespace, &*pod.name), vec![(uid(pod), known)])
}

fn attached(pods: &[Pod]) -> Edit {
    Edit::Attached(pods.iter().map(|pod| (uid(pod), pod.addresses.clone())).collect::<Addresses>())
}

fn key(number: usize, policy: &NetworkPolicy) -> ObjectKey {
    ObjectKey::new(policy.metadata.namespace.clone().unwrap(), format!("{number:03}"))
}

/// All that a master tells.
fn told(pods: &[Pod], policies: &BTreeMap<ObjectKey, NetworkPolicy>) -> Vec<Edit> {
    let mut edits: Vec<Edit> = pods.iter().map(known).collect();
    edits.extend(policies.iter().map(|(key, policy)| {
        Edit::Policy(key.clone(), Some(Arc::new(Policy::of(policy).unwrap())))
    }));
    let all: Vec<NetworkPolicy> = policies.values().cloned().collect();
    edits.extend(world::peers(&all, pods).into_iter().flat_map(|(set, pods)| {
        pods.into_iter().map(move |(pod, peer)| Edit::Peer {
            set: set.clone(),
            pod,
            peer: Some(peer),
        })
    }));
    edits.push(attached(pods));
    edits
}

fn numbered_all(policies: &[NetworkPolicy]) -> BTreeMap<ObjectKey, NetworkPolicy> {
    policies.iter().enumerate().map(|(number, one)| (key(number, one), one.clone())).collect()
}

fn machine(content: &Content, ip: Ip) -> Machine {
    let mut machine = Machine::default();
    machine.apply(&numbered_replacement(content, ip, ROUND));
    machine
}

fn any_policies(random: &mut Rng, pods: &[Pod], at_most: usize) -> Vec<NetworkPolicy> {
    (0..1 + random.usize(..at_most))
        .map(|number| world::any_policy(random, &number.to_string(), pods))
        .collect()
}

/// Every connection between pods, and with somebody outside.
fn connections(pods: &[Pod], outside: [IpAddr; 2]) -> Vec<Connection<'_>> {
    let ends = |family: usize| {
        let pods =
            pods.iter().map(move |pod| End { pod: Some(pod), address: pod.addresses[family] });
        pods.chain([End { pod: None, address: outside[family] }]).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for family in [0, 1] {
        for from in ends(family) {
            for to in ends(family) {
                for port in PORTS {
                    for protocol in PROTOCOLS {
                        all.push(Connection { from, to, protocol, port });
                    }
                }
            }
        }
    }
    all
}

#[test]
fn packets_fare_as_the_documentation_says() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let pods = pods();
    let outside: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let mut rounds = world::all_sayings(&mut random, &pods);
    rounds.extend((0..10).map(|_| any_policies(&mut random, &pods, 12)));
    for policies in rounds {
        let model = Model::new(true, told(&pods, &numbered_all(&policies)));
        let machines = Ip::ALL.map(|ip| machine(&model.content(ip), ip));
        for connection in connections(&pods, outside) {
            let Connection { from, to, protocol, port } = connection;
            // The node passes on what a pod is concerned in.
            if from.pod.is_none() && to.pod.is_none() {
                continue;
            }
            let wanted = oracle::allows(&policies, &connection);
            let number = protocol_number(protocol).unwrap();
            let machine = &machines[usize::from(from.address.is_ipv6())];
            let begins = Packet {
                source: from.address,
                destination: to.address,
                protocol: number,
                ports: (40_000, port),
                answers: false,
                mark: 0,
            };
            let answers = Packet {
                source: to.address,
                destination: from.address,
                ports: (port, 40_000),
                answers: true,
                ..begins
            };
            for packet in [begins, answers, Packet { mark: ROUND - 1, ..begins }] {
                let expected = match (wanted, protocol) {
                    // A pod itself is let through before anything is noted.
                    (true, _) if from.address == to.address && from.pod.is_some() => {
                        matches!(machine.send(packet), Outcome::Passes(_))
                    }
                    (true, _) => machine.send(packet) == Outcome::Passes(ROUND),
                    (false, "TCP") => machine.send(packet) == Outcome::Refused(Rejection::TcpReset),
                    (false, _) => machine.send(packet) == Outcome::Refused(Rejection::Prohibited),
                };
                assert!(
                    expected,
                    "KUTTER_SEED={seed}: {packet:?} should be allowed: {wanted}; under {policies:#?}"
                );
            }
            let noted = Packet { mark: ROUND, ..begins };
            assert_eq!(
                machine.send(noted),
                Outcome::Passes(ROUND),
                "what was found is not asked again"
            );
        }
    }
}

/// What is kept as changes come, with the kernel's side of it.
struct Kept {
    model: Model,
    machines: [Machine; 2],
    contents: [Content; 2],
}

impl Kept {
    fn new() -> Self {
        let mut model = Model::new(true, Vec::new());
        assert!(model.news().is_none(), "of nothing there is none");
        let contents = Ip::ALL.map(|ip| model.content(ip));
        let mut number = Ip::ALL.into_iter();
        let machines = contents.each_ref().map(|content| machine(content, number.next().unwrap()));
        Self { model, machines, contents }
    }

    /// Tells the kernel what it has to know; returns how many elements are put or taken.
    fn tell(&mut self) -> usize {
        let mut elements = 0;
        let Some(news) = self.model.news() else { return 0 };
        for ((machine, (before, after)), ip) in self.machines.iter_mut().zip(&news).zip(Ip::ALL) {
            for commands in [additions(before, after), changes(before, after), numbered(ip, ROUND)]
            {
                machine.apply(&commands);
                elements += commands
                    .iter()
                    .map(|command| match command {
                        Command::AddElements(_, all) => all.len(),
                        Command::DeleteElements(_, all) => all.len(),
                        _ => 0,
                    })
                    .sum::<usize>();
            }
        }
        elements
    }

    /// How many elements differ between what is and what was at the last time.
    fn difference(&mut self) -> usize {
        let now = Ip::ALL.map(|ip| self.model.content(ip));
        let elements = |content: &Content| -> BTreeSet<String> {
            let sets = content.sets.iter();
            sets.flat_map(|(name, (_, all))| {
                all.iter().map(move |element| format!("{name} {element:?}"))
            })
            .collect()
        };
        let differ =
            self.contents.iter().zip(&now).map(|(before, after)| {
                elements(before).symmetric_difference(&elements(after)).count()
            });
        let differ = differ.sum();
        self.contents = now;
        differ
    }
}

#[test]
fn what_is_kept_is_what_a_newcomer_finds_and_changes_are_as_small_as_can_be() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let all = pods();
    let mut kept = Kept::new();
    let mut policies: BTreeMap<ObjectKey, NetworkPolicy> = BTreeMap::new();
    let mut here: BTreeSet<usize> = BTreeSet::new();
    let mut somewhere: Vec<Pod> = all.clone();
    all.iter().for_each(|pod| kept.model.apply(known(pod)));
    let mut peers: BTreeMap<(String, String), Arc<PodPeer>> = BTreeMap::new();
    for step in 0..250 {
        // Several things may happen before the kernel is told.
        for _ in 0..1 + random.usize(..3) {
            match random.u8(..8) {
                0 | 1 => {
                    let one = world::any_policy(&mut random, "any", &all);
                    let key = key(random.usize(..6), &one);
                    let policy = Arc::new(Policy::of(&one).unwrap());
                    policies.insert(key.clone(), one);
                    kept.model.apply(Edit::Policy(key, Some(policy)));
                }
                2 => {
                    let keys: Vec<ObjectKey> = policies.keys().cloned().collect();
                    if !keys.is_empty() {
                        let key = &keys[random.usize(..keys.len())];
                        policies.remove(key);
                        kept.model.apply(Edit::Policy(key.clone(), None));
                    }
                }
                3 | 4 => {
                    let number = random.usize(..all.len());
                    if !here.remove(&number) {
                        here.insert(number);
                    }
                    let pods: Vec<Pod> = here.iter().map(|one| somewhere[*one].clone()).collect();
                    kept.model.apply(attached(&pods));
                }
                5 => {
                    // Another one's labels and names of ports.
                    let number = random.usize(..all.len());
                    let like = &all[random.usize(..all.len())];
                    somewhere[number].labels = like.labels.clone();
                    somewhere[number].ports = like.ports.clone();
                    kept.model.apply(known(&somewhere[number]));
                }
                6 => {
                    // Its master has forgotten it, it is about to end.
                    let pod = &somewhere[random.usize(..all.len())];
                    let key = ObjectKey::new(&*pod.namespace, &*pod.name);
                    kept.model.apply(Edit::Pods(key, Vec::new()));
                    kept.model.apply(known(pod));
                }
                _ => {}
            }
            // What a master makes of that.
            let now: Vec<NetworkPolicy> = policies.values().cloned().collect();
            let now = world::peers(&now, &somewhere).into_iter().flat_map(|(set, pods)| {
                pods.into_iter().map(move |(pod, peer)| ((set.clone(), pod), peer))
            });
            let now: BTreeMap<(String, String), Arc<PodPeer>> = now.collect();
            let mut edits = Vec::new();
            for ((set, pod), _) in peers.iter().filter(|(key, _)| !now.contains_key(*key)) {
                edits.push(Edit::Peer { set: set.clone(), pod: pod.clone(), peer: None });
            }
            for ((set, pod), peer) in now.iter().filter(|(key, peer)| peers.get(*key) != Some(peer))
            {
                let peer = Some(peer.clone());
                edits.push(Edit::Peer { set: set.clone(), pod: pod.clone(), peer });
            }
            random.shuffle(&mut edits);
            edits.into_iter().for_each(|edit| kept.model.apply(edit));
            peers = now;
        }
        let told_elements = kept.tell();
        assert_eq!(told_elements, kept.difference(), "KUTTER_SEED={seed}, step {step}");
        assert_eq!(kept.tell(), 0, "KUTTER_SEED={seed}, step {step}: it is told once");
        let mut edits: Vec<Edit> = told(&somewhere, &policies);
        edits.pop();
        let pods: Vec<Pod> = here.iter().map(|one| somewhere[*one].clone()).collect();
        edits.push(attached(&pods));
        let newcomer = Model::new(true, edits);
        for (number, ip) in Ip::ALL.into_iter().enumerate() {
            assert!(
                kept.contents[number] == newcomer.content(ip),
                "KUTTER_SEED={seed}, step {step}: {:#?}\n{:#?}",
                kept.contents[number],
                newcomer.content(ip)
            );
            let fresh = machine(&newcomer.content(ip), ip);
            assert!(kept.machines[number] == fresh, "KUTTER_SEED={seed}, step {step}");
        }
    }
}

#[test]
fn pods_that_no_master_knows_are_cut_off_once_it_is_sure() {
    let pods = pods();
    let unknown = vec![attached(&pods[..1])];
    let open = Model::new(false, unknown.clone());
    assert_eq!(open.content(Ip::V4), Content::bare(Ip::V4));
    let closed = Model::new(true, unknown);
    let machine = machine(&closed.content(Ip::V4), Ip::V4);
    let packet = Packet {
        source: pods[1].addresses[0],
        destination: pods[0].addresses[0],
        protocol: 6,
        ports: (40_000, 80),
        answers: false,
        mark: 0,
    };
    assert_eq!(machine.send(packet), Outcome::Refused(Rejection::TcpReset));
}

#[test]
fn a_policy_that_makes_no_sense_closes_until_it_makes_some() {
    let key = ObjectKey::new("shop", "p");
    let object = |version: &str, cidr: &str| {
        let object = json!({
            "metadata": {"namespace": "shop", "name": "p", "resourceVersion": version},
            "spec": {"policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]},
        });
        HashMap::from([(key.clone(), Arc::new(serde_json::from_value(object).unwrap()))])
    };
    let broken = understood(&Policies::new(), &object("1", "10.0.0.0/40"));
    assert_eq!(*broken[&key].1, Policy::closed());
    let again = understood(&broken, &object("1", "10.0.0.0/40"));
    assert!(Arc::ptr_eq(&again[&key].1, &broken[&key].1), "it is told once");
    let mended = understood(&again, &object("2", "10.0.0.0/24"));
    assert_eq!(mended[&key].1.ingress.as_ref().map(Vec::len), Some(1));
    assert_eq!(mended[&key].1.egress, None);
}

/// The time is printed, for comparison with what every change took when all was made anew; what is held is
/// how much the kernel is told.
#[test]
fn a_change_costs_what_it_touches() {
    let peer = |number: u32| Edit::Peer {
        set: format!("ns/[app={}]", number % 50),
        pod: format!("ns/pod-{number}"),
        peer: Some(Arc::new(PodPeer {
            addresses: vec![IpAddr::from((0x0af4_0000 + number).to_be_bytes())],
            ports: Vec::new(),
        })),
    };
    let policy = |app: usize| {
        let spec = serde_json::json!({
            "podSelector": {"matchLabels": {"app": app.to_string()}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app.to_string()}}}], "ports": [{"port": 80}]}],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": ((app + 1) % 50).to_string()}}}]}],
        });
        let object = world::policy("ns", &app.to_string(), spec);
        let key = ObjectKey::new("ns", app.to_string());
        Edit::Policy(key, Some(Arc::new(Policy::of(&object).unwrap())))
    };
    let known = |number: usize| {
        let labels = BTreeMap::from([("app".to_owned(), (number % 50).to_string())]);
        let known = KnownPod { namespace: "ns".to_owned(), labels, ports: Vec::new() };
        Edit::Pods(ObjectKey::new("ns", number.to_string()), vec![(number.to_string(), known)])
    };
    let addresses = (0..100_u32).map(|number| {
        (number.to_string(), vec![IpAddr::from((0x0af4_0000 + number).to_be_bytes())])
    });
    let mut edits: Vec<Edit> = (0..100).map(known).collect();
    edits.extend((0..50).map(policy));
    edits.extend((0..5_000).map(peer));
    edits.push(Edit::Attached(addresses.collect()));
    let began = std::time::Instant::now();
    let mut model = Model::new(true, edits);
    let contents = Ip::ALL.map(|ip| model.content(ip));
    let anew = began.elapsed();
    assert_eq!(contents[0].sets["ingress"].1.len(), 100);
    model.news();
    let began = std::time::Instant::now();
    for number in 5_000..5_100 {
        model.apply(peer(number));
        let [(before, after), ipv6] = model.news().unwrap();
        // In the classes of its own and of the one that reaches it.
        let elements = |content: &Content| content.sets.values().map(|(_, all)| all.len()).sum();
        assert_eq!((elements(&before), elements(&after)), (0_usize, 2));
        assert_eq!(ipv6, (Content::default(), Content::default()));
    }
    let change = began.elapsed() / 100;
    println!(
        "all anew {anew:?}, a change {change:?}: {:.0} times",
        anew.as_secs_f64() / change.as_secs_f64()
    );
}
