//! Pods in a table.

use serde_json::{Value, json};

use super::super::super::Kind;
use super::super::super::testing::row;
use super::super::Pods;

/// Cells of a pod of two containers with this status.
fn cells(status: Value) -> Vec<String> {
    row::<Pods>(&json!({
        "metadata": {"name": "web", "creationTimestamp": "2026-01-01T11:50:00Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]},
        "status": status,
    }))
}

fn container(name: &str, ready: bool, state: Value) -> Value {
    json!({"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": state})
}

#[test]
fn columns_are_those_of_kubectl() {
    let names: Vec<(&str, i32)> = Pods::columns().iter().map(|c| (c.name, c.priority)).collect();
    assert_eq!(
        names,
        [
            ("Name", 0),
            ("Ready", 0),
            ("Status", 0),
            ("Restarts", 0),
            ("Age", 0),
            ("IP", 1),
            ("Node", 1),
            ("Nominated Node", 1),
            ("Readiness Gates", 1)
        ]
    );
}

#[test]
fn one_word_tells_how_a_pod_is() {
    let running = || json!({"running": {"startedAt": "2026-01-01T11:55:00Z"}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let ended =
        |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    for (phase, containers, conditions, word, count) in [
        ("Pending", json!([]), json!([]), "Pending", "0/2"),
        (
            "Pending",
            json!([
                container("a", false, waiting("ContainerCreating")),
                container("b", false, waiting("ImagePullBackOff"))
            ]),
            json!([]),
            "ContainerCreating",
            "0/2",
        ),
        (
            "Running",
            json!([container("a", true, running()), container("b", true, running())]),
            ready.clone(),
            "Running",
            "2/2",
        ),
        (
            "Running",
            json!([
                container("a", true, running()),
                container("b", false, waiting("CrashLoopBackOff"))
            ]),
            json!([]),
            "CrashLoopBackOff",
            "1/2",
        ),
        (
            "Running",
            json!([container("a", false, ended(0, "Completed")), container("b", true, running())]),
            ready,
            "Running",
            "1/2",
        ),
        (
            "Running",
            json!([container("a", false, ended(0, "Completed")), container("b", true, running())]),
            json!([]),
            "NotReady",
            "1/2",
        ),
        (
            "Succeeded",
            json!([
                container("a", false, ended(0, "Completed")),
                container("b", false, ended(0, "Completed"))
            ]),
            json!([]),
            "Completed",
            "0/2",
        ),
        (
            "Failed",
            json!([
                container("a", false, ended(137, "OOMKilled")),
                container("b", false, ended(0, "Completed"))
            ]),
            json!([]),
            "OOMKilled",
            "0/2",
        ),
        (
            "Failed",
            json!([container("a", false, ended(3, "")), container("b", false, ended(1, "Error"))]),
            json!([]),
            "ExitCode:3",
            "0/2",
        ),
    ] {
        let cells = cells(
            json!({"phase": phase, "containerStatuses": containers, "conditions": conditions}),
        );
        assert_eq!((cells[2].as_str(), cells[1].as_str()), (word, count), "{phase}");
    }
    assert_eq!(cells(json!({"phase": "Failed", "reason": "Evicted"}))[2], "Evicted");
}

#[test]
fn a_pod_that_is_being_deleted_says_so() {
    let word = |status: Value| {
        row::<Pods>(&json!({
            "metadata": {"name": "web", "deletionTimestamp": "2026-01-01T11:50:00Z"},
            "spec": {"containers": [{"name": "a"}]},
            "status": status,
        }))
        .swap_remove(2)
    };
    assert_eq!(word(json!({"phase": "Running"})), "Terminating");
    assert_eq!(word(json!({"phase": "Running", "reason": "NodeLost"})), "Unknown");
    assert_eq!(word(json!({"phase": "Succeeded"})), "Succeeded");
}

#[test]
fn init_containers_are_told_of_until_they_are_done() {
    let word = |init: Value| {
        row::<Pods>(&json!({
            "metadata": {"name": "web"},
            "spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "initContainerStatuses": init},
        }))
        .swap_remove(2)
    };
    let done = || container("i", true, json!({"terminated": {"exitCode": 0}}));
    assert_eq!(word(json!([container("i", false, json!({"running": {}}))])), "Init:0/2");
    assert_eq!(word(json!([done(), container("j", false, json!({"running": {}}))])), "Init:1/2");
    assert_eq!(
        word(json!([
            done(),
            container("j", false, json!({"waiting": {"reason": "CrashLoopBackOff"}}))
        ])),
        "Init:CrashLoopBackOff"
    );
    assert_eq!(
        word(json!([container(
            "i",
            false,
            json!({"terminated": {"exitCode": 1, "reason": "Error"}})
        )])),
        "Init:Error"
    );
}

#[test]
fn restarts_tell_when_the_last_one_was() {
    let mut first = container("a", true, json!({"running": {}}));
    first["restartCount"] = json!(3);
    first["lastState"] =
        json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T11:55:00Z"}});
    let second = container("b", true, json!({"running": {}}));
    let cells = cells(json!({
        "phase": "Running", "containerStatuses": [first, second],
        "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}],
    }));
    assert_eq!(
        cells,
        ["web", "2/2", "Running", "3 (5m ago)", "10m", "10.244.0.2", "n1", "<none>", "<none>"]
    );
}
