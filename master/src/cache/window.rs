//! The bounded past of one resource: what a watch that starts a little late has missed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cache::{Expired, ObjectEvent};
use crate::store::Revision;

/// Enough for a client that reconnects while a few thousand objects change per second.
const MAX_EVENTS: usize = 16 * 1024;
/// Bounds what superseded objects may hold in memory, per resource.
const MAX_BYTES: usize = 16 << 20;
/// Longer than any client takes to reconnect; an idle master holds no past.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(300);

/// The newest events of a resource, oldest first.
#[derive(Debug)]
pub(crate) struct Window {
    events: VecDeque<(Instant, ObjectEvent)>,
    bytes: usize,
    /// Every event after it is here.
    floor: Revision,
}

impl Window {
    pub(crate) fn new(floor: Revision) -> Self {
        Self { events: VecDeque::new(), bytes: 0, floor }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn push(&mut self, event: ObjectEvent, now: Instant) {
        self.bytes += event.object().json.len();
        self.events.push_back((now, event));
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            self.pop();
        }
    }

    /// Forgets what is older than [`MAX_AGE`].
    pub(crate) fn trim(&mut self, now: Instant) {
        while self
            .events
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= MAX_AGE)
        {
            self.pop();
        }
        if self.events.is_empty() {
            self.events.shrink_to_fit();
        }
    }

    fn pop(&mut self) {
        if let Some((_, event)) = self.events.pop_front() {
            self.bytes -= event.object().json.len();
            self.floor = event.revision();
        }
    }

    /// The events after a revision.
    pub(crate) fn after(
        &self,
        after: Revision,
    ) -> Result<impl Iterator<Item = &ObjectEvent>, Expired> {
        if after < self.floor {
            return Err(Expired { requested: after, oldest: self.floor });
        }
        let start = self.events.partition_point(|(_, event)| event.revision() <= after);
        Ok(self.events.range(start..).map(|(_, event)| event))
    }
}
