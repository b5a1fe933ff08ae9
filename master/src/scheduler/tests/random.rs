//! The model, held against a reference that looks at every node.

use super::*;
use crate::dice::Dice;
use crate::scheduler::demand::Demand;
use crate::scheduler::filter::{self, Usage};

pub(super) fn random_node(dice: &mut Dice, name: &str) -> Value {
    let mut node = node(name);
    node["status"]["allocatable"] = json!({
        "cpu": dice.pick(&["1", "2", "4", "8"]), "memory": dice.pick(&["1Gi", "4Gi", "16Gi"]),
        "pods": dice.pick(&["3", "10", "110"]),
    });
    node["metadata"]["labels"]["disk"] = json!(dice.pick(&["ssd", "hdd"]));
    node["metadata"]["labels"]["zone"] = json!(dice.pick(&["a", "b", "c"]));
    node["spec"]["unschedulable"] = json!(dice.below(10) == 0);
    let taint = |effect: &str| json!({"key": "gpu", "effect": effect});
    node["spec"]["taints"] = match dice.below(10) {
        0 => json!([taint("NoSchedule"), taint("PreferNoSchedule")]),
        1 => json!([taint("NoSchedule")]),
        2 | 3 => json!([taint("PreferNoSchedule")]),
        _ => json!(null),
    };
    if dice.below(10) == 0 {
        node["status"]["conditions"][0]["status"] = json!("Unknown");
    }
    node
}

pub(super) fn random_pod(dice: &mut Dice, name: &str) -> Value {
    let mut pod = requesting(
        name,
        dice.pick(&["0", "100m", "500m", "2", "4"]),
        dice.pick(&["0", "128Mi", "1Gi", "3Gi"]),
    );
    if dice.below(3) > 0 {
        pod = owned(pod, &format!("rc-{}", dice.below(6)));
    }
    pod = labelled(pod, "app", &format!("app-{}", dice.below(4)));
    match dice.below(8) {
        0 => {
            pod["spec"]["nodeSelector"] =
                json!({"disk": "ssd", "zone": dice.pick(&["a", "b", "x"])})
        }
        1 => {
            let effect = dice.pick(&["", "NoSchedule", "PreferNoSchedule"]);
            pod["spec"]["tolerations"] =
                json!([{"key": "gpu", "operator": "Exists", "effect": effect}]);
        }
        2 => {
            pod["spec"]["containers"][0]["ports"] =
                json!([{"containerPort": 1, "hostPort": 8000 + dice.below(3), "protocol": "TCP"}]);
        }
        _ => {}
    }
    pod
}

/// What the model has to agree with: plain lists, looked through from end to end.
#[derive(Default)]
pub(super) struct Reference {
    pub(super) nodes: BTreeMap<String, NodeInfo>,
    pub(super) pods: BTreeMap<String, (PodInfo, String)>,
}

impl Reference {
    fn usage(&self, node: &str) -> Usage {
        let mut usage = Usage::default();
        for (pod, _) in self.pods.values().filter(|(_, on)| on == node) {
            usage.add(&pod.demand);
        }
        usage
    }

    pub(super) fn feasible(&self, demand: &Demand) -> Vec<String> {
        let fits = |node: &&NodeInfo| filter::fits(demand, node, &self.usage(&node.name));
        self.nodes.values().filter(fits).map(|node| node.name.clone()).collect()
    }

    /// What decides first: how many taints speak against the node, then the pods of the same controller there.
    fn rank(&self, pod: &PodInfo, node: &str) -> (usize, usize) {
        let avoided = self.nodes[node].avoided.iter();
        (avoided.filter(|taint| !pod.demand.tolerates(taint)).count(), self.siblings(pod, node))
    }

    /// Pods of the same controller on the node.
    fn siblings(&self, pod: &PodInfo, node: &str) -> usize {
        let same = |(other, on): &&(PodInfo, String)| {
            on == node && other.controller.is_some() && other.controller == pod.controller
        };
        self.pods.values().filter(same).count()
    }
}

#[test]
fn thousands_of_random_pods_are_placed_where_a_full_scan_finds_them_to_fit() {
    for seed in 1..=12 {
        let dice = &mut Dice::new(seed);
        let (mut model, mut reference) = (Model::default(), Reference::default());
        let nodes = 3 + dice.below(90);
        service(&mut model, "one", "app", "app-1");
        for step in 0..600 {
            match dice.below(10) {
                0 => {
                    let name = format!("node-{}", dice.below(nodes));
                    let node = info(&random_node(dice, &name));
                    model.set_node(node.clone());
                    reference.nodes.insert(node.name.clone(), node);
                }
                1 if dice.below(4) == 0 => {
                    let name = format!("node-{}", dice.below(nodes));
                    model.remove_node(&name);
                    reference.nodes.remove(&name);
                }
                2 => {
                    let uids: Vec<_> = reference.pods.keys().cloned().collect();
                    if !uids.is_empty() {
                        let uid = &uids[dice.below(uids.len())];
                        model.remove_pod(uid);
                        reference.pods.remove(uid);
                    }
                }
                3 if dice.below(4) == 0 => {
                    service(&mut model, "two", "app", dice.pick(&["app-1", "app-2", "none"]));
                }
                _ => {
                    let pod = seen(&random_pod(dice, &format!("{seed}-{step}")));
                    let feasible = reference.feasible(&pod.demand);
                    let Some(id) = model.place(&pod) else {
                        assert!(feasible.is_empty(), "seed {seed} step {step}: fits {feasible:?}");
                        continue;
                    };
                    let node = model.name(id).to_string();
                    assert!(feasible.contains(&node), "seed {seed} step {step}: {node}");
                    let rank = |node: &String| reference.rank(&pod, node);
                    let best = feasible.iter().map(rank).min();
                    assert_eq!(Some(rank(&node)), best, "seed {seed} step {step}");
                    model.assume(pod.clone(), id);
                    reference.pods.insert(pod.uid.to_string(), (pod, node));
                }
            }
        }
    }
}

#[test]
fn taking_everything_away_leaves_nothing_behind() {
    let dice = &mut Dice::new(77);
    let mut model =
        model(&(0..20).map(|n| random_node(dice, &format!("n{n}"))).collect::<Vec<_>>());
    service(&mut model, "one", "app", "app-1");
    let mut placed = Vec::new();
    for index in 0..500 {
        let pod = random_pod(dice, &index.to_string());
        if place(&mut model, &pod).is_some() {
            placed.push(seen(&pod).uid);
        }
    }
    assert!(placed.len() > 50);
    for uid in placed {
        model.remove_pod(&uid);
    }
    for n in 0..20 {
        model.remove_node(&format!("n{n}"));
    }
    model.set_service(ObjectKey::new("default", "one"), BTreeMap::new());
    assert!(model.is_empty(), "{model:?}");
}
