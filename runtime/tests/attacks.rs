//! Attacks from inside a container: each fails with the error it should, and the host is as before.
//!
//! The attacker is a program (`attack/`) that runs in containers of the default kind, of the most
//! confined kind, and by exec.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use common::{Rig, Running, is_root};
use runtime::{
    Access, CapabilityChanges, ContainerConfig, ContainerRuntime as _, Mount, MountSource,
    Propagation, Resources, SandboxConfig,
};

/// What must come of an attempt; several where kernels or control groups differ.
const EXPECTED: &[(&str, &[&str])] = &[
    ("mount tmpfs", &["EPERM"]),
    ("mount cgroup", &["EPERM"]),
    ("mount cgroup2", &["EPERM"]),
    ("mount proc", &["EPERM"]),
    ("mount over /etc", &["EPERM"]),
    ("remount /proc/sys", &["EPERM"]),
    ("remount /sys", &["EPERM"]),
    ("share mounts", &["EPERM"]),
    ("umount /proc/kcore", &["EPERM"]),
    ("pivot_root", &["EPERM"]),
    ("fsopen", &["EPERM"]),
    ("open_tree", &["EPERM"]),
    ("unshare users", &["EPERM"]),
    ("unshare mounts", &["EPERM"]),
    ("unshare network", &["EPERM"]),
    ("clone into new users", &["EPERM"]),
    // A filter cannot see its flags, so there is none, and the C library takes `clone`.
    ("clone3", &["ENOSYS"]),
    ("setns", &["EPERM"]),
    ("init_module", &["EPERM"]),
    ("finit_module", &["EPERM"]),
    ("delete_module", &["EPERM"]),
    ("kexec_load", &["EPERM"]),
    ("bpf", &["EPERM"]),
    ("perf_event_open", &["EPERM"]),
    ("userfaultfd", &["EPERM"]),
    ("io_uring_setup", &["EPERM"]),
    ("syslog", &["EPERM"]),
    ("reboot", &["EPERM"]),
    ("swapon", &["EPERM"]),
    ("acct", &["EPERM"]),
    ("quotactl", &["EPERM"]),
    ("fanotify_init", &["EPERM"]),
    ("open_by_handle_at", &["EPERM"]),
    ("add_key", &["EPERM"]),
    ("keyctl", &["EPERM"]),
    ("request_key", &["EPERM"]),
    ("sethostname", &["EPERM"]),
    ("settimeofday", &["EPERM"]),
    ("clock_settime", &["EPERM"]),
    ("adjtimex", &["EPERM"]),
    ("iopl", &["EPERM"]),
    ("ioperm", &["EPERM"]),
    ("personality", &["EPERM"]),
    ("vsock", &["EPERM", "EAFNOSUPPORT"]),
    ("raw socket", &["EPERM"]),
    ("packet socket", &["EPERM"]),
    ("take the interface down", &["EPERM"]),
    ("real-time scheduling", &["EPERM"]),
    ("priority", &["EACCES"]),
    ("real-time i/o", &["EPERM"]),
    ("raise the descriptor limit", &["EPERM"]),
    ("be spared by the oom killer", &["EACCES"]),
    ("signal any other process", &["ESRCH"]),
    ("signal the parent", &["none"]),
    ("trace the first process", &["itself"]),
    ("shared memory of others", &["ENOENT"]),
    ("message queue of others", &["ENOENT"]),
    ("abstract socket of others", &["ECONNREFUSED"]),
    // With version 1 there is no such file, with version 2 it is read-only.
    ("raise a limit", &["ENOENT", "EROFS"]),
    ("leave the control group", &["ENOENT", "EROFS"]),
    ("make a control group", &["EROFS", "ENOENT", "EPERM"]),
    ("core_pattern", &["EROFS"]),
    ("modprobe", &["EROFS", "ENOENT"]),
    ("ip_forward", &["EROFS"]),
    ("sysrq-trigger", &["EROFS", "ENOENT"]),
    ("sysrq", &["EROFS", "ENOENT"]),
    ("binfmt_misc", &["EROFS", "ENOENT"]),
    ("drop_caches", &["EROFS"]),
    ("irq", &["EROFS", "EIO"]),
    ("uevent_helper", &["EROFS", "ENOENT"]),
    ("power", &["EROFS", "ENOENT"]),
    ("block device queue", &["EROFS", "EACCES", "ENOENT"]),
    ("write into /sys", &["EROFS"]),
    ("kcore", &["empty", "ENOENT"]),
    ("keys", &["empty", "ENOENT"]),
    ("timer_list", &["empty", "ENOENT"]),
    ("interrupts", &["empty", "ENOENT"]),
    ("acpi", &["empty", "ENOENT"]),
    ("scsi", &["empty", "ENOENT"]),
    ("firmware", &["empty", "ENOENT"]),
    ("/proc/kmsg", &["EPERM"]),
    ("/dev/kmsg", &["ENOENT"]),
    ("/dev/mem", &["ENOENT"]),
    ("/dev/fuse", &["ENOENT"]),
    ("/dev/net/tun", &["ENOENT"]),
    ("node of a disk", &["EPERM"]),
    ("node of a virtual disk", &["EPERM"]),
    ("node of memory", &["EPERM"]),
    ("node of the kernel log", &["EPERM"]),
    ("node of a terminal", &["EPERM"]),
    ("node of fuse", &["EPERM"]),
    ("node of kvm", &["EPERM"]),
    ("above the root", &["inside"]),
    ("root of the first process", &["inside"]),
    ("a link above the root", &["inside"]),
    ("chroot and back", &["inside"]),
    ("overwrite the own program", &["ETXTBSY"]),
    ("program of the first process", &["itself"]),
    ("leaked descriptors", &["none"]),
    ("an unchangeable file", &["EPERM"]),
];

/// What is different for one that an exec started: the first process is another's, of the same
/// container.
const EXPECTED_OF_EXEC: &[(&str, &[&str])] =
    &[("trace the first process", &["ok"]), ("program of the first process", &["ETXTBSY"])];

/// What is different without any capability.
const EXPECTED_WITHOUT_POWER: &[(&str, &[&str])] = &[
    // Not even its own root may be changed.
    ("chroot and back", &["EPERM"]),
    // A parameter that nobody may write is first of all that.
    ("block device queue", &["EACCES", "EROFS", "ENOENT"]),
];

/// What is different where its users are its own.
const EXPECTED_WITH_OWN_USERS: &[(&str, &[&str])] = &[
    // Its root may not even try.
    ("core_pattern", &["EACCES"]),
    ("modprobe", &["EACCES", "ENOENT"]),
    ("ip_forward", &["EACCES", "EROFS"]),
    ("sysrq-trigger", &["EACCES", "ENOENT"]),
    ("sysrq", &["EACCES", "ENOENT"]),
    ("binfmt_misc", &["EACCES", "ENOENT"]),
    ("drop_caches", &["EACCES"]),
    ("irq", &["EACCES"]),
    ("uevent_helper", &["EACCES", "ENOENT"]),
    ("power", &["EACCES", "ENOENT"]),
    ("/proc/kmsg", &["EACCES", "EPERM"]),
];

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

/// Puts the attacker into the image, with what it is linked to: the same libraries as this program.
fn arm(rig: &Rig) {
    let target = rig.layer.join("bin/attack");
    fs::copy(env!("CARGO_BIN_EXE_attack"), target).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let paths: std::collections::BTreeSet<&Path> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.contains(".so"))
        .map(Path::new)
        .collect();
    for path in paths {
        let inside = rig.layer.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(path, inside).unwrap();
    }
    // Where programs say that their loader is.
    for loader in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
        if Path::new(loader).exists() {
            let inside = rig.layer.join(loader.trim_start_matches('/'));
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::copy(loader, inside).unwrap();
        }
    }
}

fn attacker(rig: &Rig, id: &str, args: &[&str]) -> ContainerConfig {
    let args: Vec<&str> = ["attack"].into_iter().chain(args.iter().copied()).collect();
    rig.container_config(id, &args)
}

/// Compares what came of the attempts with what must.
#[track_caller]
fn judge(output: &str, different: &[(&str, &[&str])]) {
    assert!(output.ends_with("end\n"), "the attacker came to its end: {output}");
    let outcomes: BTreeMap<&str, &str> =
        output.lines().filter_map(|line| line.rsplit_once(": ")).collect();
    let mut wrong = Vec::new();
    for (name, expected) in EXPECTED {
        let expected = different
            .iter()
            .find_map(|(other, outcomes)| (other == name).then_some(*outcomes))
            .unwrap_or(expected);
        match outcomes.get(name) {
            // Some are of one architecture only.
            None if ["iopl", "ioperm"].contains(name) && !cfg!(target_arch = "x86_64") => {}
            Some(outcome) if expected.contains(outcome) => {}
            outcome => wrong.push(format!("{name}: {outcome:?} instead of {expected:?}")),
        }
    }
    let unknown: Vec<_> =
        outcomes.keys().filter(|name| !EXPECTED.iter().any(|(known, _)| known == *name)).collect();
    assert!(wrong.is_empty() && unknown.is_empty(), "{wrong:#?} {unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_out_of_a_container() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    arm(&rig);
    // What there is to be found.
    let address = SocketAddr::from_abstract_name(b"kutter-attack").unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let before = host_state();

    let (exit, output) = rig.run_config_to_end(attacker(&rig, "plain", &["all"])).await;
    judge(&output, &[]);
    assert_eq!(exit.exit_code, 0);

    let mut config = attacker(&rig, "confined", &["all"]);
    config.capabilities = CapabilityChanges { add: Vec::new(), drop: vec!["ALL".to_owned()] };
    config.no_new_privileges = true;
    let (_, output) = rig.run_config_to_end(config).await;
    judge(&output, EXPECTED_WITHOUT_POWER);

    let running = rig.run("host", "echo ready; sleep 600").await;
    rig.await_output("host", "ready").await;
    let command = ["attack", "all"].map(str::to_owned);
    let executed = rig
        .runtime
        .exec_sync(&running.sandbox, &running.container, &command, common::PATIENCE)
        .await
        .unwrap();
    judge(&String::from_utf8(executed.output).unwrap(), EXPECTED_OF_EXEC);

    // As pods are by default: root in it is nobody on the machine.
    if let Err(reason) = rig.runtime.own_users() {
        eprintln!("left out: {reason}");
    } else {
        let sandbox = SandboxConfig { own_users: true, ..rig.sandbox_config("users") };
        let sandbox = rig.runtime.create_sandbox(&sandbox).await.unwrap().config.id;
        let config = attacker(&rig, "users", &["all"]);
        let events = rig.runtime.events();
        let state = rig.runtime.start_container(&sandbox, &config).await.unwrap();
        Running { sandbox, container: config.id, state, events }.exit().await;
        judge(&rig.output("users"), EXPECTED_WITH_OWN_USERS);
    }

    rig.runtime.shutdown_all().await.unwrap();
    assert_eq!(host_state(), before);
    rig.finish().await;
}

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
