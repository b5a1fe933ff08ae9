//! Container output, written to log files in the CRI format.
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P the first 16 KiB of a long one
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::plan::LogPlan;

/// Readers of the CRI format may assume that no piece of a line is longer.
const MAX_PIECE: usize = 16 * 1024;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamName {
    Stdout,
    Stderr,
}

impl StreamName {
    fn as_str(self) -> &'static str {
        match self {
            StreamName::Stdout => "stdout",
            StreamName::Stderr => "stderr",
        }
    }
}

/// Cuts a stream of bytes into pieces of lines.
#[derive(Default)]
pub(crate) struct LineSplitter {
    rest: Vec<u8>,
}

impl LineSplitter {
    /// Gives every piece that is complete with these bytes, and whether it ends its line.
    fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.rest.len();
            // A newline right after a full piece still belongs to it.
            let reach = &bytes[..bytes.len().min(room + 1)];
            match reach.iter().position(|byte| *byte == b'\n') {
                Some(end) if self.rest.is_empty() => {
                    each(&bytes[..end], true);
                    bytes = &bytes[end + 1..];
                }
                Some(end) => {
                    self.rest.extend_from_slice(&bytes[..end]);
                    each(&self.rest, true);
                    self.rest.clear();
                    bytes = &bytes[end + 1..];
                }
                None if reach.len() > room => {
                    self.rest.extend_from_slice(&bytes[..room]);
                    each(&self.rest, false);
                    self.rest.clear();
                    bytes = &bytes[room..];
                }
                None => {
                    self.rest.extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
        if self.rest.is_empty() {
            // A quiet container costs nothing.
            self.rest = Vec::new();
        }
    }

    /// Gives what never got a newline.
    fn finish(&mut self, mut each: impl FnMut(&[u8], bool)) {
        if !self.rest.is_empty() {
            // The line is over, though no newline said so.
            each(&std::mem::take(&mut self.rest), true);
        }
    }
}

/// A container's log: the file being written, and its predecessors.
pub(crate) struct Log {
    plan: LogPlan,
    file: File,
    bytes: u64,
}

impl Log {
    /// Opens the log for appending, making it and its folders where needed.
    pub(crate) fn open(plan: LogPlan) -> io::Result<Log> {
        if let Some(folder) = plan.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = open_for_append(&plan.path)?;
        let bytes = file.metadata()?.size();
        Ok(Log { plan, file, bytes })
    }

    /// Writes what a stream has said.
    pub(crate) fn write(
        &mut self,
        splitter: &mut LineSplitter,
        name: StreamName,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.write_pieces(name, |each| splitter.push(bytes, each))
    }

    /// Writes what a stream that has ended still owes.
    pub(crate) fn finish(
        &mut self,
        splitter: &mut LineSplitter,
        name: StreamName,
    ) -> io::Result<()> {
        self.write_pieces(name, |each| splitter.finish(each))
    }

    fn write_pieces(
        &mut self,
        name: StreamName,
        pieces: impl FnOnce(&mut dyn FnMut(&[u8], bool)),
    ) -> io::Result<()> {
        // One clock reading for all that was read at once: lines keep their order in the file.
        let stamp = format!("{:.9} {} ", Timestamp::now(), name.as_str());
        let mut batch = Vec::new();
        let mut result = Ok(());
        pieces(&mut |piece, ends_line| {
            let length = (stamp.len() + 2 + piece.len() + 1) as u64;
            let written = self.bytes + batch.len() as u64;
            if written > 0 && written + length > self.plan.max_bytes && result.is_ok() {
                // A file that cannot be put aside grows: that is better than to lose lines.
                result = self.flush(&mut batch).and_then(|()| self.rotate());
            }
            batch.extend_from_slice(stamp.as_bytes());
            batch.extend_from_slice(if ends_line { b"F " } else { b"P " });
            batch.extend_from_slice(piece);
            batch.push(b'\n');
        });
        self.flush(&mut batch).and(result)
    }

    fn flush(&mut self, batch: &mut Vec<u8>) -> io::Result<()> {
        // What does not fit on the disk is lost; trying again would write the first part twice.
        let result = self.file.write_all(batch);
        self.bytes += batch.len() as u64;
        batch.clear();
        result
    }

    /// Puts the full file aside and deletes the oldest.
    fn rotate(&mut self) -> io::Result<()> {
        let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S.%6f").to_string();
        fs::rename(&self.plan.path, rotated_path(&self.plan.path, &stamp))?;
        self.file = open_for_append(&self.plan.path)?;
        self.bytes = 0;
        let mut old = rotated_files(&self.plan.path)?;
        let kept = (self.plan.max_files.max(1) - 1) as usize;
        old.truncate(old.len().saturating_sub(kept));
        for path in old {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn rotated_path(path: &Path, stamp: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{stamp}"));
    path.with_file_name(name)
}

/// The predecessors of a log file, the oldest first: their stamps sort by time.
fn rotated_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
