mod init;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::pods::names::AttemptLabels;
use crate::pods::observed::Verdicts;
use crate::volumes::Volumes;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn pod(policy: &str, names: &[&str]) -> Pod {
    let containers: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "image": "app:1"})).collect();
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "generation": 4},
        "spec": {"containers": containers, "restartPolicy": policy},
        "status": {"conditions": [
            {"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}
        ]}
    }))
    .unwrap()
}

fn connected(pod: &Pod) -> Observed {
    let all = spec::own(pod);
    Observed {
        sandbox: Sandbox::Ready { network_namespace: PathBuf::from("/ns") },
        network: Progress::Done(vec!["10.244.0.5".parse().unwrap()]),
        addresses_before: Vec::new(),
        volumes: Progress::Done(Volumes::new()),
        volumes_stale: false,
        containers: all.map(|(role, one)| ContainerRecord::new(&one.name, role)).collect(),
        pending_resize: None,
        superseded: Vec::new(),
        failed: None,
        finished: false,
        release: Progress::Waiting,
        removal_reported: false,
        busy: BTreeSet::new(),
    }
}

fn attempt(name: &str, number: u32, delay: u64) -> Attempt {
    Attempt {
        labels: AttemptLabels {
            container: name.to_owned(),
            number,
            image: "app:1".to_owned(),
            image_id: "sha256:1".to_owned(),
            volume_images: Default::default(),
            stop_signal: 15,
            restart_delay: Duration::from_secs(delay),
        },
        started_at: at(0),
        exit: None,
        in_runtime: true,
    }
}

fn exited(mut attempt: Attempt, code: i32, reason: &str) -> Attempt {
    attempt.exit = Some(Exit {
        code,
        signal: None,
        reason: reason.to_owned(),
        message: Some("why".to_owned()),
        finished_at: at(5),
    });
    attempt
}

fn compute(pod: &Pod, observed: &Observed, now: i64) -> PodStatus {
    compute_after(pod, observed, now, None, Intent::Run)
}

fn compute_after(
    pod: &Pod,
    observed: &Observed,
    now: i64,
    previous: Option<&PodStatus>,
    intent: Intent,
) -> PodStatus {
    status(&StatusInput {
        pod,
        intent,
        observed,
        host_ips: &["192.0.2.1".parse().unwrap()],
        start_time: at(-1),
        previous,
        now: at(now),
    })
}

fn container<'a>(status: &'a PodStatus, name: &str) -> &'a ContainerStatus {
    status.container_statuses.as_ref().unwrap().iter().find(|c| c.name == name).unwrap()
}

fn waiting_reason(status: &PodStatus, name: &str) -> Option<String> {
    container(status, name).state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn a_pod_that_is_taken_over_stays_connected_meanwhile() {
    let pod = pod("Always", &["a"]);
    let mut observed = connected(&pod);
    let before = compute(&pod, &observed, 0);
    observed.network = Progress::Waiting;
    observed.addresses_before = vec!["10.244.0.5".parse().unwrap()];
    let meanwhile = compute_after(&pod, &observed, 60, Some(&before), Intent::Run);
    assert_eq!(meanwhile, before, "nobody is to take it for a pod without an address");
    // Its sandbox is another, which has no address yet.
    observed.addresses_before.clear();
    let anew = compute_after(&pod, &observed, 60, Some(&before), Intent::Run);
    assert_eq!(anew.pod_ip, None);
    assert_eq!(condition(&anew, "PodReadyToStartContainers").status, "False");
}

#[test]
fn a_pod_on_its_way_is_pending() {
    let pod = pod("Always", &["a"]);
    let status = compute(&pod, &connected(&pod), 0);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting_reason(&status, "a").as_deref(), Some("ContainerCreating"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.5"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.observed_generation, Some(4));
    let ready = condition(&status, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
    assert_eq!(condition(&status, "PodReadyToStartContainers").status, "True");
    assert_eq!(condition(&status, "PodScheduled").status, "True", "others' conditions are kept");
}

#[test]
fn a_running_pod_is_ready_when_all_its_containers_are() {
    let mut pod = pod("Always", &["a", "b"]);
    pod.spec.as_mut().unwrap().containers[1].readiness_probe = Some(Default::default());
    let mut observed = connected(&pod);
    for record in &mut observed.containers {
        record.current = Some(attempt(&record.name, 2, 0));
    }
    let status = compute(&pod, &observed, 1);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(container(&status, "a").ready && !container(&status, "b").ready);
    assert_eq!(container(&status, "a").container_id.as_deref(), Some("kutter://u-1_a-2"));
    assert_eq!(container(&status, "a").restart_count, 2);
    assert_eq!(condition(&status, "Ready").status, "False");

    observed.containers[1].verdicts = Verdicts { readiness: Some(true), ..Verdicts::default() };
    let later = compute_after(&pod, &observed, 9, Some(&status), Intent::Run);
    assert_eq!(condition(&later, "Ready").status, "True");
    assert_eq!(condition(&later, "Ready").last_transition_time, Some(seconds(at(9))));
    assert_eq!(condition(&later, "Initialized").last_transition_time, Some(seconds(at(1))));
}

#[test]
fn a_container_is_not_started_before_its_startup_probe_says_so() {
    let mut pod = pod("Always", &["a"]);
    pod.spec.as_mut().unwrap().containers[0].startup_probe = Some(Default::default());
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(attempt("a", 0, 0));
    let status = compute(&pod, &observed, 1);
    assert_eq!(container(&status, "a").started, Some(false));
    assert!(!container(&status, "a").ready);
    observed.containers[0].verdicts.startup = Some(true);
    assert!(container(&compute(&pod, &observed, 1), "a").ready);
}

#[test]
fn a_failed_pull_becomes_a_back_off() {
    let pod = pod("Always", &["a"]);
    let mut observed = connected(&pod);
    observed.containers[0].missing_image = "app:1".to_owned();
    observed.containers[0].image = Progress::Failed(Failure {
        reason: "ErrImagePull",
        message: "no such tag".to_owned(),
        count: 1,
        at: at(0),
        retry_at: Some(at(10)),
    });
    assert_eq!(waiting_reason(&compute(&pod, &observed, 1), "a").as_deref(), Some("ErrImagePull"));
    let later = compute(&pod, &observed, 2);
    assert_eq!(waiting_reason(&later, "a").as_deref(), Some("ImagePullBackOff"));
    let message = container(&later, "a").state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(
        message.message.as_deref(),
        Some("Back-off pulling image \"app:1\": ErrImagePull: no such tag")
    );
}

#[test]
fn a_crashing_container_waits_and_shows_its_last_state() {
    let pod = pod("Always", &["a"]);
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 1, 90), 3, "Error"));
    let status = compute(&pod, &observed, 6);
    assert_eq!(waiting_reason(&status, "a").as_deref(), Some("CrashLoopBackOff"));
    let shown = container(&status, "a");
    assert_eq!(
        shown.state.as_ref().unwrap().waiting.as_ref().unwrap().message.as_deref(),
        Some("back-off 1m30s restarting failed container=a pod=web_shop(u-1)")
    );
    let last = shown.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!(last.message.as_deref(), Some("why"));
    assert_eq!(shown.restart_count, 1);
    assert_eq!(status.phase.as_deref(), Some("Running"), "it has run before");
}

#[test]
fn a_program_that_cannot_be_started_says_so() {
    let pod = pod("Always", &["a"]);
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 0, 0), 128, START_ERROR));
    let status = compute(&pod, &observed, 6);
    assert_eq!(waiting_reason(&status, "a").as_deref(), Some("RunContainerError"));
}

#[test]
fn a_missing_reference_is_a_config_error() {
    let pod = pod("Always", &["a"]);
    let mut observed = connected(&pod);
    observed.containers[0].blocked = Some(Failure::until_change(
        "CreateContainerConfigError",
        "configmap \"x\" not found".to_owned(),
        at(0),
    ));
    let status = compute(&pod, &observed, 1);
    assert_eq!(waiting_reason(&status, "a").as_deref(), Some("CreateContainerConfigError"));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn phases_follow_from_policy_and_exit_codes() {
    // Policy, exit codes, finished, phase.
    let cases = [
        ("Never", [0, 0], true, "Succeeded"),
        ("Never", [0, 1], true, "Failed"),
        ("OnFailure", [0, 0], true, "Succeeded"),
        ("OnFailure", [0, 1], false, "Running"),
        ("Always", [0, 0], false, "Running"),
    ];
    for (policy, codes, finished, phase) in cases {
        let pod = pod(policy, &["a", "b"]);
        let mut observed = connected(&pod);
        observed.finished = finished;
        for (record, code) in observed.containers.iter_mut().zip(codes) {
            record.current = Some(exited(attempt(&record.name, 0, 0), code, "Error"));
        }
        let status = compute(&pod, &observed, 6);
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {codes:?}");
    }
}

#[test]
fn a_finished_pods_status_stays_what_it_was() {
    let pod = pod("Never", &["a"]);
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 0, 0), 0, "Completed"));
    observed.finished = true;
    let last = compute(&pod, &observed, 6);
    assert_eq!(condition(&last, "Ready").reason.as_deref(), Some("PodCompleted"));
    assert_eq!(last.pod_ip.as_deref(), Some("10.244.0.5"));

    observed.sandbox = Sandbox::Absent(None);
    observed.containers[0].current = None;
    assert_eq!(compute_after(&pod, &observed, 99, Some(&last), Intent::Run), last);
}

#[test]
fn a_deleted_pod_ends_with_its_containers() {
    let pod = pod("Always", &["a"]);
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(exited(attempt("a", 0, 0), 143, "Error"));
    let intent = Intent::Terminate { grace: Duration::from_secs(30), report: true };
    let status = compute_after(&pod, &observed, 6, None, intent);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert!(container(&status, "a").state.as_ref().unwrap().terminated.is_some());
}

#[test]
fn an_ephemeral_container_has_a_status_of_its_own_and_does_not_count() {
    let mut pod = pod("Never", &["main"]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(json!([{
        "name": "debugger", "image": "app:1", "targetContainerName": "main",
    }]))
    .unwrap();
    let mut observed = connected(&pod);
    observed.containers[0].current = Some(attempt("main", 0, 0));
    observed.containers.push(ContainerRecord::new("debugger", Role::Ephemeral));
    let of = |status: &PodStatus| status.ephemeral_container_statuses.clone().unwrap().remove(0);
    let waits = compute(&pod, &observed, 1);
    assert_eq!((waits.phase.as_deref(), condition_of(&waits, "Ready")), (Some("Running"), true));
    let reason = |status: &PodStatus| of(status).state.unwrap().waiting.unwrap().reason;
    assert_eq!(reason(&waits).as_deref(), Some("ContainerCreating"));

    observed.containers[1].current = Some(attempt("debugger", 0, 0));
    let runs = compute(&pod, &observed, 1);
    let debugger = of(&runs);
    assert_eq!((debugger.ready, debugger.started, debugger.restart_count), (false, None, 0));
    assert!(debugger.state.unwrap().running.is_some());
    assert_eq!(runs.container_statuses.as_ref().unwrap().len(), 1);
    // Not over as long as somebody looks into it.
    observed.containers[0].current = Some(exited(attempt("main", 0, 0), 0, "Completed"));
    assert_eq!(compute(&pod, &observed, 6).phase.as_deref(), Some("Running"));
    observed.containers[1].current = Some(exited(attempt("debugger", 0, 0), 137, "Error"));
    assert_eq!(compute(&pod, &observed, 6).phase.as_deref(), Some("Succeeded"));

    observed.containers[1].current = None;
    let waits = compute(&pod, &observed, 6);
    assert_eq!(reason(&waits).as_deref(), Some("CreateContainerConfigError"));
}

fn condition_of(status: &PodStatus, kind: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}
