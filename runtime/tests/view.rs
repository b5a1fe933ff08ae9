//! What a bounded container sees of itself.

mod common;

use std::path::Path;

use common::{PATIENCE, Rig, Running, eventually, is_root, runs};
use runtime::{ContainerRuntime, Resources, RuntimeEvent, SandboxConfig};

/// The number in the line of this name.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{name}: {text}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Whether sandboxes can have users of their own; says why not.
fn own_users(rig: &Rig) -> bool {
    let can = rig.runtime.own_users();
    if let Err(reason) = &can {
        eprintln!("with the machine's users alone: {reason}");
    }
    can.is_ok()
}

async fn bounded(rig: &Rig, id: &str, own_users: bool) -> Running {
    let config = SandboxConfig { own_users, ..rig.sandbox_config(id) };
    let sandbox = rig.runtime.create_sandbox(&config).await.unwrap().config.id;
    let script = "cat /proc/meminfo; grep -c ^processor /proc/cpuinfo; echo ready; sleep 600";
    let mut config = rig.container_config(id, &["sh", "-c", script]);
    config.resources = Resources {
        memory_limit_bytes: Some(64 << 20),
        cpu_quota_us: Some(50_000),
        ..Default::default()
    };
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(&sandbox, &config).await.unwrap();
    let running = Running { sandbox, container: config.id, state, events };
    rig.await_output(id, "ready").await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_processors_are_its_own_also_after_a_change() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return;
    }
    let rig = Rig::new().await;
    let can = own_users(&rig);
    for own_users in [false, true].into_iter().filter(|own_users| can || !own_users) {
        let id = format!("c{own_users}");
        let running = bounded(&rig, &id, own_users).await;
        let output = rig.output(&id);
        assert_eq!(number(&output, "MemTotal:"), 64 << 10);
        assert!(number(&output, "MemFree:") <= 64 << 10);
        assert!(output.ends_with("\n1\nready\n"), "{output}");
        let seen = async |script: &str| {
            String::from_utf8(rig.exec(&running, script).await.output).unwrap()
        };
        // Read by others than root too, and in pieces.
        let stat = seen("head -c 5 /proc/stat; echo; dd if=/proc/meminfo bs=16 2>/dev/null").await;
        assert!(stat.starts_with("cpu  "), "{stat}");
        assert_eq!(number(&stat, "MemTotal:"), 64 << 10);
        assert!(stat.contains("SwapTotal:"), "{stat}");
        // What it holds is used, and no other's.
        let held = "head -c 20000000 /dev/zero > /dev/shm/x; cat /proc/meminfo; rm /dev/shm/x";
        let held = seen(held).await;
        assert!(number(&held, "MemAvailable:") < 50 << 10, "{held}");
        let more = Resources { memory_limit_bytes: Some(128 << 20), ..Default::default() };
        rig.runtime.update_container(&running.sandbox, &running.container, &more).await.unwrap();
        let text = seen("cat /proc/meminfo; touch /proc/meminfo; echo x > /proc/stat").await;
        assert_eq!(number(&text, "MemTotal:"), 128 << 10);
        assert!(text.contains("Permission denied") || text.contains("Read-only"), "{text}");
    }
    // Who has no bound sees the machine.
    let (_, output) = rig.run_to_end("free", "cat /proc/meminfo").await;
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap();
    assert_eq!(number(&output, "MemTotal:"), number(&machine, "MemTotal:"));
    rig.finish().await;
}

/// The averages over one, five and fifteen minutes that this text begins with.
fn averages(text: &str) -> [f64; 3] {
    let mut numbers = text.split([' ', ',']).filter(|word| !word.is_empty());
    [(); 3].map(|()| {
        numbers.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    })
}

/// The machine's load is another: these tests make it, and others beside them.
#[tokio::test(flavor = "multi_thread")]
async fn how_busy_it_is_depends_on_its_own_tasks_only() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return;
    }
    let rig = Rig::new().await;
    let running = bounded(&rig, "busy", own_users(&rig)).await;
    let neighbour = bounded(&rig, "idle", false).await;
    let seen = async |running: &Running, script: &str| {
        String::from_utf8(rig.exec(running, script).await.output).unwrap()
    };
    // Half a processor's time, wanted by four.
    let spin = "for i in 1 2 3 4; do (while :; do :; done) > /dev/null & done; echo started";
    assert_eq!(seen(&running, spin).await, "started\n");
    let deadline = std::time::Instant::now() + PATIENCE;
    let text = loop {
        let text = seen(&running, "cat /proc/loadavg").await;
        // They are counted where they run and where they wait to be let run.
        if averages(&text)[0] > 0.2 {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "it never becomes busy: {text}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let [one, five, fifteen] = averages(&text);
    assert!(one <= 8.0 && one > five && five > fifteen, "{text}");
    let tasks: Vec<&str> = text.split_whitespace().nth(3).unwrap().split('/').collect();
    let (busy, all): (u64, u64) = (tasks[0].parse().unwrap(), tasks[1].parse().unwrap());
    assert!((1..=all).contains(&busy) && (5..20).contains(&all), "{text}");
    // What people look with finds the same.
    let top = seen(&running, "top -b -n 1").await;
    let (_, top) = top.split_once("Load average: ").unwrap_or_else(|| panic!("{top}"));
    assert!(averages(top)[0] > 0.2, "{top}");
    // The neighbour has none of it.
    let idle = seen(&neighbour, "cat /proc/loadavg").await;
    assert!(averages(&idle)[0] < 0.1, "{idle}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_without_end_neither_hinder_the_shim_nor_outlive_the_container() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return;
    }
    let rig = Rig::new().await;
    let mut running = bounded(&rig, "c", false).await;
    let script = "for i in 1 2 3 4; do (while :; do cat /proc/meminfo /proc/stat; done) \
                  > /dev/null & done; echo started";
    assert_eq!(rig.exec(&running, script).await.exit_code, 0);
    let answer = tokio::time::timeout(PATIENCE, rig.exec(&running, "echo here")).await.unwrap();
    assert_eq!(answer.output, b"here\n");
    rig.runtime.signal_container(&running.sandbox, &running.container, 9).await.unwrap();
    assert_eq!(running.exit().await.exit_code, 137);
    rig.finish().await;
}

/// A program that has the kernel copy a file into a pipe holds the pipe meanwhile, which the shim reads.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_into_the_log_by_the_kernel_holds_nobody_up() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return;
    }
    let rig = Rig::new().await;
    let running = bounded(&rig, "c", false).await;
    let script =
        "for i in $(seq 50); do cat /proc/meminfo /proc/stat > /proc/1/fd/1; done; echo end";
    let output = tokio::time::timeout(PATIENCE, rig.exec(&running, script)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.output), "end\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_the_view_along_and_a_sandbox_is_removed_all_the_same() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return;
    }
    let mut rig = Rig::new().await;
    let running = bounded(&rig, "c", own_users(&rig)).await;
    let shim = std::fs::read(rig.config.state_dir.join("sandboxes/c/shim.json")).unwrap();
    let shim: serde_json::Value = serde_json::from_slice(&shim).unwrap();
    let pid = nix::unistd::Pid::from_raw(shim["pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the shim is gone", || !runs(pid.as_raw() as u32)).await;
    rig.restart().await;
    rig.runtime.remove_sandbox(&running.sandbox).await.unwrap();
    rig.finish().await;
}

/// Its containers would find nothing in the place of what they were bounded to.
#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_lost_with_who_serves_its_view() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return;
    }
    let rig = Rig::new().await;
    let mut running = bounded(&rig, "c", own_users(&rig)).await;
    let shim = std::fs::read(rig.config.state_dir.join("sandboxes/c/shim.json")).unwrap();
    let shim: serde_json::Value = serde_json::from_slice(&shim).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", shim["pid"]);
    let children = std::fs::read_to_string(children).unwrap();
    let attendant = children.split_whitespace().find(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim() == "kutter-view")
    });
    let pid = nix::unistd::Pid::from_raw(attendant.expect("it is there").parse().unwrap());
    let mut events = rig.runtime.events();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(running.exit().await.exit_code, 137);
    let lost = async {
        while !matches!(events.recv().await.unwrap(), RuntimeEvent::SandboxLost { .. }) {}
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("it is lost");
    rig.runtime.remove_sandbox(&running.sandbox).await.unwrap();
    rig.finish().await;
}
