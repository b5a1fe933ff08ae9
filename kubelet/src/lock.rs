//! Two kubelets must never share a state folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::files;

/// How long one waits for the lock. What a kubelet was just forking when it was killed has the lock too, until
/// it executes a program of its own or finds its caller gone; on a busy machine the next kubelet is there first.
const HANDOVER: Duration = Duration::from_secs(5);

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
    /// When another process has it, and still after some seconds.
    pub fn take(root_dir: &Path) -> Result<Self, LockError> {
        Self::take_within(root_dir, HANDOVER)
    }

    fn take_within(root_dir: &Path, wait: Duration) -> Result<Self, LockError> {
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
        let taken = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                let (sender, receiver) = mpsc::channel();
                // Left alone when it takes too long: it lets go of what it gets when nobody wants it.
                thread::spawn(move || sender.send(Flock::lock(file, FlockArg::LockExclusive)));
                let taken = receiver.recv_timeout(wait);
                taken.map_err(|_| LockError::Taken(root_dir.to_owned()))?
            }
            taken => taken,
        };
        match taken {
            Ok(file) => Ok(Self { _file: file }),
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
        let second = RootLock::take_within(folder.path(), Duration::ZERO);
        assert!(matches!(second, Err(LockError::Taken(_))));
        drop(lock);
        RootLock::take(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_is_had_when_its_holder_ends() {
        let folder = tempfile::tempdir().unwrap();
        let lock = RootLock::take(folder.path()).unwrap();
        let path = folder.path().to_owned();
        let waiting = thread::spawn(move || RootLock::take_within(&path, Duration::from_secs(600)));
        drop(lock);
        waiting.join().unwrap().unwrap();
    }
}
