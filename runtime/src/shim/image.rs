//! Images as sources of mounts: their layers mounted as one, by the creator, for one container.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use super::failure::{Doing, Failure};
use super::{root, stage};

/// Mounts layers on a folder, which this makes, by the users of a container if it has its own. An
/// overlay cannot be mapped itself: its layers are, beside it.
pub(super) fn mount(
    layers: &[PathBuf],
    folder: &Path,
    users: Option<BorrowedFd<'_>>,
    label: Option<&str>,
) -> Result<(), Failure> {
    let beside = |name: &str| {
        let mut path = folder.as_os_str().to_owned();
        path.push(format!("-{name}"));
        PathBuf::from(path)
    };
    // An overlay that is not written to takes two layers; below a single one is nothing.
    let nothing = beside("nothing");
    for folder in [folder, &*nothing] {
        fs::create_dir(folder).doing("make a place for an image")?;
    }
    let mut all = vec![nothing];
    for (number, layer) in layers.iter().enumerate() {
        all.push(match users {
            None => layer.clone(),
            Some(users) => {
                let place = beside(&number.to_string());
                let (mount, is_folder) = stage::take_one(layer, users)?;
                stage::put(&mount, is_folder, &place)?;
                place
            }
        });
    }
    root::mount_layers(&all, None, label, folder).doing("mount an image")
}
