//! What happens in a folder, as the kernel tells it: for those who read files that others bring.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, ReadFlags, WatchFlags, add_watch, init};
use tokio::net::unix::pipe::Receiver;

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// These came, went, or were written.
    Files(BTreeSet<String>),
    /// More than the kernel remembers.
    Lost,
    /// The folder is not there any more.
    Gone,
}

/// A watched folder.
pub(crate) struct Watch {
    folder: PathBuf,
    /// Not a pipe, but read like one: tokio asks of a receiver no more than that it can be polled
    /// and read.
    events: Receiver,
}

/// Room for a hundred events with short names, and for one with the longest.
const BUFFER: usize = 4096;
/// Watch, flags, cookie and the length of the name: four bytes each.
const HEADER: usize = 16;

impl Watch {
    /// Watches from now on.
    ///
    /// # Errors
    /// When there is no such folder, or the kernel has no room for one more.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // A file counts when it is whole: what is being written is not looked at.
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        add_watch(&inotify, folder, changes)?;
        let events = Receiver::from_owned_fd_unchecked(inotify)?;
        Ok(Self { folder: folder.to_owned(), events })
    }

    /// Waits for something to happen.
    pub(crate) async fn news(&mut self) -> io::Result<News> {
        let mut buffer = [0; BUFFER];
        loop {
            self.events.readable().await?;
            let read = match self.events.try_read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                read => read?,
            };
            match news(buffer.get(..read).unwrap_or_default(), |name| {
                is_complete(&self.folder.join(name))
            }) {
                News::Files(names) if names.is_empty() => {}
                news => return Ok(news),
            }
        }
    }
}

/// Whether a name that was just made is complete: that of a link to another file is.
fn is_complete(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink() || found.nlink() > 1)
}

/// What the events say; `is_complete` tells of a name that was just made whether it counts.
fn news(mut events: &[u8], is_complete: impl Fn(&str) -> bool) -> News {
    let mut names = BTreeSet::new();
    while let Some((header, rest)) = events.split_at_checked(HEADER) {
        let field = |at: usize| -> u32 {
            header
                .get(at..at + 4)
                .and_then(|four| four.try_into().ok())
                .map_or(0, u32::from_ne_bytes)
        };
        let flags = ReadFlags::from_bits_retain(field(4));
        let length = usize::try_from(field(12)).unwrap_or(usize::MAX);
        let Some((name, rest)) = rest.split_at_checked(length) else { break };
        events = rest;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return News::Lost;
        }
        if flags.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            return News::Gone;
        }
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned();
        if !flags.contains(ReadFlags::CREATE) || is_complete(&name) {
            names.insert(name);
        }
    }
    News::Files(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(flags: ReadFlags, name: &str) -> Vec<u8> {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(name.len().next_multiple_of(16), 0);
        let numbers = [1, flags.bits(), 0, u32::try_from(padded.len()).unwrap()];
        let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_ne_bytes).collect();
        bytes.extend(padded);
        bytes
    }

    #[test]
    fn files_count_when_they_are_whole() {
        let events = [
            event(ReadFlags::CREATE, "being-written.yaml"),
            event(ReadFlags::CREATE, "link.yaml"),
            event(ReadFlags::CLOSE_WRITE, "written.yaml"),
            event(ReadFlags::DELETE, "gone.yaml"),
        ];
        let told = news(&events.concat(), |name| name.starts_with("link"));
        let expected = ["gone.yaml", "link.yaml", "written.yaml"];
        assert_eq!(told, News::Files(expected.map(str::to_owned).into()));
    }

    #[test]
    fn what_was_missed_and_what_is_gone_is_told() {
        assert_eq!(news(&event(ReadFlags::QUEUE_OVERFLOW, ""), |_| true), News::Lost);
        assert_eq!(news(&event(ReadFlags::IGNORED, ""), |_| true), News::Gone);
        assert_eq!(news(&[1, 2, 3], |_| true), News::Files(BTreeSet::new()));
    }
}
