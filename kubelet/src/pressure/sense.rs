//! What the machine has left.

use std::path::{Path, PathBuf};

use super::decide::{Level, Observations};
use super::threshold::Signal;

/// Looks at what is left.
pub trait Sense: Send + Sync + 'static {
    /// Looks now. May read files of the kernel, but not wait for anything.
    fn sense(&self) -> Observations;
}

/// The machine this process runs on.
#[derive(Clone, Debug)]
pub struct MachineSense {
    /// The file system it is on is `nodefs`.
    pub root_dir: PathBuf,
    /// The file system it is on is `imagefs`.
    pub images_dir: PathBuf,
}

impl Sense for MachineSense {
    fn sense(&self) -> Observations {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut seen = Observations::new();
        let meminfo = read("/proc/meminfo");
        let bytes = |name| kibibytes(&meminfo, name).map(|kib| kib * 1024);
        if let (Some(available), Some(capacity)) = (bytes("MemAvailable"), bytes("MemTotal")) {
            seen.insert(Signal::MemoryAvailable, Level { available, capacity });
        }
        disk(&self.root_dir, Signal::NodefsAvailable, Signal::NodefsInodesFree, &mut seen);
        disk(&self.images_dir, Signal::ImagefsAvailable, Signal::ImagefsInodesFree, &mut seen);
        let running = processes(&read("/proc/loadavg"));
        if let (Some(capacity), Some(running)) = (process_limit(), running) {
            let level = Level { available: (capacity - running).max(0), capacity };
            seen.insert(Signal::PidAvailable, level);
        }
        seen
    }
}

/// So many processes and threads the machine can have.
pub(crate) fn process_limit() -> Option<i64> {
    ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
        .min()
}

fn disk(path: &Path, bytes: Signal, inodes: Signal, seen: &mut Observations) {
    let Ok(fs) = nix::sys::statvfs::statvfs(path) else { return };
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let level = |available: u64, capacity: u64| Level {
        available: signed(available),
        capacity: signed(capacity),
    };
    let unit = fs.fragment_size();
    let of_bytes =
        level(fs.blocks_available().saturating_mul(unit), fs.blocks().saturating_mul(unit));
    seen.insert(bytes, of_bytes);
    // Some file systems do not count them.
    if fs.files() > 0 {
        seen.insert(inodes, level(fs.files_available(), fs.files()));
    }
}

fn kibibytes(meminfo: &str, name: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The total in the fourth field of `/proc/loadavg`, `running/total`.
fn processes(loadavg: &str) -> Option<i64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_left_of_everything() {
        let here = std::env::temp_dir();
        let seen = MachineSense { root_dir: here.clone(), images_dir: here }.sense();
        for signal in [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::PidAvailable] {
            let level = seen[&signal];
            assert!(
                level.available > 0 && level.available <= level.capacity,
                "{signal:?} {level:?}"
            );
        }
    }

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(kibibytes("MemTotal:   12 kB\nMemAvailable: 7 kB\n", "MemAvailable"), Some(7));
        assert_eq!(kibibytes("MemTotal:   12 kB\n", "MemAvailable"), None);
        assert_eq!(processes("0.1 0.2 0.3 2/345 999\n"), Some(345));
    }
}
