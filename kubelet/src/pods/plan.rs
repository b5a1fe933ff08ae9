//! Decides what is to be done next for a pod.
//!
//! ```text
//! sandbox ─> network ─┐
//! volumes ────────────┼─> containers, in order ─> (exits: again, after a while) ─> finish ─> release
//! images ─────────────┘
//! deletion, at any time: stop containers ─> release ─> report
//! ```
//!
//! [`plan`] reads no clock and performs nothing. The worker asks it again whenever anything
//! changes, and at [`Plan::wake_at`].

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::{Container, Pod, ResourceRequirements};
use runtime::ContainerId;

use super::clock::after;
use super::observed::{
    Attempt, ContainerRecord, FIRST_BACKOFF, Failure, Job, Observed, Progress, Sandbox, StopReason,
};
use super::spec;

/// What the pod is meant to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Be there.
    Run,
    /// Go.
    Terminate {
        /// So long its containers may take.
        grace: Duration,
        /// Whether the master waits for the word that nothing is left. It does not for a pod
        /// whose object is gone already.
        report: bool,
    },
}

impl Intent {
    /// What the object says.
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.metadata.deletion_timestamp {
            None => Self::Run,
            Some(_) => Self::Terminate { grace: grace(pod), report: true },
        }
    }
}

/// How long the containers of a pod that is to go may take.
pub(crate) fn grace(pod: &Pod) -> Duration {
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or(pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds))
        .unwrap_or(DEFAULT_GRACE_SECONDS);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(MIN_GRACE)
}

/// Kubernetes' default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Even a pod that is deleted without grace gets a moment to put things in order, as in Kubernetes.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// A kill that had no effect so long is repeated.
const KILL_AGAIN: Duration = Duration::from_secs(10);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodAction {
    CreateSandbox,
    /// Remove a sandbox whose shim died, so that another can be made.
    RemoveLostSandbox,
    AttachNetwork,
    PrepareVolumes,
    FetchImage {
        container: String,
    },
    StartContainer {
        container: String,
        number: u32,
        /// How long to wait after its end before the next attempt.
        restart_delay: Duration,
    },
    StopContainer {
        container: String,
        id: ContainerId,
        signal: i32,
        reason: StopReason,
    },
    KillContainer {
        container: String,
        id: ContainerId,
    },
    RemoveContainer {
        id: ContainerId,
    },
    /// Give the container the resources that it was promised.
    ResizeContainer {
        container: String,
        id: ContainerId,
    },
    /// Record that the pod is over, for ever.
    Finish,
    /// Take back sandbox, network and volumes; status and logs stay.
    Release,
    /// Tell the master that nothing is left.
    ReportRemoved,
}

impl PodAction {
    /// What is under way while this is done; nothing for what is done at once.
    pub(crate) fn job(&self) -> Option<Job> {
        Some(match self {
            Self::CreateSandbox | Self::RemoveLostSandbox => Job::Sandbox,
            Self::AttachNetwork => Job::Network,
            Self::PrepareVolumes => Job::Volumes,
            Self::FetchImage { container } => Job::Image(container.clone()),
            Self::StartContainer { .. } => Job::Start,
            Self::StopContainer { container, .. } | Self::KillContainer { container, .. } => {
                Job::Signal(container.clone())
            }
            Self::ResizeContainer { container, .. } => Job::Resize(container.clone()),
            Self::RemoveContainer { id } => Job::Remove(id.clone()),
            Self::Finish => Job::Finish,
            Self::Release => Job::Release,
            Self::ReportRemoved => return None,
        })
    }
}

/// What to do now, and when to look again if nothing happens before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<PodAction>,
    pub(crate) wake_at: Option<Timestamp>,
}

/// Decides. What is [busy](Observed::busy) already is not asked for again.
pub(crate) fn plan(pod: &Pod, intent: Intent, observed: &Observed, now: Timestamp) -> Plan {
    let mut planner = Planner { pod, observed, now, plan: Plan::default() };
    match intent {
        Intent::Run => planner.run(),
        Intent::Terminate { grace, report } => planner.terminate(grace, report),
    }
    planner.plan
}

/// What is to become of one container while the pod is meant to run.
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

/// Decides on one container of a pod that is meant to run.
pub(crate) fn fate(pod: &Pod, record: &ContainerRecord, now: Timestamp) -> Fate {
    let Some(attempt) = &record.current else {
        return Fate::Start {
            not_before: now,
            number: record.next_number,
            restart_delay: Duration::ZERO,
        };
    };
    let Some(exit) = &attempt.exit else { return fate_of_running(pod, record, attempt) };
    if record.ephemeral {
        return Fate::Over;
    }
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    let reason = record.stopping.as_ref().map(|stopping| stopping.reason);
    let again = match (reason, policy) {
        (Some(StopReason::ImageChanged | StopReason::Resized), _) => true,
        (_, Some("Never")) => false,
        // It was killed to be started again, whatever its exit code.
        (Some(StopReason::Unhealthy | StopReason::NeverStarted), _) => true,
        (_, Some("OnFailure")) => exit.code != 0,
        (_, _) => true,
    };
    if !again {
        return Fate::Over;
    }
    let number = attempt.labels.number + 1;
    // A new definition starts with a clean sheet.
    let anew = matches!(reason, Some(StopReason::ImageChanged | StopReason::Resized));
    if anew || image_changed(pod, record, attempt) {
        return Fate::Start { not_before: now, number, restart_delay: FIRST_BACKOFF };
    }
    match attempt.backoff() {
        Some((not_before, restart_delay)) => Fate::Start { not_before, number, restart_delay },
        None => Fate::Keep,
    }
}

fn fate_of_running(pod: &Pod, record: &ContainerRecord, attempt: &Attempt) -> Fate {
    let spec = spec::container(pod, &record.name);
    let spec = spec.as_deref();
    let probe_grace = |probe: Option<&proto::k8s::api::core::v1::Probe>| {
        probe
            .and_then(|probe| probe.termination_grace_period_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or_else(|| grace(pod), |seconds| Duration::from_secs(seconds).max(MIN_GRACE))
    };
    // What was begun is brought to its end, even if the probe thinks better of it.
    if let Some(stopping) = &record.stopping {
        let grace = match stopping.reason {
            StopReason::Unhealthy => probe_grace(spec.and_then(|s| s.liveness_probe.as_ref())),
            StopReason::NeverStarted => probe_grace(spec.and_then(|s| s.startup_probe.as_ref())),
            StopReason::PodTerminates | StopReason::ImageChanged | StopReason::Resized => {
                grace(pod)
            }
        };
        return Fate::Stop(stopping.reason, grace);
    }
    if image_changed(pod, record, attempt) {
        return Fate::Stop(StopReason::ImageChanged, grace(pod));
    }
    if spec.is_some_and(|spec| restarts_for_resize(spec, record)) {
        return Fate::Stop(StopReason::Resized, grace(pod));
    }
    if record.verdicts.startup == Some(false) {
        let grace = probe_grace(spec.and_then(|spec| spec.startup_probe.as_ref()));
        return Fate::Stop(StopReason::NeverStarted, grace);
    }
    if record.verdicts.liveness == Some(false) {
        let grace = probe_grace(spec.and_then(|spec| spec.liveness_probe.as_ref()));
        return Fate::Stop(StopReason::Unhealthy, grace);
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

/// The container that an ephemeral one waits for: it sees that one's processes.
pub(crate) fn awaited<'a>(
    pod: &'a Pod,
    record: &ContainerRecord,
    observed: &Observed,
) -> Option<&'a str> {
    let target = spec::target(pod, &record.name).filter(|_| record.ephemeral)?;
    observed.running(target).is_none().then_some(target)
}

struct Planner<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    now: Timestamp,
    plan: Plan,
}

impl Planner<'_> {
    fn run(&mut self) {
        if self.observed.finished {
            self.release();
            return;
        }
        if let Sandbox::Lost(failure) = &self.observed.sandbox {
            if self.may_retry(failure.as_ref()) {
                self.push(PodAction::RemoveLostSandbox);
            }
            return;
        }
        let fates: Vec<Fate> = self
            .observed
            .containers
            .iter()
            .map(|record| fate(self.pod, record, self.now))
            .collect();
        let regular = self.observed.containers.iter().zip(&fates).filter(|(r, _)| !r.ephemeral);
        if regular.into_iter().all(|(_, fate)| *fate == Fate::Over) {
            self.finish();
            return;
        }
        let ready = self.surroundings();
        // Containers start in order. One that waits for its first image holds up those behind
        // it, one that has failed does not.
        let mut turn = ready && !self.observed.busy.contains(&Job::Start);
        for (record, fate) in self.observed.containers.iter().zip(fates) {
            match fate {
                Fate::Keep => self.resize(record),
                Fate::Over => {}
                Fate::Stop(reason, grace) => self.stop(record, reason, grace),
                Fate::Start { not_before, .. } if not_before > self.now => self.wake(not_before),
                Fate::Start { number, restart_delay, .. } if record.ephemeral => {
                    turn &= self.look_into(record, number, restart_delay, turn);
                }
                Fate::Start { number, restart_delay, .. } => {
                    turn &= self.start(record, number, restart_delay, turn);
                }
            }
        }
        for id in &self.observed.superseded {
            self.push(PodAction::RemoveContainer { id: id.clone() });
        }
    }

    /// Sandbox, network and volumes; whether all of them are there.
    fn surroundings(&mut self) -> bool {
        match &self.observed.sandbox {
            Sandbox::Ready { .. } => self.step(&self.observed.network, PodAction::AttachNetwork),
            Sandbox::Absent(failure) => {
                if self.may_retry(failure.as_ref()) {
                    self.push(PodAction::CreateSandbox);
                }
            }
            Sandbox::Lost(_) => {}
        }
        self.step(&self.observed.volumes, PodAction::PrepareVolumes);
        if self.observed.volumes_stale {
            self.push(PodAction::PrepareVolumes);
        }
        matches!(self.observed.sandbox, Sandbox::Ready { .. })
            && self.observed.network.done().is_some()
            && self.observed.volumes.done().is_some()
    }

    /// Works towards the start of a container; whether the next one in order may start as well.
    fn start(
        &mut self,
        record: &ContainerRecord,
        number: u32,
        restart_delay: Duration,
        turn: bool,
    ) -> bool {
        match &record.image {
            Progress::Done(_) => {}
            Progress::Waiting => {
                self.push(PodAction::FetchImage { container: record.name.clone() });
                return false;
            }
            Progress::Failed(failure) => {
                if self.may_retry(Some(failure)) {
                    self.push(PodAction::FetchImage { container: record.name.clone() });
                }
                return true;
            }
        }
        if !self.may_retry(record.blocked.as_ref()) {
            return true;
        }
        if turn {
            let container = record.name.clone();
            self.push(PodAction::StartContainer { container, number, restart_delay });
        }
        false
    }

    /// Gives a running container what it was promised.
    fn resize(&mut self, record: &ContainerRecord) {
        if let Some(attempt) = record.running().filter(|_| record.is_being_resized())
            && self.may_retry(record.resize_failure.as_ref())
        {
            let container = record.name.clone();
            self.push(PodAction::ResizeContainer { container, id: attempt.id() });
        }
    }

    /// Works towards the start of an ephemeral container; whether another may start as well. Nobody
    /// waits for it but while it is being started.
    fn look_into(
        &mut self,
        record: &ContainerRecord,
        number: u32,
        restart_delay: Duration,
        turn: bool,
    ) -> bool {
        if awaited(self.pod, record, self.observed).is_some() {
            return true;
        }
        let fetched = record.image.done().is_some();
        self.start(record, number, restart_delay, turn) || !fetched
    }

    /// All that the pod is made of has ended: whoever looks into it goes first.
    fn finish(&mut self) {
        let grace = grace(self.pod);
        let mut looked_into = self.observed.busy.contains(&Job::Start);
        for record in self.observed.containers.iter().filter(|r| r.running().is_some()) {
            looked_into = true;
            self.stop(record, StopReason::PodTerminates, grace);
        }
        if !looked_into {
            self.push(PodAction::Finish);
        }
    }

    fn terminate(&mut self, grace: Duration, report: bool) {
        let lost = matches!(self.observed.sandbox, Sandbox::Lost(_));
        let mut running = false;
        if !lost {
            for record in self.observed.containers.iter().filter(|r| r.running().is_some()) {
                running = true;
                self.stop(record, StopReason::PodTerminates, grace);
            }
        }
        // What is being made has to be there before it can be removed.
        let unsettled = self.observed.busy.iter().any(|job| {
            matches!(job, Job::Sandbox | Job::Network | Job::Volumes | Job::Start | Job::Finish)
        });
        if running || unsettled {
            return;
        }
        self.release();
        if report && self.observed.release.done().is_some() && !self.observed.removal_reported {
            self.push(PodAction::ReportRemoved);
        }
    }

    fn release(&mut self) {
        self.step(&self.observed.release, PodAction::Release);
    }

    fn stop(&mut self, record: &ContainerRecord, reason: StopReason, grace: Duration) {
        let Some(attempt) = record.running() else { return };
        let (container, id) = (record.name.clone(), attempt.id());
        let Some(stopping) = &record.stopping else {
            let signal = attempt.labels.stop_signal;
            self.push(PodAction::StopContainer { container, id, signal, reason });
            return;
        };
        let kill_at = match stopping.killed {
            None => after(stopping.since, grace),
            Some(killed) => after(killed, KILL_AGAIN),
        };
        match kill_at <= self.now {
            true => self.push(PodAction::KillContainer { container, id }),
            false => self.wake(kill_at),
        }
    }

    fn step<T>(&mut self, progress: &Progress<T>, action: PodAction) {
        let due = match progress {
            Progress::Done(_) => false,
            Progress::Waiting => true,
            Progress::Failed(failure) => self.may_retry(Some(failure)),
        };
        if due {
            self.push(action);
        }
    }

    /// Whether a step may be tried; remembers when it may be, if it may not now.
    fn may_retry(&mut self, failure: Option<&Failure>) -> bool {
        match failure.map(|failure| failure.retry_at) {
            None => true,
            Some(None) => false,
            Some(Some(at)) if at <= self.now => true,
            Some(Some(at)) => {
                self.wake(at);
                false
            }
        }
    }

    fn push(&mut self, action: PodAction) {
        let busy = action.job().is_some_and(|job| self.observed.busy.contains(&job));
        if !busy && !self.plan.actions.contains(&action) {
            self.plan.actions.push(action);
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earliest| earliest.min(at)));
    }
}
