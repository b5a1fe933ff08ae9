//! Init containers and sidecars: in order, each once, and sidecars for as long as they are needed.

use super::*;

/// A pod of a main container that these are started before; `+` marks a sidecar.
pub(super) fn initialized_by(policy: &str, names: &[&str]) -> Pod {
    let initial: Vec<Value> = names
        .iter()
        .map(|name| match name.strip_prefix('+') {
            Some(name) => json!({"name": name, "image": "app:1", "restartPolicy": "Always"}),
            None => json!({"name": name, "image": "app:1"}),
        })
        .collect();
    let mut value = serde_json::to_value(pod(policy, &["main"])).unwrap();
    value["spec"]["initContainers"] = json!(initial);
    serde_json::from_value(value).unwrap()
}

/// The first of them did their work, each for a second.
pub(super) fn completed(pod: &Pod, count: usize) -> Observed {
    let mut observed = prepared(pod);
    for (index, record) in observed.containers.iter_mut().take(count).enumerate() {
        let second = i64::try_from(index).unwrap();
        let begun = attempt(&record.name, 0, 0, second);
        record.current = Some(match record.role {
            Role::Init => exited(begun, 0, second + 1),
            _ => begun,
        });
    }
    observed
}

#[test]
fn init_containers_run_one_after_the_other_before_all_others() {
    let pod = initialized_by("Always", &["a", "b"]);
    assert_eq!(run(&pod, &completed(&pod, 0), 5).actions, [start("a", 0, 0)]);
    let mut observed = completed(&pod, 1);
    assert_eq!(run(&pod, &observed, 5).actions, [start("b", 0, 0)]);
    observed.containers[1].current = Some(attempt("b", 0, 0, 5));
    assert_eq!(run(&pod, &observed, 6), Plan::default(), "it works");
    assert_eq!(run(&pod, &completed(&pod, 2), 6).actions, [start("main", 0, 0)]);
}

#[test]
fn images_are_fetched_ahead_but_what_cannot_be_had_is_tried_again_when_it_is_needed() {
    let pod = initialized_by("Always", &["a"]);
    assert_eq!(
        run(&pod, &nothing_there(&pod), 0).actions,
        [PodAction::CreateSandbox, PodAction::PrepareVolumes, fetch("a"), fetch("main")]
    );
    let mut observed = prepared(&pod);
    observed.containers[0].current = Some(attempt("a", 0, 0, 0));
    observed.containers[1].image = Progress::Failed(failure(0, Some(10)));
    assert_eq!(run(&pod, &observed, 20), Plan::default());
    let mut observed = completed(&pod, 1);
    observed.containers[1].image = Progress::Failed(failure(0, Some(10)));
    assert_eq!(run(&pod, &observed, 20).actions, [fetch("main")]);
}

#[test]
fn an_init_container_that_fails_is_started_again_or_fails_the_pod() {
    for (policy, again) in [("Always", true), ("OnFailure", true), ("Never", false)] {
        let pod = initialized_by(policy, &["a", "b"]);
        let mut observed = completed(&pod, 1);
        observed.containers[1].current = Some(exited(attempt("b", 0, 0, 1), 3, 2));
        let expected = if again { start("b", 1, 10) } else { PodAction::Finish };
        assert_eq!(run(&pod, &observed, 2).actions, [expected], "{policy}");
        observed.containers[1].current = Some(exited(attempt("b", 1, 10, 2), 3, 2));
        if again {
            assert_eq!(run(&pod, &observed, 5).wake_at, Some(at(12)), "{policy}");
        }
    }
}

#[test]
fn what_was_done_for_another_sandbox_is_done_anew() {
    let pod = initialized_by("Always", &["a", "+proxy", "b"]);
    let mut observed = completed(&pod, 4);
    for record in &mut observed.containers {
        let attempt = record.current.as_mut().unwrap();
        attempt.in_runtime = false;
        if attempt.exit.is_none() {
            *attempt = exited(attempt.clone(), 137, 9);
        }
    }
    assert_eq!(run(&pod, &observed, 20).actions, [start("a", 1, 10)]);
}

#[test]
fn what_a_main_container_shows_to_have_been_done_is_not_done_again() {
    let pod = initialized_by("Always", &["a"]);
    let mut observed = prepared(&pod);
    observed.containers[1].current = Some(attempt("main", 0, 0, 5));
    observed.containers[1].image = Progress::Waiting;
    assert_eq!(run(&pod, &observed, 6), Plan::default());
}

#[test]
fn a_sidecar_is_not_waited_for_beyond_its_start() {
    let pod = initialized_by("Always", &["+proxy", "b"]);
    let observed = completed(&pod, 1);
    assert_eq!(run(&pod, &observed, 5).actions, [start("b", 0, 0)]);
}

#[test]
fn a_sidecar_with_a_startup_probe_is_waited_for_until_it_succeeds() {
    let mut pod = initialized_by("Always", &["+proxy", "b"]);
    let proxy = &mut pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0];
    proxy.startup_probe = Some(Default::default());
    let mut observed = completed(&pod, 1);
    assert_eq!(run(&pod, &observed, 5).actions, []);
    observed.containers[0].verdicts.startup = Some(true);
    assert_eq!(run(&pod, &observed, 5).actions, [start("b", 0, 0)]);
    observed.containers[0].verdicts.startup = Some(false);
    assert_eq!(run(&pod, &observed, 5).actions, [stop("proxy", 0, StopReason::NeverStarted)]);
}

#[test]
fn a_sidecar_is_started_again_whatever_the_pods_policy_and_holds_nobody_up() {
    for policy in ["Always", "OnFailure", "Never"] {
        let pod = initialized_by(policy, &["+proxy", "b"]);
        let mut observed = completed(&pod, 2);
        observed.containers[0].current = Some(exited(attempt("proxy", 0, 0, 0), 0, 2));
        assert_eq!(run(&pod, &observed, 5).actions, [start("proxy", 1, 10)], "{policy}");
        // While it waits, the others go on.
        observed.containers[0].current = Some(exited(attempt("proxy", 1, 60, 0), 0, 2));
        assert_eq!(run(&pod, &observed, 5).actions, [start("main", 0, 0)], "{policy}");
        observed.containers[2].current = Some(attempt("main", 0, 0, 5));
        observed.containers[2].image = Progress::Waiting;
        let plan = run(&pod, &observed, 6);
        assert_eq!((plan.actions, plan.wake_at), (vec![], Some(at(62))), "{policy}");
    }
}

#[test]
fn sidecars_end_after_the_containers_and_in_reverse_order() {
    let pod = initialized_by("Never", &["+outer", "a", "+inner"]);
    let mut observed = completed(&pod, 3);
    observed.containers[3].current = Some(exited(attempt("main", 0, 0, 5), 0, 9));
    let waits = |name: &str| PodAction::StopContainer {
        container: name.to_owned(),
        id: crate::pods::names::container_id(name, 0),
        hook: false,
        signal: None,
        reason: StopReason::PodTerminates,
    };
    let inner = stop("inner", 0, StopReason::PodTerminates);
    assert_eq!(run(&pod, &observed, 9).actions, [waits("outer"), inner]);
    let begun = stopping(StopReason::PodTerminates, 9);
    let waiting = begun.clone().map(|all| Stopping { signalled: None, ..all });
    observed.containers[0].stopping = waiting;
    observed.containers[2].stopping = begun;
    let plan = run(&pod, &observed, 10);
    assert_eq!((plan.actions, plan.wake_at), (vec![], Some(at(29))));
    // It is not waited for beyond the grace period.
    let signal = signal("outer", 0);
    assert_eq!(run(&pod, &observed, 29).actions, [signal.clone(), kill("inner", 0)]);
    observed.containers[2].current = Some(exited(attempt("inner", 0, 0, 2), 143, 11));
    assert_eq!(run(&pod, &observed, 11).actions, [signal]);
    observed.containers[0].current = Some(exited(attempt("outer", 0, 0, 2), 143, 11));
    assert_eq!(run(&pod, &observed, 11).actions, [PodAction::Finish]);
}

#[test]
fn deletion_ends_an_init_container_and_sidecars_with_it() {
    let pod = initialized_by("Always", &["+proxy", "b"]);
    let mut observed = completed(&pod, 1);
    observed.containers[1].current = Some(attempt("b", 0, 0, 5));
    let reason = StopReason::PodTerminates;
    let plan = terminate(&pod, &observed, 20, 6);
    // Nothing that it serves runs.
    assert_eq!(plan.actions, [stop("proxy", 0, reason), stop("b", 0, reason)]);
    let observed = completed(&pod, 2);
    assert_eq!(terminate(&pod, &observed, 20, 6).actions, [stop("proxy", 0, reason)]);
}

#[test]
fn without_grace_sidecars_do_not_wait() {
    let pod = initialized_by("Always", &["+proxy"]);
    let mut observed = completed(&pod, 2);
    observed.containers[1].image = Progress::Waiting;
    let reason = StopReason::PodTerminates;
    let plan = terminate(&pod, &observed, 0, 6);
    assert_eq!(plan.actions, [stop("proxy", 0, reason), stop("main", 0, reason)]);
}

#[test]
fn another_image_of_an_init_container_changes_nothing_but_of_a_sidecar_does() {
    let mut pod = initialized_by("Always", &["+proxy", "b"]);
    for container in pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap() {
        container.image = Some("app:2".to_owned());
    }
    let mut observed = completed(&pod, 1);
    observed.containers[1].current = Some(attempt("b", 0, 0, 5));
    let plan = run(&pod, &observed, 6);
    assert_eq!(plan.actions, [stop("proxy", 0, StopReason::ImageChanged)]);
}
