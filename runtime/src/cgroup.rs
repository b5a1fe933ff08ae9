//! Control groups as the shim and the removal of containers need them. Making a container's own group,
//! with its first limits, is [`birth`]'s with version 1 and libcontainer's with version 2; changing them while it runs
//! is [`limits`]'.
//!
//! A group is named by its path relative to the root of every hierarchy. On a pure version 2
//! system there is one hierarchy; with version 1 there are many, the named one of systemd and
//! an empty version 2 hierarchy (the "hybrid" layout) among them.

mod birth;
mod bounds;
mod counts;
mod limits;
mod tasks;
mod usage;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Error, Result};
pub(crate) use birth::MOUNTED_BELOW;
pub(crate) use bounds::huge_page_bounds;
pub(crate) use counts::Counts;
pub(crate) use tasks::Tasks;

/// The mounted hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    /// Which part of the hierarchy is mounted there; `/` but in a container.
    root: String,
    /// `memory`, `name=systemd` …; nothing for version 2.
    controllers: Vec<String>,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// How long a killed group is given to become empty: the kernel has to tear down every process,
/// which takes long only for one with much memory or in an uninterruptible wait.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

impl Hierarchies {
    /// Reads which hierarchies are mounted.
    pub(crate) fn read() -> Result<Hierarchies> {
        let path = "/proc/self/mountinfo";
        let text = fs::read_to_string(path).map_err(|e| io_error("read", path, e))?;
        Ok(Self::parse(&text))
    }

    fn parse(mountinfo: &str) -> Hierarchies {
        let mut found: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            // "36 35 98:0 /root /mount/point options… optional… - type source superoptions"
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let mut head = head.split(' ').skip(3);
            let mut tail = tail.split(' ');
            let (Some(root), Some(mount_point)) = (head.next(), head.next()) else { continue };
            let version = match tail.next() {
                Some("cgroup") => Version::One,
                Some("cgroup2") => Version::Two,
                _ => continue,
            };
            let options = tail.nth(1).unwrap_or_default().split(',');
            let controllers = match version {
                Version::One => {
                    options.filter(|o| !matches!(*o, "rw" | "ro")).map(str::to_owned).collect()
                }
                Version::Two => Vec::new(),
            };
            // A second mount of a hierarchy shows nothing new.
            if found.iter().any(|h| h.version == version && h.controllers == controllers) {
                continue;
            }
            found.push(Hierarchy {
                mount_point: PathBuf::from(mount_point),
                root: root.to_owned(),
                controllers,
                version,
            });
        }
        Hierarchies(found)
    }

    /// Whether version 2 is all there is.
    pub(crate) fn is_unified(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|h| h.version == Version::Two)
    }

    /// Whether swap counts towards the limits of groups.
    pub(crate) fn account_swap(&self) -> bool {
        self.0.iter().any(|h| match h.version {
            Version::One => h.mount_point.join("memory.memsw.limit_in_bytes").exists(),
            // The root has no such file, but any group with the controller has.
            Version::Two => fs::read_dir(&h.mount_point).is_ok_and(|groups| {
                groups.flatten().any(|group| group.path().join("memory.swap.max").exists())
            }),
        })
    }

    /// Makes the group that sandboxes share, where libcontainer cannot: on version 2 it makes one
    /// level after the other if it is not there, and fails when another has made it in between.
    pub(crate) fn share(&self, group: &str) -> Result<()> {
        for hierarchy in self.0.iter().filter(|_| self.is_unified()) {
            let folder = hierarchy.folder(group);
            fs::create_dir_all(&folder).map_err(|e| io_error("create", &folder, e))?;
        }
        Ok(())
    }

    /// Makes a group, in every hierarchy, and moves a process into it.
    pub(crate) fn enter(&self, group: &str, pid: Pid) -> Result<()> {
        for hierarchy in &self.0 {
            let folder = hierarchy.folder(group);
            fs::create_dir_all(&folder).map_err(|e| io_error("create", &folder, e))?;
            hierarchy.prepare_cpuset(&folder)?;
            join(&folder, pid)?;
        }
        Ok(())
    }

    /// Moves this process, which has one thread, into the groups of another, but for the one of version 2: that is
    /// given back, for a child to be made in it. Being born in a group costs nothing, while a move there
    /// makes the kernel wait until no processor forks.
    pub(crate) fn follow(&self, pid: u32) -> Result<Option<OwnedFd>> {
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).map_err(|e| io_error("read", &path, e))?;
        let mut unified = None;
        for line in text.lines() {
            // "4:memory:/path", for version 2 "0::/path"
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
            let hierarchy = self.0.iter().find(|h| match controllers {
                "" => h.version == Version::Two,
                names => names.split(',').all(|name| h.controllers.iter().any(|c| c == name)),
            });
            let Some(hierarchy) = hierarchy else { continue };
            let folder = hierarchy.folder_of_absolute(group);
            match hierarchy.version {
                Version::One => birth::join_alone(&folder)?,
                Version::Two => {
                    let file = fs::File::open(&folder).map_err(|e| io_error("open", &folder, e))?;
                    unified = Some(file.into());
                }
            }
        }
        Ok(unified)
    }

    /// How often the kernel has killed in a group for want of memory.
    pub(crate) fn oom_kills(&self, group: &str) -> u64 {
        let file = self.0.iter().find_map(|h| match h.version {
            Version::One if h.controllers.iter().any(|c| c == "memory") => {
                Some(h.folder(group).join("memory.oom_control"))
            }
            Version::Two if self.is_unified() => Some(h.folder(group).join("memory.events")),
            _ => None,
        });
        // Without the memory controller nothing was killed on its behalf.
        let text = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Kills all processes of a group and waits until it is empty.
    pub(crate) fn kill_all(&self, group: &str) -> Result<()> {
        let folders: Vec<PathBuf> =
            self.0.iter().map(|h| h.folder(group)).filter(|f| f.exists()).collect();
        for folder in &folders {
            // There since Linux 5.14; where it is not, the loop below does the work.
            let _ = fs::write(folder.join("cgroup.kill"), "1");
        }
        let deadline = Instant::now() + EMPTY_WITHIN;
        loop {
            let mut pids = BTreeSet::new();
            for folder in &folders {
                pids.extend(processes(folder)?);
            }
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io_error(
                    "kill the processes of control group",
                    group,
                    io::Error::new(io::ErrorKind::TimedOut, format!("{pids:?} do not die")),
                ));
            }
            for pid in pids {
                // One that has gone in the meantime is what is wanted.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Removes an empty group, and all below it. None of this name is no error.
    pub(crate) fn remove(&self, group: &str) -> Result<()> {
        for hierarchy in &self.0 {
            let folder = hierarchy.folder(group);
            // A process that was just reaped can keep its group busy for a moment.
            let deadline = Instant::now() + EMPTY_WITHIN;
            while let Err(e) = remove_tree(&folder) {
                let busy = e.raw_os_error() == Some(nix::libc::EBUSY);
                if !busy || Instant::now() > deadline {
                    return Err(io_error("remove", &folder, e));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Removes a group with all groups below it where nothing is in them: the caller's pods are in
    /// groups of their own kinds, which stay when the pods go.
    pub(crate) fn remove_unused_tree(&self, group: &str) {
        for hierarchy in &self.0 {
            remove_empty(&hierarchy.folder(group));
        }
    }

    /// Removes a group where nothing is in it; one still in use is left alone.
    pub(crate) fn remove_if_unused(&self, group: &str) {
        for hierarchy in &self.0 {
            let _ = fs::remove_dir(hierarchy.folder(group));
        }
    }
}

/// The kernel refuses to remove what is in use, and what holds that.
fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

impl Hierarchy {
    fn folder(&self, group: &str) -> PathBuf {
        self.mount_point.join(group.trim_start_matches('/'))
    }

    /// The folder of a path as `/proc/PID/cgroup` shows it, which starts at the hierarchy's root
    /// and not at what is mounted.
    fn folder_of_absolute(&self, group: &str) -> PathBuf {
        let below = match self.root.as_str() {
            "/" => group,
            root => group.strip_prefix(root).unwrap_or(group),
        };
        self.folder(below)
    }

    /// On version 1 a new cpuset has no processors and no memory, and takes no process until it
    /// has been given its parent's.
    fn prepare_cpuset(&self, folder: &Path) -> Result<()> {
        if !self.controllers.iter().any(|c| c == "cpuset") {
            return Ok(());
        }
        let mut chain: Vec<&Path> =
            folder.ancestors().take_while(|f| *f != self.mount_point).collect();
        chain.reverse();
        for folder in chain {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let path = folder.join(file);
                let own = fs::read_to_string(&path).map_err(|e| io_error("read", &path, e))?;
                let parent = folder.parent().unwrap_or(folder).join(file);
                if own.trim().is_empty() {
                    let value =
                        fs::read_to_string(&parent).map_err(|e| io_error("read", &parent, e))?;
                    fs::write(&path, value.trim()).map_err(|e| io_error("write", &path, e))?;
                }
            }
        }
        Ok(())
    }
}

fn join(folder: &Path, pid: Pid) -> Result<()> {
    let path = folder.join("cgroup.procs");
    fs::write(&path, pid.to_string()).map_err(|e| io_error("write", &path, e))
}

fn processes(folder: &Path) -> Result<Vec<i32>> {
    let path = folder.join("cgroup.procs");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(e) if is_gone(&e) => Ok(Vec::new()),
        Err(e) => Err(io_error("read", &path, e)),
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Ok(()) => return Ok(()),
        Err(e) if is_gone(&e) => return Ok(()),
        Err(_) => {}
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if !is_gone(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Reading a file of a group that is being removed fails with ENODEV.
fn is_gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENODEV))
}

fn io_error(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Error {
    Error::Io { operation, path: path.as_ref().to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 30 0:28 / /mnt/again rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn every_hierarchy_is_found_once() {
        let found = Hierarchies::parse(HYBRID);
        let names: Vec<_> = found.0.iter().map(|h| h.controllers.join(",")).collect();
        assert_eq!(names, ["cpu", "memory", "name=systemd", ""]);
        assert!(!found.is_unified());
    }

    #[test]
    fn one_version_two_mount_is_a_unified_system() {
        let line = "25 24 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert!(Hierarchies::parse(line).is_unified());
        assert!(!Hierarchies::parse("").is_unified());
    }

    #[test]
    fn paths_of_proc_are_taken_relative_to_what_is_mounted() {
        let line = "25 24 0:22 /docker/7f /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(line);
        let folder = found.0[0].folder_of_absolute("/docker/7f/kutter/pod");
        assert_eq!(folder, Path::new("/sys/fs/cgroup/kutter/pod"));
    }
}
