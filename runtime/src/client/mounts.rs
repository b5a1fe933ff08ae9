//! From a container's mounts to what its creator does.

use std::fs;
use std::path::{Path, PathBuf};

use crate::api::{IdRange, Mount, MountSource, Propagation};
use crate::mounts;
use crate::plan::{MountPoint, SubPath};
use crate::shim::records::ContainerFolder;
use crate::shim::sub_path;

/// Where a mount will be, the one of this number of the container of this folder.
pub(super) fn mount_point(
    mount: &Mount,
    index: usize,
    around: &ContainerFolder,
) -> Result<MountPoint, String> {
    let propagation = mount.propagation;
    let is_shared = propagation == Propagation::Bidirectional;
    let place = around.sub_path(index);
    let laid_out = |folder: &Path, path: &Path| {
        let (folder, path, place) = (folder.to_owned(), path.to_owned(), place.clone());
        SubPath { folder, path, is_shared, place, layers: Vec::new() }
    };
    let (is_folder, sub_path) = match &mount.source {
        MountSource::Tmpfs { .. } => (true, None),
        MountSource::Below { folder, path } => (false, Some(laid_out(folder, path))),
        MountSource::Image { layers, path } => {
            let path = path.as_deref().unwrap_or(Path::new(""));
            let source = laid_out(&around.image(index), path);
            (false, Some(SubPath { layers: layers.clone(), ..source }))
        }
        MountSource::Host(path) => match fs::metadata(path) {
            Ok(found) if is_shared => (found.is_dir(), Some(laid_out(path, Path::new("")))),
            Ok(found) => (found.is_dir(), None),
            Err(e) => return Err(format!("mount {}: {}", path.display(), e.kind())),
        },
    };
    let path = PathBuf::from(&mount.destination);
    Ok(MountPoint { path, is_folder, sub_path, propagation })
}

/// Whether mounts can go where a mount says that they do. `users` are those of its sandbox.
pub(super) fn check_propagation(mount: &Mount, users: Option<IdRange>) -> Result<(), String> {
    let is_shared = match mount.propagation {
        Propagation::None => return Ok(()),
        Propagation::HostToContainer => false,
        Propagation::Bidirectional => true,
    };
    let destination = &mount.destination;
    if is_shared && users.is_some() {
        return Err(format!(
            "what a pod with users of its own mounts in {destination} cannot go to the node; set \
             hostUsers: true in the pod, or mountPropagation: HostToContainer for this mount"
        ));
    }
    let (name, opened) = match &mount.source {
        MountSource::Host(path) => (path.clone(), sub_path::open(path, Path::new(""))),
        MountSource::Below { folder, path } => (folder.join(path), sub_path::open(folder, path)),
        MountSource::Tmpfs { .. } | MountSource::Image { .. } => {
            return Err(format!("what is at {destination} is the container's alone"));
        }
    };
    let on = opened.map_err(std::io::Error::from).and_then(mounts::of);
    let on = on.map_err(|error| format!("look at the mount of {}: {error}", name.display()))?;
    let (fits, wanted) = match is_shared {
        true => (on.is_shared, "shared"),
        false => (on.is_shared || on.is_slave, "shared or slave"),
    };
    match fits {
        true => Ok(()),
        false => Err(format!(
            "path {} is mounted on {} but it is not a {wanted} mount; on the node, \
             mount --make-rshared {} makes it one",
            name.display(),
            on.point.display(),
            on.point.display()
        )),
    }
}
