//! A running pod asks for other resources.

use proto::k8s::api::core::v1::{Node, PodStatus, ResourceRequirements};
use runtime::{ContainerId, SandboxId};
use serde_json::{Value, json};

use crate::pods::test_support::{Bench, container_status, one_container, pod};

fn amounts(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

/// A node of two processors and 4Gi, with a pod that has one and 1Gi.
async fn bench(changes: Value) -> Bench {
    let mut bench = Bench::new();
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "node-1"}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi"}},
    }))
    .unwrap();
    bench.put_node(node);
    bench.start();
    let mut container = json!({"resources": amounts("1", "1Gi")});
    for (field, value) in changes.as_object().unwrap() {
        container[field] = value.clone();
    }
    bench.put(pod("web", one_container(container)));
    bench.until_phase("uid-web", "Running").await;
    bench
}

fn resize(bench: &Bench, name: &str, resources: &Value) {
    bench.edit(name, |pod| {
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.resources = serde_json::from_value(resources.clone()).unwrap();
        *pod.metadata.generation.get_or_insert(1) += 1;
    });
}

fn has(status: &PodStatus, resources: &Value) -> bool {
    let wanted: ResourceRequirements = serde_json::from_value(resources.clone()).unwrap();
    let container = container_status(status, "main");
    container.allocated_resources == wanted.requests && container.resources == Some(wanted)
}

/// Reason and message of a condition that holds.
fn condition(status: &PodStatus, kind: &str) -> Option<(String, String)> {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == kind)?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

async fn until_told(bench: &Bench, reason: &str, message: &str) {
    let told = || bench.event_messages(reason).iter().any(|told| told == message);
    bench.until(&format!("{reason}: {message}"), told).await;
}

async fn until_has(bench: &Bench, resources: &Value) {
    let holds = || bench.status("uid-web").is_some_and(|status| has(&status, resources));
    bench.until(&format!("it has {resources}"), holds).await;
}

async fn until_condition(bench: &Bench, uid: &str, kind: &str, reason: &str) -> String {
    let found = || condition(&bench.status(uid)?, kind).filter(|(found, _)| found == reason);
    bench.until(&format!("{kind}: {reason}"), || found().is_some()).await;
    found().unwrap().1
}

fn limit(bench: &Bench, container: &str) -> Option<i64> {
    let (sandbox, id) = (SandboxId("uid-web".to_owned()), ContainerId(container.to_owned()));
    bench.runtime.container_config(&sandbox, &id)?.resources.memory_limit_bytes
}

#[tokio::test(start_paused = true)]
async fn a_container_gets_more_and_less_while_it_runs() {
    let mut bench = bench(json!({})).await;
    until_has(&bench, &amounts("1", "1Gi")).await;
    resize(&bench, "web", &amounts("2", "2Gi"));
    until_has(&bench, &amounts("2", "2Gi")).await;
    assert_eq!(limit(&bench, "main-0"), Some(2 << 30));
    let status = bench.status("uid-web").unwrap();
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(condition(&status, "PodResizeInProgress"), None);
    let asked = r#"{"containers":[{"name":"main","resources":{"limits":{"cpu":"2","memory":"2Gi"},"requests":{"cpu":"2","memory":"2Gi"}}}],"generation":2}"#;
    for (reason, word) in [("ResizeStarted", "started"), ("ResizeCompleted", "completed")] {
        until_told(&bench, reason, &format!("Pod resize {word}: {asked}")).await;
    }
    resize(&bench, "web", &amounts("500m", "512Mi"));
    until_has(&bench, &amounts("500m", "512Mi")).await;
    let group = "/kutter/pods/guaranteed/poduid-web";
    let narrowed = || {
        let bounds = bench.runtime.group(group).unwrap();
        bounds.memory_limit_bytes == Some(512 << 20) && bounds.cpu_quota_us == Some(50_000)
    };
    bench.until("the pod as a whole has no more than its container", narrowed).await;
    assert_eq!(bench.started(), ["main-0"]);
    // The next kubelet knows it, and has nothing to do.
    bench.end_kubelet().await;
    bench.start();
    until_has(&bench, &amounts("500m", "512Mi")).await;
    assert!(!bench.event_reasons().contains(&"ResizeCompleted".to_owned()));
    // A restart has it too.
    bench.exit("uid-web", "main-0", 1);
    bench.until_started(2).await;
    assert_eq!(limit(&bench, "main-1"), Some(512 << 20));
}

#[tokio::test(start_paused = true)]
async fn what_its_policy_says_starts_it_again() {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let bench = bench(json!({"resizePolicy": policy})).await;
    resize(&bench, "web", &amounts("2", "1Gi"));
    until_has(&bench, &amounts("2", "1Gi")).await;
    assert_eq!(bench.started(), ["main-0"]);
    resize(&bench, "web", &amounts("2", "2Gi"));
    bench.until_started(2).await;
    until_has(&bench, &amounts("2", "2Gi")).await;
    assert_eq!(limit(&bench, "main-1"), Some(2 << 30));
    assert_eq!(container_status(&bench.status("uid-web").unwrap(), "main").restart_count, 1);
    let ends =
        || bench.event_reasons().iter().filter(|reason| *reason == "ResizeCompleted").count();
    bench.until("the end of both is told", || ends() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_there_is_no_room_for_waits_or_never_comes() {
    let bench = bench(json!({})).await;
    let other = one_container(json!({"resources": amounts("500m", "1Gi")}));
    bench.put(pod("other", other));
    bench.until_phase("uid-other", "Running").await;
    resize(&bench, "web", &amounts("9", "1Gi"));
    let message = until_condition(&bench, "uid-web", "PodResizePending", "Infeasible").await;
    assert_eq!(message, "Node didn't have enough capacity: cpu, requested: 9000, capacity: 2000");
    assert!(has(&bench.status("uid-web").unwrap(), &amounts("1", "1Gi")));
    resize(&bench, "web", &amounts("2", "1Gi"));
    let message = until_condition(&bench, "uid-web", "PodResizePending", "Deferred").await;
    assert_eq!(
        message,
        "Node didn't have enough resource: cpu, requested: 2000, used: 500, capacity: 2000"
    );
    let deferred = bench.event_messages("ResizeDeferred").concat();
    let error = format!(r#""generation":3,"error":"{message}"}}"#);
    assert!(
        deferred.starts_with("Pod resize Deferred: {") && deferred.ends_with(&error),
        "{deferred}"
    );
    // The other one goes.
    bench.delete("other", 1);
    until_has(&bench, &amounts("2", "1Gi")).await;
    assert_eq!(condition(&bench.status("uid-web").unwrap(), "PodResizePending"), None);
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_used_is_not_taken_away() {
    let bench = bench(json!({})).await;
    bench.runtime.use_memory(800 << 20);
    resize(&bench, "web", &amounts("1", "512Mi"));
    let message = until_condition(&bench, "uid-web", "PodResizeInProgress", "Error").await;
    assert!(message.contains("limit (536870912) below current usage (838860800)"), "{message}");
    assert_eq!(limit(&bench, "main-0"), Some(1 << 30));
    let status = bench.status("uid-web").unwrap();
    let container = container_status(&status, "main");
    // Promised, and not there yet.
    let promised = serde_json::to_value(&container.allocated_resources).unwrap();
    assert_eq!(promised["memory"], "512Mi");
    let has = serde_json::to_value(&container.resources).unwrap();
    assert_eq!(has["limits"]["memory"], "1Gi");
    bench.runtime.use_memory(100 << 20);
    until_has(&bench, &amounts("1", "512Mi")).await;
}
