//! Labels of files that are mounted into containers.
//!
//! Containers of the pod may write to them meanwhile, so no name is followed: every folder is opened by its own
//! descriptor, and a link gets the label itself.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

/// Where a file's label is.
const ATTRIBUTE: &str = "security.selinux";

/// Folders in folders that are gone into. Beyond it files keep the label that they have by being made below one.
const MAX_DEPTH: usize = 128;

/// Gives a label to a file, or to a folder and all that is in it on the same file system. A file system without
/// labels is left as it is.
pub(crate) fn relabel(path: &Path, label: &str) -> io::Result<()> {
    let found = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    match set(path, label, false) {
        // What has no labels of its own has that of its mount.
        Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    }
    match kind(&found) {
        FileType::Directory => {
            let folder = rustix::fs::openat(CWD, path, FOLDER, Mode::empty())?;
            relabel_below(folder, found.st_dev, label, MAX_DEPTH)
        }
        _ => Ok(()),
    }
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

fn relabel_below(folder: OwnedFd, device: u64, label: &str, depth: usize) -> io::Result<()> {
    let base = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let found = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Gone meanwhile.
            Err(Errno::NOENT) => continue,
            result => result?,
        };
        // Another file system is another volume.
        if found.st_dev != device {
            continue;
        }
        match set(&base.join(std::ffi::OsStr::from_bytes(name.to_bytes())), label, false) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        if kind(&found) == FileType::Directory && depth > 0 {
            match rustix::fs::openat(&folder, name, FOLDER, Mode::empty()) {
                Ok(below) => relabel_below(below, device, label, depth - 1)?,
                // Gone, or something else by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// Labels what is at a path, whose last part is followed only `through` a link. What is there already is not written
/// again.
pub(crate) fn set(path: &Path, label: &str, through: bool) -> rustix::io::Result<()> {
    let mut there = [0; 4096];
    let found = match through {
        true => rustix::fs::getxattr(path, ATTRIBUTE, &mut there),
        false => rustix::fs::lgetxattr(path, ATTRIBUTE, &mut there),
    };
    if let Ok(length) = found
        && there[..length].strip_suffix(b"\0").unwrap_or(&there[..length]) == label.as_bytes()
    {
        return Ok(());
    }
    // The kernel hands it out as a C string, and so it is written.
    let value = [label.as_bytes(), b"\0"].concat();
    match through {
        true => rustix::fs::setxattr(path, ATTRIBUTE, &value, XattrFlags::empty()),
        false => rustix::fs::lsetxattr(path, ATTRIBUTE, &value, XattrFlags::empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn label_of(path: &Path) -> Option<String> {
        let mut bytes = [0; 256];
        let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut bytes[..]).ok()?;
        Some(String::from_utf8(bytes[..length].strip_suffix(b"\0")?.to_vec()).unwrap())
    }

    /// Without SELinux the attribute is a name like others, for root.
    #[test]
    fn all_that_is_in_a_folder_is_labelled_and_nothing_that_a_link_leads_to() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("left out: labels are set by root alone");
            return;
        }
        if Path::new("/sys/fs/selinux/enforce").exists() {
            eprintln!("left out: the kernel takes only labels that its policy knows");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::write(inside.join("a/b/file"), "").unwrap();
        std::fs::write(&outside, "").unwrap();
        symlink(&outside, inside.join("a/link")).unwrap();
        for label in ["u:r:t:s0:c1,c2", "u:r:t:s0:c3,c4"] {
            match relabel(&inside, label) {
                Ok(()) if label_of(&inside).is_none() => {
                    eprintln!("left out: this file system has no labels");
                    return;
                }
                result => result.unwrap(),
            }
            for path in ["", "a", "a/b", "a/b/file", "a/link"] {
                assert_eq!(label_of(&inside.join(path)).as_deref(), Some(label), "{path}");
            }
            assert_eq!(label_of(&outside), None);
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let error = relabel(Path::new("/nowhere/at/all"), "u:r:t").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
