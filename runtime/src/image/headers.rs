//! A bound for what an archive says between the contents of two entries.
//!
//! Long names and extensions are read into memory, and an archive may say that they are as long as it likes:
//! a compressed layer of some megabytes can hold a name of many gigabytes.

use std::cell::Cell;
use std::io::{self, Read};

/// Headers, names and extensions of one entry may take so many bytes. An entry has at most 64 KiB of extended
/// attributes of each name on Linux, and most have none; a path is at most 4 KiB long.
pub(super) const HEADER_BYTES: u64 = 1 << 20;

/// How much more may be read; nothing: as much as there is.
#[derive(Debug, Default)]
pub(super) struct Allowance(Cell<Option<u64>>);

impl Allowance {
    /// Does what reads headers.
    pub(super) fn during_headers<T>(&self, read: impl FnOnce() -> T) -> T {
        self.0.set(Some(HEADER_BYTES));
        let result = read();
        self.0.set(None);
        result
    }
}

/// Reads no more than it is allowed to.
pub(super) struct Bounded<'a, R> {
    pub(super) inner: R,
    pub(super) allowance: &'a Allowance,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.allowance.0.get() else { return self.inner.read(buffer) };
        if left == 0 && !buffer.is_empty() {
            let message = format!("the headers of an entry take more than {HEADER_BYTES} bytes");
            return Err(io::Error::other(message));
        }
        let bound = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.inner.read(&mut buffer[..bound])?;
        self.allowance.0.set(Some(left - read as u64));
        Ok(read)
    }
}

/// Reads what is left of an entry, so that the next thing to come are headers. What is sparse has been read,
/// or is not for reading: it may be larger than anything.
pub(super) fn finish_reading<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
    if entry.header().entry_type().is_gnu_sparse() {
        return match entry.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("is no file, and has content")),
        };
    }
    io::copy(entry, &mut io::sink()).map(drop)
}
