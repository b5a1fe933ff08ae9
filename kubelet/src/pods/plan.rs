//! Decides what is to be done next for a pod.
//!
//! ```text
//! sandbox ─> network ─┐
//! volumes ────────────┼─> init containers ─> containers ─> (exits: again, after a while) ─> finish ─> release
//! images ─────────────┘
//! deletion, at any time: stop containers ─> release ─> report
//! ```
//!
//! [`mod@fate`] decides on a container by itself, [`init`] says whose turn it is, [`stop`] how it ends.
//!
//! [`plan`] reads no clock and performs nothing. The worker asks it again whenever anything
//! changes, and at [`Plan::wake_at`].

mod fate;
mod init;
mod stop;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::Pod;
use runtime::ContainerId;

use super::clock::after;
use super::observed::{
    ContainerRecord, Failure, Job, Observed, PostStart, Progress, Sandbox, StopReason, Superseded,
};
use super::spec::{self, Role};
pub(crate) use fate::{Fate, fate};
pub(crate) use init::{Stage, is_over, is_started, stage};

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
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Kubernetes' default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// When a pod that began at this time has had all that it may have; nothing: there is no such time.
pub(crate) fn deadline(pod: &Pod, began: Timestamp) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    Some(after(began, Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

/// What is left to the containers of a pod whose object was taken away: nobody waits for them.
pub(crate) const FORCED_GRACE: Duration = Duration::from_secs(1);

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
    /// Call the hook that follows a start.
    CallPostStart {
        container: String,
        id: ContainerId,
    },
    /// Begin to stop it.
    StopContainer {
        container: String,
        id: ContainerId,
        /// Whether its hook is to be called.
        hook: bool,
        /// Nothing: it is signalled later.
        signal: Option<i32>,
        reason: StopReason,
    },
    /// Call the hook before its end again: the kubelet that called it saw no answer.
    CallPreStop {
        container: String,
        id: ContainerId,
    },
    /// Its hook is done or has had its time, and it is its turn.
    SignalContainer {
        container: String,
        id: ContainerId,
        signal: i32,
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
            Self::CallPostStart { container, .. } => Job::PostStart(container.clone()),
            Self::StopContainer { container, hook: true, .. }
            | Self::CallPreStop { container, .. } => Job::PreStop(container.clone()),
            Self::StopContainer { signal: None, .. } => return None,
            Self::StopContainer { container, .. }
            | Self::SignalContainer { container, .. }
            | Self::KillContainer { container, .. } => Job::Signal(container.clone()),
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

/// The container that an ephemeral one waits for: it sees that one's processes.
pub(crate) fn awaited<'a>(
    pod: &'a Pod,
    record: &ContainerRecord,
    observed: &Observed,
) -> Option<&'a str> {
    let target = spec::target(pod, &record.name).filter(|_| record.role == Role::Ephemeral)?;
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
        let stage = stage(self.pod, self.observed, self.now);
        if is_over(self.pod, self.observed, stage, self.now) {
            self.finish();
            return;
        }
        let ready = self.surroundings();
        // Containers start in order. One that waits for its first image holds up those behind
        // it, one that has failed does not.
        let mut turn = ready && !self.observed.busy.contains(&Job::Start);
        for (index, record) in self.observed.containers.iter().enumerate() {
            let due = match (record.role, stage) {
                (Role::Init, _) => stage == Stage::Initializing(index),
                (Role::Sidecar, Stage::Initializing(next)) => index <= next,
                (Role::Regular, _) => stage == Stage::Initialized,
                (Role::Sidecar | Role::Ephemeral, _) => true,
            };
            match due {
                true => turn &= self.work(record, turn),
                false => self.prefetch(record),
            }
        }
        let observed = self.observed;
        for Superseded { id, failure } in &observed.superseded {
            if self.may_retry(failure.as_ref()) {
                self.push(PodAction::RemoveContainer { id: id.clone() });
            }
        }
    }

    /// Works on a container whose turn has come; whether the next one in order may start as well.
    fn work(&mut self, record: &ContainerRecord, turn: bool) -> bool {
        match fate(self.pod, record, self.now) {
            Fate::Keep => {
                self.resize(record);
                return self.follow_start(record);
            }
            Fate::Over => {}
            Fate::Stop(reason, grace) => self.stop(record, reason, grace),
            Fate::Start { not_before, .. } if not_before > self.now => self.wake(not_before),
            Fate::Start { number, restart_delay, .. } if record.role == Role::Ephemeral => {
                return self.look_into(record, number, restart_delay, turn);
            }
            Fate::Start { number, restart_delay, .. } => {
                return self.start(record, number, restart_delay, turn);
            }
        }
        true
    }

    /// Calls the hook that belongs to a start; whether there is nothing left to be waited for.
    fn follow_start(&mut self, record: &ContainerRecord) -> bool {
        if let Some(attempt) = record.running()
            && record.post_start == PostStart::Due
        {
            let container = record.name.clone();
            self.push(PodAction::CallPostStart { container, id: attempt.id() });
            return false;
        }
        true
    }

    /// Its image may well be there by the time that its turn comes. If it is not to be had, that is
    /// told when it is needed.
    fn prefetch(&mut self, record: &ContainerRecord) {
        if matches!(record.image, Progress::Waiting) && record.current.is_none() {
            self.push(PodAction::FetchImage { container: record.name.clone() });
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

    /// The pod is over: whoever still serves it or looks into it goes first.
    fn finish(&mut self) {
        let shortened = self.observed.failed.as_ref().and_then(|failed| failed.grace);
        let grace = shortened.map_or(grace(self.pod), |short| short.min(grace(self.pod)));
        if !self.stop_all(grace) && !self.is_unsettled() {
            self.push(PodAction::Finish);
        }
    }

    fn terminate(&mut self, grace: Duration, report: bool) {
        // Of a lost sandbox nothing can be reached.
        let lost = matches!(self.observed.sandbox, Sandbox::Lost(_));
        let running = !lost && self.stop_all(grace);
        if running || self.is_unsettled() {
            return;
        }
        self.release();
        if report && self.observed.release.done().is_some() && !self.observed.removal_reported {
            self.push(PodAction::ReportRemoved);
        }
    }

    /// Whether something is being made: it has to be there before it can be removed.
    fn is_unsettled(&self) -> bool {
        self.observed.busy.iter().any(|job| {
            matches!(job, Job::Sandbox | Job::Network | Job::Volumes | Job::Start | Job::Finish)
        })
    }

    fn release(&mut self) {
        self.step(&self.observed.release, PodAction::Release);
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
