//! A running container gets other bounds.

mod common;

use std::fs;

use common::{Rig, Running, is_root};
use runtime::{ContainerRuntime, Error, Resources};

/// What the kernel holds the container to: memory in bytes, and the share of a processor in
/// microseconds.
fn bounds(rig: &Rig, running: &Running) -> (u64, String) {
    let read = |file: &str| {
        let folders = rig.cgroups().into_iter();
        let mut files = folders.map(|f| f.join(&running.sandbox.0).join(&running.container.0));
        files.find_map(|folder| fs::read_to_string(folder.join(file)).ok())
    };
    let memory = read("memory.max").or_else(|| read("memory.limit_in_bytes")).unwrap();
    let cpu = read("cpu.max").or_else(|| read("cpu.cfs_quota_us")).unwrap();
    let quota = cpu.split_whitespace().next().unwrap().to_owned();
    (memory.trim().parse().unwrap(), quota)
}

fn resources(cpu: i64, mebibytes: i64) -> Resources {
    Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(cpu),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(mebibytes << 20),
        ..Resources::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_bounds_grow_and_shrink_while_it_runs() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut config = rig.container_config("pod", &["sleep", "1000"]);
    config.resources = resources(50_000, 64);
    let running = rig.run_config("pod", config).await;
    assert_eq!(bounds(&rig, &running), (64 << 20, "50000".to_owned()));
    for (cpu, memory) in [(20_000, 128), (80_000, 32)] {
        let wanted = resources(cpu, memory);
        rig.runtime.update_container(&running.sandbox, &running.container, &wanted).await.unwrap();
        assert_eq!(bounds(&rig, &running), ((memory as u64) << 20, cpu.to_string()));
    }
    assert!(rig.state(&running).await.exit.is_none());
    rig.runtime.signal_container(&running.sandbox, &running.container, 9).await.unwrap();
    let mut running = running;
    running.exit().await;
    let wanted = resources(20_000, 64);
    let gone = rig.runtime.update_container(&running.sandbox, &running.container, &wanted).await;
    assert!(matches!(gone, Err(Error::NotRunning(_))));
    rig.finish().await;
}
