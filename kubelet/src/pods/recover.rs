//! From what a pod left behind to what is known of it: after a restart of the kubelet, of the
//! machine, or for a pod never seen before.
//!
//! Sources, the more reliable first: the runtime's containers, the record on disk, the status in
//! the object. Nothing that ran once may run again because a record of it got lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::{
    ContainerStateTerminated, ContainerStatus, Pod, PodStatus, ResourceRequirements,
};
use runtime::{ContainerExit, ContainerState, SandboxState};

use super::clock::timestamp;
use super::container::mounted_images;
use super::names::{AttemptLabels, status_container_id};
use super::observed::{
    Attempt, ContainerRecord, Exit, FIRST_BACKOFF, Observed, Progress, STATUS_UNKNOWN, Sandbox,
    Superseded, Verdicts,
};
use super::spec::{self, Role};
use super::status::{is_final, terminated};

/// Resources by container.
pub(crate) type Promises = BTreeMap<String, ResourceRequirements>;

/// What is known of a pod. `promised` is what it was promised before, if it was here before. `known` is the newer of the record on disk and the object's status.
pub(crate) fn recover(
    pod: &Pod,
    found: Option<&SandboxState>,
    known: Option<&PodStatus>,
    promised: Option<&Promises>,
    now: Timestamp,
) -> Observed {
    let mut superseded = Vec::new();
    let sandbox = match found {
        None => Sandbox::Absent(None),
        Some(sandbox) => match (&sandbox.network_namespace, sandbox.ready) {
            (Some(path), true) => Sandbox::Ready { network_namespace: path.clone() },
            _ => Sandbox::Lost(None),
        },
    };
    let own = spec::own(pod).map(|(role, container)| {
        let before = promised.and_then(|promised| promised.get(&container.name));
        let asked = container.resources.as_ref();
        let promised = before.or(asked).cloned().unwrap_or_default();
        ContainerRecord { promised, ..ContainerRecord::new(&container.name, role) }
    });
    let ephemeral = spec::ephemeral_names(pod);
    let ephemeral = ephemeral.map(|name| ContainerRecord::new(name, Role::Ephemeral));
    let containers = own
        .chain(ephemeral)
        .map(|record| {
            let name = record.name.clone();
            let statuses = known.iter().flat_map(|known| {
                let list = match record.role {
                    Role::Init | Role::Sidecar => &known.init_container_statuses,
                    Role::Regular => &known.container_statuses,
                    Role::Ephemeral => &known.ephemeral_container_statuses,
                };
                list.iter().flatten()
            });
            let status = statuses.into_iter().find(|status| status.name == name);
            let mut attempts: Vec<Attempt> = found
                .iter()
                .flat_map(|sandbox| &sandbox.containers)
                .filter_map(attempt)
                .filter(|attempt| attempt.labels.container == name)
                .collect();
            attempts.sort_by_key(|attempt| attempt.labels.number);
            let mut current = attempts.pop();
            // Its shim died while no kubelet was there to hear of it, and took it along.
            if let (Sandbox::Lost(_), Some(attempt)) = (&sandbox, &mut current) {
                attempt.exit.get_or_insert_with(|| vanished(now));
            }
            superseded.extend(attempts.iter().map(|attempt| Superseded::new(attempt.id())));
            container(pod, record, current, attempts.pop(), status, now)
        })
        .collect();
    let addresses_before = match sandbox {
        Sandbox::Ready { .. } => known.map(addresses).unwrap_or_default(),
        _ => Vec::new(),
    };
    Observed {
        sandbox,
        network: Progress::Waiting,
        addresses_before,
        volumes: Progress::Waiting,
        volumes_stale: false,
        containers,
        pending_resize: None,
        superseded,
        failed: None,
        finished: is_final(known),
        release: Progress::Waiting,
        removal_reported: false,
        busy: BTreeSet::new(),
    }
}

fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    let ips = status.pod_ips.iter().flatten();
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

fn container(
    pod: &Pod,
    mut record: ContainerRecord,
    current: Option<Attempt>,
    before: Option<Attempt>,
    status: Option<&ContainerStatus>,
    now: Timestamp,
) -> ContainerRecord {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let last = status.and_then(|status| status.last_state.as_ref()?.terminated.clone());
    record.next_number =
        status.and_then(|status| u32::try_from(status.restart_count).ok()).unwrap_or(0);
    match current {
        Some(attempt) => {
            let id = status_container_id(uid, &attempt.id());
            let same = status.filter(|status| status.container_id.as_deref() == Some(&*id));
            // A verdict stands until the probe has another.
            if let Some(status) = same {
                record.verdicts = Verdicts {
                    readiness: status.ready.then_some(true),
                    liveness: None,
                    startup: status.started.filter(|started| *started),
                };
            }
            record.last = before
                .as_ref()
                .and_then(|before| Some(terminated(uid, before, before.exit.as_ref()?)))
                .or(last);
            let has = status.and_then(|status| status.resources.clone());
            let asks = record.role != Role::Ephemeral;
            record.applied = has.filter(|_| attempt.exit.is_none() && asks);
            // One that was said to run has been through its hook. Otherwise nobody knows, and it is
            // called once more rather than never.
            let runs = |status: &ContainerStatus| status.state.as_ref()?.running.as_ref().map(drop);
            if attempt.exit.is_none() && same.and_then(runs).is_none() {
                record.post_start = spec::post_start(pod, &record.name);
            }
            record.current = Some(attempt);
        }
        None => {
            record.current = status.and_then(|status| lost_attempt(&record.name, status, now));
            record.last = last;
        }
    }
    record
}

/// What the runtime says of a container that this kubelet, or one before it, started.
fn attempt(container: &ContainerState) -> Option<Attempt> {
    Some(Attempt {
        labels: AttemptLabels::of(container)?,
        started_at: timestamp(container.started_at),
        exit: container.exit.as_ref().map(exit),
        in_runtime: true,
    })
}

/// How a container ended, in Kubernetes' words.
pub(crate) fn exit(exit: &ContainerExit) -> Exit {
    let reason = match (exit.oom_killed, exit.exit_code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    Exit {
        code: exit.exit_code,
        signal: exit.signal,
        reason: reason.to_owned(),
        message: None,
        finished_at: timestamp(exit.finished_at),
    }
}

/// An attempt that was reported once and that the runtime knows nothing of any more, as after a
/// restart of the machine.
fn lost_attempt(name: &str, status: &ContainerStatus, now: Timestamp) -> Option<Attempt> {
    status.container_id.as_ref()?;
    let state = status.state.as_ref();
    let ended: Option<&ContainerStateTerminated> =
        state.and_then(|state| state.terminated.as_ref()).or_else(|| {
            // Waiting to be started again: the last state is this attempt's.
            state?.waiting.as_ref()?;
            status.last_state.as_ref()?.terminated.as_ref()
        });
    let running = state.and_then(|state| state.running.as_ref());
    let time = |time: Option<&proto::k8s::apimachinery::pkg::apis::meta::v1::Time>| {
        time.map_or(now, |time| time.0)
    };
    let exit = match ended {
        Some(ended) => Exit {
            code: ended.exit_code,
            signal: ended.signal,
            reason: ended.reason.clone().unwrap_or_else(|| STATUS_UNKNOWN.to_owned()),
            message: ended.message.clone(),
            finished_at: time(ended.finished_at.as_ref()),
        },
        None => vanished(now),
    };
    let number = u32::try_from(status.restart_count).unwrap_or(0);
    Some(Attempt {
        labels: AttemptLabels {
            container: name.to_owned(),
            number,
            image: status.image.clone(),
            image_id: status.image_id.clone(),
            volume_images: mounted_images(status),
            stop_signal: 15,
            // A container that vanished with its machine did not crash.
            restart_delay: match ended.is_none() || number == 0 {
                true => Duration::ZERO,
                false => FIRST_BACKOFF,
            },
        },
        started_at: match (ended, running) {
            (Some(ended), _) => time(ended.started_at.as_ref()),
            (None, Some(running)) => time(running.started_at.as_ref()),
            (None, None) => now,
        },
        exit: Some(exit),
        in_runtime: false,
    })
}

/// How a container ended whose end nobody saw.
pub(crate) fn vanished(now: Timestamp) -> Exit {
    Exit {
        code: 137,
        signal: None,
        reason: STATUS_UNKNOWN.to_owned(),
        message: Some("The container could not be located when the pod was looked at".to_owned()),
        finished_at: now,
    }
}
