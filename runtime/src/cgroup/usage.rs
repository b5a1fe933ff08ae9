//! What a group has used, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Hierarchies, Version, read_number};
use crate::api::Usage;

impl Hierarchies {
    /// What a group has used. Nothing where it is gone, or nobody counts.
    pub(crate) fn usage(&self, group: &str) -> Option<Usage> {
        let cpu = self.folders(group, "cpuacct").find_map(|(folder, version)| match version {
            Version::One => read_number(&folder.join("cpuacct.usage")).map(Duration::from_nanos),
            Version::Two => {
                field(&folder.join("cpu.stat"), "usage_usec").map(Duration::from_micros)
            }
        });
        let memory = self.folders(group, "memory").find_map(|(folder, version)| {
            let (file, inactive) = match version {
                Version::One => ("memory.usage_in_bytes", "total_inactive_file"),
                Version::Two => ("memory.current", "inactive_file"),
            };
            let used = read_number(&folder.join(file))?;
            // What was read from files once and not since, the kernel gives back when asked.
            let cold = field(&folder.join("memory.stat"), inactive).unwrap_or(0);
            Some(used.saturating_sub(cold))
        });
        let processes = self
            .folders(group, "pids")
            .find_map(|(folder, _)| read_number(&folder.join("pids.current")));
        Some(Usage { cpu: cpu?, memory: memory?, processes: processes.unwrap_or(0) })
    }

    fn folders<'a>(
        &'a self,
        group: &'a str,
        controller: &'a str,
    ) -> impl Iterator<Item = (std::path::PathBuf, Version)> + 'a {
        let counts = move |version: Version, controllers: &[String]| match version {
            Version::One => controllers.iter().any(|one| one == controller),
            // In the hybrid layout it has no controllers, and so none of these files.
            Version::Two => true,
        };
        let hierarchies = self.0.iter().filter(move |h| counts(h.version, &h.controllers));
        hierarchies.map(move |hierarchy| (hierarchy.folder(group), hierarchy.version))
    }
}

/// The number behind a name in a file of `name number` lines.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn both_versions_are_read_and_what_is_gone_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mounts = |lines: &[(&str, &str)]| {
            let line = |(path, tail): &(&str, &str)| {
                format!("1 1 0:1 / {} rw - {tail}\n", at(path).display())
            };
            Hierarchies::parse(&lines.iter().map(line).collect::<String>())
        };
        write(&at("cpuacct/pod/main"), &[("cpuacct.usage", "1500000000\n")]);
        write(&at("pids/pod/main"), &[("pids.current", "3\n")]);
        let stat = "cache 1\ninactive_file 7\ntotal_inactive_file 1000\n";
        write(
            &at("memory/pod/main"),
            &[("memory.usage_in_bytes", "5000\n"), ("memory.stat", stat)],
        );
        let old = mounts(&[
            ("unified", "cgroup2 cgroup2 rw"),
            ("cpuacct", "cgroup cgroup rw,cpu,cpuacct"),
            ("memory", "cgroup cgroup rw,memory"),
            ("pids", "cgroup cgroup rw,pids"),
        ]);
        let expected = Usage { cpu: Duration::from_millis(1500), memory: 4000, processes: 3 };
        assert_eq!(old.usage("/pod/main"), Some(expected));
        assert_eq!(old.usage("/pod/other"), None);
        write(
            &at("new/pod/main"),
            &[
                ("cpu.stat", "usage_usec 250000\nuser_usec 1\n"),
                ("memory.current", "900\n"),
                ("memory.stat", "anon 1\ninactive_file 1000\n"),
            ],
        );
        let new = mounts(&[("new", "cgroup2 cgroup2 rw")]);
        let expected = Usage { cpu: Duration::from_millis(250), memory: 0, processes: 0 };
        assert_eq!(new.usage("pod/main"), Some(expected));
    }
}
