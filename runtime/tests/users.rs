//! Containers whose users are not the machine's.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{Rig, Running, is_root, status_field};
use runtime::{
    Access, AppArmorProfile, ContainerConfig, ContainerRuntime, Error, IdRange, Mount, MountSource,
    Propagation, SandboxConfig, SandboxId,
};

/// Says why where the machine cannot do it; every supported one can.
fn cannot(rig: &Rig) -> bool {
    if let Err(reason) = rig.runtime.own_users() {
        eprintln!("left out: {reason}");
    }
    rig.runtime.own_users().is_err()
}

/// A sandbox with users of its own, and who they are.
async fn sandbox(rig: &Rig, id: &str) -> (SandboxId, IdRange) {
    let config = SandboxConfig { own_users: true, ..rig.sandbox_config(id) };
    let state = rig.runtime.create_sandbox(&config).await.unwrap();
    (state.config.id, state.users.unwrap())
}

async fn start(rig: &Rig, sandbox: &SandboxId, config: ContainerConfig) -> Running {
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(sandbox, &config).await.unwrap();
    Running { sandbox: sandbox.clone(), container: config.id, state, events }
}

async fn run(rig: &Rig, id: &str, script: &str) -> (Running, IdRange) {
    let (sandbox, users) = sandbox(rig, id).await;
    let config = rig.container_config(id, &["sh", "-c", &format!("{script}; echo end; sleep 600")]);
    let running = start(rig, &sandbox, config).await;
    rig.await_output(id, "end\n").await;
    (running, users)
}

fn bind(source: &Path, destination: &str) -> Mount {
    Mount {
        source: MountSource::Host(source.to_owned()),
        destination: destination.to_owned(),
        access: Access::ReadWrite,
        propagation: Propagation::None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_somebody_else_on_the_machine_and_in_every_sandbox() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if cannot(&rig) {
        return rig.finish().await;
    }
    let (one, of_one) = run(&rig, "one", "cat /proc/self/uid_map /proc/self/gid_map; id -u").await;
    let (_, of_two) = run(&rig, "two", "true").await;
    assert!(of_one.first != 0 && of_one.first.abs_diff(of_two.first) >= of_one.count);
    let output = rig.output("one");
    let numbers: Vec<u32> = output.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    assert_eq!(numbers, [0, of_one.first, of_one.count, 0, of_one.first, of_one.count, 0]);
    let status = fs::read_to_string(format!("/proc/{}/status", one.pid())).unwrap();
    assert!(status_field(&status, "Uid").starts_with(&of_one.first.to_string()), "{status}");
    assert_eq!(status_field(&status, "Seccomp"), "2");
    // An exec is the same somebody, confined in the same way.
    let inside = "cat /proc/self/uid_map /proc/self/status; readlink /proc/self/ns/user";
    let inside = String::from_utf8(rig.exec(&one, inside).await.output).unwrap();
    assert!(inside.split_whitespace().nth(1) == Some(&of_one.first.to_string()), "{inside}");
    assert_eq!(status_field(&inside, "CapBnd"), status_field(&status, "CapBnd"));
    assert_eq!(status_field(&inside, "Seccomp"), "2");
    let users = fs::read_link(format!("/proc/{}/ns/user", one.pid())).unwrap();
    assert!(inside.contains(users.to_str().unwrap()), "{inside}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_image_belong_to_its_users_and_may_be_changed() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if cannot(&rig) {
        return rig.finish().await;
    }
    let home = rig.layer.join("home/app");
    fs::create_dir_all(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
    let script = "ls -ldn / /bin /home/app /etc/passwd | cut -c1-40; touch /new /home/app/new; \
                  chown 1000:1000 /etc/passwd && chmod 600 /etc/passwd; mv /etc/group /etc/moved; \
                  rm -r /root && echo removed; ls -ln /new /etc/passwd /etc/moved; mkdir /d; ls -ldn /d";
    // This busybox has no `cut` of its own.
    let script = script.replace(" | cut -c1-40", "");
    let (_, users) = run(&rig, "c", &script).await;
    let output = rig.output("c");
    assert!(output.contains("removed\n") && !output.contains("denied"), "{output}");
    let owner = |name: &str| -> Vec<String> {
        let line = output.lines().rfind(|line| line.ends_with(&format!(" {name}")));
        let line = line.unwrap_or_else(|| panic!("{name}: {output}"));
        line.split_whitespace().skip(2).take(2).map(str::to_owned).collect()
    };
    for (name, wanted) in [
        ("/", "0"),
        ("/bin", "0"),
        ("/home/app", "1000"),
        ("/new", "0"),
        ("/etc/passwd", "1000"),
        ("/d", "0"),
    ] {
        assert_eq!(owner(name), [wanted, wanted], "{name}");
    }
    // On the machine they are the sandbox's, and the image is as it was.
    let upper = rig.config.data_dir.join("sandboxes/c/c/upper");
    assert_eq!(fs::metadata(upper.join("new")).unwrap().uid(), users.first);
    assert_eq!(fs::metadata(upper.join("etc/passwd")).unwrap().uid(), users.first + 1000);
    assert_eq!(fs::metadata(rig.layer.join("etc/passwd")).unwrap().uid(), 0);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_keep_the_owners_that_they_have_on_the_machine() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if cannot(&rig) {
        return rig.finish().await;
    }
    let host = rig.folder.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("of-root"), "secret\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(host.join("of-root"), mode).unwrap();
    let memory = rig.folder.path().join("memory");
    fs::create_dir(&memory).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("x"), &memory, Some("tmpfs"), flags, Some("mode=777")).unwrap();
    let below = host.join("below");
    fs::create_dir(&below).unwrap();
    nix::mount::mount(Some("x"), &below, Some("tmpfs"), flags, Some("mode=777")).unwrap();
    let (sandbox, _) = sandbox(&rig, "c").await;
    let script = "cat /data/of-root /etc/hosts; echo x > /data/new; echo y > /memory/new; \
                  chown 7:8 /data/new; touch /ro/x; touch /ro/below/x && echo below; touch /throughout/below/y; mount -o remount,rw /ro; \
                  echo z > /tmp/z && ls -ldn /tmp /dev/shm; echo s > /dev/shm/s; echo end";
    let mut config = rig.container_config("c", &["sh", "-c", script]);
    config.mounts = vec![
        bind(&host, "/data"),
        bind(&memory, "/memory"),
        bind(&host.join("of-root"), "/etc/hosts"),
        Mount { access: Access::ReadOnly, ..bind(&host, "/ro") },
        Mount { access: Access::ReadOnlyThroughout, ..bind(&host, "/throughout") },
        Mount { source: MountSource::Tmpfs { size_bytes: None }, ..bind(&host, "/tmp") },
    ];
    let mut running = start(&rig, &sandbox, config).await;
    running.exit().await;
    let output = rig.output("c");
    assert!(output.starts_with("secret\nsecret\n"), "{output}");
    assert!(output.contains("touch: /ro/x: Read-only file system\n"), "{output}");
    assert!(output.contains("\nbelow\n"), "{output}");
    assert!(output.contains("touch: /throughout/below/y: Read-only file system\n"), "{output}");
    assert!(output.ends_with("end\n") && !output.contains("can't create"), "{output}");
    let new = fs::metadata(host.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (7, 8));
    assert_eq!(fs::metadata(memory.join("new")).unwrap().uid(), 0);
    nix::mount::umount(&below).unwrap();
    nix::mount::umount(&memory).unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_cannot_show_other_owners_is_refused_with_the_way_out() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if cannot(&rig) {
        return rig.finish().await;
    }
    let (sandbox, _) = sandbox(&rig, "c").await;
    let mut config = rig.container_config("c", &["true"]);
    config.mounts = vec![bind(Path::new("/proc/sys"), "/data")];
    let refused = rig.runtime.start_container(&sandbox, &config).await.unwrap_err();
    let Error::Start { reason, .. } = refused else { panic!("{refused}") };
    assert!(reason.starts_with("mount /proc/sys: its file system cannot show files"), "{reason}");
    assert!(reason.ends_with("set hostUsers: true in the pod"), "{reason}");
    // So is a user that there is not.
    let mut config = rig.container_config("c", &["true"]);
    config.user.uid = 65_536;
    let refused = rig.runtime.start_container(&sandbox, &config).await.unwrap_err();
    let Error::Create { reason, .. } = refused else { panic!("{refused}") };
    assert!(reason.starts_with("user 65536 is beyond the 65536"), "{reason}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_has_its_power_where_it_is_root() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if cannot(&rig) {
        return rig.finish().await;
    }
    let config = SandboxConfig {
        own_users: true,
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "1024".to_owned())].into(),
        ..rig.sandbox_config("c")
    };
    let sandbox = rig.runtime.create_sandbox(&config).await.unwrap().config.id;
    let script = "nc -l -p 80 -e true & sleep 0.1; nc 127.0.0.1 80 </dev/null && echo bound; \
                  ip link set lo mtu 1400 && echo linked; hostname other; hostname; \
                  mount -t tmpfs x /tmp && echo mounted; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let mut config = rig.container_config("c", &["sh", "-c", &format!("{script}; echo end")]);
    config.app_armor = AppArmorProfile::Unconfined;
    config.capabilities.add = vec!["NET_ADMIN".to_owned(), "SYS_ADMIN".to_owned()];
    let mut running = start(&rig, &sandbox, config).await;
    running.exit().await;
    let output = rig.output("c");
    for done in ["linked\n", "other\n", "mounted\n", "1024\n"] {
        assert!(output.contains(done), "{done}: {output}");
    }
    assert!(!output.contains("bind: "), "{output}");

    // And nowhere else, with all the power that there is.
    let script = "echo 1 > /proc/sys/kernel/panic; mknod /tmp/disk b 254 0 && echo made; mount -t ext4 /dev/vda /tmp && echo host; \
                  cat /dev/kmsg; kill -9 1234567; hostname other; date -s 2001-01-01; \
                  insmod x; swapoff -a; echo end";
    let mut config = rig.container_config("p", &["sh", "-c", script]);
    config.privileged = true;
    let mut running = start(&rig, &sandbox, config).await;
    running.exit().await;
    let output = rig.output("p");
    assert!(output.contains("/proc/sys/kernel/panic: Permission denied"), "{output}");
    assert!(output.ends_with("end\n") && !output.contains("host\n"), "{output}");
    assert!(!output.contains("made\n"), "{output}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_terminals_and_other_users_work() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if cannot(&rig) {
        return rig.finish().await;
    }
    let (sandbox, _) = sandbox(&rig, "c").await;
    for (id, uid) in [("root", 0), ("app", 1000)] {
        let script = "echo out > /dev/stdout; echo err > /dev/stderr; id -u; sleep 600";
        let mut config = rig.container_config(id, &["sh", "-c", script]);
        config.user.uid = uid;
        let running = start(&rig, &sandbox, config).await;
        rig.await_output(id, &format!("{uid}\n")).await;
        rig.await_output(id, "err\n").await;
        // Each comes through a pipe of its own.
        let output = rig.output(id);
        let mut lines: Vec<&str> = output.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, [uid.to_string().as_str(), "err", "out"]);
        let inside = rig.exec(&running, "echo out > /dev/stdout; id -u").await;
        assert_eq!(String::from_utf8_lossy(&inside.output), format!("out\n{uid}\n"));
    }
    let mut config = rig.container_config("tty", &["sh", "-c", "tty; test -t 0 && echo terminal"]);
    config.tty = true;
    let mut running = start(&rig, &sandbox, config).await;
    running.exit().await;
    assert!(rig.output("tty").contains("terminal"), "{}", rig.output("tty"));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_survive_the_agent_and_are_free_again_after_the_sandbox() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new().await;
    if cannot(&rig) {
        return rig.finish().await;
    }
    let (one, of_one) = sandbox(&rig, "one").await;
    rig.restart().await;
    let found = rig.runtime.list().await.unwrap().remove(0);
    assert_eq!(found.users, Some(of_one));
    let (_, of_two) = sandbox(&rig, "two").await;
    assert_ne!(of_one.first, of_two.first);
    rig.runtime.remove_sandbox(&one).await.unwrap();
    assert_eq!(rig.runtime.list().await.unwrap().len(), 1);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_begin_with_the_sandbox() {
    if !is_root() || !Path::new("/proc/self/ns/time").exists() {
        return;
    }
    let rig = Rig::new().await;
    if cannot(&rig) {
        return rig.finish().await;
    }
    for own_users in [false, true] {
        let id = format!("c{own_users}");
        let config = SandboxConfig { own_users, ..rig.sandbox_config(&id) };
        let sandbox = rig.runtime.create_sandbox(&config).await.unwrap().config.id;
        let config = rig.container_config(&id, &["sh", "-c", "cat /proc/uptime; sleep 600"]);
        let running = start(&rig, &sandbox, config).await;
        rig.await_output(&id, ".").await;
        let inside = rig.exec(&running, "cat /proc/uptime").await.output;
        for text in [rig.output(&id), String::from_utf8(inside).unwrap()] {
            let uptime: f64 = text.split(' ').next().unwrap().parse().unwrap();
            assert!(uptime < 60.0, "{text}");
        }
    }
    rig.finish().await;
}
