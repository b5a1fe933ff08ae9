//! Decisions, and that they settle.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use proto::k8s::api::core::v1::Pod;
use serde_json::{Value, json};

use super::Replicated;
use super::reconcile::{self, Action, Desired, Failure, Observed, reconcile};
use crate::api::kinds::{ReplicaSets, ReplicationControllers};
use crate::controllers::pods::{Phase, PodView};
use crate::dice::Dice;

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn rc(replicas: usize) -> Desired {
    let object = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "rc", "generation": 7},
        "spec": {
            "replicas": replicas,
            "selector": {"app": "web"},
            "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}, "annotations": {"a": "b"}},
                "spec": {"containers": [{"name": "main", "image": "test"}]},
            },
        },
    });
    ReplicationControllers::desired(serde_json::from_value(object).unwrap())
}

/// A ready pod of the controller, an hour old.
fn pod(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
            "creationTimestamp": "2029-12-31T23:00:00Z",
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "rc",
                "controller": true,
            }],
        },
        "spec": {"nodeName": format!("node-of-{name}"), "containers": []},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2029-12-31T23:00:01Z"},
            ],
        },
    })
}

fn with(mut pod: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut pod);
    pod
}

fn unready(pod: Value) -> Value {
    with(pod, |pod| pod["status"]["conditions"][0]["status"] = json!("False"))
}

fn free(pod: Value) -> Value {
    with(pod, |pod| pod["metadata"]["ownerReferences"] = json!([]))
}

fn relabelled(pod: Value) -> Value {
    with(pod, |pod| pod["metadata"]["labels"]["app"] = json!("other"))
}

fn deleting(pod: Value) -> Value {
    with(pod, |pod| pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z"))
}

fn in_phase(pod: Value, phase: &str) -> Value {
    with(pod, |pod| pod["status"]["phase"] = json!(phase))
}

fn views(pods: Vec<Value>) -> Vec<Arc<PodView>> {
    let view = |pod| Arc::new(PodView::from(&serde_json::from_value::<Pod>(pod).unwrap()));
    pods.into_iter().map(view).collect()
}

fn decide(rc: &Desired, pods: Vec<Value>) -> Vec<String> {
    let observed = Observed { pods: &views(pods), now: now() };
    let tell = |action| match action {
        Action::Adopt { pod, .. } => format!("adopt {}", pod.name),
        Action::Release { pod, .. } => format!("release {}", pod.name),
        Action::Create(count) => format!("create {count}"),
        Action::Delete { pod, .. } => format!("delete {}", pod.name),
    };
    reconcile(rc, &observed).into_iter().map(tell).collect()
}

#[test]
fn makes_what_is_missing_and_deletes_what_is_too_much() {
    assert_eq!(decide(&rc(3), vec![]), ["create 3"]);
    assert_eq!(decide(&rc(3), vec![pod("a"), pod("b")]), ["create 1"]);
    assert!(decide(&rc(2), vec![pod("a"), pod("b")]).is_empty());
    assert_eq!(decide(&rc(0), vec![pod("a"), pod("b")]).len(), 2);
}

#[test]
fn makes_no_more_than_a_burst_at_once() {
    assert_eq!(decide(&rc(10_000), vec![]), ["create 500"]);
}

#[test]
fn finished_pods_and_those_on_their_way_out_are_replaced() {
    let pods =
        vec![deleting(pod("a")), in_phase(pod("b"), "Failed"), in_phase(pod("c"), "Succeeded")];
    assert_eq!(decide(&rc(3), pods), ["create 3"]);
}

#[test]
fn adopts_pods_without_a_controller_that_the_selector_selects() {
    assert_eq!(decide(&rc(1), vec![free(pod("a"))]), ["adopt a"]);
    assert_eq!(decide(&rc(1), vec![relabelled(free(pod("a")))]), ["create 1"]);
    assert_eq!(decide(&rc(1), vec![deleting(free(pod("a")))]), ["create 1"]);
    let foreign = with(pod("a"), |pod| {
        pod["metadata"]["ownerReferences"][0]["uid"] = json!("another");
    });
    assert_eq!(decide(&rc(1), vec![foreign]), ["create 1"]);
}

#[test]
fn an_adopted_pod_that_is_too_much_goes() {
    let pods = vec![pod("old"), unready(free(pod("new")))];
    assert_eq!(decide(&rc(1), pods), ["adopt new", "delete new"]);
}

#[test]
fn releases_pods_that_the_selector_no_longer_selects_and_replaces_them() {
    assert_eq!(decide(&rc(1), vec![relabelled(pod("a"))]), ["release a", "create 1"]);
    assert_eq!(decide(&rc(1), vec![deleting(relabelled(pod("a")))]), ["create 1"]);
}

#[test]
fn does_nothing_while_it_is_being_deleted_itself() {
    let mut rc = rc(3);
    rc.deleting = true;
    assert!(decide(&rc, vec![free(pod("a")), relabelled(pod("b"))]).is_empty());
}

#[test]
fn deletes_in_the_order_in_which_pods_are_missed_least() {
    let on = |name: &str, node: &str| with(pod(name), |pod| pod["spec"]["nodeName"] = json!(node));
    let status =
        |pod: Value, field: &str, value: Value| with(pod, |pod| pod["status"][field] = value);
    let created = |name: &str, time: &str| {
        with(pod(name), |pod| pod["metadata"]["creationTimestamp"] = json!(time))
    };
    let costing = |name: &str, cost: &str| {
        with(pod(name), |pod| {
            pod["metadata"]["annotations"] =
                json!({"controller.kubernetes.io/pod-deletion-cost": cost});
        })
    };
    let ready_since = |name: &str, time: &str| {
        with(pod(name), |pod| {
            pod["status"]["conditions"][0]["lastTransitionTime"] = json!(time);
        })
    };
    let restarted = |name: &str, count: i32| {
        status(
            pod(name),
            "containerStatuses",
            json!([{
                "name": "main", "image": "", "imageID": "", "ready": true, "restartCount": count,
            }]),
        )
    };
    for (goes, stays) in [
        (unready(on("goes", "")), unready(in_phase(pod("stays"), "Pending"))),
        (unready(in_phase(pod("goes"), "Pending")), unready(pod("stays"))),
        (unready(pod("goes")), pod("stays")),
        (costing("goes", "-5"), pod("stays")),
        (pod("goes"), costing("stays", "5")),
        (ready_since("goes", "2029-12-31T23:30:00Z"), pod("stays")),
        (restarted("goes", 3), restarted("stays", 1)),
        (created("goes", "2029-12-31T23:00:01Z"), pod("stays")),
    ] {
        assert_eq!(decide(&rc(1), vec![stays.clone(), goes.clone()]), ["delete goes"], "{goes}");
        assert_eq!(decide(&rc(1), vec![goes.clone(), stays]), ["delete goes"], "{goes}");
    }
}

#[test]
fn deletes_first_where_a_node_has_several_and_leaves_the_nodes_even() {
    let on = |name: &str, node: &str| with(pod(name), |pod| pod["spec"]["nodeName"] = json!(node));
    let pods = vec![on("a1", "a"), on("a2", "a"), on("a3", "a"), on("b1", "b"), on("c1", "c")];
    let mut gone = decide(&rc(3), pods);
    gone.sort();
    assert_eq!(gone, ["delete a2", "delete a3"]);
    let pods = vec![on("a1", "a"), on("a2", "a"), on("b1", "b"), on("b2", "b")];
    let gone = decide(&rc(2), pods);
    assert!(gone.iter().any(|one| one.contains('a')) && gone.iter().any(|one| one.contains('b')));
}

fn status_of(rc: &Desired, pods: Vec<Value>) -> Value {
    let observed = Observed { pods: &views(pods), now: now() };
    serde_json::to_value(reconcile::status(rc, &observed, None)).unwrap()
}

#[test]
fn the_status_counts_active_pods_by_how_far_they_are() {
    let full = with(pod("full"), |pod| pod["metadata"]["labels"]["tier"] = json!("front"));
    let pods =
        vec![full, pod("a"), unready(pod("b")), deleting(pod("c")), in_phase(pod("d"), "Failed")];
    assert_eq!(
        status_of(&rc(3), pods),
        json!({
            "replicas": 3, "fullyLabeledReplicas": 1, "readyReplicas": 2, "availableReplicas": 2,
            "observedGeneration": 7,
        })
    );
    assert_eq!(status_of(&rc(0), vec![]), json!({"replicas": 0, "observedGeneration": 7}));
}

#[test]
fn a_pod_is_available_only_after_min_ready_seconds() {
    let mut rc = rc(2);
    rc.min_ready_seconds = 3601;
    let young = with(pod("young"), |pod| {
        pod["status"]["conditions"][0]["lastTransitionTime"] = json!("2029-12-31T23:59:50Z");
    });
    let pods = vec![pod("old"), young];
    let observed = Observed { pods: &views(pods.clone()), now: now() };
    assert_eq!(status_of(&rc, pods.clone())["availableReplicas"], Value::Null);
    assert_eq!(reconcile::changes_at(&rc, &observed), Some(now() + SignedDuration::from_secs(2)));
    rc.min_ready_seconds = 11;
    assert_eq!(status_of(&rc, pods)["availableReplicas"], 1);
    assert_eq!(reconcile::changes_at(&rc, &observed), Some(now() + SignedDuration::from_secs(1)));
    rc.min_ready_seconds = 0;
    assert_eq!(reconcile::changes_at(&rc, &observed), None);
}

#[test]
fn a_failure_is_told_until_it_is_over() {
    let failure = Failure { reason: "FailedCreate", message: "no".to_owned() };
    let observed = Observed { pods: &[], now: now() };
    let mut rc = rc(1);
    let status = reconcile::status(&rc, &observed, Some(&failure));
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(condition.type_.as_deref(), Some("ReplicaFailure"));
    assert_eq!(condition.message.as_deref(), Some("no"));
    rc.status = status.clone();
    let later = Observed { pods: &[], now: now() + SignedDuration::from_secs(9) };
    assert_eq!(reconcile::status(&rc, &later, Some(&failure)), status);
    assert_eq!(reconcile::status(&rc, &later, None).conditions, None);
}

#[test]
fn a_new_pod_is_as_the_template_says_and_names_its_controller() {
    let pod = serde_json::to_value(reconcile::new_pod(&rc(1))).unwrap();
    assert_eq!(
        pod["metadata"],
        json!({
            "generateName": "web-", "namespace": "default",
            "labels": {"app": "web", "tier": "front"}, "annotations": {"a": "b"},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "rc",
                "controller": true, "blockOwnerDeletion": true,
            }],
        })
    );
    assert_eq!(pod["spec"]["containers"][0]["name"], "main");
}

fn random_pod(dice: &mut Dice, name: &str) -> Value {
    let mut one = pod(name);
    one["spec"]["nodeName"] = json!(dice.pick(&["", "a", "b", "c"]));
    if dice.one_in(3) {
        one = free(one);
    }
    if dice.one_in(3) {
        one = unready(one);
    }
    if dice.one_in(4) {
        one = relabelled(one);
    }
    if dice.one_in(5) {
        one = deleting(one);
    }
    in_phase(one, dice.pick(&["Pending", "Running", "Running", "Failed", "Succeeded", "Unknown"]))
}

/// Applies what was decided as the cluster would.
fn apply(rc: &Desired, pods: &mut Vec<PodView>, actions: Vec<Action>, made: &mut u32) {
    for action in actions {
        match action {
            Action::Create(count) => {
                for _ in 0..count {
                    *made += 1;
                    let name = format!("made-{made}");
                    let mut view = (*views(vec![pod(&name)])[0]).clone();
                    (view.phase, view.ready, view.node) = (Phase::Pending, false, String::new());
                    pods.push(view);
                }
            }
            Action::Adopt { pod, .. } => {
                let adopted = pods.iter_mut().find(|one| one.key == pod).unwrap();
                assert_eq!(adopted.controller, None);
                adopted.controller = Some(rc.owner.clone());
            }
            Action::Release { pod, .. } => {
                pods.iter_mut().find(|one| one.key == pod).unwrap().controller = None;
            }
            Action::Delete { pod, .. } => {
                let deleted = pods.iter_mut().find(|one| one.key == pod).unwrap();
                assert!(deleted.is_active());
                deleted.deleting = true;
            }
        }
    }
}

#[test]
fn from_any_start_it_settles_at_the_number_asked_for() {
    for seed in 1..=300 {
        let dice = &mut Dice::new(seed);
        let rc = rc(dice.below(12));
        let start = (0..dice.below(15)).map(|n| random_pod(dice, &format!("p{n}"))).collect();
        let mut pods: Vec<PodView> = views(start).iter().map(|pod| (**pod).clone()).collect();
        let mut made = 0;
        for round in 0.. {
            let shared: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
            let actions = reconcile(&rc, &Observed { pods: &shared, now: now() });
            if actions.is_empty() {
                break;
            }
            assert!(round < 3, "seed {seed} does not settle: {actions:?}");
            apply(&rc, &mut pods, actions, &mut made);
        }
        let owned = |pod: &&PodView| pod.is_active() && pod.controller_uid() == Some("rc");
        assert_eq!(pods.iter().filter(owned).count(), rc.replicas, "seed {seed}");
        let stray =
            |pod: &&PodView| pod.controller_uid() == Some("rc") && pod.labels["app"] != "web";
        assert!(!pods.iter().filter(|pod| !pod.deleting).any(|pod| stray(&pod)), "seed {seed}");
    }
}

#[test]
fn a_replica_set_selects_by_expressions_and_names_itself_as_the_owner() {
    let set = json!({
        "metadata": {"name": "web-1", "namespace": "default", "uid": "rs"},
        "spec": {
            "replicas": 1,
            "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]},
            "template": {"metadata": {"labels": {"app": "web"}}},
        },
    });
    let set = ReplicaSets::desired(serde_json::from_value(set).unwrap());
    assert_eq!(decide(&set, vec![free(pod("a"))]), ["adopt a"]);
    assert_eq!(decide(&set, vec![relabelled(free(pod("a")))]), ["create 1"]);
    assert_eq!(decide(&set, vec![pod("of-another")]), ["create 1"]);
    let owner = &reconcile::new_pod(&set).metadata.owner_references.unwrap()[0];
    assert_eq!((owner.api_version.as_str(), owner.kind.as_str()), ("apps/v1", "ReplicaSet"));
}
