//! Each case says what there is and expects what is to be done.

mod ephemeral;
mod hooks;
mod init;
mod laws;
mod resize;
mod restarts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use runtime::image::{Image, ImageConfig};
use serde_json::{Value, json};

use super::*;
use crate::pods::names::AttemptLabels;
use crate::pods::observed::{Attempt, Exit, Images, Stopping, Verdicts};
use crate::volumes::Volumes;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// A pod of these containers that restarts as `policy` says.
fn pod(policy: &str, names: &[&str]) -> Pod {
    let containers: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "image": "app:1"})).collect();
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
        "spec": {"containers": containers, "restartPolicy": policy, "terminationGracePeriodSeconds": 20}
    }))
    .unwrap()
}

fn nothing_there(pod: &Pod) -> Observed {
    Observed {
        sandbox: Sandbox::Absent(None),
        network: Progress::Waiting,
        addresses_before: Vec::new(),
        volumes: Progress::Waiting,
        volumes_stale: false,
        containers: spec::own(pod)
            .map(|(role, container)| ContainerRecord::new(&container.name, role))
            .collect(),
        pending_resize: None,
        superseded: Vec::new(),
        failed: None,
        finished: false,
        release: Progress::Waiting,
        removal_reported: false,
        busy: BTreeSet::new(),
    }
}

/// Everything but the containers is ready.
fn prepared(pod: &Pod) -> Observed {
    let mut observed = nothing_there(pod);
    observed.sandbox = Sandbox::Ready { network_namespace: PathBuf::from("/ns") };
    observed.network = Progress::Done(vec!["10.244.0.5".parse().unwrap()]);
    observed.volumes = Progress::Done(Volumes::new());
    for record in &mut observed.containers {
        record.image = Progress::Done(image());
    }
    observed
}

fn image() -> Images {
    let own = Image {
        id: "sha256:1".to_owned(),
        repo_digests: Vec::new(),
        tags: Vec::new(),
        layers: Vec::new(),
        size_bytes: 1,
        config: ImageConfig::default(),
    };
    Images { own, volumes: BTreeMap::new() }
}

fn attempt(name: &str, number: u32, delay: u64, started: i64) -> Attempt {
    Attempt {
        labels: AttemptLabels {
            container: name.to_owned(),
            number,
            image: "app:1".to_owned(),
            image_id: "sha256:1".to_owned(),
            volume_images: BTreeMap::new(),
            stop_signal: 15,
            restart_delay: Duration::from_secs(delay),
        },
        started_at: at(started),
        exit: None,
        in_runtime: true,
    }
}

fn exited(mut attempt: Attempt, code: i32, finished: i64) -> Attempt {
    attempt.exit = Some(Exit {
        code,
        signal: None,
        reason: "Error".to_owned(),
        message: None,
        finished_at: at(finished),
    });
    attempt
}

/// All containers run since second 0.
fn running(pod: &Pod) -> Observed {
    let mut observed = prepared(pod);
    for record in &mut observed.containers {
        record.current = Some(attempt(&record.name, 0, 0, 0));
        record.image = Progress::Waiting;
    }
    observed
}

fn run(pod: &Pod, observed: &Observed, now: i64) -> Plan {
    plan(pod, Intent::Run, observed, at(now))
}

fn terminate(pod: &Pod, observed: &Observed, grace: u64, now: i64) -> Plan {
    let intent = Intent::Terminate { grace: Duration::from_secs(grace), report: true };
    plan(pod, intent, observed, at(now))
}

fn start(name: &str, number: u32, restart_delay: u64) -> PodAction {
    PodAction::StartContainer {
        container: name.to_owned(),
        number,
        restart_delay: Duration::from_secs(restart_delay),
    }
}

fn fetch(name: &str) -> PodAction {
    PodAction::FetchImage { container: name.to_owned() }
}

fn stop(name: &str, number: u32, reason: StopReason) -> PodAction {
    PodAction::StopContainer {
        container: name.to_owned(),
        id: crate::pods::names::container_id(name, number),
        hook: false,
        signal: Some(15),
        reason,
    }
}

/// It was sent its signal at once.
fn stopping(reason: StopReason, since: i64) -> Option<Stopping> {
    Some(Stopping {
        reason,
        since: at(since),
        hook: false,
        signalled: Some(at(since)),
        killed: None,
    })
}

fn signal(name: &str, number: u32) -> PodAction {
    PodAction::SignalContainer {
        container: name.to_owned(),
        id: crate::pods::names::container_id(name, number),
        signal: 15,
    }
}

fn kill(name: &str, number: u32) -> PodAction {
    PodAction::KillContainer {
        container: name.to_owned(),
        id: crate::pods::names::container_id(name, number),
    }
}

fn failure(at_second: i64, retry: Option<i64>) -> Failure {
    Failure {
        reason: "ErrImagePull",
        message: "no".to_owned(),
        count: 1,
        at: at(at_second),
        retry_at: retry.map(at),
    }
}

#[test]
fn a_new_pod_begins_with_everything_at_once() {
    let pod = pod("Always", &["a", "b"]);
    let plan = run(&pod, &nothing_there(&pod), 0);
    assert_eq!(
        plan.actions,
        [PodAction::CreateSandbox, PodAction::PrepareVolumes, fetch("a"), fetch("b")]
    );
    assert_eq!(plan.wake_at, None);
}

#[test]
fn what_is_under_way_is_not_begun_again() {
    let pod = pod("Always", &["a"]);
    let mut observed = nothing_there(&pod);
    observed.busy = [Job::Sandbox, Job::Volumes, Job::Image("a".to_owned())].into();
    assert_eq!(run(&pod, &observed, 0), Plan::default());
}

#[test]
fn the_network_follows_the_sandbox() {
    let pod = pod("Always", &["a"]);
    let mut observed = nothing_there(&pod);
    observed.sandbox = Sandbox::Ready { network_namespace: PathBuf::from("/ns") };
    assert!(run(&pod, &observed, 0).actions.contains(&PodAction::AttachNetwork));
}

#[test]
fn containers_start_one_after_the_other_in_their_order() {
    let pod = pod("Always", &["a", "b"]);
    let mut observed = prepared(&pod);
    assert_eq!(run(&pod, &observed, 0).actions, [start("a", 0, 0)]);
    observed.busy.insert(Job::Start);
    assert_eq!(run(&pod, &observed, 0).actions, []);
    observed.busy.clear();
    observed.containers[0].current = Some(attempt("a", 0, 0, 0));
    assert_eq!(run(&pod, &observed, 0).actions, [start("b", 0, 0)]);
}

#[test]
fn a_container_waits_for_those_before_it_whose_image_is_on_its_way() {
    let pod = pod("Always", &["a", "b"]);
    let mut observed = prepared(&pod);
    observed.containers[0].image = Progress::Waiting;
    observed.busy.insert(Job::Image("a".to_owned()));
    assert_eq!(run(&pod, &observed, 0).actions, []);
}

#[test]
fn a_container_does_not_wait_for_those_before_it_that_cannot_start() {
    let pod = pod("Always", &["a", "b"]);
    let mut observed = prepared(&pod);
    observed.containers[0].image = Progress::Failed(failure(0, Some(10)));
    let plan = run(&pod, &observed, 5);
    assert_eq!(plan.actions, [start("b", 0, 0)]);
    assert_eq!(plan.wake_at, Some(at(10)));

    observed.containers[0].image = Progress::Done(image());
    observed.containers[0].blocked = Some(failure(0, None));
    let plan = run(&pod, &observed, 5);
    assert_eq!(plan.actions, [start("b", 0, 0)]);
    assert_eq!(plan.wake_at, None, "only a change can help");
}

#[test]
fn a_failed_step_is_tried_again_when_its_time_has_come() {
    let pod = pod("Always", &["a"]);
    let mut observed = prepared(&pod);
    observed.containers[0].image = Progress::Failed(failure(0, Some(10)));
    assert_eq!(run(&pod, &observed, 9).wake_at, Some(at(10)));
    assert_eq!(run(&pod, &observed, 10).actions, [fetch("a")]);

    let mut observed = nothing_there(&pod);
    observed.sandbox = Sandbox::Absent(Some(failure(0, Some(1))));
    assert!(!run(&pod, &observed, 0).actions.contains(&PodAction::CreateSandbox));
    assert!(run(&pod, &observed, 1).actions.contains(&PodAction::CreateSandbox));
}

#[test]
fn a_running_pod_needs_nothing() {
    let pod = pod("Always", &["a", "b"]);
    assert_eq!(run(&pod, &running(&pod), 1000), Plan::default());
}

#[test]
fn volumes_are_brought_up_to_date_while_containers_run() {
    let pod = pod("Always", &["a"]);
    let mut observed = running(&pod);
    observed.volumes_stale = true;
    assert_eq!(run(&pod, &observed, 0).actions, [PodAction::PrepareVolumes]);
}

#[test]
fn the_first_restart_is_immediate_and_later_ones_wait_ever_longer() {
    let pod = pod("Always", &["a"]);
    // The delay of an attempt, and the one its successor gets.
    let cases = [(0, 10), (10, 20), (20, 40), (160, 300), (300, 300)];
    for (delay, next) in cases {
        let mut observed = prepared(&pod);
        observed.containers[0].current = Some(exited(attempt("a", 3, delay, 0), 1, 100));
        let due = 100 + i64::try_from(delay).unwrap();
        if delay > 0 {
            let early = run(&pod, &observed, due - 1);
            assert_eq!((early.actions, early.wake_at), (vec![], Some(at(due))), "{delay}");
        }
        assert_eq!(run(&pod, &observed, due).actions, [start("a", 4, next)], "{delay}");
    }
}

#[test]
fn ten_minutes_of_running_make_up_for_earlier_crashes() {
    let pod = pod("Always", &["a"]);
    let mut observed = prepared(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 3, 160, 0), 1, 600));
    assert_eq!(run(&pod, &observed, 600).actions, [start("a", 4, 10)]);
    observed.containers[0].current = Some(exited(attempt("a", 3, 160, 1), 1, 600));
    assert_eq!(run(&pod, &observed, 600).actions, []);
}

#[test]
fn restart_policies_decide_by_the_exit_code() {
    // Policy, exit code, started again.
    let cases = [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ];
    for (policy, code, again) in cases {
        let pod = pod(policy, &["a"]);
        let mut observed = prepared(&pod);
        observed.containers[0].current = Some(exited(attempt("a", 0, 0, 0), code, 5));
        let expected = if again { start("a", 1, 10) } else { PodAction::Finish };
        assert_eq!(run(&pod, &observed, 5).actions, [expected], "{policy} {code}");
    }
}

#[test]
fn a_pod_is_over_when_its_last_container_is() {
    let pod = pod("Never", &["a", "b"]);
    let mut observed = running(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 0, 0, 0), 0, 5));
    assert_eq!(run(&pod, &observed, 5).actions, []);
    observed.containers[1].current = Some(exited(attempt("b", 0, 0, 0), 0, 6));
    assert_eq!(run(&pod, &observed, 6).actions, [PodAction::Finish]);
}

#[test]
fn what_is_over_is_taken_back_and_never_started_again() {
    let pod = pod("Always", &["a"]);
    let mut observed = nothing_there(&pod);
    observed.finished = true;
    assert_eq!(run(&pod, &observed, 0).actions, [PodAction::Release]);
    observed.release = Progress::Done(());
    assert_eq!(run(&pod, &observed, 0), Plan::default());
}

#[test]
fn an_unhealthy_container_is_stopped_and_killed_when_it_does_not_obey() {
    let pod = pod("Always", &["a"]);
    let mut observed = running(&pod);
    observed.containers[0].verdicts = Verdicts { liveness: Some(false), ..Verdicts::default() };
    assert_eq!(run(&pod, &observed, 50).actions, [stop("a", 0, StopReason::Unhealthy)]);

    observed.containers[0].stopping = stopping(StopReason::Unhealthy, 50);
    let waiting = run(&pod, &observed, 69);
    assert_eq!((waiting.actions, waiting.wake_at), (vec![], Some(at(70))));
    assert_eq!(run(&pod, &observed, 70).actions, [kill("a", 0)]);
}

#[test]
fn a_stop_is_brought_to_its_end_even_if_the_probe_recovers() {
    let pod = pod("Always", &["a"]);
    let mut observed = running(&pod);
    observed.containers[0].verdicts = Verdicts { liveness: Some(true), ..Verdicts::default() };
    observed.containers[0].stopping = stopping(StopReason::Unhealthy, 0);
    assert_eq!(run(&pod, &observed, 20).actions, [kill("a", 0)]);
}

#[test]
fn a_probes_own_grace_period_wins_over_the_pods() {
    let mut pod = pod("Always", &["a"]);
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.liveness_probe =
        serde_json::from_value(json!({"terminationGracePeriodSeconds": 5})).unwrap();
    let mut observed = running(&pod);
    observed.containers[0].stopping = stopping(StopReason::Unhealthy, 0);
    assert_eq!(run(&pod, &observed, 4).wake_at, Some(at(5)));
}

#[test]
fn a_container_that_was_killed_to_be_restarted_is_restarted_whatever_its_exit_code() {
    for (policy, again) in [("Always", true), ("OnFailure", true), ("Never", false)] {
        let pod = pod(policy, &["a"]);
        let mut observed = prepared(&pod);
        observed.containers[0].current = Some(exited(attempt("a", 0, 0, 0), 0, 5));
        observed.containers[0].stopping = stopping(StopReason::Unhealthy, 4);
        let expected = if again { start("a", 1, 10) } else { PodAction::Finish };
        assert_eq!(run(&pod, &observed, 5).actions, [expected], "{policy}");
    }
}

#[test]
fn another_image_restarts_a_container_at_once_whatever_the_policy() {
    let mut pod = pod("Never", &["a"]);
    let mut observed = running(&pod);
    pod.spec.as_mut().unwrap().containers[0].image = Some("app:2".to_owned());
    assert_eq!(run(&pod, &observed, 5).actions, [stop("a", 0, StopReason::ImageChanged)]);

    observed.containers[0].stopping = stopping(StopReason::ImageChanged, 5);
    observed.containers[0].current = Some(exited(attempt("a", 0, 300, 0), 143, 6));
    observed.containers[0].image = Progress::Done(image());
    assert_eq!(run(&pod, &observed, 6).actions, [start("a", 1, 10)]);
}

#[test]
fn a_changed_image_of_a_container_that_is_over_starts_nothing() {
    let mut pod = pod("Never", &["a"]);
    let mut observed = prepared(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 0, 0, 0), 0, 5));
    pod.spec.as_mut().unwrap().containers[0].image = Some("app:2".to_owned());
    assert_eq!(run(&pod, &observed, 6).actions, [PodAction::Finish]);
}

#[test]
fn ended_containers_that_were_replaced_are_removed() {
    let pod = pod("Always", &["a"]);
    let mut observed = running(&pod);
    let id = ContainerId("a-0".to_owned());
    observed.superseded = vec![Superseded::new(id.clone())];
    let remove = [PodAction::RemoveContainer { id }];
    assert_eq!(run(&pod, &observed, 0).actions, remove);
    // One that cannot be removed is tried again, in its time.
    let failure =
        Failure::backing_off(None, "Error", "it is busy".to_owned(), at(0), Duration::from_secs(5));
    observed.superseded[0].failure = Some(failure);
    let waiting = run(&pod, &observed, 4);
    assert_eq!((waiting.actions, waiting.wake_at), (Vec::new(), Some(at(5))));
    assert_eq!(run(&pod, &observed, 5).actions, remove);
}

#[test]
fn a_lost_sandbox_is_removed_before_anything_else() {
    let pod = pod("Always", &["a"]);
    let mut observed = prepared(&pod);
    observed.sandbox = Sandbox::Lost(None);
    observed.containers[0].current = Some(exited(attempt("a", 0, 0, 0), 137, 5));
    assert_eq!(run(&pod, &observed, 5).actions, [PodAction::RemoveLostSandbox]);
    observed.sandbox = Sandbox::Lost(Some(failure(5, Some(6))));
    assert_eq!(run(&pod, &observed, 5).actions, []);
    assert_eq!(run(&pod, &observed, 6).actions, [PodAction::RemoveLostSandbox]);
}

#[test]
fn deletion_stops_all_containers_at_once() {
    let pod = pod("Always", &["a", "b"]);
    let plan = terminate(&pod, &running(&pod), 20, 0);
    assert_eq!(
        plan.actions,
        [stop("a", 0, StopReason::PodTerminates), stop("b", 0, StopReason::PodTerminates)]
    );
}

#[test]
fn a_second_deletion_may_shorten_the_grace() {
    let pod = pod("Always", &["a"]);
    let mut observed = running(&pod);
    observed.containers[0].stopping = stopping(StopReason::PodTerminates, 0);
    assert_eq!(terminate(&pod, &observed, 20, 3).wake_at, Some(at(20)));
    assert_eq!(terminate(&pod, &observed, 2, 3).actions, [kill("a", 0)]);
}

#[test]
fn a_kill_without_effect_is_repeated() {
    let pod = pod("Always", &["a"]);
    let mut observed = running(&pod);
    observed.containers[0].stopping =
        stopping(StopReason::PodTerminates, 0).map(|all| Stopping { killed: Some(at(20)), ..all });
    assert_eq!(terminate(&pod, &observed, 20, 21).wake_at, Some(at(30)));
    assert_eq!(terminate(&pod, &observed, 20, 30).actions, [kill("a", 0)]);
}

#[test]
fn everything_is_taken_back_once_nothing_runs_and_then_reported() {
    let pod = pod("Always", &["a"]);
    let mut observed = prepared(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 0, 0, 0), 0, 5));
    assert_eq!(terminate(&pod, &observed, 20, 5).actions, [PodAction::Release]);
    observed.release = Progress::Done(());
    assert_eq!(terminate(&pod, &observed, 20, 5).actions, [PodAction::ReportRemoved]);
    observed.removal_reported = true;
    assert_eq!(terminate(&pod, &observed, 20, 5), Plan::default());
}

#[test]
fn nothing_is_reported_of_a_pod_whose_object_is_gone() {
    let pod = pod("Always", &["a"]);
    let mut observed = nothing_there(&pod);
    observed.release = Progress::Done(());
    let intent = Intent::Terminate { grace: Duration::ZERO, report: false };
    assert_eq!(plan(&pod, intent, &observed, at(0)), Plan::default());
}

#[test]
fn a_deleted_pod_waits_for_what_is_being_made() {
    let pod = pod("Always", &["a"]);
    for job in [Job::Sandbox, Job::Network, Job::Volumes, Job::Start] {
        let mut observed = nothing_there(&pod);
        observed.busy.insert(job.clone());
        assert_eq!(terminate(&pod, &observed, 20, 0), Plan::default(), "{job:?}");
    }
}

#[test]
fn a_deleted_pod_does_not_wait_for_its_image() {
    let pod = pod("Always", &["a"]);
    let mut observed = nothing_there(&pod);
    observed.busy.insert(Job::Image("a".to_owned()));
    assert_eq!(terminate(&pod, &observed, 20, 0).actions, [PodAction::Release]);
}

#[test]
fn a_deleted_pod_starts_nothing() {
    let pod = pod("Always", &["a", "b"]);
    let mut observed = prepared(&pod);
    observed.containers[0].current = Some(attempt("a", 0, 0, 0));
    let plan = terminate(&pod, &observed, 20, 0);
    assert_eq!(plan.actions, [stop("a", 0, StopReason::PodTerminates)]);
}

#[test]
fn a_lost_sandbox_of_a_deleted_pod_is_taken_back_at_once() {
    let pod = pod("Always", &["a"]);
    let mut observed = running(&pod);
    observed.sandbox = Sandbox::Lost(None);
    assert_eq!(terminate(&pod, &observed, 20, 0).actions, [PodAction::Release]);
}

#[test]
fn the_intent_follows_the_object() {
    let mut pod = pod("Always", &["a"]);
    assert_eq!(Intent::of(&pod), Intent::Run);
    let object: Pod = serde_json::from_value(json!({"metadata": {
        "deletionTimestamp": "2026-11-23T15:00:00Z", "deletionGracePeriodSeconds": 7
    }}))
    .unwrap();
    pod.metadata.deletion_timestamp = object.metadata.deletion_timestamp;
    let terminate =
        |seconds| Intent::Terminate { grace: Duration::from_secs(seconds), report: true };
    assert_eq!(Intent::of(&pod), terminate(20));
    pod.metadata.deletion_grace_period_seconds = Some(7);
    assert_eq!(Intent::of(&pod), terminate(7));
    pod.metadata.deletion_grace_period_seconds = Some(0);
    assert_eq!(Intent::of(&pod), terminate(0));
}

/// Applies actions to a model in which everything succeeds, until nothing is left to be done.
#[test]
fn a_pod_settles_when_everything_succeeds() {
    let pod = pod("Always", &["a", "b", "c"]);
    let mut observed = nothing_there(&pod);
    for _ in 0..20 {
        let plan = run(&pod, &observed, 0);
        for action in &plan.actions {
            succeed(&mut observed, action);
        }
        if plan.actions.is_empty() {
            assert!(observed.containers.iter().all(|record| record.running().is_some()));
            assert_eq!(plan.wake_at, None);
            return;
        }
    }
    panic!("did not settle: {observed:?}");
}

fn succeed(observed: &mut Observed, action: &PodAction) {
    let record = |observed: &mut Observed, name: &str| -> usize {
        observed.containers.iter().position(|record| record.name == name).unwrap()
    };
    match action {
        PodAction::CreateSandbox => {
            observed.sandbox = Sandbox::Ready { network_namespace: PathBuf::from("/ns") };
        }
        PodAction::AttachNetwork => observed.network = Progress::Done(vec![]),
        PodAction::PrepareVolumes => observed.volumes = Progress::Done(Volumes::new()),
        PodAction::FetchImage { container } => {
            let index = record(observed, container);
            observed.containers[index].image = Progress::Done(image());
        }
        PodAction::StartContainer { container, number, .. } => {
            let index = record(observed, container);
            assert!(
                observed.containers[..index].iter().all(|before| before.running().is_some()),
                "{container} started out of order"
            );
            observed.containers[index].current = Some(attempt(container, *number, 0, 0));
        }
        other => panic!("{other:?} is not needed to start a pod"),
    }
}
