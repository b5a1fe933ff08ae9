//! Deadlines of leases. They are kept in memory only: a renewal writes nothing. After a restart
//! every lease gets its full time again, as in etcd after a change of its leader, since whoever
//! renews it had no chance to while we were away.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::debug;

use super::failed;
use super::writer::{Command, Write};
use crate::store::{Error, LeaseId, Result};

#[derive(Debug)]
pub(super) struct Leases {
    inner: Mutex<Inner>,
    /// A lease came that may end before all others.
    earlier: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    leases: HashMap<i64, (Duration, Instant)>,
    deadlines: BTreeSet<(Instant, i64)>,
}

impl Leases {
    pub(super) fn new(leases: Vec<(LeaseId, u64)>) -> Self {
        let this = Self { inner: Mutex::default(), earlier: Notify::new() };
        for (lease, seconds) in leases {
            this.add(lease, Duration::from_secs(seconds));
        }
        this
    }

    pub(super) fn add(&self, lease: LeaseId, ttl: Duration) {
        self.lock().set(lease, ttl);
        self.earlier.notify_one();
    }

    pub(super) fn renew(&self, lease: LeaseId) -> Result<()> {
        let mut inner = self.lock();
        let (ttl, _) = *inner.leases.get(&lease.0).ok_or(Error::NoSuchLease(lease))?;
        inner.set(lease, ttl);
        Ok(())
    }

    /// From now on it cannot be renewed. Tells whether it was there.
    pub(super) fn remove(&self, lease: LeaseId) -> bool {
        self.lock().remove(lease.0)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.lock().deadlines.first().map(|(at, _)| *at)
    }

    fn take_ended(&self, now: Instant) -> Option<LeaseId> {
        let mut inner = self.lock();
        let (at, lease) = *inner.deadlines.first()?;
        (at <= now).then(|| {
            inner.remove(lease);
            LeaseId(lease)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn set(&mut self, lease: LeaseId, ttl: Duration) {
        self.remove(lease.0);
        let deadline = Instant::now() + ttl;
        self.leases.insert(lease.0, (ttl, deadline));
        self.deadlines.insert((deadline, lease.0));
    }

    fn remove(&mut self, lease: i64) -> bool {
        match self.leases.remove(&lease) {
            Some((_, deadline)) => self.deadlines.remove(&(deadline, lease)),
            None => false,
        }
    }
}

/// Has the writer end leases whose time is over, until the store is dropped. Holds nothing of the
/// file: it may be dropped some time after the store.
pub(super) async fn expire(leases: Arc<Leases>, commands: mpsc::WeakSender<Command>) {
    loop {
        let deadline = leases.next_deadline();
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            () = leases.earlier.notified() => continue,
        }
        while let Some(lease) = leases.take_ended(Instant::now()) {
            debug!(lease = lease.0, "lease ended");
            let Some(commands) = commands.upgrade() else { return };
            if commands.send(Command::Write(Write::Revoke(lease, None))).await.is_err() {
                return;
            }
        }
    }
}

/// Whole seconds, at least one.
pub(super) fn seconds(ttl: Duration) -> Result<u64> {
    match ttl.as_secs() {
        0 => Err(failed("grant a lease", "a lease lasts a second at least")),
        seconds => Ok(seconds),
    }
}
