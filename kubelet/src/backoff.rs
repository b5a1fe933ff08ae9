//! Delays between tries: doubling, bounded, and spread at random so that a thousand nodes that lost
//! the same master do not come back in the same instant.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// The delay before the next try.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Default for Backoff {
    /// 100 ms to 10 s, for connections to a master.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// Doubles from `first` up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Between half of the present delay and all of it; the next one is twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.longest);
        delay.mul_f64(0.5 + random_fraction() / 2.0)
    }

    /// It worked: start over.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Between 0 and 1. The standard library's hasher keys are random enough to spread load.
pub(crate) fn random_fraction() -> f64 {
    let bits = RandomState::new().hash_one(0u8) >> 11;
    bits as f64 / (1u64 << 53) as f64
}
