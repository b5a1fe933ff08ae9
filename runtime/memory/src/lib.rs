//! How the processes that live for months keep their memory small.
//!
//! The C library's allocator makes an arena for every thread that finds the others busy, gives free
//! memory back only from an arena's end, and after one large buffer takes the next ones from an
//! arena as well. After a burst of work each arena keeps the most that it ever held. Here their
//! number is bounded, large buffers stay mappings of their own, and what is free is given back once
//! things have settled.

#![allow(unsafe_code)]

use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use tracing::warn;

/// How long after a change the work that it led to is probably done.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// Buffers of this size and more are mapped for themselves, and returned when they are dropped. The
/// allocator's own initial value; setting it keeps it from growing with use.
const MAPPED_FROM_BYTES: i32 = 128 << 10;

/// Bounds the allocator's arenas: one for each of the threads that compute. Others share them.
/// Call it before the first thread is started.
pub fn bound(arenas: u8) {
    #[cfg(target_env = "gnu")]
    // SAFETY: the calls set two numbers in the allocator's own state, under its lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas.into());
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}

/// Gives free memory back some seconds after each burst of changes, as long as there are changes.
pub async fn give_back_after(changes: impl Stream) {
    follow(changes, give_back).await;
}

async fn follow(changes: impl Stream, give_back: fn()) {
    let mut changes = std::pin::pin!(changes);
    while changes.next().await.is_some() {
        tokio::time::sleep(SETTLED_AFTER).await;
        while let Some(Some(_)) = changes.next().now_or_never() {}
        if let Err(error) = tokio::task::spawn_blocking(give_back).await {
            warn!(%error, "failed to give memory back");
        }
    }
}

/// How many bytes the allocator has given out and not got back; nothing where it does not tell.
pub fn in_use() -> Option<usize> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call reads counters, under the allocator's own locks.
        let counted = unsafe { libc::mallinfo2() };
        Some(counted.uordblks + counted.hblkhd)
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Gives free memory back now. Takes milliseconds, in which others who allocate may have to wait.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call releases pages that nobody has; it takes the allocator's locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::channel::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_followed_by_one_return() {
        static RETURNS: AtomicUsize = AtomicUsize::new(0);
        let (changed, changes) = mpsc::unbounded();
        let following = tokio::spawn(follow(changes, || {
            RETURNS.fetch_add(1, Ordering::Relaxed);
        }));
        for _ in 0..2 {
            for _ in 0..100 {
                changed.unbounded_send(()).unwrap();
            }
            tokio::time::sleep(SETTLED_AFTER * 2).await;
        }
        drop(changed);
        following.await.unwrap();
        assert_eq!(RETURNS.load(Ordering::Relaxed), 2);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_is_given_out_is_counted() {
        let before = in_use().unwrap();
        let blocks: Vec<Box<[u8]>> = (0..1_000).map(|_| vec![1; 100_000].into()).collect();
        let meanwhile = in_use().unwrap();
        drop(blocks);
        let after = in_use().unwrap();
        // Other tests of this process allocate meanwhile, but not that much.
        assert!(meanwhile > before + 90_000_000, "{before}, then {meanwhile}");
        assert!(after + 90_000_000 < meanwhile, "{meanwhile}, then {after}");
    }

    #[test]
    fn what_was_freed_is_no_longer_resident() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        bound(1);
        let mut blocks: Vec<Box<[u8]>> = (0..40_000).map(|_| vec![1; 1000].into()).collect();
        // Every hundredth stays, so that no arena ends in free memory.
        let kept: Vec<_> = blocks.drain(..).enumerate().filter(|(n, _)| n % 100 == 0).collect();
        let before = resident();
        give_back();
        let after = resident();
        assert_eq!(kept.len(), 400);
        assert!(after + 20_000 < before, "{before} kB, then {after} kB");
    }
}
