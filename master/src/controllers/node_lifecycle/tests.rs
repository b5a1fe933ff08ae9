//! Decisions.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::reconcile::{Action, Observed, Plan, reconcile};
use crate::controllers::Config;
use crate::controllers::pods::PodView;

const CONFIG: Config = Config {
    service_lb: None,
    node_monitor_grace_period: Duration::from_secs(20),
    pod_eviction_timeout: Duration::from_secs(30),
    root_ca: String::new(),
};

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn node(ready: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "one"},
        "spec": {},
        "status": {"conditions": [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": ready, "lastTransitionTime": "2029-12-31T00:00:00Z"},
        ]},
    }))
    .unwrap()
}

fn tainted(mut node: Node, taints: Value) -> Node {
    node.spec.get_or_insert_default().taints = Some(serde_json::from_value(taints).unwrap());
    node
}

/// A node that was lost this many seconds ago, fully marked.
fn lost(seconds: i64) -> Node {
    let since = now() - SignedDuration::from_secs(seconds);
    let mut node = node("Unknown");
    for condition in node.status.as_mut().unwrap().conditions.iter_mut().flatten() {
        condition.status = "Unknown".to_owned();
    }
    tainted(
        node,
        json!([
            {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": since},
        ]),
    )
}

fn pod(name: &str, tolerations: Value) -> Arc<PodView> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"nodeName": "one", "containers": [], "tolerations": tolerations},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    Arc::new(PodView::from(&pod))
}

fn decide(node: &Node, absent: Option<u64>, pods: &[Arc<PodView>]) -> (Vec<String>, Option<u64>) {
    decide_with(node, absent, pods, true)
}

fn decide_with(
    node: &Node,
    absent: Option<u64>,
    pods: &[Arc<PodView>],
    some_node_ready: bool,
) -> (Vec<String>, Option<u64>) {
    let absent_for = absent.map(Duration::from_secs);
    let observed = Observed { pods, absent_for, some_node_ready, now: now() };
    let Plan { actions, again_after } = reconcile(&CONFIG, node, &observed);
    let tell = |action| match action {
        Action::MarkLost(conditions) => {
            let status: Vec<_> =
                conditions.iter().map(|one| format!("{}={}", one.type_, one.status)).collect();
            format!("lost {}", status.join(" "))
        }
        Action::SetTaints(taints) => {
            let taints: Vec<_> =
                taints.iter().map(|one| format!("{}:{}", one.key, one.effect)).collect();
            format!("taints {}", taints.join(" "))
        }
        Action::MarkPodNotReady { pod, .. } => format!("not ready {}", pod.name),
        Action::Evict { pod, .. } => format!("evict {}", pod.name),
    };
    (actions.into_iter().map(tell).collect(), again_after.map(|after| after.as_secs()))
}

#[test]
fn a_node_that_is_connected_and_ready_is_left_alone() {
    let pods = [pod("a", json!([]))];
    assert_eq!(decide(&node("True"), None, &pods), (vec![], None));
}

#[test]
fn a_node_that_is_absent_is_waited_for_during_the_grace_period() {
    let pods = [pod("a", json!([]))];
    assert_eq!(decide(&node("True"), Some(5), &pods), (vec![], Some(15)));
}

#[test]
fn a_node_that_is_absent_for_longer_is_lost_and_its_pods_are_not_ready() {
    let (actions, again) = decide(&node("True"), Some(20), &[pod("a", json!([]))]);
    assert_eq!(
        actions,
        [
            "lost MemoryPressure=Unknown Ready=Unknown",
            "taints node.kubernetes.io/unreachable:NoSchedule \
             node.kubernetes.io/unreachable:NoExecute",
            "not ready a",
        ]
    );
    assert_eq!(again, Some(30));
}

#[test]
fn a_lost_node_is_marked_once() {
    let mut view = (*pod("a", json!([]))).clone();
    view.ready = false;
    assert_eq!(decide(&lost(10), Some(30), &[Arc::new(view)]), (vec![], Some(20)));
}

#[test]
fn a_node_that_never_reported_is_lost_too() {
    let mut silent = node("True");
    silent.status = None;
    let (actions, _) = decide(&silent, Some(20), &[]);
    assert_eq!(actions[0], "lost Ready=Unknown");
    let observed = Observed {
        pods: &[],
        absent_for: Some(Duration::from_secs(20)),
        some_node_ready: false,
        now: now(),
    };
    let plan = reconcile(&CONFIG, &silent, &observed);
    let Action::MarkLost(conditions) = &plan.actions[0] else { panic!("{plan:?}") };
    assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusNeverUpdated"));
}

#[test]
fn pods_leave_a_lost_node_after_the_eviction_timeout() {
    let mut view = (*pod("a", json!([]))).clone();
    view.ready = false;
    let pods = [Arc::new(view)];
    assert_eq!(decide(&lost(29), Some(49), &pods), (vec![], Some(1)));
    assert_eq!(decide(&lost(30), Some(50), &pods).0, ["evict a"]);
}

#[test]
fn a_new_leader_evicts_nothing_before_the_node_had_its_grace_period() {
    let pods = [pod("a", json!([]))];
    assert_eq!(decide(&lost(3600), Some(1), &pods), (vec![], Some(19)));
    assert!(decide(&lost(3600), Some(20), &pods).0.contains(&"evict a".to_owned()));
}

#[test]
fn a_node_that_is_connected_again_loses_no_more_pods_and_then_its_taints() {
    let pods = [pod("a", json!([]))];
    assert_eq!(decide(&lost(3600), None, &pods), (vec![], None));
    let mut back = lost(3600);
    back.status = node("True").status;
    assert_eq!(decide(&back, None, &pods), (vec!["taints ".to_owned()], None));
}

#[test]
fn nothing_is_evicted_while_no_node_is_ready() {
    let (actions, again) = decide_with(&lost(3600), Some(3600), &[pod("a", json!([]))], false);
    assert_eq!((actions, again), (vec!["not ready a".to_owned()], None));
}

#[test]
fn a_connected_node_that_says_it_is_not_ready_loses_its_pods_after_the_timeout() {
    let (actions, again) = decide(&node("False"), None, &[pod("a", json!([]))]);
    assert_eq!(
        actions,
        ["taints node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute"]
    );
    assert_eq!(again, Some(30));
    let since = now() - SignedDuration::from_secs(31);
    let long = tainted(
        node("False"),
        json!([
            {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": since},
        ]),
    );
    assert_eq!(decide(&long, None, &[pod("a", json!([]))]).0, ["evict a"]);
}

#[test]
fn tolerations_say_how_long_a_pod_stays() {
    let for_seconds = |seconds: Value| {
        json!([{
            "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": seconds,
        }])
    };
    for (tolerations, since, expected) in [
        (for_seconds(json!(null)), 100_000, (false, None)),
        (for_seconds(json!(300)), 100, (false, Some(200))),
        (for_seconds(json!(300)), 300, (true, None)),
        (for_seconds(json!(0)), 1, (true, None)),
        (for_seconds(json!(-1)), 1, (true, None)),
        (json!([{"operator": "Exists"}]), 100_000, (false, None)),
        (json!([{"key": "other", "operator": "Exists"}]), 29, (false, Some(1))),
    ] {
        let pods = [pod("a", tolerations.clone())];
        let (actions, again) = decide(&lost(since), Some(100_000), &pods);
        assert_eq!((actions.contains(&"evict a".to_owned()), again), expected, "{tolerations}");
    }
}

#[test]
fn a_taint_given_by_people_evicts_at_once_whoever_does_not_tolerate_it() {
    let node = tainted(node("True"), json!([{"key": "gone", "effect": "NoExecute"}]));
    let pods = [pod("a", json!([])), pod("b", json!([{"key": "gone", "operator": "Exists"}]))];
    assert_eq!(decide_with(&node, None, &pods, false), (vec!["evict a".to_owned()], None));
}

#[test]
fn finished_pods_and_those_on_their_way_out_are_not_evicted() {
    let mut finished = (*pod("a", json!([]))).clone();
    finished.phase = crate::controllers::pods::Phase::Succeeded;
    let mut leaving = (*pod("b", json!([]))).clone();
    (leaving.deleting, leaving.ready) = (true, false);
    let pods = [Arc::new(finished), Arc::new(leaving)];
    assert_eq!(decide(&lost(3600), Some(3600), &pods), (vec![], None));
}

#[test]
fn a_cordon_and_pressure_become_taints_beside_those_of_people() {
    let mut node = tainted(node("True"), json!([{"key": "gpu", "effect": "NoSchedule"}]));
    node.spec.as_mut().unwrap().unschedulable = Some(true);
    node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".to_owned();
    assert_eq!(
        decide(&node, None, &[]).0,
        ["taints gpu:NoSchedule node.kubernetes.io/memory-pressure:NoSchedule \
             node.kubernetes.io/unschedulable:NoSchedule"]
    );
}

#[test]
fn what_was_done_is_not_done_again() {
    let mut state = node("True");
    let pods = [pod("a", json!([]))];
    for absent in [None, Some(10), Some(25)] {
        for round in 0..3 {
            let absent_for = absent.map(Duration::from_secs);
            let observed = Observed { pods: &pods, absent_for, some_node_ready: true, now: now() };
            let plan = reconcile(&CONFIG, &state, &observed);
            let about_node =
                |action: &&Action| matches!(action, Action::MarkLost(_) | Action::SetTaints(_));
            assert!(round == 0 || plan.actions.iter().find(about_node).is_none(), "{plan:?}");
            for action in plan.actions {
                match action {
                    Action::MarkLost(conditions) => {
                        state.status.as_mut().unwrap().conditions = Some(conditions);
                    }
                    Action::SetTaints(taints) => state.spec.as_mut().unwrap().taints = Some(taints),
                    _ => {}
                }
            }
        }
    }
}
