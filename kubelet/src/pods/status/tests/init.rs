//! What is told of a pod before and while its init containers work.

use super::*;

/// A main container, and two before it: `a`, which does its work, and the sidecar `proxy`.
fn initialized(policy: &str) -> Pod {
    let mut value = serde_json::to_value(pod(policy, &["main"])).unwrap();
    value["spec"]["initContainers"] = json!([
        {"name": "a", "image": "app:1"},
        {"name": "proxy", "image": "app:1", "restartPolicy": "Always"},
    ]);
    serde_json::from_value(value).unwrap()
}

fn init<'a>(status: &'a PodStatus, name: &str) -> &'a ContainerStatus {
    status.init_container_statuses.as_ref().unwrap().iter().find(|c| c.name == name).unwrap()
}

fn init_waits(status: &PodStatus, name: &str) -> Option<String> {
    init(status, name).state.as_ref()?.waiting.as_ref()?.reason.clone()
}

/// What a condition says: whether it holds, why not, and in words.
fn told(status: &PodStatus, kind: &str) -> (bool, String, String) {
    let found = condition(status, kind).clone();
    let (reason, message) = (found.reason.unwrap_or_default(), found.message.unwrap_or_default());
    (found.status == "True", reason, message)
}

fn no(reason: &str, message: &str) -> (bool, String, String) {
    (false, reason.to_owned(), message.to_owned())
}

fn yes() -> (bool, String, String) {
    (true, String::new(), String::new())
}

#[test]
fn a_pod_is_initialized_step_by_step() {
    let pod = initialized("Always");
    let mut observed = connected(&pod);
    let status = compute(&pod, &observed, 0);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    for name in ["a", "proxy"] {
        assert_eq!(init_waits(&status, name).as_deref(), Some("PodInitializing"), "{name}");
        assert_eq!((init(&status, name).ready, init(&status, name).started), (false, Some(false)));
    }
    assert_eq!(waiting_reason(&status, "main").as_deref(), Some("PodInitializing"));
    let message = "containers with incomplete status: [a proxy]";
    assert_eq!(told(&status, "Initialized"), no("ContainersNotInitialized", message));
    // `a` does not count: it is not there to be ready.
    let unready = no("ContainersNotReady", "containers with unready status: [proxy main]");
    assert_eq!(told(&status, "Ready"), unready);

    observed.containers[0].current = Some(attempt("a", 0, 0));
    let status = compute(&pod, &observed, 1);
    assert!(init(&status, "a").state.as_ref().unwrap().running.is_some());
    assert!(!init(&status, "a").ready);
    assert_eq!(status.phase.as_deref(), Some("Pending"));

    observed.containers[0].current = Some(exited(attempt("a", 0, 0), 0, "Completed"));
    let status = compute(&pod, &observed, 6);
    assert!(init(&status, "a").ready);
    let message = "containers with incomplete status: [proxy]";
    assert_eq!(told(&status, "Initialized"), no("ContainersNotInitialized", message));

    observed.containers[1].current = Some(attempt("proxy", 0, 0));
    let status = compute(&pod, &observed, 7);
    assert_eq!(told(&status, "Initialized"), yes());
    assert_eq!((init(&status, "proxy").ready, init(&status, "proxy").started), (true, Some(true)));
    assert_eq!(status.phase.as_deref(), Some("Pending"));

    observed.containers[2].current = Some(attempt("main", 0, 0));
    let status = compute(&pod, &observed, 8);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(told(&status, "Ready"), yes());

    // A sidecar that is started again makes the pod unready, and nothing else.
    observed.containers[1].current = Some(exited(attempt("proxy", 1, 90), 1, "Error"));
    let status = compute(&pod, &observed, 9);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(told(&status, "Initialized"), yes());
    let unready = no("ContainersNotReady", "containers with unready status: [proxy]");
    assert_eq!(told(&status, "Ready"), unready);
    assert_eq!(init_waits(&status, "proxy").as_deref(), Some("CrashLoopBackOff"));
}

#[test]
fn an_init_container_that_fails_is_shown_as_what_follows() {
    // Policy, delay, the reason it waits for, the phase.
    let cases = [
        ("Always", 0, None, "Pending"),
        ("Always", 90, Some("CrashLoopBackOff"), "Pending"),
        ("OnFailure", 90, Some("CrashLoopBackOff"), "Pending"),
        ("Never", 0, None, "Failed"),
    ];
    for (policy, delay, reason, phase) in cases {
        let pod = initialized(policy);
        let mut observed = connected(&pod);
        observed.containers[0].current = Some(exited(attempt("a", 1, delay), 3, "Error"));
        observed.finished = phase == "Failed";
        let status = compute(&pod, &observed, 6);
        assert_eq!(init_waits(&status, "a").as_deref(), reason, "{policy} {delay}");
        let seen = (status.phase.as_deref(), told(&status, "Initialized").0);
        assert_eq!(seen, (Some(phase), false), "{policy} {delay}");
    }
}

#[test]
fn sidecars_do_not_decide_how_a_pod_ended() {
    let pod = initialized("Never");
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 0, 0), 0, "Completed"));
    observed.containers[1].current = Some(attempt("proxy", 0, 0));
    observed.containers[2].current = Some(exited(attempt("main", 0, 0), 0, "Completed"));
    let status = compute(&pod, &observed, 6);
    assert_eq!(status.phase.as_deref(), Some("Running"), "the sidecar is still ending");
    observed.containers[1].current = Some(exited(attempt("proxy", 0, 90), 137, "Error"));
    let status = compute(&pod, &observed, 6);
    assert!(init(&status, "proxy").state.as_ref().unwrap().terminated.is_some(), "nobody waits");
    observed.finished = true;
    let status = compute(&pod, &observed, 6);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    let initialized = (true, "PodCompleted".to_owned(), String::new());
    assert_eq!(told(&status, "Initialized"), initialized);
    assert_eq!(told(&status, "Ready"), no("PodCompleted", ""));
}

#[test]
fn what_failed_while_it_was_not_needed_is_not_told() {
    let pod = initialized("Always");
    let mut observed = connected(&pod);
    let failure = |message: &str| Failure::until_change("ErrImagePull", message.to_owned(), at(0));
    observed.containers[2].image = Progress::Failed(failure("main"));
    let status = compute(&pod, &observed, 1);
    assert_eq!(waiting_reason(&status, "main").as_deref(), Some("PodInitializing"));
    observed.containers[0].image = Progress::Failed(failure("a"));
    let status = compute(&pod, &observed, 1);
    assert_eq!(init_waits(&status, "a").as_deref(), Some("ErrImagePull"));
}

#[test]
fn what_was_done_in_another_sandbox_waits_to_be_done_again() {
    let pod = initialized("Always");
    let mut observed = connected(&pod);
    let lost = |name: &str, code| {
        let ended = exited(attempt(name, 0, 0), code, "Completed");
        Some(Attempt { in_runtime: false, ..ended })
    };
    observed.containers[0].current = lost("a", 0);
    observed.containers[1].current = lost("proxy", 137);
    observed.containers[2].current = lost("main", 137);
    let status = compute(&pod, &observed, 6);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting_reason(&status, "main").as_deref(), Some("PodInitializing"));
    assert!(container(&status, "main").last_state.is_some());
    assert!(!told(&status, "Initialized").0);
}

#[test]
fn a_container_whose_hook_is_under_way_does_not_count_as_running() {
    let pod = pod("Always", &["main"]);
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(attempt("main", 0, 0));
    observed.containers[0].post_start = PostStart::Due;
    let status = compute(&pod, &observed, 1);
    assert_eq!(waiting_reason(&status, "main").as_deref(), Some("ContainerCreating"));
    assert_eq!(container(&status, "main").started, Some(false));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn others_say_too_whether_a_pod_is_ready() {
    let mut pod = pod("Always", &["main"]);
    let gates = json!([{"conditionType": "shop.test/a"}, {"conditionType": "shop.test/b"}]);
    pod.spec.as_mut().unwrap().readiness_gates = serde_json::from_value(gates).unwrap();
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(attempt("main", 0, 0));
    for (conditions, expected) in [
        (
            json!([{"type": "shop.test/a", "status": "False"}]),
            no(
                "ReadinessGatesNotReady",
                "the status of pod readiness gate \"shop.test/a\" is not \"True\", but False, \
                 corresponding condition of pod readiness gate \"shop.test/b\" does not exist.",
            ),
        ),
        (
            json!([
                {"type": "shop.test/a", "status": "True"},
                {"type": "shop.test/b", "status": "True"},
            ]),
            yes(),
        ),
    ] {
        pod.status.as_mut().unwrap().conditions = serde_json::from_value(conditions).unwrap();
        let status = compute(&pod, &observed, 1);
        assert_eq!(told(&status, "Ready"), expected);
        assert_eq!(told(&status, "ContainersReady"), yes());
    }
}
