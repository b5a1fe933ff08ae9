//! A store that is watched at its work: how long each operation takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{
    KeyValue, LeaseId, Range, RangeOptions, Result, Revision, Store, Txn, TxnOutcome, WatchStream,
};
use crate::metrics::STORE;

/// Measures the store inside.
pub(crate) struct Metered<S>(pub(crate) S);

impl<S: Store> Metered<S> {
    pub(crate) fn shared(store: S) -> Arc<dyn Store> {
        Arc::new(Self(store))
    }
}

async fn measured<T>(operation: usize, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let outcome = work.await;
    STORE[operation].1.observe(began.elapsed());
    outcome
}

#[async_trait]
impl<S: Store> Store for Metered<S> {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        measured(0, self.0.get(key)).await
    }

    async fn range(&self, prefix: &str, options: RangeOptions) -> Result<Range> {
        measured(1, self.0.range(prefix, options)).await
    }

    async fn current_revision(&self) -> Result<Revision> {
        measured(3, self.0.current_revision()).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        measured(2, self.0.txn(txn)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        self.0.watch(prefix, after).await
    }

    async fn request_progress(&self) -> Result<()> {
        self.0.request_progress().await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        self.0.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.0.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        self.0.revoke_lease(lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.0.compact(revision).await
    }
}
