//! Bounds the history that a store keeps.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Compare, Revision, Store};

/// How much of the past is kept at the least: as in Kubernetes. Paged lists have to be done by then.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Sooner when this many revisions came: some hundred megabytes of pods.
const MAX_REVISIONS: u64 = 100_000;

/// Compacts `store` while this master leads, until shutdown. `revisions` follows the store's
/// revision. While nothing changes, nothing is done.
pub async fn run(
    store: Arc<dyn Store>,
    mut revisions: watch::Receiver<Revision>,
    fence: watch::Receiver<Option<Compare>>,
    shutdown: CancellationToken,
) {
    loop {
        let base = *revisions.borrow_and_update();
        let due = async {
            revisions.wait_for(|revision| *revision > base).await?;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => Ok(()),
                many = revisions.wait_for(|revision| *revision >= base + MAX_REVISIONS) => many.map(|_| ()),
            }
        };
        match shutdown.run_until_cancelled(due).await {
            Some(Ok(())) => {}
            // Shutdown, or nobody follows the store any more.
            Some(Err(_)) | None => return,
        }
        // One is enough; that two might for a moment think they lead does no harm.
        if fence.borrow().is_none() {
            continue;
        }
        match store.compact(base).await {
            Ok(()) => debug!(revision = base, "compacted the store"),
            Err(error) => warn!(%error, revision = base, "failed to compact the store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{EmbeddedStore, Error, Op, RangeOptions, Txn, TxnOutcome};

    #[tokio::test(start_paused = true)]
    async fn the_leader_forgets_what_is_older_than_the_interval() {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory().expect("a store"));
        let (revisions, follow) = watch::channel(store.current_revision().await.expect("one"));
        let (lead, fence) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(store.clone(), follow, fence, shutdown.clone()));
        let write = async || {
            let ops = vec![Op::Put { key: "/a".to_owned(), value: "1".into(), lease: None }];
            let outcome = store.txn(Txn { compares: vec![], ops }).await.expect("an answer");
            let TxnOutcome::Committed(revision) = outcome else { panic!("no compare") };
            revisions.send_replace(revision);
            revision
        };
        let at = async |revision| {
            let options = RangeOptions { revision: Some(revision), ..RangeOptions::default() };
            store.range("/", options).await
        };
        let first = write().await;
        for _ in 0..3 {
            write().await;
            tokio::time::sleep(2 * INTERVAL).await;
        }
        assert!(at(first).await.is_ok(), "others lead");
        lead.send_replace(Some(Compare::Present("/leader".to_owned())));
        // The clock runs while the store's thread works, so that one pass may see two writes.
        let mut last = first;
        for _ in 0..20 {
            if at(first).await.is_err() {
                break;
            }
            last = write().await;
            tokio::time::sleep(2 * INTERVAL).await;
        }
        // The store works on a thread of its own, which a paused clock does not wait for.
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !matches!(at(first).await, Err(Error::Expired { .. })) {
            assert!(std::time::Instant::now() < patience, "nothing was forgotten");
        }
        assert!(at(last).await.is_ok(), "the newest stays");
        shutdown.cancel();
        task.await.expect("it ends");
    }
}
