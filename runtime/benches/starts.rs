//! How long the steps of a container's life take, beside `runc run --detach` of an equal bundle if that
//! is installed, and what a shim weighs. A report, not a test: `cargo bench -p runtime`, as root, on a
//! machine that has nothing else to do.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::Rig;
use runtime::{ContainerRuntime, SandboxConfig, SeccompProfile};

const ROUNDS: usize = 40;

fn main() {
    if !common::is_root() {
        return;
    }
    let executor = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    executor.expect("an async runtime").block_on(report());
}

#[derive(Default)]
struct Times {
    sandbox: Vec<Duration>,
    start: Vec<Duration>,
    exec: Vec<Duration>,
    removal: Vec<Duration>,
}

async fn report() {
    let rig = Rig::new().await;
    rig.run_to_end("warm-up", "true").await;
    for (name, seccomp, own_users) in [
        ("default system-call filter", SeccompProfile::RuntimeDefault, false),
        ("no system-call filter", SeccompProfile::Unconfined, false),
        ("default system-call filter, users of its own", SeccompProfile::RuntimeDefault, true),
    ] {
        let mut times = Times::default();
        for round in 0..ROUNDS {
            one_life(&rig, &format!("pod{round}"), (seccomp.clone(), own_users), &mut times).await;
        }
        println!("{name}, {ROUNDS} rounds:");
        for (step, times) in [
            ("create_sandbox", times.sandbox),
            ("start_container", times.start),
            ("exec_sync true", times.exec),
            ("remove_sandbox", times.removal),
        ] {
            println!("  {step:16} {}", percentiles(times));
        }
    }
    match runc(&rig) {
        Ok(times) => {
            println!("runc, no system-call filter, {ROUNDS} rounds:");
            println!("  {:16} {}", "run --detach", percentiles(times));
        }
        Err(error) => println!("runc cannot be measured: {error}"),
    }
    weigh(&rig).await;
    rig.finish().await;
}

async fn one_life(
    rig: &Rig,
    id: &str,
    (seccomp, own_users): (SeccompProfile, bool),
    times: &mut Times,
) {
    let runtime = &rig.runtime;
    let mut clock = Instant::now();
    let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed();
    let sandbox = SandboxConfig { own_users, ..rig.sandbox_config(id) };
    let sandbox = runtime.create_sandbox(&sandbox).await.expect("it is made").config.id;
    times.sandbox.push(lap());
    let mut config = rig.container_config(id, &["sleep", "600"]);
    config.seccomp = seccomp;
    config.resources.memory_limit_bytes = Some(64 << 20);
    config.resources.cpu_shares = Some(512);
    runtime.start_container(&sandbox, &config).await.expect("it starts");
    times.start.push(lap());
    let command = ["true".to_owned()];
    runtime.exec_sync(&sandbox, &config.id, &command, common::PATIENCE).await.expect("it runs");
    times.exec.push(lap());
    runtime.remove_sandbox(&sandbox).await.expect("it goes");
    times.removal.push(lap());
}

/// The same program in the same files, made and started by runc; its removal does not count.
fn runc(rig: &Rig) -> std::io::Result<Vec<Duration>> {
    let bundle = rig.folder.path().join("bundle");
    fs::create_dir(&bundle)?;
    let runc = |arguments: &[&str]| {
        let mut command = std::process::Command::new("runc");
        let streams = || std::process::Stdio::null();
        command.args(arguments).current_dir(&bundle).stdin(streams()).stdout(streams());
        match command.stderr(streams()).status()?.success() {
            true => Ok(()),
            false => Err(std::io::Error::other(format!("runc {} failed", arguments.join(" ")))),
        }
    };
    runc(&["spec"])?;
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["sleep", "600"]);
    // As ours, unlike the folder that `runc spec` expects, the layer is shared.
    config["root"]["path"] = serde_json::json!(rig.layer);
    fs::write(&path, serde_json::to_vec(&config)?)?;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let id = format!("kutter-bench-{}-{round}", std::process::id());
        let began = Instant::now();
        runc(&["run", "--detach", &id])?;
        times.push(began.elapsed());
        runc(&["delete", "--force", &id])?;
    }
    Ok(times)
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    format!("p50 {:>9.3?}  p99 {:>9.3?}  least {:>9.3?}", at(50), at(99), times[0])
}

async fn weigh(rig: &Rig) {
    let running = rig.run("weighed", "seq 1 10000; sleep 600").await;
    rig.await_output("weighed", "\n10000\n").await;
    let all = rig.runtime.list().await.expect("a list");
    let sandbox = all.into_iter().find(|s| s.config.id == running.sandbox).expect("the sandbox");
    let namespace = sandbox.network_namespace.expect("a living shim");
    let process = namespace.ancestors().nth(2).expect("a process");
    let memory = fs::read_to_string(process.join("smaps_rollup")).expect("its memory");
    println!("a shim with one container:");
    for line in memory.lines().filter(|l| l.starts_with("Rss") || l.starts_with("Pss")) {
        println!("  {line}");
    }
}
