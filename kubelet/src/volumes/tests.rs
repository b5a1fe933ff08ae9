use std::os::unix::fs::{MetadataExt, symlink};

use proto::k8s::ByteString;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn pod_dir() -> (TempDir, PodDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = PodDir::new(root.path(), "u-1");
    (root, dir)
}

fn pod(volumes: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web"}, "spec": {"containers": [], "volumes": volumes}
    }))
    .unwrap()
}

fn config_map(data: &[(&str, &str)]) -> Arc<ConfigMap> {
    let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Arc::new(ConfigMap { data: Some(data), ..ConfigMap::default() })
}

fn objects(data: &[(&str, &str)]) -> Objects {
    Objects {
        config_maps: [("settings".to_owned(), config_map(data))].into(),
        ..Objects::default()
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Mounting is root's alone. Says so when a test is left out for it.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("left out: only root may mount");
    }
    root
}

#[test]
fn an_empty_dir_may_be_written_by_anybody_and_keeps_its_content() {
    let (_root, dir) = pod_dir();
    let pod = pod(json!([{"name": "data", "emptyDir": {}}]));
    let volumes = prepare(&dir, &pod, &Objects::default()).unwrap();
    let path = &volumes["data"].source;
    assert_eq!(mode(path), 0o777);
    assert!(!volumes["data"].read_only);
    fs::write(path.join("kept"), "x").unwrap();
    prepare(&dir, &pod, &Objects::default()).unwrap();
    assert_eq!(read(&path.join("kept")), "x");
}

#[test]
fn an_empty_dir_in_memory_has_its_size_and_goes_with_the_pod() {
    if !is_root() {
        return;
    }
    let (root, dir) = pod_dir();
    let spec = json!([{"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "64Ki"}}]);
    let pod = pod(spec);
    for _ in 0..2 {
        prepare(&dir, &pod, &Objects::default()).unwrap();
    }
    let path = dir.volume("data");
    assert_eq!(mode(&path), 0o777);
    let full = fs::write(path.join("big"), vec![0; 128 * 1024]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    remove_volumes(&dir).unwrap();
    assert!(!path.exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(root.path().to_str().unwrap()));
}

#[test]
fn an_empty_dir_of_huge_pages_has_pages_of_the_size_that_the_pod_asks_for() {
    if !is_root() {
        return;
    }
    if !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        eprintln!("left out: the kernel has no huge pages of 2 MiB");
        return;
    }
    let (_root, dir) = pod_dir();
    let mut pod = pod(json!([
        {"name": "data", "emptyDir": {"medium": "HugePages", "sizeLimit": "4Mi", "mode": 0o700}}
    ]));
    let error = prepare(&dir, &pod, &Objects::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"data\" : hugePages storage requested, but there is \
         no resource request for huge pages"
    );
    let container = json!({"name": "a", "resources": {"limits": {"hugepages-2Mi": "4Mi"}}});
    pod.spec.as_mut().unwrap().containers = vec![serde_json::from_value(container).unwrap()];
    for _ in 0..2 {
        prepare(&dir, &pod, &Objects::default()).unwrap();
    }
    let path = dir.volume("data");
    assert_eq!(mode(&path), 0o700);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours: Vec<&str> =
        mounts.lines().filter(|line| line.contains(path.to_str().unwrap())).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    for part in [" hugetlbfs ", "pagesize=2M", "size=4194304", "nosuid,nodev"] {
        assert!(ours[0].contains(part), "{part}: {}", ours[0]);
    }
    remove_volumes(&dir).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_config_map_becomes_files_behind_links() {
    let (_root, dir) = pod_dir();
    let pod = pod(json!([{"name": "cfg", "configMap": {"name": "settings", "defaultMode": 256}}]));
    let volumes = prepare(&dir, &pod, &objects(&[("a", "1"), ("b", "2")])).unwrap();
    let path = &volumes["cfg"].source;
    assert!(volumes["cfg"].read_only);
    assert_eq!(read(&path.join("a")), "1");
    assert_eq!(fs::read_link(path.join("a")).unwrap(), Path::new("..data/a"));
    assert_eq!(mode(&path.join("b")), 0o400);
}

#[test]
fn an_update_swaps_all_files_at_once() {
    let (_root, dir) = pod_dir();
    let pod = pod(json!([{"name": "cfg", "configMap": {"name": "settings"}}]));
    prepare(&dir, &pod, &objects(&[("a", "1"), ("gone", "x")])).unwrap();
    let path = dir.volume("cfg");
    let before = fs::read_link(path.join("..data")).unwrap();

    prepare(&dir, &pod, &objects(&[("a", "1"), ("gone", "x")])).unwrap();
    assert_eq!(fs::read_link(path.join("..data")).unwrap(), before, "nothing changed");

    prepare(&dir, &pod, &objects(&[("a", "2"), ("new", "y")])).unwrap();
    assert_eq!(read(&path.join("a")), "2");
    assert_eq!(read(&path.join("new")), "y");
    assert!(fs::symlink_metadata(path.join("gone")).is_err());
    assert!(!path.join(before).exists(), "the old version is removed");
}

#[test]
fn an_update_that_died_half_way_is_finished_by_the_next() {
    let (_root, dir) = pod_dir();
    let pod = pod(json!([{"name": "cfg", "configMap": {"name": "settings"}}]));
    prepare(&dir, &pod, &objects(&[("a", "1")])).unwrap();
    let path = dir.volume("cfg");
    fs::create_dir(path.join("..2020_01_01_00_00_00.000000000")).unwrap();
    symlink("..2020_01_01_00_00_00.000000000", path.join("..data_tmp")).unwrap();
    fs::remove_file(path.join("a")).unwrap();
    prepare(&dir, &pod, &objects(&[("a", "1")])).unwrap();
    assert_eq!(read(&path.join("a")), "1");
    assert!(!path.join("..2020_01_01_00_00_00.000000000").exists());
    prepare(&dir, &pod, &objects(&[("a", "2")])).unwrap();
    assert_eq!(read(&path.join("a")), "2");
}

#[test]
fn items_choose_keys_paths_and_modes() {
    let (_root, dir) = pod_dir();
    let pod = pod(json!([{"name": "cfg", "configMap": {"name": "settings", "items": [
        {"key": "a", "path": "deep/er/file", "mode": 384}
    ]}}]));
    prepare(&dir, &pod, &objects(&[("a", "1"), ("b", "2")])).unwrap();
    let path = dir.volume("cfg");
    assert_eq!(read(&path.join("deep/er/file")), "1");
    assert_eq!(mode(&path.join("deep/er/file")), 0o600);
    assert!(!path.join("b").exists());
    let error = prepare(&dir, &pod, &objects(&[("b", "2")])).unwrap_err();
    assert_eq!(error.message, "configmap references non-existent config key: a");
    assert!(error.awaits_object);
}

#[test]
fn a_path_out_of_the_volume_is_refused() {
    let (root, dir) = pod_dir();
    for bad in ["../../escape", "/etc/escape", "..data", "a/../../b"] {
        let pod = pod(json!([{"name": "cfg", "configMap": {"name": "settings", "items": [
            {"key": "a", "path": bad}
        ]}}]));
        let error = prepare(&dir, &pod, &objects(&[("a", "1")])).unwrap_err();
        assert!(error.message.contains("invalid path"), "{bad}: {error}");
    }
    assert!(!root.path().join("escape").exists());
}

#[test]
fn a_missing_object_is_awaited_unless_it_is_optional() {
    let (_root, dir) = pod_dir();
    let missing = pod(json!([{"name": "cfg", "configMap": {"name": "none"}}]));
    let error = prepare(&dir, &missing, &Objects::default()).unwrap_err();
    assert!(error.awaits_object);
    assert_eq!(error.message, "configmap \"none\" not found");

    let optional = pod(json!([{"name": "cfg", "configMap": {"name": "none", "optional": true}}]));
    let volumes = prepare(&dir, &optional, &Objects::default()).unwrap();
    let entries = fs::read_dir(&volumes["cfg"].source).unwrap();
    assert!(entries.flatten().all(|e| e.file_name().to_string_lossy().starts_with("..")));
}

#[test]
fn a_secret_lies_in_memory_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let (_root, dir) = pod_dir();
    let pod = pod(json!([{"name": "keys", "secret": {"secretName": "keys", "defaultMode": 288}}]));
    let data = [("password".to_owned(), ByteString(b"s3cret".to_vec()))].into();
    let secret = Arc::new(Secret { data: Some(data), ..Secret::default() });
    let objects = Objects { secrets: [("keys".to_owned(), secret)].into(), ..Objects::default() };
    let volumes = prepare(&dir, &pod, &objects).unwrap();
    let path = &volumes["keys"].source;
    assert_eq!(read(&path.join("password")), "s3cret");
    assert_eq!(mode(&path.join("password")), 0o440);
    let tmpfs = nix::sys::statfs::statfs(path).unwrap().filesystem_type();
    assert_eq!(tmpfs, nix::sys::statfs::TMPFS_MAGIC);
    remove_pod(&dir).unwrap();
    assert!(!dir.path().exists());
}

#[test]
fn a_projected_volume_shows_all_its_sources_in_one_folder() {
    if !is_root() {
        return;
    }
    let (_root, dir) = pod_dir();
    let mut pod = pod(json!([{"name": "all", "projected": {"defaultMode": 256, "sources": [
        {"configMap": {"name": "settings", "items": [{"key": "a", "path": "map/a", "mode": 420}]}},
        {"configMap": {"name": "none", "optional": true}},
        {"secret": {"name": "keys", "items": [{"key": "key", "path": "key", "user": 7}]}},
        {"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "map/cpu", "resourceFieldRef": {
                "containerName": "main", "resource": "limits.cpu", "divisor": "1m"
            }},
            {"path": "memory", "resourceFieldRef": {
                "containerName": "main", "resource": "limits.memory", "divisor": "1Mi"
            }}
        ]}}
    ]}}]));
    pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    pod.spec.as_mut().unwrap().containers = vec![
        serde_json::from_value(json!({
            "name": "main", "resources": {"limits": {"cpu": "0.5"}}
        }))
        .unwrap(),
    ];
    let mut objects = objects(&[("a", "1"), ("b", "2")]);
    let node = json!({"status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
    objects.node = Some(Arc::new(serde_json::from_value(node).unwrap()));
    let missing = prepare(&dir, &pod, &objects).unwrap_err();
    assert!(missing.awaits_object);
    assert_eq!(missing.message, "secret \"keys\" not found");

    let data = [("key".to_owned(), ByteString(b"s3cret".to_vec()))].into();
    let secret = Arc::new(Secret { data: Some(data), ..Secret::default() });
    objects.secrets.insert("keys".to_owned(), secret);
    let path = prepare(&dir, &pod, &objects).unwrap()["all"].source.clone();
    let files = ["map/a", "key", "labels", "map/cpu", "memory"];
    assert_eq!(
        files.map(|file| read(&path.join(file))),
        ["1", "s3cret", "app=\"web\"", "500", "1024"]
    );
    let modes = files.map(|file| mode(&path.join(file)));
    assert_eq!(modes, [0o644, 0o400, 0o400, 0o400, 0o400]);
    assert_eq!(fs::metadata(path.join("key")).unwrap().uid(), 7);
    let data = fs::read_link(path.join("..data")).unwrap();
    prepare(&dir, &pod, &objects).unwrap();
    assert_eq!(fs::read_link(path.join("..data")).unwrap(), data);

    pod.metadata.labels = Some([("app".to_owned(), "api".to_owned())].into());
    prepare(&dir, &pod, &objects).unwrap();
    assert_eq!(read(&path.join("labels")), "app=\"api\"");
    assert_ne!(fs::read_link(path.join("..data")).unwrap(), data);
    remove_pod(&dir).unwrap();
}

#[test]
fn all_that_is_missing_of_a_projected_volume_is_told_at_once() {
    let (_root, dir) = pod_dir();
    let pod = pod(json!([{"name": "all", "projected": {"sources": [
        {"configMap": {"name": "settings", "items": [{"key": "c", "path": "c"}]}},
        {"secret": {"name": "keys"}}
    ]}}]));
    let error = prepare(&dir, &pod, &objects(&[("a", "1")])).unwrap_err();
    assert_eq!(
        error.message,
        "[configmap references non-existent config key: c, secret \"keys\" not found]"
    );
}

#[test]
fn volumes_belong_to_the_group_that_the_pod_names() {
    if !is_root() {
        return;
    }
    let (_root, dir) = pod_dir();
    let mut pod = pod(json!([
        {"name": "disk", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "cfg", "configMap": {"name": "settings", "defaultMode": 256, "items": [
            {"key": "a", "path": "deep/a"}
        ]}}
    ]));
    pod.spec.as_mut().unwrap().security_context =
        Some(serde_json::from_value(json!({"fsGroup": 2000})).unwrap());
    let objects = objects(&[("a", "1")]);
    let volumes = prepare(&dir, &pod, &objects).unwrap();
    let cfg = &volumes["cfg"].source;
    let version = cfg.join(fs::read_link(cfg.join("..data")).unwrap());
    for (path, wanted) in [
        (volumes["disk"].source.clone(), 0o2777),
        (volumes["memory"].source.clone(), 0o2777),
        (cfg.clone(), 0o2755),
        (version.clone(), 0o2755),
        (version.join("deep"), 0o2755),
        (version.join("deep/a"), 0o440),
    ] {
        let gid = fs::metadata(&path).unwrap().gid();
        assert_eq!((mode(&path), gid), (wanted, 2000), "{}", path.display());
    }
    // What a container has changed stays, and what is as it should be is not written again.
    let disk = &volumes["disk"].source;
    fs::set_permissions(disk, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    prepare(&dir, &pod, &objects).unwrap();
    assert_eq!(mode(disk), 0o700);
    assert!(version.exists());
    remove_pod(&dir).unwrap();
}

#[test]
fn host_paths_are_what_they_are_said_to_be() {
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("file"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let cases = [
        ("", "dir", true),
        ("", "made", true),
        ("Directory", "dir", true),
        ("Directory", "file", false),
        ("Directory", "none", false),
        ("DirectoryOrCreate", "new-dir", true),
        ("DirectoryOrCreate", "file", false),
        ("File", "file", true),
        ("File", "dir", false),
        ("FileOrCreate", "new-file", true),
        ("FileOrCreate", "dir", false),
        ("Socket", "socket", true),
        ("Socket", "file", false),
        ("CharDevice", "file", false),
        ("BlockDevice", "none", false),
        ("Nonsense", "dir", false),
    ];
    for (kind, name, fits) in cases {
        let (_root, dir) = pod_dir();
        let pod = pod(json!([{"name": "h", "hostPath": {"path": at(name), "type": kind}}]));
        let result = prepare(&dir, &pod, &Objects::default());
        assert_eq!(result.is_ok(), fits, "{kind} {name}: {result:?}");
    }
    assert!(host.path().join("new-dir").is_dir() && host.path().join("new-file").is_file());
}

#[test]
fn removal_does_not_follow_links_that_a_container_made() {
    let (root, dir) = pod_dir();
    let precious = root.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let pod = pod(json!([{"name": "data", "emptyDir": {}}]));
    let volumes = prepare(&dir, &pod, &Objects::default()).unwrap();
    symlink(&precious, volumes["data"].source.join("link")).unwrap();
    remove_pod(&dir).unwrap();
    assert!(!dir.path().exists());
    assert_eq!(read(&precious.join("file")), "x");
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    let (_root, dir) = pod_dir();
    remove_volumes(&dir).unwrap();
    remove_pod(&dir).unwrap();
}
