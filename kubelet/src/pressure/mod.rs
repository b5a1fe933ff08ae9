//! Sees to it that the node does not run out of memory, disk or process ids.
//!
//! ```text
//! sense ──> decide ──> conditions ──> node status, admission
//!   ▲          └─> act: images that nobody uses go ──> still short? one pod goes, by rank
//!   └── every ten seconds, and when the kernel says that programs wait for memory
//! ```
//!
//! [`decide`], [`mod@rank`] and [`images`] decide; what is here looks, removes images and ends pods, one at
//! a time.

mod decide;
mod images;
mod measure;
mod rank;
mod sense;
#[cfg(test)]
mod tests;
pub mod threshold;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use proto::k8s::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use proto::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use runtime::image::{ImageError, ImageStorage};
use runtime::{ContainerRuntime, MemoryStalls};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::decide::{Level, Observations};
use self::decide::{Memory, Passed};
pub use self::images::ImageGc;
use self::images::InUse;
use self::measure::Places;
pub(crate) use self::rank::is_critical;
use self::rank::{Candidate, has_storage_limit, over_limit, rank};
pub(crate) use self::sense::process_limit;
pub use self::sense::{MachineSense, Sense};
use self::threshold::{Condition, Resource, Threshold};
use crate::node_status::Health;
use crate::pods::{AttemptLabels, Clock, PodFailure, PodManager};
use crate::reporter::Reporter;

/// What the node says of itself.
pub type Conditions = BTreeSet<Condition>;

/// How a node is kept from running out of things.
#[derive(Clone, Debug)]
pub struct PressureConfig {
    /// Pods' volumes are below.
    pub root_dir: PathBuf,
    /// Containers' logs are below.
    pub log_dir: PathBuf,
    /// `spec.nodeName` of its pods.
    pub node_name: String,
    /// When the node is short of something.
    pub thresholds: Vec<Threshold>,
    /// For so long a condition stays after it was last seen.
    pub transition: Duration,
    /// So long a pod may take that goes for a soft threshold.
    pub max_pod_grace: Duration,
    /// When images go.
    pub image_gc: ImageGc,
}

/// What it is done with.
pub struct PressureParts {
    /// The machine.
    pub sense: Arc<dyn Sense>,
    /// Who uses what.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// What may go first.
    pub images: Arc<dyn ImageStorage>,
    /// Who may go then.
    pub pods: Arc<PodManager>,
    /// Whom to tell.
    pub reporter: Reporter,
    /// Where the conditions are told.
    pub health: watch::Sender<Health>,
}

/// Memory can be gone within seconds, and where the kernel does not say so, somebody has to look. A look
/// reads three small files and asks two file systems: some 50 µs, five millionths of a processor.
/// Kubernetes looks as often.
const INTERVAL: Duration = Duration::from_secs(10);
/// A thrashing kernel tells once a second; more looks would only add to its load.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Images are looked at as often as in Kubernetes.
const IMAGE_INTERVAL: Duration = Duration::from_secs(300);
/// A pod that was ended has so long to be gone, before the next one is looked for.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(30);
/// A pod that goes at once is given so long, as in Kubernetes.
const IMMEDIATE: Duration = Duration::from_secs(1);
/// Measuring what pods have on disk takes no more than this share of one processor's time.
const MEASURING_SHARE: u32 = 100;

/// Keeps the node from running out of things.
pub struct PressureManager {
    config: PressureConfig,
    parts: PressureParts,
    clock: Clock,
    memory: Memory,
    images_due: Instant,
    measuring_due: Instant,
}

impl PressureManager {
    /// Nothing happens before [`run`](Self::run).
    pub fn new(config: PressureConfig, parts: PressureParts) -> Self {
        Self::with_clock(config, parts, Clock::system())
    }

    fn with_clock(config: PressureConfig, parts: PressureParts, clock: Clock) -> Self {
        let now = Instant::now();
        Self {
            config,
            parts,
            clock,
            memory: Memory::default(),
            // What was left by a kubelet that was killed goes at once.
            images_due: now,
            measuring_due: now,
        }
    }

    /// Looks and acts until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let stalls = MemoryStalls::listen();
        let _ = shutdown.run_until_cancelled(self.look_on_and_on(&stalls)).await;
    }

    async fn look_on_and_on(&mut self, stalls: &MemoryStalls) {
        loop {
            let next = self.look(self.clock.now()).await;
            let began = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = stalls.heard() => tokio::time::sleep_until(began + MIN_INTERVAL).await,
            }
        }
    }

    /// One look, and what follows from it; how long to wait for the next one.
    async fn look(&mut self, now: Timestamp) -> Duration {
        let seen = self.parts.sense.sense();
        let decision = decide::decide(
            &self.config.thresholds,
            &mut self.memory,
            &seen,
            self.config.transition,
            now,
        );
        self.parts.health.send_if_modified(|health| {
            let changed = health.pressures != decision.conditions;
            if changed {
                info!(conditions = ?decision.conditions, "the node's pressure changed");
                health.pressures.clone_from(&decision.conditions);
            }
            changed
        });
        if Instant::now() >= self.images_due {
            self.images_due = Instant::now() + IMAGE_INTERVAL;
            self.collect_images(&seen).await;
        }
        if self.hold_to_limits().await {
            return MIN_INTERVAL;
        }
        if let Some(passed) = decision.act
            && self.relieve(&passed).await
        {
            return MIN_INTERVAL;
        }
        let until = decision.look_at.map(|at| at.duration_since(now).unsigned_abs());
        until.map_or(INTERVAL, |until| until.clamp(MIN_INTERVAL, INTERVAL))
    }

    /// Ends pods that have filled more than they may; whether there was one.
    async fn hold_to_limits(&mut self) -> bool {
        if Instant::now() < self.measuring_due {
            return false;
        }
        let pods: Vec<Arc<Pod>> =
            self.parts.pods.active().into_iter().filter(|pod| has_storage_limit(pod)).collect();
        if pods.is_empty() {
            return false;
        }
        let began = Instant::now();
        let candidates = self.measure(&pods, true).await;
        self.measuring_due = Instant::now() + began.elapsed() * MEASURING_SHARE;
        let mut any = false;
        for candidate in &candidates {
            if let Some(message) = over_limit(candidate) {
                any |= self.end(candidate.pod, message, IMMEDIATE, false).await;
            }
        }
        any
    }

    /// Does something about a threshold that is passed; whether a pod had to go.
    async fn relieve(&mut self, passed: &Passed) -> bool {
        let resource = passed.resource();
        warn!(
            signal = passed.threshold.signal.name(),
            available = passed.level.available,
            bound = passed.bound(),
            "the node is short of {}",
            resource.name()
        );
        let message = format!("Attempting to reclaim {}", resource.name());
        self.tell("EvictionThresholdMet", message);
        if matches!(resource, Resource::EphemeralStorage | Resource::Inodes) {
            self.remove_images(i64::MAX, Duration::ZERO).await;
            if !decide::is_short(&self.config.thresholds, &self.parts.sense.sense()) {
                info!("removing images was enough");
                return false;
            }
        }
        let pods = self.parts.pods.active();
        let counts_files = matches!(resource, Resource::EphemeralStorage | Resource::Inodes);
        let mut candidates = self.measure(&pods, counts_files).await;
        rank(&mut candidates, resource);
        let grace = match passed.threshold.grace {
            None => IMMEDIATE,
            Some(_) => self.config.max_pod_grace,
        };
        for candidate in &candidates {
            let message = rank::message(candidate, passed);
            if self.end(candidate.pod, message, grace, true).await {
                return true;
            }
        }
        warn!("there is no pod that could go");
        false
    }

    async fn measure<'a>(&self, pods: &'a [Arc<Pod>], counts_files: bool) -> Vec<Candidate<'a>> {
        let places =
            Places { root_dir: self.config.root_dir.clone(), log_dir: self.config.log_dir.clone() };
        measure::measure(&self.parts.runtime, &places, pods, &move |_| counts_files).await
    }

    /// Ends a pod for good, and waits until it is gone; false for one that nobody may end.
    async fn end(&self, pod: &Pod, message: String, grace: Duration, disruption: bool) -> bool {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if is_critical(pod) {
            warn!(pod = name, "a critical pod is not evicted");
            return false;
        }
        let Some(uid) = pod.metadata.uid.as_deref() else { return false };
        info!(pod = name, message, "evicting a pod");
        let failure = PodFailure {
            reason: "Evicted".to_owned(),
            message,
            grace: Some(grace),
            disruption: disruption.then(|| "TerminationByKubelet".to_owned()),
        };
        if !self.parts.pods.fail(uid, failure) {
            return false;
        }
        let patience = grace + CLEANUP_PATIENCE;
        if tokio::time::timeout(patience, self.parts.pods.released(uid)).await.is_err() {
            warn!(pod = name, "an evicted pod is not gone yet");
        }
        true
    }

    /// Removes images when the disk fills, and what belongs to none.
    async fn collect_images(&self, seen: &Observations) {
        let in_use = self.in_use().await;
        let used: Vec<String> = match self.parts.images.inventory().await {
            Ok(images) => images
                .into_iter()
                .filter(|stored| in_use.has(stored))
                .map(|stored| stored.image.id)
                .collect(),
            Err(error) => return complain(&error),
        };
        if let Err(error) = self.parts.images.mark_used(&used).await {
            complain(&error);
        }
        if let Err(error) = self.parts.images.sweep().await {
            complain(&error);
        }
        let Some(level) = seen.get(&threshold::Signal::ImagefsAvailable) else { return };
        let gc = self.config.image_gc;
        let Some(wanted) = gc.excess(level.available, level.capacity) else { return };
        let freed = self.remove_images(wanted, gc.minimum_age).await;
        if freed < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} \
                 bytes, but only found {freed} bytes eligible to free."
            );
            warn!("{message}");
            self.tell("FreeDiskSpaceFailed", message);
        }
    }

    /// Removes images until so many bytes are free; how many are.
    async fn remove_images(&self, wanted: i64, minimum_age: Duration) -> i64 {
        let images = match self.parts.images.inventory().await {
            Ok(images) => images,
            Err(error) => {
                complain(&error);
                return 0;
            }
        };
        let in_use = self.in_use().await;
        let now = SystemTime::from(self.clock.now());
        let mut freed: i64 = 0;
        for stored in images::removable(&images, &in_use, minimum_age, now) {
            if freed >= wanted {
                break;
            }
            match self.parts.images.remove(&stored.image.id).await {
                Ok(bytes) => {
                    info!(image = stored.image.id, names = ?stored.image.tags, bytes, "removed an image");
                    freed = freed.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
                }
                Err(error) => complain(&error),
            }
        }
        freed
    }

    async fn in_use(&self) -> InUse {
        let pods = self.parts.pods.active();
        let sandboxes = self.parts.runtime.list().await.unwrap_or_default();
        let ids: HashSet<String> = sandboxes
            .iter()
            .flat_map(|sandbox| &sandbox.containers)
            .filter_map(AttemptLabels::of)
            .flat_map(|labels| {
                std::iter::once(labels.image_id).chain(labels.volume_images.into_values())
            })
            .collect();
        InUse::new(ids, pods.iter().map(|pod| &**pod))
    }

    /// Tells people about the node.
    fn tell(&self, reason: &str, message: String) {
        self.parts.reporter.event(node_event(&self.config.node_name, "Warning", reason, message));
    }
}

/// An event about the node itself.
pub(crate) fn node_event(node: &str, kind: &str, reason: &str, message: String) -> Event {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    Event {
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        involved_object: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        },
        message: Some(message),
        metadata: ObjectMeta { namespace: Some("default".to_owned()), ..ObjectMeta::default() },
        reason: Some(reason.to_owned()),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        source: Some(EventSource {
            component: Some("kubelet".to_owned()),
            host: Some(node.to_owned()),
        }),
        type_: Some(kind.to_owned()),
        ..Event::default()
    }
}

fn complain(error: &ImageError) {
    warn!(error = %crate::join::Chain(error), "cannot look after the images");
}
