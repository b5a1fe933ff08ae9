//! Which mounts of a container stay connected with the machine's.
//!
//! In the end all are its own, but for those that are to see what is mounted on the machine, or to show it
//! what is mounted in the container. Until then they are what they are on the machine: slaves, or peers.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;
use rustix::fs::{AtFlags, StatxFlags};

use super::failure::{Doing, Failure};
use crate::api::Propagation;
use crate::mounts::{self, MountEntry};
use crate::plan::MountPoint;

/// Separates the mounts of this process, which is in the container's root.
pub(super) fn separate(points: &[MountPoint]) -> Result<(), Failure> {
    let change = |path: &Path, flags| {
        nix::mount::mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
    };
    if points.iter().all(|point| point.propagation == Propagation::None) {
        let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        return change(Path::new("/"), flags).doing("separate the mounts");
    }
    let roots = points.iter().map(|point| {
        let id = id_of(&point.path);
        let id = id.doing(format_args!("look at the mount {}", point.path.display()))?;
        Ok((id, point.propagation))
    });
    let roots = roots.collect::<Result<HashMap<_, _>, Failure>>()?;
    let table = mounts::visible().doing("look at the mounts")?;
    for mount in &table {
        let flags = match propagation_of(mount, &table, &roots) {
            Propagation::None => MsFlags::MS_PRIVATE,
            Propagation::HostToContainer => MsFlags::MS_SLAVE,
            Propagation::Bidirectional => continue,
        };
        match change(&mount.point, flags) {
            // Another is mounted over it, and nobody can reach it.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => {
                return Err(errno).doing(format_args!("separate {}", mount.point.display()));
            }
        }
    }
    Ok(())
}

/// The number of the mount that a path leads to.
fn id_of(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    Ok(found.stx_mnt_id)
}

/// What holds for a mount: what was said of the nearest one above it of which something was said.
fn propagation_of(
    mount: &MountEntry,
    table: &[MountEntry],
    roots: &HashMap<u64, Propagation>,
) -> Propagation {
    let mut here = mount;
    loop {
        if let Some(said) = roots.get(&here.id) {
            return *said;
        }
        match table.iter().find(|above| above.id == here.parent) {
            Some(above) if above.id != here.id => here = above,
            _ => return Propagation::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_a_mount_holds_for_what_is_mounted_below_it() {
        let entry = |id, parent| MountEntry {
            id,
            parent,
            point: format!("/{id}").into(),
            is_shared: false,
            is_slave: true,
        };
        let table = [entry(1, 0), entry(2, 1), entry(3, 2), entry(4, 3), entry(5, 1), entry(6, 6)];
        let roots = HashMap::from([(2, Propagation::HostToContainer), (4, Propagation::None)]);
        let found = table.iter().map(|mount| propagation_of(mount, &table, &roots));
        use Propagation::{HostToContainer, None};
        assert_eq!(
            found.collect::<Vec<_>>(),
            [None, HostToContainer, HostToContainer, None, None, None]
        );
    }
}
