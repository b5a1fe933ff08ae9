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
use super::container::mount_statuses;
use super::names::status_container_id;
use super::observed::{
    Attempt, ContainerRecord, Exit, Failure, Observed, PostStart, Progress, START_ERROR, Sandbox,
};
use super::plan::{Fate, Intent, Stage, awaited, fate, is_over, is_started, stage};
use super::resources::QosClass;
use super::spec::{self, Role};

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

impl StatusInput<'_> {
    fn stage(&self) -> Stage {
        stage(self.pod, self.observed, self.now)
    }

    /// Whether none of the pod's containers is to be started any more.
    fn is_over(&self) -> bool {
        self.intent != Intent::Run
            || self.observed.finished
            || is_over(self.pod, self.observed, self.stage(), self.now)
    }

    /// Whether nothing but itself keeps a container from being started.
    fn is_due(&self, record: &ContainerRecord) -> bool {
        match self.stage() {
            Stage::Initializing(next) if record.role != Role::Ephemeral => {
                let mut before = self.observed.containers.iter().take(next + 1);
                before.any(|other| other.name == record.name)
            }
            Stage::Initializing(_) | Stage::Initialized | Stage::Failed => true,
        }
    }
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
    let mut statuses = Statuses::default();
    for record in &observed.containers {
        match record.role {
            Role::Init => statuses.init.push(init_status(input, record)),
            Role::Sidecar => statuses.init.push(container_status(input, record)),
            Role::Regular => statuses.regular.push(container_status(input, record)),
            Role::Ephemeral => statuses.ephemeral.push(ephemeral_status(input, record)),
        }
    }
    let phase = phase(input, &statuses);
    let failed = observed.failed.as_ref().filter(|_| phase == "Failed");
    let conditions = conditions(input, phase, &statuses);
    // A pod that the node did not take has no containers that wait for anything: why it failed is all there
    // is to be said, and what people are shown of it.
    let ran = |record: &ContainerRecord| record.current.is_some() || record.last.is_some();
    if failed.is_some() && !observed.containers.iter().any(ran) {
        statuses = Statuses::default();
    }
    let addresses = addresses(observed).unwrap_or_default();
    let mut status = PodStatus {
        conditions: Some(conditions),
        container_statuses: non_empty(statuses.regular),
        ephemeral_container_statuses: non_empty(statuses.ephemeral),
        init_container_statuses: non_empty(statuses.init),
        message: failed.map(|failed| failed.message.clone()),
        reason: failed.map(|failed| failed.reason.clone()),
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

/// The addresses of a pod that is connected.
fn addresses(observed: &Observed) -> Option<&[IpAddr]> {
    if !matches!(observed.sandbox, Sandbox::Ready { .. }) {
        return None;
    }
    let before = &observed.addresses_before;
    match &observed.network {
        Progress::Done(addresses) => Some(addresses),
        // It goes on while a kubelet that has just started takes it over.
        Progress::Waiting if !before.is_empty() => Some(before),
        _ => None,
    }
}

/// Whether a pod of this status never runs again.
pub(crate) fn is_final(status: Option<&PodStatus>) -> bool {
    matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// The statuses of the containers, by what they are.
#[derive(Default)]
struct Statuses {
    /// Sidecars among them.
    init: Vec<ContainerStatus>,
    regular: Vec<ContainerStatus>,
    ephemeral: Vec<ContainerStatus>,
}

fn container_status(input: &StatusInput<'_>, record: &ContainerRecord) -> ContainerStatus {
    let uid = input.pod.metadata.uid.as_deref().unwrap_or_default();
    let spec = spec::container(input.pod, &record.name);
    let image = spec.as_ref().and_then(|spec| spec.image.clone()).unwrap_or_default();
    let mounted = record.current.as_ref().map(|attempt| &attempt.labels.volume_images);
    let volume_mounts = spec.as_ref().and_then(|spec| mount_statuses(spec, mounted));
    let Some(attempt) = &record.current else {
        return ContainerStatus {
            image,
            name: record.name.clone(),
            restart_count: i32::try_from(record.next_number).unwrap_or(i32::MAX),
            started: Some(false),
            last_state: record.last.clone().map(terminated_state),
            state: Some(waiting_state(waiting(input, record))),
            volume_mounts,
            ..ContainerStatus::default()
        };
    };
    let started = is_started(input.pod, record);
    let (state, last) = match &attempt.exit {
        None if record.post_start != PostStart::Done => {
            (waiting_state(creating(input)), record.last.clone())
        }
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
        volume_mounts,
        ..ContainerStatus::default()
    }
}

/// It is ready when it has done its work.
fn init_status(input: &StatusInput<'_>, record: &ContainerRecord) -> ContainerStatus {
    let status = container_status(input, record);
    let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let ready = ended.is_some_and(|ended| ended.exit_code == 0);
    ContainerStatus { ready, ..status }
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

/// Whether the container may be sent requests.
pub(crate) fn is_ready(pod: &Pod, record: &ContainerRecord) -> bool {
    let probed = spec::container(pod, &record.name).is_some_and(|s| s.readiness_probe.is_some());
    is_started(pod, record) && (!probed || record.verdicts.readiness == Some(true))
}

/// Why a container that never ran does not run.
fn waiting(input: &StatusInput<'_>, record: &ContainerRecord) -> (String, Option<String>) {
    let hindrance = hindrance(input, record).filter(|_| input.is_due(record));
    hindrance.unwrap_or_else(|| creating(input))
}

/// Nothing is wrong with it.
fn creating(input: &StatusInput<'_>) -> (String, Option<String>) {
    let mut own = spec::own(input.pod);
    let reason = match own.any(|(role, _)| role != Role::Regular) {
        true => "PodInitializing",
        false => "ContainerCreating",
    };
    (reason.to_owned(), None)
}

/// What keeps a container from being started.
fn hindrance(
    input: &StatusInput<'_>,
    record: &ContainerRecord,
) -> Option<(String, Option<String>)> {
    if let Some(failure) = record.image.failure() {
        return Some(image_failure(input, &record.missing_image, failure));
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
    image: &str,
    failure: &Failure,
) -> (String, Option<String>) {
    let fresh = input.now < after(failure.at, PULL_ERROR_SHOWN);
    if failure.reason != "ErrImagePull" || fresh {
        return (failure.reason.to_owned(), Some(failure.message.clone()));
    }
    let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message);
    ("ImagePullBackOff".to_owned(), Some(message))
}

/// Why a container that ended, and is to be started again, does not run yet.
fn waiting_again(
    input: &StatusInput<'_>,
    record: &ContainerRecord,
    exit: &Exit,
) -> Option<(String, Option<String>)> {
    if input.is_over() {
        return None;
    }
    let Fate::Start { not_before, .. } = fate(input.pod, record, input.now) else { return None };
    if !input.is_due(record) {
        return Some(creating(input));
    }
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

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// The exit code of one that ended and is not about to be started again.
fn exit_code(status: &ContainerStatus) -> Option<i32> {
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// One that is about to be started again has run.
fn has_ended_before(status: &ContainerStatus) -> bool {
    status.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
}

/// Kubernetes' phase, from what the containers do.
fn phase(input: &StatusInput<'_>, statuses: &Statuses) -> &'static str {
    let regular = &statuses.regular;
    let runs = input.observed.containers.iter().any(|record| record.running().is_some());
    let all_succeeded = regular.iter().all(|container| exit_code(container) == Some(0));
    let gone = input.intent != Intent::Run && !runs;
    let has_run = regular.iter().chain(&statuses.init).any(|c| exit_code(c).is_some());
    if input.observed.finished || gone && (has_run || input.observed.release.done().is_some()) {
        return match all_succeeded && input.observed.failed.is_none() {
            true => "Succeeded",
            false => "Failed",
        };
    }
    let begun = regular.iter().any(|c| is_running(c) || exit_code(c).is_some());
    let waiting = |c: &ContainerStatus| !is_running(c) && exit_code(c).is_none();
    if !begun && !is_initialized(input, statuses)
        || regular.iter().any(|c| waiting(c) && !has_ended_before(c))
    {
        return "Pending";
    }
    // Nothing is over while something runs or is to run again, be it to serve it or to look into it.
    if runs || !input.is_over() {
        return "Running";
    }
    if all_succeeded { "Succeeded" } else { "Failed" }
}

/// Whether each init container has done its part; the names of those that have not.
fn is_initialized(input: &StatusInput<'_>, statuses: &Statuses) -> bool {
    incomplete(input, statuses).is_empty()
}

fn incomplete<'a>(input: &'a StatusInput<'_>, statuses: &Statuses) -> Vec<&'a str> {
    let initial = input.observed.containers.iter().zip(&statuses.init);
    let incomplete = initial.filter(|(record, status)| match record.role {
        Role::Sidecar => status.started != Some(true),
        _ => !status.ready,
    });
    incomplete.map(|(record, _)| record.name.as_str()).collect()
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

/// The condition of a pod that has to go for no fault of its own; others set it, too.
const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Why a condition does not hold: reason and message.
type Wanting = (&'static str, Option<String>);

fn conditions(input: &StatusInput<'_>, phase: &str, statuses: &Statuses) -> Vec<PodCondition> {
    let observed = input.observed;
    let connected = addresses(observed).is_some() && !observed.finished;
    let containers_ready = containers_ready(input, phase, statuses);
    let ready = containers_ready.clone().and_then(|()| gates_open(input));
    let told = |kind, result: Result<(), Wanting>| match result {
        Ok(()) => condition(input, kind, true, None, None),
        Err((reason, message)) => condition(input, kind, false, Some(reason), message),
    };
    let mut conditions = vec![
        condition(input, OWN_CONDITIONS[0], connected, None, None),
        match phase {
            "Succeeded" => condition(input, OWN_CONDITIONS[1], true, Some("PodCompleted"), None),
            _ => told(OWN_CONDITIONS[1], initialized(input, statuses)),
        },
        told(OWN_CONDITIONS[2], ready),
        told(OWN_CONDITIONS[3], containers_ready),
    ];
    if input.intent == Intent::Run && !observed.finished {
        conditions.extend(resize_conditions(input));
    }
    let disrupted = observed.failed.as_ref().and_then(|f| Some((f.disruption.as_deref()?, f)));
    if let Some((reason, failure)) = disrupted {
        let message = Some(failure.message.clone());
        conditions.push(condition(input, DISRUPTION_TARGET, true, Some(reason), message));
    }
    let is_own = |kind: &str| {
        OWN_CONDITIONS.contains(&kind) || (kind == DISRUPTION_TARGET && disrupted.is_some())
    };
    let foreign = input.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.extend(foreign.filter(|other| !is_own(&other.type_)).cloned());
    conditions
}

fn initialized(input: &StatusInput<'_>, statuses: &Statuses) -> Result<(), Wanting> {
    let incomplete = incomplete(input, statuses);
    // Sidecars that are started again are not waited for a second time.
    let begun = statuses.regular.iter().any(|c| is_running(c) || exit_code(c).is_some());
    if incomplete.is_empty() || begun {
        return Ok(());
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Err(("ContainersNotInitialized", Some(message)))
}

fn containers_ready(
    input: &StatusInput<'_>,
    phase: &str,
    statuses: &Statuses,
) -> Result<(), Wanting> {
    match phase {
        "Succeeded" => return Err(("PodCompleted", None)),
        "Failed" => return Err(("PodFailed", None)),
        _ => {}
    }
    let records = input.observed.containers.iter();
    let all = records.zip(statuses.init.iter().chain(&statuses.regular));
    let unready = all.filter(|(record, status)| record.role != Role::Init && !status.ready);
    let unready: Vec<&str> = unready.map(|(record, _)| record.name.as_str()).collect();
    if unready.is_empty() {
        return Ok(());
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Err(("ContainersNotReady", Some(message)))
}

/// Whether others say, too, that the pod is ready: those that its readiness gates name.
fn gates_open(input: &StatusInput<'_>) -> Result<(), Wanting> {
    let conditions = || input.pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let gates = input.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let closed = gates.filter_map(|gate| {
        let kind = &gate.condition_type;
        match conditions().find(|condition| condition.type_ == *kind) {
            None => Some(format!(
                "corresponding condition of pod readiness gate {kind:?} does not exist."
            )),
            Some(condition) if condition.status != "True" => Some(format!(
                "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                condition.status
            )),
            Some(_) => None,
        }
    });
    let closed: Vec<String> = closed.collect();
    match closed.is_empty() {
        true => Ok(()),
        false => Err(("ReadinessGatesNotReady", Some(closed.join(", ")))),
    }
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
