//! The promises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use master::store::{
    Compare, Error, Event, KeyValue, LeaseId, Op, RangeOptions, Revision, Store, Txn, TxnOutcome,
    WatchStream,
};

pub(crate) type AnyStore = Arc<dyn Store>;

const PREFIX: &str = "/registry/pods/";
/// Far beyond what any of this takes; a test that waits for something that never comes fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

pub(crate) fn put(name: &str, value: &str) -> Op {
    Op::Put { key: key(name), value: Bytes::from(value.to_owned()), lease: None }
}

pub(crate) fn put_leased(name: &str, value: &str, lease: LeaseId) -> Op {
    Op::Put { key: key(name), value: Bytes::from(value.to_owned()), lease: Some(lease) }
}

fn delete(name: &str) -> Op {
    Op::Delete { key: key(name) }
}

pub(crate) async fn commit(store: &AnyStore, ops: Vec<Op>) -> Revision {
    match store.txn(Txn { compares: vec![], ops }).await.expect("a transaction") {
        TxnOutcome::Committed(revision) => revision,
        TxnOutcome::Conflict(index) => panic!("compare {index} of none failed"),
    }
}

async fn get(store: &AnyStore, name: &str) -> Option<KeyValue> {
    store.get(&key(name)).await.expect("a get")
}

async fn list(store: &AnyStore, options: RangeOptions) -> Vec<String> {
    let range = store.range(PREFIX, options).await.expect("a range");
    names(&range.items)
}

fn names(items: &[KeyValue]) -> Vec<String> {
    items
        .iter()
        .map(|item| {
            let value = String::from_utf8(item.value.to_vec()).expect("text");
            format!("{}={value}", item.key.trim_start_matches(PREFIX))
        })
        .collect()
}

/// The next events, as many as asked for.
pub(crate) async fn events(watch: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = next(watch).await.expect("a batch");
        for event in &batch.events {
            assert!(event.revision() <= batch.revision, "an event beyond its batch: {batch:?}");
        }
        events.extend(batch.events);
    }
    assert_eq!(events.len(), count, "more than was done: {events:?}");
    events
}

async fn next(watch: &mut WatchStream) -> Result<master::store::WatchBatch, master::store::Error> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").expect("endless")
}

pub(crate) fn told(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| match event {
            Event::Put(stored) => {
                let kind = if stored.create_revision == stored.mod_revision { '+' } else { '~' };
                format!("{kind}{}", names(std::slice::from_ref(stored))[0])
            }
            Event::Delete { key, .. } => format!("-{}", key.trim_start_matches(PREFIX)),
        })
        .collect()
}

pub(crate) async fn creates_gets_and_deletes(store: AnyStore) {
    assert_eq!(get(&store, "a").await, None);
    let before = store.current_revision().await.expect("a revision");
    assert!(before >= 1, "no object may have the resourceVersion 0");
    let created = commit(&store, vec![put("a", "1")]).await;
    assert!(created > before);
    let changed = commit(&store, vec![put("a", "2")]).await;
    assert!(changed > created);
    let expected = KeyValue {
        key: key("a"),
        value: Bytes::from_static(b"2"),
        create_revision: created,
        mod_revision: changed,
    };
    assert_eq!(get(&store, "a").await, Some(expected));
    assert_eq!(store.current_revision().await.expect("a revision"), changed);
    commit(&store, vec![delete("a")]).await;
    assert_eq!(get(&store, "a").await, None);
    let again = commit(&store, vec![put("a", "3")]).await;
    assert_eq!(get(&store, "a").await.map(|stored| stored.create_revision), Some(again));
}

pub(crate) async fn ranges_in_order_by_pages_and_at_old_revisions(store: AnyStore) {
    for name in ["b", "a", "d", "c", "e"] {
        commit(&store, vec![put(name, "1")]).await;
    }
    commit(
        &store,
        vec![Op::Put { key: "/registry/podsx".to_owned(), value: Bytes::new(), lease: None }],
    )
    .await;
    let old = store.current_revision().await.expect("a revision");
    commit(&store, vec![put("a", "2"), delete("c")]).await;
    commit(&store, vec![put("bb", "1")]).await;
    let now = store.current_revision().await.expect("a revision");

    assert_eq!(list(&store, RangeOptions::default()).await, ["a=2", "b=1", "bb=1", "d=1", "e=1"]);
    let at_old = RangeOptions { revision: Some(old), ..RangeOptions::default() };
    assert_eq!(list(&store, at_old.clone()).await, ["a=1", "b=1", "c=1", "d=1", "e=1"]);

    // Pages of an old revision, as a client follows them while others write.
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let options = RangeOptions { limit: 2, after, ..at_old.clone() };
        let page = store.range(PREFIX, options).await.expect("a page");
        assert_eq!(page.revision, old);
        after = page.items.last().map(|item| item.key.clone());
        pages.push(names(&page.items));
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [vec!["a=1", "b=1"], vec!["c=1", "d=1"], vec!["e=1"]]);

    let exact = store
        .range(PREFIX, RangeOptions { limit: 5, ..RangeOptions::default() })
        .await
        .expect("a range");
    assert_eq!((exact.items.len(), exact.more, exact.revision), (5, false, now));
    let none = store.range("/registry/nothing/", RangeOptions::default()).await.expect("a range");
    assert_eq!((none.items, none.more), (vec![], false));
}

pub(crate) async fn transactions_happen_whole_or_not_at_all(store: AnyStore) {
    let first = commit(&store, vec![put("a", "1"), put("b", "1")]).await;
    let both = [get(&store, "a").await, get(&store, "b").await];
    assert!(both.iter().flatten().all(|stored| stored.mod_revision == first));
    assert_eq!(both.iter().flatten().count(), 2);

    let stale = Txn {
        compares: vec![Compare::ModRevision(key("a"), first), Compare::Absent(key("b"))],
        ops: vec![put("a", "2"), put("c", "2")],
    };
    assert_eq!(store.txn(stale).await.expect("an answer"), TxnOutcome::Conflict(1));
    assert_eq!(list(&store, RangeOptions::default()).await, ["a=1", "b=1"]);

    let right = Txn {
        compares: vec![
            Compare::ModRevision(key("a"), first),
            Compare::Present(key("b")),
            Compare::Absent(key("c")),
        ],
        ops: vec![put("a", "2"), delete("b"), put("c", "2")],
    };
    assert!(matches!(store.txn(right).await.expect("an answer"), TxnOutcome::Committed(_)));
    assert_eq!(list(&store, RangeOptions::default()).await, ["a=2", "c=2"]);
}

pub(crate) async fn tells_the_first_compare_that_failed(store: AnyStore) {
    let revision = commit(&store, vec![put("a", "1")]).await;
    let cases = [
        (vec![Compare::Absent(key("a"))], 0),
        (vec![Compare::Present(key("a")), Compare::Present(key("b"))], 1),
        (vec![Compare::ModRevision(key("a"), revision + 7)], 0),
        (vec![Compare::ModRevision(key("b"), revision)], 0),
        (
            vec![
                Compare::Present(key("a")),
                Compare::Absent(key("b")),
                Compare::Absent(key("a")),
                Compare::Present(key("b")),
            ],
            2,
        ),
    ];
    for (compares, index) in cases {
        let txn = Txn { compares: compares.clone(), ops: vec![put("x", "1")] };
        let outcome = store.txn(txn).await.expect("an answer");
        assert_eq!(outcome, TxnOutcome::Conflict(index), "{compares:?}");
    }
    assert_eq!(get(&store, "x").await, None);
}

pub(crate) async fn refuses_transactions_that_no_store_can_do(store: AnyStore) {
    let twice = Txn { compares: vec![], ops: vec![put("a", "1"), delete("a")] };
    assert!(matches!(store.txn(twice).await, Err(Error::Unavailable { .. })));
    let ops = (0..129).map(|n| put(&format!("n{n}"), "1")).collect();
    assert!(matches!(
        store.txn(Txn { compares: vec![], ops }).await,
        Err(Error::Unavailable { .. })
    ));
    let large = Txn { compares: vec![], ops: vec![put("a", &"x".repeat(1_600_000))] };
    assert!(matches!(store.txn(large).await, Err(Error::TooLarge { bytes: 1_600_016 })));
    commit(&store, vec![put("a", &"x".repeat(1_450_000))]).await;
    commit(&store, vec![delete("a")]).await;
    let ops = (0..128).map(|n| put(&format!("n{n}"), "1")).collect();
    commit(&store, ops).await;
    assert_eq!(list(&store, RangeOptions::default()).await.len(), 128);
}

pub(crate) async fn a_transaction_that_changes_nothing_uses_no_revision(store: AnyStore) {
    let before = commit(&store, vec![put("a", "1")]).await;
    assert_eq!(commit(&store, vec![delete("nothing")]).await, before);
    let only_compares = Txn { compares: vec![Compare::Present(key("a"))], ops: vec![] };
    assert_eq!(store.txn(only_compares).await.expect("an answer"), TxnOutcome::Committed(before));
    assert_eq!(store.current_revision().await.expect("a revision"), before);
}

pub(crate) async fn watches_from_a_revision(store: AnyStore) {
    let start = commit(&store, vec![put("a", "1")]).await;
    commit(&store, vec![put("b", "1")]).await;
    commit(&store, vec![put("a", "2"), delete("b")]).await;
    let other = Op::Put { key: "/registry/x".to_owned(), value: Bytes::new(), lease: None };
    commit(&store, vec![other]).await;
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    let history = events(&mut watch, 3).await;
    assert_eq!(told(&history), ["+b=1", "~a=2", "-b"]);
    assert_eq!(history[1].revision(), history[2].revision());

    let last = commit(&store, vec![put("b", "2")]).await;
    let live = events(&mut watch, 1).await;
    assert_eq!(told(&live), ["+b=2"]);
    assert_eq!(live[0].revision(), last);

    // Another one, from the middle of it all.
    let mut again = store.watch(PREFIX, history[0].revision()).await.expect("a watch");
    assert_eq!(told(&events(&mut again, 3).await), ["~a=2", "-b", "+b=2"]);
}

pub(crate) async fn a_watch_that_is_read_late_misses_nothing(store: AnyStore) {
    let start = store.current_revision().await.expect("a revision");
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    for n in 0..400 {
        commit(&store, vec![put("a", &n.to_string())]).await;
    }
    let all = events(&mut watch, 400).await;
    let expected: Vec<_> =
        (0..400).map(|n| if n == 0 { "+a=0".to_owned() } else { format!("~a={n}") }).collect();
    assert_eq!(told(&all), expected);
}

pub(crate) async fn an_idle_watch_tells_progress_when_asked(store: AnyStore) {
    let start = store.current_revision().await.expect("a revision");
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    let other = Op::Put { key: "/registry/x".to_owned(), value: Bytes::new(), lease: None };
    let revision = commit(&store, vec![other]).await;
    store.request_progress().await.expect("a request");
    loop {
        let batch = next(&mut watch).await.expect("a batch");
        assert!(batch.events.is_empty(), "nothing happened under the prefix: {batch:?}");
        if batch.revision >= revision {
            break;
        }
    }
    commit(&store, vec![put("a", "1")]).await;
    assert_eq!(told(&events(&mut watch, 1).await), ["+a=1"]);
    assert_eq!(list(&store, RangeOptions::default()).await, ["a=1"]);
}

pub(crate) async fn a_transaction_is_never_told_in_parts(store: AnyStore) {
    let start = store.current_revision().await.expect("a revision");
    let large = "x".repeat(10_000);
    for _ in 0..5 {
        let ops = (0..100).map(|n| put(&format!("n{n:03}"), &large)).collect();
        commit(&store, ops).await;
    }
    // Out of history and live.
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    let ops = (0..100).map(|n| put(&format!("n{n:03}"), &large)).collect();
    commit(&store, ops).await;
    let mut counts: BTreeMap<Revision, usize> = BTreeMap::new();
    while counts.len() < 6 {
        let batch = next(&mut watch).await.expect("a batch");
        let mut here: BTreeMap<Revision, usize> = BTreeMap::new();
        for event in &batch.events {
            *here.entry(event.revision()).or_default() += 1;
        }
        assert!(here.values().all(|count| *count == 100), "a part of a transaction: {here:?}");
        for (revision, count) in here {
            assert!(counts.insert(revision, count).is_none(), "told twice");
        }
    }
}

pub(crate) async fn keys_go_with_their_lease(store: AnyStore) {
    let start = store.current_revision().await.expect("a revision");
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    let lease = store.grant_lease(Duration::from_secs(1)).await.expect("a lease");
    commit(&store, vec![put_leased("a", "1", lease), put_leased("b", "1", lease)]).await;
    commit(&store, vec![put("c", "1")]).await;
    let mut all = told(&events(&mut watch, 5).await);
    all[3..].sort();
    assert_eq!(all, ["+a=1", "+b=1", "+c=1", "-a", "-b"]);
    assert_eq!(list(&store, RangeOptions::default()).await, ["c=1"]);
    assert!(matches!(store.keep_alive(lease).await, Err(Error::NoSuchLease(_))));
    let late = Txn { compares: vec![], ops: vec![put("d", "1"), put_leased("e", "1", lease)] };
    assert!(matches!(store.txn(late).await, Err(Error::NoSuchLease(_))));
    assert_eq!(get(&store, "d").await, None, "nothing of a refused transaction");
}

pub(crate) async fn a_renewed_lease_lives_on(store: AnyStore) {
    let ttl = Duration::from_secs(2);
    let lease = store.grant_lease(ttl).await.expect("a lease");
    let other = store.grant_lease(ttl).await.expect("a lease");
    let start =
        commit(&store, vec![put_leased("a", "1", lease), put_leased("b", "1", other)]).await;
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    // Renewed until the other one, as old as it, is gone.
    let mut renew = tokio::time::interval(Duration::from_millis(300));
    let gone = loop {
        tokio::select! {
            batch = next(&mut watch) => {
                let events = batch.expect("a batch").events;
                if !events.is_empty() {
                    break events;
                }
            }
            _ = renew.tick() => store.keep_alive(lease).await.expect("a renewal"),
        }
    };
    assert_eq!(told(&gone), ["-b"]);
    assert!(get(&store, "a").await.is_some());
    assert_eq!(told(&events(&mut watch, 1).await), ["-a"], "and ends when nobody renews it");
}

pub(crate) async fn a_revoked_lease_is_gone(store: AnyStore) {
    let lease = store.grant_lease(Duration::from_secs(60)).await.expect("a lease");
    let start = commit(&store, vec![put_leased("a", "1", lease)]).await;
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    store.revoke_lease(lease).await.expect("a revocation");
    assert_eq!(get(&store, "a").await, None);
    assert_eq!(told(&events(&mut watch, 1).await), ["-a"]);
    assert!(matches!(store.revoke_lease(lease).await, Err(Error::NoSuchLease(_))));
    assert!(matches!(store.keep_alive(lease).await, Err(Error::NoSuchLease(_))));
    assert!(store.grant_lease(Duration::from_millis(10)).await.is_err(), "whole seconds");
}

pub(crate) async fn a_key_leaves_its_lease_when_written_without(store: AnyStore) {
    let lease = store.grant_lease(Duration::from_secs(60)).await.expect("a lease");
    let other = store.grant_lease(Duration::from_secs(60)).await.expect("a lease");
    commit(&store, ["a", "b", "c"].map(|name| put_leased(name, "1", lease)).to_vec()).await;
    commit(&store, vec![put("a", "2"), put_leased("b", "2", other), delete("c")]).await;
    commit(&store, vec![put("c", "2")]).await;
    store.revoke_lease(lease).await.expect("a revocation");
    assert_eq!(list(&store, RangeOptions::default()).await, ["a=2", "b=2", "c=2"]);
    store.revoke_lease(other).await.expect("a revocation");
    assert_eq!(list(&store, RangeOptions::default()).await, ["a=2", "c=2"]);
}

pub(crate) async fn compacted_revisions_are_expired(store: AnyStore) {
    let first = commit(&store, vec![put("a", "1"), put("b", "1"), put("gone", "1")]).await;
    commit(&store, vec![put("a", "2"), delete("gone")]).await;
    let kept = commit(&store, vec![put("a", "3")]).await;
    let last = commit(&store, vec![put("a", "4")]).await;
    store.compact(kept).await.expect("a compaction");
    store.compact(kept).await.expect("it is no news");

    let at = |revision| RangeOptions { revision: Some(revision), ..RangeOptions::default() };
    assert_eq!(list(&store, at(kept)).await, ["a=3", "b=1"]);
    assert_eq!(list(&store, at(last)).await, ["a=4", "b=1"]);
    assert_eq!(list(&store, RangeOptions::default()).await, ["a=4", "b=1"]);
    match store.range(PREFIX, at(first)).await {
        Err(Error::Expired { requested, oldest }) => {
            assert_eq!(requested, first);
            assert!(oldest > first);
        }
        other => panic!("a compacted revision was listed: {other:?}"),
    }

    let mut watch = store.watch(PREFIX, kept - 1).await.expect("a watch");
    assert_eq!(told(&events(&mut watch, 2).await), ["~a=3", "~a=4"]);
    // A store may tell at once, or with the first batch.
    let expired = match store.watch(PREFIX, first).await {
        Ok(mut watch) => next(&mut watch).await.expect_err("a watch of what is gone"),
        Err(error) => error,
    };
    assert!(matches!(expired, Error::Expired { .. }), "{expired:?}");
    assert!(matches!(store.compact(last + 1000).await, Err(Error::Unavailable { .. })));

    // Much history, removed in steps.
    for n in 0..600 {
        commit(&store, vec![put(&format!("n{}", n % 7), &n.to_string())]).await;
    }
    let now = store.current_revision().await.expect("a revision");
    store.compact(now).await.expect("a compaction");
    let all = list(&store, RangeOptions::default()).await;
    assert_eq!(all.len(), 9);
    assert_eq!(all.last().map(String::as_str), Some("n6=594"));
}

pub(crate) async fn sixty_four_writers_count_without_losing_one(store: AnyStore) {
    const WRITERS: usize = 64;
    const EACH: usize = 8;
    let start = commit(&store, vec![put("counter", "0")]).await;
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let mut tries = 0;
            for n in 0..EACH {
                // Its own key, and the counter of all, in one transaction.
                loop {
                    tries += 1;
                    let counter = get(&store, "counter").await.expect("the counter");
                    let value: usize = std::str::from_utf8(&counter.value)
                        .expect("text")
                        .parse()
                        .expect("a number");
                    let txn = Txn {
                        compares: vec![Compare::ModRevision(counter.key, counter.mod_revision)],
                        ops: vec![
                            put("counter", &(value + 1).to_string()),
                            put(&format!("w{writer:02}-{n}"), "1"),
                        ],
                    };
                    if let TxnOutcome::Committed(_) = store.txn(txn).await.expect("an answer") {
                        break;
                    }
                }
            }
            tries
        });
    }
    let mut tries = 0;
    while let Some(writer) = writers.join_next().await {
        tries += writer.expect("a writer");
    }
    let counter = get(&store, "counter").await.expect("the counter");
    assert_eq!(counter.value, Bytes::from((WRITERS * EACH).to_string()), "after {tries} tries");
    assert_eq!(list(&store, RangeOptions::default()).await.len(), WRITERS * EACH + 1);
    // The watch has counted along.
    let all = events(&mut watch, 2 * WRITERS * EACH).await;
    let counted: Vec<_> = told(&all).into_iter().filter(|told| told.contains("counter")).collect();
    let expected: Vec<_> = (1..=WRITERS * EACH).map(|n| format!("~counter={n}")).collect();
    assert_eq!(counted, expected);
}

pub(crate) async fn a_slow_or_dropped_watch_disturbs_nobody(store: AnyStore) {
    let start = store.current_revision().await.expect("a revision");
    let mut slow = store.watch(PREFIX, start).await.expect("a watch");
    drop(store.watch(PREFIX, start).await.expect("a watch"));
    let mut quick = store.watch(PREFIX, start).await.expect("a watch");
    for n in 0..300 {
        commit(&store, vec![put("a", &n.to_string())]).await;
        assert_eq!(events(&mut quick, 1).await.len(), 1);
    }
    assert_eq!(events(&mut slow, 300).await.len(), 300);
}
