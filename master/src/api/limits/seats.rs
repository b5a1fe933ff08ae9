//! A bound on what is worked on at once, shared fairly between clients.
//!
//! A request takes seats while it is worked on, more of them the larger its body is. When there are
//! not enough it waits in its client's line. A seat that becomes free goes to the client with the
//! fewest, so that somebody with a thousand requests delays nobody with one. The lines are bounded,
//! and so is each client's part of them: beyond it requests are refused.
//!
//! [`Shares`] decides (pure), [`Seats`] waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Who has what. `T` is how whoever waits is told.
#[derive(Debug)]
pub(super) struct Shares<T> {
    free: usize,
    /// How many may wait, all clients together.
    room: usize,
    waiting: usize,
    clients: HashMap<Arc<str>, Client<T>>,
    /// Clients with a line, by when its first came.
    lines: BTreeMap<u64, Arc<str>>,
    next: u64,
}

#[derive(Debug)]
struct Client<T> {
    taken: usize,
    line: VecDeque<Waiter<T>>,
}

#[derive(Debug)]
struct Waiter<T> {
    ticket: u64,
    width: usize,
    told: T,
}

/// What became of a wish for seats.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Granted,
    /// In line, under a ticket.
    Waits(u64),
    Refused,
}

impl<T> Shares<T> {
    pub(super) fn new(seats: usize, room: usize) -> Self {
        Self {
            free: seats,
            room,
            waiting: 0,
            clients: HashMap::new(),
            lines: BTreeMap::new(),
            next: 0,
        }
    }

    /// `width` may not be more than there are seats.
    pub(super) fn wish(&mut self, name: &Arc<str>, width: usize, told: impl FnOnce() -> T) -> Wish {
        if self.waiting == 0 && self.free >= width {
            self.give(name, width);
            return Wish::Granted;
        }
        let has_line = self.clients.get(name).is_some_and(|client| !client.line.is_empty());
        let lines = self.lines.len() + usize::from(!has_line);
        let mine = self.clients.get(name).map_or(0, |client| client.line.len());
        // A part of the room is everybody's own: who comes late is not shut out by those before.
        if mine >= (self.room / lines).max(1) {
            return Wish::Refused;
        }
        let ticket = self.next;
        self.next += 1;
        if !has_line {
            self.lines.insert(ticket, Arc::clone(name));
        }
        let client = self.client(name);
        client.line.push_back(Waiter { ticket, width, told: told() });
        self.waiting += 1;
        Wish::Waits(ticket)
    }

    fn client(&mut self, name: &Arc<str>) -> &mut Client<T> {
        let new = || Client { taken: 0, line: VecDeque::new() };
        self.clients.entry(Arc::clone(name)).or_insert_with(new)
    }

    fn give(&mut self, name: &Arc<str>, width: usize) {
        self.free -= width;
        self.client(name).taken += width;
    }

    /// Seats come back; tells who is next, to be asked for until nobody is.
    pub(super) fn give_back(&mut self, name: &Arc<str>, width: usize) {
        self.free += width;
        if let Some(client) = self.clients.get_mut(name) {
            client.taken -= width;
            if client.taken == 0 && client.line.is_empty() {
                self.clients.remove(name);
            }
        }
    }

    /// Whose turn it is: among the clients with a line the one with the fewest seats, the longest
    /// waiting of those. Nobody overtakes a request that needs more seats than are free.
    pub(super) fn next(&mut self) -> Option<T> {
        let (_, name) = self
            .lines
            .iter()
            .min_by_key(|(_, name)| self.clients.get(*name).map_or(0, |client| client.taken))?;
        let name = Arc::clone(name);
        let width = self.clients.get(&name)?.line.front()?.width;
        if width > self.free {
            return None;
        }
        let waiter = self.leave_line(&name, 0)?;
        self.give(&name, width);
        Some(waiter.told)
    }

    /// Somebody waits no longer; tells whether it was still in line.
    pub(super) fn cancel(&mut self, name: &Arc<str>, ticket: u64) -> bool {
        let place = self
            .clients
            .get(name)
            .and_then(|client| client.line.iter().position(|waiter| waiter.ticket == ticket));
        let Some(place) = place else { return false };
        self.leave_line(name, place);
        if self.clients.get(name).is_some_and(|one| one.taken == 0 && one.line.is_empty()) {
            self.clients.remove(name);
        }
        true
    }

    fn leave_line(&mut self, name: &Arc<str>, place: usize) -> Option<Waiter<T>> {
        let client = self.clients.get_mut(name)?;
        let first = client.line.front()?.ticket;
        let waiter = client.line.remove(place)?;
        self.waiting -= 1;
        self.lines.remove(&first);
        if let Some(first) = client.line.front() {
            self.lines.insert(first.ticket, Arc::clone(name));
        }
        Some(waiter)
    }
}

/// The seats of a server.
#[derive(Debug)]
pub(super) struct Seats {
    shares: Mutex<Shares<oneshot::Sender<()>>>,
    seats: usize,
}

/// There is no room to wait, either.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl Seats {
    pub(super) fn new(seats: usize, room: usize) -> Arc<Self> {
        Arc::new(Self { shares: Mutex::new(Shares::new(seats, room)), seats })
    }

    /// Takes seats, or waits for them. They are given back when the result is dropped.
    pub(super) async fn take(
        self: &Arc<Self>,
        client: Arc<str>,
        width: usize,
    ) -> Result<Seat, Refused> {
        let width = width.clamp(1, self.seats);
        let mut told = None;
        let wish = self.lock().wish(&client, width, || {
            let (sender, receiver) = oneshot::channel();
            told = Some(receiver);
            sender
        });
        let mut seat = Seat { seats: Arc::clone(self), client, width, ticket: None };
        match (wish, told) {
            (Wish::Waits(ticket), Some(told)) => {
                // Dropped before it is told, it leaves the line.
                seat.ticket = Some(ticket);
                // The sender stays in the line until it is used.
                let _ = told.await;
                seat.ticket = None;
                Ok(seat)
            }
            (Wish::Granted, _) => Ok(seat),
            (Wish::Refused | Wish::Waits(_), _) => {
                seat.width = 0;
                Err(Refused)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shares<oneshot::Sender<()>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seats that are taken.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    client: Arc<str>,
    /// 0: none after all.
    width: usize,
    /// While in line.
    ticket: Option<u64>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.width == 0 {
            return;
        }
        let mut shares = self.seats.lock();
        if !self.ticket.is_some_and(|ticket| shares.cancel(&self.client, ticket)) {
            shares.give_back(&self.client, self.width);
        }
        // Whoever gave up meanwhile gives the seats back by itself.
        while let Some(told) = shares.next() {
            let _ = told.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    fn wish(shares: &mut Shares<String>, client: &str, width: usize) -> Wish {
        shares.wish(&name(client), width, || client.to_owned())
    }

    #[test]
    fn a_client_alone_may_have_all_seats() {
        let mut shares = Shares::new(3, 2);
        for _ in 0..3 {
            assert_eq!(wish(&mut shares, "a", 1), Wish::Granted);
        }
        assert_eq!(wish(&mut shares, "a", 1), Wish::Waits(0));
        assert_eq!(wish(&mut shares, "a", 1), Wish::Waits(1));
        assert_eq!(wish(&mut shares, "a", 1), Wish::Refused);
        assert_eq!(shares.next(), None);
        shares.give_back(&name("a"), 1);
        assert_eq!(shares.next().as_deref(), Some("a"));
        assert_eq!(shares.next(), None);
    }

    #[test]
    fn a_free_seat_goes_to_the_client_with_the_fewest() {
        let mut shares = Shares::new(4, 100);
        for _ in 0..40 {
            wish(&mut shares, "greedy", 1);
        }
        assert_eq!(wish(&mut shares, "modest", 1), Wish::Waits(36));
        assert_eq!(wish(&mut shares, "modest", 1), Wish::Waits(37));
        let mut served = Vec::new();
        for _ in 0..4 {
            shares.give_back(&name("greedy"), 1);
            served.push(shares.next().unwrap());
        }
        // Two each, then whoever waits longest.
        assert_eq!(served, ["modest", "modest", "greedy", "greedy"]);
    }

    #[test]
    fn whoever_comes_late_finds_room_in_the_lines() {
        let mut shares = Shares::new(1, 10);
        for n in 0..11 {
            let expected = if n == 0 { Wish::Granted } else { Wish::Waits(n - 1) };
            assert_eq!(wish(&mut shares, "greedy", 1), expected);
        }
        assert_eq!(wish(&mut shares, "greedy", 1), Wish::Refused);
        for n in 0..5 {
            assert_eq!(wish(&mut shares, "modest", 1), Wish::Waits(10 + n));
        }
        assert_eq!(wish(&mut shares, "modest", 1), Wish::Refused);
    }

    #[test]
    fn a_wide_request_is_not_overtaken() {
        let mut shares = Shares::new(4, 10);
        for _ in 0..4 {
            wish(&mut shares, "a", 1);
        }
        wish(&mut shares, "b", 3);
        wish(&mut shares, "b", 1);
        shares.give_back(&name("a"), 1);
        assert_eq!(shares.next(), None);
        assert_eq!(wish(&mut shares, "a", 1), Wish::Waits(2), "one is free, but b is first");
        shares.give_back(&name("a"), 1);
        shares.give_back(&name("a"), 1);
        assert_eq!(shares.next().as_deref(), Some("b"));
        assert_eq!(shares.next(), None);
        shares.give_back(&name("b"), 3);
        assert_eq!(shares.next().as_deref(), Some("b"));
        assert_eq!(shares.next().as_deref(), Some("a"));
    }

    #[test]
    fn whoever_gives_up_leaves_nothing_behind() {
        let mut shares = Shares::new(1, 10);
        wish(&mut shares, "a", 1);
        assert_eq!(wish(&mut shares, "b", 1), Wish::Waits(0));
        assert_eq!(wish(&mut shares, "b", 1), Wish::Waits(1));
        assert!(shares.cancel(&name("b"), 0));
        assert!(!shares.cancel(&name("b"), 0));
        assert!(shares.cancel(&name("b"), 1));
        shares.give_back(&name("a"), 1);
        assert_eq!(shares.next(), None);
        assert!(shares.clients.is_empty() && shares.lines.is_empty());
        assert_eq!((shares.free, shares.waiting), (1, 0));
    }

    #[tokio::test]
    async fn seats_come_back_when_dropped_also_out_of_the_line() {
        let seats = Seats::new(2, 2);
        let one = seats.take(name("a"), 1).await.unwrap();
        let wide = seats.take(name("a"), 99);
        let mut wide = Box::pin(wide);
        assert!(futures::poll!(wide.as_mut()).is_pending());
        let mut abandoned = Box::pin(seats.take(name("b"), 1));
        assert!(futures::poll!(abandoned.as_mut()).is_pending());
        assert_eq!(seats.take(name("b"), 1).await.err(), Some(Refused));
        drop(abandoned);
        drop(one);
        let wide = wide.await.unwrap();
        assert_eq!(seats.lock().free, 0);
        drop(wide);
        assert_eq!(seats.lock().free, 2);
        assert!(seats.lock().clients.is_empty());
    }
}
