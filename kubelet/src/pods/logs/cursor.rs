//! Reads a log forward, over its files.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;

use super::{Entry, file_id, segments, tail};
use crate::streams::{LogOptions, OutputStream};

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Some of the log, never empty.
    Data(Bytes),
    /// Nothing for now.
    EndOfFile,
    /// Nothing ever: as much as was wanted has been read.
    Limit,
}

/// A place in a log.
pub(super) struct Cursor {
    path: PathBuf,
    file: Option<(File, (u64, u64))>,
    /// The file is not the newest any more, and was looked at again since that was found out.
    drained: bool,
    /// The beginning of an entry whose end is not written yet.
    pending: Vec<u8>,
    block: Box<[u8]>,
    timestamps: bool,
    since: Option<Timestamp>,
    stream: Option<OutputStream>,
    bytes_left: Option<u64>,
    /// The next entry begins a line.
    line_start: bool,
}

/// Read in one go; also about the size of a chunk.
const BLOCK: usize = 32 * 1024;
/// An entry longer than this is none of a shim's; it is passed on as it is.
const MAX_ENTRY: usize = 1 << 20;

impl Cursor {
    pub(super) fn open(path: &Path, options: &LogOptions) -> io::Result<Self> {
        let mut files = segments(path)?;
        if let Some(since) = options.since {
            // What was written last before that time has nothing to say.
            let newest = files.len().saturating_sub(1);
            let old = files[..newest].iter().take_while(|f| f.modified < since.as_second()).count();
            files.drain(..old);
        }
        let start = match options.tail_lines {
            Some(lines) => tail::start(&files, lines)?,
            None => files.first().map(|segment| (segment.clone(), 0)),
        };
        let file = match start {
            None => None,
            Some((segment, offset)) => {
                let mut file = File::open(&segment.path)?;
                let id = file_id(&file)?;
                // Rotated since it was listed: the newest is taken from its beginning.
                let offset = if id == segment.id { offset } else { 0 };
                file.seek(SeekFrom::Start(offset))?;
                Some((file, id))
            }
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            drained: false,
            pending: Vec::new(),
            block: vec![0; BLOCK].into_boxed_slice(),
            timestamps: options.timestamps,
            since: options.since,
            stream: options.stream,
            bytes_left: options.limit_bytes,
            line_start: true,
        })
    }

    /// Blocks for the disk only.
    pub(super) fn read(&mut self) -> io::Result<Chunk> {
        loop {
            if self.bytes_left == Some(0) {
                return Ok(Chunk::Limit);
            }
            let read = match &mut self.file {
                Some((file, _)) => file.read(&mut self.block)?,
                None => 0,
            };
            if read > 0 {
                let out = self.digest(read);
                if !out.is_empty() {
                    return Ok(Chunk::Data(out));
                }
            } else if !self.advance()? {
                return Ok(Chunk::EndOfFile);
            }
        }
    }

    /// At the end of a file: goes on to the next one. Whether there is more to read.
    fn advance(&mut self) -> io::Result<bool> {
        let files = segments(&self.path)?;
        let next = match &self.file {
            None => files.first(),
            Some((_, id)) => match files.iter().position(|segment| segment.id == *id) {
                Some(position) if position + 1 == files.len() => return Ok(false),
                // Its last lines may have been written after we came to its end.
                Some(_) if !self.drained => {
                    self.drained = true;
                    return Ok(true);
                }
                Some(position) => files.get(position + 1),
                None => files.first(),
            },
        };
        let Some(next) = next else { return Ok(false) };
        let file = match File::open(&next.path) {
            Ok(file) => file,
            // Rotated away just now; the next look finds it under its new name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let id = file_id(&file)?;
        self.file = Some((file, id));
        self.drained = false;
        self.pending.clear();
        Ok(true)
    }

    /// Turns what was read into what the client sees.
    fn digest(&mut self, read: usize) -> Bytes {
        let mut out = Vec::with_capacity(read);
        let block = std::mem::take(&mut self.block);
        let mut rest = &block[..read];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if self.pending.is_empty() {
                self.entry(&rest[..end], &mut out);
            } else {
                self.pending.extend_from_slice(&rest[..end]);
                let raw = std::mem::take(&mut self.pending);
                self.entry(&raw, &mut out);
            }
            rest = &rest[end + 1..];
        }
        self.pending.extend_from_slice(rest);
        if self.pending.len() > MAX_ENTRY {
            let raw = std::mem::take(&mut self.pending);
            self.entry(&raw, &mut out);
        }
        self.block = block;
        if let Some(left) = &mut self.bytes_left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out.into()
    }

    fn entry(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = Entry::parse(raw) else {
            // Not ours; better shown as it is than lost.
            out.extend_from_slice(raw);
            out.push(b'\n');
            return;
        };
        if let Some(since) = self.since {
            let time = std::str::from_utf8(entry.time).ok().and_then(|time| time.parse().ok());
            if time.is_some_and(|time: Timestamp| time < since) {
                return;
            }
        }
        if self.stream.is_some_and(|wanted| wanted != entry.stream) {
            return;
        }
        if self.timestamps && self.line_start {
            out.extend_from_slice(entry.time);
            out.push(b' ');
        }
        out.extend_from_slice(entry.content);
        if entry.full {
            out.push(b'\n');
        }
        self.line_start = entry.full;
    }
}
