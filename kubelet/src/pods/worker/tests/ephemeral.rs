//! Containers that are added to look into a pod that runs.

use proto::k8s::api::core::v1::{ContainerState, PodStatus};
use runtime::{ContainerId, ContainerRuntime, SandboxId};
use serde_json::{Value, json};

use super::plain;
use crate::pods::test_support::Bench;

fn add(bench: &Bench, container: Value) {
    bench.edit("web", |pod| {
        let list = pod.spec.as_mut().unwrap().ephemeral_containers.get_or_insert_default();
        list.push(serde_json::from_value(container).unwrap());
    });
}

fn state(status: &PodStatus, name: &str) -> Option<ContainerState> {
    let mut all = status.ephemeral_container_statuses.iter().flatten();
    all.find(|container| container.name == name)?.state.clone()
}

async fn looked_into() -> Bench {
    let mut bench = Bench::new();
    bench.start();
    bench.put(plain("web"));
    bench.until_phase("uid-web", "Running").await;
    add(
        &bench,
        json!({
            "name": "debugger", "image": "tools:1", "command": ["sh"], "stdin": true, "tty": true,
            "targetContainerName": "main", "env": [{"name": "A", "value": "b"}],
        }),
    );
    bench
        .until("the debugger is reported to run", || {
            let status = bench.status("uid-web").unwrap_or_default();
            state(&status, "debugger").is_some_and(|state| state.running.is_some())
        })
        .await;
    bench
}

#[tokio::test(start_paused = true)]
async fn it_starts_once_in_the_sandbox_and_sees_its_targets_processes() {
    let bench = looked_into().await;
    assert_eq!(bench.started(), ["main-0", "debugger-0"]);
    let (sandbox, id) = (SandboxId("uid-web".to_owned()), ContainerId("debugger-0".to_owned()));
    let config = bench.runtime.container_config(&sandbox, &id).unwrap();
    assert_eq!(config.joins_processes_of, Some(ContainerId("main-0".to_owned())));
    assert!(config.tty && config.stdin);
    assert!(config.env.contains(&("A".to_owned(), "b".to_owned())));
    let paths = bench.reporter.with(|outbox| {
        let events = outbox.events.iter().filter(|e| e.reason.as_deref() == Some("Started"));
        events.filter_map(|e| e.involved_object.field_path.clone()).collect::<Vec<_>>()
    });
    assert_eq!(paths, ["spec.containers{main}", "spec.ephemeralContainers{debugger}"]);

    bench.exit("uid-web", "debugger-0", 3);
    bench
        .until("its end is reported", || {
            let status = bench.status("uid-web").unwrap_or_default();
            let ended = state(&status, "debugger").and_then(|state| state.terminated);
            ended.is_some_and(|ended| ended.exit_code == 3)
        })
        .await;
    add(&bench, json!({"name": "second", "image": "tools:1", "command": ["sh"]}));
    bench.until_started(3).await;
    assert_eq!(bench.started(), ["main-0", "debugger-0", "second-0"]);
}

#[tokio::test(start_paused = true)]
async fn it_is_taken_over_by_a_kubelet_that_starts_again() {
    let mut bench = looked_into().await;
    let before = bench.status("uid-web").unwrap();
    bench.end_kubelet().await;
    bench.start();
    bench.until_phase("uid-web", "Running").await;
    assert_eq!(bench.status("uid-web").unwrap(), before);
    assert_eq!(bench.started(), ["main-0", "debugger-0"]);
    // It ended while no kubelet was there.
    bench.end_kubelet().await;
    bench.exit("uid-web", "debugger-0", 0);
    bench.start();
    bench
        .until("its end is reported", || {
            let status = bench.status("uid-web").unwrap_or_default();
            state(&status, "debugger").is_some_and(|state| state.terminated.is_some())
        })
        .await;
    assert_eq!(bench.started(), ["main-0", "debugger-0"]);
    bench.delete("web", 1);
    bench.until("nothing is left", || bench.is_reported_removed("uid-web")).await;
    assert!(bench.runtime.list().await.unwrap().is_empty());
}
