//! One suite for every store: what [`master::store::Store`] promises, held by each of them.
//!
//! The etcd half starts real etcd processes; the embedded half also dies by SIGKILL, fifty times.

mod etcd;
mod kill;
mod proxy;
mod reconnect;
mod reopen;
mod suite;

use std::sync::Arc;

use master::store::{EmbeddedStore, Store};

/// A store to be tested, and what has to live as long.
struct Fixture {
    store: Arc<dyn Store>,
    _server: Option<etcd::Etcd>,
    _directory: Option<tempfile::TempDir>,
}

async fn embedded() -> Fixture {
    let directory = tempfile::tempdir().expect("a directory");
    let store = EmbeddedStore::open(&directory.path().join("store.redb")).expect("a store");
    Fixture { store: Arc::new(store), _server: None, _directory: Some(directory) }
}

async fn in_memory() -> Fixture {
    let store = EmbeddedStore::in_memory().expect("a store");
    Fixture { store: Arc::new(store), _server: None, _directory: None }
}

async fn etcd() -> Fixture {
    let server = etcd::Etcd::start().await;
    let store = server.store().await;
    Fixture { store: Arc::new(store), _server: Some(server), _directory: None }
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod embedded_store { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = super::embedded().await;
                super::suite::$name(fixture.store.clone()).await;
            }
        )* }
        mod embedded_store_in_memory { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = super::in_memory().await;
                super::suite::$name(fixture.store.clone()).await;
            }
        )* }
        mod etcd_store { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = super::etcd().await;
                super::suite::$name(fixture.store.clone()).await;
            }
        )* }
    };
}

conformance!(
    creates_gets_and_deletes,
    ranges_in_order_by_pages_and_at_old_revisions,
    transactions_happen_whole_or_not_at_all,
    tells_the_first_compare_that_failed,
    refuses_transactions_that_no_store_can_do,
    a_transaction_that_changes_nothing_uses_no_revision,
    watches_from_a_revision,
    a_watch_that_is_read_late_misses_nothing,
    an_idle_watch_tells_progress_when_asked,
    a_transaction_is_never_told_in_parts,
    keys_go_with_their_lease,
    a_renewed_lease_lives_on,
    a_revoked_lease_is_gone,
    a_key_leaves_its_lease_when_written_without,
    compacted_revisions_are_expired,
    sixty_four_writers_count_without_losing_one,
    a_slow_or_dropped_watch_disturbs_nobody,
);
