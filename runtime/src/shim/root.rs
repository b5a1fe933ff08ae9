//! A container's root file system: the image's layers with a folder for what is written on top,
//! and the places for mounts in it.
//!
//! Images contain symbolic links, dangling ones too, and mount points may lie behind them. They
//! are followed here as the container would follow them, never out of its root. Nothing else
//! sees this root yet, so what is found out stays true.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::failure::{Doing, Failure};
use crate::isolation::selinux;
use crate::plan::{MountPoint, RootPlan};

/// Mounts the root at a path of this mount namespace, with places for all that goes on it.
pub(super) fn prepare(plan: &RootPlan, target: &Path) -> Result<(), Failure> {
    mount(plan, target)?;
    let root: OwnedFd = File::open(target).doing("open the root file system")?.into();
    for point in &plan.mount_points {
        make(&root, point, plan.owner)
            .doing(format_args!("make the mount point {}", point.path.display()))?;
    }
    Ok(())
}

fn mount(plan: &RootPlan, target: &Path) -> Result<(), Failure> {
    let written = Written { upper: &plan.upper, work: &plan.work };
    mount_layers(&plan.layers, Some(written), plan.label.as_deref(), target)
        .doing("mount the root file system")
}

/// Where an overlay keeps what is written to it.
pub(super) struct Written<'a> {
    upper: &'a Path,
    work: &'a Path,
}

/// Mounts layers, the lowest first, as one; read-only if nothing can be written. `label` is SELinux's, of all files.
pub(super) fn mount_layers(
    layers: &[PathBuf],
    written: Option<Written<'_>>,
    label: Option<&str>,
    target: &Path,
) -> std::io::Result<()> {
    // The option text is bounded to a page. Descriptors keep it short however many layers there
    // are, and need no quoting whatever the paths contain.
    let layers = layers.iter().rev().map(File::open).collect::<Result<Vec<_>, _>>()?;
    let by_descriptor = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let lower: Vec<String> = layers.iter().map(by_descriptor).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    let mut flags = MsFlags::MS_RDONLY;
    // Open until it is mounted.
    let mut folders = Vec::new();
    if let Some(Written { upper, work }) = written {
        for (name, path) in [("upperdir", upper), ("workdir", work)] {
            let folder = File::open(path)?;
            options.push_str(&format!(",{name}={}", by_descriptor(&folder)));
            folders.push(folder);
        }
        // Nothing in there is worth a sync: it is never mounted a second time.
        options.push_str(",volatile");
        flags = MsFlags::empty();
    }
    if let Some(label) = label {
        options.push(',');
        options.push_str(&selinux::mount_option(label));
    }
    let kind = Some("overlay");
    nix::mount::mount(kind, target, kind, flags, Some(options.as_str()))?;
    Ok(())
}

/// As many links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;

/// What lies on top of these is not in the root, and libcontainer makes it.
const MOUNTED_OVER: [&str; 3] = ["/proc", "/sys", "/dev"];

fn make(root: &OwnedFd, point: &MountPoint, owner: u32) -> rustix::io::Result<()> {
    if MOUNTED_OVER.iter().any(|covered| point.path.starts_with(covered)) {
        return Ok(());
    }
    // The folders from the root to where the walk is; `..` goes one back and never further.
    let mut chain: Vec<OwnedFd> = vec![open_folder(root, Path::new("."))?];
    let mut rest: Vec<PathBuf> = reversed(&point.path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == Path::new("..") {
            if chain.len() > 1 {
                chain.pop();
            }
            continue;
        }
        let here = chain.last().unwrap_or(root);
        let wanted_folder = point.is_folder || !rest.is_empty();
        match rustix::fs::statat(here, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let to = rustix::fs::readlinkat(here, &name, Vec::new())?.into_bytes();
                let to = PathBuf::from(std::ffi::OsString::from_vec(to));
                if to.is_absolute() {
                    chain.truncate(1);
                }
                rest.extend(reversed(&to));
            }
            // The last one may be of any kind: the mount covers it, or fails for good reason.
            Ok(_) if rest.is_empty() => {}
            Ok(_) => chain.push(open_folder(here, &name)?),
            Err(Errno::NOENT) if wanted_folder => {
                rustix::fs::mkdirat(here, &name, Mode::from_raw_mode(0o755))?;
                give(here, &name, owner)?;
                chain.push(open_folder(here, &name)?);
            }
            Err(Errno::NOENT) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                rustix::fs::openat(here, &name, flags, Mode::from_raw_mode(0o644))?;
                give(here, &name, owner)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What root makes is root's already.
fn give(at: impl AsFd, name: &Path, owner: u32) -> rustix::io::Result<()> {
    if owner == 0 {
        return Ok(());
    }
    let (user, group) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
    rustix::fs::chownat(at, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
}

fn open_folder(at: impl AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// The names in a path, the first one last.
fn reversed(path: &Path) -> Vec<PathBuf> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests;
