//! How far a pod has come with what is to be done before its containers start.
//!
//! Init containers start one after the other: the next one when the one before it has done its work,
//! or, if that is a sidecar, has started. What they did holds for the sandbox it was done in; in
//! another one it is done anew.

use jiff::Timestamp;
use proto::k8s::api::core::v1::Pod;

use super::fate::{Fate, fate};
use crate::pods::observed::{ContainerRecord, Observed, PostStart};
use crate::pods::spec::{self, Role};

/// How far the init containers have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is this container's turn, by its place in [`Observed::containers`]; it may run already.
    Initializing(usize),
    /// All have done what they are for. Sidecars are kept running.
    Initialized,
    /// One failed for good, and the pod with it.
    Failed,
}

/// See [`Stage`].
pub(crate) fn stage(pod: &Pod, observed: &Observed, now: Timestamp) -> Stage {
    let all = &observed.containers;
    // These were started after all that had to be done before them.
    let mut regular = all.iter().filter(|record| record.role == Role::Regular);
    if regular.any(|record| record.running().is_some()) {
        return Stage::Initialized;
    }
    let initial = || all.iter().enumerate().filter(|(_, record)| is_initial(record));
    // The furthest one that was started in this sandbox: all before it had done their part, and of
    // them only sidecars matter, which are started again without holding anybody up.
    let reached = initial().rfind(|(_, record)| is_of_sandbox(record));
    let next = match reached {
        None => initial().next(),
        Some((index, record)) if is_done(pod, record) => initial().find(|(i, _)| *i > index),
        reached => reached,
    };
    let Some((index, record)) = next else { return Stage::Initialized };
    match record.role == Role::Init && fate(pod, record, now) == Fate::Over {
        true => Stage::Failed,
        false => Stage::Initializing(index),
    }
}

fn is_initial(record: &ContainerRecord) -> bool {
    matches!(record.role, Role::Init | Role::Sidecar)
}

fn is_of_sandbox(record: &ContainerRecord) -> bool {
    record.current.as_ref().is_some_and(|attempt| attempt.in_runtime)
}

/// Whether those behind it may start.
fn is_done(pod: &Pod, record: &ContainerRecord) -> bool {
    match record.role {
        Role::Init => record.is_completed(),
        _ => is_started(pod, record),
    }
}

/// Whether the container runs, and its hook and its startup probe, if it has them, have succeeded.
pub(crate) fn is_started(pod: &Pod, record: &ContainerRecord) -> bool {
    let probed = spec::container(pod, &record.name).is_some_and(|s| s.startup_probe.is_some());
    record.running().is_some()
        && record.post_start == PostStart::Done
        && (!probed || record.verdicts.startup == Some(true))
}

/// Whether nothing of what the pod is there for runs or is to run again.
pub(crate) fn is_over(pod: &Pod, observed: &Observed, stage: Stage, now: Timestamp) -> bool {
    let mut regular = observed.containers.iter().filter(|record| record.role == Role::Regular);
    observed.failed.is_some()
        || stage == Stage::Failed
        || regular.all(|record| fate(pod, record, now) == Fate::Over)
}
