//! What time it is.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;

/// Tells the time of day, or, in tests, a time that passes as tokio's does, so that it can be paused.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    anchor: Option<(SystemTime, Instant)>,
}

impl Clock {
    /// The machine's time of day.
    pub(crate) fn system() -> Self {
        Self { anchor: None }
    }

    /// Starts at a time of day and goes on with tokio's clock. Two that start one after the other differ by what
    /// passed on the machine meanwhile.
    #[cfg(test)]
    pub(crate) fn tokio(now: SystemTime) -> Self {
        Self { anchor: Some((now, Instant::now())) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        timestamp(match self.anchor {
            None => SystemTime::now(),
            Some((start, since)) => start + since.elapsed(),
        })
    }

    /// When `at` comes, by tokio's clock.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        let ahead = at.duration_since(self.now());
        Instant::now() + Duration::try_from(ahead).unwrap_or(Duration::ZERO)
    }
}

/// The same moment; one that `Timestamp` cannot express becomes the nearest it can.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(match time < SystemTime::UNIX_EPOCH {
        true => Timestamp::MIN,
        false => Timestamp::MAX,
    })
}

/// `time` plus `by`, at most the end of time.
pub(crate) fn after(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}
