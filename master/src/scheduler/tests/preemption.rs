//! Who gives way to whom.

use super::random::{Reference, random_node, random_pod};
use super::*;
use crate::dice::Dice;
use crate::scheduler::filter::{self, Usage};
use crate::scheduler::preemption::{Plan, Refusal};

fn of_priority(mut pod: Value, priority: i32) -> Value {
    pod["spec"]["priority"] = json!(priority);
    pod
}

/// A pod that takes so many cores.
fn taking(name: &str, cpu: &str, priority: i32) -> Value {
    of_priority(requesting(name, cpu, "0"), priority)
}

fn created(mut pod: Value, at: &str) -> Value {
    pod["metadata"]["creationTimestamp"] = json!(at);
    pod
}

/// The node and the names of the victims.
fn told(model: &Model, plan: &Plan) -> (String, Vec<String>) {
    let mut victims: Vec<String> =
        plan.victims.iter().map(|victim| victim.key.name.clone()).collect();
    victims.sort();
    (model.name(plan.node).to_string(), victims)
}

fn preempt(model: &Model, pod: &Value) -> Result<(String, Vec<String>), Refusal> {
    assert_eq!(model.place(&seen(pod)), None, "it fits without");
    model.preempt(&seen(pod)).map(|plan| told(model, &plan))
}

fn victims(node: &str, victims: &[&str]) -> Result<(String, Vec<String>), Refusal> {
    Ok((node.to_owned(), victims.iter().map(|name| (*name).to_owned()).collect()))
}

#[test]
fn a_less_important_pod_gives_way_and_no_other() {
    let mut model = model(&[node("a")]);
    for (name, cpu, priority) in [("low", "1", 1), ("lower", "1", 0), ("high", "2", 10)] {
        model.set_pod(seen(&taking(name, cpu, priority)), "a");
    }
    assert_eq!(preempt(&model, &taking("p", "1", 5)), victims("a", &["lower"]));
    assert_eq!(preempt(&model, &taking("p", "2", 5)), victims("a", &["low", "lower"]));
    let nobody = Err(Refusal::Nobody { not_helpful: 0, no_victims: 1 });
    assert_eq!(preempt(&model, &taking("p", "3", 5)), nobody);
    assert_eq!(preempt(&model, &taking("p", "1", 0)), nobody);
    // More than the node has.
    let too_large = Err(Refusal::Nobody { not_helpful: 1, no_victims: 0 });
    assert_eq!(preempt(&model, &taking("p", "5", 50)), too_large);
}

#[test]
fn the_node_with_the_least_harm_is_taken() {
    let case = |nodes: &[&[(&str, &str, i32)]]| {
        let names: Vec<String> = (0..nodes.len()).map(|index| format!("n{index}")).collect();
        let mut model = model(&names.iter().map(|name| node(name)).collect::<Vec<_>>());
        for (name, pods) in names.iter().zip(nodes) {
            for (pod, cpu, priority) in *pods {
                model.set_pod(seen(&taking(pod, cpu, *priority)), name);
            }
        }
        preempt(&model, &taking("p", "4", 100))
    };
    // The highest of them first, then the sum, then how many.
    assert_eq!(case(&[&[("a", "4", 3)], &[("b", "4", 2)]]), victims("n1", &["b"]));
    let two: &[_] = &[("a", "2", 3), ("b", "2", 3)];
    assert_eq!(case(&[two, &[("c", "4", 3)]]), victims("n1", &["c"]));
    let negative: &[_] = &[("a", "2", -3), ("b", "2", -3)];
    assert_eq!(case(&[negative, &[("c", "4", -3)]]), victims("n1", &["c"]));
    // The younger has lost less.
    let mut model = model(&[node("n0"), node("n1")]);
    let old = created(taking("old", "4", 0), "2026-01-01T00:00:00Z");
    let young = created(taking("young", "4", 0), "2026-01-02T00:00:00Z");
    model.set_pod(seen(&old), "n0");
    model.set_pod(seen(&young), "n1");
    assert_eq!(preempt(&model, &taking("p", "4", 100)), victims("n1", &["young"]));
}

#[test]
fn a_pod_that_wants_nobody_to_give_way_waits() {
    let mut model = model(&[node("a")]);
    model.set_pod(seen(&taking("low", "4", 0)), "a");
    let mut modest = taking("p", "1", 5);
    modest["spec"]["preemptionPolicy"] = json!("Never");
    assert_eq!(preempt(&model, &modest), Err(Refusal::Never));
}

#[test]
fn where_it_may_not_run_nobody_gives_way() {
    let mut tainted = node("tainted");
    tainted["spec"]["taints"] = json!([{"key": "gpu", "effect": "NoSchedule"}]);
    let mut model = model(&[tainted, node("other")]);
    model.set_pod(seen(&taking("one", "4", 0)), "tainted");
    model.set_pod(seen(&taking("two", "4", 7)), "other");
    let refused = preempt(&model, &taking("p", "4", 7)).unwrap_err();
    assert_eq!(
        refused.message(),
        " preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 \
         Preemption is not helpful for scheduling."
    );
}

#[test]
fn who_leaves_already_costs_nothing() {
    let mut model = model(&[node("a"), node("b")]);
    model.set_pod(seen(&taking("leaving", "4", 9)), "a");
    model.set_pod(seen(&taking("staying", "4", 0)), "b");
    model.set_leaving("uid-leaving");
    let plan = model.preempt(&seen(&taking("p", "4", 10))).unwrap();
    assert_eq!(told(&model, &plan), victims("a", &[]).unwrap());
    assert_eq!(plan.awaited.iter().map(|uid| &**uid).collect::<Vec<_>>(), ["uid-leaving"]);
}

#[test]
fn room_that_is_made_is_kept_for_whom_it_is_made() {
    let mut model = model(&[node("a")]);
    let urgent = taking("urgent", "3", 10);
    model.nominate(seen(&urgent), "a");
    assert_eq!(
        why(&model, &taking("lesser", "2", 9)),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
    assert!(model.place(&seen(&taking("small", "1", 9))).is_some());
    assert!(model.place(&seen(&taking("more-urgent", "2", 11))).is_some());
    assert!(model.fits_on(&seen(&urgent).demand, 0));
    assert!(!model.fits_on(&seen(&taking("lesser", "2", 9)).demand, 0));
    assert!(place(&mut model, &urgent).is_some());
    model.remove_pod("uid-urgent");
    assert!(model.place(&seen(&taking("lesser", "2", 9))).is_some());
    model.nominate(seen(&urgent), "a");
    assert_eq!(model.lesser_nominees(&seen(&taking("p", "1", 11)), 0).len(), 1);
    assert!(model.denominate("uid-urgent").is_some());
    model.remove_node("a");
    assert!(model.is_empty());
}

#[test]
fn whoever_gives_way_is_less_important_and_none_too_many() {
    let mut plans = 0;
    for seed in 1..=40 {
        let dice = &mut Dice::new(seed);
        let mut reference = Reference::default();
        let mut model = Model::default();
        for index in 0..1 + dice.below(6) {
            let node = info(&random_node(dice, &format!("n{index}")));
            model.set_node(node.clone());
            reference.nodes.insert(node.name.clone(), node);
        }
        for step in 0..120 {
            let priority = i32::try_from(dice.below(5)).unwrap() - 2;
            let pod = of_priority(random_pod(dice, &format!("{seed}-{step}")), priority);
            let pod = seen(&pod);
            if let Some(id) = model.place(&pod) {
                let node = model.name(id).to_string();
                model.assume(pod.clone(), id);
                reference.pods.insert(pod.uid.to_string(), (pod, node));
                continue;
            }
            // What is left of a node without some of its pods.
            let fits = |node: &str, gone: &dyn Fn(&PodInfo) -> bool| {
                let mut usage = Usage::default();
                let on = reference.pods.values().filter(|(other, on)| on == node && !gone(other));
                on.for_each(|(other, _)| usage.add(&other.demand));
                filter::fits(&pod.demand, &reference.nodes[node], &usage)
            };
            match model.preempt(&pod) {
                Ok(plan) => {
                    plans += 1;
                    let node = model.name(plan.node).to_string();
                    assert!(!plan.victims.is_empty());
                    for victim in &plan.victims {
                        assert!(victim.demand.priority < pod.demand.priority, "{victim:?}");
                        assert_eq!(reference.pods[&*victim.uid].1, node);
                    }
                    let is_victim = |other: &PodInfo| plan.victims.contains(other);
                    assert!(fits(&node, &is_victim), "seed {seed} step {step}: still no room");
                    for spared in &plan.victims {
                        let gone = |other: &PodInfo| is_victim(other) && other != spared;
                        assert!(!fits(&node, &gone), "seed {seed} step {step}: one too many");
                    }
                    for victim in plan.victims {
                        model.remove_pod(&victim.uid);
                        reference.pods.remove(&*victim.uid);
                    }
                }
                Err(Refusal::Never) => panic!("it does not say so"),
                Err(Refusal::Nobody { .. }) => {
                    let lesser = |other: &PodInfo| other.demand.priority < pod.demand.priority;
                    for node in reference.nodes.keys() {
                        assert!(!fits(node, &lesser), "seed {seed} step {step}: {node} would do");
                    }
                }
            }
        }
    }
    assert!(plans > 100, "{plans}");
}
