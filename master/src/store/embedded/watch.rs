//! Watches: what the file remembers first, then what the writer broadcasts.

use std::sync::{Arc, Weak};

use futures::Stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::{Shared, Told, blocking};
use crate::store::{Error, Result, Revision, WatchBatch};

/// Revisions with changes that are read out of the file at a time.
const HISTORY_BATCH: usize = 500;

pub(super) struct Watch {
    /// Weak: a watch that outlives the store ends instead of waiting for ever.
    shared: Weak<Shared>,
    prefix: String,
    /// Everything up to here has been told.
    position: Revision,
    /// Below this, the file has to be asked.
    behind: Option<Revision>,
    told: broadcast::Receiver<Told>,
    ended: bool,
}

impl Watch {
    pub(super) fn new(shared: &Arc<Shared>, prefix: &str, after: Revision) -> Result<Self> {
        // First the broadcast, then the look at the revision: nothing falls between.
        let told = shared.told.subscribe();
        let current = shared.revision();
        // Fails at once when the history is gone.
        shared.read(|snapshot| snapshot.changes(prefix, after, 0))?;
        Ok(Self {
            prefix: prefix.to_owned(),
            position: after,
            behind: (after < current).then_some(current),
            told,
            shared: Arc::downgrade(shared),
            ended: false,
        })
    }

    pub(super) fn stream(self) -> impl Stream<Item = Result<WatchBatch>> + Send {
        futures::stream::unfold(self, |mut watch| async move {
            if watch.ended {
                return None;
            }
            let batch = watch.next().await;
            watch.ended = batch.is_err();
            Some((batch, watch))
        })
    }

    async fn next(&mut self) -> Result<WatchBatch> {
        loop {
            if let Some(current) = self.behind {
                let shared = self.shared.upgrade().ok_or_else(closed)?;
                let prefix = self.prefix.clone();
                let after = self.position;
                let read =
                    move || shared.read(|snapshot| snapshot.changes(&prefix, after, HISTORY_BATCH));
                let (revision, events) = blocking(read).await?;
                self.position = revision;
                if revision >= current {
                    self.behind = None;
                }
                return Ok(WatchBatch { revision, events });
            }
            match self.told.recv().await {
                Ok(Told::Changes(revision, changes)) => {
                    if revision <= self.position {
                        continue;
                    }
                    let events = changes
                        .iter()
                        .filter(|event| {
                            event.revision() > self.position
                                && event.key().starts_with(&self.prefix)
                        })
                        .cloned()
                        .collect();
                    self.position = revision;
                    return Ok(WatchBatch { revision, events });
                }
                Ok(Told::Progress) => {
                    return Ok(WatchBatch { revision: self.position, events: Vec::new() });
                }
                Err(RecvError::Lagged(_)) => self.fall_behind()?,
                Err(RecvError::Closed) => return Err(closed()),
            }
        }
    }

    /// The broadcast has dropped something: everything up to now comes out of the file instead.
    fn fall_behind(&mut self) -> Result<()> {
        while !matches!(self.told.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
        let current = self.shared.upgrade().ok_or_else(closed)?.revision();
        self.behind = (self.position < current).then_some(current);
        Ok(())
    }
}

fn closed() -> Error {
    Error::Unavailable { operation: "watch", source: "the store was closed".into() }
}
