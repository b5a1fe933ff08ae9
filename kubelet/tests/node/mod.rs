//! What the tests of pods with real containers share: a node without a master.
//!
//! The network is left out; the image is busybox, laid out in a folder.

#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kubelet::network::{Attachment, NetworkError, PodNetwork};
use kubelet::pods::{DEFAULT_POD_MAX_PIDS, PodManager, PodsConfig, PodsDependencies};
use kubelet::reporter::Reporter;
use kubelet::state::{Change, StateHandle};
use kubelet::streams::{ContainerTarget, LogOptions, PodStreams};
use kubelet::tokens::{TokenIssuer, TokenRequest};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{ContainerStatus, Pod, PodStatus};
use runtime::image::{Image, ImageConfig, ImageError, ImageService, RegistryAuth};
use runtime::{ContainerRuntime, ExecConfig, ShimRuntime, ShimRuntimeConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here takes a second; a loaded machine is forgiven much.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing, having said so, where real containers cannot be had.
pub fn shim() -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: starting containers takes root");
        return None;
    }
    // `target/<profile>/deps/pods-…` → `target/<profile>/shim`, which belongs to another member.
    let shim = std::env::current_exe().unwrap().parent()?.parent()?.join("shim");
    if !shim.exists() {
        eprintln!("left out: {} is not built", shim.display());
        return None;
    }
    Some(shim)
}

pub struct Node {
    pub folder: TempDir,
    pub runtime: Arc<ShimRuntime>,
    pub runtime_config: ShimRuntimeConfig,
    pub state: StateHandle,
    pub reporter: Reporter,
    pub manager: Arc<PodManager>,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Node {
    pub async fn start(shim: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        lay_out_busybox(&folder.path().join("layer"));
        let runtime_config = ShimRuntimeConfig {
            state_dir: folder.path().join("run"),
            data_dir: folder.path().join("data"),
            shim_path: Some(shim),
            cgroup_root: format!("/kutter-pods-test-{}", std::process::id()),
            user_ids: runtime::DEFAULT_USER_IDS,
        };
        let state = StateHandle::default();
        state.write([Change::Everything], |cluster| cluster.confirmed = true);
        Self::open(folder, runtime_config, state).await
    }

    async fn open(folder: TempDir, runtime_config: ShimRuntimeConfig, state: StateHandle) -> Self {
        let runtime = Arc::new(ShimRuntime::open(runtime_config.clone()).await.unwrap());
        let reporter = Reporter::default();
        let config = PodsConfig {
            root_dir: folder.path().join("root"),
            log_dir: folder.path().join("logs"),
            cgroup_root: runtime_config.cgroup_root.clone(),
            node_name: "node-1".to_owned(),
            node_addresses: vec!["192.0.2.1".parse().unwrap()],
            memory_capacity_bytes: 4 << 30,
            max_pods: 110,
            pod_max_pids: DEFAULT_POD_MAX_PIDS,
            page_sizes: vec![2 << 20],
            // As the kubelet finds out when it starts.
            own_users: runtime.own_users().is_ok(),
            no_app_armor: None,
            no_selinux: None,
        };
        let dependencies = PodsDependencies {
            state: state.clone(),
            runtime: runtime.clone(),
            images: Arc::new(Busybox(folder.path().join("layer"))),
            network: Arc::new(NoNetwork),
            reporter: reporter.clone(),
            tokens: Arc::new(NoTokens),
            health: tokio::sync::watch::channel(kubelet::node_status::Health::default()).1,
        };
        let manager = PodManager::new(config, dependencies);
        let shutdown = CancellationToken::new();
        let (running, stop) = (manager.clone(), shutdown.clone());
        let task = tokio::spawn(async move { running.run(stop).await.unwrap() });
        Self { folder, runtime, runtime_config, state, reporter, manager, shutdown, task }
    }

    /// The kubelet ends and another one takes over.
    pub async fn restart(self) -> Self {
        self.shutdown.cancel();
        self.task.await.unwrap();
        drop(self.manager);
        drop(self.runtime);
        Self::open(self.folder, self.runtime_config, self.state).await
    }

    pub fn put(&self, name: &str, spec: Value) {
        let key = ObjectKey::new("shop", name);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
            "spec": spec
        }))
        .unwrap();
        self.state.write([Change::Pod(key.clone())], |cluster| {
            cluster.pods.insert(key, Arc::new(pod));
        });
    }

    /// Somebody changes the labels of a pod.
    pub fn label(&self, name: &str, labels: &[(&str, &str)]) {
        let key = ObjectKey::new("shop", name);
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.state.write([Change::Pod(key.clone())], |cluster| {
            let pod = Arc::make_mut(cluster.pods.get_mut(&key).unwrap());
            pod.metadata.labels = Some(labels);
        });
    }

    /// As a DELETE of the API does, with so many seconds for the containers.
    pub fn delete(&self, name: &str, grace_seconds: i64) {
        let key = ObjectKey::new("shop", name);
        self.state.write([Change::Pod(key.clone())], |cluster| {
            let pod = Arc::make_mut(cluster.pods.get_mut(&key).unwrap());
            let object: Pod = serde_json::from_value(json!({"metadata": {
                "deletionTimestamp": "2026-11-23T15:00:00Z"
            }}))
            .unwrap();
            pod.metadata.deletion_timestamp = object.metadata.deletion_timestamp;
            pod.metadata.deletion_grace_period_seconds = Some(grace_seconds);
        });
    }

    pub fn status(&self, name: &str) -> Option<PodStatus> {
        let uid = format!("uid-{name}");
        self.reporter.with(|outbox| outbox.pods.get(&uid)?.status.clone())
    }

    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let seen = self.reporter.with(|outbox| {
                let events = outbox.events.iter().filter_map(|e| e.message.clone());
                format!("{:#?}\n{:#?}", outbox.pods, events.collect::<Vec<_>>())
            });
            panic!("it never came to pass: {what}\n{seen}");
        }
    }

    pub async fn until_phase(&self, name: &str, phase: &str) -> ContainerStatus {
        let reached =
            || self.status(name).is_some_and(|status| status.phase.as_deref() == Some(phase));
        self.until(&format!("{name} is {phase}"), reached).await;
        self.status(name).unwrap().container_statuses.unwrap().remove(0)
    }

    pub fn target(&self, name: &str) -> ContainerTarget {
        ContainerTarget {
            pod: ObjectKey::new("shop", name),
            pod_uid: format!("uid-{name}"),
            container: "main".to_owned(),
        }
    }

    pub async fn logs(&self, name: &str, options: LogOptions) -> String {
        let stream = self.manager.logs(&self.target(name), options).await.unwrap();
        let chunks: Vec<_> = stream.collect().await;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.unwrap()).collect();
        String::from_utf8(bytes).unwrap()
    }

    pub async fn exec(&self, name: &str, script: &str) -> (String, i32) {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let config = ExecConfig { command, stdin: false, tty: false };
        let mut session = self.manager.exec(&self.target(name), &config).await.unwrap();
        let mut output = String::new();
        session.stdout.read_to_string(&mut output).await.unwrap();
        (output, session.exit.await.unwrap().unwrap())
    }

    /// Nothing is left of any pod.
    pub async fn finish(self) {
        let root = self.folder.path().join("root/pods");
        self.until("all folders are gone", || fs::read_dir(&root).unwrap().next().is_none()).await;
        assert!(self.runtime.list().await.unwrap().is_empty());
        let logs = self.folder.path().join("logs");
        assert!(fs::read_dir(logs).map_or(0, Iterator::count) == 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.folder.path().to_str().unwrap()), "{mounts}");
        self.shutdown.cancel();
        self.task.await.unwrap();
        self.runtime.shutdown_all().await.unwrap();
        assert_eq!(cgroups(&self.runtime_config.cgroup_root), Vec::<PathBuf>::new());
    }

    pub async fn remove(&self, name: &str) {
        self.remove_within(name, 30).await;
    }

    /// Deletes the pod, and waits until the node says that nothing is left.
    pub async fn remove_within(&self, name: &str, grace_seconds: i64) {
        self.delete(name, grace_seconds);
        let uid = format!("uid-{name}");
        let reported = || {
            let report = self.reporter.with(|outbox| outbox.pods.get(&uid).cloned());
            report.is_some_and(|report| report.status.is_none())
        };
        self.until("the removal is reported", reported).await;
        let key = ObjectKey::new("shop", name);
        self.state.write([Change::Pod(key.clone())], |cluster| {
            cluster.pods.remove(&key);
        });
    }
}

/// Where a group is still to be found.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).unwrap().flatten().map(|entry| entry.path());
    let tops = hierarchies.chain([top.to_owned()]);
    tops.map(|top| top.join(name.trim_start_matches('/'))).filter(|path| path.exists()).collect()
}

/// A pod whose one container runs a shell script.
pub fn script(script: &str, changes: Value) -> Value {
    let mut container = json!({
        "name": "main", "image": "busybox:1", "command": ["sh", "-c", script]
    });
    for (key, value) in changes.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"containers": [container], "restartPolicy": "Always"})
}

/// One image, present under every name.
struct Busybox(PathBuf);

#[async_trait::async_trait]
impl ImageService for Busybox {
    async fn lookup(&self, _reference: &str) -> Result<Option<Image>, ImageError> {
        let image = Image {
            id: "sha256:b".to_owned(),
            repo_digests: Vec::new(),
            tags: vec!["busybox:1".to_owned()],
            layers: vec![self.0.clone()],
            size_bytes: 1,
            config: ImageConfig::default(),
        };
        Ok(Some(image))
    }

    async fn is_open_to(
        &self,
        _reference: &str,
        _auth: &[RegistryAuth],
    ) -> Result<bool, ImageError> {
        Ok(true)
    }

    async fn pull(&self, reference: &str, _auth: &[RegistryAuth]) -> Result<Image, ImageError> {
        Err(ImageError::Pull { reference: reference.to_owned(), reason: "no registry".to_owned() })
    }
}

/// Tokens of nobody, good for ever.
struct NoTokens;

#[async_trait::async_trait]
impl TokenIssuer for NoTokens {
    async fn issue(&self, request: TokenRequest) -> Result<String, String> {
        Ok(format!("token-of-{}-for-{}", request.pod.name, request.audience))
    }
}

/// Pods that cannot be reached.
struct NoNetwork;

#[async_trait::async_trait]
impl PodNetwork for NoNetwork {
    async fn attach(&self, _attachment: &Attachment<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        Ok(vec!["192.0.2.7".parse().unwrap()])
    }

    async fn detach(&self, _pod_uid: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn retain(&self, _alive: &[String]) -> Result<(), NetworkError> {
        Ok(())
    }
}

fn lay_out_busybox(layer: &Path) {
    for folder in ["bin", "etc", "root", "tmp"] {
        fs::create_dir_all(layer.join(folder)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
        .expect("busybox (Debian's busybox-static) is installed");
    fs::copy(busybox, layer.join("bin/busybox")).unwrap();
    let applets = [
        "cat",
        "dd",
        "echo",
        "fallocate",
        "grep",
        "hostname",
        "id",
        "rm",
        "sh",
        "sleep",
        "test",
        "touch",
    ];
    for applet in applets {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    fs::set_permissions(layer.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .unwrap();
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n";
    fs::write(layer.join("etc/passwd"), passwd).unwrap();
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
}
