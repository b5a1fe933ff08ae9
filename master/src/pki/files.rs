//! Files that are there whole or not at all, and keys that nobody else may read.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Error, Result};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    All,
    Owner,
}

/// The content, or nothing when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Both files of a pair, or nothing when there is neither.
pub(super) fn read_pair(first: &Path, second: &Path) -> Result<Option<(String, String)>> {
    match (read(first)?, read(second)?) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        (None, _) => Err(Error::HalfAPair { path: first.to_owned() }),
        (_, None) => Err(Error::HalfAPair { path: second.to_owned() }),
    }
}

/// Writes beside the place, then moves there: a crash leaves the old file or the new one.
pub(super) fn write(path: &Path, text: &str, readers: Readers) -> Result<()> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let temporary = path.with_added_extension("new");
    let mode = match readers {
        Readers::All => 0o644,
        Readers::Owner => 0o600,
    };
    // One that a crash left behind might have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    Ok(())
}
