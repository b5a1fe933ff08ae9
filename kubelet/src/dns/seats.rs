//! How much is worked on at once, in all and for one client: one pod that asks without end leaves the
//! others their answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Seats that are taken and given back.
pub(crate) struct Seats {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A seat; it is given back when this goes.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    client: IpAddr,
}

impl Seats {
    /// So many in all, and at most so many for each client.
    pub(crate) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// Takes one for a client, if there is one left for it.
    pub(crate) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = taken.by_client.get(&client).copied().unwrap_or(0);
        if taken.all >= self.all || of_client >= self.each {
            return None;
        }
        taken.all += 1;
        taken.by_client.insert(client, of_client + 1);
        drop(taken);
        Some(Seat { seats: Arc::clone(self), client })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(of_client) = taken.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Seats;

    #[test]
    fn one_client_leaves_seats_for_others() {
        let seats = Seats::new(3, 2);
        let (one, other, third) =
            ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 3].into());
        let taken = [seats.take(one), seats.take(one)];
        assert!(taken.iter().all(Option::is_some) && seats.take(one).is_none());
        let last = seats.take(other);
        assert!(last.is_some() && seats.take(other).is_none() && seats.take(third).is_none());
        drop(taken);
        assert!(seats.take(third).is_some() && seats.take(one).is_some());
        drop(last);
        let left = seats.taken.lock().unwrap();
        assert!(left.all == 0 && left.by_client.is_empty());
    }
}
