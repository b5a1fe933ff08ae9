//! What several tests of pods need: a node of fakes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::ObjectKey;
use proto::k8s::api::core::v1::{ContainerStatus, Pod, PodStatus};
use runtime::image::{Image, ImageConfig, ImageError, ImageService, RegistryAuth};
use runtime::{ContainerId, FakeRuntime, SandboxId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::{DEFAULT_POD_MAX_PIDS, PodManager, PodsConfig, PodsDependencies};
use crate::network::{Attachment, NetworkError, PodNetwork};
use crate::node_status::Health;
use crate::reporter::Reporter;
use crate::state::{Change, ClusterState, StateHandle};
use crate::tokens::{TokenIssuer, TokenRequest};

/// A node's configuration whose folders do not exist.
pub(crate) fn config() -> PodsConfig {
    PodsConfig {
        root_dir: PathBuf::from("/nonexistent/root"),
        log_dir: PathBuf::from("/nonexistent/logs"),
        cgroup_root: "/kutter".to_owned(),
        node_name: "node-1".to_owned(),
        node_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        memory_capacity_bytes: 4 << 30,
        max_pods: 110,
        pod_max_pids: DEFAULT_POD_MAX_PIDS,
        page_sizes: Vec::new(),
        own_users: false,
        no_app_armor: None,
        no_selinux: None,
    }
}

/// A node whose runtime, images and network are fakes, and whose time is tokio's.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) runtime: FakeRuntime,
    pub(crate) images: FakeImages,
    pub(crate) network: FakeNetwork,
    pub(crate) tokens: FakeTokens,
    pub(crate) state: StateHandle,
    pub(crate) reporter: Reporter,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) clock: Clock,
    began: tokio::time::Instant,
    running: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
    pub(crate) manager: Arc<PodManager>,
}

impl Bench {
    /// A node that knows no pods yet, confirmed by its master.
    pub(crate) fn new() -> Self {
        let bench = Self::unconfirmed();
        bench.confirm();
        bench
    }

    /// A node that has heard nothing yet.
    pub(crate) fn unconfirmed() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (runtime, images) = (FakeRuntime::new(), FakeImages::default());
        let (network, state) = (FakeNetwork::default(), StateHandle::default());
        // One clock for all of them: when a container ended, the runtime says.
        let (reporter, clock) = (Reporter::default(), Clock::tokio(runtime.now()));
        let tokens = FakeTokens::new(clock.clone());
        let health = watch::Sender::new(Health::default());
        let dependencies = PodsDependencies {
            state: state.clone(),
            runtime: Arc::new(runtime.clone()),
            images: Arc::new(images.clone()),
            network: Arc::new(network.clone()),
            reporter: reporter.clone(),
            tokens: Arc::new(tokens.clone()),
            health: health.subscribe(),
        };
        let config = config_in(folder.path());
        let manager = PodManager::with_clock(config, dependencies, clock.clone());
        Self {
            folder,
            runtime,
            images,
            network,
            tokens,
            state,
            reporter,
            health,
            clock,
            began: tokio::time::Instant::now(),
            running: None,
            manager,
        }
    }

    /// A master's snapshot of what is there.
    pub(crate) fn confirm(&self) {
        self.state.write([Change::Everything], |cluster| cluster.confirmed = true);
    }

    pub(crate) fn start(&mut self) {
        let shutdown = CancellationToken::new();
        let manager = Arc::clone(&self.manager);
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { manager.run(stop).await.unwrap() });
        self.running = Some((shutdown, task));
    }

    /// The kubelet ends, and its successor has another manager and an empty outbox.
    pub(crate) async fn end_kubelet(&mut self) {
        if let Some((shutdown, task)) = self.running.take() {
            shutdown.cancel();
            task.await.unwrap();
        }
        self.reporter = Reporter::default();
        let dependencies = PodsDependencies {
            state: self.state.clone(),
            runtime: Arc::new(self.runtime.clone()),
            images: Arc::new(self.images.clone()),
            network: Arc::new(self.network.clone()),
            reporter: self.reporter.clone(),
            tokens: Arc::new(self.tokens.clone()),
            health: self.health.subscribe(),
        };
        let config = config_in(self.folder.path());
        self.manager = PodManager::with_clock(config, dependencies, self.clock.clone());
    }

    pub(crate) fn put(&self, pod: Pod) {
        let key = key_of(&pod);
        self.change(Change::Pod(key.clone()), |cluster| {
            cluster.pods.insert(key, Arc::new(pod));
        });
    }

    pub(crate) fn put_node(&self, node: proto::k8s::api::core::v1::Node) {
        self.change(Change::Node, |cluster| cluster.node = Some(Arc::new(node)));
    }

    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Pod)) {
        let key = ObjectKey::new("shop", name);
        self.change(Change::Pod(key.clone()), |cluster| {
            edit(Arc::make_mut(cluster.pods.get_mut(&key).unwrap()));
        });
    }

    pub(crate) fn remove(&self, name: &str) {
        let key = ObjectKey::new("shop", name);
        self.change(Change::Pod(key.clone()), |cluster| {
            cluster.pods.remove(&key);
        });
    }

    /// As a DELETE of the API does for a pod that is bound.
    pub(crate) fn delete(&self, name: &str, grace_seconds: i64) {
        self.edit(name, |pod| {
            let now = proto::k8s::apimachinery::pkg::apis::meta::v1::Time(self.clock.now());
            pod.metadata.deletion_timestamp = Some(now);
            pod.metadata.deletion_grace_period_seconds = Some(grace_seconds);
        });
    }

    pub(crate) fn put_config_map(&self, name: &str, data: &[(&str, &str)]) {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let map = proto::k8s::api::core::v1::ConfigMap { data: Some(data), ..Default::default() };
        let key = ObjectKey::new("shop", name);
        self.change(Change::ConfigMap(key.clone()), |cluster| {
            cluster.config_maps.insert(key, Arc::new(map));
        });
    }

    /// A file of a pod's volume.
    pub(crate) fn file(&self, uid: &str, path: &str) -> Option<String> {
        let pods = self.folder.path().join("root/pods");
        std::fs::read_to_string(pods.join(uid).join("volumes").join(path)).ok()
    }

    fn change(&self, change: Change, edit: impl FnOnce(&mut ClusterState)) {
        self.state.write([change], edit);
    }

    /// Seconds since the bench was made.
    pub(crate) fn seconds(&self) -> u64 {
        // What the worker does itself takes no time but the milliseconds of a poll.
        self.began.elapsed().as_secs()
    }

    /// The newest status reported of the pod.
    pub(crate) fn status(&self, uid: &str) -> Option<PodStatus> {
        self.reporter.with(|outbox| outbox.pods.get(uid)?.status.clone())
    }

    pub(crate) fn is_reported_removed(&self, uid: &str) -> bool {
        let report = self.reporter.with(|outbox| outbox.pods.get(uid).cloned());
        report.is_some_and(|report| report.status.is_none())
    }

    /// Reasons of all events, in order.
    pub(crate) fn event_reasons(&self) -> Vec<String> {
        self.reporter.with(|outbox| outbox.events.iter().filter_map(|e| e.reason.clone()).collect())
    }

    /// What the events of a reason say.
    pub(crate) fn event_messages(&self, reason: &str) -> Vec<String> {
        self.reporter.with(|outbox| {
            let events = outbox.events.iter().filter(|e| e.reason.as_deref() == Some(reason));
            events.filter_map(|e| e.message.clone()).collect()
        })
    }

    /// Waits until the condition holds; time passes meanwhile.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        for _ in 0..200_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let pods = self.reporter.with(|outbox| format!("{:#?}", outbox.pods));
        panic!("it never came to pass: {what}\n{pods}\n{:?}", self.event_reasons());
    }

    pub(crate) async fn until_phase(&self, uid: &str, phase: &str) {
        let what = format!("{uid} is {phase}");
        self.until(&what, || self.status(uid).is_some_and(|s| s.phase.as_deref() == Some(phase)))
            .await;
    }

    pub(crate) async fn until_started(&self, count: usize) {
        let what = format!("{count} containers were started");
        self.until(&what, || self.started().len() >= count).await;
    }

    /// Ids of all containers that were ever started, in order.
    pub(crate) fn started(&self) -> Vec<String> {
        self.runtime.started().into_iter().map(|(_, config)| config.id.0).collect()
    }

    pub(crate) fn exit(&self, uid: &str, container: &str, code: i32) {
        let ended =
            self.runtime.exit(&SandboxId(uid.to_owned()), &ContainerId(container.to_owned()), code);
        assert!(ended, "{container} does not run");
    }
}

fn config_in(folder: &Path) -> PodsConfig {
    PodsConfig { root_dir: folder.join("root"), log_dir: folder.join("logs"), ..config() }
}

/// A pod `name` in the namespace `shop`, with a uid of that name, and this specification.
pub(crate) fn pod(name: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
        "spec": spec,
    }))
    .unwrap()
}

/// One container `main`, with these changes.
pub(crate) fn one_container(changes: Value) -> Value {
    let mut container = json!({"name": "main", "image": "app:1", "command": ["/app"]});
    for (key, value) in changes.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"containers": [container], "restartPolicy": "Always"})
}

fn key_of(pod: &Pod) -> ObjectKey {
    ObjectKey::new(pod.metadata.namespace.clone().unwrap(), pod.metadata.name.clone().unwrap())
}

pub(crate) fn container_status<'a>(status: &'a PodStatus, name: &str) -> &'a ContainerStatus {
    status.container_statuses.as_ref().unwrap().iter().find(|c| c.name == name).unwrap()
}

pub(crate) fn waiting_reason(status: &PodStatus) -> Option<String> {
    container_status(status, "main").state.as_ref()?.waiting.as_ref()?.reason.clone()
}

/// Every image is present, but those that are said not to be.
#[derive(Clone, Default)]
pub(crate) struct FakeImages {
    absent: Arc<Mutex<HashMap<String, Result<(), String>>>>,
    pulls: Arc<Mutex<Vec<(String, tokio::time::Instant)>>>,
    closed: Arc<Mutex<Option<String>>>,
}

impl FakeImages {
    /// The image has to be pulled, and can be.
    pub(crate) fn make_absent(&self, image: &str) {
        self.absent.lock().unwrap().insert(image.to_owned(), Ok(()));
    }

    /// The image has to be pulled, and cannot be.
    pub(crate) fn make_unpullable(&self, image: &str, reason: &str) {
        self.absent.lock().unwrap().insert(image.to_owned(), Err(reason.to_owned()));
    }

    /// The image is there, for others.
    pub(crate) fn close(&self, image: &str) {
        *self.closed.lock().unwrap() = Some(image.to_owned());
    }

    /// Seconds between pulls.
    pub(crate) fn intervals(&self) -> Vec<u64> {
        let pulls = self.pulls.lock().unwrap();
        pulls.windows(2).map(|two| (two[1].1 - two[0].1).as_secs()).collect()
    }

    pub(crate) fn pulls(&self) -> usize {
        self.pulls.lock().unwrap().len()
    }
}

fn image() -> Image {
    Image {
        id: "sha256:1".to_owned(),
        repo_digests: vec!["app@sha256:1".to_owned()],
        tags: vec!["app:1".to_owned()],
        layers: Vec::new(),
        size_bytes: 7,
        config: ImageConfig::default(),
    }
}

#[async_trait::async_trait]
impl ImageService for FakeImages {
    async fn lookup(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        Ok((!self.absent.lock().unwrap().contains_key(reference)).then(image))
    }

    async fn is_open_to(
        &self,
        reference: &str,
        _auth: &[RegistryAuth],
    ) -> Result<bool, ImageError> {
        Ok(self.closed.lock().unwrap().as_deref() != Some(reference))
    }

    async fn pull(&self, reference: &str, _auth: &[RegistryAuth]) -> Result<Image, ImageError> {
        self.pulls.lock().unwrap().push((reference.to_owned(), tokio::time::Instant::now()));
        let found = self.absent.lock().unwrap().get(reference).cloned();
        match found {
            Some(Err(reason)) => Err(ImageError::Pull { reference: reference.to_owned(), reason }),
            _ => {
                self.absent.lock().unwrap().remove(reference);
                Ok(image())
            }
        }
    }
}

/// Gives addresses out in order.
#[derive(Clone, Default)]
pub(crate) struct FakeNetwork {
    addresses: Arc<Mutex<HashMap<String, IpAddr>>>,
    given: Arc<Mutex<u8>>,
}

impl FakeNetwork {
    pub(crate) fn attached(&self) -> Vec<String> {
        let mut attached: Vec<String> = self.addresses.lock().unwrap().keys().cloned().collect();
        attached.sort();
        attached
    }
}

#[async_trait::async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, attachment: &Attachment<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        let mut addresses = self.addresses.lock().unwrap();
        let address = *addresses.entry(attachment.pod_uid.to_owned()).or_insert_with(|| {
            let mut given = self.given.lock().unwrap();
            *given += 1;
            IpAddr::V4(Ipv4Addr::new(10, 244, 0, *given))
        });
        Ok(vec![address])
    }

    async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        self.addresses.lock().unwrap().remove(pod_uid);
        Ok(())
    }

    async fn retain(&self, alive: &[String]) -> Result<(), NetworkError> {
        self.addresses.lock().unwrap().retain(|uid, _| alive.contains(uid));
        Ok(())
    }
}

/// Issues tokens that say when they were issued, by the time of a paused clock, and who wanted them.
#[derive(Clone)]
pub(crate) struct FakeTokens {
    clock: Clock,
    /// Why there are none.
    pub(crate) failure: Arc<Mutex<Option<String>>>,
    pub(crate) issued: Arc<Mutex<Vec<TokenRequest>>>,
}

impl FakeTokens {
    fn new(clock: Clock) -> Self {
        Self { clock, failure: Arc::default(), issued: Arc::default() }
    }
}

#[async_trait::async_trait]
impl TokenIssuer for FakeTokens {
    async fn issue(&self, request: TokenRequest) -> Result<String, String> {
        use base64::Engine as _;
        if let Some(failure) = &*self.failure.lock().unwrap() {
            return Err(failure.clone());
        }
        let now = self.clock.now().as_second();
        let mut issued = self.issued.lock().unwrap();
        let claims = serde_json::json!({
            "iat": now, "exp": now + request.expiration_seconds, "jti": issued.len()
        });
        issued.push(request);
        let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
        Ok(format!("head.{claims}.signature"))
    }
}
