//! Mounts of what lies below a folder that others write to, containers among them.
//!
//! Between a look at a path and its use, somebody may put a link in its place. So the kernel resolves
//! it in one go, below the folder, and what it has opened is bound, in the mount namespace of the
//! creator: it is gone with the container's last process, however that ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::failure::{Doing, Failure};
use super::{image, stage};
use crate::plan::{MountPoint, SubPath};

/// Binds each source where libcontainer will look for it, and notes of what kind it is. `detach` turns
/// this mount namespace away from the machine's: what is to stay shared is taken before. `users` are
/// those of the container, if they are not the machine's; `label` is that of its files.
pub(super) fn bind_all(
    points: &mut [MountPoint],
    users: Option<BorrowedFd<'_>>,
    label: Option<&str>,
    detach: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut taken = take(points, true)?;
    detach()?;
    for source in points.iter().filter_map(|point| point.sub_path.as_ref()) {
        if !source.layers.is_empty() {
            image::mount(&source.layers, &source.folder, users, label)?;
        }
    }
    taken.extend(take(points, false)?);
    for (number, mount, is_folder) in taken {
        let point = &mut points[number];
        point.is_folder = is_folder;
        if let Some(source) = &point.sub_path {
            stage::put(&mount, is_folder, &source.place)?;
        }
    }
    Ok(())
}

/// A copy of what is mounted at a source, with the number of its mount point, and whether it is a folder.
type Taken = (usize, OwnedFd, bool);

fn take(points: &[MountPoint], shared: bool) -> Result<Vec<Taken>, Failure> {
    let sources = points.iter().enumerate();
    let sources = sources.filter_map(|(number, point)| Some((number, point.sub_path.as_ref()?)));
    let sources = sources.filter(|(_, source)| source.is_shared == shared);
    let take = |(number, source): (usize, &SubPath)| {
        let (mount, is_folder) = copy(source).doing(format_args!(
            "mount {} below {}",
            source.path.display(),
            source.folder.display()
        ))?;
        Ok((number, mount, is_folder))
    };
    sources.map(take).collect()
}

fn copy(source: &SubPath) -> Result<(OwnedFd, bool), Failure> {
    // In an image, an absolute link means the image.
    let links = match source.layers.is_empty() {
        true => ResolveFlags::BENEATH,
        false => ResolveFlags::IN_ROOT,
    };
    let opened = open_with(&source.folder, &source.path, links).doing("open the path")?;
    let mode = rustix::fs::fstat(&opened).doing("look at it")?.st_mode;
    let is_folder = FileType::from_raw_mode(mode) == FileType::Directory;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = rustix::mount::open_tree(opened.as_fd(), "", flags).doing("take it")?;
    Ok((mount, is_folder))
}

/// Opens what is at a path below a folder, or with an empty path the folder itself, whatever that is.
pub(crate) fn open(folder: &Path, path: &Path) -> rustix::io::Result<OwnedFd> {
    open_with(folder, path, ResolveFlags::BENEATH)
}

fn open_with(folder: &Path, path: &Path, links: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let is_whole = path.as_os_str().is_empty();
    let kind = if is_whole { OFlags::empty() } else { OFlags::DIRECTORY };
    let flags = OFlags::PATH | OFlags::CLOEXEC | kind;
    let folder = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    match is_whole {
        true => Ok(folder),
        false => open_below(&folder, path, links),
    }
}

/// So often the kernel is asked again whose walk was disturbed by a renaming.
const ATTEMPTS: u32 = 128;

/// Opens what is at a path, wherever its links lead below the folder. `links` says what becomes of
/// those that lead out of it.
fn open_below(folder: &OwnedFd, path: &Path, links: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = links | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..ATTEMPTS {
        match rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests;
