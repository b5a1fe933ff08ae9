//! What a sandbox leaves in the file system, so that a caller that starts again finds it.
//!
//! ```text
//! STATE/sandboxes/SANDBOX/
//!   config.json            what the caller asked for        (written by the caller; see [`SandboxFolder::claim`])
//!   shim.json shim.sock    the shim's identity and socket   (written by the shim)
//!   first.json             the first process of those that containers share (by the shim)
//!   shim.log               what the shim has to complain about
//!   shm/                   the sandbox's shared memory, mounted
//!   views/                 what bounded containers see of themselves, mounted, served by the shim's attendant
//!   containers/CONTAINER/
//!     config.json          what the caller asked for        (written by the caller)
//!     launch.json          what is to be done about it      (written by the caller)
//!     bundle/config.json   the OCI specification            (written by the caller)
//!     state.json           pid, start, and in the end exit  (written by the shim)
//!     sub-path-N           where its creator binds the source of the Nth mount, if it has to open it
//!     user processes time  where its creator mounts the namespaces that it joins
//!     oci/                 libcontainer's own
//! ```
//!
//! Every file is put in place whole, by renaming.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::{ContainerId, IdRange, SandboxConfig, SandboxId};
use crate::isolation::selinux::Level;

/// What the caller has written about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) config: SandboxConfig,
    pub(crate) created_at: SystemTime,
    /// The control group in which all shims are.
    pub(crate) shim_cgroup: String,
    /// Who the sandbox's users are on the machine, if not the same.
    #[serde(default)]
    pub(crate) users: Option<IdRange>,
    /// Its categories of SELinux, where there are any.
    #[serde(default)]
    pub(crate) level: Option<Level>,
    /// The SELinux label of what its containers share.
    #[serde(default)]
    pub(crate) label: Option<String>,
}

impl SandboxRecord {
    /// The control group of one of its containers.
    pub(crate) fn container_cgroup(&self, container: &ContainerId) -> String {
        format!("{}/{container}", self.config.cgroup_parent.trim_end_matches('/'))
    }
}

/// Which process a shim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: u32,
    /// In clock ticks since the machine booted.
    pub(crate) start_ticks: u64,
}

impl ProcessIdentity {
    /// The identity of a process that exists, a zombie not included.
    pub(crate) fn of(pid: u32) -> Option<ProcessIdentity> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // "pid (name with anything) S ppid …": fields are counted after the name.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(ProcessIdentity { pid, start_ticks })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// The folder of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SandboxFolder(pub(crate) PathBuf);

impl SandboxFolder {
    pub(crate) fn new(state_dir: &Path, sandbox: &SandboxId) -> SandboxFolder {
        SandboxFolder(state_dir.join("sandboxes").join(&sandbox.0))
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    /// Locks the sandbox's configuration; nothing if there is none, or none any more. A shim that is just
    /// born holds it until its identity is written, and whoever removes the sandbox while it looks for that:
    /// either the shim is found and killed, or it finds itself unwanted. Nobody holds it for long.
    ///
    /// # Errors
    /// When the file is there and cannot be opened, looked at or locked.
    pub(crate) fn claim(&self) -> io::Result<Option<File>> {
        let path = self.config();
        let or_none = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => return or_none(error),
        };
        file.lock()?;
        // Whoever had the lock may have removed it.
        let locked = file.metadata()?;
        match fs::metadata(&path) {
            Ok(now) => Ok((now.ino() == locked.ino() && now.dev() == locked.dev()).then_some(file)),
            Err(error) => or_none(error),
        }
    }

    pub(crate) fn shim(&self) -> PathBuf {
        self.0.join("shim.json")
    }

    pub(crate) fn first_process(&self) -> PathBuf {
        self.0.join("first.json")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("shim.log")
    }

    pub(crate) fn shared_memory(&self) -> PathBuf {
        self.0.join("shm")
    }

    /// Where the shim serves its containers' views of themselves.
    pub(crate) fn views(&self) -> PathBuf {
        self.0.join("views")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub(crate) fn container(&self, container: &ContainerId) -> ContainerFolder {
        ContainerFolder(self.containers().join(&container.0))
    }
}

/// Name of a shim's socket in its sandbox's folder.
pub(crate) const SOCKET: &str = "shim.sock";

/// The folder of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerFolder(pub(crate) PathBuf);

impl ContainerFolder {
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    pub(crate) fn launch(&self) -> PathBuf {
        self.0.join(crate::plan::LAUNCH_PLAN)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.bundle().join("config.json")
    }

    /// The bundle of a container whose control group is not libcontainer's. Beside the other one, for shims of an
    /// earlier version know that only.
    pub(crate) fn lean_bundle(&self) -> PathBuf {
        self.0.join("lean")
    }

    pub(crate) fn lean_spec(&self) -> PathBuf {
        self.lean_bundle().join("config.json")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    /// Where its creator binds the source of a mount that it has to open.
    pub(crate) fn sub_path(&self, mount: usize) -> PathBuf {
        self.0.join(format!("sub-path-{mount}"))
    }

    /// Where its creator mounts the layers of an image that is a mount's source.
    pub(crate) fn image(&self, mount: usize) -> PathBuf {
        self.0.join(format!("image-{mount}"))
    }

    pub(crate) fn oci(&self) -> PathBuf {
        self.0.join("oci")
    }
}

/// Reads a record.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = fs::read(path)?;
    serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Puts a record in place, whole or not at all.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_another_of_its_number_is_not() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessIdentity { start_ticks: own.start_ticks + 1, ..own }.is_alive());
        assert_eq!(ProcessIdentity::of(u32::MAX), None);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shim.json");
        let identity = ProcessIdentity { pid: 3, start_ticks: 4 };
        write(&path, &identity).unwrap();
        assert_eq!(read::<ProcessIdentity>(&path).unwrap(), identity);
    }
}
