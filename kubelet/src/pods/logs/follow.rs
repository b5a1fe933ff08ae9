//! Wakes when something happens in a folder of logs.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::net::unix::pipe::Receiver;

/// A watched folder.
pub(super) struct Watch {
    /// Not a pipe, but read like one: tokio asks of a receiver no more than that it can be polled
    /// and read.
    events: Receiver,
}

impl Watch {
    /// The folder is made when the container has not logged yet.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let changes = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF;
        add_watch(&inotify, folder, changes)?;
        Ok(Self { events: Receiver::from_owned_fd_unchecked(inotify)? })
    }

    /// Waits for changes since the last call.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        // What happened does not matter: the reader looks for itself.
        let mut events = [0; 4096];
        loop {
            self.events.readable().await?;
            match self.events.try_read(&mut events) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(|_| ()),
            }
        }
    }
}
