//! What containers of a sandbox share with each other, and with the machine.

mod common;

use std::fs;

use common::{PATIENCE, Rig, Running, eventually, is_root, runs, status_field};
use runtime::{
    ContainerRuntime, Error, HostNamespaces, RuntimeEvent, SandboxConfig, SandboxId, SeccompProfile,
};

async fn start(rig: &Rig, sandbox: &SandboxId, id: &str, script: &str) -> Running {
    let config = rig.container_config(id, &["sh", "-c", script]);
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(sandbox, &config).await.unwrap();
    Running { sandbox: sandbox.clone(), container: config.id, state, events }
}

async fn sharing_processes(rig: &Rig, own_users: bool) -> SandboxId {
    let config =
        SandboxConfig { shares_processes: true, own_users, ..rig.sandbox_config("shared") };
    rig.runtime.create_sandbox(&config).await.unwrap().config.id
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_processes_outlive_each_other_under_a_first_that_can_do_nothing() {
    if !is_root() {
        return;
    }
    for own_users in [false, true] {
        let rig = Rig::new().await;
        if own_users && let Err(reason) = rig.runtime.own_users() {
            eprintln!("with the machine's users alone: {reason}");
            return rig.finish().await;
        }
        let sandbox = sharing_processes(&rig, own_users).await;
        // An orphan is adopted, and waited for, by the first.
        let script = "echo $$; (sleep 3333 &) ; (true &); sleep 4444";
        let mut one = start(&rig, &sandbox, "one", script).await;
        let two = start(&rig, &sandbox, "two", "while :; do sleep 1000; done").await;
        let seen = rig.exec(&two, "ps -o pid,comm,args").await;
        let seen = String::from_utf8(seen.output).unwrap();
        assert!(seen.contains("sleep 3333") && seen.contains("sleep 4444"), "{seen}");
        assert!(seen.contains("\n    1 pause "), "{seen}");
        assert!(!seen.contains("[true]"), "{seen}");
        // It shows nothing, and cannot be harmed from within.
        let first = "cat /proc/1/status; ls /proc/1/root/ | wc -l; ls /proc/1/fd; kill -9 1; \
                     kill -15 1; readlink /proc/1/cwd";
        let first = String::from_utf8(rig.exec(&two, first).await.output).unwrap();
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(status_field(&first, set), "0000000000000000");
        }
        assert_eq!(status_field(&first, "NoNewPrivs"), "1");
        assert!(!first.contains("proc\n") && !first.contains("etc\n"), "{first}");

        rig.runtime.signal_container(&sandbox, &one.container, 9).await.unwrap();
        assert_eq!(one.exit().await.exit_code, 137);
        let left = rig.exec(&two, "ps -o args").await;
        let left = String::from_utf8(left.output).unwrap();
        assert!(!left.contains("sleep 3333"), "{left}");
        assert!(runs(two.pid()));
        // A restart is among the same processes.
        start(&rig, &sandbox, "one-again", "sleep 5555").await;
        let seen = rig.exec(&two, "ps -o args").await;
        assert!(String::from_utf8_lossy(&seen.output).contains("sleep 5555"));
        rig.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_first_process_was_killed_is_lost() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sandbox = sharing_processes(&rig, false).await;
    let mut one = start(&rig, &sandbox, "one", "sleep 4444").await;
    let first = fs::read(rig.config.state_dir.join("sandboxes/shared/first.json")).unwrap();
    let first: serde_json::Value = serde_json::from_slice(&first).unwrap();
    let pid = nix::unistd::Pid::from_raw(first["pid"].as_i64().unwrap() as i32);
    let mut events = rig.runtime.events();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(one.exit().await.exit_code, 137);
    let lost = async {
        while !matches!(events.recv().await.unwrap(), RuntimeEvent::SandboxLost { .. }) {}
    };
    tokio::time::timeout(PATIENCE, lost).await.expect("it is lost");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_processes_end_with_a_sandbox_whose_shim_was_killed() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    let own_users = rig.runtime.own_users().is_ok();
    let sandbox = sharing_processes(&rig, own_users).await;
    let one = start(&rig, &sandbox, "one", "sleep 4444").await;
    let shim = fs::read(rig.config.state_dir.join("sandboxes/shared/shim.json")).unwrap();
    let shim: serde_json::Value = serde_json::from_slice(&shim).unwrap();
    let pid = nix::unistd::Pid::from_raw(shim["pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the shim is gone", || !runs(pid.as_raw() as u32)).await;
    assert!(runs(one.pid()));
    rig.restart().await;
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    assert!(!runs(one.pid()));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_the_machine_are_had_when_asked_for() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let of_host = HostNamespaces { network: true, processes: true, ipc: true };
    let config = SandboxConfig { of_host, ..rig.sandbox_config("host") };
    let sandbox = rig.runtime.create_sandbox(&config).await.unwrap().config.id;
    let script = "for n in net pid ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done; \
                  hostname; setsid sleep 6666 & sleep 7777";
    let mut running = start(&rig, &sandbox, "c", script).await;
    rig.await_output("c", &nix::unistd::gethostname().unwrap().to_string_lossy()).await;
    let output = rig.output("c");
    let lines: Vec<&str> = output.lines().collect();
    for (name, line, shared) in [
        ("net", lines[0], true),
        ("pid", lines[1], true),
        ("ipc", lines[2], true),
        ("uts", lines[3], true),
        ("mnt", lines[4], false),
        ("cgroup", lines[5], false),
    ] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(host.to_str().unwrap() == line, shared, "{name}: {output}");
    }
    let inside = rig.exec(&running, "readlink /proc/self/ns/pid; ls /proc/1/exe").await;
    assert!(String::from_utf8_lossy(&inside.output).starts_with(lines[1]));
    // What it has started goes with it, and nothing else.
    rig.runtime.signal_container(&sandbox, &running.container, 9).await.unwrap();
    running.exit().await;
    let left = common::processes().into_iter().find(|p| p.command_line.contains("sleep 6666"));
    assert!(left.is_none());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_the_machine_are_not_set_through_a_sandbox() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    for (of_host, name) in [
        (HostNamespaces { network: true, ..Default::default() }, "net.ipv4.ip_forward"),
        (HostNamespaces { ipc: true, ..Default::default() }, "kernel.msgmax"),
    ] {
        let mut config = SandboxConfig { of_host, ..rig.sandbox_config("host") };
        config.sysctls.insert(name.to_owned(), "1".to_owned());
        let refused = rig.runtime.create_sandbox(&config).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_container_may_do_what_root_may() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "cat /proc/self/status; mount -t tmpfs x /tmp && echo mounted; \
                  unshare -m true && echo unshared; ls /dev; \
                  mknod /tmp/log c 1 11 && (exec 3</tmp/log) && echo opened; \
                  echo x > /proc/sysrq-trigger.none 2>&1 | grep -c Read-only; \
                  ls /proc/acpi /sys/firmware | wc -l; touch /sys/fs/cgroup/x 2>&1 | grep Read-only; \
                  cat /proc/sys/kernel/msgmax > /tmp/v && cat /tmp/v > /proc/sys/kernel/msgmax \
                  && echo set; mount | grep ' /sys '";
    let mut config = rig.container_config("c", &["sh", "-c", script]);
    config.privileged = true;
    let (_, output) = rig.run_config_to_end(config).await;
    assert_eq!(status_field(&output, "Seccomp"), "0");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(status_field(&output, "CapEff"), status_field(&own, "CapBnd"));
    for done in ["mounted\n", "unshared\n", "opened\n", "set\n", "sysfs (rw,"] {
        assert!(output.contains(done), "{done}: {output}");
    }
    assert!(!output.contains("Read-only"), "{output}");
    for device in fs::read_dir("/dev").unwrap().flatten() {
        use std::os::unix::fs::FileTypeExt;
        let kind = device.file_type().unwrap();
        let name = device.file_name().into_string().unwrap();
        if (kind.is_block_device() || kind.is_char_device()) && name != "console" {
            assert!(output.contains(&format!("\n{name}\n")), "{name}: {output}");
        }
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_out_of_a_file_holds_for_the_container_and_for_execs() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let file = rig.folder.path().join("profile.json");
    let refuse = |call: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{{"names": ["{call}"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}}]}}"#
        )
    };
    fs::write(&file, refuse("mkdir")).unwrap();
    let script = "mkdir /a; ln -s x /b; grep Seccomp: /proc/self/status";
    let mut config = rig.container_config("c", &["sh", "-c", &format!("{script}; sleep 600")]);
    config.seccomp = SeccompProfile::File(file.clone());
    let running = rig.run_config("c", config.clone()).await;
    rig.await_output("c", "Seccomp:\t2").await;
    assert!(rig.output("c").starts_with("mkdir: can't create directory '/a': Function not impl"));
    let executed = rig.exec(&running, script).await;
    let executed = String::from_utf8_lossy(&executed.output).into_owned();
    assert!(executed.contains("'/a': Function not implemented"), "{executed}");
    // Another content is another filter.
    fs::write(&file, refuse("symlink")).unwrap();
    config.id.0 = "other".to_owned();
    config.log_path = Some(rig.log("other"));
    rig.runtime.start_container(&running.sandbox, &config).await.unwrap();
    rig.await_output("other", "Seccomp:\t2").await;
    assert!(rig.output("other").starts_with("ln: /b: Function not implemented"));
    // One that is not there, or not one, is told.
    for (path, text, complaint) in [
        ("missing.json", None, "missing.json: there is no such file on this node"),
        ("broken.json", Some("{}"), "broken.json: missing field `defaultAction`"),
    ] {
        let path = rig.folder.path().join(path);
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        config.id.0 = "none".to_owned();
        config.seccomp = SeccompProfile::File(path);
        let refused = rig.runtime.start_container(&running.sandbox, &config).await.unwrap_err();
        let Error::Create { reason, .. } = refused else { panic!("{refused}") };
        assert!(reason.contains(complaint), "{reason}");
    }
    rig.finish().await;
}
