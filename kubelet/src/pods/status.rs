//! What a pod's `status` says, in Kubernetes' words.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use proto::k8s::apimachinery::pkg::apis::meta::v1::Time;

use super::clock::after;
use super::names::status_container_id;
use super::observed::{Attempt, ContainerRecord, Exit, Failure, Observed, START_ERROR, Sandbox};
use super::plan::{Fate, Intent, awaited, fate};
use super::resources::QosClass;
use super::spec;

/// What the status is computed from.
pub(crate) struct StatusInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) intent: Intent,
    pub(crate) observed: &'a Observed,
    pub(crate) host_ips: &'a [IpAddr],
    /// When this node first saw the pod.
    pub(crate) start_time: Timestamp,
    /// What was reported last: conditions keep the time of their last change.
    pub(crate) previous: Option<&'a PodStatus>,
    pub(crate) now: Timestamp,
}

/// So long a failed pull is `ErrImagePull` before it is `ImagePullBackOff`; long enough to be seen.
pub(crate) const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

/// Computes the whole status.
pub(crate) fn status(input: &StatusInput<'_>) -> PodStatus {
    let observed = input.observed;
    // What is over is over: its containers' records are gone with its sandbox.
    if let Some(previous) = input.previous.filter(|_| observed.finished && is_final(input.previous))
    {
        return PodStatus { observed_generation: generation(input.pod), ..previous.clone() };
    }
    let (ephemeral, regular): (Vec<_>, Vec<_>) =
        observed.containers.iter().partition(|record| record.ephemeral);
    let containers: Vec<ContainerStatus> =
        regular.into_iter().map(|record| container_status(input, record)).collect();
    let ephemeral = ephemeral.into_iter().map(|record| ephemeral_status(input, record)).collect();
    let phase = phase(input, &containers);
    let network = observed.network.done().map(Vec::as_slice).unwrap_or_default();
    let sandboxed = matches!(observed.sandbox, Sandbox::Ready { .. });
    let addresses = match sandboxed {
        true => network,
        false => &[],
    };
    let mut status = PodStatus {
        conditions: Some(conditions(input, phase, &containers)),
        container_statuses: Some(containers),
        ephemeral_container_statuses: non_empty(ephemeral),
        host_ip: input.host_ips.first().map(IpAddr::to_string),
        host_ips: non_empty(
            input.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect(),
        ),
        observed_generation: generation(input.pod),
        phase: Some(phase.to_owned()),
        pod_ip: addresses.first().map(IpAddr::to_string),
        pod_ips: non_empty(addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        qos_class: Some(QosClass::of(input.pod).name().to_owned()),
        start_time: Some(seconds(input.start_time)),
        ..PodStatus::default()
    };
    // A pod on its way out keeps the address it had: services and people still ask for it.
    if status.pod_ip.is_none()
        && let Some(previous) = input.previous
        && input.intent != Intent::Run
    {
        status.pod_ip = previous.pod_ip.clone();
        status.pod_ips = previous.pod_ips.clone();
    }
    status
}

/// Whether a pod of this status never runs again.
pub(crate) fn is_final(status: Option<&PodStatus>) -> bool {
    matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn container_status(input: &StatusInput<'_>, record: &ContainerRecord) -> ContainerStatus {
    let uid = input.pod.metadata.uid.as_deref().unwrap_or_default();
    let image = spec::container(input.pod, &record.name);
    let image = image.and_then(|spec| spec.image.clone()).unwrap_or_default();
    let Some(attempt) = &record.current else {
        return ContainerStatus {
            image,
            name: record.name.clone(),
            restart_count: i32::try_from(record.next_number).unwrap_or(i32::MAX),
            started: Some(false),
            last_state: record.last.clone().map(terminated_state),
            state: Some(waiting_state(waiting(input, record))),
            ..ContainerStatus::default()
        };
    };
    let started = is_started(input.pod, record);
    let (state, last) = match &attempt.exit {
        None => {
            let running = ContainerStateRunning { started_at: Some(seconds(attempt.started_at)) };
            (ContainerState { running: Some(running), ..Default::default() }, record.last.clone())
        }
        Some(exit) => {
            let ended = terminated(uid, attempt, exit);
            match waiting_again(input, record, exit) {
                Some(waiting) => (waiting_state(waiting), Some(ended)),
                None => (terminated_state(ended), record.last.clone()),
            }
        }
    };
    // One that does not run will have what it was promised.
    let has = record.applied.as_ref().filter(|_| attempt.exit.is_none());
    ContainerStatus {
        allocated_resources: record.promised.requests.clone(),
        resources: Some(has.unwrap_or(&record.promised).clone()),
        container_id: Some(status_container_id(uid, &attempt.id())),
        image: attempt.labels.image.clone(),
        image_id: attempt.labels.image_id.clone(),
        last_state: last.map(terminated_state),
        name: record.name.clone(),
        ready: is_ready(input.pod, record),
        restart_count: i32::try_from(attempt.labels.number).unwrap_or(i32::MAX),
        started: Some(started),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// Nobody sends it requests, and it is started once: whether it is ready is not said.
fn ephemeral_status(input: &StatusInput<'_>, record: &ContainerRecord) -> ContainerStatus {
    ContainerStatus {
        ready: false,
        started: None,
        allocated_resources: None,
        resources: None,
        ..container_status(input, record)
    }
}

/// Whether the container runs and its startup probe, if it has one, has succeeded.
pub(crate) fn is_started(pod: &Pod, record: &ContainerRecord) -> bool {
    let probed = spec::container(pod, &record.name).is_some_and(|s| s.startup_probe.is_some());
    record.running().is_some() && (!probed || record.verdicts.startup == Some(true))
}

/// Whether the container may be sent requests.
pub(crate) fn is_ready(pod: &Pod, record: &ContainerRecord) -> bool {
    let probed = spec::container(pod, &record.name).is_some_and(|s| s.readiness_probe.is_some());
    is_started(pod, record) && (!probed || record.verdicts.readiness == Some(true))
}

/// Why a container that never ran does not run.
fn waiting(input: &StatusInput<'_>, record: &ContainerRecord) -> (String, Option<String>) {
    hindrance(input, record).unwrap_or_else(|| ("ContainerCreating".to_owned(), None))
}

/// What keeps a container from being started.
fn hindrance(
    input: &StatusInput<'_>,
    record: &ContainerRecord,
) -> Option<(String, Option<String>)> {
    if let Some(failure) = record.image.failure() {
        return Some(image_failure(input, record, failure));
    }
    if let Some(target) = awaited(input.pod, record, input.observed) {
        let message = format!("unable to find target container \"{target}\"");
        return Some(("CreateContainerConfigError".to_owned(), Some(message)));
    }
    record
        .blocked
        .as_ref()
        .map(|failure| (failure.reason.to_owned(), Some(failure.message.clone())))
}

fn image_failure(
    input: &StatusInput<'_>,
    record: &ContainerRecord,
    failure: &Failure,
) -> (String, Option<String>) {
    let fresh = input.now < after(failure.at, PULL_ERROR_SHOWN);
    if failure.reason != "ErrImagePull" || fresh {
        return (failure.reason.to_owned(), Some(failure.message.clone()));
    }
    let image = spec::container(input.pod, &record.name);
    let image = image.and_then(|spec| spec.image.clone()).unwrap_or_default();
    let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message);
    ("ImagePullBackOff".to_owned(), Some(message))
}

/// Why a container that ended, and is to be started again, does not run yet.
fn waiting_again(
    input: &StatusInput<'_>,
    record: &ContainerRecord,
    exit: &Exit,
) -> Option<(String, Option<String>)> {
    if input.intent != Intent::Run || input.observed.finished {
        return None;
    }
    let Fate::Start { not_before, .. } = fate(input.pod, record, input.now) else { return None };
    if let Some(hindrance) = hindrance(input, record) {
        return Some(hindrance);
    }
    if not_before > input.now {
        let delay = record.current.as_ref().map_or(0, |a| a.labels.restart_delay.as_secs());
        return Some((
            "CrashLoopBackOff".to_owned(),
            Some(backoff_message(input.pod, record, delay)),
        ));
    }
    (exit.reason == START_ERROR).then(|| ("RunContainerError".to_owned(), exit.message.clone()))
}

fn backoff_message(pod: &Pod, record: &ContainerRecord, seconds: u64) -> String {
    let delay = match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    };
    format!(
        "back-off {delay} restarting failed container={} pod={}_{}({})",
        record.name,
        pod.metadata.name.as_deref().unwrap_or_default(),
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.uid.as_deref().unwrap_or_default(),
    )
}

/// `state.terminated` of an attempt that ended.
pub(crate) fn terminated(uid: &str, attempt: &Attempt, exit: &Exit) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(status_container_id(uid, &attempt.id())),
        exit_code: exit.code,
        finished_at: Some(seconds(exit.finished_at)),
        message: exit.message.clone(),
        reason: Some(exit.reason.clone()),
        signal: exit.signal,
        started_at: Some(seconds(attempt.started_at)),
    }
}

fn terminated_state(terminated: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn waiting_state((reason, message): (String, Option<String>)) -> ContainerState {
    let waiting = ContainerStateWaiting { message, reason: Some(reason) };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

/// Kubernetes' phase, from what the containers do.
fn phase(input: &StatusInput<'_>, containers: &[ContainerStatus]) -> &'static str {
    let policy = input.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in containers {
        let state = container.state.as_ref();
        let ended = state.and_then(|state| state.terminated.as_ref());
        // One that is about to be started again has run: the pod is past pending.
        let ended_before = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        if state.is_some_and(|state| state.running.is_some()) {
            running += 1;
        } else if let Some(ended) = ended {
            stopped += 1;
            succeeded += usize::from(ended.exit_code == 0);
        } else if ended_before.is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    let looked_into = input.observed.is_looked_into();
    let over = input.observed.finished
        || (input.intent != Intent::Run && waiting + running == 0 && stopped > 0 && !looked_into);
    match () {
        () if over && stopped == succeeded => "Succeeded",
        () if over => "Failed",
        () if waiting > 0 => "Pending",
        // Nothing is over while somebody looks into what has ended.
        () if running > 0 || looked_into => "Running",
        () if stopped > 0
            && stopped == succeeded
            && policy != Some("Always")
            && policy.is_some() =>
        {
            "Succeeded"
        }
        () if stopped > 0 && policy == Some("Never") => "Failed",
        () if stopped > 0 => "Running",
        () => "Pending",
    }
}

/// Conditions this node speaks for; all others are kept as they are. The last two are there only while
/// they hold.
const OWN_CONDITIONS: [&str; 6] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodResizePending",
    "PodResizeInProgress",
];

fn conditions(
    input: &StatusInput<'_>,
    phase: &str,
    containers: &[ContainerStatus],
) -> Vec<PodCondition> {
    let observed = input.observed;
    let connected = matches!(observed.sandbox, Sandbox::Ready { .. })
        && observed.network.done().is_some()
        && !observed.finished;
    let unready: Vec<&str> =
        containers.iter().filter(|c| !c.ready).map(|c| c.name.as_str()).collect();
    let ready = match phase {
        "Succeeded" => Err(("PodCompleted", None)),
        "Failed" => Err(("PodFailed", None)),
        _ if unready.is_empty() => Ok(()),
        _ => Err((
            "ContainersNotReady",
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        )),
    };
    let completed = (phase == "Succeeded").then_some("PodCompleted");
    let readiness = |kind| match &ready {
        Ok(()) => condition(input, kind, true, None, None),
        Err((reason, message)) => condition(input, kind, false, Some(reason), message.clone()),
    };
    let mut conditions = vec![
        condition(input, OWN_CONDITIONS[0], connected, None, None),
        condition(input, OWN_CONDITIONS[1], true, completed, None),
        readiness(OWN_CONDITIONS[2]),
        readiness(OWN_CONDITIONS[3]),
    ];
    if input.intent == Intent::Run && !observed.finished {
        conditions.extend(resize_conditions(input));
    }
    let foreign = input.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .extend(foreign.filter(|other| !OWN_CONDITIONS.contains(&other.type_.as_str())).cloned());
    conditions
}

/// How far a change of resources has come.
fn resize_conditions(input: &StatusInput<'_>) -> Vec<PodCondition> {
    let mut conditions = Vec::new();
    if let Some(pending) = &input.observed.pending_resize {
        let message = Some(pending.message.clone());
        conditions.push(condition(input, OWN_CONDITIONS[4], true, Some(pending.reason), message));
    }
    let mut resized = input.observed.containers.iter().filter(|r| r.is_being_resized()).peekable();
    if resized.peek().is_some() {
        let failure = resized.find_map(|record| record.resize_failure.as_ref());
        let (reason, message) = match failure {
            Some(failure) => (Some("Error"), Some(failure.message.clone())),
            None => (None, None),
        };
        conditions.push(condition(input, OWN_CONDITIONS[5], true, reason, message));
    }
    conditions
}

fn condition(
    input: &StatusInput<'_>,
    kind: &str,
    holds: bool,
    reason: Option<&str>,
    message: Option<String>,
) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let before = input
        .previous
        .iter()
        .flat_map(|previous| previous.conditions.iter().flatten())
        .find(|before| before.type_ == kind && before.status == status);
    PodCondition {
        last_probe_time: None,
        last_transition_time: before
            .and_then(|before| before.last_transition_time.clone())
            .or_else(|| Some(seconds(input.now))),
        message,
        observed_generation: generation(input.pod),
        reason: reason.map(str::to_owned),
        status: status.to_owned(),
        type_: kind.to_owned(),
    }
}

fn generation(pod: &Pod) -> Option<i64> {
    pod.metadata.generation
}

/// The API keeps times to the second; finer ones would make a status differ from itself.
pub(crate) fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
