//! Traffic that goes on while something is broken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{DEADLINE, get};

/// A client that asks for the host name, again and again.
pub struct Traffic {
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// A request that was not answered as it should be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it was made: what was under way when something broke is told from what came after.
    pub began: Instant,
    /// After how long it failed.
    pub took: Duration,
    /// How.
    pub error: String,
}

#[derive(Default)]
struct State {
    answered: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    news: Notify,
    stop: AtomicBool,
}

impl Traffic {
    /// Starts asking the addresses in turn, one request at a time.
    #[must_use]
    pub fn start(addresses: Vec<String>) -> Self {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            for address in addresses.iter().cycle() {
                let began = Instant::now();
                match get(address, "/hostname").await {
                    Ok(_) => {
                        shared.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        let mut failures =
                            shared.failures.lock().unwrap_or_else(|error| error.into_inner());
                        let error = format!("{error:#}");
                        failures.push(Failure { began, took: began.elapsed(), error });
                    }
                }
                shared.news.notify_waiters();
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Self { state, task }
    }

    /// Waits until so many more requests have been made, answered or not.
    ///
    /// # Errors
    /// When that takes unreasonably long.
    pub async fn more(&self, count: usize) -> Result<()> {
        let made = || self.state.answered.load(Ordering::Relaxed) + self.failures().len();
        let goal = made() + count;
        let wait = async {
            loop {
                let news = self.state.news.notified();
                if made() >= goal {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.context("the traffic has stalled")
    }

    /// The requests that failed so far.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        self.state.failures.lock().unwrap_or_else(|error| error.into_inner()).clone()
    }

    /// Ends it; how many requests were answered, and those that were not.
    ///
    /// # Errors
    /// When the client panicked.
    pub async fn stop(self) -> Result<(usize, Vec<Failure>)> {
        self.state.stop.store(true, Ordering::Relaxed);
        self.task.await?;
        let failures =
            self.state.failures.lock().unwrap_or_else(|error| error.into_inner()).clone();
        Ok((self.state.answered.load(Ordering::Relaxed), failures))
    }
}

/// Waits until all the addresses answer. From then on, they have to.
///
/// # Errors
/// When one goes on not answering.
pub async fn served(addresses: &[String]) -> Result<()> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    for address in addresses {
        while let Err(error) = get(address, "/hostname").await {
            if tokio::time::Instant::now() > deadline {
                return Err(error).with_context(|| format!("{address} does not answer"));
            }
        }
    }
    Ok(())
}

/// Asks an address for its host name until `count` different ones answered.
///
/// # Errors
/// When a request fails, or the same few go on answering.
pub async fn hostnames(address: &str, count: usize) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    // With random choice among six, all have been seen after 200 but for one run in 10^15.
    for _ in 0..200 {
        seen.insert(get(address, "/hostname").await?.trim().to_owned());
        if seen.len() == count {
            return Ok(seen);
        }
    }
    bail!("only {seen:?} answer at {address}")
}
