//! Reads container logs in the CRI format, as the shims write them:
//!
//! ```text
//! 2026-11-23T15:04:05.000000001Z stdout F a whole line
//! 2026-11-23T15:04:05.000000002Z stderr P the beginning of a long line
//! ```
//!
//! A log is a file and those it was rotated to, `0.log.<timestamp>`. [`Cursor`] reads them one
//! after the other; [`open`] makes a stream of it that may follow what is still being written.

mod cursor;
mod follow;
mod tail;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

use crate::streams::{LogOptions, LogStream, OutputStream, StreamFailure};
use cursor::{Chunk, Cursor};
use follow::Watch;

/// Opens the log at `path`. With `follow` the stream ends when `finished` does and everything
/// was read.
pub(crate) async fn open(
    path: PathBuf,
    options: LogOptions,
    finished: BoxFuture<'static, ()>,
) -> Result<LogStream, StreamFailure> {
    // Watched before the first look, so that nothing happens in between.
    let watch = match (options.follow, path.parent()) {
        (true, Some(folder)) => Some(Watch::new(folder).map_err(|error| failure(&error))?),
        _ => None,
    };
    let cursor = blocking(move || Cursor::open(&path, &options)).await?;
    let following = Following { cursor: Some(cursor), watch, finished, over: false };
    Ok(stream::try_unfold(following, Following::next).boxed())
}

/// The last lines of a log, as a program wrote them, at most so many bytes of them.
pub(crate) fn last_lines(path: &Path, lines: u64, max_bytes: usize) -> io::Result<Vec<u8>> {
    let options = LogOptions { tail_lines: Some(lines), ..LogOptions::default() };
    let mut cursor = Cursor::open(path, &options)?;
    let mut text = Vec::new();
    while let Chunk::Data(bytes) = cursor.read()? {
        text.extend_from_slice(&bytes);
        if let Some(excess) = text.len().checked_sub(max_bytes) {
            text.drain(..excess);
        }
    }
    Ok(text)
}

/// A stream under way.
struct Following {
    cursor: Option<Cursor>,
    watch: Option<Watch>,
    finished: BoxFuture<'static, ()>,
    /// Nothing more is going to be written.
    over: bool,
}

impl Following {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StreamFailure> {
        loop {
            let Some(mut cursor) = self.cursor.take() else { return Ok(None) };
            let (cursor, chunk) = blocking(move || {
                let chunk = cursor.read()?;
                Ok((cursor, chunk))
            })
            .await?;
            match chunk {
                Chunk::Data(bytes) => {
                    self.cursor = Some(cursor);
                    return Ok(Some((bytes, self)));
                }
                Chunk::Limit => return Ok(None),
                Chunk::EndOfFile if self.over => return Ok(None),
                Chunk::EndOfFile => {}
            }
            self.cursor = Some(cursor);
            let Some(watch) = &mut self.watch else { return Ok(None) };
            tokio::select! {
                changed = watch.changed() => changed.map_err(|error| failure(&error))?,
                // One more look: the last lines may have come just now.
                () = &mut self.finished => self.over = true,
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StreamFailure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| failure(&error)),
        Err(panicked) => Err(StreamFailure::internal(format!("failed to read log: {panicked}"))),
    }
}

fn failure(error: &io::Error) -> StreamFailure {
    StreamFailure::internal(format!("failed to read log: {error}"))
}

/// A file of a log, known by what rotation does not change.
#[derive(Clone, Debug)]
struct Segment {
    path: PathBuf,
    id: (u64, u64),
    modified: i64,
}

/// All files of the log at `path`, the oldest first, the one being written last.
fn segments(path: &Path) -> io::Result<Vec<Segment>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let file_name = entry?.file_name();
        if file_name.to_string_lossy().starts_with(&prefix) {
            paths.push(folder.join(file_name));
        }
    }
    paths.sort();
    paths.push(path.to_owned());
    let mut segments = Vec::new();
    for path in paths {
        match fs::metadata(&path) {
            Ok(metadata) => segments.push(Segment {
                path,
                id: (metadata.dev(), metadata.ino()),
                modified: metadata.mtime(),
            }),
            // Rotated away between the two looks, or not begun yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // A file that was renamed between the two looks is there under both of its names.
    segments.dedup_by_key(|segment| segment.id);
    Ok(segments)
}

fn file_id(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// One entry of a log file.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    /// RFC 3339.
    time: &'a [u8],
    stream: OutputStream,
    /// Whether the line ends here.
    full: bool,
    content: &'a [u8],
}

impl<'a> Entry<'a> {
    /// `raw` is without the line feed. Nothing when it is not in the format.
    fn parse(raw: &'a [u8]) -> Option<Self> {
        let mut parts = raw.splitn(4, |byte| *byte == b' ');
        let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
        let stream = match stream {
            b"stdout" => OutputStream::Stdout,
            b"stderr" => OutputStream::Stderr,
            _ => return None,
        };
        let full = match tag.split(|byte| *byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { time, stream, full, content: parts.next().unwrap_or_default() })
    }
}

/// Removes the log at `path` with all files it was rotated to.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    for segment in segments(path)? {
        match fs::remove_file(&segment.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}
