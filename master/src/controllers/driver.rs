//! What is the same for every controller: it follows resources, queues the keys that a change
//! concerns, and runs one pass at a time per key, several keys at once, again and later where a pass
//! failed.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, error, warn};

use super::queue::{Outcome, WorkQueue};
use crate::api::error::ApiError;
use crate::cache::{Caches, Lagged, ObjectEvent, Subscription, Update};
use crate::store;

/// A controller: which keys a change concerns, and one pass over a key.
#[async_trait]
pub(crate) trait Controller: Send + Sync + 'static {
    /// What it looks after.
    type Key: Clone + Debug + Display + Eq + Hash + Send + Sync + 'static;

    /// For logs, and as the source of its events.
    const NAME: &'static str;

    /// How many keys are looked at at once. A pass waits for the store most of its time.
    const CONCURRENCY: usize = 8;

    /// The resources whose changes matter, by their plurals.
    fn resources(&self) -> Vec<&'static str>;

    /// Gives to `add` the keys that a change concerns. Called in the order of each resource's
    /// changes, first with everything there is, as added; then a controller may keep an index.
    fn affected(&self, resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(Self::Key));

    /// Forgets what `affected` has remembered: everything will be told again.
    fn reset(&self) {}

    /// Keys that become due for other reasons than a change of an object.
    fn triggers(&self) -> BoxStream<'static, Self::Key> {
        futures::stream::pending().boxed()
    }

    /// How long the key rests after a pass; see [`WorkQueue`]. For passes whose cost grows with what
    /// they look at.
    fn rest(&self, _key: &Self::Key) -> Duration {
        Duration::ZERO
    }

    /// Makes what the key names as it should be.
    async fn sync(&self, key: &Self::Key) -> Result<Next, SyncError>;
}

/// How long an object rests after a pass that looked at this many pods: as long as such a pass takes
/// on a slow machine, so that at most half of the time goes into one object.
pub(crate) fn rest_after(pods: usize) -> Duration {
    const PER_POD: Duration = Duration::from_micros(200);
    const LONGEST: Duration = Duration::from_millis(100);
    PER_POD.saturating_mul(u32::try_from(pods).unwrap_or(u32::MAX)).min(LONGEST)
}

/// When a key has to be looked at again though nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Never.
    Done,
    /// After this long.
    After(Duration),
}

impl Next {
    /// At a point in time, counted from `now`.
    pub(crate) fn at(at: Timestamp, now: Timestamp) -> Self {
        Self::After(at.duration_since(now).try_into().unwrap_or(Duration::ZERO))
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// A write was refused.
    #[error("failed to {what}")]
    Write {
        /// The operation with its object.
        what: String,
        #[source]
        source: ApiError,
    },
    /// An object in the store is not of its kind.
    #[error("failed to decode {what}")]
    Decode {
        /// The object.
        what: String,
        #[source]
        source: serde_json::Error,
    },
    /// The store could not be asked.
    #[error("failed to catch up with the store")]
    Store(#[from] store::Error),
}

impl SyncError {
    /// Says what was being written.
    pub(crate) fn write(what: impl Into<String>) -> impl FnOnce(ApiError) -> Self {
        let what = what.into();
        move |source| Self::Write { what, source }
    }

    /// Says what was being decoded.
    pub(crate) fn decode(what: impl Display) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Decode { what, source }
    }

    /// Whether somebody else wrote, deleted or took over meanwhile: nothing to warn of.
    fn is_race(&self) -> bool {
        matches!(self, Self::Write { source, .. }
            if source.is_conflict() || source.is_not_found() || source.is_fenced_off())
    }
}

/// Runs a controller until `stop`.
pub(crate) async fn run<C: Controller>(
    controller: Arc<C>,
    caches: Arc<Caches>,
    stop: CancellationToken,
) {
    let depth = crate::metrics::queue_depth(C::NAME);
    let mut queue = WorkQueue::default();
    let mut running = JoinSet::new();
    let mut triggers = controller.triggers();
    let mut follow = Follow::start(&*controller, &caches, &mut queue);
    loop {
        while running.len() < C::CONCURRENCY
            && let Some(key) = queue.take(Instant::now())
        {
            let span = debug_span!("pass", controller = C::NAME, %key);
            running.spawn(pass(Arc::clone(&controller), key).instrument(span));
        }
        depth.set(queue.ready());
        let due = queue.next_due();
        tokio::select! {
            () = stop.cancelled() => break,
            change = follow.next() => match change {
                Some((resource, event)) => {
                    controller.affected(resource, &event, &mut |key| queue.add(key));
                }
                None => {
                    warn!(controller = C::NAME, "fell behind the changes; listing everything again");
                    controller.reset();
                    follow = Follow::start(&*controller, &caches, &mut queue);
                }
            },
            Some(key) = triggers.next() => queue.add(key),
            Some(Ok((key, outcome))) = running.join_next() => {
                let rest = controller.rest(&key);
                queue.done(key, outcome, rest, Instant::now());
            }
            () = sleep_until(due), if running.len() < C::CONCURRENCY => {}
        }
    }
    depth.set(0);
    // A pass in hand may be between two writes; each of them stands for itself.
    running.shutdown().await;
}

/// One pass, with what became of it.
async fn pass<C: Controller>(controller: Arc<C>, key: C::Key) -> (C::Key, Outcome) {
    // A panic over one key must not end the work on all others.
    let ended = AssertUnwindSafe(controller.sync(&key)).catch_unwind().await;
    let outcome = match ended {
        Ok(Ok(Next::Done)) => Outcome::Done,
        Ok(Ok(Next::After(wait))) => Outcome::Again(Instant::now() + wait),
        Ok(Err(failure)) if failure.is_race() => {
            debug!(controller = C::NAME, %key, error = %Chain(&failure), "lost a race");
            Outcome::Failed
        }
        Ok(Err(failure)) => {
            warn!(controller = C::NAME, %key, error = %Chain(&failure), "a pass failed");
            Outcome::Failed
        }
        Err(_) => {
            error!(controller = C::NAME, %key, "a pass panicked");
            Outcome::Failed
        }
    };
    (key, outcome)
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The changes of several resources.
struct Follow {
    changes: SelectAll<BoxStream<'static, Result<(&'static str, ObjectEvent), Lagged>>>,
}

impl Follow {
    /// Tells everything there is as added, and follows from there.
    fn start<C: Controller>(
        controller: &C,
        caches: &Caches,
        queue: &mut WorkQueue<C::Key>,
    ) -> Self {
        let mut changes = SelectAll::new();
        for resource in controller.resources() {
            let Some(cache) = caches.resource(resource) else { continue };
            let (_, objects, subscription) = cache.list_and_subscribe();
            for object in objects {
                let event = ObjectEvent::Added(object);
                controller.affected(resource, &event, &mut |key| queue.add(key));
            }
            changes.push(changes_of(resource, subscription));
        }
        Self { changes }
    }

    /// The next change; nothing when some were missed.
    async fn next(&mut self) -> Option<(&'static str, ObjectEvent)> {
        match self.changes.next().await {
            Some(Ok(change)) => Some(change),
            Some(Err(Lagged)) => None,
            // A controller that follows nothing has its triggers.
            None => std::future::pending().await,
        }
    }
}

fn changes_of(
    resource: &'static str,
    subscription: Subscription,
) -> BoxStream<'static, Result<(&'static str, ObjectEvent), Lagged>> {
    futures::stream::unfold(subscription, move |mut subscription| async move {
        loop {
            match subscription.next().await {
                Ok(Update::Event(event)) => return Some((Ok((resource, event)), subscription)),
                Ok(Update::Progress(_)) => {}
                Err(lagged) => return Some((Err(lagged), subscription)),
            }
        }
    })
    .boxed()
}

/// An error with all its sources, for a log line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
