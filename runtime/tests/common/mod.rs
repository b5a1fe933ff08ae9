//! What the tests of real containers share: a runtime in folders and control groups of its own,
//! and a root file system made of busybox.

#![allow(dead_code, unreachable_pub, unused_imports)]

mod attacker;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use attacker::{arm, attacker};
use runtime::{
    ContainerConfig, ContainerExit, ContainerId, ContainerRuntime, ContainerState, ExecOutput,
    RuntimeEvent, SandboxConfig, SandboxId, SandboxState, ShimRuntime, ShimRuntimeConfig,
};
use tempfile::TempDir;
use tokio::sync::broadcast;

/// Nothing here takes a second; a loaded machine is forgiven much.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One test's runtime. Everything it leaves is removed with [`Rig::finish`].
pub struct Rig {
    pub runtime: ShimRuntime,
    pub config: ShimRuntimeConfig,
    pub layer: PathBuf,
    pub folder: TempDir,
}

/// False, having said so, where the tests cannot run.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("left out: starting containers takes root");
    }
    root
}

impl Rig {
    pub async fn new() -> Rig {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer");
        lay_out_busybox(&layer);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let config = ShimRuntimeConfig {
            state_dir: folder.path().join("run"),
            data_dir: folder.path().join("data"),
            shim_path: Some(PathBuf::from(env!("CARGO_BIN_EXE_shim"))),
            cgroup_root: format!("/kutter-test-{}-{number}", std::process::id()),
            user_ids: runtime::DEFAULT_USER_IDS,
        };
        let runtime = ShimRuntime::open(config.clone()).await.unwrap();
        Rig { runtime, config, layer, folder }
    }

    /// As after a restart of the process that uses the runtime.
    pub async fn restart(&mut self) {
        self.runtime = ShimRuntime::open(self.config.clone()).await.unwrap();
    }

    /// Removes everything and looks whether anything is left.
    pub async fn finish(self) {
        self.runtime.shutdown_all().await.unwrap();
        assert_eq!(self.remains(), Vec::<String>::new());
    }

    /// All that can still be seen of this rig's containers.
    pub fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.folder.path().to_str().unwrap();
        found.extend(mounts.lines().filter(|l| l.contains(own)).map(str::to_owned));
        for folder in
            [self.config.state_dir.join("sandboxes"), self.config.data_dir.join("sandboxes")]
        {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        found.extend(self.cgroups().into_iter().map(|path| path.display().to_string()));
        for process in processes() {
            if process.command_line.contains(own) {
                found.push(format!("{} {}", process.pid, process.command_line));
            }
        }
        found
    }

    /// This rig's control group in every hierarchy where it exists.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let name = self.config.cgroup_root.trim_start_matches('/');
        let top = Path::new("/sys/fs/cgroup");
        let mut tops = vec![top.to_owned()];
        tops.extend(fs::read_dir(top).unwrap().flatten().map(|entry| entry.path()));
        tops.into_iter().map(|top| top.join(name)).filter(|path| path.exists()).collect()
    }

    pub fn sandbox_config(&self, id: &str) -> SandboxConfig {
        SandboxConfig {
            id: SandboxId(id.to_owned()),
            hostname: format!("host-{id}"),
            cgroup_parent: format!("{}/{id}", self.config.cgroup_root),
            ..Default::default()
        }
    }

    pub fn container_config(&self, id: &str, args: &[&str]) -> ContainerConfig {
        ContainerConfig {
            id: ContainerId(id.to_owned()),
            layers: vec![self.layer.clone()],
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            log_path: Some(self.log(id)),
            log_max_bytes: 1 << 20,
            log_max_files: 3,
            ..Default::default()
        }
    }

    pub async fn sandbox(&self, id: &str) -> SandboxState {
        self.runtime.create_sandbox(&self.sandbox_config(id)).await.unwrap()
    }

    /// Starts a shell script in a container of a new sandbox.
    pub async fn run(&self, id: &str, script: &str) -> Running {
        let config = self.container_config(id, &["sh", "-c", script]);
        self.run_config(id, config).await
    }

    /// Starts a container in a new sandbox.
    pub async fn run_config(&self, sandbox: &str, config: ContainerConfig) -> Running {
        let sandbox = self.sandbox(sandbox).await.config.id;
        let events = self.runtime.events();
        let state = self.runtime.start_container(&sandbox, &config).await.unwrap();
        Running { sandbox, container: config.id, state, events }
    }

    /// Runs a shell script in a container of its own to its end; its exit and what it printed.
    pub async fn run_to_end(&self, id: &str, script: &str) -> (ContainerExit, String) {
        let config = self.container_config(id, &["sh", "-c", script]);
        self.run_config_to_end(config).await
    }

    pub async fn run_config_to_end(&self, config: ContainerConfig) -> (ContainerExit, String) {
        let id = config.id.0.clone();
        let mut running = self.run_config(&id, config).await;
        let exit = running.exit().await;
        (exit, self.output(&id))
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.folder.path().join("logs").join(id).join("0.log")
    }

    /// What a container has printed so far, without the stamps of the log.
    pub fn output(&self, id: &str) -> String {
        let text = fs::read_to_string(self.log(id)).unwrap_or_default();
        // Not `lines`, which would take a terminal's carriage returns for its own.
        let lines = text.split_terminator('\n');
        lines.map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap_or(""))).collect()
    }

    /// Waits until a container has printed something.
    pub async fn await_output(&self, id: &str, wanted: &str) {
        eventually(&format!("{id} prints {wanted:?}"), || self.output(id).contains(wanted)).await;
    }

    /// Executes a shell script in a running container.
    pub async fn exec(&self, running: &Running, script: &str) -> ExecOutput {
        let command = ["sh", "-c", script].map(str::to_owned);
        self.runtime
            .exec_sync(&running.sandbox, &running.container, &command, PATIENCE)
            .await
            .unwrap()
    }

    pub async fn state(&self, running: &Running) -> ContainerState {
        let all = self.runtime.list().await.unwrap();
        let sandbox = all.into_iter().find(|s| s.config.id == running.sandbox).unwrap();
        sandbox.containers.into_iter().find(|c| c.id == running.container).unwrap()
    }
}

impl Drop for Rig {
    /// A test that panics leaves nothing either.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let config = self.config.clone();
        let cleaning = std::thread::spawn(move || {
            let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
            executor.unwrap().block_on(async {
                ShimRuntime::open(config).await.unwrap().shutdown_all().await.unwrap();
            });
        });
        if cleaning.join().is_err() {
            eprintln!("something is left: {:?}", self.remains());
        }
    }
}

/// A started container.
pub struct Running {
    pub sandbox: SandboxId,
    pub container: ContainerId,
    pub state: ContainerState,
    pub events: broadcast::Receiver<RuntimeEvent>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.state.pid.unwrap()
    }

    /// Waits for the event of its end.
    pub async fn exit(&mut self) -> ContainerExit {
        let wait = async {
            loop {
                match self.events.recv().await.unwrap() {
                    RuntimeEvent::ContainerExited { container, exit, .. }
                        if container == self.container =>
                    {
                        return exit;
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the container ends")
    }
}

/// Waits for a condition that no event announces.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

pub struct ProcessInfo {
    pub pid: u32,
    pub command_line: String,
}

/// All processes of the machine.
pub fn processes() -> Vec<ProcessInfo> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| {
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
        Some(ProcessInfo { pid, command_line })
    })
    .collect()
}

/// Whether a process runs; one that only waits for its parent to notice its end does not.
pub fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status_field(&status, "State").starts_with('Z')
}

/// The value of a line `Name:\tvalue` in `/proc/PID/status`.
pub fn status_field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

fn lay_out_busybox(layer: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
        .expect("busybox (Debian's busybox-static) is installed");
    for folder in ["bin", "etc", "proc", "root", "sys", "tmp", "dev"] {
        fs::create_dir_all(layer.join(folder)).unwrap();
    }
    fs::copy(busybox, layer.join("bin/busybox")).unwrap();
    let applets = [
        "cat", "chmod", "chroot", "cp", "dd", "echo", "env", "false", "grep", "head", "hostname",
        "id", "ip", "kill", "ls", "mkdir", "mknod", "mount", "mv", "nc", "nohup", "ps", "pwd",
        "readlink", "rm", "seq", "setsid", "sh", "sleep", "sort", "stty", "su", "sync", "tail",
        "test", "touch", "true", "tty", "umount", "unshare", "usleep", "wc", "yes",
    ];
    for applet in applets {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    fs::write(
        layer.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
    )
    .unwrap();
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
}
