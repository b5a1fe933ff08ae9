//! How long the steps of a container's life take, beside `runc run --detach` of equal bundles if that is
//! installed, and what a shim weighs. The kinds take turns, so that other work on the machine falls on all alike. A report, not a test: `cargo bench -p runtime`, as root, on a
//! machine that has nothing else to do.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::Rig;
use runtime::{CapabilityChanges, ContainerRuntime, SandboxConfig, SeccompProfile};

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
    let kinds = [
        ("default system-call filter", SeccompProfile::RuntimeDefault, false),
        ("no system-call filter", SeccompProfile::Unconfined, false),
        ("default system-call filter, users of its own", SeccompProfile::RuntimeDefault, true),
    ];
    let mut lives: [Times; 3] = Default::default();
    let runc = [("default system-call filter", true), ("no system-call filter", false)]
        .map(|(name, filtered)| (name, Runc::new(&rig, filtered)));
    let mut runs: [std::io::Result<Vec<Duration>>; 2] = [Ok(Vec::new()), Ok(Vec::new())];
    for round in 0..ROUNDS {
        for ((_, seccomp, own_users), times) in kinds.iter().zip(&mut lives) {
            let kind = (seccomp.clone(), *own_users);
            one_life(&rig, &format!("pod{round}"), kind, times).await;
        }
        for ((_, bundle), times) in runc.iter().zip(&mut runs) {
            let measured = match (bundle, &mut *times) {
                (Ok(bundle), Ok(times)) => bundle.run().map(|took| times.push(took)),
                (Err(error), Ok(_)) => Err(std::io::Error::other(error.to_string())),
                (_, Err(_)) => continue,
            };
            if let Err(error) = measured {
                *times = Err(error);
            }
        }
    }
    for ((name, ..), times) in kinds.iter().zip(lives) {
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
    for ((name, _), times) in runc.iter().zip(runs) {
        match times {
            Ok(times) => {
                println!("runc, {name}, {ROUNDS} rounds:");
                println!("  {:16} {}", "run --detach", percentiles(times));
            }
            Err(error) => println!("runc, {name}, cannot be measured: {error}"),
        }
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
struct Runc {
    bundle: PathBuf,
}

impl Runc {
    fn new(rig: &Rig, filtered: bool) -> std::io::Result<Runc> {
        let bundle = rig.folder.path().join(format!("bundle-{filtered}"));
        fs::create_dir(&bundle)?;
        let runc = Runc { bundle };
        runc.call(&["spec"])?;
        let path = runc.bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["sleep", "600"]);
        // As ours, unlike the folder that `runc spec` expects, the layer is shared.
        config["root"]["path"] = serde_json::json!(rig.layer);
        if filtered {
            let filter = runtime::default_seccomp(&CapabilityChanges::default());
            config["linux"]["seccomp"] = filter.map_err(std::io::Error::other)?;
        }
        fs::write(&path, serde_json::to_vec(&config)?)?;
        Ok(runc)
    }

    fn run(&self) -> std::io::Result<Duration> {
        let id = format!("kutter-bench-{}", std::process::id());
        let began = Instant::now();
        self.call(&["run", "--detach", &id])?;
        let took = began.elapsed();
        self.call(&["delete", "--force", &id])?;
        Ok(took)
    }

    fn call(&self, arguments: &[&str]) -> std::io::Result<()> {
        let mut command = Command::new("runc");
        command.args(arguments).current_dir(&self.bundle);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.status()?.success() {
            true => Ok(()),
            false => Err(std::io::Error::other(format!("runc {} failed", arguments.join(" ")))),
        }
    }
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
