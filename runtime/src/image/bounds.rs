//! How much an image may unpack to. A compressed layer of some megabytes can hold millions of files, or hundreds of
//! gigabytes, and the disk is shared by all images and pods of the node.
//!
//! containerd and CRI-O have no such bounds: there, such an image fills the disk, and the node evicts pods.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files and folders. The largest images that are in use have some hundred thousand; a file system of 64 GiB as
/// `mke2fs` makes it has room for as many as this, in all.
const MAX_ENTRIES: u64 = 4 << 20;

/// Bytes of files. Images with models for machine learning in them reach some tens of gigabytes.
const MAX_BYTES: u64 = 512 << 30;

/// Bytes of folders' paths, which are kept in memory until a layer's end.
const MAX_FOLDER_NAMES: u64 = 64 << 20;

/// What is left for the layers of one image that are unpacked, at the same time or one after the other.
#[derive(Debug)]
pub(super) struct Bounds {
    entries: Left,
    bytes: Left,
    folder_names: Left,
}

#[derive(Debug)]
struct Left {
    bound: u64,
    taken: AtomicU64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds::new(MAX_ENTRIES, MAX_BYTES, MAX_FOLDER_NAMES)
    }
}

impl Bounds {
    pub(super) fn new(entries: u64, bytes: u64, folder_names: u64) -> Bounds {
        let left = |bound| Left { bound, taken: AtomicU64::new(0) };
        Bounds { entries: left(entries), bytes: left(bytes), folder_names: left(folder_names) }
    }

    /// Takes one file or folder with so many bytes.
    pub(super) fn take(&self, bytes: u64) -> io::Result<()> {
        self.entries.take(1, "files and folders")?;
        self.bytes.take(bytes, "bytes")
    }

    /// Takes a folder that has to be remembered.
    pub(super) fn remember(&self, folder: &Path) -> io::Result<()> {
        self.folder_names.take(folder.as_os_str().len() as u64, "bytes in names of folders")
    }
}

impl Left {
    fn take(&self, count: u64, what: &str) -> io::Result<()> {
        let bound = self.bound;
        let room = |taken: u64| taken.checked_add(count).filter(|sum| *sum <= bound);
        match self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other(format!(
                "the image has more than {bound} {what}, which is more than an image may have; \
                 keep large data in a volume"
            ))),
        }
    }
}
