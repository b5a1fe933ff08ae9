//! One task per pod: looks, asks the [plan](super::plan), acts, reports, and sleeps until
//! something happens.
//!
//! ```text
//! mail ──┐
//! jobs ──┼─> absorb ─> plan ─> begin (jobs) ─> probes ─> report ─> wait
//! probes ┤                ^________________________________________│
//! timer ─┘
//! ```
//!
//! What takes time is a job of its own ([`act`]); its outcome is taken in by [`settle`]. The
//! worker itself never waits for anything but news, so a pod can be deleted while its image is
//! being pulled.

mod act;
mod fetch;
mod health;
mod hooks;
mod mailbox;
mod report;
mod resize;
mod settle;
#[cfg(test)]
mod tests;
mod tokens;
mod view;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::{Pod, PodStatus};
use runtime::{ContainerExit, ContainerId, SandboxState};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::admission::{Surroundings, admit};
use super::allocation::{Amounts, Entry, Ledger, Pending};
use super::clock::{Clock, after, timestamp};
use super::events::Teller;
use super::huge_pages::HugePages;
use super::names::PodIdentity;
use super::observed::{ContainerRecord, Observed, PodFailure};
use super::plan::{FORCED_GRACE, Intent, deadline, grace, plan};
use super::probes::ProbeNews;
use super::record::{Record, Stops, resume_stops};
use super::recover::recover;
use super::resources::QosClass;
use super::spec::{self, Role};
use super::{PodsConfig, PodsDependencies, references, remains, status};
use crate::volumes::PodDir;
use act::Done;
use health::Probes;
pub(crate) use mailbox::Mailbox;
pub(crate) use view::PodView;

/// What all workers share.
pub(crate) struct Context {
    pub(crate) config: PodsConfig,
    pub(crate) dependencies: PodsDependencies,
    pub(crate) clock: Clock,
    /// What the pods of this node were promised.
    pub(crate) ledger: Ledger,
    /// The kubelet ends; pods go on.
    pub(crate) shutdown: CancellationToken,
}

/// Works for one pod.
pub(crate) struct Worker {
    context: Arc<Context>,
    identity: PodIdentity,
    dir: PodDir,
    /// As it was last seen.
    pod: Arc<Pod>,
    /// The object is not there any more.
    gone: bool,
    observed: Observed,
    mailbox: Arc<Mailbox>,
    jobs: JoinSet<Done>,
    /// Hooks under way, by their container.
    hooks: HashMap<String, AbortHandle>,
    probes: Probes,
    probe_news: mpsc::Receiver<ProbeNews>,
    /// The pod's place in the ledger, until it has ended or is gone.
    entry: Option<Entry>,
    /// When it was last looked, some containers did not have yet what they were promised.
    resizing: bool,
    /// Tells when others have made room.
    freed: watch::Receiver<()>,
    /// Ends of containers whose start is not settled yet.
    early_exits: HashMap<ContainerId, ContainerExit>,
    teller: Teller,
    view: watch::Sender<PodView>,
    start_time: Timestamp,
    /// What was last recorded and reported.
    previous: Option<PodStatus>,
    /// The containers that are asked to end, as they were last written down.
    recorded_stops: Stops,
    /// This worker has reported at least once.
    reported: bool,
    /// Until then an uneventful start is not worth a report.
    quiet_until: Timestamp,
    /// The attempts whose backoff people were told of.
    backoff_told: HashMap<String, u32>,
    /// When a token that its volumes show is to be renewed.
    renew_at: Option<Timestamp>,
    /// Nothing shows that this pod was ever here. Unless a master has confirmed that it is to be,
    /// it may just as well have been removed a moment before the kubelet ended.
    unheard_of: bool,
}

/// A pod that starts in the usual time costs the master one write, not four.
const QUIET_START: Duration = Duration::from_millis(250);
/// Probes of a pod's containers that may have news at the same time; more just wait.
const PROBE_NEWS: usize = 16;

/// Why the node does not take a pod that it never had; nothing when it does.
fn refusal(context: &Context, uid: &str, pod: &Pod, wants: Amounts) -> Option<PodFailure> {
    let state = &context.dependencies.state;
    let (node, present) = state.read(|cluster| {
        let present = cluster.all_pods().filter(|pod| !status::is_final(pod.status.as_ref()));
        let uids = present.filter_map(|pod| pod.metadata.uid.clone());
        (cluster.node.clone(), uids.collect::<HashSet<String>>())
    });
    let is_other = |other: &str| other != uid && present.contains(other);
    let (used, pods) = context.ledger.promised_to(is_other);
    let used_pages = context.ledger.pages_of(is_other);
    let used_ports = context.ledger.host_ports_of(is_other);
    let health = context.dependencies.health.borrow().clone();
    let surroundings = Surroundings {
        health: &health,
        labels: node.as_ref().and_then(|node| node.metadata.labels.as_ref()),
        allocatable: Amounts::allocatable(node.as_deref()),
        used,
        allocatable_pages: HugePages::allocatable(node.as_deref()),
        used_pages,
        used_ports,
        pods,
        max_pods: context.config.max_pods,
        no_app_armor: context.config.no_app_armor.as_deref(),
        no_selinux: context.config.no_selinux.as_deref(),
    };
    admit(pod, wants, &surroundings).err()
}

impl Worker {
    /// A worker for the pod; `found` is what the runtime has of it.
    pub(crate) fn new(
        context: Arc<Context>,
        identity: PodIdentity,
        pod: Arc<Pod>,
        found: Option<&SandboxState>,
        mailbox: Arc<Mailbox>,
    ) -> (Self, watch::Receiver<PodView>) {
        let now = context.clock.now();
        let dir = PodDir::new(&context.config.root_dir, &identity.uid);
        // The record is written before the master is told, so it is never the older of the two.
        let record = Record::read(&dir);
        let unheard_of = record.is_none() && found.is_none();
        let (recorded, promised, failed, recorded_stops) = record
            .map_or((None, None, None, Stops::new()), |r| {
                (r.status, r.promised, r.failed, r.stops)
            });
        let known = recorded.or_else(|| pod.status.clone());
        let mut observed = recover(&pod, found, known.as_ref(), promised.as_ref(), now);
        observed.failed = failed;
        resume_stops(&mut observed, &recorded_stops, now);
        let promised = observed.containers.iter().map(|record| (record.role, &record.promised));
        let amounts = Amounts::of(promised).plus(Amounts::overhead(&pod));
        // One that was here before was taken then.
        let is_new = unheard_of && known.as_ref().is_none_or(|known| known.start_time.is_none());
        let refusal = is_new.then(|| refusal(&context, &identity.uid, &pod, amounts)).flatten();
        let stays = !observed.finished && refusal.is_none();
        let entry = stays.then(|| {
            let entry = context.ledger.enter(&identity.uid, QosClass::of(&pod), amounts);
            let entry = entry.with_pages(HugePages::of_pod(&pod));
            entry.with_host_ports(spec::host_ports(&pod))
        });
        let start_time = known
            .as_ref()
            .and_then(|known| known.start_time.as_ref())
            .map(|time| time.0)
            .or_else(|| found.map(|found| timestamp(found.created_at)))
            .unwrap_or(now);
        let (probe_sender, probe_news) = mpsc::channel(PROBE_NEWS);
        let (view, watcher) = watch::channel(PodView::new(&identity, &pod));
        let teller = Teller::new(
            context.dependencies.reporter.clone(),
            context.clock.clone(),
            context.config.node_name.clone(),
            identity.clone(),
        )
        .knowing(&pod);
        if let Some(refusal) = refusal {
            tracing::info!(pod = %identity.key, message = refusal.message, "refusing a pod");
            teller.warning(None, &refusal.reason, refusal.message.clone());
            observed.failed = Some(refusal);
        }
        let previous = known.filter(|known| known.container_statuses.is_some());
        let worker = Self {
            dir,
            pod,
            gone: false,
            observed,
            mailbox,
            jobs: JoinSet::new(),
            hooks: HashMap::new(),
            probes: Probes::new(probe_sender),
            probe_news,
            entry,
            resizing: false,
            freed: context.ledger.freed(),
            early_exits: HashMap::new(),
            teller,
            view,
            start_time,
            quiet_until: match previous {
                None => after(now, QUIET_START),
                Some(_) => now,
            },
            previous,
            recorded_stops,
            reported: false,
            backoff_told: HashMap::new(),
            renew_at: None,
            unheard_of,
            context,
            identity,
        };
        (worker, watcher)
    }

    /// Works until nothing of the pod is left, or the kubelet ends.
    pub(crate) async fn run(self) {
        let key = self.identity.key.clone();
        let span = tracing::info_span!("pod", pod = %key.name, namespace = %key.namespace);
        self.work().instrument(span).await;
    }

    async fn work(mut self) {
        self.read_last_words().await;
        loop {
            self.absorb_mail().await;
            self.look_at_state();
            self.look_at_clock();
            if self.is_in_doubt() {
                if self.wait(None).await {
                    return;
                }
                continue;
            }
            self.consider_resize().await;
            self.tell_end_of_resize();
            let deadline = self.consider_deadline();
            let intent = self.intent();
            let plan = loop {
                let plan = plan(&self.pod, intent, &self.observed, self.context.clock.now());
                if plan.actions.is_empty() {
                    break plan;
                }
                for action in plan.actions {
                    self.begin(action, intent).await;
                }
            };
            self.tell_backoff();
            self.keep_probing();
            let report_at = self.report(intent).await;
            self.remember_stops().await;
            if self.gone && self.observed.release.done().is_some() {
                self.remove_remains().await;
                return;
            }
            let wake_at =
                [plan.wake_at, report_at, deadline, self.renew_at].into_iter().flatten().min();
            if self.wait(wake_at).await {
                return;
            }
        }
    }

    /// Waits for anything new; whether the kubelet ends.
    async fn wait(&mut self, wake_at: Option<Timestamp>) -> bool {
        let timer = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(self.context.clock.instant(at)).await,
                None => std::future::pending().await,
            }
        };
        let deferred = self.observed.pending_resize.as_ref().is_some_and(Pending::is_deferred);
        tokio::select! {
            () = self.context.shutdown.cancelled() => return true,
            Ok(()) = self.freed.changed(), if deferred => {}
            () = self.mailbox.changed() => {}
            () = timer => {}
            Some(news) = self.probe_news.recv() => self.take_probe_news(&news),
            Some(done) = self.jobs.join_next() => match done {
                Ok(done) => self.settle(done).await,
                // A job that panicked leaves its mark in `busy`; a fresh worker has none.
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            },
        }
        false
    }

    fn intent(&self) -> Intent {
        match self.gone {
            // Its file has gone, which is how it is deleted.
            true if spec::is_static(&self.pod) => {
                Intent::Terminate { grace: grace(&self.pod), report: false }
            }
            true => Intent::Terminate { grace: FORCED_GRACE, report: false },
            false => Intent::of(&self.pod),
        }
    }

    /// Fails a pod that has had its time; when that will be, if it has not.
    fn consider_deadline(&mut self) -> Option<Timestamp> {
        let open = self.intent() == Intent::Run && !self.observed.finished;
        let deadline = deadline(&self.pod, self.start_time);
        let deadline = deadline.filter(|_| open && self.observed.failed.is_none())?;
        if deadline > self.context.clock.now() {
            return Some(deadline);
        }
        // As Kubernetes says it.
        let (reason, message) = (
            "DeadlineExceeded".to_owned(),
            "Pod was active on the node longer than the specified deadline".to_owned(),
        );
        tracing::info!("the pod has had its time");
        self.teller.normal(None, &reason, message.clone());
        self.observed.failed = Some(PodFailure { reason, message, ..PodFailure::default() });
        None
    }

    fn is_in_doubt(&self) -> bool {
        let confirmed = || self.context.dependencies.state.read(|cluster| cluster.confirmed);
        self.unheard_of && !self.gone && !spec::is_static(&self.pod) && !confirmed()
    }

    fn look_at_state(&mut self) {
        let pod =
            self.context.dependencies.state.read(|cluster| {
                cluster.pod(&self.identity.key, &self.identity.uid).map(Arc::clone)
            });
        match pod {
            Some(pod) => {
                self.observed.volumes_stale |= references::shows_otherwise(&pod, &self.pod);
                self.pod = pod;
                self.know_ephemeral();
            }
            None if self.gone => {}
            None => {
                tracing::info!("the pod's object is gone");
                self.gone = true;
            }
        }
    }

    /// Has tokens renewed whose time has come.
    fn look_at_clock(&mut self) {
        if self.renew_at.is_some_and(|at| at <= self.context.clock.now()) {
            self.renew_at = None;
            self.observed.volumes_stale = true;
        }
    }

    /// Takes note of containers that were added to look into the pod.
    fn know_ephemeral(&mut self) {
        let known = |name: &str| self.observed.containers.iter().any(|r| r.name == name);
        let new: Vec<_> = spec::ephemeral_names(&self.pod)
            .filter(|name| !known(name))
            .map(|name| ContainerRecord::new(name, Role::Ephemeral))
            .collect();
        if !new.is_empty() {
            self.observed.containers.extend(new);
            self.teller = self.teller.knowing(&self.pod);
        }
    }

    /// Removes the last traces of a pod whose object is gone: its folder and its logs.
    async fn remove_remains(&mut self) {
        let logs = self.identity.log_dir(&self.context.config.log_dir);
        let removed = remains::persist(&self.context, "failed to remove a pod's files", || {
            remains::remove_files(&self.dir, Some(&logs))
        });
        if removed.await {
            tracing::info!("removed the pod");
        }
    }

    fn take_probe_news(&mut self, news: &ProbeNews) {
        let record = self
            .observed
            .containers
            .iter_mut()
            .find(|record| record.running().is_some_and(|a| a.id() == news.container));
        if let Some(record) = record {
            tracing::info!(
                container = %record.name, kind = ?news.kind, healthy = news.healthy,
                "a probe changed its verdict"
            );
            health::put_verdict(&mut record.verdicts, news);
        }
    }

    /// Tells people, once per attempt, that a container is kept from crashing too often.
    fn tell_backoff(&mut self) {
        if self.intent() != Intent::Run || self.observed.finished {
            return;
        }
        let now = self.context.clock.now();
        for record in &self.observed.containers {
            let Some(attempt) = &record.current else { continue };
            let waits = matches!(
                super::plan::fate(&self.pod, record, now),
                super::plan::Fate::Start { not_before, .. } if not_before > now
            );
            let number = attempt.labels.number;
            if waits && self.backoff_told.insert(record.name.clone(), number) != Some(number) {
                let key = &self.identity.key;
                self.teller.warning(
                    Some(&record.name),
                    "BackOff",
                    format!(
                        "Back-off restarting failed container {} in pod {}_{}({})",
                        record.name, key.name, key.namespace, self.identity.uid
                    ),
                );
            }
        }
    }
}
