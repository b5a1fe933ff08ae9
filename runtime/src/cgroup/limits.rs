//! Other limits for a group whose processes run.

use std::fs;
use std::io;
use std::path::Path;

use super::{Hierarchies, Version, io_error, read_number};
use crate::Result;
use crate::api::Resources;

/// The kernel's default.
const PERIOD_US: u64 = 100_000;

/// A file of a group and what is to be written to it.
pub(super) type Write = (&'static str, String);

/// What a controller is to be told of a container's group, which is in this folder; the last says whether swap counts.
type Words = fn(&Resources, Version, &Path, bool) -> Vec<Write>;

impl Hierarchies {
    /// Sets what is named of CPU and memory; `swap` tells whether the kernel accounts it.
    pub(crate) fn limit(&self, group: &str, resources: &Resources, swap: bool) -> Result<()> {
        let cpu: Words = |resources, version, _, _| cpu(resources, version);
        let controllers: [(&str, Words); 2] = [("cpu", cpu), ("memory", memory)];
        for (controller, writes) in controllers {
            // In the hybrid layout version 2 is there without controllers.
            let unified = self.is_unified();
            let hierarchies = self.0.iter().filter(|h| match h.version {
                Version::One => h.controllers.iter().any(|one| one == controller),
                Version::Two => unified,
            });
            for hierarchy in hierarchies {
                let folder = hierarchy.folder(group);
                for (file, value) in writes(resources, hierarchy.version, &folder, swap) {
                    let path = folder.join(file);
                    fs::write(&path, value).map_err(|e| io_error("write", &path, told(e)))?;
                }
            }
        }
        Ok(())
    }
}

/// The kernel has one number for everything that is in its way.
pub(super) fn told(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(nix::libc::EBUSY) => io::Error::other("more than that is in use"),
        _ => error,
    }
}

pub(super) fn cpu(resources: &Resources, version: Version) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(shares) = resources.cpu_shares {
        writes.push(match version {
            Version::One => ("cpu.shares", shares.to_string()),
            Version::Two => ("cpu.weight", weight(shares).to_string()),
        });
    }
    if let Some(quota) = resources.cpu_quota_us {
        let period = resources.cpu_period_us.unwrap_or(PERIOD_US);
        match version {
            Version::One => writes.extend([
                ("cpu.cfs_period_us", period.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ]),
            Version::Two => writes.push(("cpu.max", format!("{quota} {period}"))),
        }
    }
    writes
}

/// As libcontainer does it when it makes the group.
fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    let log = (shares.min(262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

fn memory(resources: &Resources, version: Version, folder: &Path, swap: bool) -> Vec<Write> {
    let Some(limit) = resources.memory_limit_bytes else { return Vec::new() };
    let (file, both, value) =
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", limit.to_string());
    match version {
        // Memory and swap together are never less than memory alone, on the way neither.
        Version::One if swap => {
            let now = read_number(&folder.join(file)).unwrap_or(u64::MAX);
            let grows = u64::try_from(limit).is_ok_and(|limit| limit > now);
            match grows {
                true => vec![(both, value.clone()), (file, value)],
                false => vec![(file, value.clone()), (both, value)],
            }
        }
        Version::One => vec![(file, value)],
        Version::Two => {
            let mut writes = vec![("memory.oom.group", "1".to_owned())];
            if swap {
                writes.push(("memory.swap.max", "0".to_owned()));
            }
            writes.push(("memory.max", value));
            writes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(limit: i64) -> Resources {
        Resources {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: None,
            memory_limit_bytes: Some(limit),
            ..Resources::default()
        }
    }

    fn named(writes: Vec<Write>) -> Vec<String> {
        writes.into_iter().map(|(file, value)| format!("{file}={value}")).collect()
    }

    #[test]
    fn both_versions_are_told_in_their_words() {
        let folder = Path::new("/nowhere");
        assert_eq!(
            named(cpu(&resources(0), Version::One)),
            ["cpu.shares=1024", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"]
        );
        assert_eq!(
            named(cpu(&resources(0), Version::Two)),
            ["cpu.weight=100", "cpu.max=50000 100000"]
        );
        assert_eq!(
            named(memory(&resources(7), Version::Two, folder, true)),
            ["memory.oom.group=1", "memory.swap.max=0", "memory.max=7"]
        );
        assert_eq!(
            named(memory(&resources(7), Version::One, folder, false)),
            ["memory.limit_in_bytes=7"]
        );
        assert!(cpu(&Resources::default(), Version::Two).is_empty());
        assert!(memory(&Resources::default(), Version::One, folder, true).is_empty());
    }

    #[test]
    fn memory_and_swap_together_are_never_less_than_memory() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("memory.limit_in_bytes"), "100\n").unwrap();
        let order = |limit| named(memory(&resources(limit), Version::One, folder.path(), true));
        assert_eq!(order(200), ["memory.memsw.limit_in_bytes=200", "memory.limit_in_bytes=200"]);
        assert_eq!(order(50), ["memory.limit_in_bytes=50", "memory.memsw.limit_in_bytes=50"]);
    }
}
