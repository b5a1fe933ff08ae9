//! Taking away all that a container or sandbox may have left.
//!
//! Nothing here trusts that anything was made, or made whole: whoever made it may have been
//! killed in between, and so may an earlier removal. What leads to the rest, the sandbox's own
//! folder, goes last.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::PidfdFlags;

use super::{Inner, io_error, subfolders};
use crate::api::{ContainerId, SandboxId};
use crate::shim::records::{self, ProcessIdentity, SandboxFolder, SandboxRecord};
use crate::{Error, Result};

impl Inner {
    /// Removes a container that its shim does not know, or not any more.
    pub(super) fn remove_container_remains(
        &self,
        record: &SandboxRecord,
        container: &ContainerId,
    ) -> Result<()> {
        let sandbox = &record.config.id;
        let group = record.container_cgroup(container);
        self.hierarchies.kill_all(&group)?;
        self.hierarchies.remove(&group)?;
        remove_tree(&self.container_data(sandbox, container))?;
        remove_tree(&self.folder(sandbox).container(container).0)
    }

    /// Removes a sandbox with all its containers, its shim included.
    pub(super) fn remove_sandbox_remains(&self, sandbox: &SandboxId) -> Result<()> {
        let folder = self.folder(sandbox);
        // To its end: a shim that is just being born finds that it is not wanted any more.
        let _claim = folder.claim().map_err(io_error("claim", &folder.config()))?;
        // The shim first: it would take the end of the other for an accident.
        kill_process(&folder, &folder.shim())?;
        kill_process(&folder, &folder.first_process())?;
        match records::read::<SandboxRecord>(&folder.config()) {
            Ok(record) => {
                let containers = folder.containers();
                if containers.exists() {
                    for name in subfolders(&containers)? {
                        self.remove_container_remains(&record, &ContainerId(name))?;
                    }
                }
                // Others may have sandboxes or limits of their own in it.
                self.hierarchies.remove_if_unused(&record.config.cgroup_parent);
            }
            // Nothing is ever made before this file is there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error("read", &folder.config())(e)),
        }
        unmount(&folder.shared_memory())?;
        unmount(&folder.views())?;
        remove_tree(&self.sandbox_data(sandbox))?;
        remove_tree(&folder.0)
    }
}

/// Makes sure that a process is no more whose identity is in a file: a shim, with which its network, IPC
/// and UTS namespaces go; or the first of the processes that containers share, with which all go.
fn kill_process(folder: &SandboxFolder, path: &Path) -> Result<()> {
    let identity: ProcessIdentity = match records::read(path) {
        Ok(identity) => identity,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("read", path)(e)),
    };
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(rustix::process::Pid::from_raw)
    else {
        return Ok(());
    };
    // The handle is of whoever has the number now; the comparison after it says who that is.
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    if !identity.is_alive() {
        return Ok(());
    }
    let _ = kill(Pid::from_raw(pid.as_raw_nonzero().get()), Signal::SIGKILL);
    let within = Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut ends = [PollFd::new(&handle, PollFlags::IN)];
    match rustix::event::poll(&mut ends, Some(&within)) {
        Ok(0) => Err(Error::Io {
            operation: "kill the shim of",
            path: folder.0.clone(),
            source: io::Error::from(io::ErrorKind::TimedOut),
        }),
        Ok(_) => Ok(()),
        Err(e) => Err(io_error("wait for the shim of", &folder.0)(e.into())),
    }
}

fn unmount(path: &Path) -> Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // There may be one on top of another, after a shim that was killed while starting.
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(e) => return Err(io_error("unmount", path)(e.into())),
        }
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}
