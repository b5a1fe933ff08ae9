//! Images that containers mount.

mod common;

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;

use common::{Rig, is_root};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use runtime::{
    Access, ContainerConfig, ContainerRuntime, Error, Mount, MountSource, Propagation,
    SandboxConfig, SandboxId,
};

/// Two layers as they are unpacked: the upper one replaces, removes and adds.
fn layers(rig: &Rig) -> Vec<PathBuf> {
    let (lower, upper) = (rig.folder.path().join("lower"), rig.folder.path().join("upper"));
    fs::create_dir_all(lower.join("models/small")).unwrap();
    fs::write(lower.join("models/small/weights"), "1 2 3").unwrap();
    fs::write(lower.join("models/removed"), "x").unwrap();
    fs::write(lower.join("owned"), "by somebody").unwrap();
    chown(lower.join("owned"), Some(1000), Some(1000)).unwrap();
    // In the image's eyes.
    symlink("/models/small", lower.join("absolute")).unwrap();
    symlink("/../etc", lower.join("outside")).unwrap();
    symlink("models/small", lower.join("latest")).unwrap();
    fs::create_dir_all(upper.join("models")).unwrap();
    fs::write(upper.join("models/added"), "new").unwrap();
    mknod(&upper.join("models/removed"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
    vec![lower, upper]
}

fn mount(layers: &[PathBuf], path: Option<&str>, destination: &str) -> Mount {
    Mount {
        source: MountSource::Image { layers: layers.to_vec(), path: path.map(PathBuf::from) },
        destination: destination.to_owned(),
        access: Access::ReadOnly,
        propagation: Propagation::None,
    }
}

async fn sandbox(rig: &Rig, own_users: bool) -> SandboxId {
    let id = if own_users { "own" } else { "shared" };
    let config = SandboxConfig { own_users, ..rig.sandbox_config(id) };
    rig.runtime.create_sandbox(&config).await.unwrap().config.id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_the_files_of_an_image_and_cannot_change_them() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let layers = layers(&rig);
    let own_users = rig.runtime.own_users().is_ok();
    for own_users in [false, true].into_iter().filter(|wanted| !wanted || own_users) {
        let sandbox = sandbox(&rig, own_users).await;
        let script = "ls /image/models; cat /image/models/small/weights /one/owned /part/weights; \
                      echo; cat /file /weights; ls -ln /image/owned; \
                      for f in /image/new /image/models/added /one/owned /part/weights /file; do \
                        echo x 2>&1 > $f && echo written; done; rm /image/owned && echo removed";
        let id = sandbox.0.clone();
        let config = ContainerConfig {
            mounts: vec![
                mount(&layers, None, "/image"),
                mount(&layers[..1], None, "/one"),
                mount(&layers, Some("latest"), "/part"),
                mount(&layers, Some("models/added"), "/file"),
                mount(&layers, Some("absolute/weights"), "/weights"),
            ],
            ..rig.container_config(&id, &["sh", "-c", script])
        };
        let mut events = rig.runtime.events();
        rig.runtime.start_container(&sandbox, &config).await.unwrap();
        events.recv().await.unwrap();
        let output = rig.output(&id);
        assert!(output.starts_with("added\nsmall\n1 2 3by somebody1 2 3\nnew1 2 3"), "{output}");
        assert!(output.contains(" 1000 "), "{output}");
        assert_eq!(output.matches("Read-only file system").count(), 6, "{output}");
        rig.runtime.remove_sandbox(&sandbox).await.unwrap();
    }
    assert_eq!(fs::read_to_string(layers[1].join("models/added")).unwrap(), "new");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_the_image_does_not_have_is_no_failure_of_the_program() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let layers = layers(&rig);
    let sandbox = sandbox(&rig, false).await;
    for part in ["nowhere", "models/removed", "outside/hosts"] {
        let mounts = vec![mount(&layers, Some(part), "/part")];
        let config = ContainerConfig { mounts, ..rig.container_config("c", &["true"]) };
        match rig.runtime.start_container(&sandbox, &config).await {
            Err(Error::Create { reason, .. }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{part}: {other:?}"),
        }
    }
    rig.finish().await;
}
