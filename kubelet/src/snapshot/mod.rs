//! The last snapshot on disk, so that a kubelet that starts while no master can be reached keeps
//! its pods, volumes, services and routes.
//!
//! [`mod@file`] says how it is written: `state.jsonl` in `<root-dir>/snapshot`, to which changes are appended.
//! A change is appended within milliseconds, for a kubelet that is killed: whatever has been
//! written is there for the next one. To have it outlast a loss of power takes the disk many
//! milliseconds and is done now and then.

mod file;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use self::file::{Batch, Writer};
use crate::state::{Change, StateHandle};

/// Changes that come together are written together.
const COALESCE: Duration = Duration::from_millis(5);
/// After the file was written anew, so many times the duration of that pass before it is again: with
/// many thousand endpoints the processor is still free for most of the time.
const REST_FACTOR: u32 = 20;
/// But never longer than this, however much there is: what a kubelet that starts without a master
/// does not know is a gap.
const MAX_REST: Duration = Duration::from_millis(500);
/// Between a change and its being durable. What a loss of power takes away within that time is
/// what the disk would lose anyway, and no container outlives it.
const DURABLE_AFTER: Duration = Duration::from_secs(1);

/// A snapshot that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A file operation failed.
    #[error("failed to {operation} {path}")]
    Io {
        /// The verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("failed to decode {path}")]
    Decode {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The folder of the last snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotFolder(PathBuf);

impl SnapshotFolder {
    /// The one of a kubelet's state folder.
    pub fn of(root_dir: &Path) -> Self {
        Self(root_dir.join("snapshot"))
    }

    /// Puts what is kept into the state; tells whether there was anything. The state is loaded, but
    /// not confirmed.
    ///
    /// # Errors
    /// When the file cannot be read or decoded; the state is then as it was.
    pub fn load(&self, state: &StateHandle) -> Result<bool, SnapshotError> {
        let Some(mut kept) = file::read(&self.0)? else { return Ok(false) };
        kept.loaded = true;
        state.write([Change::Everything], |state| {
            kept.keep_static(state);
            *state = kept;
        });
        Ok(true)
    }

    /// Writes whatever changes, until shutdown and once more then. After a failed write, which is
    /// told, everything is written with the next change.
    pub async fn keep(self, state: StateHandle, shutdown: CancellationToken) {
        let mut changes = state.changes();
        let keeper = Keeper { folder: self.0, state, writer: Arc::default() };
        let mut earliest_anew = Instant::now();
        // When what is written but not durable becomes so.
        let mut settle_at: Option<Instant> = None;
        loop {
            let mut dirty = Dirty::default();
            tokio::select! {
                change = changes.recv() => dirty.note(change),
                () = at(settle_at) => {
                    settle_at = None;
                    keeper.settle().await;
                    continue;
                }
                () = shutdown.cancelled() => {}
            }
            gather(&mut changes, &mut dirty, earliest_anew, &shutdown).await;
            let started = Instant::now();
            let anew = dirty.everything;
            if keeper.write(dirty).await && settle_at.is_none() {
                settle_at = Some(started + DURABLE_AFTER);
            }
            // What changed during that write is to be kept, too.
            if shutdown.is_cancelled() && changes.is_empty() {
                keeper.settle().await;
                return;
            }
            if anew {
                earliest_anew = Instant::now() + (started.elapsed() * REST_FACTOR).min(MAX_REST);
            }
        }
    }
}

/// Takes the changes that follow at once: they are written together.
async fn gather(
    changes: &mut Receiver<Change>,
    dirty: &mut Dirty,
    earliest_anew: Instant,
    shutdown: &CancellationToken,
) {
    let begin = Instant::now();
    loop {
        let rest = if dirty.everything { earliest_anew } else { begin };
        tokio::select! {
            change = changes.recv() => dirty.note(change),
            () = at(Some(rest.max(begin + COALESCE))) => break,
            () = shutdown.cancelled() => break,
        }
    }
    loop {
        match changes.try_recv() {
            Ok(change) => dirty.note(Ok(change)),
            Err(TryRecvError::Lagged(by)) => dirty.note(Err(RecvError::Lagged(by))),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// What has changed since it was written.
#[derive(Debug, Default, PartialEq)]
struct Dirty {
    everything: bool,
    changes: HashSet<Change>,
}

impl Dirty {
    fn note(&mut self, change: Result<Change, RecvError>) {
        match change {
            Ok(Change::Everything) | Err(RecvError::Lagged(_)) => self.everything = true,
            // Masters tell of mirrors, and files of what they show.
            Ok(Change::Mirror(_)) => {}
            Ok(change) => {
                self.changes.insert(change);
            }
            // Cannot be: the state's handle, which this task holds, is the sender.
            Err(RecvError::Closed) => {}
        }
    }

    fn is_empty(&self) -> bool {
        !self.everything && self.changes.is_empty()
    }
}

/// Writes, away from the threads that must not wait for a disk.
struct Keeper {
    folder: PathBuf,
    state: StateHandle,
    /// Nothing before the file was written anew by this process, and after a failure.
    writer: Arc<Mutex<Option<Writer>>>,
}

impl Keeper {
    /// Returns whether something was written.
    async fn write(&self, dirty: Dirty) -> bool {
        if dirty.is_empty() || !self.state.read(|state| state.loaded) {
            return false;
        }
        let (folder, state) = (self.folder.clone(), self.state.clone());
        self.in_background(move |writer| write(writer, &folder, &state, &dirty)).await
    }

    /// Makes durable what was written.
    async fn settle(&self) {
        let settle = |writer: Option<Writer>| match writer {
            Some(mut writer) => writer.settle().map(|()| Some(writer)),
            None => Ok(None),
        };
        self.in_background(settle).await;
    }

    /// Does something that waits for the disk; whether that went well.
    async fn in_background(
        &self,
        work: impl FnOnce(Option<Writer>) -> Result<Option<Writer>, SnapshotError> + Send + 'static,
    ) -> bool {
        let writer = Arc::clone(&self.writer);
        let done = tokio::task::spawn_blocking(move || {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            *writer = work(writer.take())?;
            Ok::<(), SnapshotError>(())
        });
        match done.await {
            Ok(Ok(())) => return true,
            Ok(Err(failure)) => {
                error!(error = %crate::join::Chain(&failure), "failed to keep the snapshot");
            }
            Err(failure) => error!(error = %failure, "failed to keep the snapshot"),
        }
        false
    }
}

fn write(
    writer: Option<Writer>,
    folder: &Path,
    state: &StateHandle,
    dirty: &Dirty,
) -> Result<Option<Writer>, SnapshotError> {
    let writer = match writer {
        Some(mut writer) if !dirty.everything => {
            let changes = state.read(|state| Batch::of(state, &dirty.changes));
            writer.append(changes)?;
            Some(writer).filter(|writer| !writer.has_grown())
        }
        _ => None,
    };
    match writer {
        Some(writer) => Ok(Some(writer)),
        None => {
            let writer = Writer::make(folder, state.read(Batch::of_all))?;
            debug!("wrote the snapshot anew");
            Ok(Some(writer))
        }
    }
}

#[cfg(test)]
mod tests;
