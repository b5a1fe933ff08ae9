//! What the caller of a shim has decided about a container, written to its folder for the shim
//! and its creators to act on. Nothing in here is looked up or defaulted any more.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::api::User;
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
}

/// A source that is known for certain only once it is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubPath {
    pub(crate) folder: PathBuf,
    pub(crate) path: PathBuf,
    /// Where the creator binds it, in its own mount namespace, for libcontainer to find.
    pub(crate) place: PathBuf,
}

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPlan {
    pub(crate) path: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) max_files: u32,
}
