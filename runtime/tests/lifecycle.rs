//! Sandboxes and containers from their start to their removal.

mod common;

use std::fs;

use common::{Rig, eventually, is_root, runs};
use runtime::{
    Access, ContainerId, ContainerRuntime, Error, Mount, MountSource, Propagation, SandboxConfig,
    SandboxId, User,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_exits() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let (exit, output) = rig.run_to_end("hello", "echo out; echo err >&2; exit 3").await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (3, None, false));
    assert!(output.contains("out\n") && output.contains("err\n"), "{output}");
    let log = fs::read_to_string(rig.log("hello")).unwrap();
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_sandbox_share_its_network_name_and_memory() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let show = "hostname; echo $HOSTNAME; ip -o link; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc";
    let first = rig.run("pod", &format!("{show}; echo shared > /dev/shm/file; sleep 600")).await;
    rig.await_output("pod", "ipc:").await;
    eventually("the file is written", || {
        let path = rig.config.state_dir.join("sandboxes/pod/shm/file");
        fs::read_to_string(path).is_ok_and(|text| text == "shared\n")
    })
    .await;
    let script = format!("{show}; cat /dev/shm/file; sleep 600");
    let second = rig.container_config("second", &["sh", "-c", &script]);
    rig.runtime.start_container(&first.sandbox, &second).await.unwrap();
    rig.await_output("second", "shared").await;
    let output = rig.output("pod");
    assert!(output.starts_with("host-pod\nhost-pod\n"), "{output}");
    assert!(output.contains("lo: <LOOPBACK,UP,LOWER_UP>"), "{output}");
    assert_eq!(rig.output("second"), format!("{output}shared\n"));
    let sandbox = &rig.runtime.list().await.unwrap()[0];
    let net = fs::read_link(sandbox.network_namespace.as_ref().unwrap()).unwrap();
    assert!(output.contains(net.to_str().unwrap()));
    assert_ne!(net, fs::read_link("/proc/self/ns/net").unwrap());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_an_operation_changes_nothing() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "sleep 600").await;
    let again = rig.sandbox("pod").await;
    assert_eq!(again.containers[0].pid, Some(running.pid()));
    let config = rig.container_config("pod", &["sh", "-c", "echo other"]);
    let again = rig.runtime.start_container(&running.sandbox, &config).await.unwrap();
    assert_eq!(again.pid, Some(running.pid()));
    for _ in 0..2 {
        rig.runtime.remove_container(&running.sandbox, &running.container).await.unwrap();
    }
    assert!(rig.runtime.list().await.unwrap()[0].containers.is_empty());
    // The id is free again.
    let (sandbox, config) = (&running.sandbox, rig.container_config("pod", &["true"]));
    rig.runtime.start_container(sandbox, &config).await.unwrap();
    for _ in 0..2 {
        rig.runtime.remove_sandbox(sandbox).await.unwrap();
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_said_so() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let (nowhere, nothing) = (SandboxId("nowhere".to_owned()), ContainerId("nothing".to_owned()));
    let config = rig.container_config("c", &["true"]);
    let result = rig.runtime.start_container(&nowhere, &config).await;
    assert!(matches!(result, Err(Error::NoSuchSandbox(_))), "{result:?}");
    let sandbox = rig.sandbox("pod").await.config.id;
    let result = rig.runtime.signal_container(&sandbox, &nothing, 15).await;
    assert!(matches!(result, Err(Error::NoSuchContainer { .. })), "{result:?}");
    rig.runtime.remove_container(&sandbox, &nothing).await.unwrap();
    rig.runtime.remove_container(&nowhere, &nothing).await.unwrap();
    rig.runtime.remove_sandbox(&nowhere).await.unwrap();
    let mut running = rig.run("done", "exit 0").await;
    running.exit().await;
    let result = rig.runtime.signal_container(&running.sandbox, &running.container, 15).await;
    assert!(matches!(result, Err(Error::NotRunning(_))), "{result:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_started_is_an_error_in_words() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    fs::write(rig.layer.join("bin/plain"), "no program").unwrap();
    fs::write(rig.layer.join("bin/script"), "#!/bin/gone\n").unwrap();
    for (name, mode) in [("plain", 0o644), ("script", 0o755)] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(rig.layer.join("bin").join(name), mode).unwrap();
    }
    let sandbox = rig.sandbox("pod").await.config.id;
    let cases = [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        ("/bin/foo", "exec: \"/bin/foo\": stat /bin/foo: no such file or directory"),
        ("/bin/plain", "exec: \"/bin/plain\": permission denied"),
        ("plain", "exec: \"plain\": permission denied"),
        ("/bin/script", "exec /bin/script: no such file or directory (its interpreter)"),
        ("/bin", "exec: \"/bin\": is a directory"),
    ];
    for (program, expected) in cases {
        let config = rig.container_config("c", &[program]);
        match rig.runtime.start_container(&sandbox, &config).await {
            Err(Error::Start { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{program}: {other:?}"),
        }
    }
    let missing = MountSource::Host("/nowhere/at/all".into());
    let mount = Mount {
        source: missing,
        destination: "/x".to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    };
    let mut config = rig.container_config("c", &["true"]);
    config.mounts.push(mount);
    let result = rig.runtime.start_container(&sandbox, &config).await;
    assert!(matches!(result, Err(Error::Start { .. })), "{result:?}");
    // Nothing of all these attempts is left.
    assert!(rig.runtime.list().await.unwrap()[0].containers.is_empty());
    let data = rig.config.data_dir.join("sandboxes/pod");
    assert_eq!(fs::read_dir(data).map_or(0, Iterator::count), 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_first_process_and_kill_reaches_all() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let mut polite = rig.run("polite", script).await;
    rig.await_output("polite", "ready").await;
    rig.runtime.signal_container(&polite.sandbox, &polite.container, 15).await.unwrap();
    assert_eq!(polite.exit().await.exit_code, 7);
    assert_eq!(rig.output("polite"), "ready\ncaught\n");

    let script = "trap '' TERM; (sleep 599) & (setsid sleep 598) & echo ready; wait";
    let mut stubborn = rig.run("stubborn", script).await;
    rig.await_output("stubborn", "ready").await;
    rig.runtime.signal_container(&stubborn.sandbox, &stubborn.container, 15).await.unwrap();
    rig.runtime.signal_container(&stubborn.sandbox, &stubborn.container, 9).await.unwrap();
    let exit = stubborn.exit().await;
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    let pids: Vec<String> = rig
        .cgroups()
        .iter()
        .map(|path| fs::read_to_string(path.join("stubborn/stubborn/cgroup.procs")))
        .map(Result::unwrap_or_default)
        .collect();
    assert_eq!(pids.concat(), "");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_user_folder_and_mounts_are_as_asked() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let host = rig.folder.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "from the host").unwrap();
    let mut config = rig.container_config(
        "c",
        &[
            "sh",
            "-c",
            "exec 2>&1; pwd; id; echo $A $HOME; cat /deep/in/file; touch /tmpfs/x && ls /tmpfs; \
          touch /deep/in/new; head -n1 /etc/hosts; echo > /dev/stdout; sleep 0",
        ],
    );
    config.env = vec![("A".to_owned(), "1 2".to_owned())];
    config.user = User { uid: 1000, gid: 1001, additional_gids: vec![5, 6] };
    config.working_directory = "/made/for/it".to_owned();
    let hosts = rig.folder.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 me\n").unwrap();
    let mount = |source, destination: &str, access| Mount {
        source,
        destination: destination.to_owned(),
        access,
        propagation: Propagation::None,
    };
    config.mounts = vec![
        mount(MountSource::Host(host), "/deep/in", Access::ReadOnly),
        mount(MountSource::Host(hosts), "/etc/hosts", Access::ReadWrite),
        mount(MountSource::Tmpfs { size_bytes: Some(1 << 16) }, "/tmpfs", Access::ReadWrite),
    ];
    let (exit, output) = rig.run_config_to_end(config).await;
    assert_eq!(exit.exit_code, 0, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "/made/for/it");
    assert!(lines[1].starts_with("uid=1000(app) gid=1001 groups=5,6"), "{}", lines[1]);
    assert_eq!(lines[2], "1 2 /home/app");
    assert!(output.contains("from the host"));
    assert!(output.contains("touch: /deep/in/new: Read-only file system"), "{output}");
    assert!(output.contains("127.0.0.1 me"));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_stay_in_the_container() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let upper_layer = rig.folder.path().join("upper layer: with, odd name");
    fs::create_dir_all(upper_layer.join("etc")).unwrap();
    fs::write(upper_layer.join("etc/passwd"), "root:x:0:0::/elsewhere:/bin/sh\n").unwrap();
    let mut config = rig.container_config(
        "c",
        &[
            "sh",
            "-c",
            "echo $HOME; echo new > /etc/group; rm /bin/seq; cat /etc/group; ls /bin/seq",
        ],
    );
    config.layers.push(upper_layer.clone());
    let (exit, output) = rig.run_config_to_end(config).await;
    assert_eq!(exit.exit_code, 1);
    assert!(output.starts_with("/elsewhere\nnew\n"), "{output}");
    assert!(!upper_layer.join("etc/group").exists());
    assert_ne!(fs::read_to_string(rig.layer.join("etc/group")).unwrap(), "new\n");
    assert!(rig.layer.join("bin/seq").is_symlink());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_layers_make_one_root() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut config = rig.container_config("c", &["sh", "-c", "cat /last; ls /layers | wc -l"]);
    for number in 0..120 {
        let layer = rig.folder.path().join(format!("layer-{number}-{}", "x".repeat(100)));
        fs::create_dir_all(layer.join("layers")).unwrap();
        fs::write(layer.join("layers").join(number.to_string()), "").unwrap();
        fs::write(layer.join("last"), format!("{number}\n")).unwrap();
        config.layers.push(layer);
    }
    let (exit, output) = rig.run_config_to_end(config).await;
    assert_eq!((exit.exit_code, output.as_str()), (0, "119\n120\n"));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_lines_arrive_in_order_and_files_rotate() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let (exit, output) = rig.run_to_end("lines", "seq 1 1000").await;
    assert_eq!(exit.exit_code, 0);
    let expected: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    assert_eq!(output, expected);

    let mut config = rig.container_config("rotated", &["sh", "-c", "seq 1 20000"]);
    config.log_max_bytes = 100_000;
    config.log_max_files = 4;
    rig.run_config_to_end(config).await;
    let folder = rig.log("rotated").parent().unwrap().to_owned();
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 4);
    // The one being written sorts first and is the newest.
    files.sort();
    files.rotate_left(1);
    let numbers: Vec<u32> = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            assert!(text.len() <= 100_000);
            let last = |line: &str| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap();
            text.lines().map(last).collect::<Vec<_>>()
        })
        .collect();
    let first = numbers[0];
    assert_eq!(numbers, (first..=20000).collect::<Vec<_>>());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_killed_container_is_not_lost() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    // A last word without a newline, and all in a pipe when the end comes.
    let (exit, output) = rig.run_to_end("c", "seq 1 5000; echo -n last; kill -9 $$").await;
    assert!(output.ends_with("4999\n5000\nlast\n"), "{}", output.len());
    // The first process of a pid namespace is immune to itself.
    assert_eq!(exit.exit_code, 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_output_goes_nowhere() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut config = rig.container_config("c", &["sh", "-c", "yes | head -n 100000; cat"]);
    config.log_path = None;
    let (exit, _) = rig.run_config_to_end(config).await;
    assert_eq!(exit.exit_code, 0);
    assert!(!rig.log("c").exists());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_of_its_own_and_an_input_that_stays_open() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let mut config = rig.container_config("tty", &["sh", "-c", "tty; test -t 1 && echo yes $TERM"]);
    config.tty = true;
    let (exit, output) = rig.run_config_to_end(config).await;
    assert_eq!(exit.exit_code, 0);
    assert_eq!(output, "/dev/pts/0\r\nyes xterm\r\n");

    let mut config = rig.container_config("stdin", &["sh", "-c", "echo ready; cat; echo ended"]);
    config.stdin = true;
    let running = rig.run_config("stdin", config).await;
    rig.await_output("stdin", "ready").await;
    assert!(rig.state(&running).await.exit.is_none());
    let (_, output) = rig.run_to_end("null", "cat; echo ended").await;
    assert_eq!(output, "ended\n");
    assert_eq!(rig.output("stdin"), "ready\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_sandboxes_start_at_once() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let starts = (0..20).map(|number| {
        let rig = &rig;
        async move {
            let id = format!("pod{number}");
            let mut running = rig.run(&id, "echo here; exit 5").await;
            (id, running.exit().await.exit_code)
        }
    });
    for (id, code) in futures::future::join_all(starts).await {
        assert_eq!(code, 5);
        assert_eq!(rig.output(&id), "here\n");
    }
    assert_eq!(rig.runtime.list().await.unwrap().len(), 20);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_containers_start_and_end_in_one_sandbox_at_once() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sandbox = rig.sandbox("pod").await.config.id;
    let lives = (0..10).map(|number| {
        let (rig, sandbox) = (&rig, sandbox.clone());
        async move {
            let id = format!("c{number}");
            let config = rig.container_config(&id, &["sh", "-c", "echo $HOSTNAME"]);
            rig.runtime.start_container(&sandbox, &config).await.unwrap();
            rig.await_output(&id, "host-pod").await;
            rig.runtime.remove_container(&sandbox, &config.id).await.unwrap();
        }
    });
    futures::future::join_all(lives).await;
    assert!(rig.runtime.list().await.unwrap()[0].containers.is_empty());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_takes_everything_but_the_logs() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let script = "(setsid sleep 600) & mkdir -p /a/b; echo x > /a/b/c; echo ready; sleep 600";
    let running = rig.run("pod", script).await;
    rig.await_output("pod", "ready").await;
    let pid = running.pid();
    assert!(rig.config.data_dir.join("sandboxes/pod/pod/upper/a/b/c").exists());
    rig.runtime.remove_sandbox(&running.sandbox).await.unwrap();
    assert!(!runs(pid));
    assert_eq!(rig.output("pod"), "ready\n");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_parameters_of_the_sandbox_are_set() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "0"), ("kernel.shmmax", "123456")];
    let config = SandboxConfig {
        sysctls: sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..rig.sandbox_config("pod")
    };
    rig.runtime.create_sandbox(&config).await.unwrap();
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax";
    let (_, output) = rig.run_to_end("pod", script).await;
    assert_eq!(output, "0\n123456\n");
    let foreign = SandboxConfig {
        sysctls: [("vm.swappiness".to_owned(), "1".to_owned())].into(),
        ..rig.sandbox_config("other")
    };
    assert!(matches!(rig.runtime.create_sandbox(&foreign).await, Err(Error::Invalid(_))));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_stays_small() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let running = rig.run("pod", "seq 1 20000; sleep 600").await;
    rig.await_output("pod", "\n20000\n").await;
    let sandbox = rig.runtime.list().await.unwrap().remove(0);
    let namespace = sandbox.network_namespace.unwrap();
    let process = namespace.parent().and_then(|path| path.parent()).unwrap();
    let status = || fs::read_to_string(process.join("status")).unwrap();
    let kilobytes = |name: &str| -> u32 {
        common::status_field(&status(), name).split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(common::status_field(&status(), "Threads"), "1");
    // It takes a moment's rest before it gives back what starting has taken. How much of the program's
    // file is mapped is left out: of an unoptimised one that is megabytes, and the kernel keeps what
    // others map too.
    let is_small = || kilobytes("RssAnon") + kilobytes("RssShmem") <= 1024;
    eventually("the shim is small", is_small).await;
    rig.exec(&running, "true").await;
    eventually("the shim is small again", is_small).await;
    eprintln!("{}", status());
    assert!(rig.state(&running).await.exit.is_none());
    rig.finish().await;
}
