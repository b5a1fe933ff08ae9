//! Bounds of what is in a control group together: containers of a sandbox, sandboxes of a kind.

mod common;

use std::fs;
use std::path::Path;

use common::{Rig, is_root};
use runtime::{ContainerRuntime, Resources, SandboxConfig};

/// A number out of a file of a group of the rig, in whichever hierarchy has it.
fn read(rig: &Rig, group: &str, files: &[&str]) -> Option<String> {
    let at = |file: &&str| {
        let folders = rig.cgroups().into_iter();
        folders.map(|top| top.join(group).join(file)).find_map(|path| fs::read_to_string(path).ok())
    };
    files.iter().find_map(at).map(|text| text.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_sandbox_share_one_bound_of_processes() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let resources = Resources { pids_limit: Some(30), ..Resources::default() };
    let config = SandboxConfig { resources, ..rig.sandbox_config("pod") };
    let sandbox = rig.runtime.create_sandbox(&config).await.unwrap().config.id;
    assert_eq!(read(&rig, "pod", &["pids.max"]).as_deref(), Some("30"));
    // Either has room for all of its own by itself.
    let script = "for i in $(seq 1 20); do sleep 600 & done; echo all; sleep 600";
    for id in ["one", "two"] {
        let mut container = rig.container_config(id, &["sh", "-c", script]);
        container.resources.pids_limit = Some(30);
        rig.runtime.start_container(&sandbox, &container).await.unwrap();
        let said = if id == "one" { "all" } else { "can't fork" };
        rig.await_output(id, said).await;
    }
    assert!(!rig.output("one").contains("can't fork"), "{}", rig.output("one"));
    // Its neighbour keeps what it has: a shell and twenty others.
    assert_eq!(read(&rig, "pod/one", &["pids.current"]).as_deref(), Some("21"));
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sandboxes_of_a_group_share_its_memory() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let pods = format!("{}/pods", rig.config.cgroup_root);
    let resources = Resources {
        cpu_shares: Some(1024),
        memory_limit_bytes: Some(96 << 20),
        ..Resources::default()
    };
    rig.runtime.bound_group(&pods, &resources).await.unwrap();
    let files = ["memory.max", "memory.limit_in_bytes"];
    assert_eq!(read(&rig, "pods", &files), Some((96 << 20).to_string()));
    let mut ends = rig.runtime.events();
    // Each fills memory of its own and keeps it; two of them are too many.
    let script =
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null || exit 7; echo full; sleep 600";
    let mut sandboxes = Vec::new();
    for (id, score) in [("kept", 0), ("goes", 1000)] {
        let parent = format!("{pods}/burstable/{id}");
        let config = SandboxConfig { cgroup_parent: parent, ..rig.sandbox_config(id) };
        let sandbox = rig.runtime.create_sandbox(&config).await.unwrap().config.id;
        let mut container = rig.container_config(id, &["sh", "-c", script]);
        container.resources.oom_score_adj = Some(score);
        rig.runtime.start_container(&sandbox, &container).await.unwrap();
        if id == "kept" {
            rig.await_output(id, "full").await;
        }
        sandboxes.push(sandbox);
    }
    let killed = async {
        loop {
            if let runtime::RuntimeEvent::ContainerExited { container, exit, .. } =
                ends.recv().await.unwrap()
            {
                return (container.0, exit.exit_code);
            }
        }
    };
    let killed = tokio::time::timeout(common::PATIENCE, killed).await.expect("one is killed");
    // Of the one that its score does not protect the kernel takes the shell or what fills the memory.
    assert!(killed.0 == "goes" && [7, 137].contains(&killed.1), "{killed:?}");
    for sandbox in sandboxes {
        rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    }
    // What is not named stays.
    let more = Resources { memory_limit_bytes: Some(128 << 20), ..Resources::default() };
    rig.runtime.bound_group(&pods, &more).await.unwrap();
    assert_eq!(read(&rig, "pods", &files), Some((128 << 20).to_string()));
    assert_eq!(read(&rig, "pods", &["cpu.weight", "cpu.shares"]).as_deref(), weight());
    rig.finish().await;
}

/// 1024 shares, in the words of the machine's version.
fn weight() -> Option<&'static str> {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    Some(if unified { "100" } else { "1024" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_a_plain_path() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    for group in ["kutter", "/../x", ""] {
        let error = rig.runtime.bound_group(group, &Resources::default()).await.unwrap_err();
        assert!(error.to_string().contains("is no control group"), "{error}");
    }
    rig.finish().await;
}

/// Beside the bound of all that are together.
#[tokio::test(flavor = "multi_thread")]
async fn each_container_has_its_own_bound_of_huge_pages() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let bound =
        |bytes| Resources { huge_page_limits: [(2 << 20, bytes)].into(), ..Resources::default() };
    let config = SandboxConfig { resources: bound(8 << 20), ..rig.sandbox_config("pod") };
    let sandbox = rig.runtime.create_sandbox(&config).await.unwrap().config.id;
    let files = ["hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"];
    let has_bounds = read(&rig, "pod", &files).is_some();
    for (id, bytes) in [("one", 2 << 20), ("two", 6 << 20)] {
        let mut container = rig.container_config(id, &["sh", "-c", "echo here; sleep 600"]);
        container.resources = bound(bytes);
        rig.runtime.start_container(&sandbox, &container).await.unwrap();
        rig.await_output(id, "here").await;
        let found = read(&rig, &format!("pod/{id}"), &files);
        assert_eq!(found, has_bounds.then(|| bytes.to_string()), "{id}");
    }
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    rig.finish().await;
}
