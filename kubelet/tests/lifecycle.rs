//! The life of pods with real containers: what is started before what, what is called when, and what
//! ends after what.

mod node;

use std::fs;
use std::path::Path;
use std::time::Instant;

use node::{Node, script, shim};
use proto::k8s::api::core::v1::ContainerStatus;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A container that sees the folder `/seen`, where all of a pod's containers write down what they do.
fn container(name: &str, text: &str) -> Value {
    json!({
        "name": name, "image": "busybox:1", "command": ["sh", "-c", text],
        "volumeMounts": [{"name": "seen", "mountPath": "/seen"}]
    })
}

/// Says so when it starts and when it is asked to end.
fn server(name: &str) -> Value {
    let says = |what: &str| format!("echo {name} {what} >> /seen/log");
    let (up, down) = (says("up"), says("down"));
    container(name, &format!("trap '{down}; exit 0' TERM; {up}; while :; do sleep 0.05; done"))
}

fn pod(seen: &Path, initial: Value, main: Value) -> Value {
    json!({
        "initContainers": initial, "containers": [main], "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "volumes": [{"name": "seen", "hostPath": {"path": seen}}]
    })
}

fn log(seen: &TempDir) -> Vec<String> {
    let text = fs::read_to_string(seen.path().join("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn init(node: &Node, pod: &str, name: &str) -> ContainerStatus {
    let statuses = node.status(pod).unwrap().init_container_statuses.unwrap();
    statuses.into_iter().find(|status| status.name == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_sidecars_and_hooks_come_and_go_in_their_order() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let seen = tempfile::tempdir().unwrap();
    let mut outer = server("outer");
    outer["restartPolicy"] = json!("Always");
    outer["startupProbe"] = json!({
        "exec": {"command": ["grep", "-q", "outer up", "/seen/log"]}, "periodSeconds": 1
    });
    let mut inner = server("inner");
    inner["restartPolicy"] = json!("Always");
    let first = container("first", "sleep 0.2; echo first done >> /seen/log");
    let second =
        container("second", "echo second done >> /seen/log; echo words > /dev/termination-log");
    let mut main = server("main");
    main["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "sleep 0.2; echo main greeted >> /seen/log"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "sleep 0.2; echo main warned >> /seen/log"]}},
    });
    let began = Instant::now();
    node.put("web", pod(seen.path(), json!([first, outer, second, inner]), main));
    let status = node.until_phase("web", "Running").await;
    eprintln!("running after {:?}", began.elapsed());
    assert!(status.ready);
    let up = ["first done", "outer up", "second done", "inner up", "main up", "main greeted"];
    assert_eq!(log(&seen), up);
    let second = init(&node, "web", "second");
    let ended = second.state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("Completed")));
    assert_eq!(ended.message.as_deref(), Some("words\n"));
    assert!(init(&node, "web", "outer").ready);

    node.remove("web").await;
    let down = ["main warned", "main down", "inner down", "outer down"];
    assert_eq!(log(&seen)[up.len()..], down);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_init_container_that_completed_is_not_run_again_by_another_kubelet() {
    let Some(shim) = shim() else { return };
    let mut node = Node::start(shim).await;
    let seen = tempfile::tempdir().unwrap();
    let waits = |name: &str| {
        let text = format!(
            "echo {name} up >> /seen/log; while ! [ -e /seen/{name} ]; do sleep 0.05; done"
        );
        container(name, &text)
    };
    node.put("web", pod(seen.path(), json!([waits("first"), waits("second")]), server("main")));
    node.until("first runs", || log(&seen) == ["first up"]).await;
    node = node.restart().await;
    fs::write(seen.path().join("first"), "").unwrap();
    node.until("second runs", || log(&seen).len() == 2).await;
    node = node.restart().await;
    fs::write(seen.path().join("second"), "").unwrap();
    node.until_phase("web", "Running").await;
    node = node.restart().await;
    node.until_phase("web", "Running").await;
    assert_eq!(log(&seen), ["first up", "second up", "main up"]);
    node.remove("web").await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_ends_is_back_at_once_and_a_pod_that_obeys_is_gone_at_once() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    // As process 1 it has no handler, so it has to have one to obey.
    let obeys = "trap 'exit 7' TERM; while ! [ -e /end ]; do sleep 0.01; done; exit 3";
    node.put("web", script(obeys, json!({})));
    node.until_phase("web", "Running").await;
    node.exec("web", "touch /end").await;
    let restarted = |node: &Node| {
        let status = node.status("web").unwrap().container_statuses.unwrap().remove(0);
        (status.restart_count == 1 && status.ready).then_some(status)
    };
    node.until("it runs again", || restarted(&node).is_some()).await;
    let status = restarted(&node).unwrap();
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!(last.exit_code, 3);
    let began = Instant::now();
    node.remove("web").await;
    // The shell looks at its signals every hundredth of a second.
    eprintln!("gone {:?} after it was asked to go", began.elapsed());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_stopped_by_the_signal_that_it_names_and_its_hook_is_cut_off_in_time() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let seen = tempfile::tempdir().unwrap();
    let text = "trap 'echo usr1 >> /seen/log; exit 0' USR1; trap '' TERM; \
                while :; do sleep 0.05; done";
    let mut main = container("main", text);
    main["lifecycle"] = json!({
        "preStop": {"exec": {"command": ["sleep", "1000"]}}, "stopSignal": "SIGUSR1"
    });
    let mut spec = pod(seen.path(), json!([]), main);
    spec["terminationGracePeriodSeconds"] = json!(1);
    spec["os"] = json!({"name": "linux"});
    node.put("web", spec);
    node.until_phase("web", "Running").await;
    let began = Instant::now();
    node.remove_within("web", 1).await;
    let took = began.elapsed().as_millis();
    assert!((1000..3000).contains(&took), "{took}");
    assert_eq!(log(&seen), ["usr1"]);
    node.finish().await;
}
