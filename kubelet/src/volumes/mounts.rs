//! The few mounts the kubelet makes itself: volumes in memory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::folder::Folder;

/// Makes sure that a tmpfs is mounted on the folder.
pub(super) fn ensure_tmpfs(path: &Path, size_bytes: Option<u64>, folder: Folder) -> io::Result<()> {
    ensure("tmpfs", String::new(), path, size_bytes, folder)
}

/// Makes sure that huge pages of this size are mounted on the folder.
pub(super) fn ensure_hugetlbfs(
    path: &Path,
    page_size: u64,
    size_bytes: Option<u64>,
    folder: Folder,
) -> io::Result<()> {
    ensure("hugetlbfs", format!("pagesize={page_size},"), path, size_bytes, folder)
}

fn ensure(
    kind: &str,
    mut options: String,
    path: &Path,
    size_bytes: Option<u64>,
    folder: Folder,
) -> io::Result<()> {
    if is_mount_point(path)? {
        return Ok(());
    }
    options.push_str(&format!("mode={:o}", folder.mode));
    if let Some(group) = folder.group {
        options.push_str(&format!(",gid={group}"));
    }
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(kind), path, Some(kind), flags, Some(options.as_str()))?;
    Ok(())
}

/// Takes every mount below the folder away, the innermost first.
pub(crate) fn unmount_below(path: &Path) -> io::Result<()> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mounts = runtime::mounts::visible()?.into_iter().map(|mount| mount.point);
    let points: Vec<PathBuf> =
        mounts.filter(|point| point.starts_with(&path) && *point != path).collect();
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
