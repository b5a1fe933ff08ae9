//! A container's group of version 1: made, bounded and entered by the process that then forks the container.
//!
//! libcontainer would do all of it, by writing the number of a process to `cgroup.procs`. For that the kernel waits
//! until no processor forks, some ten milliseconds, which is more than all else of a start. A process with one thread
//! that writes 0 to `tasks` moves itself, and nobody has to wait. What it forks is born there.
//!
//! With version 2 there is no such way, and libcontainer does it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};

use super::{Hierarchies, Hierarchy, Version, io_error};
use crate::plan::GroupPlan;
use crate::{Error, Result};

/// Below it version 1 is mounted, as everywhere.
pub(crate) const MOUNTED_BELOW: &str = "/sys/fs/cgroup";

/// What containers may do with devices: make nodes of all, and use those that their `/dev` has, terminals among them.
const ALLOWED_DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

impl Hierarchies {
    /// Makes a group with its limits.
    pub(crate) fn make(&self, group: &str, plan: &GroupPlan) -> Result<()> {
        for hierarchy in self.with_controllers() {
            let folder = hierarchy.folder(group);
            fs::create_dir_all(&folder).map_err(|e| io_error("create", &folder, e))?;
            hierarchy.prepare_cpuset(&folder)?;
        }
        let resources = &plan.resources;
        let devices = self.folder_in("devices", group)?;
        let allow = ALLOWED_DEVICES.map(|rule| ("devices.allow", rule));
        for (file, rule) in [("devices.deny", "a")].into_iter().chain(allow) {
            write(&devices, file, rule)?;
        }
        let pids = resources.pids_limit.filter(|limit| *limit > 0);
        let pids = pids.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
        write(&self.folder_in("pids", group)?, "pids.max", &pids)?;
        for (wanted, controller) in [
            (resources.cpu_shares.is_some() || resources.cpu_quota_us.is_some(), "cpu"),
            (resources.memory_limit_bytes.is_some(), "memory"),
        ] {
            if wanted {
                self.folder_in(controller, group)?;
            }
        }
        self.limit(group, resources, plan.swap_accounting)
    }

    /// Moves this process, which has one thread, to a group, and all that it will fork.
    pub(crate) fn join(&self, group: &str) -> Result<()> {
        self.with_controllers().try_for_each(|hierarchy| join_alone(&hierarchy.folder(group)))
    }

    /// The folder of a group of version 2, made if it is not there, for a process to be born in; nothing where there is
    /// no version 2.
    pub(crate) fn birthplace(&self, group: &str) -> Result<Option<OwnedFd>> {
        let Some(hierarchy) = self.0.iter().find(|h| h.version == Version::Two) else {
            return Ok(None);
        };
        let folder = hierarchy.folder(group);
        fs::create_dir_all(&folder).map_err(|e| io_error("create", &folder, e))?;
        let opened = File::open(&folder).map_err(|e| io_error("open", &folder, e))?;
        Ok(Some(opened.into()))
    }

    /// Moves this process, which has one thread, to a group in all hierarchies of version 1, the named ones too.
    pub(crate) fn join_everywhere(&self, group: &str) -> Result<()> {
        for hierarchy in self.0.iter().filter(|h| h.version == Version::One) {
            let folder = hierarchy.folder(group);
            fs::create_dir_all(&folder).map_err(|e| io_error("create", &folder, e))?;
            hierarchy.prepare_cpuset(&folder)?;
            join_alone(&folder)?;
        }
        Ok(())
    }

    /// Takes version 1 out of this process' mount namespace, so that libcontainer finds nothing that it would have
    /// to join. Where it is mounted elsewhere too, that stays, and costs time.
    pub(crate) fn hide(&self) -> io::Result<()> {
        nix::mount::umount2(MOUNTED_BELOW, MntFlags::MNT_DETACH)?;
        // What it knows version 1 by.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let size = Some("size=4k,mode=755");
        Ok(nix::mount::mount(Some("none"), MOUNTED_BELOW, Some("tmpfs"), flags, size)?)
    }

    /// The named hierarchies are for whoever started us, as is version 2 beside version 1.
    fn with_controllers(&self) -> impl Iterator<Item = &Hierarchy> {
        let named =
            |hierarchy: &Hierarchy| hierarchy.controllers.iter().any(|c| c.starts_with("name="));
        self.0.iter().filter(move |h| h.version == Version::One && !named(h))
    }

    fn folder_in(&self, controller: &'static str, group: &str) -> Result<std::path::PathBuf> {
        let found =
            self.with_controllers().find(|h| h.controllers.iter().any(|one| one == controller));
        let missing = || Error::Io {
            operation: "find control groups of",
            path: controller.into(),
            source: io::Error::new(io::ErrorKind::NotFound, "they are not mounted"),
        };
        found.map(|hierarchy| hierarchy.folder(group)).ok_or_else(missing)
    }
}

/// Moves this process to a group of version 1.
pub(super) fn join_alone(folder: &Path) -> Result<()> {
    write(folder, "tasks", "0")
}

fn write(folder: &Path, file: &str, value: &str) -> Result<()> {
    let path = folder.join(file);
    let opened = File::options().write(true).open(&path);
    let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|e| io_error("write", &path, e))
}
