//! Files that are there whole or not at all, whatever happens in between.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Replaces the contents of `path` durably; only the owner may read it.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = beside(path, ".new");
    write(&temporary, contents)?.sync_all()?;
    put_in_place(&temporary, path)
}

/// Makes a file durable, under another name in the same folder.
pub(crate) fn make_durable(path: &Path, as_path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    put_in_place(path, as_path)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

fn write(path: &Path, contents: &[u8]) -> io::Result<File> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    Ok(file)
}

fn put_in_place(temporary: &Path, path: &Path) -> io::Result<()> {
    fs::rename(temporary, path)?;
    let folder = path.parent().ok_or_else(|| io::Error::other("a file has a parent folder"))?;
    // The rename itself is durable only when the folder is.
    File::open(folder)?.sync_all()
}

/// Makes a folder, with its parents, that only the owner may enter.
pub(crate) fn make_private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The contents of a file, or nothing when there is none.
pub(crate) fn read_if_present(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
