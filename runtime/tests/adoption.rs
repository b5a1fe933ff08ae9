//! What survives whom.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use common::{PATIENCE, Rig, eventually, is_root, runs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::{ContainerRuntime, Error, RuntimeEvent, SandboxId};

fn identity(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
    format!("{pid} since {start}")
}

async fn shim_pid(rig: &Rig, sandbox: &SandboxId) -> u32 {
    let all = rig.runtime.list().await.unwrap();
    let found = all.into_iter().find(|s| s.config.id == *sandbox).unwrap();
    let path = found.network_namespace.unwrap();
    path.iter().nth(2).unwrap().to_str().unwrap().parse().unwrap()
}

fn kill_9(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_runtime_finds_the_same_processes_and_the_exit_codes() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    let annotations = [("pod".to_owned(), "default/web".to_owned())];
    let mut config = rig.container_config("stays", &["sh", "-c", "echo up; sleep 600"]);
    config.annotations = annotations.clone().into_iter().collect();
    let stays = rig.run_config("stays", config).await;
    let script = "while [ ! -e /stop ]; do sleep 0.01; done; echo bye; exit 33";
    let goes = rig.run("goes", script).await;
    let mut ended = rig.run("ended", "exit 44").await;
    ended.exit().await;
    rig.exec(&goes, "touch /stop-soon").await;
    let before = identity(stays.pid());

    // Nobody listens while it ends.
    let folder = rig.config.state_dir.join("sandboxes/goes/containers/goes/state.json");
    let upper = rig.config.data_dir.join("sandboxes/goes/goes/upper/stop");
    let config = rig.config.clone();
    let second = runtime::ShimRuntime::open(config).await.unwrap();
    drop(std::mem::replace(&mut rig.runtime, second));
    rig.exec(&goes, "touch /stop").await;
    assert!(upper.exists());
    eventually("the exit is recorded", || {
        fs::read_to_string(&folder).is_ok_and(|text| text.contains("\"exit_code\":33"))
    })
    .await;

    rig.restart().await;
    let list = rig.runtime.list().await.unwrap();
    assert_eq!(list.len(), 3);
    assert!(list.iter().all(|sandbox| sandbox.ready));
    let state = rig.state(&stays).await;
    assert_eq!(state.pid, Some(stays.pid()));
    assert_eq!(identity(stays.pid()), before);
    assert_eq!(state.annotations, annotations.into_iter().collect());
    assert_eq!(state.log_path, Some(rig.log("stays")));
    assert_eq!(state.started_at, stays.state.started_at);
    assert_eq!(rig.state(&goes).await.exit.unwrap().exit_code, 33);
    assert_eq!(rig.state(&ended).await.exit.unwrap().exit_code, 44);
    assert_eq!(rig.output("goes"), "bye\n");
    // And it goes on as if nothing had been.
    let again = rig.sandbox("stays").await;
    assert_eq!(again.containers.len(), 1);
    let mut events = rig.runtime.events();
    rig.runtime.signal_container(&stays.sandbox, &stays.container, 9).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert!(matches!(event, RuntimeEvent::ContainerExited { exit, .. } if exit.exit_code == 137));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_shim_is_killed_is_lost_and_can_be_removed() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    let running = rig.run("pod", "(setsid sleep 600) & sleep 600").await;
    let mut events = rig.runtime.events();
    kill_9(shim_pid(&rig, &running.sandbox).await);
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert!(matches!(event, RuntimeEvent::SandboxLost { sandbox } if sandbox == running.sandbox));
    let state = rig.sandbox("pod").await;
    assert!(!state.ready);
    assert_eq!(state.network_namespace, None);
    // It runs on, and whoever comes later sees that as well.
    assert_eq!(rig.state(&running).await.pid, Some(running.pid()));
    rig.restart().await;
    assert_eq!(rig.state(&running).await.pid, Some(running.pid()));
    let config = rig.container_config("new", &["true"]);
    let result = rig.runtime.start_container(&running.sandbox, &config).await;
    assert!(matches!(result, Err(Error::Shim { .. })), "{result:?}");
    rig.runtime.remove_sandbox(&running.sandbox).await.unwrap();
    assert!(!runs(running.pid()));
    // The id is free for a new life.
    assert!(rig.sandbox("pod").await.ready);
    rig.finish().await;
}

/// Whoever started it was killed, and the next one has removed the sandbox before the shim came to make any.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_is_late_finds_its_sandbox_gone() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sandbox = rig.sandbox("late").await.config.id;
    let folder = rig.config.state_dir.join("sandboxes/late");
    let record = fs::read(folder.join("config.json")).unwrap();
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    fs::create_dir(&folder).unwrap();
    let config = folder.join("config.json");
    fs::write(&config, record).unwrap();
    let removal = fs::File::open(&config).unwrap();
    removal.lock().unwrap();

    let program = rig.config.shim_path.clone().unwrap();
    let shim = std::process::Command::new(program)
        .arg(&folder)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let file = format!(":{} ", removal.metadata().unwrap().ino());
    eventually("the shim waits for the removal", || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&file))
    })
    .await;
    fs::remove_dir_all(&folder).unwrap();
    drop(removal);

    let output = shim.wait_with_output().unwrap();
    assert!(!output.status.success());
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("the sandbox is gone"), "{complaint}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_has_seen_is_an_end() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "sleep 600").await;
    let mut events = rig.runtime.events();
    kill_9(shim_pid(&rig, &running.sandbox).await);
    tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    kill_9(running.pid());
    let mut exit = None;
    while exit.is_none() {
        tokio::task::yield_now().await;
        exit = rig.state(&running).await.exit;
    }
    assert_eq!(exit.unwrap().exit_code, 137);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_half_made_or_half_removed_is_cleared_away() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    let sandboxes = rig.config.state_dir.join("sandboxes");
    // Died before it wrote anything, and before it started a shim.
    fs::create_dir_all(sandboxes.join("empty")).unwrap();
    let made = rig.run("pod", "sleep 600").await;
    let written = fs::read(sandboxes.join("pod/config.json")).unwrap();
    let text = String::from_utf8(written).unwrap().replace("\"pod\"", "\"early\"");
    fs::create_dir_all(sandboxes.join("early")).unwrap();
    fs::write(sandboxes.join("early/config.json"), text).unwrap();
    // Died between the plan and the start, and in the middle of a removal.
    let planned = sandboxes.join("pod/containers/planned");
    fs::create_dir_all(planned.join("bundle/rootfs")).unwrap();
    fs::create_dir_all(rig.config.data_dir.join("sandboxes/pod/planned/upper")).unwrap();
    let gone = rig.run("gone", "sleep 600").await;
    kill_9(shim_pid(&rig, &gone.sandbox).await);
    fs::remove_dir_all(sandboxes.join("gone/containers/gone/bundle")).unwrap();

    rig.restart().await;
    let mut ids: Vec<_> = rig.runtime.list().await.unwrap();
    ids.retain(|sandbox| sandbox.ready);
    assert_eq!(ids.len(), 1);
    assert_eq!(ids[0].config.id, made.sandbox);
    assert_eq!(ids[0].containers.len(), 1);
    assert!(!sandboxes.join("empty").exists());
    // A sandbox in which nothing ever ran is simply made.
    assert!(rig.sandbox("early").await.ready);
    let config = rig.container_config("planned", &["sh", "-c", "sleep 600"]);
    rig.runtime.start_container(&made.sandbox, &config).await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_start_can_be_asked_for_again() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sandbox = rig.sandbox("pod").await.config.id;
    for number in 0..10u32 {
        let id = format!("c{number}");
        let config = rig.container_config(&id, &["sleep", "600"]);
        // Wherever this cuts it off …
        let start = rig.runtime.start_container(&sandbox, &config);
        let _ =
            tokio::time::timeout(std::time::Duration::from_millis(5 * u64::from(number)), start)
                .await;
        // … asking again ends well.
        let state = rig.runtime.start_container(&sandbox, &config).await.unwrap();
        let pid = state.pid.unwrap();
        assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sleep"));
    }
    let list = rig.runtime.list().await.unwrap();
    assert_eq!(list[0].containers.len(), 10);
    rig.finish().await;
}

/// The creators at work for a shim. What a creator has just forked has its name and its parent, and
/// not yet a group of its own; if that is killed, the creator tells why it fails.
fn creators(shim: u32) -> Vec<u32> {
    let is_creator = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, after)) = stat.split_once("(kutter-creator) ") else { return false };
        let fields: Vec<&str> = after.split(' ').collect();
        let (parent, group) = (shim.to_string(), pid.to_string());
        matches!(fields[..], ["S" | "R", of, leads, ..] if of == parent && leads == group)
    };
    common::processes().iter().map(|process| process.pid).filter(is_creator).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_creator_leaves_nothing_and_the_next_one_succeeds() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sandbox = rig.sandbox("pod").await.config.id;
    let shim = shim_pid(&rig, &sandbox).await;
    let stays = rig.container_config("stays", &["sleep", "600"]);
    rig.runtime.start_container(&sandbox, &stays).await.unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    // Also when the test fails: the runtime waits for the killer.
    let _stop_at_the_end = StopAtTheEnd(std::sync::Arc::clone(&stop));
    let killer = tokio::task::spawn_blocking(move || {
        let mut killed = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for pid in creators(shim) {
                killed += u32::from(kill(Pid::from_raw(pid as i32), Signal::SIGKILL).is_ok());
            }
        }
        killed
    });
    for number in 0..12 {
        let id = format!("c{number}");
        let config = rig.container_config(&id, &["sleep", "600"]);
        match rig.runtime.start_container(&sandbox, &config).await {
            Ok(_) | Err(Error::Interrupted { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let command = ["true".to_owned()];
        match rig.runtime.exec_sync(&sandbox, &stays.id, &command, PATIENCE).await {
            // Between the fork and the exec the program is still called a creator, and may be hit.
            Ok(output) => assert!(matches!(output.exit_code, 0 | 137), "{}", output.exit_code),
            Err(Error::Exec { .. } | Error::Interrupted { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(killer.await.unwrap() > 0);
    for number in 0..12 {
        let config = rig.container_config(&format!("c{number}"), &["sleep", "600"]);
        rig.runtime.start_container(&sandbox, &config).await.unwrap();
    }
    let list = rig.runtime.list().await.unwrap();
    assert_eq!(list[0].containers.len(), 13);
    assert!(list[0].containers.iter().all(|container| container.pid.is_some()));
    // Each has one process, and no other is left over.
    let own = rig.cgroups().iter().map(|path| count_processes(path)).max().unwrap();
    assert_eq!(own, 13 + 1);
    rig.finish().await;
}

/// The sockets of a shim at which it is reached. All of them have the name that it bound.
fn entrances(shim: u32) -> BTreeSet<String> {
    let tables = ["/proc/net/unix".to_owned(), format!("/proc/{shim}/net/unix")];
    let lines = tables.iter().map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes = lines.flat_map(|table| {
        let lines = table.lines().filter(|line| line.ends_with(" shim.sock"));
        let inodes = lines.filter_map(|line| line.split_whitespace().nth(6).map(str::to_owned));
        inodes.collect::<Vec<_>>()
    });
    let all: BTreeSet<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    all.intersection(&descriptors(shim)).cloned().collect()
}

/// What the descriptors of a process are.
fn descriptors(pid: u32) -> BTreeSet<String> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = all.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.map(|target| target.to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creator_does_not_keep_the_entrances_of_its_shim_open() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sandbox = rig.sandbox("pod").await.config.id;
    let shim = shim_pid(&rig, &sandbox).await;
    let entrances = entrances(shim);
    // Where it listens, and the runtime's connection.
    assert_eq!(entrances.len(), 2, "{entrances:?}");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let _stop_at_the_end = StopAtTheEnd(std::sync::Arc::clone(&stop));
    let looker = tokio::task::spawn_blocking(move || {
        let (mut seen, mut kept) = (0, Vec::new());
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for creator in creators(shim) {
                let open = descriptors(creator);
                // One that has just ended has none at all.
                seen += u32::from(!open.is_empty());
                kept.extend(open.intersection(&entrances).cloned());
            }
        }
        (seen, kept)
    });
    for number in 0..12 {
        let config = rig.container_config(&format!("c{number}"), &["sleep", "600"]);
        rig.runtime.start_container(&sandbox, &config).await.unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (seen, kept) = looker.await.unwrap();
    assert!(seen > 0);
    assert!(kept.is_empty(), "{kept:?}");
    rig.finish().await;
}

struct StopAtTheEnd(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Drop for StopAtTheEnd {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The processes in a control group and all below it.
fn count_processes(group: &std::path::Path) -> usize {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines().count();
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    own + below.map(|entry| count_processes(&entry.path())).sum::<usize>()
}
