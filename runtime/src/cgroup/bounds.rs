//! Bounds of what is in a group together: the containers of a sandbox, all sandboxes of a kind, all
//! of a node.
//!
//! Unlike a container's group, which libcontainer makes, these are made here, in the hierarchies that
//! have something to bound.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::limits::{cpu, told};
use super::{Hierarchies, Hierarchy, Version, io_error};
use crate::Result;
use crate::api::Resources;

/// Files of a group and what is to be written to them.
type Words = fn(&Resources, Version) -> Vec<(String, String)>;

/// The controllers that can bound a group, and what each is told.
const CONTROLLERS: [(&str, Words); 4] =
    [("cpu", processors), ("memory", memory), ("pids", pids), ("hugetlb", huge_pages)];

impl Hierarchies {
    /// Makes the group and bounds what is in it together. What is not named stays as it is.
    pub(crate) fn bound(&self, group: &str, resources: &Resources) -> Result<()> {
        // In the hybrid layout version 2 is there without controllers.
        let unified = self.is_unified();
        for hierarchy in self.0.iter().filter(|one| unified || one.version == Version::One) {
            let offered = hierarchy.offered()?;
            let writes: Vec<_> = CONTROLLERS
                .into_iter()
                .filter(|(controller, _)| offered.contains(*controller))
                .map(|(controller, words)| (controller, words(resources, hierarchy.version)))
                .filter(|(_, words)| !words.is_empty())
                .collect();
            if writes.is_empty() {
                continue;
            }
            let folder = hierarchy.folder(group);
            hierarchy.make_working(&folder, writes.iter().map(|(controller, _)| *controller))?;
            for (controller, words) in writes {
                for (file, value) in words {
                    let path = folder.join(file);
                    // A kernel that knows fewer sizes of pages has none of the others to give.
                    if controller == "hugetlb" && !path.exists() {
                        continue;
                    }
                    fs::write(&path, value).map_err(|e| io_error("write", &path, told(e)))?;
                }
            }
        }
        Ok(())
    }
}

impl Hierarchies {
    /// Whether version 2 bounds huge pages. A file that cannot be read tells of no bounds.
    pub(crate) fn bound_huge_pages(&self) -> bool {
        let mut second = self.0.iter().filter(|h| h.version == Version::Two);
        second.any(|h| h.offered().is_ok_and(|offered| offered.contains("hugetlb")))
    }
}

impl Hierarchy {
    /// The controllers that groups of it can have.
    fn offered(&self) -> Result<BTreeSet<String>> {
        if self.version == Version::One {
            return Ok(self.controllers.iter().cloned().collect());
        }
        listed(&self.mount_point.join("cgroup.controllers"))
    }

    /// Makes a group whose controllers work: on version 2 each group above has to hand them down.
    fn make_working<'a>(
        &self,
        folder: &Path,
        controllers: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<()> {
        fs::create_dir_all(folder).map_err(|e| io_error("create", folder, e))?;
        if self.version == Version::One {
            return Ok(());
        }
        let above = folder.ancestors().skip(1);
        let mut above: Vec<&Path> =
            above.take_while(|group| group.starts_with(&self.mount_point)).collect();
        above.reverse();
        for group in above {
            let path = group.join("cgroup.subtree_control");
            let handed_down = listed(&path)?;
            let missing: Vec<String> = controllers
                .clone()
                .filter(|controller| !handed_down.contains(*controller))
                .map(|controller| format!("+{controller}"))
                .collect();
            if !missing.is_empty() {
                fs::write(&path, missing.join(" ")).map_err(|e| io_error("write", &path, e))?;
            }
        }
        Ok(())
    }
}

/// What a file of the kernel lists.
fn listed(file: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(file).map_err(|e| io_error("read", file, e))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn processors(resources: &Resources, version: Version) -> Vec<(String, String)> {
    cpu(resources, version).into_iter().map(|(file, value)| (file.to_owned(), value)).collect()
}

/// Swap is the containers' matter. What is killed when the bound is reached is one of them.
fn memory(resources: &Resources, version: Version) -> Vec<(String, String)> {
    let file = match version {
        Version::One => "memory.limit_in_bytes",
        Version::Two => "memory.max",
    };
    let limit = resources.memory_limit_bytes;
    limit.map(|limit| (file.to_owned(), limit.to_string())).into_iter().collect()
}

fn pids(resources: &Resources, _: Version) -> Vec<(String, String)> {
    let limit = resources.pids_limit.map(|limit| match limit {
        ..=0 => "max".to_owned(),
        limit => limit.to_string(),
    });
    limit.map(|limit| ("pids.max".to_owned(), limit)).into_iter().collect()
}

/// What is reserved counts as what is used does: a page that is kept for somebody nobody else can have.
fn huge_pages(resources: &Resources, version: Version) -> Vec<(String, String)> {
    let files = |size: &u64| {
        let size = page_size(*size);
        let limit = match version {
            Version::One => "limit_in_bytes",
            Version::Two => "max",
        };
        [format!("hugetlb.{size}.{limit}"), format!("hugetlb.{size}.rsvd.{limit}")]
    };
    let limits = resources.huge_page_limits.iter();
    limits.flat_map(|(size, limit)| files(size).map(|file| (file, limit.to_string()))).collect()
}

/// What is written to which files of a group of version 2 to bound huge pages.
pub(crate) fn huge_page_bounds(resources: &Resources) -> Vec<(String, String)> {
    huge_pages(resources, Version::Two)
}

/// As the kernel names it: `2MB`, `1GB`, `64KB`.
pub(crate) fn page_size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        _ if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn resources() -> Resources {
        Resources {
            cpu_shares: Some(512),
            memory_limit_bytes: Some(1 << 30),
            pids_limit: Some(64),
            huge_page_limits: [(2 << 20, 4 << 20)].into(),
            ..Resources::default()
        }
    }

    /// A pretend hierarchy: its groups have the files that a test puts there.
    fn hierarchy(folder: &Path, controllers: &[&str], version: Version) -> Hierarchies {
        Hierarchies(vec![Hierarchy {
            mount_point: folder.to_owned(),
            root: "/".to_owned(),
            controllers: controllers.iter().map(|one| (*one).to_owned()).collect(),
            version,
        }])
    }

    fn read(folder: &Path, files: &[&str]) -> Vec<String> {
        let text = |file: &&str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        files.iter().map(text).collect()
    }

    #[test]
    fn version_one_bounds_in_each_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        for (controller, file, written) in [
            ("cpu", "cpu.shares", "512"),
            ("memory", "memory.limit_in_bytes", "1073741824"),
            ("pids", "pids.max", "64"),
        ] {
            let folder = root.path().join(controller);
            hierarchy(&folder, &[controller], Version::One).bound("/k/pods", &resources()).unwrap();
            assert_eq!(read(&folder.join("k/pods"), &[file]), [written]);
        }
        let folder = root.path().join("hugetlb");
        let group = folder.join("k/pods");
        fs::create_dir_all(&group).unwrap();
        let files = ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes"];
        files.iter().for_each(|file| fs::write(group.join(file), "").unwrap());
        hierarchy(&folder, &["hugetlb"], Version::One).bound("/k/pods", &resources()).unwrap();
        assert_eq!(read(&group, &files), ["4194304", "4194304"]);
        // The systemd hierarchy bounds nothing, and gets no group.
        let named = root.path().join("systemd");
        hierarchy(&named, &["name=systemd"], Version::One).bound("/k", &resources()).unwrap();
        assert!(!named.exists());
    }

    #[test]
    fn version_two_hands_controllers_down() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let groups = ["", "k", "k/pods"].map(|group| root.path().join(group));
        for group in &groups {
            fs::create_dir_all(group).unwrap();
            fs::write(group.join("cgroup.subtree_control"), "memory cpu\n").unwrap();
        }
        let two = hierarchy(root.path(), &[], Version::Two);
        two.bound("/k/pods/u1", &resources()).unwrap();
        let pod: PathBuf = groups[2].join("u1");
        let files = ["cpu.weight", "memory.max", "pids.max", "memory.oom.group"];
        assert_eq!(read(&pod, &files), ["59", "1073741824", "64", ""]);
        for group in &groups {
            assert_eq!(read(group, &["cgroup.subtree_control"]), ["+pids"]);
        }
        // The kernel has no such pages here.
        assert!(!pod.join("hugetlb.2MB.max").exists());
    }

    #[test]
    fn no_bound_is_written_as_such_and_what_is_not_named_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let one = hierarchy(root.path(), &["memory", "pids"], Version::One);
        let endless = Resources { pids_limit: Some(-1), ..Resources::default() };
        one.bound("/k", &endless).unwrap();
        let files = ["pids.max", "memory.limit_in_bytes"];
        assert_eq!(read(&root.path().join("k"), &files), ["max", ""]);
    }

    #[test]
    fn what_is_in_the_way_is_told_with_its_file() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("k/pids.max")).unwrap();
        let one = hierarchy(root.path(), &["pids"], Version::One);
        let error = one.bound("/k", &resources()).unwrap_err().to_string();
        assert!(error.contains("pids.max"), "{error}");
    }

    #[test]
    fn a_hierarchy_that_does_not_say_what_it_offers_is_an_error_and_no_lack_of_bounds() {
        let root = tempfile::tempdir().unwrap();
        let two = hierarchy(root.path(), &[], Version::Two);
        let error = two.bound("/k", &resources()).unwrap_err().to_string();
        assert!(error.contains("cgroup.controllers"), "{error}");
    }

    #[test]
    fn pages_are_named_as_the_kernel_names_them() {
        let sizes = [64 << 10, 2 << 20, 1 << 30].map(page_size);
        assert_eq!(sizes, ["64KB", "2MB", "1GB"]);
    }
}
