//! Where a container's root and mounts are put together for libcontainer to find, if its users are
//! not the machine's.
//!
//! libcontainer mounts as root of the container, who on the machine is somebody else: the folders in
//! which images and volumes are kept are closed to that user, and their files do not belong to it.
//! So the creator, who may do everything, takes what is to be mounted, shows it with the users that
//! the container has, and lays it out on a file system of its own which everybody may enter. It lies
//! on a folder that is there on every machine, for the creator's mount namespace alone.
//!
//! ```text
//! STAGE/rootfs      the container's root
//!       layers/N    the image, by its users
//!       mounts/N    what will be mounted, in the plan's order
//!       user processes time   the namespaces that are entered
//! ```

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::failure::{Doing, Failure};
use crate::plan::{RootPlan, StagePlan};
use crate::sys;

/// What has been taken and is not yet anywhere.
pub(super) struct Taken {
    layers: Vec<OwnedFd>,
    mounts: Vec<(OwnedFd, bool)>,
}

/// Takes the layers of the image and the sources of all mounts, by the users of the container.
/// `users` is their namespace.
pub(super) fn take(
    root: &RootPlan,
    stage: &StagePlan,
    users: BorrowedFd<'_>,
) -> Result<Taken, Failure> {
    let layers = root.layers.iter().map(|path| take_one(path, users).map(|(mount, _)| mount));
    let layers = layers.collect::<Result<_, _>>()?;
    let mounts = stage.mounts.iter().enumerate();
    let mounts = mounts.map(|(number, path)| match stage.mapped.contains(&number) {
        true => clone(path),
        false => take_one(path, users),
    });
    let for_all = stage.for_all.iter().map(|path| clone(path));
    Ok(Taken { layers, mounts: mounts.chain(for_all).collect::<Result<_, _>>()? })
}

pub(super) fn take_one(path: &Path, users: BorrowedFd<'_>) -> Result<(OwnedFd, bool), Failure> {
    let (mount, is_folder) = clone(path)?;
    // What lies below on a file system that cannot do it belongs to nobody in the container.
    let mapped = sys::map_ids(mount.as_fd(), users, true)
        .or_else(|_| sys::map_ids(mount.as_fd(), users, false));
    mapped.map_err(|error| {
        Failure(format!(
            "mount {}: its file system cannot show files by the users of the pod ({error}); \
             set hostUsers: true in the pod",
            path.display()
        ))
    })?;
    Ok((mount, is_folder))
}

/// A copy of what is mounted at a path, and whether that is a folder.
fn clone(path: &Path) -> Result<(OwnedFd, bool), Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = rustix::mount::open_tree(rustix::fs::CWD, path, flags)
        .doing(format_args!("mount {}", path.display()))?;
    let kind = rustix::fs::fstat(&mount).doing("look at a mount")?.st_mode;
    let is_folder = rustix::fs::FileType::from_raw_mode(kind).is_dir();
    Ok((mount, is_folder))
}

/// Lays out what was taken; gives the root plan with the layers where they are now.
pub(super) fn lay_out(
    taken: Taken,
    root: &RootPlan,
    stage: &StagePlan,
) -> Result<RootPlan, Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("stage"), &stage.folder, Some("tmpfs"), flags, Some("mode=755"))
        .doing("mount the stage")?;
    for folder in [stage.root(), stage.layers()] {
        fs::create_dir_all(folder).doing("make the stage")?;
    }
    let mut layers = Vec::with_capacity(taken.layers.len());
    for (number, layer) in taken.layers.into_iter().enumerate() {
        let place = stage.layers().join(number.to_string());
        put(&layer, true, &place)?;
        layers.push(place);
    }
    for (number, (mount, is_folder)) in taken.mounts.into_iter().enumerate() {
        put(&mount, is_folder, &stage.mount(number))?;
    }
    Ok(RootPlan { layers, ..root.clone() })
}

pub(super) fn put(mount: &OwnedFd, is_folder: bool, place: &Path) -> Result<(), Failure> {
    if is_folder {
        fs::create_dir_all(place).doing("make a place for a mount")?;
    } else {
        fs::create_dir_all(place.parent().unwrap_or(place)).doing("make a place for a mount")?;
        File::create(place).doing("make a place for a mount")?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", rustix::fs::CWD, place, flags)
        .doing(format_args!("mount {}", place.display()))
}
