//! The few mounts the kubelet makes itself: tmpfs volumes.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::folder::Folder;

/// Makes sure that a tmpfs is mounted on the folder.
pub(super) fn ensure_tmpfs(path: &Path, size_bytes: Option<u64>, folder: Folder) -> io::Result<()> {
    if is_mount_point(path)? {
        return Ok(());
    }
    let mut options = format!("mode={:o}", folder.mode);
    if let Some(group) = folder.group {
        options.push_str(&format!(",gid={group}"));
    }
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(())
}

/// Takes every mount below the folder away, the innermost first.
pub(crate) fn unmount_below(path: &Path) -> io::Result<()> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut points = mount_points(&fs::read("/proc/self/mountinfo")?);
    points.retain(|point| point.starts_with(&path) && *point != path);
    // Mounts are listed in the order in which they were made.
    for point in points.iter().rev() {
        // Lazily: a container that is just ending may hold it in its own mount namespace.
        match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Our mounts are never binds, so that another device number than the parent's tells.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::symlink_metadata(path)?.dev() != fs::symlink_metadata(parent)?.dev())
}

/// The fifth field of each line, with octal escapes undone.
fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
        .collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_odd_names_are_read() {
        let text =
            b"36 35 98:0 / /mnt/a\\040b rw - ext3 /dev/root rw\n37 35 0:3 / /x rw - tmpfs t\n";
        assert_eq!(mount_points(text), [PathBuf::from("/mnt/a b"), PathBuf::from("/x")]);
    }
}
