//! The embedded store's file is free as soon as the store is dropped.

use std::time::Duration;

use futures::StreamExt;
use master::store::{EmbeddedStore, Store, Txn};

use crate::suite::{key, put, put_leased};

/// Whatever of the store is still about: its tasks on the runtime, watches, reads under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_can_be_opened_again_at_once() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("store.redb");
    for round in 0..30 {
        let store = EmbeddedStore::open(&path).unwrap_or_else(|error| panic!("{round}: {error:?}"));
        let lease = store.grant_lease(Duration::from_secs(60)).await.expect("a lease");
        let value = round.to_string();
        let ops = vec![put("a", &value), put_leased(&format!("l{round}"), &value, lease)];
        store.txn(Txn { compares: vec![], ops }).await.expect("a transaction");
        let mut watch = store.watch(&key(""), 1).await.expect("a watch");
        watch.next().await.expect("a batch").expect("no error");
        // Given up while it may be reading the file.
        let prefix = key("");
        let range = store.range(&prefix, Default::default());
        tokio::time::timeout(Duration::ZERO, range).await.ok();
        drop(store);
        // The watch outlives the store, and ends.
        while let Some(batch) = watch.next().await {
            if batch.is_err() {
                break;
            }
        }
        assert!(watch.next().await.is_none());
    }
}
