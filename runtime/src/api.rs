//! The nouns of the runtime, and the trait that a node agent is written against.
//!
//! A *sandbox* is the set of namespaces that some containers share (network, IPC, UTS), held by a
//! shim process. A *container* is one isolated process tree within a sandbox. Ids are chosen by
//! the caller and unique on the machine; every operation is idempotent under its id, so that a
//! caller that died in the middle simply asks again.
//!
//! ```text
//! create_sandbox -> start_container -> (exec, signal) -> exit record -> remove_container -> remove_sandbox
//! ```

mod selinux;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc, oneshot};

pub use self::selinux::{Labelled, SelinuxOptions};
use crate::{DiskUsage, Result};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Names a sandbox; a path component of at most 64 characters out of `[A-Za-z0-9_.-]`.
    SandboxId
);
id!(
    /// Names a container within its sandbox; the same alphabet, at most 128 characters.
    ContainerId
);

/// What a sandbox is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Chosen by the caller.
    pub id: SandboxId,
    /// Kept with the sandbox and given back by [`ContainerRuntime::list`]; not interpreted.
    pub annotations: BTreeMap<String, String>,
    /// Host name within the sandbox.
    pub hostname: String,
    /// Parent of every container's cgroup, relative to the root of each hierarchy, starting with `/`.
    pub cgroup_parent: String,
    /// Bounds of that group: of all containers together. What is not named is not bounded.
    #[serde(default)]
    pub resources: Resources,
    /// Kernel parameters of the sandbox's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Which namespaces it has of the machine and not for itself.
    #[serde(default)]
    pub of_host: HostNamespaces,
    /// Whether its containers see each other's processes, under a first process that is the shim's:
    /// a container that ends takes only its own along.
    #[serde(default)]
    pub shares_processes: bool,
    /// Whether its users are other users of the machine, out of a range that no other sandbox has.
    #[serde(default)]
    pub own_users: bool,
    /// The label of what its containers share.
    #[serde(default)]
    pub selinux: SelinuxOptions,
}

/// What a sandbox uses of the machine instead of having it for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNamespaces {
    /// The network, and with it the host name.
    pub network: bool,
    /// The processes.
    pub processes: bool,
    /// Shared memory, semaphores and message queues.
    pub ipc: bool,
}

/// Users, or groups, of the machine that those of a sandbox are, in their order from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// Who 0 is.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// A sandbox as it stands.
#[derive(Clone, Debug)]
pub struct SandboxState {
    /// What it was made from.
    pub config: SandboxConfig,
    /// Whether its shim answers. A sandbox whose shim died cannot be entered any more; its
    /// containers are listed, and it has to be removed.
    pub ready: bool,
    /// `/proc/PID/ns/net` of the shim: where a network interface is put. Nothing when not ready.
    pub network_namespace: Option<PathBuf>,
    /// Who its users are on the machine; nothing: the same.
    pub users: Option<IdRange>,
    /// Its containers, running and exited, in order of their start.
    pub containers: Vec<ContainerState>,
    /// When it was made.
    pub created_at: SystemTime,
}

/// What a container is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Chosen by the caller; a restarted container is a new container with a new id.
    pub id: ContainerId,
    /// Kept and given back by [`ContainerRuntime::list`]; not interpreted.
    pub annotations: BTreeMap<String, String>,
    /// Unpacked image layers, the lowest first; shared by all containers, never written to.
    pub layers: Vec<PathBuf>,
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Absolute; made when it does not exist.
    pub working_directory: String,
    /// As whom the program runs.
    pub user: User,
    /// In the order given, after the standard mounts of `/proc`, `/sys`, `/dev`.
    pub mounts: Vec<Mount>,
    /// Bounds.
    pub resources: Resources,
    /// Changes of the default capability set, by names as in `NET_ADMIN`; `ALL` is known.
    pub capabilities: CapabilityChanges,
    /// Whether it may do all that root of its sandbox's users may: all capabilities and devices, no
    /// system-call filter, nothing masked, `/sys` and control groups writable.
    #[serde(default)]
    pub privileged: bool,
    /// Whether it sees all of `/proc`, of which otherwise parts are masked or read-only.
    #[serde(default)]
    pub unmasked_proc: bool,
    /// The system-call filter.
    pub seccomp: SeccompProfile,
    /// The AppArmor profile.
    #[serde(default)]
    pub app_armor: AppArmorProfile,
    /// Its SELinux label.
    #[serde(default)]
    pub selinux: SelinuxOptions,
    /// Files that are labelled before it starts, where the kernel has SELinux.
    #[serde(default)]
    pub labelled: Vec<Labelled>,
    /// Whether set-user-id programs are without effect.
    pub no_new_privileges: bool,
    /// Whether the root file system refuses writes.
    pub read_only_root: bool,
    /// The running container of the sandbox whose processes it sees and signals as its own; it ends
    /// with that. Nothing: it has a process namespace for itself.
    #[serde(default)]
    pub joins_processes_of: Option<ContainerId>,
    /// Whether the program gets a pseudo-terminal.
    pub tty: bool,
    /// Whether standard input is kept open, for an attach.
    pub stdin: bool,
    /// The log file in the CRI format, made with its parent folders. Nothing: output is dropped.
    pub log_path: Option<PathBuf>,
    /// A log file is rotated to `<log_path>.<timestamp>` beyond this many bytes.
    pub log_max_bytes: u64,
    /// So many log files are kept, the newest included.
    pub log_max_files: u32,
}

/// Numeric user and groups of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// A mount into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where the files come from.
    pub source: MountSource,
    /// Absolute path in the container; made when it does not exist.
    pub destination: String,
    /// What may be done with the files.
    pub access: Access,
    /// Which mounts that are made below it later are seen on the other side as well.
    #[serde(default)]
    pub propagation: Propagation,
}

/// Between machine and container, where the mounts go that are made below a mount once that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// They stay where they are made.
    #[default]
    None,
    /// The machine's are seen in the container. With users of its own, it sees their files as nobody's.
    HostToContainer,
    /// And the container's on the machine and in all else that shares the mount there. Only without
    /// users of its own: the kernel lets no others mount on the machine.
    Bidirectional,
}

/// What a container may do with the files of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// All that their modes allow.
    ReadWrite,
    /// Look at them. What is mounted below stays as it is.
    ReadOnly,
    /// Look at them, and at what is mounted below.
    ReadOnlyThroughout,
}

/// Where a mount's files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or folder of the host, bound.
    Host(PathBuf),
    /// What is at a path below a folder of the host, bound. Others may write to that folder, at any
    /// moment: links are followed as long as they stay below it.
    Below {
        /// The folder.
        folder: PathBuf,
        /// Relative; has to be there.
        path: PathBuf,
    },
    /// The files of an image, put together of its layers, for looking at.
    Image {
        /// Unpacked, the lowest first.
        layers: Vec<PathBuf>,
        /// What of them; nothing: all. Links are followed within the image.
        path: Option<PathBuf>,
    },
    /// A fresh tmpfs of at most so many bytes (nothing: the kernel's default).
    Tmpfs {
        /// Bound.
        size_bytes: Option<u64>,
    },
}

/// Bounds of a container; nothing means none, if not said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative weight in the v1 scale, 2 to 262 144.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time per `cpu_period_us`.
    pub cpu_quota_us: Option<i64>,
    /// Defaults to 100 000.
    pub cpu_period_us: Option<u64>,
    /// Beyond it the kernel kills.
    pub memory_limit_bytes: Option<i64>,
    /// Processes and threads. Nothing means 4096: no container may fill the machine's table.
    pub pids_limit: Option<i64>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Bytes in huge pages, by the size of a page in bytes. What is not named is not bounded; a
    /// machine without such pages has none to give.
    #[serde(default)]
    pub huge_page_limits: BTreeMap<u64, u64>,
}

/// What differs from the default capability set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityChanges {
    /// Added.
    pub add: Vec<String>,
    /// Dropped, before additions when `ALL` is among them.
    pub drop: Vec<String>,
}

/// The system-call filter of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// What containers customarily get.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// What this file of the machine says, in the JSON of OCI specifications or of Docker.
    File(PathBuf),
}

/// The AppArmor profile of a container. Where the kernel enforces none, only [`AppArmorProfile::Named`] is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmorProfile {
    /// What containers customarily get, and privileged ones do not. It denies mounts, also with `SYS_ADMIN`.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One that the machine's administrator has loaded, by its name.
    Named(String),
}

/// A container as it stands.
#[derive(Clone, Debug)]
pub struct ContainerState {
    /// Its id.
    pub id: ContainerId,
    /// As given when it was started.
    pub annotations: BTreeMap<String, String>,
    /// As given when it was started.
    pub log_path: Option<PathBuf>,
    /// The process id of its first process on the host, while it runs.
    pub pid: Option<u32>,
    /// When its program was started.
    pub started_at: SystemTime,
    /// How it ended; nothing while it runs.
    pub exit: Option<ContainerExit>,
}

/// What a container has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time of processors.
    pub cpu: std::time::Duration,
    /// Bytes of memory that the kernel would not give back just so: the working set.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerExit {
    /// 0 to 255; 128 + signal for a killed one, as shells count.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed in its cgroup for want of memory.
    pub oom_killed: bool,
    /// When.
    pub finished_at: SystemTime,
}

/// A program to run inside a running container, under the container's own confinement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecConfig {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether a standard input is wanted.
    pub stdin: bool,
    /// Whether a pseudo-terminal is wanted; standard error is then part of standard output.
    pub tty: bool,
}

/// How to join the streams of a running container's own program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachConfig {
    /// Whether its input is wanted; there is none if the container has none.
    pub stdin: bool,
    /// Whether its output is wanted, from now on.
    pub stdout: bool,
    /// Whether its errors are wanted, from now on; with a terminal they are part of the output.
    pub stderr: bool,
    /// Whether the container's input ends with this attach.
    pub once: bool,
}

/// A byte stream out of a program.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;
/// A byte stream into a program.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// A program running inside a container. Dropping it closes its streams and kills the program, if
/// that was started by an exec.
pub struct ExecSession {
    /// Present when asked for. Shutting it down is end of input.
    pub stdin: Option<Input>,
    /// Standard output.
    pub stdout: Output,
    /// Absent with a terminal.
    pub stderr: Option<Output>,
    /// Columns and rows of the terminal; ignored without one.
    pub resize: mpsc::Sender<(u16, u16)>,
    /// The exit code, 128 + signal when killed.
    pub exit: oneshot::Receiver<Result<i32>>,
}

/// What an [`ContainerRuntime::exec_sync`] gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// 128 + signal when killed.
    pub exit_code: i32,
    /// The first 64 KiB of standard output followed by standard error.
    pub output: Vec<u8>,
    /// Whether it was killed because the time was up.
    pub timed_out: bool,
}

/// Something happened that nobody asked for.
#[derive(Clone, Debug)]
pub enum RuntimeEvent {
    /// A container ended.
    ContainerExited {
        /// In which sandbox.
        sandbox: SandboxId,
        /// Which container.
        container: ContainerId,
        /// How.
        exit: ContainerExit,
    },
    /// A shim died; see [`SandboxState::ready`].
    SandboxLost {
        /// Which one.
        sandbox: SandboxId,
    },
}

/// What a node agent asks of a container runtime. All of it survives the caller: after a restart
/// of the agent, [`list`](Self::list) tells what there is, and events of it arrive as before.
#[async_trait::async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Makes a sandbox, or returns the one of this id.
    async fn create_sandbox(&self, config: &SandboxConfig) -> Result<SandboxState>;

    /// All sandboxes with all their containers.
    async fn list(&self) -> Result<Vec<SandboxState>>;

    /// Kills what still runs in the sandbox and removes everything of it but the logs. No error
    /// when there is none of this id.
    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<()>;

    /// Makes and starts a container, or returns the one of this id.
    async fn start_container(
        &self,
        sandbox: &SandboxId,
        config: &ContainerConfig,
    ) -> Result<ContainerState>;

    /// Gives a running container other bounds of CPU and memory; what else [`Resources`] says stays
    /// as it was, and so does a bound that is not named. What is used already is not taken away: a
    /// limit of memory below it makes the kernel kill.
    async fn update_container(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        resources: &Resources,
    ) -> Result<()>;

    /// Bounds what is in a control group together, and makes it if need be. Its path is relative to the
    /// root of each hierarchy and starts with `/`; sandboxes are in it by their `cgroup_parent`. What
    /// `resources` does not name stays as it was.
    async fn bound_group(&self, group: &str, resources: &Resources) -> Result<()>;

    /// Sends a signal to the container's first process; SIGKILL goes to all of its processes.
    async fn signal_container(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        signal: i32,
    ) -> Result<()>;

    /// Removes an exited container with its file system and records, but not its logs. Kills a
    /// running one first. No error when there is none of this id.
    async fn remove_container(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<()>;

    /// Runs a program to its end inside a container, for a probe.
    async fn exec_sync(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput>;

    /// Starts a program inside a container and hands out its streams.
    async fn exec(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        config: &ExecConfig,
    ) -> Result<ExecSession>;

    /// Joins the streams of a running container. Dropping the session ends the attach, and does
    /// nothing to the container; its `exit` comes when the container ends. Neither the container
    /// nor its log waits for whoever is attached: one that does not keep up gets an error.
    async fn attach(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        config: &AttachConfig,
    ) -> Result<ExecSession>;

    /// What a running container has used since it was started.
    async fn usage(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<Usage>;

    /// What a container has written into its own root file system. Walks through all of it.
    async fn disk_usage(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<DiskUsage>;

    /// Events from now on. A receiver that lags has to [`list`](Self::list) again.
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;
}
