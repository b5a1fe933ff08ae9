//! What is to become of one container while its pod is meant to run.

use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::{
    Container, ContainerRestartRule, Pod, Probe, ResourceRequirements,
};

use super::grace;
use crate::pods::observed::{Attempt, ContainerRecord, FIRST_BACKOFF, PostStart, StopReason};
use crate::pods::spec::{self, Role};

/// What is to become of one container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Runs as it should.
    Keep,
    /// Runs and has to end.
    Stop(StopReason, Duration),
    /// Is to be started, not before this time.
    Start { not_before: Timestamp, number: u32, restart_delay: Duration },
    /// Ended for good.
    Over,
}

/// Decides on one container by itself; whether it is its turn is another question.
pub(crate) fn fate(pod: &Pod, record: &ContainerRecord, now: Timestamp) -> Fate {
    let Some(attempt) = &record.current else {
        return Fate::Start {
            not_before: now,
            number: record.next_number,
            restart_delay: Duration::ZERO,
        };
    };
    let Some(exit) = &attempt.exit else { return fate_of_running(pod, record, attempt) };
    if record.role == Role::Ephemeral {
        return Fate::Over;
    }
    let reason = record.stopping.as_ref().map(|stopping| stopping.reason);
    // A new definition starts with a clean sheet.
    let anew = matches!(reason, Some(StopReason::ImageChanged | StopReason::Resized));
    // What an init container did was done for a sandbox that is gone.
    let undone = record.role == Role::Init && exit.code == 0 && !attempt.in_runtime;
    if !(anew || undone || starts_again(pod, record, reason, exit.code)) {
        return Fate::Over;
    }
    let number = attempt.labels.number + 1;
    let changed = record.role != Role::Init && image_changed(pod, record, attempt);
    if anew || undone || changed {
        return Fate::Start { not_before: now, number, restart_delay: FIRST_BACKOFF };
    }
    match attempt.backoff() {
        Some((not_before, restart_delay)) => Fate::Start { not_before, number, restart_delay },
        None => Fate::Keep,
    }
}

/// Whether a container that ended is to be started again: the first rule that its exit code fits
/// says, then its own policy, then the pod's.
fn starts_again(
    pod: &Pod,
    record: &ContainerRecord,
    reason: Option<StopReason>,
    exit_code: i32,
) -> bool {
    let spec = spec::container(pod, &record.name);
    let own = spec.as_deref().and_then(|spec| spec.restart_policy.as_deref());
    let rules = spec.as_deref().and_then(|spec| spec.restart_policy_rules.as_deref());
    if rules.unwrap_or_default().iter().any(|rule| fits(rule, exit_code)) {
        return true;
    }
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    // It was killed to be started again, whatever its exit code.
    let killed = matches!(reason, Some(StopReason::Unhealthy | StopReason::NeverStarted));
    match own.or(of_pod).filter(|policy| !policy.is_empty()) {
        Some("Never") => false,
        Some("OnFailure") => killed || exit_code != 0,
        _ => killed || exit_code != 0 || record.role != Role::Init,
    }
}

/// The one thing that a rule can ask for is a restart.
fn fits(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let named = codes.values.iter().flatten().any(|code| *code == exit_code);
    match codes.operator.as_str() {
        "In" => named,
        "NotIn" => !named,
        _ => false,
    }
}

fn fate_of_running(pod: &Pod, record: &ContainerRecord, attempt: &Attempt) -> Fate {
    let spec = spec::container(pod, &record.name);
    let spec = spec.as_deref();
    let probe_grace = |probe: Option<&Probe>| {
        // That of the deletion holds for all.
        let own = probe.filter(|_| pod.metadata.deletion_grace_period_seconds.is_none());
        own.and_then(|probe| probe.termination_grace_period_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or_else(|| grace(pod), Duration::from_secs)
    };
    let liveness = spec.and_then(|spec| spec.liveness_probe.as_ref());
    let startup = spec.and_then(|spec| spec.startup_probe.as_ref());
    // What was begun is brought to its end, even if the probe thinks better of it.
    if let Some(stopping) = &record.stopping {
        let grace = match stopping.reason {
            StopReason::Unhealthy => probe_grace(liveness),
            StopReason::NeverStarted => probe_grace(startup),
            StopReason::PodTerminates
            | StopReason::ImageChanged
            | StopReason::Resized
            | StopReason::HookFailed => grace(pod),
        };
        return Fate::Stop(stopping.reason, grace);
    }
    if record.post_start == PostStart::Failed {
        return Fate::Stop(StopReason::HookFailed, grace(pod));
    }
    // One that does its work is let do it; the next time it is the other image's.
    if record.role != Role::Init && image_changed(pod, record, attempt) {
        return Fate::Stop(StopReason::ImageChanged, grace(pod));
    }
    if spec.is_some_and(|spec| restarts_for_resize(spec, record)) {
        return Fate::Stop(StopReason::Resized, grace(pod));
    }
    if record.verdicts.startup == Some(false) {
        return Fate::Stop(StopReason::NeverStarted, probe_grace(startup));
    }
    if record.verdicts.liveness == Some(false) {
        return Fate::Stop(StopReason::Unhealthy, probe_grace(liveness));
    }
    Fate::Keep
}

fn image_changed(pod: &Pod, record: &ContainerRecord, attempt: &Attempt) -> bool {
    spec::container(pod, &record.name)
        .and_then(|container| container.image.clone())
        .is_some_and(|image| image != attempt.labels.image)
}

/// Whether what changes of the container's resources is what it wants to be started again for.
fn restarts_for_resize(spec: &Container, record: &ContainerRecord) -> bool {
    let Some(applied) = record.applied.as_ref().filter(|_| record.is_being_resized()) else {
        return false;
    };
    let policies = spec.resize_policy.iter().flatten();
    policies.filter(|policy| policy.restart_policy == "RestartContainer").any(|policy| {
        let of = |resources: &ResourceRequirements| {
            [&resources.requests, &resources.limits]
                .map(|list| list.as_ref().and_then(|list| list.get(&policy.resource_name)).cloned())
        };
        of(applied) != of(&record.promised)
    })
}
