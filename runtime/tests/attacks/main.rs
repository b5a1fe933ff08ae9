//! Attacks from inside a container: each fails with the error it should, and the host is as before.
//!
//! The attacker is a program (`attack/`) that runs in containers of the default kind, of the most
//! confined kind, without a system-call filter, and by exec; each with the machine's users and with its own.

#[path = "../common/mod.rs"]
mod common;
mod expected;
mod takers;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Rig, Running, arm, attacker, is_root};
use expected::*;
use runtime::{
    CapabilityChanges, ContainerConfig, ContainerRuntime as _, HostNamespaces, SandboxConfig,
    SeccompProfile,
};

/// Of the host, what an attack could have changed and no other test does. (Mounts, control groups
/// and processes that are left are found by [`Rig::finish`].)
fn host_state() -> BTreeMap<&'static str, String> {
    const FILES: [&str; 10] = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/fs/binfmt_misc/status",
        "/proc/swaps",
        "/proc/self/cgroup",
        "/sys/kernel/uevent_helper",
        "/etc/hostname",
        "/etc/passwd",
    ];
    FILES.map(|path| (path, fs::read_to_string(path).unwrap_or_default())).into()
}

/// Compares what came of the attempts with what must.
fn judge(what: &str, output: &str, different: &[&[Expected]]) -> Vec<String> {
    assert!(output.ends_with("end\n"), "{what}: the attacker came to its end: {output}");
    let outcomes: BTreeMap<&str, &str> =
        output.lines().filter_map(|line| line.rsplit_once(": ")).collect();
    let mut wrong = Vec::new();
    for (name, expected) in EXPECTED {
        let expected = different
            .iter()
            .copied()
            .flatten()
            .find_map(|(other, outcomes)| (other == name).then_some(*outcomes))
            .unwrap_or(expected);
        match outcomes.get(name) {
            // Some are of one architecture only.
            None if ["iopl", "ioperm"].contains(name) && !cfg!(target_arch = "x86_64") => {}
            Some(outcome) if expected.contains(outcome) => {}
            outcome => {
                wrong.push(format!("{what}: {name}: {outcome:?} instead of {expected:?}"));
            }
        }
    }
    let known = |name: &str| EXPECTED.iter().any(|(known, _)| *known == name);
    let unknown = outcomes.keys().filter(|name| !known(name));
    wrong.extend(unknown.map(|name| format!("{what}: {name} is not expected at all")));
    wrong
}

/// What others have on the machine, for as long as this lives.
struct Others(Child);

impl Others {
    fn be() -> Others {
        let mut child = Command::new(env!("CARGO_BIN_EXE_attack"))
            .arg("others")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let others = Others(child);
        for line in said.lines().map(Result::unwrap).take_while(|line| line != "end") {
            // Another such test has the socket at the same time, which is as well.
            assert!(line.ends_with(": ok") || line.ends_with(": EADDRINUSE"), "{line}");
        }
        others
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        // The end of its input has it take everything away.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Runs a container in a sandbox of its own until it ends, and takes the sandbox away; what it printed.
async fn run_in(rig: &Rig, sandbox: &SandboxConfig, config: ContainerConfig) -> String {
    let running = start_in(rig, sandbox, config).await;
    let (name, sandbox) = (running.container.0.clone(), running.sandbox.clone());
    let mut running = running;
    running.exit().await;
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    rig.output(&name)
}

async fn start_in(rig: &Rig, sandbox: &SandboxConfig, config: ContainerConfig) -> Running {
    let sandbox = rig.runtime.create_sandbox(sandbox).await.unwrap().config.id;
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(&sandbox, &config).await.unwrap();
    Running { sandbox, container: config.id, state, events }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_out_of_a_container() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    arm(&rig);
    let others = Others::be();
    let before = host_state();
    let mut wrong = Vec::new();
    // As pods are by default, root in it is nobody on the machine.
    if let Err(reason) = rig.runtime.own_users() {
        eprintln!("left out: {reason}");
    }
    for own_users in [false, true] {
        if own_users && rig.runtime.own_users().is_err() {
            continue;
        }
        let name = |kind: &str| format!("{kind}{}", if own_users { "-users" } else { "" });
        let sandbox = |id: &str| SandboxConfig { own_users, ..rig.sandbox_config(id) };
        let users: &[Expected] = if own_users { EXPECTED_WITH_OWN_USERS } else { &[] };

        let id = name("plain");
        let output = run_in(&rig, &sandbox(&id), attacker(&rig, &id, &["all"])).await;
        wrong.extend(judge(&id, &output, &[users]));

        let id = name("confined");
        let mut config = attacker(&rig, &id, &["all"]);
        config.capabilities = CapabilityChanges { add: Vec::new(), drop: vec!["ALL".to_owned()] };
        config.no_new_privileges = true;
        let output = run_in(&rig, &sandbox(&id), config).await;
        wrong.extend(judge(&id, &output, &[users, EXPECTED_WITHOUT_POWER]));

        let id = name("exec");
        let config = rig.container_config(&id, &["sh", "-c", "echo ready; sleep 600"]);
        let running = start_in(&rig, &sandbox(&id), config).await;
        rig.await_output(&id, "ready").await;
        let command = ["attack", "all"].map(str::to_owned);
        let executed = rig
            .runtime
            .exec_sync(&running.sandbox, &running.container, &command, common::PATIENCE)
            .await
            .unwrap();
        let output = String::from_utf8(executed.output).unwrap();
        wrong.extend(judge(&id, &output, &[EXPECTED_OF_EXEC, users]));
        rig.runtime.remove_sandbox(&running.sandbox).await.unwrap();

        // So that the filter is not all that stands between.
        let id = name("unfiltered");
        let mut config = attacker(&rig, &id, &["all"]);
        config.seccomp = SeccompProfile::Unconfined;
        let output = run_in(&rig, &sandbox(&id), config).await;
        let unfiltered: &[Expected] =
            if own_users { EXPECTED_UNFILTERED_WITH_OWN_USERS } else { &[] };
        wrong.extend(judge(&id, &output, &[unfiltered, EXPECTED_UNFILTERED, users]));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(host_state(), before);
    drop(others);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_sees_the_processes_of_the_machine_gets_into_none() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    arm(&rig);
    let victim = rig.sandbox("victim").await;
    let shim = victim.network_namespace.unwrap();
    let shim = shim.ancestors().nth(2).and_then(Path::file_name).unwrap().to_str().unwrap();
    for (id, seccomp, network) in [
        ("filtered", SeccompProfile::RuntimeDefault, false),
        ("unfiltered", SeccompProfile::Unconfined, true),
    ] {
        let of_host = HostNamespaces { processes: true, network, ipc: false };
        let sandbox = SandboxConfig { of_host, ..rig.sandbox_config(id) };
        let mut config = attacker(&rig, id, &["processes", shim]);
        config.seccomp = seccomp;
        let output = run_in(&rig, &sandbox, config).await;
        assert!(output.ends_with("end\n"), "{output}");
        let wrong: Vec<&str> = output
            .lines()
            .filter(|line| *line != "end")
            .filter(|line| !(line.ends_with(": EPERM") || line.ends_with(": EACCES")))
            .collect();
        assert_eq!(wrong, Vec::<&str>::new(), "{output}");
        assert_eq!(output.lines().count(), 14, "{output}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_has_no_socket_that_a_pod_with_the_machines_network_finds() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let of_host = HostNamespaces { network: true, ..Default::default() };
    let sandbox = SandboxConfig { of_host, ..rig.sandbox_config("c") };
    let config = rig.container_config("c", &["sh", "-c", "echo ready; sleep 600"]);
    let running = start_in(&rig, &sandbox, config).await;
    rig.await_output("c", "ready").await;
    let sockets = rig.exec(&running, "cat /proc/net/unix").await.output;
    let sockets = String::from_utf8(sockets).unwrap();
    let shim = common::processes()
        .into_iter()
        .find(|process| {
            process.command_line.starts_with("kutter-shim")
                && process.command_line.contains(rig.folder.path().to_str().unwrap())
        })
        .unwrap();
    let held = fs::read_dir(format!("/proc/{}/fd", shim.pid)).unwrap();
    let held = held.filter_map(|entry| {
        let name = fs::read_link(entry.ok()?.path()).ok()?;
        let inode = name.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        sockets.lines().find(|line| line.split_whitespace().nth(6) == Some(&*inode))
    });
    let held: Vec<&str> = held.collect();
    // The table shows its listener, which has a path; and that the container has not.
    assert!(held.iter().any(|line| line.ends_with(" shim.sock")), "{held:?}");
    assert!(held.iter().all(|line| !line.contains('@')), "{held:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_descriptor_of_the_creator_is_a_working_directory() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sandbox = rig.sandbox("c").await.config.id;
    for number in 3..24 {
        let id = format!("c{number}");
        let mut config = rig.container_config(&id, &["sh", "-c", "echo came; sleep 600"]);
        config.working_directory = format!("/proc/self/fd/{number}");
        match rig.runtime.start_container(&sandbox, &config).await {
            Err(error) => {
                let text = format!("{error}");
                assert!(text.contains("working directory"), "{number}: {text}");
            }
            // Nothing but its own root.
            Ok(state) => {
                let outside = fs::metadata("/").unwrap();
                let reached = fs::metadata(format!("/proc/{}/cwd/", state.pid.unwrap())).unwrap();
                use std::os::unix::fs::MetadataExt as _;
                panic!("{number} leads to {} {}", reached.ino(), outside.ino());
            }
        }
    }
    rig.finish().await;
}
