//! What the caller of a shim has decided about a container, written to its folder for the shim
//! and its creators to act on. Nothing in here is looked up or defaulted any more.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::{IdRange, Propagation, Resources, User};
use crate::isolation::Capabilities;

/// Name of the file in a container's folder that holds its [`LaunchPlan`].
pub(crate) const LAUNCH_PLAN: &str = "launch.json";

/// All that is needed to make a container and, later, to execute programs in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaunchPlan {
    pub(crate) process: ProcessPlan,
    pub(crate) root: RootPlan,
    /// Path of its cgroup, relative to the root of each hierarchy, with a leading `/`.
    pub(crate) cgroup: String,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) log: Option<LogPlan>,
    /// Whose process namespace it joins, by its id.
    #[serde(default)]
    pub(crate) joins_processes_of: Option<String>,
    /// In which process namespace it is otherwise.
    #[serde(default)]
    pub(crate) processes: Processes,
    /// Who its users are on the machine; nothing: the same.
    #[serde(default)]
    pub(crate) users: Option<IdRange>,
    /// Where it is put together, if its users are not the machine's.
    #[serde(default)]
    pub(crate) stage: Option<StagePlan>,
    /// What it sees of itself in the place of the machine.
    #[serde(default)]
    pub(crate) view: Vec<ViewFile>,
    /// Where its creator mounts the namespaces that it joins, each under its name.
    #[serde(default)]
    pub(crate) entrances: PathBuf,
    /// The group that its creator makes for it; nothing: libcontainer does.
    #[serde(default)]
    pub(crate) group: Option<GroupPlan>,
}

/// A control group of version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupPlan {
    pub(crate) resources: Resources,
    /// Whether the kernel accounts swap to control groups.
    pub(crate) swap_accounting: bool,
    /// Whether control groups may be out of the creator's sight: nothing that it mounts is of them.
    pub(crate) can_hide: bool,
}

impl LaunchPlan {
    /// Who a user of the container is on the machine.
    pub(crate) fn on_host(&self, id: u32) -> u32 {
        self.users.map_or(id, |users| users.first.saturating_add(id))
    }
}

/// How a container is put together whose users are not the machine's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagePlan {
    /// A folder that everybody may enter, on which the creator mounts a file system of its own.
    pub(crate) folder: PathBuf,
    /// Sources of mounts, files or folders of the machine.
    pub(crate) mounts: Vec<PathBuf>,
    /// The numbers of those whose files have been mapped already.
    #[serde(default)]
    pub(crate) mapped: Vec<usize>,
    /// Sources of mounts that are the same for all users, after those.
    #[serde(default)]
    pub(crate) for_all: Vec<PathBuf>,
}

/// A file of `/proc` that tells of the container what it otherwise tells of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ViewFile {
    Meminfo,
    Cpuinfo,
    Stat,
    Loadavg,
}

impl ViewFile {
    pub(crate) const ALL: [ViewFile; 4] =
        [ViewFile::Meminfo, ViewFile::Cpuinfo, ViewFile::Stat, ViewFile::Loadavg];

    pub(crate) fn path(self) -> &'static str {
        match self {
            ViewFile::Meminfo => "/proc/meminfo",
            ViewFile::Cpuinfo => "/proc/cpuinfo",
            ViewFile::Stat => "/proc/stat",
            ViewFile::Loadavg => "/proc/loadavg",
        }
    }

    /// Its name among those of all containers of a sandbox.
    pub(crate) fn name_for(self, container: &str) -> String {
        format!("{}@{container}", self.path().trim_start_matches("/proc/"))
    }
}

impl StagePlan {
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.folder.join("layers")
    }

    pub(crate) fn mount(&self, number: usize) -> PathBuf {
        self.folder.join("mounts").join(number.to_string())
    }
}

/// A namespace that a container joins by the path at which its creator has mounted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    Users,
    Processes,
    Time,
}

impl Entrance {
    pub(crate) fn path(self, entrances: &Path) -> PathBuf {
        entrances.join(match self {
            Entrance::Users => "user",
            Entrance::Processes => "processes",
            Entrance::Time => "time",
        })
    }
}

/// Among which processes a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Processes {
    /// In a namespace of its own, that ends with it.
    #[default]
    Own,
    /// In the sandbox's.
    OfSandbox,
    /// In the machine's.
    OfHost,
}

/// A process and its confinement, beyond what its namespaces are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_directory: String,
    pub(crate) user: User,
    pub(crate) capabilities: Capabilities,
    pub(crate) no_new_privileges: bool,
    /// File with the compiled program of the system-call filter.
    pub(crate) seccomp: Option<PathBuf>,
    /// The AppArmor profile; nothing: none is set.
    #[serde(default)]
    pub(crate) app_armor: Option<String>,
    /// The SELinux label; nothing: none is set.
    #[serde(default)]
    pub(crate) selinux: Option<String>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) oom_score_adj: i32,
}

/// A resource limit of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) kind: LimitKind,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The limits that are set; what is not named here is the shim's, which has it from the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LimitKind {
    OpenFiles,
    CoreSize,
}

/// The copy-on-write root of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootPlan {
    /// Lowest first, as in an image.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    /// To whom of the machine what is made in it belongs.
    #[serde(default)]
    pub(crate) owner: u32,
    /// The SELinux label of all files in it, and of the images that are mounted.
    #[serde(default)]
    pub(crate) label: Option<String>,
    /// Where the container's own mounts will be.
    pub(crate) mount_points: Vec<MountPoint>,
}

/// A place in the root that has to be there for a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountPoint {
    /// As the container sees it.
    pub(crate) path: PathBuf,
    /// Of what is mounted by a [`SubPath`], only its creator finds out.
    pub(crate) is_folder: bool,
    #[serde(default)]
    pub(crate) sub_path: Option<SubPath>,
    #[serde(default)]
    pub(crate) propagation: Propagation,
}

/// A source that is known for certain only once it is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubPath {
    pub(crate) folder: PathBuf,
    /// Relative; empty: the folder itself, which may be a file then.
    pub(crate) path: PathBuf,
    /// Whether it stays a peer of the machine's mount.
    #[serde(default)]
    pub(crate) is_shared: bool,
    /// Where the creator binds it, in its own mount namespace, for libcontainer to find.
    pub(crate) place: PathBuf,
    /// If there are any: what the creator mounts on the folder first.
    #[serde(default)]
    pub(crate) layers: Vec<PathBuf>,
}

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPlan {
    pub(crate) path: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) max_files: u32,
}
