//! Mounts that are made while containers run, on the machine and in them: where they are seen.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Rig, Running, is_root};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::{
    Access, ContainerConfig, ContainerRuntime, Error, Mount, MountSource, Propagation,
    SandboxConfig, SandboxId,
};

/// A file system of its own, with what is mounted below it for as long as this lives.
struct Volume(PathBuf);

impl Volume {
    fn new(path: PathBuf, propagation: MsFlags) -> Volume {
        fs::create_dir_all(&path).unwrap();
        mount_tmpfs(&path);
        mount(None::<&str>, &path, None::<&str>, propagation, None::<&str>).unwrap();
        Volume(path)
    }

    fn shared(rig: &Rig, name: &str) -> Volume {
        Volume::new(rig.folder.path().join(name), MsFlags::MS_SHARED)
    }

    /// Mounts something on the machine, with a file in it.
    fn mount(&self, name: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        mount_tmpfs(&path);
        fs::write(path.join("file"), "of the machine").unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let mounts = runtime::mounts::visible().unwrap();
        for mount in mounts.iter().rev().filter(|mount| mount.point.starts_with(&self.0)) {
            let _ = umount2(&mount.point, MntFlags::MNT_DETACH);
        }
    }
}

fn mount_tmpfs(path: &Path) {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn bind(source: &Path, destination: &str, propagation: Propagation) -> Mount {
    Mount {
        source: MountSource::Host(source.to_owned()),
        destination: destination.to_owned(),
        access: Access::ReadWrite,
        propagation,
    }
}

fn config(rig: &Rig, id: &str, mounts: Vec<Mount>) -> ContainerConfig {
    ContainerConfig { mounts, ..rig.container_config(id, &["sleep", "600"]) }
}

async fn start(rig: &Rig, sandbox: &SandboxId, config: ContainerConfig) -> Running {
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(sandbox, &config).await.unwrap();
    Running { sandbox: sandbox.clone(), container: config.id, state, events }
}

async fn prints(rig: &Rig, container: &Running, script: &str) -> String {
    String::from_utf8(rig.exec(container, script).await.output).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn later_mounts_are_seen_where_the_mount_says() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let (volume, other) = (Volume::shared(&rig, "volume"), Volume::shared(&rig, "other"));
    volume.mount("before");
    let sandbox = rig.sandbox("s").await.config.id;
    let alone = vec![bind(&volume.0, "/data", Propagation::None)];
    let alone = start(&rig, &sandbox, config(&rig, "alone", alone)).await;
    let listener = vec![
        bind(&volume.0, "/data", Propagation::HostToContainer),
        bind(&other.0, "/data/nested", Propagation::None),
    ];
    fs::create_dir(volume.0.join("nested")).unwrap();
    let listener = ContainerConfig { privileged: true, ..config(&rig, "listener", listener) };
    let listener = start(&rig, &sandbox, listener).await;
    let peer = vec![bind(&volume.0, "/data", Propagation::Bidirectional)];
    let peer = ContainerConfig { privileged: true, ..config(&rig, "peer", peer) };
    let peer = start(&rig, &sandbox, peer).await;

    // From the machine to the containers.
    volume.mount("after");
    other.mount("after");
    let look = "cat /data/before/file; echo; cat /data/after/file; echo; ls /data/nested";
    assert!(!prints(&rig, &alone, look).await.contains("machine\nof the machine"));
    let seen = prints(&rig, &listener, look).await;
    assert_eq!(seen, "of the machine\nof the machine\nafter\n");
    assert_eq!(prints(&rig, &listener, "ls /data/nested/after").await, "");
    assert!(prints(&rig, &peer, look).await.starts_with("of the machine\nof the machine\n"));

    // From the containers to the machine, and from there to others.
    let mount = |name: &str| {
        format!(
            "mkdir -p {name} && mount -t tmpfs x {name} && echo inside > {name}/file && echo done"
        )
    };
    assert_eq!(prints(&rig, &listener, &mount("/data/own")).await, "done\n");
    assert!(!volume.0.join("own/file").exists());
    assert_eq!(prints(&rig, &peer, &mount("/data/given")).await, "done\n");
    assert_eq!(fs::read_to_string(volume.0.join("given/file")).unwrap(), "inside\n");
    assert_eq!(prints(&rig, &listener, "cat /data/given/file").await, "inside\n");
    assert_eq!(prints(&rig, &alone, "ls /data/given").await, "");
    let elsewhere = format!("{}; ls -d /proc/1", mount("/elsewhere"));
    assert!(prints(&rig, &peer, &elsewhere).await.starts_with("done\n"));
    let visible = runtime::mounts::visible().unwrap();
    assert!(visible.iter().all(|mount| !mount.point.ends_with("elsewhere")));

    // The end of the container leaves the machine's mounts alone, those too that it has made.
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    assert_eq!(fs::read_to_string(volume.0.join("given/file")).unwrap(), "inside\n");
    assert_eq!(fs::read_to_string(volume.0.join("after/file")).unwrap(), "of the machine");
    drop((volume, other));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_volume_is_shared_as_all_of_it_is() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let volume = Volume::shared(&rig, "volume");
    fs::create_dir(volume.0.join("part")).unwrap();
    let mount = |propagation| Mount {
        source: MountSource::Below { folder: volume.0.clone(), path: "part".into() },
        ..bind(&volume.0, "/data", propagation)
    };
    let sandbox = rig.sandbox("s").await.config.id;
    let peer = config(&rig, "peer", vec![mount(Propagation::Bidirectional)]);
    let peer = start(&rig, &sandbox, ContainerConfig { privileged: true, ..peer }).await;
    let listener = config(&rig, "listener", vec![mount(Propagation::HostToContainer)]);
    let listener = start(&rig, &sandbox, listener).await;
    let script = "mkdir /data/x && mount -t tmpfs x /data/x && echo inside > /data/x/file";
    assert_eq!(prints(&rig, &peer, script).await, "");
    assert_eq!(fs::read_to_string(volume.0.join("part/x/file")).unwrap(), "inside\n");
    assert_eq!(prints(&rig, &listener, "cat /data/x/file").await, "inside\n");
    assert_eq!(prints(&rig, &peer, "umount /data/x").await, "");
    assert!(!volume.0.join("part/x/file").exists());
    assert_eq!(prints(&rig, &listener, "ls /data/x").await, "");
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    drop(volume);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_see_later_mounts_and_cannot_give_any() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if let Err(reason) = rig.runtime.own_users() {
        eprintln!("left out: {reason}");
        return rig.finish().await;
    }
    let volume = Volume::shared(&rig, "volume");
    let sandbox = SandboxConfig { own_users: true, ..rig.sandbox_config("s") };
    let sandbox = rig.runtime.create_sandbox(&sandbox).await.unwrap().config.id;
    let listener = vec![bind(&volume.0, "/data", Propagation::HostToContainer)];
    let listener = ContainerConfig { privileged: true, ..config(&rig, "listener", listener) };
    let listener = start(&rig, &sandbox, listener).await;
    volume.mount("after");
    let look = "cat /data/after/file; echo; ls -ln /data/after/file";
    let seen = prints(&rig, &listener, look).await;
    // Its files belong to nobody whom the container knows.
    assert!(seen.starts_with("of the machine\n") && seen.contains(" 65534 "), "{seen}");
    let script = "mkdir /data/x; mount -t tmpfs x /data/x && echo inside > /data/x/file";
    prints(&rig, &listener, script).await;
    assert!(!volume.0.join("x/file").exists());

    let peer = config(&rig, "peer", vec![bind(&volume.0, "/data", Propagation::Bidirectional)]);
    let result = rig.runtime.start_container(&sandbox, &peer).await;
    match result {
        Err(Error::Create { reason, .. }) => assert!(reason.contains("hostUsers"), "{reason}"),
        other => panic!("{other:?}"),
    }
    rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    drop(volume);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_the_machine_does_not_share_is_refused() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let volume = Volume::new(rig.folder.path().join("volume"), MsFlags::MS_PRIVATE);
    let sandbox = rig.sandbox("s").await.config.id;
    for (propagation, kind) in [
        (Propagation::HostToContainer, "shared or slave mount"),
        (Propagation::Bidirectional, "shared mount"),
    ] {
        let config = config(&rig, "c", vec![bind(&volume.0, "/data", propagation)]);
        let result = rig.runtime.start_container(&sandbox, &config).await;
        let Err(Error::Create { reason, .. }) = result else { panic!("{result:?}") };
        let path = volume.0.display();
        let wanted = format!("path {path} is mounted on {path} but it is not a {kind}; ");
        assert!(reason.starts_with(&wanted), "{reason}");
    }
    drop(volume);
    rig.finish().await;
}
