//! Pods with real containers: what a pod says reaches its processes, and nothing of it stays.
//!
//! The network is left out; the image is busybox, laid out in a folder.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kubelet::network::{HostPort, NetworkError, PodNetwork};
use kubelet::pods::{DEFAULT_POD_MAX_PIDS, PodManager, PodsConfig, PodsDependencies};
use kubelet::reporter::Reporter;
use kubelet::state::{Change, StateHandle};
use kubelet::streams::{ContainerTarget, LogOptions, PodStreams};
use proto::ObjectKey;
use proto::k8s::api::core::v1::{ConfigMap, ContainerStatus, Pod, PodStatus, Secret};
use runtime::image::{Image, ImageConfig, ImageError, ImageService, RegistryAuth};
use runtime::{ContainerRuntime, ExecConfig, ShimRuntime, ShimRuntimeConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here takes a second; a loaded machine is forgiven much.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing, having said so, where real containers cannot be had.
fn shim() -> Option<PathBuf> {
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

struct Node {
    folder: TempDir,
    runtime: Arc<ShimRuntime>,
    runtime_config: ShimRuntimeConfig,
    state: StateHandle,
    reporter: Reporter,
    manager: Arc<PodManager>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    async fn start(shim: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        lay_out_busybox(&folder.path().join("layer"));
        let runtime_config = ShimRuntimeConfig {
            state_dir: folder.path().join("run"),
            data_dir: folder.path().join("data"),
            shim_path: Some(shim),
            cgroup_root: format!("/kutter-pods-test-{}", std::process::id()),
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
            pod_max_pids: DEFAULT_POD_MAX_PIDS,
        };
        let dependencies = PodsDependencies {
            state: state.clone(),
            runtime: runtime.clone(),
            images: Arc::new(Busybox(folder.path().join("layer"))),
            network: Arc::new(NoNetwork),
            reporter: reporter.clone(),
        };
        let manager = PodManager::new(config, dependencies);
        let shutdown = CancellationToken::new();
        let (running, stop) = (manager.clone(), shutdown.clone());
        let task = tokio::spawn(async move { running.run(stop).await.unwrap() });
        Self { folder, runtime, runtime_config, state, reporter, manager, shutdown, task }
    }

    /// The kubelet ends and another one takes over.
    async fn restart(self) -> Self {
        self.shutdown.cancel();
        self.task.await.unwrap();
        drop(self.manager);
        drop(self.runtime);
        Self::open(self.folder, self.runtime_config, self.state).await
    }

    fn put(&self, name: &str, spec: Value) {
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

    fn delete(&self, name: &str) {
        let key = ObjectKey::new("shop", name);
        self.state.write([Change::Pod(key.clone())], |cluster| {
            let pod = Arc::make_mut(cluster.pods.get_mut(&key).unwrap());
            let object: Pod = serde_json::from_value(json!({"metadata": {
                "deletionTimestamp": "2026-11-23T15:00:00Z", "deletionGracePeriodSeconds": 30
            }}))
            .unwrap();
            pod.metadata.deletion_timestamp = object.metadata.deletion_timestamp;
            pod.metadata.deletion_grace_period_seconds = Some(30);
        });
    }

    fn status(&self, name: &str) -> Option<PodStatus> {
        let uid = format!("uid-{name}");
        self.reporter.with(|outbox| outbox.pods.get(&uid)?.status.clone())
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
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

    async fn until_phase(&self, name: &str, phase: &str) -> ContainerStatus {
        let reached =
            || self.status(name).is_some_and(|status| status.phase.as_deref() == Some(phase));
        self.until(&format!("{name} is {phase}"), reached).await;
        self.status(name).unwrap().container_statuses.unwrap().remove(0)
    }

    fn target(&self, name: &str) -> ContainerTarget {
        ContainerTarget {
            pod: ObjectKey::new("shop", name),
            pod_uid: format!("uid-{name}"),
            container: "main".to_owned(),
        }
    }

    async fn logs(&self, name: &str, options: LogOptions) -> String {
        let stream = self.manager.logs(&self.target(name), options).await.unwrap();
        let chunks: Vec<_> = stream.collect().await;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.unwrap()).collect();
        String::from_utf8(bytes).unwrap()
    }

    async fn exec(&self, name: &str, script: &str) -> (String, i32) {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let config = ExecConfig { command, stdin: false, tty: false };
        let mut session = self.manager.exec(&self.target(name), &config).await.unwrap();
        let mut output = String::new();
        session.stdout.read_to_string(&mut output).await.unwrap();
        (output, session.exit.await.unwrap().unwrap())
    }

    /// Nothing is left of any pod.
    async fn finish(self) {
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

    async fn remove(&self, name: &str) {
        self.delete(name);
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
fn script(script: &str, changes: Value) -> Value {
    let mut container = json!({
        "name": "main", "image": "busybox:1", "command": ["sh", "-c", script]
    });
    for (key, value) in changes.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"containers": [container], "restartPolicy": "Always"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pod_says_reaches_its_processes() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let map: ConfigMap = serde_json::from_value(json!({"data": {"mode": "fast"}})).unwrap();
    // "s3cret"
    let secret: Secret = serde_json::from_value(json!({"data": {"key": "czNjcmV0"}})).unwrap();
    let key = |name| ObjectKey::new("shop", name);
    node.state.write([], |cluster| {
        cluster.config_maps.insert(key("settings"), Arc::new(map));
        cluster.secrets.insert(key("keys"), Arc::new(secret));
    });
    let mut spec = script(
        "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done",
        json!({
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}},
                {"name": "BOTH", "value": "$(IP)-$(KEY)-$$(IP)"}
            ],
            "volumeMounts": [
                {"name": "cfg", "mountPath": "/cfg"},
                {"name": "keys", "mountPath": "/keys"},
                {"name": "data", "mountPath": "/data"},
                {"name": "memory", "mountPath": "/memory"}
            ],
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "readinessProbe": {"exec": {"command": ["test", "-e", "/data/ready"]}, "periodSeconds": 1},
            "securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": false}
        }),
    );
    spec["volumes"] = json!([
        {"name": "cfg", "configMap": {"name": "settings"}},
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "data", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    ]);
    let began = Instant::now();
    node.put("web", spec);
    let status = node.until_phase("web", "Running").await;
    eprintln!("running after {:?}", began.elapsed());
    assert!(!status.ready);

    let cases = [
        ("echo $BOTH", "192.0.2.7-s3cret-$(IP)\n"),
        ("cat /cfg/mode", "fast"),
        ("cat /keys/key", "s3cret"),
        ("hostname; cat /etc/hostname", "web\nweb\n"),
        ("grep -c 192.0.2.7.web /etc/hosts", "1\n"),
        ("id -u; id -g", "1000\n1000\n"),
        ("grep -c NoNewPrivs:.1 /proc/self/status", "1\n"),
        ("touch /cfg/x 2>/dev/null || echo refused", "refused\n"),
        ("touch /data/x /memory/x && echo written", "written\n"),
        ("dd if=/dev/zero of=/memory/big bs=1M count=2 2>/dev/null || echo full", "full\n"),
        ("rm /memory/big; touch /data/ready", ""),
    ];
    for (command, expected) in cases {
        let (output, _) = node.exec("web", command).await;
        assert_eq!(output, expected, "{command}");
    }
    node.until("it is ready", || {
        node.status("web").is_some_and(|status| status.container_statuses.unwrap()[0].ready)
    })
    .await;
    assert_eq!(node.logs("web", LogOptions::default()).await, "up\n");

    // A change of the map reaches the running container.
    let map: ConfigMap = serde_json::from_value(json!({"data": {"mode": "slow"}})).unwrap();
    node.state.write([Change::ConfigMap(key("settings"))], |cluster| {
        cluster.config_maps.insert(key("settings"), Arc::new(map));
    });
    let file = node.folder.path().join("root/pods/uid-web/volumes/cfg/mode");
    node.until("the map is updated", || fs::read_to_string(&file).unwrap() == "slow").await;
    assert_eq!(node.exec("web", "cat /cfg/mode").await.0, "slow");

    node.remove("web").await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_goes_on_while_no_kubelet_is_there() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    node.put("stays", script("trap 'exit 0' TERM; while :; do sleep 0.1; done", json!({})));
    node.put(
        "ends",
        script(
            "trap 'exit 0' TERM; while ! test -e /tmp/go; do sleep 0.05; done; exit 42",
            json!({}),
        ),
    );
    node.until_phase("stays", "Running").await;
    node.until_phase("ends", "Running").await;
    let pid = |sandboxes: Vec<runtime::SandboxState>| {
        let found = sandboxes.into_iter().find(|one| one.config.id.0 == "uid-stays").unwrap();
        found.containers[0].pid.unwrap()
    };
    let before = pid(node.runtime.list().await.unwrap());
    // It goes while nobody looks; the exec that lets it go is over before.
    node.exec("ends", "(sleep 0.2; touch /tmp/go) >/dev/null 2>&1 &").await;
    let node = node.restart().await;
    let status = node.until_phase("stays", "Running").await;
    assert_eq!(status.restart_count, 0);
    assert_eq!(pid(node.runtime.list().await.unwrap()), before);
    node.until("the restart is reported", || {
        node.status("ends")
            .is_some_and(|status| status.container_statuses.unwrap()[0].restart_count == 1)
    })
    .await;
    let last = node.until_phase("ends", "Running").await.last_state.unwrap().terminated.unwrap();
    assert_eq!(last.exit_code, 42);
    for name in ["stays", "ends"] {
        node.remove(name).await;
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_ends_leaves_its_words_and_its_log() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let mut spec = script("echo working; echo done > /dev/termination-log; exit 7", json!({}));
    spec["restartPolicy"] = json!("Never");
    node.put("job", spec);
    let status = node.until_phase("job", "Failed").await;
    let ended = status.state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (7, Some("Error")));
    assert_eq!(ended.message.as_deref(), Some("done\n"));
    assert_eq!(node.logs("job", LogOptions::default()).await, "working\n");

    node.put("typo", {
        let mut spec = script("", json!({"command": ["/no/such/program"]}));
        spec["restartPolicy"] = json!("Never");
        spec
    });
    let status = node.until_phase("typo", "Failed").await;
    let ended = status.state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (128, Some("StartError")));
    assert!(ended.message.unwrap().contains("/no/such/program"));
    for name in ["job", "typo"] {
        node.remove(name).await;
    }
    node.finish().await;
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

    async fn pull(&self, reference: &str, _auth: &[RegistryAuth]) -> Result<Image, ImageError> {
        Err(ImageError::Pull { reference: reference.to_owned(), reason: "no registry".to_owned() })
    }
}

/// Pods that cannot be reached.
struct NoNetwork;

#[async_trait::async_trait]
impl PodNetwork for NoNetwork {
    async fn attach(
        &self,
        _pod_uid: &str,
        _netns: &Path,
        _ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, NetworkError> {
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
    let applets =
        ["cat", "dd", "echo", "grep", "hostname", "id", "rm", "sh", "sleep", "test", "touch"];
    for applet in applets {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    fs::set_permissions(layer.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .unwrap();
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n";
    fs::write(layer.join("etc/passwd"), passwd).unwrap();
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
}
