//! Labels of SELinux: set where the kernel enforces them, refused where it does not. `deploy/test --vm --selinux` is
//! such a machine, with a policy that knows the types `container_t` and `container_file_t`.

mod common;

use std::fs;
use std::path::Path;

use common::{Rig, Running, is_root};
use runtime::{
    Access, ContainerConfig, ContainerRuntime as _, Error, Labelled, Mount, MountSource,
    Propagation, SandboxConfig, SelinuxOptions,
};

/// The level of a label.
fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap_or_else(|| panic!("{label:?} has no level"))
}

/// The label of a file.
fn label_of(path: &Path) -> String {
    let mut bytes = [0; 256];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut bytes).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap().trim_end_matches('\0').to_owned()
}

struct Labelling {
    running: Running,
    /// Of its first process, and of one by exec.
    processes: [String; 2],
}

impl Labelling {
    /// The label of a file in the container.
    fn file(&self, path: &str) -> String {
        label_of(Path::new(&format!("/proc/{}/root{path}", self.running.pid())))
    }
}

/// Runs a container of this configuration.
async fn labelled(rig: &Rig, own_users: bool, config: ContainerConfig) -> Labelling {
    let id = config.id.0.clone();
    let selinux = config.selinux.clone();
    let sandbox = SandboxConfig { own_users, selinux, ..rig.sandbox_config(&id) };
    let sandbox = rig.runtime.create_sandbox(&sandbox).await.unwrap().config.id;
    let events = rig.runtime.events();
    let state = rig.runtime.start_container(&sandbox, &config).await.unwrap();
    let running = Running { sandbox, container: config.id, state, events };
    rig.await_output(&id, "ready\n").await;
    let own = fs::read_to_string(format!("/proc/{}/attr/current", running.pid())).unwrap();
    let executed = rig.exec(&running, "cat /proc/self/attr/current").await;
    let executed = String::from_utf8(executed.output).unwrap();
    let processes = [own, executed].map(|label| label.trim_end_matches('\0').to_owned());
    Labelling { running, processes }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_files_are_labelled_where_the_kernel_enforces_it() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    if let Err(reason) = rig.runtime.selinux() {
        eprintln!("left out: {reason}");
        return rig.finish().await;
    }
    let script = ["sh", "-c", "touch /made /dev/shm/made; echo ready; sleep 600"];
    let users = [false, true].into_iter().filter(|own| !own || rig.runtime.own_users().is_ok());
    for own_users in users {
        let id = |name: &str| format!("{name}-{own_users}");
        let config = |name: &str| rig.container_config(&id(name), &script);
        // One has users of its own, and no new privileges, by which the kernel is stricter about labels, too.
        let plain = ContainerConfig { no_new_privileges: own_users, ..config("default") };
        let default = labelled(&rig, own_users, plain).await;
        let [own, executed] = &default.processes;
        assert!(own.starts_with("system_u:system_r:container_t:s0:c"), "{own}");
        assert_eq!(own, executed);
        let wanted = format!("system_u:object_r:container_file_t:{}", level(own));
        for path in ["/made", "/bin", "/dev/null", "/dev/shm/made"] {
            assert_eq!(default.file(path), wanted, "{path}");
        }
        // The kernel gives none to those of other users.
        if !own_users {
            assert_eq!(default.file("/dev/mqueue"), wanted);
        }

        let other = labelled(&rig, own_users, config("other")).await;
        assert_ne!(level(&other.processes[0]), level(own), "two pods have the same level");

        let volume = rig.folder.path().join(id("volume"));
        fs::create_dir_all(volume.join("folder")).unwrap();
        fs::write(volume.join("folder/file"), "").unwrap();
        let text = |text: &str| Some(text.to_owned());
        let selinux = SelinuxOptions { level: text("s0:c7,c9"), ..SelinuxOptions::default() };
        let stated = ContainerConfig {
            selinux: selinux.clone(),
            labelled: vec![Labelled { path: volume.clone(), selinux }],
            mounts: vec![Mount {
                source: MountSource::Host(volume.clone()),
                destination: "/data".to_owned(),
                access: Access::ReadWrite,
                propagation: Propagation::None,
            }],
            ..config("stated")
        };
        let stated = labelled(&rig, own_users, stated).await;
        assert_eq!(stated.processes, ["system_u:system_r:container_t:s0:c7,c9"; 2]);
        let file = "system_u:object_r:container_file_t:s0:c7,c9";
        for path in ["/made", "/dev/shm/made", "/data", "/data/folder/file"] {
            assert_eq!(stated.file(path), file, "{path}");
        }
        assert_eq!(label_of(&volume.join("folder/file")), file);

        let kind = text("kutter_nothing_t");
        let selinux = SelinuxOptions { kind, ..SelinuxOptions::default() };
        let unknown = ContainerConfig { selinux, ..config("unknown") };
        let sandbox = default.running.sandbox.clone();
        let error = rig.runtime.start_container(&sandbox, &unknown).await.unwrap_err();
        let told = text_of(&error);
        assert!(told.contains("does not know the SELinux label"), "{told}");

        let free = ContainerConfig { privileged: true, ..config("free") };
        let free = labelled(&rig, own_users, free).await;
        assert!(!free.processes[0].contains("container_t"), "{:?}", free.processes);
        rig.runtime.shutdown_all().await.unwrap();
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_nobody_enforces_is_refused_with_the_reason() {
    if !is_root() {
        return;
    }
    let rig = Rig::new().await;
    let Err(reason) = rig.runtime.selinux() else {
        eprintln!("left out: SELinux is enabled here");
        return rig.finish().await;
    };
    let level = Some("s0:c7,c9".to_owned());
    let selinux = SelinuxOptions { level, ..SelinuxOptions::default() };
    let config = SandboxConfig { selinux: selinux.clone(), ..rig.sandbox_config("labelled") };
    let error = rig.runtime.create_sandbox(&config).await.unwrap_err();
    let wanted = format!("SELinux options cannot be enforced on this node: {reason}");
    assert!(text_of(&error).contains(&wanted), "{error:?}");

    let sandbox = rig.sandbox("pod").await.config.id;
    let config = ContainerConfig { selinux, ..rig.container_config("pod", &["true"]) };
    let error = rig.runtime.start_container(&sandbox, &config).await.unwrap_err();
    assert!(matches!(&error, Error::Create { .. }), "{error:?}");
    assert!(text_of(&error).contains(&wanted), "{error:?}");
    rig.finish().await;
}

/// An error with its reasons.
fn text_of(error: &Error) -> String {
    std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
        .map(|error| error.to_string())
        .collect::<Vec<_>>()
        .join(": ")
}
