//! The lease under which a master holds the keys of its sessions. When the master dies, or cannot
//! reach the store, the keys go by themselves and the nodes are seen to be without a session.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::hub::Hub;
use crate::store::{Error, LeaseId, Store};

/// So long the sessions of a master that died still count as open.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(10);
/// Renewed three times in its life, so that one lost renewal does no harm.
const RENEW_INTERVAL: Duration = Duration::from_millis(3300);
/// Between tries while the store cannot be reached.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps a lease until shutdown. `current` is nothing while there is none: sessions cannot open then.
pub(crate) async fn keep(
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    current: watch::Sender<Option<LeaseId>>,
    shutdown: CancellationToken,
) {
    loop {
        let Some(granted) = shutdown.run_until_cancelled(store.grant_lease(LEASE_TTL)).await else {
            return;
        };
        match granted {
            Ok(lease) => {
                current.send_replace(Some(lease));
                let lost = shutdown.run_until_cancelled(renew(store.as_ref(), lease)).await;
                current.send_replace(None);
                if lost.is_none() {
                    if let Err(error) = store.revoke_lease(lease).await {
                        info!(%error, "the sessions' lease is left to expire");
                    }
                    return;
                }
                // The keys are gone, so the nodes count as unreachable; they come back at once.
                warn!("lost the sessions' lease; all nodes have to connect again");
                hub.end_all();
            }
            Err(error) => {
                warn!(%error, "failed to get a lease for the sessions");
                if shutdown.run_until_cancelled(tokio::time::sleep(RETRY_INTERVAL)).await.is_none()
                {
                    return;
                }
            }
        }
    }
}

/// Returns when the lease is lost, or must be taken for lost.
async fn renew(store: &dyn Store, lease: LeaseId) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(RENEW_INTERVAL).await;
        while let Err(error) = store.keep_alive(lease).await {
            let over = renewed.elapsed() >= LEASE_TTL;
            if over || matches!(error, Error::NoSuchLease(_)) {
                return;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        renewed = Instant::now();
    }
}
