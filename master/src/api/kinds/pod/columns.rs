//! Pods in a table, with the one word that tells how a pod is.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::super::Column;
use super::super::columns::{AGE, NAME, NONE, age, column, name, or_none, since_timestamp, wide};
use super::finished;

/// `status.reason` of a pod whose node was lost.
const NODE_LOST: &str = "NodeLost";

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", "How many of the containers are ready."),
    column("Status", "string", "How the pod is, in a word."),
    column("Restarts", "string", "How often containers were started again."),
    AGE,
    wide("IP", "string", "The pod's address."),
    wide("Node", "string", "Where it runs."),
    wide("Nominated Node", "string", "Where it may run once others have given way."),
    wide("Readiness Gates", "string", "How many of the readiness gates are open."),
];

pub(super) fn row(object: &Pod, now: Timestamp) -> Vec<Value> {
    let (spec, status) =
        (object.spec.clone().unwrap_or_default(), object.status.clone().unwrap_or_default());
    let summary = summarize(object, &spec, &status);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, since_timestamp(last, now))
        }
        _ => summary.restarts.to_string(),
    };
    let ip = status.pod_ips.iter().flatten().next().map(|ip| ip.ip.as_str());
    vec![
        json!(name(&object.metadata)),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.word),
        json!(restarts),
        json!(age(&object.metadata, now)),
        json!(or_none(ip.or(status.pod_ip.as_deref()))),
        json!(or_none(spec.node_name.as_deref())),
        json!(or_none(status.nominated_node_name.as_deref())),
        json!(readiness_gates(&spec, &status)),
    ]
}

struct Summary {
    word: String,
    ready: usize,
    total: usize,
    restarts: i32,
    last_restart: Option<Timestamp>,
}

fn summarize(object: &Pod, spec: &PodSpec, status: &PodStatus) -> Summary {
    let phase = status.phase.clone().unwrap_or_default();
    let mut summary = Summary {
        word: status.reason.clone().filter(|reason| !reason.is_empty()).unwrap_or(phase),
        ready: 0,
        total: spec.containers.len(),
        restarts: 0,
        last_restart: None,
    };
    if let Some(gated) = condition(status, "PodScheduled").filter(|c| c.1 == "SchedulingGated") {
        summary.word = gated.1.to_owned();
    }
    let initializing = summarize_init(spec, status, &mut summary);
    if !initializing || condition(status, "Initialized").is_some_and(|(met, _)| met) {
        // Once they are done, restarts of init containers no longer count; those of sidecars do.
        let is_sidecar = |name: &str| sidecar(spec, name);
        let initial = status.init_container_statuses.iter().flatten();
        summary.restarts = initial.filter(|c| is_sidecar(&c.name)).map(|c| c.restart_count).sum();
        summarize_containers(status, &mut summary);
    }
    if object.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some(NODE_LOST) {
            summary.word = "Unknown".to_owned();
        } else if !finished(object) {
            summary.word = "Terminating".to_owned();
        }
    }
    summary
}

/// Whether a condition is met, and its reason.
fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<(bool, &'a str)> {
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|condition| condition.type_ == kind)?;
    Some((found.status == "True", found.reason.as_deref().unwrap_or_default()))
}

fn count_restarts(container: &ContainerStatus, summary: &mut Summary) {
    summary.restarts += container.restart_count;
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(finished) = last.and_then(|terminated| terminated.finished_at.as_ref()) {
        summary.last_restart = summary.last_restart.max(Some(finished.0));
    }
}

/// The word of a container that ended: its reason, or how it ended.
fn ended(container: &ContainerStatus) -> Option<String> {
    let terminated = container.state.as_ref()?.terminated.as_ref()?;
    Some(match terminated.reason.as_deref() {
        Some(reason) if !reason.is_empty() => reason.to_owned(),
        _ => match terminated.signal.unwrap_or(0) {
            0 => format!("ExitCode:{}", terminated.exit_code),
            signal => format!("Signal:{signal}"),
        },
    })
}

fn waiting(container: &ContainerStatus) -> Option<&str> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    waiting.reason.as_deref().filter(|reason| !reason.is_empty())
}

/// Whether an init container stays.
fn sidecar(spec: &PodSpec, name: &str) -> bool {
    let mut declared = spec.init_containers.iter().flatten();
    declared.any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
}

/// Tells of init containers until all have done their work; whether they have not.
fn summarize_init(spec: &PodSpec, status: &PodStatus, summary: &mut Summary) -> bool {
    let declared = spec.init_containers.as_deref().unwrap_or_default();
    summary.total += declared.iter().filter(|container| sidecar(spec, &container.name)).count();
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        count_restarts(container, summary);
        let state = container.state.clone().unwrap_or_default();
        if sidecar(spec, &container.name) && container.started == Some(true) {
            summary.ready += usize::from(container.ready);
            continue;
        }
        summary.word = match (&state.terminated, waiting(container)) {
            (Some(terminated), _) if terminated.exit_code == 0 => continue,
            (Some(_), _) => format!("Init:{}", ended(container).unwrap_or_default()),
            (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
            (None, _) => format!("Init:{index}/{}", declared.len()),
        };
        return true;
    }
    false
}

fn summarize_containers(status: &PodStatus, summary: &mut Summary) {
    let mut running = false;
    // From the last to the first, so that the word is the first container's.
    for container in status.container_statuses.iter().flatten().rev() {
        count_restarts(container, summary);
        if let Some(reason) = waiting(container) {
            summary.word = reason.to_owned();
        } else if let Some(word) = ended(container) {
            summary.word = word;
        } else if container.ready
            && container.state.as_ref().is_some_and(|state| state.running.is_some())
        {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.word == "Completed" && running {
        let ready = condition(status, "Ready").is_some_and(|(met, _)| met);
        summary.word = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| condition(status, &gate.condition_type).is_some_and(|(met, _)| met))
        .count();
    format!("{open}/{}", gates.len())
}
