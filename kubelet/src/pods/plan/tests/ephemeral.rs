//! Containers that are added to look into a pod.

use super::*;

/// The pod `main`, looked into by `debugger`, which may name a target.
fn looked_into(policy: &str, target: Option<&str>) -> Pod {
    let mut value = serde_json::to_value(pod(policy, &["main"])).unwrap();
    value["spec"]["ephemeralContainers"] =
        json!([{"name": "debugger", "image": "tools:1", "targetContainerName": target}]);
    serde_json::from_value(value).unwrap()
}

/// `main` runs, `debugger` was added.
fn added(pod: &Pod) -> Observed {
    let mut observed = running(pod);
    let mut record = ContainerRecord::new("debugger", Role::Ephemeral);
    record.image = Progress::Done(image());
    observed.containers.push(record);
    observed
}

/// Both run.
fn looking(pod: &Pod) -> Observed {
    let mut observed = added(pod);
    let mut attempt = attempt("debugger", 0, 0, 0);
    attempt.labels.image = "tools:1".to_owned();
    observed.containers[1].current = Some(attempt);
    observed
}

#[test]
fn an_ephemeral_container_starts_in_a_pod_that_runs() {
    let pod = looked_into("Always", None);
    let mut observed = added(&pod);
    assert_eq!(run(&pod, &observed, 1).actions, [start("debugger", 0, 0)]);
    observed.containers[1].image = Progress::Waiting;
    assert_eq!(run(&pod, &observed, 1).actions, [fetch("debugger")]);
}

#[test]
fn it_waits_for_its_target_and_for_nobody_else() {
    let pod = looked_into("Always", Some("main"));
    let mut observed = added(&pod);
    assert_eq!(run(&pod, &observed, 1).actions, [start("debugger", 0, 0)]);
    // The target waits to be started again.
    let crashed = exited(attempt("main", 1, 10, 0), 1, 1);
    observed.containers[0].current = Some(crashed.clone());
    assert_eq!(run(&pod, &observed, 2).actions, []);
    let pod = looked_into("Always", None);
    assert_eq!(run(&pod, &observed, 2).actions, [start("debugger", 0, 0)]);
}

#[test]
fn nobody_waits_for_its_image() {
    let pod = looked_into("Always", None);
    let mut observed = added(&pod);
    observed.containers[1].image = Progress::Waiting;
    observed.containers[0].current = Some(exited(attempt("main", 0, 0, 0), 1, 1));
    observed.containers[0].image = Progress::Done(image());
    assert_eq!(run(&pod, &observed, 2).actions, [start("main", 1, 10), fetch("debugger")]);
}

#[test]
fn it_is_never_started_again() {
    let pod = looked_into("Always", None);
    let mut observed = looking(&pod);
    observed.containers[1].current = Some(exited(attempt("debugger", 0, 0, 0), 1, 1));
    assert_eq!(run(&pod, &observed, 5_000), Plan::default());
}

#[test]
fn a_pod_that_has_ended_waits_until_nobody_looks_into_it() {
    let pod = looked_into("Never", None);
    let mut observed = looking(&pod);
    observed.containers[0].current = Some(exited(attempt("main", 0, 0, 0), 0, 1));
    let asked = stop("debugger", 0, StopReason::PodTerminates);
    assert_eq!(run(&pod, &observed, 2).actions, [asked]);
    observed.containers[1].stopping = stopping(StopReason::PodTerminates, 2);
    assert_eq!(run(&pod, &observed, 3).wake_at, Some(at(22)));
    assert_eq!(run(&pod, &observed, 22).actions, [kill("debugger", 0)]);
    observed.containers[1].current = Some(exited(attempt("debugger", 0, 0, 0), 137, 23));
    assert_eq!(run(&pod, &observed, 23).actions, [PodAction::Finish]);
}

#[test]
fn one_that_is_being_started_is_waited_for_and_no_other_starts() {
    let pod = looked_into("Never", None);
    let mut observed = added(&pod);
    observed.containers[0].current = Some(exited(attempt("main", 0, 0, 0), 0, 1));
    assert_eq!(run(&pod, &observed, 2).actions, [PodAction::Finish]);
    observed.busy = [Job::Start].into();
    assert_eq!(run(&pod, &observed, 2).actions, []);
}

#[test]
fn it_goes_with_its_pod() {
    let pod = looked_into("Always", None);
    let observed = looking(&pod);
    let reason = StopReason::PodTerminates;
    assert_eq!(
        terminate(&pod, &observed, 5, 2).actions,
        [stop("main", 0, reason), stop("debugger", 0, reason)]
    );
}
