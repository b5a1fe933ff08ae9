//! What the kernel counts for a group and bounds it by, for the container's view of itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Hierarchies, Version, read_number};

/// What is known of a group now; what nobody counts is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) memory_limit: Option<u64>,
    pub(crate) memory_used: u64,
    pub(crate) anon: u64,
    pub(crate) active_anon: u64,
    pub(crate) inactive_anon: u64,
    pub(crate) active_file: u64,
    pub(crate) inactive_file: u64,
    pub(crate) shared: u64,
    /// Microseconds that it may use in so many.
    pub(crate) cpu_bound: Option<(u64, u64)>,
    pub(crate) cpu_user: Duration,
    pub(crate) cpu_system: Duration,
    pub(crate) processes: u64,
}

impl Counts {
    /// Time that processors have spent on the group.
    pub(crate) fn cpu_used(&self) -> Duration {
        self.cpu_user + self.cpu_system
    }
}

impl Hierarchies {
    /// Reads what is known of a group.
    pub(crate) fn counts(&self, group: &str) -> Counts {
        let mut counts = Counts::default();
        for hierarchy in &self.0 {
            let folder = hierarchy.folder(group);
            let has = |name: &str| hierarchy.controllers.iter().any(|one| one == name);
            let two = hierarchy.version == Version::Two;
            if has("memory") || two {
                memory(&folder, hierarchy.version, &mut counts);
            }
            if has("cpu") || has("cpuacct") || two {
                processors(&folder, hierarchy.version, &mut counts);
            }
            if let Some(number) = read_number(&folder.join("pids.current")) {
                counts.processes = number;
            }
        }
        counts
    }
}

fn memory(folder: &Path, version: Version, counts: &mut Counts) {
    let (limit, used, prefix) = match version {
        Version::One => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        Version::Two => ("memory.max", "memory.current", ""),
    };
    // "max", and the largest number that there is, are no limit: the machine has less.
    counts.memory_limit = read_number(&folder.join(limit)).or(counts.memory_limit);
    counts.memory_used = read_number(&folder.join(used)).unwrap_or(counts.memory_used);
    let text = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(' ') else { continue };
        let Some(name) = name.strip_prefix(prefix) else { continue };
        let field = match name {
            "rss" | "anon" => &mut counts.anon,
            "active_anon" => &mut counts.active_anon,
            "inactive_anon" => &mut counts.inactive_anon,
            "active_file" => &mut counts.active_file,
            "inactive_file" => &mut counts.inactive_file,
            "shmem" => &mut counts.shared,
            _ => continue,
        };
        *field = value.trim().parse().unwrap_or(0);
    }
}

fn processors(folder: &Path, version: Version, counts: &mut Counts) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    match version {
        Version::One => {
            let number = |name: &str| read_number(&folder.join(name));
            // -1 is no bound, and no number without a sign.
            if let (Some(quota), Some(period)) =
                (number("cpu.cfs_quota_us"), number("cpu.cfs_period_us"))
            {
                counts.cpu_bound = Some((quota, period));
            }
            for line in read("cpuacct.stat").unwrap_or_default().lines() {
                let (name, value) = line.split_once(' ').unwrap_or_default();
                let time = Duration::from_millis(value.parse::<u64>().unwrap_or(0) * 10);
                match name {
                    "user" => counts.cpu_user = time,
                    "system" => counts.cpu_system = time,
                    _ => {}
                }
            }
        }
        Version::Two => {
            let bound = read("cpu.max").unwrap_or_default();
            let mut numbers = bound.split_whitespace().map(str::parse::<u64>);
            if let (Some(Ok(quota)), Some(Ok(period))) = (numbers.next(), numbers.next()) {
                counts.cpu_bound = Some((quota, period));
            }
            for line in read("cpu.stat").unwrap_or_default().lines() {
                let (name, value) = line.split_once(' ').unwrap_or_default();
                let time = Duration::from_micros(value.parse().unwrap_or(0));
                match name {
                    "user_usec" => counts.cpu_user = time,
                    "system_usec" => counts.cpu_system = time,
                    _ => {}
                }
            }
        }
    }
}
