//! Sees to it that the node does not run out of memory, disk or process ids.
//!
//! ```text
//! sense ──> decide ──> conditions ──> node status, admission
//!   ▲          └─> act: images that nobody uses go
//!   └── every ten seconds, and when the kernel says that programs wait for memory
//! ```
//!
//! [`decide`] and [`images`] decide; what is here looks, and removes images.

mod decide;
mod images;
mod sense;
#[cfg(test)]
mod tests;
pub mod threshold;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use proto::k8s::api::core::v1::{Event, EventSource, ObjectReference};
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
pub use self::sense::{MachineSense, Sense};
use self::threshold::{Condition, Resource, Threshold};
use crate::node_status::Health;
use crate::pods::{AttemptLabels, PodManager};
use crate::reporter::Reporter;

/// What the node says of itself.
pub type Conditions = BTreeSet<Condition>;

/// How a node is kept from running out of things.
#[derive(Clone, Debug)]
pub struct PressureConfig {
    /// `spec.nodeName` of its pods.
    pub node_name: String,
    /// When the node is short of something.
    pub thresholds: Vec<Threshold>,
    /// For so long a condition stays after it was last seen.
    pub transition: Duration,
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
/// Keeps the node from running out of things.
pub struct PressureManager {
    config: PressureConfig,
    parts: PressureParts,
    memory: Memory,
    images_due: Instant,
}

impl PressureManager {
    /// Nothing happens before [`run`](Self::run).
    pub fn new(config: PressureConfig, parts: PressureParts) -> Self {
        let now = Instant::now();
        Self {
            config,
            parts,
            memory: Memory::default(),
            // What was left by a kubelet that was killed goes at once.
            images_due: now,
        }
    }

    /// Looks and acts until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let stalls = MemoryStalls::listen();
        let _ = shutdown.run_until_cancelled(self.look_on_and_on(&stalls)).await;
    }

    async fn look_on_and_on(&mut self, stalls: &MemoryStalls) {
        loop {
            let next = self.look(Timestamp::now()).await;
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
        if let Some(passed) = decision.act {
            self.relieve(&passed).await;
        }
        let until = decision.look_at.map(|at| at.duration_since(now).unsigned_abs());
        until.map_or(INTERVAL, |until| until.clamp(MIN_INTERVAL, INTERVAL))
    }

    /// Does something about a threshold that is passed.
    async fn relieve(&self, passed: &Passed) {
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
            }
        }
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
        let mut freed: i64 = 0;
        for stored in images::removable(&images, &in_use, minimum_age, SystemTime::now()) {
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
        let pods = self.parts.pods.pods();
        let sandboxes = self.parts.runtime.list().await.unwrap_or_default();
        let ids: HashSet<String> = sandboxes
            .iter()
            .flat_map(|sandbox| &sandbox.containers)
            .filter_map(|container| Some(AttemptLabels::of(container)?.image_id))
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
