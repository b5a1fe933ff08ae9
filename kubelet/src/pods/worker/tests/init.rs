//! Init containers, sidecars and hooks, as workers carry them out.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::k8s::api::core::v1::{ContainerStatus, Pod};
use runtime::ContainerRuntime;
use runtime::SandboxId;
use runtime::fake::FakeProgram;
use serde_json::{Value, json};

use crate::pods::test_support::{Bench, one_container, pod};

fn initialized(name: &str, policy: &str, initial: Value) -> Pod {
    let mut spec = one_container(json!({}));
    spec["initContainers"] = initial;
    spec["restartPolicy"] = json!(policy);
    pod(name, spec)
}

fn one(name: &str) -> Value {
    json!({"name": name, "image": "app:1", "command": [name]})
}

fn sidecar(name: &str) -> Value {
    let mut container = one(name);
    container["restartPolicy"] = json!("Always");
    container
}

fn init(bench: &Bench, uid: &str, name: &str) -> Option<ContainerStatus> {
    let statuses = bench.status(uid)?.init_container_statuses?;
    statuses.into_iter().find(|status| status.name == name)
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_the_pod_follows() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(initialized("web", "Always", json!([one("a"), sidecar("proxy"), one("b")])));
    bench.until_started(1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.started(), ["a-0"], "nobody starts beside it");
    let running = |name: &'static str| {
        let bench = &bench;
        move || {
            let state = init(bench, "uid-web", name).and_then(|status| status.state);
            state.is_some_and(|state| state.running.is_some())
        }
    };
    bench.until("a is said to run", running("a")).await;
    bench.exit("uid-web", "a-0", 0);
    bench.until_started(3).await;
    assert_eq!(bench.started(), ["a-0", "proxy-0", "b-0"]);
    bench.exit("uid-web", "b-0", 0);
    bench.until_phase("uid-web", "Running").await;
    assert_eq!(bench.started(), ["a-0", "proxy-0", "b-0", "main-0"]);
    assert!(init(&bench, "uid-web", "a").unwrap().ready);

    // The sidecar is started again, and nothing else.
    bench.exit("uid-web", "proxy-0", 1);
    bench.until_started(5).await;
    assert_eq!(bench.started()[4], "proxy-1");
}

#[tokio::test(start_paused = true)]
async fn what_was_done_is_not_done_again_by_another_kubelet() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(initialized("web", "Always", json!([one("a"), one("b")])));
    bench.until_started(1).await;
    bench.end_kubelet().await;
    // It ends while nobody is there.
    bench.exit("uid-web", "a-0", 0);
    bench.start();
    bench.until_started(2).await;
    assert_eq!(bench.started(), ["a-0", "b-0"]);
    bench.end_kubelet().await;
    bench.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.exit("uid-web", "b-0", 0);
    bench.until_phase("uid-web", "Running").await;
    bench.end_kubelet().await;
    bench.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.started(), ["a-0", "b-0", "main-0"]);
    // In another sandbox all of it is done anew.
    bench.runtime.lose_sandbox(&SandboxId("uid-web".to_owned()));
    bench.until_started(4).await;
    assert_eq!(bench.started()[3], "a-1");
    bench.exit("uid-web", "a-1", 0);
    bench.until_started(5).await;
    bench.exit("uid-web", "b-1", 0);
    bench.until_started(6).await;
    assert_eq!(bench.started()[4..], ["b-1", "main-1"]);
}

#[tokio::test(start_paused = true)]
async fn an_init_container_that_fails_ends_a_pod_that_never_restarts() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(initialized("job", "Never", json!([sidecar("proxy"), one("a")])));
    bench.until_started(2).await;
    bench.exit("uid-job", "a-0", 3);
    bench.until_phase("uid-job", "Failed").await;
    bench.until("all is released", || bench.network.attached().is_empty()).await;
    assert_eq!(bench.started(), ["proxy-0", "a-0"]);
    let ended = init(&bench, "uid-job", "a").unwrap().state.unwrap().terminated.unwrap();
    assert_eq!(ended.exit_code, 3);
}

#[tokio::test(start_paused = true)]
async fn a_job_with_a_sidecar_completes() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(initialized("job", "Never", json!([sidecar("proxy")])));
    bench.until_phase("uid-job", "Running").await;
    bench.exit("uid-job", "main-0", 0);
    bench.until_phase("uid-job", "Succeeded").await;
    assert_eq!(bench.started(), ["proxy-0", "main-0"]);
    assert!(bench.event_reasons().contains(&"Killing".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_is_there_until_the_containers_are_gone() {
    let mut bench = Bench::new();
    bench.runtime.choose_program(|_, config| FakeProgram {
        ignores_signals: config.id.0 == "main-0",
        ..FakeProgram::default()
    });
    bench.start();
    bench.put(initialized("web", "Always", json!([sidecar("proxy")])));
    bench.until_phase("uid-web", "Running").await;
    bench.delete("web", 30);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let found = bench.runtime.list().await.unwrap();
    assert!(found[0].containers.iter().all(|container| container.exit.is_none()), "{found:?}");
    bench.exit("uid-web", "main-0", 0);
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert_eq!(bench.seconds(), 10);
}

/// Programs that are executed in containers, in their order; `fail` does.
fn watched(bench: &Bench) -> Arc<Mutex<Vec<String>>> {
    let called = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::clone(&called);
    bench.runtime.answer_exec(move |container, command| {
        calls.lock().unwrap().push(format!("{container} {}", command.join(" ")));
        (Vec::new(), i32::from(command == ["fail"]))
    });
    called
}

#[tokio::test(start_paused = true)]
async fn hooks_are_called_after_the_start_and_before_the_end() {
    let mut bench = Bench::new();
    let called = watched(&bench);
    bench.start();
    bench.put(pod(
        "web",
        one_container(json!({"lifecycle": {
            "postStart": {"exec": {"command": ["hello"]}},
            "preStop": {"exec": {"command": ["goodbye"]}},
        }})),
    ));
    bench.until_phase("uid-web", "Running").await;
    assert_eq!(*called.lock().unwrap(), ["main-0 hello"]);
    // One that was said to run is not greeted again by another kubelet.
    bench.end_kubelet().await;
    bench.start();
    bench.until_phase("uid-web", "Running").await;
    bench.delete("web", 30);
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert_eq!(*called.lock().unwrap(), ["main-0 hello", "main-0 goodbye"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_hook_after_the_start_is_told_and_the_container_started_again() {
    let mut bench = Bench::new();
    watched(&bench);
    bench.start();
    bench.put(pod(
        "web",
        one_container(json!({"lifecycle": {"postStart": {"exec": {"command": ["fail"]}}}})),
    ));
    bench.until_started(3).await;
    let reasons = bench.event_reasons();
    assert!(reasons.contains(&"FailedPostStartHook".to_owned()), "{reasons:?}");
    assert_eq!(bench.seconds(), 10, "the first time at once, the second after a while");
}

#[tokio::test(start_paused = true)]
async fn a_hook_before_the_end_has_the_grace_period_and_no_more() {
    for (sleep, grace, took) in [(3, 30, 3), (60, 5, 5)] {
        let mut bench = Bench::new();
        bench.start();
        bench.put(pod(
            "web",
            one_container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}})),
        ));
        bench.until_phase("uid-web", "Running").await;
        let before = bench.seconds();
        bench.delete("web", grace);
        bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
        assert_eq!(bench.seconds() - before, took, "{sleep} {grace}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_hook_after_the_start_hangs_can_be_deleted() {
    let mut bench = Bench::new();
    bench.start();
    bench.put(pod(
        "web",
        one_container(json!({"lifecycle": {
            "postStart": {"sleep": {"seconds": 10000}}, "preStop": {"sleep": {"seconds": 3}},
        }})),
    ));
    bench.until_started(1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.status("uid-web").unwrap().phase.as_deref(), Some("Pending"));
    bench.delete("web", 30);
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert_eq!(bench.seconds(), 5 + 3);
}

#[tokio::test(start_paused = true)]
async fn a_failed_hook_before_the_end_is_told_and_changes_nothing() {
    let mut bench = Bench::new();
    watched(&bench);
    bench.start();
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["fail"]}}}});
    bench.put(pod("web", one_container(hook)));
    bench.until_phase("uid-web", "Running").await;
    bench.delete("web", 30);
    bench.until("it is reported", || bench.is_reported_removed("uid-web")).await;
    assert!(bench.event_reasons().contains(&"FailedPreStopHook".to_owned()));
    assert_eq!(bench.seconds(), 0);
}
