//! Volumes in real containers.

mod node;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;

use kubelet::state::Change;
use nix::fcntl::{Flock, FlockArg};
use node::{Node, script, shim};
use proto::ObjectKey;
use proto::k8s::api::core::v1::ConfigMap;
use serde_json::{Value, json};

const STAY: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn put_config_map(node: &Node, name: &str, data: Value) {
    let map: ConfigMap = serde_json::from_value(json!({"data": data})).unwrap();
    node.state.write([Change::ConfigMap(key(name))], |cluster| {
        cluster.config_maps.insert(key(name), Arc::new(map));
    });
}

/// What the pod's container waits for, in words.
fn waits_for(node: &Node, name: &str) -> Option<(String, String)> {
    let status = node.status(name)?.container_statuses?.remove(0);
    let waiting = status.state?.waiting?;
    Some((waiting.reason?, waiting.message.unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_volumes_are_mounted_and_stay_what_they_were() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    put_config_map(&node, "settings", json!({"mode": "fast"}));
    let mut spec = script(
        STAY,
        json!({
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [
                {"name": "cfg", "mountPath": "/etc/mode", "subPath": "mode"},
                {"name": "data", "mountPath": "/deep", "subPath": "a/b"},
                {"name": "data", "mountPath": "/own", "subPathExpr": "logs/$(POD)"},
                {"name": "data", "mountPath": "/all"},
                {"name": "data", "mountPath": "/ro", "subPath": "a", "readOnly": true}
            ],
            "securityContext": {"runAsUser": 1000}
        }),
    );
    spec["volumes"] = json!([
        {"name": "cfg", "configMap": {"name": "settings"}},
        {"name": "data", "emptyDir": {}}
    ]);
    node.put("web", spec);
    node.until_phase("web", "Running").await;
    for (command, expected) in [
        ("cat /etc/mode", "fast"),
        ("echo x > /deep/file; cat /all/a/b/file", "x\n"),
        ("echo y > /own/file; cat /all/logs/web/file", "y\n"),
        ("cat /ro/b/file", "x\n"),
        ("touch /ro/x 2>/dev/null || echo refused", "refused\n"),
        ("touch /etc/mode 2>/dev/null || echo refused", "refused\n"),
    ] {
        assert_eq!(node.exec("web", command).await.0, expected, "{command}");
    }
    // Nothing of it is mounted on the host.
    let root = node.folder.path().to_str().unwrap().to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.lines().any(|line| line.contains(&root) && line.contains("sub-path")));

    put_config_map(&node, "settings", json!({"mode": "slow"}));
    let file = node.folder.path().join("root/pods/uid-web/volumes/cfg/mode");
    node.until("the map is updated", || fs::read_to_string(&file).unwrap() == "slow").await;
    assert_eq!(node.exec("web", "cat /etc/mode").await.0, "fast");
    node.remove("web").await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_leads_out_of_its_volume_is_not_mounted() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let volume = node.folder.path().join("shared");
    fs::create_dir_all(volume.join("good")).unwrap();
    symlink("/", volume.join("root")).unwrap();
    symlink("../..", volume.join("up")).unwrap();
    symlink("good", volume.join("link")).unwrap();
    let failed = "failed to prepare subPath for volumeMount \"shared\" of container \"main\"";
    for (name, mount, message) in [
        ("root", json!({"subPath": "root"}), failed),
        ("below-root", json!({"subPath": "root/etc"}), failed),
        ("up", json!({"subPath": "up/made"}), failed),
        (
            "climbs",
            json!({"subPathExpr": "$(UP)"}),
            "unable to provision SubPath `a/../..`: must not contain '..'",
        ),
        (
            "absolute",
            json!({"subPathExpr": "$(ROOT)"}),
            "error SubPath `/etc` must not be an absolute path",
        ),
        ("unset", json!({"subPathExpr": "$(NONE)/$(EMPTY)"}), "missing value for EMPTY, NONE"),
    ] {
        let mut mount = mount;
        mount["name"] = json!("shared");
        mount["mountPath"] = json!("/shared");
        let env = json!([
            {"name": "UP", "value": "a/../.."}, {"name": "ROOT", "value": "/etc"}, {"name": "EMPTY"}
        ]);
        let mut spec = script(STAY, json!({"volumeMounts": [mount], "env": env}));
        spec["volumes"] = json!([{"name": "shared", "hostPath": {"path": volume}}]);
        node.put(name, spec);
        let told = Some(("CreateContainerConfigError".to_owned(), message.to_owned()));
        node.until(&format!("{name} is refused"), || waits_for(&node, name) == told).await;
        node.remove(name).await;
    }
    let mut spec = script(
        "echo ok > /shared/file",
        json!({"volumeMounts": [{"name": "shared", "mountPath": "/shared", "subPath": "link"}]}),
    );
    spec["volumes"] = json!([{"name": "shared", "hostPath": {"path": volume}}]);
    spec["restartPolicy"] = json!("Never");
    node.put("inside", spec);
    node.until_phase("inside", "Succeeded").await;
    assert_eq!(fs::read_to_string(volume.join("good/file")).unwrap(), "ok\n");
    node.remove("inside").await;
    assert!(!node.folder.path().join("made").exists());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_pod_is_in_its_files() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let mut spec = script(
        STAY,
        json!({
            "volumeMounts": [{"name": "told", "mountPath": "/told"}, {"name": "all", "mountPath": "/all"}],
            "resources": {"limits": {"memory": "64Mi"}}
        }),
    );
    let labels = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    let memory = json!({"path": "memory", "resourceFieldRef": {
        "containerName": "main", "resource": "limits.memory", "divisor": "1Mi"
    }});
    spec["volumes"] = json!([
        {"name": "told", "downwardAPI": {"items": [labels, memory]}},
        {"name": "all", "projected": {"sources": [
            {"downwardAPI": {"items": [labels]}},
            {"configMap": {"name": "later", "optional": true}}
        ]}}
    ]);
    node.put("web", spec);
    node.until_phase("web", "Running").await;
    let told = "cat /told/labels /told/memory; cat /all/labels; cat /all/* | grep later";
    assert_eq!(node.exec("web", told).await.0, "64");
    node.label("web", &[("app", "web")]);
    let labels = node.folder.path().join("root/pods/uid-web/volumes/all/labels");
    node.until("the labels are told", || fs::read_to_string(&labels).unwrap() == "app=\"web\"")
        .await;
    assert_eq!(node.exec("web", told).await.0, "app=\"web\"64app=\"web\"");
    // What was optional appears.
    put_config_map(&node, "later", json!({"key": "later"}));
    let key = labels.with_file_name("key");
    node.until("the map is there", || key.exists()).await;
    assert_eq!(node.exec("web", "cat /all/key").await.0, "later");
    node.remove("web").await;
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_runs_is_in_the_group_of_the_volumes() {
    let Some(shim) = shim() else { return };
    let node = Node::start(shim).await;
    let mounts = json!([
        {"name": "data", "mountPath": "/data"}, {"name": "data", "mountPath": "/sub", "subPath": "s"}
    ]);
    let context = json!({"runAsUser": 1000, "runAsGroup": 1000});
    let mut spec = script(STAY, json!({"volumeMounts": mounts, "securityContext": context}));
    spec["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    spec["securityContext"] = json!({"fsGroup": 2000, "supplementalGroups": [3000]});
    node.put("web", spec);
    node.until_phase("web", "Running").await;
    assert_eq!(node.exec("web", "id -G").await.0, "1000 2000 3000\n");
    node.exec("web", "echo x > /data/file; echo y > /sub/file").await;
    let volume = node.folder.path().join("root/pods/uid-web/volumes/data");
    for (file, mode) in [("", 0o2777), ("file", 0o644), ("s", 0o2777), ("s/file", 0o644)] {
        let found = fs::metadata(volume.join(file)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.gid()), (mode, 2000), "{file}");
    }
    node.remove("web").await;
    node.finish().await;
}

/// Has the kernel give pages beyond what is set aside, while a test runs. What nodes have to give stays as it
/// is: other kubelets of this machine see nothing of it.
struct Overcommit {
    file: Flock<File>,
    before: String,
}

impl Overcommit {
    /// Nothing where the kernel has no huge pages.
    fn of(pages: u64) -> Option<Self> {
        let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        let mut file = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        let mut before = String::new();
        file.read_to_string(&mut before).unwrap();
        let more = before.trim().parse::<u64>().unwrap() + pages;
        file.write_all(more.to_string().as_bytes()).unwrap();
        Some(Self { file, before })
    }
}

impl Drop for Overcommit {
    fn drop(&mut self) {
        if let Err(error) = self.file.write_all(self.before.as_bytes()) {
            eprintln!("cannot set back nr_overcommit_hugepages: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_the_huge_pages_that_it_asks_for() {
    let Some(shim) = shim() else { return };
    let Some(_more) = Overcommit::of(4) else {
        eprintln!("left out: the kernel has no huge pages of 2 MiB");
        return;
    };
    let node = Node::start(shim).await;
    let mut spec = script(
        STAY,
        json!({
            "resources": {"limits": {"memory": "64Mi", "hugepages-2Mi": "4Mi"}},
            "volumeMounts": [{"name": "pages", "mountPath": "/pages"}],
        }),
    );
    spec["volumes"] =
        json!([{"name": "pages", "emptyDir": {"medium": "HugePages-2Mi", "sizeLimit": "2Mi"}}]);
    node.put("web", spec);
    node.until_phase("web", "Running").await;
    let (mounts, _) = node.exec("web", "grep ' /pages hugetlbfs ' /proc/mounts").await;
    assert!(mounts.contains("pagesize=2M") && mounts.contains("size=2097152"), "{mounts}");
    // It takes a page, if there is memory in one piece.
    let volume = node.folder.path().join("root/pods/uid-web/volumes/pages");
    let (said, code) = node.exec("web", "fallocate -l 2097152 /pages/own 2>&1").await;
    if code == 0 {
        let own = fs::metadata(volume.join("own")).unwrap();
        assert_eq!((own.len(), own.blksize()), (2 << 20, 2 << 20));
        let more = "fallocate -l 2097152 /pages/more 2>&1 || echo refused";
        assert!(node.exec("web", more).await.0.ends_with("refused\n"));
    } else {
        assert!(said.contains("No space left on device"), "{said}");
        eprintln!("left out: the kernel has no memory in pieces of 2 MiB");
    }
    node.remove("web").await;
    assert!(!volume.exists());
    node.finish().await;
}
