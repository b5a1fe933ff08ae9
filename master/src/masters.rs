//! Which masters run: each holds a key of its own under a lease.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cache::Caches;
use crate::store::{self, Error, LeaseId, Op, Store, Txn, keys};

/// For so long a master that died still counts as running.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// Two renewals may fail.
const RENEWAL: Duration = Duration::from_secs(5);
/// Between attempts when the store cannot be reached.
const RETRY: Duration = Duration::from_secs(1);

/// The masters that run, in the order of their addresses.
pub fn running(caches: &Caches) -> Vec<SocketAddr> {
    let (_, present) = caches.keys(keys::MASTERS).list();
    let mut masters: Vec<SocketAddr> = present
        .iter()
        .filter_map(|stored| stored.key.strip_prefix(keys::MASTERS)?.parse().ok())
        .collect();
    masters.sort_unstable();
    masters
}

/// Lets others know that this master runs, until shutdown.
pub async fn announce(store: Arc<dyn Store>, address: SocketAddr, shutdown: CancellationToken) {
    loop {
        let Some(presence) = shutdown.run_until_cancelled(announced(&*store, address)).await else {
            return;
        };
        let lost = match presence {
            Ok(lease) => {
                let lost = shutdown.run_until_cancelled(renew(&*store, lease)).await;
                if lost.is_none() {
                    if let Err(error) = store.revoke_lease(lease).await {
                        debug!(%error, "this master's key is left to expire");
                    }
                    return;
                }
                "its lease ended".to_owned()
            }
            Err(error) => error.to_string(),
        };
        warn!(reason = lost, "this master is not announced; announcing it again");
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

async fn announced(store: &dyn Store, address: SocketAddr) -> store::Result<LeaseId> {
    let lease = store.grant_lease(LEASE_TTL).await?;
    let put = Op::Put { key: keys::master(address), value: Bytes::new(), lease: Some(lease) };
    // Whatever an earlier life of this master has left there is replaced.
    store.txn(Txn { compares: Vec::new(), ops: vec![put] }).await?;
    Ok(lease)
}

/// Returns when the lease is lost, or must be taken for lost.
async fn renew(store: &dyn Store, lease: LeaseId) {
    let mut renewed = Instant::now();
    let mut pause = RENEWAL;
    loop {
        tokio::time::sleep(pause).await;
        match store.keep_alive(lease).await {
            Ok(()) => {
                renewed = Instant::now();
                pause = RENEWAL;
            }
            Err(Error::NoSuchLease(_)) => return,
            Err(_) if renewed.elapsed() >= LEASE_TTL => return,
            Err(_) => pause = RETRY,
        }
    }
}
