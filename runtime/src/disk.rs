//! What a tree of files takes on disk.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

/// What files take on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// As allocated, which for a sparse file is less than its length.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
}

impl std::ops::AddAssign for DiskUsage {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// Counts a tree; nothing when there is none. Other file systems mounted in it do not count, and a file
/// with several names counts once. The tree may belong to an adversary who changes it meanwhile: the
/// kernel resolves every path below the root, through no link. Blocks.
///
/// # Errors
/// When the root cannot be opened.
pub fn disk_usage(root: &Path) -> io::Result<DiskUsage> {
    let root = match File::open(root) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DiskUsage::default()),
        Err(error) => return Err(error),
    };
    let mut usage = DiskUsage::default();
    let own = rustix::fs::fstat(&root)?;
    usage += DiskUsage { bytes: own.st_blocks.cast_unsigned() * 512, inodes: 1 };
    if FileType::from_raw_mode(own.st_mode) != FileType::Directory {
        return Ok(usage);
    }
    let mut linked = HashSet::new();
    // One descriptor at a time, however deep the tree is.
    let mut folders = VecDeque::from([PathBuf::from(".")]);
    while let Some(path) = folders.pop_front() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        // What goes while it is counted, or is mounted there, does not count.
        let Ok(folder) = rustix::fs::openat2(&root, &path, flags, Mode::empty(), resolve) else {
            continue;
        };
        let Ok(entries) = Dir::read_from(&folder) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if stat.st_dev != own.st_dev {
                continue;
            }
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_folder {
                use std::os::unix::ffi::OsStrExt;
                folders.push_back(path.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
            }
            if is_folder || stat.st_nlink < 2 || linked.insert(stat.st_ino) {
                usage += DiskUsage { bytes: stat.st_blocks.cast_unsigned() * 512, inodes: 1 };
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_counted_as_it_lies_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let empty = disk_usage(folder.path()).unwrap();
        assert_eq!(empty.inodes, 1);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/data"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(at("a/b/data"), at("again")).unwrap();
        std::os::unix::fs::symlink("/usr", at("a/link")).unwrap();
        std::fs::File::create(at("sparse")).unwrap().set_len(1 << 40).unwrap();
        let usage = disk_usage(folder.path()).unwrap();
        assert_eq!(usage.inodes, 6);
        assert!(((1 << 20)..(2 << 20)).contains(&usage.bytes), "{usage:?}");
        assert_eq!(disk_usage(&at("none")).unwrap(), DiskUsage::default());
    }
}
