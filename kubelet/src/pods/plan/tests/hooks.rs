//! Hooks after the start and before the end of a container.

use super::*;

fn hooked(hook: &str) -> Pod {
    let mut value = serde_json::to_value(pod("Always", &["a", "b"])).unwrap();
    value["spec"]["containers"][0]["lifecycle"] = json!({hook: {"sleep": {"seconds": 3}}});
    serde_json::from_value(value).unwrap()
}

fn begin_stop(reason: StopReason) -> PodAction {
    let id = crate::pods::names::container_id("a", 0);
    PodAction::StopContainer { container: "a".to_owned(), id, hook: true, signal: None, reason }
}

fn in_hook(since: i64) -> Option<Stopping> {
    let stopping = stopping(StopReason::PodTerminates, since);
    stopping.map(|all| Stopping { signalled: None, ..all })
}

fn hook() -> Job {
    Job::PreStop("a".to_owned())
}

#[test]
fn those_behind_a_container_wait_until_the_hook_after_its_start_is_done() {
    let pod = hooked("postStart");
    let mut observed = prepared(&pod);
    observed.containers[0].current = Some(attempt("a", 0, 0, 0));
    observed.containers[0].post_start = PostStart::Due;
    let id = crate::pods::names::container_id("a", 0);
    let call = PodAction::CallPostStart { container: "a".to_owned(), id };
    assert_eq!(run(&pod, &observed, 0).actions, [call]);
    observed.busy.insert(Job::PostStart("a".to_owned()));
    assert_eq!(run(&pod, &observed, 0).actions, []);
    observed.busy.clear();
    observed.containers[0].post_start = PostStart::Done;
    assert_eq!(run(&pod, &observed, 0).actions, [start("b", 0, 0)]);
}

#[test]
fn a_failed_hook_after_the_start_ends_the_container_and_holds_nobody_up() {
    let pod = hooked("postStart");
    let mut observed = prepared(&pod);
    observed.containers[0].current = Some(attempt("a", 0, 0, 0));
    observed.containers[0].post_start = PostStart::Failed;
    let actions = run(&pod, &observed, 0).actions;
    assert_eq!(actions, [stop("a", 0, StopReason::HookFailed), start("b", 0, 0)]);
    // It is started again as its policy says.
    observed.containers[0].current = Some(exited(attempt("a", 0, 0, 0), 143, 1));
    observed.containers[0].stopping = stopping(StopReason::HookFailed, 0);
    observed.containers[1].current = Some(attempt("b", 0, 0, 0));
    assert_eq!(run(&pod, &observed, 1).actions, [start("a", 1, 10)]);
}

#[test]
fn a_container_gets_its_signal_after_its_hook_and_has_what_is_left_of_its_time() {
    let pod = hooked("preStop");
    let mut observed = running(&pod);
    let reason = StopReason::PodTerminates;
    let plan = terminate(&pod, &observed, 20, 0);
    assert_eq!(plan.actions, [begin_stop(reason), stop("b", 0, reason)]);
    observed.containers[1].current = Some(exited(attempt("b", 0, 0, 0), 143, 0));
    observed.containers[0].stopping = in_hook(0);
    observed.busy.insert(hook());
    let plan = terminate(&pod, &observed, 20, 3);
    assert_eq!((plan.actions, plan.wake_at), (vec![], Some(at(20))));
    observed.busy.clear();
    assert_eq!(terminate(&pod, &observed, 20, 3).actions, [signal("a", 0)]);
    observed.containers[0].stopping =
        in_hook(0).map(|all| Stopping { signalled: Some(at(3)), ..all });
    assert_eq!(terminate(&pod, &observed, 20, 3).wake_at, Some(at(20)));
}

#[test]
fn a_hook_that_takes_all_the_time_leaves_the_container_a_moment() {
    let pod = hooked("preStop");
    let mut observed = running(&pod);
    observed.containers.truncate(1);
    observed.containers[0].stopping = in_hook(0);
    observed.busy.insert(hook());
    assert_eq!(terminate(&pod, &observed, 20, 20).actions, [signal("a", 0)]);
    // A second deletion may leave it less.
    assert_eq!(terminate(&pod, &observed, 5, 6).actions, [signal("a", 0)]);
    observed.busy.clear();
    observed.containers[0].stopping =
        in_hook(0).map(|all| Stopping { signalled: Some(at(20)), ..all });
    assert_eq!(terminate(&pod, &observed, 20, 20).wake_at, Some(at(22)));
    assert_eq!(terminate(&pod, &observed, 20, 22).actions, [kill("a", 0)]);
}

#[test]
fn the_hook_before_the_end_does_not_wait_for_the_one_after_the_start() {
    let mut pod = hooked("preStop");
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    let lifecycle = container.lifecycle.as_mut().unwrap();
    lifecycle.post_start.clone_from(&lifecycle.pre_stop);
    let mut observed = running(&pod);
    observed.containers.truncate(1);
    observed.containers[0].post_start = PostStart::Due;
    observed.busy.insert(Job::PostStart("a".to_owned()));
    let reason = StopReason::PodTerminates;
    assert_eq!(terminate(&pod, &observed, 20, 0).actions, [begin_stop(reason)]);
}

#[test]
fn there_is_no_time_for_a_hook_without_grace() {
    let pod = hooked("preStop");
    let mut observed = running(&pod);
    observed.containers.truncate(1);
    let reason = StopReason::PodTerminates;
    assert_eq!(terminate(&pod, &observed, 0, 0).actions, [stop("a", 0, reason)]);
}

#[test]
fn an_unhealthy_container_is_called_before_its_end_too() {
    let pod = hooked("preStop");
    let mut observed = running(&pod);
    observed.containers[0].verdicts.liveness = Some(false);
    assert_eq!(run(&pod, &observed, 0).actions, [begin_stop(StopReason::Unhealthy)]);
}
