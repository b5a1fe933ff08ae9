//! How containers end: their hook, their signal, and what follows when they do not obey.
//!
//! ```text
//! StopContainer ─> (hook) ─> (those it has to outlive) ─> signal ─> exit
//!        └──────────────── grace period ──────────────────┴──> kill
//! ```
//!
//! All of it happens within the grace period. A container that got its signal late, because its hook
//! took long or it had to wait for others, is still left a moment.

use std::time::Duration;

use super::{Planner, PodAction};
use crate::pods::clock::after;
use crate::pods::observed::{ContainerRecord, Job, StopReason};
use crate::pods::spec::{self, Role};

/// So long a container has from its signal on, whatever the grace period; as in Kubernetes.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// A kill that had no effect so long is repeated.
const KILL_AGAIN: Duration = Duration::from_secs(10);

impl Planner<'_> {
    /// Brings all that runs of the pod to its end; whether anything does.
    pub(super) fn stop_all(&mut self, grace: Duration) -> bool {
        let running = self.observed.containers.iter().filter(|r| r.running().is_some());
        for record in running.clone() {
            self.stop(record, StopReason::PodTerminates, grace);
        }
        running.count() > 0
    }

    /// Brings a running container to its end.
    pub(super) fn stop(&mut self, record: &ContainerRecord, reason: StopReason, grace: Duration) {
        let Some(attempt) = record.running() else { return };
        let (container, id) = (record.name.clone(), attempt.id());
        let signal = attempt.labels.stop_signal;
        let Some(stopping) = &record.stopping else {
            // Without time there is none for it.
            let hook = !grace.is_zero() && has_hook(self, &record.name);
            let waits = hook || !grace.is_zero() && self.outlives_others(record, reason);
            let signal = (!waits).then_some(signal);
            self.push(PodAction::StopContainer { container, id, hook, signal, reason });
            return;
        };
        let end = after(stopping.since, grace);
        let Some(signalled) = stopping.signalled else {
            let hook = self.observed.busy.contains(&Job::PreStop(record.name.clone()));
            if end > self.now && stopping.hook && !hook {
                self.push(PodAction::CallPreStop { container, id });
            } else if end > self.now && (hook || self.outlives_others(record, stopping.reason)) {
                self.wake(end);
            } else {
                self.push(PodAction::SignalContainer { container, id, signal });
            }
            return;
        };
        let kill_at = match stopping.killed {
            None => end.max(after(signalled, MIN_GRACE)),
            Some(killed) => after(killed, KILL_AGAIN),
        };
        match kill_at <= self.now {
            true => self.push(PodAction::KillContainer { container, id }),
            false => self.wake(kill_at),
        }
    }

    /// A sidecar goes after those that it was started for: the containers, and the sidecars behind it.
    fn outlives_others(&self, record: &ContainerRecord, reason: StopReason) -> bool {
        if record.role != Role::Sidecar || reason != StopReason::PodTerminates {
            return false;
        }
        let mut behind = self.observed.containers.iter().skip_while(|r| r.name != record.name);
        behind.next();
        self.observed.busy.contains(&Job::Start)
            || behind.any(|other| {
                matches!(other.role, Role::Sidecar | Role::Regular) && other.running().is_some()
            })
    }
}

fn has_hook(planner: &Planner<'_>, name: &str) -> bool {
    let spec = spec::container(planner.pod, name);
    let lifecycle = spec.as_ref().and_then(|spec| spec.lifecycle.as_ref());
    lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
}
