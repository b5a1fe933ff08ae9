//! Which master leads: the one that holds [`keys::LEADER`] under its lease.
//!
//! Whoever leads adds the [`Compare`] from [`Leadership::watch`] to each of its transactions, so that
//! a master that was deposed without noticing cannot write.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{self, Compare, Event, LeaseId, Op, Revision, Store, Txn, TxnOutcome, keys};

/// How long the cluster may be without a leader after one died.
pub const LEASE_TTL: Duration = Duration::from_secs(10);
/// Between renewals: two may fail.
const RENEWAL: Duration = Duration::from_secs(3);
/// Between attempts when the store cannot be reached.
const RETRY: Duration = Duration::from_secs(1);

/// This master's part in the election.
#[derive(Debug)]
pub struct Leadership {
    state: watch::Receiver<Option<Compare>>,
    task: JoinHandle<()>,
}

/// What the leader's key says.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    identity: String,
    lease: i64,
}

impl Leadership {
    /// Takes part in the election until `shutdown`, then gives the lead up.
    ///
    /// `identity` names this master in every life of it, and no two that run at the same time
    /// share one: a lead that an earlier life left behind is taken over at once.
    pub fn start(store: Arc<dyn Store>, identity: String, shutdown: CancellationToken) -> Self {
        let (sender, state) = watch::channel(None);
        let task = tokio::spawn(run(store, identity, sender, shutdown));
        Self { state, task }
    }

    /// `Some` while this master leads: the compare that each write made as the leader has to carry.
    pub fn watch(&self) -> watch::Receiver<Option<Compare>> {
        self.state.clone()
    }

    /// Waits until the lead has been given up after shutdown.
    pub async fn stopped(self) {
        // A panic in the task was reported by it already.
        let _ = self.task.await;
    }
}

async fn run(
    store: Arc<dyn Store>,
    identity: String,
    state: watch::Sender<Option<Compare>>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let term = term(&*store, &identity, &state, &shutdown).await;
        state.send_replace(None);
        if let Err(error) = term {
            warn!(%error, cause = ?std::error::Error::source(&error), "the election failed");
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

/// Waits for the lead, leads until it is lost or given up.
async fn term(
    store: &dyn Store,
    identity: &str,
    state: &watch::Sender<Option<Compare>>,
    shutdown: &CancellationToken,
) -> store::Result<()> {
    let waiting = async {
        take_over(store, identity).await?;
        wait_for_vacancy(store).await
    };
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        vacant = waiting => vacant?,
    }
    let renewed = Instant::now();
    let lease = store.grant_lease(LEASE_TTL).await?;
    let outcome = campaign(store, identity, lease).await;
    let revision = match outcome {
        Ok(Some(revision)) => revision,
        // Somebody was faster, or we cannot know: the lease must not keep a key we do not know of.
        other => {
            store.revoke_lease(lease).await?;
            return other.map(|_| ());
        }
    };
    info!(identity, revision, "leading");
    state.send_replace(Some(Compare::ModRevision(keys::LEADER.to_owned(), revision)));
    let lost = tokio::select! {
        () = shutdown.cancelled() => None,
        lost = renew(store, lease, renewed) => Some(lost),
        deposed = wait_for_vacancy(store) => Some(deposed.err()),
    };
    state.send_replace(None);
    match lost {
        None => {
            info!(identity, "giving the lead up");
            store.revoke_lease(lease).await
        }
        Some(cause) => {
            warn!(identity, cause = ?cause, "lost the lead");
            cause.map_or(Ok(()), Err)
        }
    }
}

/// Ends the lease of an earlier life of this master.
async fn take_over(store: &dyn Store, identity: &str) -> store::Result<()> {
    let Some(held) = store.get(keys::LEADER).await? else { return Ok(()) };
    match serde_json::from_slice::<Holder>(&held.value) {
        Ok(holder) if holder.identity == identity => {
            info!(identity, "taking over from an earlier life of this master");
            match store.revoke_lease(LeaseId(holder.lease)).await {
                Err(store::Error::NoSuchLease(_)) => Ok(()),
                other => other,
            }
        }
        Ok(_) => Ok(()),
        Err(error) => {
            warn!(%error, "the leader's key holds something unknown; waiting for its end");
            Ok(())
        }
    }
}

/// Returns when nobody holds the key.
async fn wait_for_vacancy(store: &dyn Store) -> store::Result<()> {
    let revision = store.current_revision().await?;
    let mut watch = store.watch(keys::LEADER, revision).await?;
    if store.get(keys::LEADER).await?.is_none() {
        return Ok(());
    }
    while let Some(batch) = watch.next().await {
        let gone =
            |event: &Event| matches!(event, Event::Delete { key, .. } if key == keys::LEADER);
        if batch?.events.iter().any(gone) {
            return Ok(());
        }
    }
    Ok(())
}

/// Tries to become the holder; tells the revision that proves it.
async fn campaign(
    store: &dyn Store,
    identity: &str,
    lease: LeaseId,
) -> store::Result<Option<Revision>> {
    let holder = Holder { identity: identity.to_owned(), lease: lease.0 };
    let value = serde_json::to_vec(&holder).map(Bytes::from).map_err(|source| {
        store::Error::Unavailable { operation: "encode the leader's name", source: source.into() }
    })?;
    let outcome = store
        .txn(Txn {
            compares: vec![Compare::Absent(keys::LEADER.to_owned())],
            ops: vec![Op::Put { key: keys::LEADER.to_owned(), value, lease: Some(lease) }],
        })
        .await?;
    Ok(match outcome {
        TxnOutcome::Committed(revision) => Some(revision),
        TxnOutcome::Conflict(_) => None,
    })
}

/// Renews the lease; returns when it is lost, or may be.
async fn renew(store: &dyn Store, lease: LeaseId, mut renewed: Instant) -> Option<store::Error> {
    let mut pause = RENEWAL;
    loop {
        tokio::time::sleep(pause).await;
        let sent = Instant::now();
        // The store counts from when it heard of us, which is later than `renewed`: by then we
        // have stepped down.
        match tokio::time::timeout_at(renewed + LEASE_TTL, store.keep_alive(lease)).await {
            Ok(Ok(())) => {
                renewed = sent;
                pause = RENEWAL;
            }
            Ok(Err(error @ store::Error::NoSuchLease(_))) => return Some(error),
            Ok(Err(error)) => {
                warn!(%error, "failed to renew the leader's lease");
                if renewed.elapsed() + RETRY >= LEASE_TTL {
                    return Some(error);
                }
                pause = RETRY;
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests;
