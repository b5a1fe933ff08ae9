//! Attackers that take and take.

use std::fs;
use std::path::PathBuf;

use runtime::{
    Access, ContainerRuntime as _, Mount, MountSource, Propagation, Resources, SandboxConfig,
};

use crate::common::{Rig, arm, attacker, is_root};
use crate::host_state;

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_and_takes_is_stopped_and_neighbours_do_not_notice() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    arm(&rig);
    let neighbour = rig.run("neighbour", "echo ready; sleep 600").await;
    rig.await_output("neighbour", "ready").await;
    let before = host_state();

    let mut config = attacker(&rig, "fork", &["fork"]);
    config.resources.pids_limit = Some(64);
    let running = rig.run_config("fork", config).await;
    rig.await_output("fork", "stopped after 63").await;
    assert_eq!(rig.exec(&neighbour, "echo $((1 + 1))").await.output, b"2\n");
    rig.runtime.remove_sandbox(&running.sandbox).await.unwrap();

    let mut config = attacker(&rig, "memory", &["memory"]);
    config.resources = Resources { memory_limit_bytes: Some(64 << 20), ..Default::default() };
    let (exit, output) = rig.run_config_to_end(config).await;
    assert!(exit.oom_killed && exit.exit_code == 137, "{exit:?} {output}");

    // What outlives its process is charged to it all the same.
    let mut config = attacker(&rig, "shared", &["shared-memory"]);
    config.resources = Resources { memory_limit_bytes: Some(64 << 20), ..Default::default() };
    let (exit, output) = rig.run_config_to_end(config).await;
    assert!(exit.oom_killed && exit.exit_code == 137, "{exit:?} {output}");

    let (_, output) = rig.run_config_to_end(attacker(&rig, "files", &["descriptors"])).await;
    let stopped_after = output.trim().rsplit(' ').next().and_then(|count| count.parse().ok());
    let stopped_after: u32 = stopped_after.unwrap_or_else(|| panic!("{output}"));
    assert!((1000..=65_536).contains(&stopped_after), "{output}");

    // What is in memory is bounded: by its size and its number of files, or by the container's limit.
    let mut config = attacker(&rig, "dev", &["disk", "/dev"]);
    config.resources.memory_limit_bytes = Some(256 << 20);
    let (_, output) = rig.run_config_to_end(config).await;
    assert_eq!(output, "disk: ENOSPC\n");
    let mut config = attacker(&rig, "tmpfs", &["disk", "/data"]);
    config.mounts = vec![Mount {
        source: MountSource::Tmpfs { size_bytes: Some(8 << 20) },
        destination: "/data".to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    }];
    let (_, output) = rig.run_config_to_end(config).await;
    assert_eq!(output, "disk: ENOSPC\n");
    let mut config = attacker(&rig, "inodes", &["inodes", "/dev/shm"]);
    config.resources.memory_limit_bytes = Some(64 << 20);
    let (exit, output) = rig.run_config_to_end(config).await;
    assert!(exit.oom_killed || output == "inodes: ENOSPC\n", "{exit:?} {output}");

    let mut config = attacker(&rig, "log", &["log"]);
    (config.log_max_bytes, config.log_max_files) = (1 << 20, 3);
    let (_, output) = rig.run_config_to_end(config).await;
    assert!(output.ends_with("end\n"), "the last line is there");
    let folder: PathBuf = rig.log("log").parent().unwrap().to_owned();
    let kept: u64 =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(kept <= 3 * ((1 << 20) + 4096), "{kept} bytes of logs are kept");

    assert_eq!(rig.exec(&neighbour, "echo still here").await.output, b"still here\n");
    rig.runtime.remove_sandbox(&neighbour.sandbox).await.unwrap();
    assert_eq!(host_state(), before);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_counts_by_user_is_not_taken_from_the_machine_or_from_others() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    arm(&rig);
    if let Err(reason) = rig.runtime.own_users() {
        eprintln!("left out: {reason}");
        return rig.finish().await;
    }
    let allowed = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let all = format!("inotify: EMFILE after {}", allowed.trim());
    // Each takes all that there is for one user, and keeps it; the second finds as many as the first.
    for id in ["one", "two"] {
        let sandbox = SandboxConfig { own_users: true, ..rig.sandbox_config(id) };
        let sandbox = rig.runtime.create_sandbox(&sandbox).await.unwrap().config.id;
        let config = attacker(&rig, id, &["inotify"]);
        rig.runtime.start_container(&sandbox, &config).await.unwrap();
        rig.await_output(id, "inotify: ").await;
        assert_eq!(rig.output(id).trim(), all);
    }
    // Nor are the kubelet's fewer: it is root of the machine.
    rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
    rig.finish().await;
}
