//! What there is of a pod on this node, and how its containers' starts are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::{ContainerStateTerminated, ResourceRequirements};
use runtime::ContainerId;
use runtime::image::Image;
use serde::{Deserialize, Serialize};

use super::allocation::Pending;
use super::clock::after;
use super::names::AttemptLabels;
use super::spec::Role;
use crate::volumes::Volumes;

/// Everything that is known of a pod's presence on this node. The worker keeps it; the plan and
/// the status are computed from it.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) sandbox: Sandbox,
    pub(crate) network: Progress<Vec<IpAddr>>,
    /// The addresses that a kubelet before this one has told of the sandbox that is there: they hold until this
    /// one has taken the network over itself.
    pub(crate) addresses_before: Vec<IpAddr>,
    pub(crate) volumes: Progress<Volumes>,
    /// A ConfigMap or Secret that a volume shows has changed.
    pub(crate) volumes_stale: bool,
    /// In the order of their start: init containers, those that the pod is there for, ephemeral ones.
    pub(crate) containers: Vec<ContainerRecord>,
    /// Why the pod is not promised the resources that it asks for by now.
    pub(crate) pending_resize: Option<Pending>,
    /// Ended containers that a later attempt took the place of.
    pub(crate) superseded: Vec<Superseded>,
    /// Why the pod may not go on, whatever its containers do.
    pub(crate) failed: Option<PodFailure>,
    /// All containers ended, none is to be started again; this holds for ever.
    pub(crate) finished: bool,
    /// Whether sandbox, network and volumes were taken back.
    pub(crate) release: Progress<()>,
    /// Whether the master was told that nothing is left.
    pub(crate) removal_reported: bool,
    /// What is being done.
    pub(crate) busy: BTreeSet<Job>,
}

impl Observed {
    /// The attempt of a container that runs, by the container's name.
    pub(crate) fn running(&self, name: &str) -> Option<&Attempt> {
        self.containers.iter().find(|record| record.name == name)?.running()
    }
}

/// A container that has ended and is to be removed: another took its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superseded {
    pub(crate) id: ContainerId,
    /// Why it is still there.
    pub(crate) failure: Option<Failure>,
}

impl Superseded {
    /// One that nobody has tried to remove.
    pub(crate) fn new(id: ContainerId) -> Self {
        Self { id, failure: None }
    }
}

/// Why a pod is failed by its node, as its status tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodFailure {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// So long its containers may take at the most; nothing: as long as the pod says.
    pub(crate) grace: Option<Duration>,
    /// The reason of the condition `DisruptionTarget`, where the node is at fault.
    pub(crate) disruption: Option<String>,
}

/// The sandbox of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// None, and the last attempt to make one.
    Absent(Option<Failure>),
    /// Can be entered.
    Ready { network_namespace: PathBuf },
    /// Its shim is dead; it can only be removed.
    Lost(Option<Failure>),
}

/// Something that has to be done once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress<T> {
    /// Not tried yet.
    Waiting,
    /// Tried, in vain.
    Failed(Failure),
    /// Done.
    Done(T),
}

impl<T> Progress<T> {
    pub(crate) fn done(&self) -> Option<&T> {
        match self {
            Self::Done(value) => Some(value),
            Self::Waiting | Self::Failed(_) => None,
        }
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Waiting | Self::Done(_) => None,
        }
    }
}

/// A failed step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// As in `state.waiting.reason`.
    pub(crate) reason: &'static str,
    /// For the user.
    pub(crate) message: String,
    /// How often in a row.
    pub(crate) count: u32,
    /// When it failed.
    pub(crate) at: Timestamp,
    /// When to try again; nothing: when something changes that could make a difference.
    pub(crate) retry_at: Option<Timestamp>,
}

impl Failure {
    /// One more failure in a row; the next attempt waits `first`, doubling up to [`MAX_BACKOFF`].
    pub(crate) fn backing_off(
        previous: Option<&Failure>,
        reason: &'static str,
        message: String,
        at: Timestamp,
        first: Duration,
    ) -> Self {
        let count = previous.map_or(0, |previous| previous.count) + 1;
        let delay = first.saturating_mul(1 << (count - 1).min(16)).min(MAX_BACKOFF);
        Self { reason, message, count, at, retry_at: Some(after(at, delay)) }
    }

    /// A failure that only a change of something else can mend.
    pub(crate) fn until_change(reason: &'static str, message: String, at: Timestamp) -> Self {
        Self { reason, message, count: 1, at, retry_at: None }
    }
}

/// Kubernetes' bound for every backoff on a node.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Kubernetes' first delay before a container is started or an image is pulled again.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// A container that ran so long was well: its next failure counts as the first.
pub(crate) const BACKOFF_RESET: Duration = Duration::from_secs(600);

/// What a container is started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Images {
    /// Its own.
    pub(crate) own: Image,
    /// Those that it mounts, by the volumes' names.
    pub(crate) volumes: BTreeMap<String, Image>,
}

/// One container of the pod over all its attempts.
#[derive(Debug)]
pub(crate) struct ContainerRecord {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The newest attempt.
    pub(crate) current: Option<Attempt>,
    /// How the attempt before it ended.
    pub(crate) last: Option<ContainerStateTerminated>,
    /// Attempts counted before the ones that are known; a new first attempt has this number.
    pub(crate) next_number: u32,
    /// The images for the next start.
    pub(crate) image: Progress<Images>,
    /// Which of them could not be had, as the pod names it; told while that is so.
    pub(crate) missing_image: String,
    /// Why the last start could not even be tried.
    pub(crate) blocked: Option<Failure>,
    /// The resources that this node has promised it.
    pub(crate) promised: ResourceRequirements,
    /// Those that the running attempt has; nothing: as promised.
    pub(crate) applied: Option<ResourceRequirements>,
    /// Why the running attempt could not be given what was promised.
    pub(crate) resize_failure: Option<Failure>,
    /// How far the running attempt's hook after its start has come.
    pub(crate) post_start: PostStart,
    /// The running attempt was asked to end.
    pub(crate) stopping: Option<Stopping>,
    /// What the probes of the running attempt say.
    pub(crate) verdicts: Verdicts,
}

impl ContainerRecord {
    pub(crate) fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            current: None,
            last: None,
            next_number: 0,
            image: Progress::Waiting,
            missing_image: String::new(),
            blocked: None,
            promised: ResourceRequirements::default(),
            applied: None,
            resize_failure: None,
            post_start: PostStart::Done,
            stopping: None,
            verdicts: Verdicts::default(),
        }
    }

    /// Whether it did its work in the sandbox that the pod has now.
    pub(crate) fn is_completed(&self) -> bool {
        let done = |attempt: &Attempt| attempt.exit.as_ref().is_some_and(|exit| exit.code == 0);
        self.current.as_ref().is_some_and(|attempt| attempt.in_runtime && done(attempt))
    }

    /// Whether it runs with other resources than it was promised.
    pub(crate) fn is_being_resized(&self) -> bool {
        self.running().is_some() && self.applied.as_ref().is_some_and(|has| *has != self.promised)
    }

    /// The attempt that runs.
    pub(crate) fn running(&self) -> Option<&Attempt> {
        self.current.as_ref().filter(|attempt| attempt.exit.is_none())
    }
}

/// One start of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) labels: AttemptLabels,
    pub(crate) started_at: Timestamp,
    /// Nothing while it runs.
    pub(crate) exit: Option<Exit>,
    /// Whether the runtime has a record of it.
    pub(crate) in_runtime: bool,
}

impl Attempt {
    pub(crate) fn id(&self) -> ContainerId {
        self.labels.id()
    }

    /// When the next attempt may start, and how long the one after that will have to wait.
    pub(crate) fn backoff(&self) -> Option<(Timestamp, Duration)> {
        let exit = self.exit.as_ref()?;
        let ran = exit.finished_at.duration_since(self.started_at);
        let delay = match ran.unsigned_abs() >= BACKOFF_RESET && ran.is_positive() {
            true => Duration::ZERO,
            false => self.labels.restart_delay,
        };
        let next = if delay.is_zero() { FIRST_BACKOFF } else { (delay * 2).min(MAX_BACKOFF) };
        Some((after(exit.finished_at, delay), next))
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    /// As in `state.terminated.reason`.
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) finished_at: Timestamp,
}

/// `state.terminated.reason` of a program that could not be started.
pub(crate) const START_ERROR: &str = "StartError";
/// `state.terminated.reason` of a container nobody saw end.
pub(crate) const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// The hook that follows a container's start. Until it is done, the container does not count as
/// started, and those behind it wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostStart {
    /// It is to be called.
    Due,
    /// There is none, or it succeeded.
    Done,
    /// The container has to go.
    Failed,
}

/// A running container is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stopping {
    pub(crate) reason: StopReason,
    /// When that was decided: its time runs from here, its hook included.
    pub(crate) since: Timestamp,
    /// Its hook was called and has not returned.
    pub(crate) hook: bool,
    /// When it was sent its stop signal.
    pub(crate) signalled: Option<Timestamp>,
    /// When it was killed, since it did not end by itself.
    pub(crate) killed: Option<Timestamp>,
}

/// Why a running container is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum StopReason {
    /// The pod goes.
    PodTerminates,
    /// Its liveness probe failed.
    Unhealthy,
    /// Its startup probe failed.
    NeverStarted,
    /// The pod names another image now.
    ImageChanged,
    /// It wants to be started again with its other resources.
    Resized,
    /// The hook after its start failed.
    HookFailed,
}

/// What the probes found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdicts {
    /// Nothing: not probed yet.
    pub(crate) readiness: Option<bool>,
    /// Nothing: not probed yet.
    pub(crate) liveness: Option<bool>,
    /// Nothing: not probed yet.
    pub(crate) startup: Option<bool>,
}

/// What can be under way, at most once each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Job {
    /// The sandbox is being made or removed.
    Sandbox,
    /// The network is being attached.
    Network,
    /// Volumes are being prepared.
    Volumes,
    /// The image of this container is being fetched.
    Image(String),
    /// A container is being started; one at a time, in order.
    Start,
    /// This container is being signalled.
    Signal(String),
    /// The hook after this container's start is under way.
    PostStart(String),
    /// The hook before this container's end is under way.
    PreStop(String),
    /// This container is being given other resources.
    Resize(String),
    /// This container is being removed.
    Remove(ContainerId),
    /// The final status is being recorded.
    Finish,
    /// Everything is being taken back.
    Release,
}
