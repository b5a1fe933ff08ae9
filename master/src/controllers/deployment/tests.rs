//! Decisions, that they settle, and that no rollout takes more pods away than it may.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use proto::k8s::api::apps::v1::{Deployment, ReplicaSet};
use proto::k8s::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::reconcile::{Action, Observed, Plan, reconcile};
use super::sets::{self, Bounds};
use crate::api::kinds::{Deployments, Kind};
use crate::dice::Dice;

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn deployment(change: impl FnOnce(&mut Value)) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 3},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "app:1"}]},
            },
        },
    });
    change(&mut object);
    let mut deployment = serde_json::from_value(object).unwrap();
    Deployments::default(&mut deployment);
    deployment
}

fn with_image(deployment: &Deployment, image: &str) -> Deployment {
    let mut deployment = deployment.clone();
    deployment.spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    Deployments::default(&mut deployment);
    deployment
}

/// A cluster with nothing but a Deployment, its sets, and their pods as flags of readiness.
#[derive(Clone)]
struct Model {
    deployment: Deployment,
    sets: Vec<(ReplicaSet, Vec<bool>)>,
    made: u32,
    now: Timestamp,
}

impl Model {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), made: 0, now: now() }
    }

    fn plan(&self) -> Plan {
        let sets: Vec<ReplicaSet> = self.sets.iter().map(|(set, _)| set.clone()).collect();
        let running = self.sets.iter().filter(|(_, pods)| !pods.is_empty());
        let running: BTreeSet<String> = running.map(|(set, _)| sets::uid(set).to_owned()).collect();
        reconcile(&self.deployment, &Observed { sets: &sets, running: &running, now: self.now })
    }

    /// One pass of the controller; tells whether it did anything.
    fn pass(&mut self) -> Vec<String> {
        let plan = self.plan();
        let mut told = Vec::new();
        for action in plan.actions {
            let find = |name: &str| self.sets.iter().position(|(set, _)| sets::name(set) == name);
            match action {
                Action::Create(set) => {
                    let mut set = *set;
                    assert_eq!(find(sets::name(&set)), None, "the name is free");
                    self.made += 1;
                    set.metadata.generation = Some(1);
                    set.metadata.uid = Some(format!("set-{}", self.made));
                    set.metadata.creation_timestamp = Some(Time(later(self.made.into())));
                    told.push(format!("create {}", sets::replicas(&set)));
                    self.sets.push((set, Vec::new()));
                }
                Action::Change { set, change, .. } => {
                    let index = find(&set).unwrap();
                    let set = &mut self.sets[index].0;
                    if let Some((from, to)) = change.replicas {
                        assert_eq!(sets::replicas(set), from);
                        told.push(format!("scale {} {from}-{to}", sets::revision(set)));
                        set.spec.replicas = Some(to);
                        *set.metadata.generation.get_or_insert_default() += 1;
                    } else {
                        told.push(format!("note {}", sets::revision(set)));
                    }
                    set.metadata.annotations.get_or_insert_default().extend(change.annotations);
                    if let Some(seconds) = change.min_ready_seconds {
                        set.spec.min_ready_seconds = seconds;
                    }
                }
                Action::Delete { set, .. } => {
                    let index = find(&set).unwrap();
                    told.push(format!("delete {}", sets::revision(&self.sets[index].0)));
                    assert!(self.sets[index].1.is_empty());
                    self.sets.remove(index);
                }
                Action::Adopt { set, .. } => {
                    told.push("adopt".to_owned());
                    let owner = sets::owner_reference(&self.deployment);
                    let index = find(&set).unwrap();
                    self.sets[index].0.metadata.owner_references = Some(vec![owner]);
                }
                Action::Release { set, .. } => {
                    told.push("release".to_owned());
                    let index = find(&set).unwrap();
                    self.sets[index].0.metadata.owner_references = None;
                }
            }
        }
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(sets::REVISION.to_owned(), revision);
        }
        self.deployment.status = Some(plan.status);
        told
    }

    /// A ReplicaSet makes or deletes pods, unready ones first.
    fn fill(&mut self, index: usize) {
        let (set, pods) = &mut self.sets[index];
        let wanted = usize::try_from(sets::replicas(set)).unwrap();
        pods.sort_by_key(|ready| !ready);
        pods.resize(wanted, false);
    }

    /// A pod becomes ready.
    fn ready(&mut self, index: usize) {
        if let Some(pod) = self.sets[index].1.iter_mut().find(|ready| !**ready) {
            *pod = true;
        }
    }

    fn report(&mut self, index: usize) {
        let (set, pods) = &mut self.sets[index];
        let (wanted, generation) = (sets::replicas(set), set.metadata.generation);
        let status = set.status.get_or_insert_default();
        let count =
            |ready: bool| i32::try_from(pods.iter().filter(|pod| **pod || !ready).count()).unwrap();
        status.replicas = count(false);
        status.ready_replicas = Some(count(true));
        status.available_replicas = Some(count(true));
        // A set says so when it has nothing left to do.
        if status.replicas == wanted {
            status.observed_generation = generation;
        }
    }

    /// All pods are there that should be, and reported.
    fn filled(&mut self) {
        for index in 0..self.sets.len() {
            self.fill(index);
            self.report(index);
        }
    }

    fn all_ready(&mut self) {
        for index in 0..self.sets.len() {
            self.fill(index);
            while self.sets[index].1.contains(&false) {
                self.ready(index);
            }
            self.report(index);
        }
    }

    /// Lets everything happen until nothing is left to do.
    fn settle(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for round in 0.. {
            assert!(round < 60, "does not settle: {told:?}");
            let step = self.pass();
            if step.is_empty() {
                self.all_ready();
                let before = self.deployment.status.clone();
                if self.pass().is_empty() && self.deployment.status == before {
                    break;
                }
            }
            told.extend(step);
        }
        told
    }

    fn available(&self) -> i32 {
        let ready = self.sets.iter().flat_map(|(_, pods)| pods).filter(|ready| **ready);
        i32::try_from(ready.count()).unwrap()
    }

    fn wanted(&self) -> i32 {
        self.sets.iter().map(|(set, _)| sets::replicas(set)).sum()
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let status = self.deployment.status.clone().unwrap();
        let mut conditions = status.conditions.into_iter().flatten();
        let found = conditions.find(|condition| condition.type_.as_deref() == Some(type_));
        let found = found.unwrap_or_default();
        (found.status.unwrap_or_default(), found.reason.unwrap_or_default())
    }
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn running() -> Model {
    let mut model = Model::new(deployment(|_| {}));
    model.settle();
    model
}

#[test]
fn a_new_deployment_makes_one_set_of_full_size() {
    let mut model = Model::new(deployment(|_| {}));
    assert_eq!(model.pass(), ["create 4"]);
    let set = model.sets[0].0.clone();
    assert!(sets::name(&set).starts_with("web-"));
    let hash = sets::name(&set).strip_prefix("web-").unwrap();
    assert_eq!(set.metadata.labels.as_ref().unwrap()[sets::HASH_LABEL], hash);
    assert_eq!(set.spec.selector.match_labels.as_ref().unwrap()[sets::HASH_LABEL], hash);
    let template = set.spec.template.as_ref().unwrap().metadata.as_ref().unwrap();
    assert_eq!(template.labels.as_ref().unwrap()[sets::HASH_LABEL], hash);
    assert_eq!(sets::revision(&set), 1);
    assert_eq!(model.condition("Progressing"), pair("True", "NewReplicaSetCreated"));
    assert_eq!(model.condition("Available"), pair("False", "MinimumReplicasUnavailable"));
    assert!(model.settle().is_empty());
    assert_eq!(model.condition("Progressing"), pair("True", "NewReplicaSetAvailable"));
    assert_eq!(model.condition("Available"), pair("True", "MinimumReplicasAvailable"));
    assert_eq!(sets::annotation(&model.deployment.metadata, sets::REVISION), Some("1"));
}

#[test]
fn a_rolling_update_keeps_to_its_bounds_step_by_step() {
    let mut model = running();
    model.deployment = with_image(&model.deployment, "app:2");
    // 25 % of 4 each way: five pods at the most, three available at the least.
    assert_eq!(model.pass(), ["create 1"]);
    assert!(model.pass().is_empty(), "nothing until the new set was heard of");
    model.filled();
    assert_eq!(model.pass(), ["scale 1 4-3"]);
    assert_eq!(model.pass(), ["scale 2 1-2"]);
    model.filled();
    assert!(model.pass().is_empty(), "nothing until something is ready");
    model.all_ready();
    assert_eq!(model.pass(), ["scale 1 3-1"]);
    assert_eq!(model.pass(), ["scale 2 2-4"]);
    assert_eq!(model.condition("Progressing"), pair("True", "ReplicaSetUpdated"));
    model.settle();
    assert_eq!(model.sets.iter().map(|(set, _)| sets::replicas(set)).collect::<Vec<_>>(), [0, 4]);
    assert_eq!(model.condition("Progressing"), pair("True", "NewReplicaSetAvailable"));
}

#[test]
fn old_pods_that_do_not_work_go_first() {
    let mut model = running();
    model.sets[0].1 = vec![true, true, true, false];
    model.report(0);
    model.deployment = with_image(&model.deployment, "app:2");
    assert_eq!(model.pass(), ["create 1"]);
    model.filled();
    assert_eq!(model.pass(), ["scale 1 4-3"], "the one that is not ready");
    assert_eq!(model.pass(), ["scale 2 1-2"]);
    model.filled();
    assert!(model.pass().is_empty());
}

#[test]
fn recreate_ends_all_old_pods_before_it_starts_new_ones() {
    let mut model = Model::new(deployment(|d| d["spec"]["strategy"] = json!({"type": "Recreate"})));
    model.settle();
    model.deployment = with_image(&model.deployment, "app:2");
    assert_eq!(model.pass(), ["scale 1 4-0"]);
    assert!(model.pass().is_empty());
    model.report(0);
    assert!(model.pass().is_empty(), "the pods are still there");
    model.fill(0);
    assert!(model.pass().is_empty(), "the status still counts them");
    model.report(0);
    assert_eq!(model.pass(), ["create 4"]);
    model.settle();
    assert_eq!(model.condition("Progressing"), pair("True", "NewReplicaSetAvailable"));
}

#[test]
fn rolling_back_reuses_the_set_under_a_new_number() {
    let mut model = running();
    let first = model.deployment.spec.template.clone();
    model.deployment = with_image(&model.deployment, "app:2");
    model.settle();
    model.deployment.spec.template = first;
    model.settle();
    assert_eq!(model.sets.len(), 2);
    assert_eq!(sets::revision(&model.sets[0].0), 3);
    assert_eq!(sets::replicas(&model.sets[0].0), 4);
    let history = sets::annotation(&model.sets[0].0.metadata, sets::REVISION_HISTORY);
    assert_eq!(history, Some("1"));
    assert_eq!(sets::annotation(&model.deployment.metadata, sets::REVISION), Some("3"));
}

#[test]
fn no_more_revisions_are_kept_than_asked_for() {
    let mut model = Model::new(deployment(|d| d["spec"]["revisionHistoryLimit"] = json!(2)));
    for version in 1..=5 {
        model.deployment = with_image(&model.deployment, &format!("app:{version}"));
        model.settle();
    }
    let revisions: Vec<i64> = model.sets.iter().map(|(set, _)| sets::revision(set)).collect();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut model = running();
    model.deployment = with_image(&model.deployment, "app:2");
    model.deployment.spec.paused = Some(true);
    assert!(model.pass().is_empty());
    assert_eq!(model.condition("Progressing"), pair("Unknown", "DeploymentPaused"));
    model.deployment.spec.replicas = Some(6);
    assert_eq!(model.pass(), ["scale 1 4-6"]);
    model.deployment.spec.paused = Some(false);
    assert_eq!(model.pass(), ["create 2"]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_shares() {
    let mut model = Model::new(deployment(|d| {
        d["spec"]["replicas"] = json!(10);
        d["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    }));
    model.settle();
    model.deployment = with_image(&model.deployment, "broken");
    assert_eq!(model.pass(), ["create 3"]);
    model.filled();
    assert_eq!(model.pass(), ["scale 1 10-8"]);
    assert_eq!(model.pass(), ["scale 2 3-5"]);
    model.filled();
    assert!(model.pass().is_empty());
    // The example of Kubernetes' documentation: five more, three of them for the larger set.
    model.deployment.spec.replicas = Some(15);
    let mut steps = model.pass();
    steps.sort();
    assert_eq!(steps, ["scale 1 8-11", "scale 2 5-7"]);
    assert_eq!(model.wanted(), 18);
    assert!(model.pass().is_empty());
    model.deployment.spec.replicas = Some(0);
    model.pass();
    assert_eq!(model.wanted(), 0);
}

#[test]
fn a_rollout_that_does_not_get_on_is_told_after_the_deadline() {
    let mut model = Model::new(deployment(|d| d["spec"]["progressDeadlineSeconds"] = json!(60)));
    model.pass();
    assert_eq!(model.plan().changes_at, Some(later(60)));
    model.now = later(59);
    model.pass();
    assert_eq!(model.condition("Progressing"), pair("True", "NewReplicaSetCreated"));
    model.now = later(60);
    model.pass();
    assert_eq!(model.condition("Progressing"), pair("False", "ProgressDeadlineExceeded"));
    assert_eq!(model.plan().changes_at, None);
    model.settle();
    assert_eq!(model.condition("Progressing"), pair("True", "NewReplicaSetAvailable"));
    // Having come to its end it has no deadline any more.
    model.now = later(600);
    model.pass();
    assert_eq!(model.condition("Progressing"), pair("True", "NewReplicaSetAvailable"));
}

#[test]
fn the_failure_of_a_set_is_the_failure_of_the_deployment() {
    let mut model = Model::new(deployment(|_| {}));
    model.pass();
    model.sets[0].0.status = serde_json::from_value(json!({
        "replicas": 0,
        "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}],
    }))
    .unwrap();
    model.pass();
    assert_eq!(model.condition("ReplicaFailure"), pair("True", "FailedCreate"));
    model.sets[0].0.status = None;
    model.pass();
    assert_eq!(model.condition("ReplicaFailure"), pair("", ""));
}

#[test]
fn adopts_and_releases_sets_as_the_selector_says() {
    let mut model = running();
    model.sets[0].0.metadata.owner_references = None;
    assert_eq!(model.pass(), ["adopt"]);
    let labels = model.sets[0].0.metadata.labels.as_mut().unwrap();
    labels.insert("app".to_owned(), "other".to_owned());
    assert_eq!(model.plan().actions.len(), 2, "released, and replaced");
    let deleting = Deployment { status: None, ..model.deployment.clone() };
    model.deployment = deleting;
    model.deployment.metadata.deletion_timestamp = Some(Time(now()));
    assert!(model.plan().actions.is_empty());
}

#[test]
fn a_collision_leads_to_another_name() {
    let mut deployment = deployment(|_| {});
    let name =
        |deployment: &Deployment| sets::name(&sets::for_template(deployment, 1, 1)).to_owned();
    let first = name(&deployment);
    assert_eq!(name(&deployment), first);
    deployment.status.get_or_insert_default().collision_count = Some(1);
    assert_ne!(name(&deployment), first);
}

#[test]
fn percentages_round_so_that_something_moves() {
    let of = |replicas: i32, surge: Value, unavailable: Value| {
        let rolling = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let bounds = Bounds::of(&deployment(|d| {
            d["spec"]["replicas"] = json!(replicas);
            d["spec"]["strategy"] = json!({"rollingUpdate": rolling});
        }));
        (bounds.max(), bounds.min_available())
    };
    for (replicas, surge, unavailable, expected) in [
        (4, json!("25%"), json!("25%"), (5, 3)),
        (1, json!("25%"), json!("25%"), (2, 1)),
        (3, json!("25%"), json!("25%"), (4, 3)),
        (3, json!(0), json!("10%"), (3, 2)),
        (3, json!(2), json!(0), (5, 3)),
        (3, json!(0), json!(7), (3, 0)),
        (0, json!(1), json!(1), (1, 0)),
        (i32::MAX, json!("100%"), json!("100%"), (i32::MAX, 0)),
    ] {
        assert_eq!(of(replicas, surge, unavailable), expected);
    }
}

/// A rollout among others, by chance.
fn change(dice: &mut Dice, model: &mut Model, versions: usize) {
    if dice.one_in(2) {
        let image = format!("app:{}", dice.below(versions));
        model.deployment = with_image(&model.deployment, &image);
    }
    if dice.one_in(6) {
        model.deployment.spec.paused = Some(dice.one_in(2));
    }
}

fn random(dice: &mut Dice) -> Model {
    let rolling = json!({
        "maxSurge": dice.pick(&["0%", "10%", "25%", "50%", "100%"]),
        "maxUnavailable": dice.pick(&["1%", "25%", "50%", "100%"]),
    });
    let replicas = 1 + dice.below(12);
    let recreate = dice.one_in(5);
    let mut model = Model::new(deployment(|d| {
        d["spec"]["replicas"] = json!(replicas);
        d["spec"]["revisionHistoryLimit"] = json!(1);
        d["spec"]["strategy"] = match recreate {
            true => json!({"type": "Recreate"}),
            false => json!({"rollingUpdate": rolling}),
        };
    }));
    model.settle();
    model
}

#[test]
fn no_order_of_events_takes_away_more_than_may_be_unavailable() {
    for seed in 1..=400 {
        let dice = &mut Dice::new(seed);
        let mut model = random(dice);
        let bounds = Bounds::of(&model.deployment);
        let recreate = sets::recreates(&model.deployment);
        for step in 0..120 {
            match dice.below(8) {
                0 => change(dice, &mut model, 3),
                1..=3 => drop(model.pass()),
                other if !model.sets.is_empty() => {
                    let index = dice.below(model.sets.len());
                    match other {
                        4 => model.ready(index),
                        5 => model.fill(index),
                        _ => model.report(index),
                    }
                }
                _ => {}
            }
            assert!(model.wanted() <= bounds.max(), "seed {seed}, step {step}: too many");
            let available = model.available();
            let enough = recreate || available >= bounds.min_available();
            assert!(enough, "seed {seed}, step {step}: {available} of {bounds:?}");
        }
    }
}

#[test]
fn from_any_start_it_settles_with_all_pods_of_the_newest_template() {
    for seed in 1..=300 {
        let dice = &mut Dice::new(seed);
        let mut model = random(dice);
        for _ in 0..dice.below(40) {
            match dice.below(6) {
                0 => change(dice, &mut model, 4),
                1 => {
                    let replicas = i32::try_from(dice.below(15)).unwrap();
                    model.deployment.spec.replicas = Some(replicas);
                }
                2..=3 => drop(model.pass()),
                _ if !model.sets.is_empty() => {
                    let index = dice.below(model.sets.len());
                    model.fill(index);
                    model.ready(index);
                    model.report(index);
                }
                _ => {}
            }
        }
        model.deployment.spec.paused = None;
        model.settle();
        let replicas = model.deployment.spec.replicas.unwrap();
        let template = &model.deployment.spec.template;
        for (set, pods) in &model.sets {
            let expected = if sets::is_of_template(set, template) { replicas } else { 0 };
            assert_eq!(pods.len(), usize::try_from(expected).unwrap(), "seed {seed}");
        }
        assert_eq!(model.wanted(), replicas, "seed {seed}");
        assert!(model.sets.len() <= 2, "seed {seed}: one revision beside the present one");
        let complete = pair("True", "NewReplicaSetAvailable");
        assert_eq!(model.condition("Progressing"), complete, "seed {seed}");
    }
}
