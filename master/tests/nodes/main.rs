//! The nodes' side of the master, with the real session client of the kubelet over real TLS.

mod cluster;
mod join;
mod mirrors;
mod node;
mod policies;
mod reports;
mod sessions;
mod tokens;
mod tunnels;

use std::time::Duration;

/// Waits for a condition, and says what it waited for when it does not come true.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}
