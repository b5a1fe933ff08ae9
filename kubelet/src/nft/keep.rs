//! What everybody does who keeps a table: reach the kernel, give it time when it refuses, and heed
//! what others do, but not without end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::table::Table;
use super::{Guard, Nft, NftError};
use crate::join::Chain;

/// Pauses between attempts when the kernel refuses.
const RETRY: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);

/// Between two repairs of what somebody else changes: two who cannot agree do not fill the processors.
const BETWEEN_REPAIRS: Duration = Duration::from_millis(200);

/// The connection of all tables of a network namespace, made when somebody first needs it, in the
/// namespace of that thread.
#[derive(Clone, Default)]
pub struct Connection(Arc<Mutex<Option<Arc<Nft>>>>);

impl Connection {
    pub(crate) fn get(&self) -> Result<Arc<Nft>, NftError> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let made = Arc::new(Nft::open()?);
        *connection = Some(made.clone());
        Ok(made)
    }

    /// The connection, and news of what others change in the tables; tries until there is one. Nothing
    /// at shutdown.
    pub(crate) async fn reach(
        &self,
        tables: &[Table],
        shutdown: &CancellationToken,
    ) -> Option<(Arc<Nft>, Others)> {
        let mut retry = Retry::default();
        loop {
            match self.try_to_reach(tables) {
                Ok(reached) => return Some(reached),
                Err(error) => {
                    let pause = retry.pause();
                    warn!(error = %Chain(&error), ?pause, "failed to reach the rules");
                    tokio::select! {
                        () = shutdown.cancelled() => return None,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// Likewise, or says why not.
    pub(crate) fn try_to_reach(&self, tables: &[Table]) -> Result<(Arc<Nft>, Others), NftError> {
        let nft = self.get()?;
        let listening = nft.address().and_then(|own| Guard::listen(tables.to_vec(), own));
        let guard = listening.map_err(|source| NftError::Socket {
            operation: "listen for changes of the rules".into(),
            source,
        })?;
        Ok((nft, Others { guard: Some(guard), repaired: None }))
    }
}

/// How long to wait before the next attempt: longer each time.
#[derive(Debug)]
pub(crate) struct Retry(Duration);

impl Default for Retry {
    fn default() -> Self {
        Self(*RETRY.start())
    }
}

impl Retry {
    /// Before the next attempt, after one that failed.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(*RETRY.end());
        pause
    }

    /// An attempt went well.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// What others do to our tables.
pub(crate) struct Others {
    /// Nothing when it failed: nothing is noticed any more then.
    guard: Option<Guard>,
    repaired: Option<Instant>,
}

impl Others {
    /// Waits until somebody else changes a table.
    pub(crate) async fn meddle(&mut self) {
        if let Some(guard) = &mut self.guard {
            match guard.touched().await {
                Ok(()) => return,
                Err(error) => {
                    warn!(%error, "changes of the rules by others are not noticed any more");
                    self.guard = None;
                }
            }
        }
        std::future::pending().await
    }

    /// Before a repair: lets a moment pass since the last one. False at shutdown: whoever removes the
    /// tables ends us first, and is not to find them made anew.
    pub(crate) async fn rest(&mut self, shutdown: &CancellationToken) -> bool {
        let since = self.repaired.map_or(BETWEEN_REPAIRS, |repaired| repaired.elapsed());
        tokio::time::sleep(BETWEEN_REPAIRS.saturating_sub(since)).await;
        self.repaired = Some(Instant::now());
        !shutdown.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut retry = Retry::default();
        let pauses: Vec<u128> = (0..12).map(|_| retry.pause().as_millis()).collect();
        assert_eq!(pauses[..3], [100, 200, 400]);
        assert_eq!(pauses[10..], [30_000, 30_000]);
        retry.reset();
        assert_eq!(retry.pause(), *RETRY.start());
    }
}
