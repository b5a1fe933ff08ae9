//! Layers that are about to belong to an image.
//!
//! A pull or an import claims the layers it needs before it looks which of them are there; so nobody
//! takes one away between that look and the image's record. A claim is a file that its process holds
//! locked: the kernel lets go of it when the process dies, however it dies.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use super::store::ImageStore;
use super::{ImageError, io_error};

/// A claim on layers, until it is dropped.
pub(super) struct Claim {
    path: PathBuf,
    file: File,
}

impl Claim {
    /// Claims layers by their diff ids. Blocks for moments.
    pub(super) fn new(store: &ImageStore, layers: &[String]) -> Result<Self, ImageError> {
        let _alone = store.lock()?;
        let path = store.folder("claims").join(uuid::Uuid::new_v4().to_string());
        let file = File::create_new(&path).map_err(io_error("create", &path))?;
        file.lock().map_err(io_error("lock", &path))?;
        let claim = Self { path, file };
        claim.write(layers)?;
        Ok(claim)
    }

    /// Claims more.
    pub(super) fn add(&self, store: &ImageStore, layers: &[String]) -> Result<(), ImageError> {
        let _alone = store.lock()?;
        self.write(layers)
    }

    fn write(&self, layers: &[String]) -> Result<(), ImageError> {
        let lines: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
        (&self.file).write_all(lines.as_bytes()).map_err(io_error("write", &self.path))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // One that stays behind is nobody's, and the next look removes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// What is claimed at the moment. Whoever calls this holds the store's lock.
pub(super) struct Claimed {
    /// By diff id.
    pub(super) layers: HashSet<String>,
    /// Whether anybody pulls or imports.
    pub(super) anybody: bool,
}

/// Reads the claims, and removes those whose process is dead.
pub(super) fn claimed(store: &ImageStore) -> Result<Claimed, ImageError> {
    let folder = store.folder("claims");
    let mut claimed = Claimed { layers: HashSet::new(), anybody: false };
    for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
        let path = entry.map_err(io_error("read", &folder))?.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            // Dropped this moment.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        match file.try_lock() {
            Ok(()) => {
                fs::remove_file(&path).or_else(unless_gone).map_err(io_error("remove", &path))?
            }
            Err(fs::TryLockError::WouldBlock) => {
                claimed.anybody = true;
                let lines = fs::read_to_string(&path).or_else(unless_gone_then_empty);
                let lines = lines.map_err(io_error("read", &path))?;
                claimed.layers.extend(lines.lines().map(str::to_owned));
            }
            Err(fs::TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
    }
    Ok(claimed)
}

fn unless_gone(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn unless_gone_then_empty(error: std::io::Error) -> std::io::Result<String> {
    unless_gone(error).map(|()| String::new())
}
