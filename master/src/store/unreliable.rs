//! For tests: a store that can be cut off, as by a network.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::watch;

use super::{
    EmbeddedStore, Error, KeyValue, LeaseId, Range, RangeOptions, Result, Revision, Store, Txn,
    TxnOutcome, WatchStream,
};

/// Calls fail and watches end while it is cut off.
pub(crate) struct Unreliable {
    pub(crate) inner: Arc<EmbeddedStore>,
    cut: watch::Sender<bool>,
}

impl Unreliable {
    pub(crate) fn new() -> Arc<Self> {
        let inner = Arc::new(EmbeddedStore::in_memory().expect("a store"));
        Arc::new(Self { inner, cut: watch::Sender::new(false) })
    }

    pub(crate) fn set_cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    fn reach(&self) -> Result<&EmbeddedStore> {
        if *self.cut.borrow() { Err(gone()) } else { Ok(&self.inner) }
    }
}

fn gone() -> Error {
    Error::Unavailable { operation: "answer", source: "it is cut off".into() }
}

#[async_trait]
impl Store for Unreliable {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>> {
        self.reach()?.get(key).await
    }

    async fn range(&self, prefix: &str, options: RangeOptions) -> Result<Range> {
        self.reach()?.range(prefix, options).await
    }

    async fn current_revision(&self) -> Result<Revision> {
        self.reach()?.current_revision().await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.reach()?.txn(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream> {
        let watch = self.reach()?.watch(prefix, after).await?;
        let mut cut = self.cut.subscribe();
        let end = async move {
            // The store may be gone before it is cut off.
            let _ = cut.wait_for(|cut| *cut).await;
        };
        let last = futures::stream::once(async { Err(gone()) });
        Ok(watch.take_until(end).chain(last).boxed())
    }

    async fn request_progress(&self) -> Result<()> {
        self.reach()?.request_progress().await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        self.reach()?.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.reach()?.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        self.reach()?.revoke_lease(lease).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.reach()?.compact(revision).await
    }
}
