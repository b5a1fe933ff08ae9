//! Two kubelets must never share a state folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::files;

/// The state folder cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else has it.
    #[error("another kubelet uses {0}")]
    Taken(PathBuf),
    /// It cannot be made or opened.
    #[error("failed to open {path}")]
    Open {
        /// The folder or its lock.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Held for as long as it lives; the kernel releases it when the process ends in whatever way.
#[derive(Debug)]
pub struct RootLock {
    _file: Flock<File>,
}

impl RootLock {
    /// Takes the lock of a state folder, which is made when it does not exist.
    ///
    /// # Errors
    /// When another process has it.
    pub fn take(root_dir: &Path) -> Result<Self, LockError> {
        let path = root_dir.join("lock");
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| LockError::Open { path, source }
        };
        files::make_private_folder(root_dir).map_err(error(root_dir))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(error(&path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { _file: file }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(LockError::Taken(root_dir.to_owned())),
            Err((_, errno)) => Err(error(&path)(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let lock = RootLock::take(folder.path()).unwrap();
        assert!(matches!(RootLock::take(folder.path()), Err(LockError::Taken(_))));
        drop(lock);
        RootLock::take(folder.path()).unwrap();
    }
}
