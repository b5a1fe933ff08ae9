//! The store in a file of this process, for clusters with one master: nothing has to be installed.
//!
//! ```text
//! txn, leases, compact ──▶ queue ──▶ writer thread: all that waits becomes one redb
//!                                    transaction with one fsync
//!                                      │ then: revision, broadcast to watches, answers
//! get, range ──▶ redb read transaction (a snapshot; never waits for the writer)
//! watch ──▶ history out of the file, then the broadcast; too slow: history again
//! ```

mod leases;
mod tables;
mod watch;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;
use std::{fs, io};

use async_trait::async_trait;
use futures::StreamExt;
use redb::{Database, ReadableDatabase};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::store::{
    Error, Event, KeyValue, LeaseId, Range, RangeOptions, Result, Revision, Store, Txn, TxnOutcome,
    WatchStream,
};
use leases::Leases;
use tables::Snapshot;
use writer::{Command, Reply, Write};

/// redb's page cache. Small, since reads are served by the watch cache; it has to hold the inner
/// pages of the trees and what one group of writers touches.
const CACHE_BYTES: usize = 4 << 20;

/// Writers that wait for the writer thread. More of them wait for a place.
const QUEUE: usize = 1024;

/// Groups of commits that a slow watch may be behind before it turns to the file.
const BROADCAST: usize = 64;

/// A store in one file (or in memory, for tests). See the module's documentation.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// Taken when dropped: the writer thread ends when nobody can send any more.
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<thread::JoinHandle<()>>,
    expiry: tokio::task::AbortHandle,
}

/// What readers, watches and the writer share.
#[derive(Debug)]
struct Shared {
    /// Nothing: the store was dropped. A read holds the lock for as long as it takes, so that whoever
    /// drops the store waits for it, and the file is free afterwards.
    database: RwLock<Option<Database>>,
    /// Of the last committed transaction.
    revision: AtomicU64,
    told: broadcast::Sender<Told>,
    leases: Arc<Leases>,
}

/// What the writer tells the watches.
#[derive(Clone, Debug)]
enum Told {
    /// All changes of a group of commits, up to and including a revision.
    Changes(Revision, Arc<Vec<Event>>),
    /// Somebody wants to hear how far we are.
    Progress,
}

impl EmbeddedStore {
    /// Opens or creates the file. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// When the file cannot be opened, or another process has it open.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.try_exists().map_err(|e| failed("open its file", e))? {
            create(path)?;
        }
        let database = builder().open(path).map_err(|e| failed("open its file", e))?;
        Self::with(database)
    }

    /// A store that is gone when dropped. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// Never in practice; the signature is the one of [`open`](Self::open).
    pub fn in_memory() -> Result<Self> {
        let backend = redb::backends::InMemoryBackend::new();
        let database = builder()
            .create_with_backend(backend)
            .map_err(|e| failed("open a database in memory", e))?;
        Self::with(database)
    }

    fn with(database: Database) -> Result<Self> {
        let state = tables::prepare(&database)?;
        let shared = Arc::new(Shared {
            database: RwLock::new(Some(database)),
            revision: AtomicU64::new(state.revision),
            told: broadcast::Sender::new(BROADCAST),
            leases: Arc::new(Leases::new(state.leases)),
        });
        let (commands, queue) = mpsc::channel(QUEUE);
        let expiry = tokio::spawn(leases::expire(shared.leases.clone(), commands.downgrade()));
        let writer = {
            let shared = shared.clone();
            thread::Builder::new()
                .name("store-writer".to_owned())
                .spawn(move || writer::run(&shared, queue))
                .map_err(|e| failed("start its writer", e))?
        };
        Ok(Self {
            shared,
            commands: Some(commands),
            writer: Some(writer),
            expiry: expiry.abort_handle(),
        })
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(|| failed("write", "it was closed"))?;
        commands.send(command(reply)).await.map_err(|_| failed("write", "it was closed"))?;
        // Dropped without an answer: the group failed, and the writer has logged why.
        answer.await.map_err(|_| failed("write", "the commit failed"))?
    }
}

impl Drop for EmbeddedStore {
    /// Waits for the group and the reads in hand, so that the file is free afterwards.
    fn drop(&mut self) {
        self.expiry.abort();
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the store had panicked");
        }
        self.shared.database.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Shared {
    fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    fn read<T>(&self, read: impl FnOnce(&Snapshot) -> Result<T>) -> Result<T> {
        self.with_database(|database| {
            let transaction = database.begin_read().map_err(|e| failed("read", e))?;
            read(&Snapshot::new(&transaction)?)
        })
    }

    fn with_database<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        work(database.as_ref().ok_or_else(|| failed("read", "it was closed"))?)
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        // A few pages, nearly always in memory: not worth a thread.
        self.shared.read(|snapshot| snapshot.get(key))
    }

    async fn range(&self, prefix: &str, options: RangeOptions) -> Result<Range> {
        let shared = self.shared.clone();
        let prefix = prefix.to_owned();
        blocking(move || shared.read(|snapshot| snapshot.range(&prefix, &options))).await
    }

    async fn current_revision(&self) -> Result<Revision> {
        Ok(self.shared.revision())
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn.check()?;
        self.ask(|reply| Command::Write(Write::Txn(txn, reply))).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let watch = watch::Watch::new(&self.shared, prefix, after)?;
        Ok(watch.stream().boxed())
    }

    async fn request_progress(&self) -> Result<()> {
        // Nobody listening is no failure.
        let _ = self.shared.told.send(Told::Progress);
        Ok(())
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        self.ask(|reply| Command::Write(Write::Grant(ttl, reply))).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        // In memory only: an idle cluster writes nothing.
        self.shared.leases.renew(lease)
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        if !self.shared.leases.remove(lease) {
            return Err(Error::NoSuchLease(lease));
        }
        self.ask(|reply| Command::Write(Write::Revoke(lease, Some(reply)))).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.ask(|reply| Command::Compact(revision, reply)).await
    }
}

/// Makes a new file, whole, under its name: redb refuses one whose making was interrupted.
fn create(path: &Path) -> Result<()> {
    let failed = |error: io::Error| failed("create its file", error);
    let temporary = path.with_added_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let database = builder().create(&temporary).map_err(|e| failed(io::Error::other(e)))?;
    tables::prepare(&database)?;
    // Closes it.
    drop(database);
    fs::rename(&temporary, path).map_err(failed)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn failed(
    operation: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Unavailable { operation, source: source.into() }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| failed("finish a read", e))?
}
