//! The task behind a recorder.

use jiff::Timestamp;
use proto::k8s::api::core::v1::Event;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Occurrence;
use super::correlate::{Correlator, Identity, Write};
use crate::api::error::ApiError;
use crate::api::kinds::event::Events;
use crate::api::objects::{Objects, Part};
use crate::store::Compare;

/// Occurrences that may wait: some seconds' worth when a thousand pods start per second. More are
/// dropped, with a warning; events are for people, and nothing may wait for them.
const MAX_WAITING: usize = 8192;
/// Writes at a time. The store commits what comes together at once.
const CONCURRENCY: usize = 16;

/// Takes down what happened. Cheap to clone; recording never waits.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    occurrences: mpsc::Sender<Occurrence>,
}

impl EventRecorder {
    /// Starts a recorder that writes until `shutdown`. With a `fence` it writes only while this
    /// master leads, as the leader.
    pub fn start(
        objects: Objects,
        fence: Option<watch::Receiver<Option<Compare>>>,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        tokio::spawn(run(objects, fence, receiver, shutdown));
        Self { occurrences: sender }
    }

    /// Takes an occurrence down.
    pub fn record(&self, occurrence: Occurrence) {
        if let Err(mpsc::error::TrySendError::Full(lost)) = self.occurrences.try_send(occurrence) {
            warn!(reason = lost.reason, message = lost.message, "too many events; dropped one");
        }
    }
}

async fn run(
    objects: Objects,
    fence: Option<watch::Receiver<Option<Compare>>>,
    mut occurrences: mpsc::Receiver<Occurrence>,
    shutdown: CancellationToken,
) {
    let mut correlator = Correlator::default();
    let mut writes = JoinSet::new();
    loop {
        while writes.len() < CONCURRENCY
            && let Some((identity, write)) = correlator.take()
        {
            let fence = match &fence {
                None => Vec::new(),
                Some(fence) => match fence.borrow().clone() {
                    Some(compare) => vec![compare],
                    // Another master leads, and tells what there is to tell.
                    None => {
                        correlator.written(identity, false);
                        continue;
                    }
                },
            };
            writes.spawn(perform(objects.clone(), identity, write, fence));
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(Ok((identity, succeeded))) = writes.join_next() => {
                correlator.written(identity, succeeded);
            }
            occurrence = occurrences.recv(), if correlator.backlog() < MAX_WAITING => match occurrence {
                Some(occurrence) => correlator.add(occurrence, Timestamp::now()),
                // Nobody is left who could record; what is on its way is finished.
                None => break,
            },
        }
    }
    while writes.join_next().await.is_some() {}
}

async fn perform(
    objects: Objects,
    identity: Identity,
    write: Write,
    fence: Vec<Compare>,
) -> (Identity, bool) {
    let outcome = match write {
        Write::Create(event) => create(&objects, *event, &fence).await,
        Write::Repeat { key, event } => {
            let repeat = |stored: &mut Event| {
                stored.count = event.count;
                stored.last_timestamp.clone_from(&event.last_timestamp);
                stored.message.clone_from(&event.message);
                true
            };
            match objects.update::<Events>(&key, Part::Spec, &fence, repeat).await {
                // It expired since it happened last.
                Err(error) if error.is_not_found() => create(&objects, *event, &fence).await,
                other => other.map(drop),
            }
        }
    };
    if let Err(error) = &outcome {
        // Its object's namespace may be on its way out, or the event expired.
        debug!(%error, "failed to write an event");
    }
    (identity, outcome.is_ok())
}

async fn create(objects: &Objects, event: Event, fence: &[Compare]) -> Result<(), ApiError> {
    objects.create::<Events>(event, fence).await.map(drop)
}
