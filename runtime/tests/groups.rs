//! Control groups of containers: their limits are there before the program is, and volumes may show the machine's.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Rig, is_root};
use runtime::{Access, Mount, MountSource, Propagation, Resources};

/// The container's group of this process in each hierarchy that has controllers, as the machine shows them.
fn groups(rig: &Rig, pid: u32, container: &str) -> Vec<(String, PathBuf)> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let named = format!("{}/{container}/{container}", rig.config.cgroup_root);
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap());
        if path == named {
            let mounted = if controllers.is_empty() { "" } else { controllers };
            let folder = Path::new("/sys/fs/cgroup").join(mounted).join(&path[1..]);
            found.push((controllers.to_owned(), folder));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_in_every_hierarchy_before_the_program_runs() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut config = rig.container_config("c", &["sleep", "600"]);
    config.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        memory_limit_bytes: Some(64 << 20),
        pids_limit: Some(77),
        ..Default::default()
    };
    let running = rig.run_config("c", config).await;
    let groups = groups(&rig, running.pid(), "c");
    let read = |file: &str| {
        let found = groups.iter().find_map(|(_, path)| fs::read_to_string(path.join(file)).ok());
        found.map(|text| text.trim().to_owned())
    };
    let either = |one: &str, other: &str| read(one).or_else(|| read(other)).unwrap();
    assert_eq!(either("memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids.max").unwrap(), "77");
    assert!(["50000", "50000 100000"].contains(&&*either("cpu.cfs_quota_us", "cpu.max")));
    assert!(["512", "59", "20"].contains(&&*either("cpu.shares", "cpu.weight")));
    if let Some(devices) = read("devices.list") {
        let devices: Vec<&str> = devices.lines().collect();
        assert!(devices.contains(&"c 1:3 rwm") && devices.contains(&"c 136:* rwm"), "{devices:?}");
        assert!(!devices.iter().any(|rule| rule.starts_with("a ")), "{devices:?}");
        // With version 1, all hierarchies of the machine but the named ones.
        let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let with_controllers = |line: &&str| {
            line.split_once(" - cgroup ").is_some_and(|(_, tail)| !tail.contains("name="))
        };
        assert_eq!(groups.len(), mounted.lines().filter(with_controllers).count());
    }
    // An exec is in them as well, whoever moved it there.
    let executed = rig.exec(&running, "sleep 600 & echo $!; cat /proc/self/cgroup").await;
    assert_eq!(executed.exit_code, 0);
    for (controllers, path) in &groups {
        let members = fs::read_to_string(path.join("cgroup.procs")).unwrap();
        assert_eq!(members.lines().count(), 2, "{controllers}: {members}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_the_machines_control_groups_shows_them() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let link = rig.folder.path().join("link");
    std::os::unix::fs::symlink("/sys/fs", &link).unwrap();
    for (id, source, below) in [
        ("groups", Path::new("/sys/fs/cgroup"), ""),
        ("sys", Path::new("/sys"), "/fs/cgroup"),
        ("link", &link, "/cgroup"),
    ] {
        let script = format!("ls -d /host{below}/*/cgroup.procs /host{below}/cgroup.procs");
        let mut config = rig.container_config(id, &["sh", "-c", &script]);
        config.mounts = vec![Mount {
            source: MountSource::Host(source.to_owned()),
            destination: "/host".to_owned(),
            access: Access::ReadOnly,
            propagation: Propagation::None,
        }];
        let (_, output) = rig.run_config_to_end(config).await;
        assert!(output.contains(&format!("/host{below}/")), "{id}: {output}");
    }
    rig.runtime.shutdown_all().await.unwrap();
    rig.finish().await;
}
