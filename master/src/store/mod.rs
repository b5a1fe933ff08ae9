//! Where desired state is kept: one small trait, two implementations, one conformance suite.
//!
//! Revisions are the store's own. Every committed transaction gets the next one; all keys it
//! writes share it.

pub mod compactor;
mod embedded;
mod etcd;
pub mod keys;
mod metered;
#[cfg(test)]
pub(crate) mod unreliable;

pub use embedded::EmbeddedStore;
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls};
pub(crate) use metered::Metered;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::time::Duration;

/// A store's version counter; becomes `resourceVersion`.
pub type Revision = u64;

/// Names a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Absolute, as `/registry/pods/default/web`.
    pub key: String,
    /// As written.
    pub value: Bytes,
    /// The revision of the transaction that created the key.
    pub create_revision: Revision,
    /// The revision of the transaction that wrote this value.
    pub mod_revision: Revision,
}

/// What a transaction demands of the present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists, whatever its revision.
    Present(String),
    /// The key was last written at this revision.
    ModRevision(String, Revision),
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes.
    Put {
        /// Where.
        key: String,
        /// What.
        value: Bytes,
        /// The key goes when this lease does.
        lease: Option<LeaseId>,
    },
    /// Deletes; no error when there is nothing.
    Delete {
        /// What.
        key: String,
    },
}

impl Op {
    /// The key that is changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// What it weighs.
    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }
}

/// Several changes that happen together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All have to hold.
    pub compares: Vec<Compare>,
    /// At most 128, each key once.
    pub ops: Vec<Op>,
}

/// What the keys and values of a transaction may come to, in bytes: what etcd takes by default, with room
/// for its compares.
pub const MAX_TXN_BYTES: usize = 1_500_000;

/// How many operations, and how many compares, a transaction may have: etcd's own default.
pub const MAX_TXN_OPS: usize = 128;

impl Txn {
    /// Refuses what no store can do.
    fn check(&self) -> Result<()> {
        let refuse = |why: &str| {
            Err(Error::Unavailable { operation: "accept a transaction", source: why.into() })
        };
        if self.ops.len() > MAX_TXN_OPS || self.compares.len() > MAX_TXN_OPS {
            return refuse("it is too large");
        }
        let mut keys: Vec<_> = self.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse("it changes a key twice");
        }
        let bytes = self.ops.iter().map(Op::bytes).sum();
        if bytes > MAX_TXN_BYTES {
            return Err(Error::TooLarge { bytes });
        }
        Ok(())
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All is written, durably, at this revision.
    Committed(Revision),
    /// A compare did not hold and nothing was written. Gives the index of the first compare that failed.
    Conflict(usize),
}

/// The keys under a prefix at one revision, in the order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The revision of the snapshot.
    pub revision: Revision,
    /// At most `limit`.
    pub items: Vec<KeyValue>,
    /// Whether there are more than `limit` allowed.
    pub more: bool,
}

/// Which part of a prefix is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeOptions {
    /// 0: no bound.
    pub limit: usize,
    /// Only keys after this one.
    pub after: Option<String>,
    /// As of this revision; nothing means now. `Expired` when compacted.
    pub revision: Option<Revision>,
}

/// A change as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Created (`create_revision == mod_revision`) or changed.
    Put(KeyValue),
    /// Deleted, by a transaction or because its lease ended.
    Delete {
        /// What went.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(stored) => &stored.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(stored) => stored.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// All that one watch has to tell up to and including `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// Everything up to here has been told; there may be no event at all (progress).
    pub revision: Revision,
    /// In the order of revisions, never part of a transaction only.
    pub events: Vec<Event>,
}

/// An endless stream of batches; an error ends it. Implementations reconnect by themselves.
pub type WatchStream = BoxStream<'static, Result<WatchBatch>>;

/// A failed store operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The revision asked for was compacted away; list again.
    #[error("revision {requested} was compacted; the oldest kept is {oldest}")]
    Expired {
        /// What was asked for.
        requested: Revision,
        /// What can be had.
        oldest: Revision,
    },
    /// The transaction is larger than [`MAX_TXN_BYTES`].
    #[error("{bytes} bytes are more than the store takes at once ({MAX_TXN_BYTES})")]
    TooLarge {
        /// What it came to.
        bytes: usize,
    },
    /// There is no such lease, or it ended.
    #[error("lease {0:?} does not exist")]
    NoSuchLease(LeaseId),
    /// The store cannot be reached, or failed.
    #[error("the store failed to {operation}")]
    Unavailable {
        /// The verb.
        operation: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Desired state, kept. See the module's documentation.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest value of a key.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>>;

    /// The keys under a prefix, consistent at one revision.
    async fn range(&self, prefix: &str, options: RangeOptions) -> Result<Range>;

    /// The revision of the last committed transaction, read linearizably.
    async fn current_revision(&self) -> Result<Revision>;

    /// Compares, then writes, atomically and durably.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome>;

    /// All changes under a prefix after `after` (exclusive), nothing lost and nothing doubled. An idle
    /// watch yields empty batches as other prefixes progress, promptly when
    /// [`request_progress`](Self::request_progress) asks for it.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream>;

    /// Makes every watch of this process yield a batch of at least the present revision soon.
    async fn request_progress(&self) -> Result<()>;

    /// A lease that ends `ttl` (whole seconds, at least 1) after its last renewal.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId>;

    /// Renews. `NoSuchLease` when it ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// Ends a lease now; its keys go.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<()>;

    /// Forgets history before `revision`.
    async fn compact(&self, revision: Revision) -> Result<()>;
}
