//! What a container cannot do.

mod common;

use std::fs;
use std::path::Path;

use common::{Rig, eventually, is_root, status_field};
use runtime::{
    Access, AppArmorProfile, CapabilityChanges, ContainerRuntime, Mount, MountSource, Propagation,
    Resources, SeccompProfile,
};

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_its_own() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; \
                  ls /proc | grep -c -E '^[0-9]+$'; echo $$; cat /proc/self/cgroup";
    let (_, output) = rig.run_to_end("c", script).await;
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(!output.contains(host.to_str().unwrap()), "{name}");
    }
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[6].parse::<u32>().unwrap() <= 4, "{output}");
    assert_eq!(lines[7], "1");
    assert!(!output.contains("kutter-test"), "{output}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dangerous_calls_are_refused_and_capabilities_are_few() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    // Through one pipe, so that the order of the lines is theirs.
    let script = "exec 2>&1; cat /proc/self/status; unshare -m true; mount -t tmpfs x /tmp; \
                  umount /proc; hostname other; ip link add d0 type dummy; chroot / true && echo ok; \
                  mknod /tmp/mem c 1 1 && cat /tmp/mem; cat /dev/kmsg; echo x > /proc/sys/kernel/msgmax";
    let (_, output) = rig.run_to_end("c", script).await;
    assert_eq!(status_field(&output, "Seccomp"), "2");
    assert_eq!(status_field(&output, "CapBnd"), "00000000a80405fb");
    assert_eq!(status_field(&output, "NoNewPrivs"), "0");
    for refusal in [
        "unshare: unshare(0x20000): Operation not permitted",
        "mount: permission denied (are you root?)",
        "umount: can't unmount /proc: Operation not permitted",
        "hostname: sethostname: Operation not permitted",
        "Operation not permitted\nok\n",
        "cat: can't open '/tmp/mem': Operation not permitted",
        "cat: can't open '/dev/kmsg': No such file or directory",
        "can't create /proc/sys/kernel/msgmax: Read-only file system",
    ] {
        assert!(output.contains(refusal), "{refusal}: {output}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unconfined_and_added_capabilities_take_effect() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "cat /proc/self/status; unshare -m true && echo unshared; \
                  mount -t tmpfs x /tmp && echo mounted";
    let mut config = rig.container_config("c", &["sh", "-c", script]);
    config.seccomp = SeccompProfile::Unconfined;
    // The default profile lets nobody mount.
    config.app_armor = AppArmorProfile::Unconfined;
    config.capabilities.add = vec!["SYS_ADMIN".to_owned()];
    let (_, output) = rig.run_config_to_end(config).await;
    assert_eq!(status_field(&output, "Seccomp"), "0");
    assert!(output.contains("unshared\nmounted\n"), "{output}");

    let mut config = rig.container_config("none", &["sh", "-c", "cat /proc/self/status"]);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    config.capabilities = CapabilityChanges { add: names(&["CHOWN"]), drop: names(&["ALL"]) };
    let (_, output) = rig.run_config_to_end(config).await;
    for set in ["CapBnd", "CapEff", "CapPrm"] {
        assert_eq!(status_field(&output, set), "0000000000000001");
    }
    assert_eq!(status_field(&output, "CapAmb"), "0000000000000000");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_new_privileges_disarms_set_user_id_programs() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let program = rig.layer.join("bin/busybox-suid");
    fs::copy(rig.layer.join("bin/busybox"), &program).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    // Nobody needs a password to become root here, only the power to do so.
    let passwd = fs::read_to_string(rig.layer.join("etc/passwd")).unwrap();
    fs::write(rig.layer.join("etc/passwd"), passwd.replace("root:x:", "root::")).unwrap();
    for (id, no_new_privileges, expected) in
        [("with", true, "su: must be suid to work properly"), ("without", false, "uid=0")]
    {
        let mut config = rig.container_config(id, &["/bin/busybox-suid", "su", "-c", "id"]);
        config.user.uid = 1000;
        config.no_new_privileges = no_new_privileges;
        let (_, output) = rig.run_config_to_end(config).await;
        assert!(output.starts_with(expected), "{output}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_to_the_machine_are_masked_or_read_only() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let files = "/proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug \
                 /proc/timer_list /proc/timer_stats";
    let folders = "/proc/acpi /proc/asound /proc/scsi /sys/devices/virtual/powercap /sys/firmware";
    let script = format!(
        "for f in {files}; do [ -e $f ] && [ -n \"$(head -c1 $f)\" ] && echo open $f; done; \
         for d in {folders}; do [ -n \"$(ls -A $d 2>/dev/null)\" ] && echo open $d; done; \
         for f in /sys /proc/bus /proc/fs /proc/irq /proc/sys; do \
           [ -e $f ] && touch $f/x 2>&1 | grep -v -e Read-only -e 'No such' ; done; \
         [ -e /proc/sysrq-trigger ] && echo b > /proc/sysrq-trigger && echo wrote; \
         mount | grep cgroup; ls /dev"
    );
    let (_, output) = rig.run_to_end("c", &script).await;
    assert!(!output.contains("open /") && !output.contains("touch:"), "{output}");
    assert!(!output.contains("wrote"), "{output}");
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        assert!(!output.contains("cgroup"), "{output}");
    }
    for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm"] {
        assert!(output.contains(&format!("\n{device}\n")), "{device}: {output}");
    }
    let hidden = ["mem", "kmsg", "vda", "sda", "loop0", "fuse", "net"];
    assert!(!hidden.iter().any(|name| output.contains(&format!("\n{name}\n"))), "{output}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_root_refuses_writes_but_not_on_mounts() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "touch /x; touch /etc/x; touch /data/x /dev/shm/x && echo written; pwd";
    let mut config = rig.container_config("c", &["sh", "-c", script]);
    config.read_only_root = true;
    config.mounts = vec![Mount {
        source: MountSource::Tmpfs { size_bytes: None },
        destination: "/data".to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    }];
    let (_, output) = rig.run_config_to_end(config).await;
    assert!(output.contains("touch: /x: Read-only file system"), "{output}");
    assert!(output.contains("touch: /etc/x: Read-only file system"), "{output}");
    assert!(output.contains("written\n"), "{output}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_kills_and_is_told() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut config = rig.container_config(
        "c",
        &["sh", "-c", "head -c 200000000 /dev/zero | tail -c 150000000 | wc -c; exit 0"],
    );
    config.resources = Resources { memory_limit_bytes: Some(32 << 20), ..Default::default() };
    let (exit, output) = rig.run_config_to_end(config).await;
    assert!(exit.oom_killed, "{output}");
    // With version 1 only a child is killed, and the container itself ends as it likes.
    let whole = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    assert_eq!(exit.exit_code, if whole { 137 } else { 0 });

    let mut config =
        rig.container_config("itself", &["dd", "if=/dev/zero", "of=/dev/null", "bs=100M"]);
    config.resources = Resources { memory_limit_bytes: Some(32 << 20), ..Default::default() };
    let (exit, _) = rig.run_config_to_end(config).await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, Some(9), true));

    // Killed for another reason.
    let mut killed = rig.run("killed", "sleep 600").await;
    rig.runtime.signal_container(&killed.sandbox, &killed.container, 9).await.unwrap();
    assert!(!killed.exit().await.oom_killed);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_within_its_bound() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "for i in $(seq 1 100); do sleep 600 & done; echo survived; sleep 600";
    let mut config = rig.container_config("c", &["sh", "-c", script]);
    config.resources.pids_limit = Some(20);
    let running = rig.run_config("c", config).await;
    rig.await_output("c", "fork").await;
    assert!(rig.output("c").contains("can't fork: Resource temporarily unavailable"));
    rig.runtime.remove_sandbox(&running.sandbox).await.unwrap();

    // One that says nothing is bounded as well.
    let default = rig.run("default", "sleep 600").await;
    let limits: Vec<String> = rig
        .cgroups()
        .iter()
        .filter_map(|path| fs::read_to_string(path.join("default/default/pids.max")).ok())
        .collect();
    assert_eq!(limits, ["4096\n"]);
    rig.runtime.remove_sandbox(&default.sandbox).await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_bounds_arrive_in_the_control_group() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut config = rig.container_config("c", &["sleep", "600"]);
    config.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        memory_limit_bytes: Some(64 << 20),
        ..Default::default()
    };
    rig.run_config("c", config).await;
    let read = |name: &str| {
        let read = |path: &std::path::PathBuf| fs::read_to_string(path.join("c/c").join(name)).ok();
        rig.cgroups().iter().find_map(read)
    };
    match read("cpu.max") {
        Some(bound) => assert_eq!(bound, "50000 100000\n"),
        None => {
            assert_eq!(read("cpu.cfs_quota_us").unwrap(), "50000\n");
            assert_eq!(read("cpu.shares").unwrap(), "512\n");
        }
    }
    let limit = read("memory.max").or_else(|| read("memory.limit_in_bytes")).unwrap();
    assert_eq!(limit, format!("{}\n", 64 << 20));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_cannot_change_its_own_bounds() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "mkdir -p /tmp/cg; mount -t cgroup -o memory x /tmp/cg; mount -t cgroup2 x /tmp/cg; \
                  echo 1 > /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/x; \
                  find / -name 'memory.limit_in_bytes' -o -name 'memory.max' 2>/dev/null | \
                  while read f; do echo 999999999 > $f && echo raised; done; echo end";
    let mut config = rig.container_config("c", &["sh", "-c", script]);
    config.resources.memory_limit_bytes = Some(64 << 20);
    let (_, output) = rig.run_config_to_end(config).await;
    assert!(!output.contains("raised") && output.ends_with("end\n"), "{output}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn symlinks_in_an_image_lead_mounts_nowhere_else() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let outside = rig.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, rig.layer.join("escape")).unwrap();
    std::os::unix::fs::symlink("../../../../../..", rig.layer.join("up")).unwrap();
    let host = rig.folder.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "found\n").unwrap();
    let mut config = rig.container_config(
        "c",
        &["sh", "-c", "cat /escape/deep/file; cat /up/data/file; cat /etc/resolv.conf; pwd"],
    );
    let mount = |destination: &str| Mount {
        source: MountSource::Host(host.clone()),
        destination: destination.to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    };
    config.mounts = vec![mount("/escape/deep"), mount("/up/data")];
    // As images have it whose resolver is systemd's: a link to a file that is not there.
    let link = rig.layer.join("etc/resolv.conf");
    std::os::unix::fs::symlink("../run/resolve/stub.conf", link).unwrap();
    config.mounts.push(Mount {
        source: MountSource::Host(host.join("file")),
        destination: "/etc/resolv.conf".to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    });
    config.working_directory = "/escape/work".to_owned();
    let (exit, output) = rig.run_config_to_end(config).await;
    assert_eq!(exit.exit_code, 0, "{output}");
    assert!(output.starts_with("found\nfound\nfound\n"), "{output}");
    assert!(output.contains(&format!("{}/work\n", outside.display())), "{output}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_descriptor_of_the_shim_leaks() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "ls /proc/self/fd; readlink /proc/self/fd/0";
    let running = rig.run("c", &format!("{script}; sleep 600")).await;
    rig.await_output("c", "/dev/null").await;
    let own = rig.output("c");
    let executed = String::from_utf8(rig.exec(&running, script).await.output).unwrap();
    for listing in [own, executed] {
        // The last is of the listing itself.
        assert_eq!(listing, "0\n1\n2\n3\n/dev/null\n");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shim_cannot_be_overwritten_through_an_exec() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let program = fs::read(rig.config.shim_path.as_ref().unwrap()).unwrap();
    // The program that is executed is the one that executes: its image is then open to the
    // container, which tries to write to it for as long as it is there and after.
    std::os::unix::fs::symlink("/proc/self/exe", rig.layer.join("bin/trap")).unwrap();
    let script = "while :; do for p in /proc/[0-9]*; do \
                  ( exec 9<$p/exe; readlink /proc/self/fd/9 | grep -q shim && \
                    { echo seen; echo x > /proc/self/fd/9 && echo overwritten; } ) 2>&1 | grep -v nonexist; \
                  done; done";
    let running = rig.run("c", script).await;
    for _ in 0..20 {
        let _ = rig
            .runtime
            .exec_sync(&running.sandbox, &running.container, &["trap".to_owned()], common::PATIENCE)
            .await;
    }
    assert!(!rig.output("c").contains("overwritten"), "{}", rig.output("c"));
    assert_eq!(fs::read(rig.config.shim_path.as_ref().unwrap()).unwrap(), program);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_the_host_do_not_appear_in_a_running_container() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let host = rig.folder.path().join("host");
    fs::create_dir_all(host.join("later")).unwrap();
    let mut config = rig.container_config("c", &["sh", "-c", "echo ready; sleep 600"]);
    config.mounts = vec![Mount {
        source: MountSource::Host(host.clone()),
        destination: "/data".to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    }];
    let running = rig.run_config("c", config).await;
    rig.await_output("c", "ready").await;
    let flags = nix::mount::MsFlags::empty();
    let later = host.join("later");
    nix::mount::mount(Some("x"), &later, Some("tmpfs"), flags, None::<&str>).unwrap();
    let seen = rig.exec(&running, "mount | grep later").await;
    nix::mount::umount(&later).unwrap();
    assert_eq!(seen.exit_code, 1);
    // Nor does the container's root appear on the host.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("rootfs"));
    eventually("the mount is gone", || {
        !fs::read_to_string("/proc/self/mountinfo").unwrap().contains("later")
    })
    .await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_standard_devices_may_be_opened() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    // Making a node is harmless, opening it is not. The disk, memory, a loop device, the clock.
    let script = "for d in 'b 8 0' 'b 254 0' 'c 1 1' 'b 7 0' 'c 10 237' 'c 254 0'; do \
                  mknod /tmp/node $d && (exec 3</tmp/node) 2>&1 | grep -v 'not permitted'; \
                  rm /tmp/node; done; \
                  for d in null zero full random urandom; do head -c0 /dev/$d || echo no $d; done; \
                  echo end";
    let (_, output) = rig.run_to_end("c", script).await;
    assert_eq!(output, "end\n");
    let running = rig.run("pod", "sleep 600").await;
    let list = rig
        .cgroups()
        .into_iter()
        .find_map(|path| fs::read_to_string(path.join("pod/pod/devices.list")).ok());
    // With version 2 the list is a program.
    if let Some(list) = list {
        assert!(!list.contains("a *:*"), "{list}");
        eprintln!("{list}");
    }
    rig.runtime.remove_sandbox(&running.sandbox).await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_may_ping_and_listen_on_any_port() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "cat /proc/sys/net/ipv4/ping_group_range; nc -l -p 80 & \
                  until grep -q ':0050 .* 0A ' /proc/net/tcp*; do usleep 1000; done; echo listens";
    let mut config = rig.container_config("c", &["sh", "-c", script]);
    config.user = runtime::User { uid: 1000, gid: 1000, additional_gids: Vec::new() };
    config.capabilities.drop = vec!["ALL".to_owned()];
    config.no_new_privileges = true;
    let (exit, output) = rig.run_config_to_end(config).await;
    assert_eq!(exit.exit_code, 0, "{output}");
    assert_eq!(output, "0\t2147483647\nlistens\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_holds_nothing_that_its_caller_had_open() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    // Unlike what Rust opens, these are handed on to every program that is started.
    let (ours, _other_end) = nix::unistd::pipe().unwrap();
    let name = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ours)));
    let state = rig.sandbox("c").await;
    let shim = state.network_namespace.unwrap();
    let held = fs::read_dir(shim.ancestors().nth(2).unwrap().join("fd")).unwrap();
    let held: Vec<_> = held.map(|entry| fs::read_link(entry.unwrap().path()).unwrap()).collect();
    assert!(!held.contains(&name.unwrap()), "{held:?}");
    rig.finish().await;
}
