//! The embedded store, killed in the middle of writes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use master::store::{EmbeddedStore, RangeOptions, Store};

use crate::suite::{AnyStore, commit, put};

const ROUNDS: usize = 50;
const WRITERS: usize = 8;
const CHILD: &str = "KUTTER_TEST_STORE_FILE";
/// Marks the lines that are not the test harness's.
const MARK: &str = "acknowledged:";

/// Not a test of its own: the process that is killed, this binary run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is started by the test beside it"]
async fn writes_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store: AnyStore = Arc::new(open(&path));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let mut value = 0u64;
            loop {
                value += 1;
                // Two keys, so that half a transaction would be seen.
                let text = format!("{}:{value}", std::process::id());
                let twice =
                    vec![put(&format!("w{writer}-a"), &text), put(&format!("w{writer}-b"), &text)];
                let revision = commit(&store, twice).await;
                let mut out = std::io::stdout().lock();
                writeln!(out, "{MARK} {writer} {value} {revision}").expect("the parent reads");
                out.flush().expect("the parent reads");
            }
        });
    }
    writers.join_all().await;
}

/// Opens the file. The round before lets go of it a moment after its store is dropped: a task that
/// is aborted ends when an executor comes round to it.
fn open(path: impl AsRef<Path>) -> EmbeddedStore {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        match EmbeddedStore::open(path.as_ref()) {
            Ok(store) => return store,
            Err(error) if format!("{error:?}").contains("DatabaseAlreadyOpen") => {
                assert!(Instant::now() < patience, "the file stays locked");
                std::thread::yield_now();
            }
            Err(error) => panic!("the file does not open: {error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_fifty_kills() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let mut total = 0;
    let mut newest = 0;
    for round in 0..ROUNDS {
        let (pid, acknowledged, revision) = killed_child(&path, round);
        total += acknowledged.values().sum::<u64>();
        newest = newest.max(revision);

        let store = open(&path);
        let now = store.current_revision().await.expect("a revision");
        assert!(now >= newest, "revision {newest} was acknowledged, but the store is at {now}");
        let range = store.range("/registry/pods/", RangeOptions::default()).await.expect("a list");
        let values: BTreeMap<_, _> = range
            .items
            .iter()
            .map(|item| (item.key.as_str(), String::from_utf8_lossy(&item.value).into_owned()))
            .collect();
        for (writer, value) in acknowledged {
            let both = ["a", "b"].map(|half| {
                values.get(format!("/registry/pods/w{writer}-{half}").as_str()).expect("both keys")
            });
            assert_eq!(both[0], both[1], "half a transaction in round {round}");
            let (by, stored) = both[0].split_once(':').expect("pid and number");
            assert_eq!(by, pid.to_string(), "round {round}: nothing of this child was kept");
            let stored: u64 = stored.parse().expect("a number");
            assert!(stored >= value, "round {round}: {value} was acknowledged, {stored} is there");
        }
        if round % 10 == 9 {
            store.compact(now).await.expect("a compaction");
        }
    }
    assert!(total > ROUNDS as u64, "the children wrote too little to prove anything: {total}");
}

/// Runs a child until it has written a little, kills it; tells what it was told is durable: the
/// newest value of each writer, and the newest revision.
fn killed_child(path: &Path, round: usize) -> (u32, BTreeMap<usize, u64>, u64) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", "kill::writes_until_it_is_killed", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let pid = child.id();
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut newest = BTreeMap::new();
    let mut revision = 0;
    let mut take = |line: &str| {
        let Some((_, numbers)) = line.split_once(MARK) else { return };
        let numbers: Vec<u64> =
            numbers.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        newest.insert(numbers[0] as usize, numbers[1]);
        revision = revision.max(numbers[2]);
    };
    // At another moment of its life each time.
    let lifetime = Duration::from_millis(1 + (round as u64 * 7) % 60);
    let mut kill_at = None;
    for line in lines.by_ref() {
        take(&line.expect("a line"));
        let now = Instant::now();
        if now >= *kill_at.get_or_insert(now + lifetime) {
            break;
        }
    }
    child.kill().expect("it runs");
    // What was in the pipe was acknowledged as well; the last line may be torn.
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    for line in rest.iter().take(rest.len().saturating_sub(1)) {
        take(line);
    }
    child.wait().expect("it ends");
    (pid, newest, revision)
}
