//! The devices of the machine, for containers that may use them all.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::spec::DeviceNode;

/// What a container has of its own in `/dev`: file systems, and its terminal.
const OWN: [&str; 5] = ["pts", "shm", "mqueue", "console", "fd"];

/// All device nodes below `/dev`.
pub(crate) fn of_machine() -> io::Result<Vec<DeviceNode>> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &OWN, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn collect(folder: &Path, left_out: &[&str], found: &mut Vec<DeviceNode>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if left_out.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        // One that has just gone is none.
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() {
            collect(&entry.path(), &[], found)?;
        } else if kind.is_block_device() || kind.is_char_device() {
            let (major, minor) =
                (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
            found.push(DeviceNode {
                path: entry.path(),
                is_block: kind.is_block_device(),
                number: (major, minor),
                mode: metadata.mode() & 0o777,
                uid: metadata.uid(),
                gid: metadata.gid(),
            });
        }
    }
    Ok(())
}
