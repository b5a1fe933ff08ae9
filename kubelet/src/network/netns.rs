//! Work inside another network namespace.
//!
//! Entering one changes the calling thread alone, and a socket stays in the namespace it was made
//! in. So a thread of its own goes in, makes what is needed, and ends; nothing else of the process
//! is ever in a foreign namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Runs `work` on a thread of its own inside the network namespace. The thread is within the
/// caller's tokio runtime, so that `work` may register sockets there.
pub(crate) async fn within<T: Send + 'static>(
    netns: &File,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let netns = netns.try_clone()?;
    let runtime = Handle::current();
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        let outcome = setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .and_then(|()| {
                let _within_runtime = runtime.enter();
                work()
            });
        // Nobody waits any more when the caller was cancelled.
        let _ = done.send(outcome);
    })?;
    result.await.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}
