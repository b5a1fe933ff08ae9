//! Watches of a whole master: many watchers, many writes, connections that break.
//!
//! ```text
//! writers ──HTTP/2──▶ master ──▶ record    (one undisturbed watch of everything)
//!                       └──────▶ watchers  (random selectors, disconnects, resumptions)
//! ```
//!
//! The record is held against what the writers were answered, and each watcher against the record:
//! it was told precisely what the record says, each change once and in order, and ended with what a
//! list says. All choices come from one seed, printed at the start; `KUTTER_SEED` sets it.

mod check;
mod client;
mod record;
mod selection;
mod watcher;
mod writers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use client::Master;
use record::Record;
use selection::Selection;
use watcher::{Goal, Watched, Watcher};
use writers::Writers;

/// After so long something that should happen has not.
const PATIENCE: Duration = Duration::from_secs(60);

const WATCHERS: usize = 200;
const WRITES: usize = 20_000;

/// The resources that are written and watched.
const RESOURCES: [&str; 2] = ["configmaps", "pods"];
const NAMESPACES: [&str; 6] = ["n0", "n1", "n2", "n3", "n4", "n5"];
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_ends_with_what_a_list_says() {
    let seed = std::env::var("KUTTER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("KUTTER_SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();

    let folder = tempfile::tempdir().expect("a directory");
    let master = Master::start(folder.path()).await;
    let connection = master.client.http2().await;
    for namespace in NAMESPACES {
        connection.create("/api/v1/namespaces", &writers::namespace(namespace)).await;
    }
    for node in NODES {
        connection.create("/api/v1/nodes", &writers::node(node)).await;
    }
    let (end, _) = watch::channel(None);
    let mut records = BTreeMap::new();
    for resource in RESOURCES {
        let record = Record::start(master.client.http2().await, resource, end.subscribe()).await;
        records.insert(resource, tokio::spawn(record));
    }

    let (written, _) = watch::channel(0);
    let (goal, _) = watch::channel(None);
    let mut watchers = Vec::new();
    let mut shared = connection.clone();
    for number in 0..WATCHERS {
        if number.is_multiple_of(20) {
            shared = master.client.http2().await;
        }
        let selection = Selection::random(&mut dice);
        let watcher = Watcher {
            client: master.client.clone(),
            shared: shared.clone(),
            selection: selection.clone(),
            dice: dice.fork(),
            written: written.subscribe(),
            goal: goal.subscribe(),
        };
        watchers.push((number, selection, tokio::spawn(watcher.run())));
    }
    let writers = Writers::run(&master.client, WRITES, written, &mut dice).await;
    println!("{WRITES} writes by {:?}", begun.elapsed());

    // What is written from here on nobody has to be told of.
    let last = writers.mark(&connection).await;
    end.send_replace(Some(last));
    let mut history = BTreeMap::new();
    for (resource, record) in records {
        let record = tokio::time::timeout(PATIENCE, record).await.expect("in time");
        history.insert(resource, record.expect("no panic"));
    }
    println!("recorded by {:?}", begun.elapsed());
    writers.check(&history);
    goal.send_replace(Some(Goal { last, history: Arc::new(history) }));

    let mut sum = Watched::default();
    let mut failures = Vec::new();
    for (number, selection, task) in watchers {
        let watched = match tokio::time::timeout(PATIENCE, task).await {
            Ok(Ok(watched)) => watched,
            Ok(Err(error)) => {
                failures.push(format!("watcher {number} of {selection}: {error}"));
                continue;
            }
            Err(_) => {
                failures.push(format!("watcher {number} of {selection} never came to the end"));
                continue;
            }
        };
        match watched.outcome.as_ref().expect("checked") {
            Ok((at, state)) => {
                let listed = connection.list_at(&selection, *at).await;
                if listed != *state {
                    let why = format!("{listed:?} is listed at {at}, not {state:?}");
                    failures.push(format!("watcher {number} of {selection}: {why}"));
                }
            }
            Err(why) => failures.push(format!("watcher {number} of {selection}: {why}")),
        }
        sum.add(watched);
    }
    println!("{WATCHERS} watchers by {:?}: {}", begun.elapsed(), sum.summary());
    assert!(failures.is_empty(), "with KUTTER_SEED={seed}:\n{}", failures.join("\n"));
    master.stop().await;
}
