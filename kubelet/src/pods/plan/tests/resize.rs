//! Running containers that were promised other resources.

use proto::k8s::api::core::v1::ResourceRequirements;

use super::*;

fn resources(cpu: &str, memory: &str) -> ResourceRequirements {
    serde_json::from_value(json!({"requests": {"cpu": cpu, "memory": memory}})).unwrap()
}

/// `main` runs with one CPU and 1Gi, and was promised this; it wants a restart for new memory.
fn promised(cpu: &str, memory: &str) -> (Pod, Observed) {
    let mut value = serde_json::to_value(pod("Always", &["main"])).unwrap();
    value["spec"]["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let pod = serde_json::from_value(value).unwrap();
    let mut observed = running(&pod);
    observed.containers[0].applied = Some(resources("1", "1Gi"));
    observed.containers[0].promised = resources(cpu, memory);
    (pod, observed)
}

fn resize() -> PodAction {
    let id = crate::pods::names::container_id("main", 0);
    PodAction::ResizeContainer { container: "main".to_owned(), id }
}

#[test]
fn a_running_container_gets_what_it_was_promised() {
    let (pod, mut observed) = promised("2", "1Gi");
    assert_eq!(run(&pod, &observed, 1).actions, [resize()]);
    observed.containers[0].resize_failure = Some(failure(1, Some(5)));
    let plan = run(&pod, &observed, 2);
    assert_eq!((plan.actions, plan.wake_at), (vec![], Some(at(5))));
    assert_eq!(run(&pod, &observed, 5).actions, [resize()]);
    observed.containers[0].applied = Some(resources("2", "1Gi"));
    assert_eq!(run(&pod, &observed, 5), Plan::default());
}

#[test]
fn one_that_wants_to_be_started_again_for_it_is() {
    let (pod, mut observed) = promised("2", "2Gi");
    let reason = StopReason::Resized;
    assert_eq!(run(&pod, &observed, 1).actions, [stop("main", 0, reason)]);
    observed.containers[0].stopping = stopping(reason, 1);
    observed.containers[0].current = Some(exited(attempt("main", 0, 0, 0), 0, 2));
    observed.containers[0].image = Progress::Done(image());
    // At once, whatever the policy.
    assert_eq!(run(&pod, &observed, 2).actions, [start("main", 1, 10)]);
}

#[test]
fn one_that_does_not_run_has_nothing_to_be_changed() {
    let (pod, mut observed) = promised("2", "1Gi");
    observed.containers[0].current = Some(exited(attempt("main", 0, 60, 0), 0, 2));
    assert_eq!(run(&pod, &observed, 3).actions, []);
}
