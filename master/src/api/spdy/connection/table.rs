//! The open streams of a connection, and how much may be sent on each.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::MAX_STREAMS;

/// What may be sent before a window is first opened, in the protocol's definition.
const INITIAL_WINDOW: i64 = 64 << 10;

#[derive(Default)]
pub(super) struct Table {
    state: Mutex<State>,
    /// A window was opened, or a stream is gone.
    changed: Notify,
}

#[derive(Default)]
struct State {
    streams: HashMap<u32, Entry>,
    last: u32,
    /// The peer has spoken of windows, so it keeps them.
    windows: bool,
    /// What the peer has changed [`INITIAL_WINDOW`] by.
    initial_change: i64,
    /// Sent on the whole connection, less what the peer has taken note of.
    on_the_way: i64,
}

struct Entry {
    /// Nothing once the peer has said all.
    inbox: Option<mpsc::Sender<Bytes>>,
    reset: CancellationToken,
    /// Sent on this stream, less what the peer has taken note of.
    on_the_way: i64,
    we_ended: bool,
}

pub(super) enum Accepted {
    Yes,
    TooMany,
    BadId,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that the peer opens.
    pub(super) fn open(
        &self,
        id: u32,
        inbox: mpsc::Sender<Bytes>,
        reset: CancellationToken,
    ) -> Accepted {
        let mut state = self.lock();
        if id.is_multiple_of(2) || id <= state.last {
            return Accepted::BadId;
        }
        state.last = id;
        if state.streams.len() >= MAX_STREAMS {
            return Accepted::TooMany;
        }
        let entry = Entry { inbox: Some(inbox), reset, on_the_way: 0, we_ended: false };
        state.streams.insert(id, entry);
        Accepted::Yes
    }

    /// Where what the peer says on a stream goes.
    pub(super) fn inbox(&self, id: u32) -> Option<mpsc::Sender<Bytes>> {
        self.lock().streams.get(&id)?.inbox.clone()
    }

    /// The peer has said all on a stream.
    pub(super) fn peer_ends(&self, id: u32) {
        let mut state = self.lock();
        let Some(entry) = state.streams.get_mut(&id) else { return };
        entry.inbox = None;
        if entry.we_ended {
            state.streams.remove(&id);
        }
    }

    /// We have said all on a stream.
    pub(super) fn we_end(&self, id: u32) {
        let mut state = self.lock();
        let Some(entry) = state.streams.get_mut(&id) else { return };
        entry.we_ended = true;
        if entry.inbox.is_none() {
            state.streams.remove(&id);
        }
    }

    /// A stream was broken off by either side.
    pub(super) fn remove(&self, id: u32) {
        let removed = self.lock().streams.remove(&id);
        if let Some(entry) = removed {
            entry.reset.cancel();
        }
        self.changed.notify_waiters();
    }

    pub(super) fn open_window(&self, id: u32, more: u32) {
        {
            let mut state = self.lock();
            state.windows = true;
            if id == 0 {
                state.on_the_way -= i64::from(more);
            } else if let Some(entry) = state.streams.get_mut(&id) {
                entry.on_the_way -= i64::from(more);
            }
        }
        self.changed.notify_waiters();
    }

    /// The window that streams begin with. It applies to open ones as well.
    pub(super) fn set_window(&self, window: u32) {
        {
            let mut state = self.lock();
            state.windows = true;
            state.initial_change = i64::from(window) - INITIAL_WINDOW;
        }
        self.changed.notify_waiters();
    }

    /// Waits until at least one byte may be sent on a stream; how many of `wanted` may.
    pub(super) async fn credit(&self, id: u32, wanted: usize) -> usize {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Counts what happens from here on.
            changed.as_mut().enable();
            if let Some(granted) = self.lock().grant(id, wanted) {
                return granted;
            }
            changed.await;
        }
    }
}

impl State {
    fn grant(&mut self, id: u32, wanted: usize) -> Option<usize> {
        let (windows, change) = (self.windows, self.initial_change);
        // The sender finds out by itself that the stream is gone.
        let Some(entry) = self.streams.get_mut(&id) else { return Some(wanted) };
        let room = if windows {
            let of_stream = INITIAL_WINDOW + change - entry.on_the_way;
            let of_connection = INITIAL_WINDOW - self.on_the_way;
            usize::try_from(of_stream.min(of_connection)).unwrap_or(0)
        } else {
            usize::MAX
        };
        let granted = wanted.min(room);
        let sent = i64::try_from(granted).unwrap_or(i64::MAX);
        entry.on_the_way += sent;
        self.on_the_way += sent;
        (granted > 0).then_some(granted)
    }
}
