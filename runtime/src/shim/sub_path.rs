//! Mounts of what lies below a folder that others write to, containers among them.
//!
//! Between a look at a path and its use, somebody may put a link in its place. So the kernel resolves
//! it in one go, below the folder, and what it has opened is bound, in the mount namespace of the
//! creator: it is gone with the container's last process, however that ends.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::failure::{Doing, Failure};
use crate::plan::{MountPoint, SubPath};

/// Binds each source where libcontainer will look for it, and notes of what kind it is.
pub(super) fn bind_all(points: &mut [MountPoint]) -> Result<(), Failure> {
    for point in points {
        if let Some(source) = &point.sub_path {
            point.is_folder = bind(source).doing(format_args!(
                "mount {} below {}",
                source.path.display(),
                source.folder.display()
            ))?;
        }
    }
    Ok(())
}

/// Whether it is a folder.
fn bind(source: &SubPath) -> Result<bool, Failure> {
    let folder = rustix::fs::openat(
        CWD,
        &source.folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .doing("open the folder")?;
    let opened = open_below(&folder, &source.path).doing("open the path")?;
    let mode = rustix::fs::fstat(&opened).doing("look at it")?.st_mode;
    let is_folder = FileType::from_raw_mode(mode) == FileType::Directory;
    match is_folder {
        true => fs::create_dir(&source.place),
        false => File::create_new(&source.place).map(|_| ()),
    }
    .doing("make a place for it")?;
    let by_descriptor = format!("/proc/self/fd/{}", opened.as_raw_fd());
    nix::mount::mount(
        Some(&*by_descriptor),
        &source.place,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .doing("bind it")?;
    Ok(is_folder)
}

/// So often the kernel is asked again whose walk was disturbed by a renaming.
const ATTEMPTS: u32 = 128;

/// Opens what is at a path, wherever its links lead below the folder.
pub(super) fn open_below(folder: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
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
