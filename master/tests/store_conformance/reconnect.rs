//! Watches of etcd across broken connections and restarts.

use std::path::Path;
use std::sync::Arc;

use master::store::{Store, Txn};

use crate::etcd::{Etcd, connect};
use crate::proxy::Proxy;
use crate::suite::{AnyStore, commit, events, put, told};

const PREFIX: &str = "/registry/pods/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_etcd_loses_and_doubles_nothing_when_its_connection_is_cut() {
    let server = Etcd::start().await;
    let writer: AnyStore = Arc::new(server.store().await);
    let proxy = Proxy::start(server.port()).await;
    let watcher = connect(proxy.port(), Path::new("/")).await;

    let start = commit(&writer, vec![put("a", "0")]).await;
    let mut watch = watcher.watch(PREFIX, start).await.expect("a watch");
    let mut seen = Vec::new();
    for round in 0..20 {
        for n in 1..=20 {
            let value = (round * 20 + n).to_string();
            commit(&writer, vec![put("a", &value), put("b", &value)]).await;
            if n == 7 {
                // With some of it read, some in flight, some not yet written.
                seen.extend(events(&mut watch, 2).await);
                proxy.cut();
            }
        }
        let missing = (round + 1) * 40 - seen.len();
        seen.extend(events(&mut watch, missing).await);
    }
    let expected: Vec<_> = (1..=400)
        .flat_map(|n| [format!("~a={n}"), format!("{}b={n}", if n == 1 { '+' } else { '~' })])
        .collect();
    assert_eq!(told(&seen), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_etcd_goes_on_after_etcd_was_killed() {
    let mut server = Etcd::start().await;
    let store: AnyStore = Arc::new(server.store().await);
    let start = commit(&store, vec![put("a", "0")]).await;
    let mut watch = store.watch(PREFIX, start).await.expect("a watch");
    commit(&store, vec![put("a", "1")]).await;
    assert_eq!(told(&events(&mut watch, 1).await), ["~a=1"]);

    server.kill();
    let lost = store.txn(Txn { compares: vec![], ops: vec![put("a", "lost")] }).await;
    assert!(lost.is_err(), "nobody was there to commit it");
    server.launch();
    server.store().await;

    commit(&store, vec![put("a", "2")]).await;
    assert_eq!(told(&events(&mut watch, 1).await), ["~a=2"]);
    // Progress asked for after the reconnect still arrives.
    store.request_progress().await.expect("a request");
    commit(&store, vec![put("a", "3")]).await;
    assert_eq!(told(&events(&mut watch, 1).await), ["~a=3"]);
}
