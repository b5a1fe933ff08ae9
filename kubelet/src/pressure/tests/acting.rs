//! The whole of it, on a node of fakes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::k8s::api::core::v1::PodStatus;
use runtime::image::{ImageError, ImageStorage, StoredImage};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{hard, seen, stored};
use crate::node_status::Health;
use crate::pods::test_support::{Bench, one_container, pod};
use crate::pressure::threshold::{Condition, Signal};
use crate::pressure::{
    ImageGc, Observations, PressureConfig, PressureManager, PressureParts, Sense,
};

/// Levels that a test sets.
#[derive(Default)]
struct Gauge(Mutex<Observations>);

impl Gauge {
    fn set(&self, levels: &[(Signal, i64, i64)]) {
        *self.0.lock().unwrap() = seen(levels);
    }
}

impl Sense for Gauge {
    fn sense(&self) -> Observations {
        self.0.lock().unwrap().clone()
    }
}

/// Images whose removal makes room on the disk.
struct Shelf {
    images: Mutex<Vec<StoredImage>>,
    gauge: Arc<Gauge>,
    room_made: i64,
}

#[async_trait::async_trait]
impl ImageStorage for Shelf {
    async fn inventory(&self) -> Result<Vec<StoredImage>, ImageError> {
        Ok(self.images.lock().unwrap().clone())
    }

    async fn mark_used(&self, _ids: &[String]) -> Result<(), ImageError> {
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<u64, ImageError> {
        self.images.lock().unwrap().retain(|stored| stored.image.id != id);
        if let Some(level) = self.gauge.0.lock().unwrap().get_mut(&Signal::ImagefsAvailable) {
            level.available += self.room_made;
        }
        Ok(self.room_made.unsigned_abs())
    }

    async fn sweep(&self) -> Result<u64, ImageError> {
        Ok(0)
    }
}

struct Node {
    bench: Bench,
    gauge: Arc<Gauge>,
    shelf: Arc<Shelf>,
    health: watch::Receiver<Health>,
    shutdown: CancellationToken,
}

impl Node {
    /// With two images that nobody uses, each of so many bytes.
    fn start(thresholds: &str, room_made: i64) -> Self {
        let mut bench = Bench::new();
        bench.start();
        let gauge = Arc::new(Gauge::default());
        let images = Mutex::new(vec![stored("old", 1, 1), stored("new", 1, 2)]);
        let shelf = Arc::new(Shelf { images, gauge: Arc::clone(&gauge), room_made });
        let (health, watched) = watch::channel(Health::default());
        let config = PressureConfig {
            root_dir: bench.folder.path().to_owned(),
            log_dir: bench.folder.path().join("logs"),
            node_name: "node-1".to_owned(),
            thresholds: hard(thresholds),
            transition: Duration::from_secs(300),
            max_pod_grace: Duration::ZERO,
            image_gc: ImageGc { high_percent: 85, low_percent: 80, minimum_age: Duration::ZERO },
        };
        let parts = PressureParts {
            sense: Arc::clone(&gauge) as Arc<dyn Sense>,
            runtime: Arc::new(bench.runtime.clone()),
            images: Arc::clone(&shelf) as Arc<dyn ImageStorage>,
            pods: Arc::clone(&bench.manager),
            reporter: bench.reporter.clone(),
            health,
        };
        let shutdown = CancellationToken::new();
        let manager = PressureManager::with_clock(config, parts, bench.clock.clone());
        tokio::spawn(manager.run(shutdown.clone()));
        Self { bench, gauge, shelf, health: watched, shutdown }
    }

    fn put(&self, name: &str, resources: &serde_json::Value) {
        self.bench.put(pod(name, one_container(json!({"resources": resources}))));
    }

    async fn until(&self, name: &str, phase: &str) -> PodStatus {
        let uid = format!("uid-{name}");
        self.bench.until_phase(&uid, phase).await;
        self.bench.status(&uid).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn the_pod_that_uses_more_than_it_asked_for_goes_first_and_alone() {
    let node = Node::start("memory.available<100", 0);
    node.put("modest", &json!({"requests": {"memory": "2000"}}));
    node.put("greedy", &json!({}));
    node.until("modest", "Running").await;
    node.until("greedy", "Running").await;
    node.bench.runtime.use_memory(1500);
    node.gauge.set(&[(Signal::MemoryAvailable, 99, 1000)]);
    let mut health = node.health.clone();
    health.wait_for(|health| health.pressures.contains(&Condition::Memory)).await.unwrap();
    // One pod less is enough.
    node.gauge.set(&[(Signal::MemoryAvailable, 900, 1000)]);
    let status = node.until("greedy", "Failed").await;
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let message = status.message.unwrap();
    assert!(message.starts_with("The node was low on resource: memory. "), "{message}");
    assert!(message.contains("available: 99. Container main was using 1500, request is 0"));
    let conditions = status.conditions.unwrap();
    let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    assert_eq!(target.reason.as_deref(), Some("TerminationByKubelet"));
    health.wait_for(|health| health.pressures.is_empty()).await.unwrap();
    node.until("modest", "Running").await;
}

#[tokio::test(start_paused = true)]
async fn images_that_nobody_uses_go_before_pods_do() {
    let node = Node::start("imagefs.available<10%", 200);
    node.put("web", &json!({}));
    node.until("web", "Running").await;
    node.gauge.set(&[(Signal::ImagefsAvailable, 50, 1000)]);
    let mut health = node.health.clone();
    health.wait_for(|health| health.pressures.contains(&Condition::Disk)).await.unwrap();
    health.wait_for(|health| health.pressures.is_empty()).await.unwrap();
    assert!(node.shelf.images.lock().unwrap().is_empty());
    node.until("web", "Running").await;
}

#[tokio::test(start_paused = true)]
async fn the_disk_is_brought_below_the_low_mark_by_the_oldest_images() {
    let node = Node::start("", 100);
    node.gauge.set(&[(Signal::ImagefsAvailable, 150, 1000)]);
    let left = || node.shelf.images.lock().unwrap().clone();
    node.bench.until("one image is left", || left().len() == 1).await;
    assert_eq!(left()[0].image.id, "sha256:new");
    // Nothing more goes while the disk is as full as it may be.
    let began = node.bench.seconds();
    node.bench.until("some looks later", || node.bench.seconds() > began + 1000).await;
    assert_eq!(left().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_fills_more_than_its_limit_ends_its_pod() {
    let node = Node::start("", 0);
    node.put("logger", &json!({"limits": {"ephemeral-storage": "1Mi"}}));
    node.put("free", &json!({}));
    node.until("logger", "Running").await;
    node.until("free", "Running").await;
    node.bench.runtime.use_disk(2 << 20);
    let status = node.until("logger", "Failed").await;
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(
        status.message.as_deref(),
        Some("Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ")
    );
    node.until("free", "Running").await;
}
