//! Taking images away, and what killed processes have left.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::claims::claimed;
use super::store::ImageStore;
use super::{ImageError, StoredImage, io_error};

/// A download that nobody went on with for so long is not resumed any more.
const PARTIAL_DOWNLOADS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How a file in `ingest` begins that holds a part of a layer as it was sent.
const PARTIAL_DOWNLOAD: &str = "blob-";

/// All images. The time of a record's file is that of the image's last use.
pub(super) fn inventory(store: &ImageStore) -> Result<Vec<StoredImage>, ImageError> {
    let mut images = Vec::new();
    for (path, record) in store.records()? {
        let last_used_at = match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(time) => time,
            // Removed this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("look at", &path)(error)),
        };
        let added_at = UNIX_EPOCH + Duration::from_secs(record.added_at);
        images.push(StoredImage { image: store.image(record)?, added_at, last_used_at });
    }
    images.sort_by(|a, b| a.image.id.cmp(&b.image.id));
    Ok(images)
}

/// Remembers that an image is used now. One that is gone is no error.
pub(super) fn touch(store: &ImageStore, id: &str) -> Result<(), ImageError> {
    let path = store.record_path(id);
    let now = SystemTime::now();
    match fs::File::open(&path).and_then(|file| file.set_modified(now)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("touch", &path)(error))
        }
        _ => Ok(()),
    }
}

/// See [`ImageStorage::remove`](super::ImageStorage::remove).
pub(super) fn remove(store: &ImageStore, id: &str) -> Result<u64, ImageError> {
    let trash = {
        let _alone = store.lock()?;
        for (path, named) in store.references()? {
            if named.id == id {
                gone(fs::remove_file(&path)).map_err(io_error("remove", &path))?;
            }
        }
        let record = store.record_path(id);
        gone(fs::remove_file(&record)).map_err(io_error("remove", &record))?;
        put_aside_unused(store)?
    };
    empty(&trash)
}

/// See [`ImageStorage::sweep`](super::ImageStorage::sweep).
pub(super) fn sweep(store: &ImageStore) -> Result<u64, ImageError> {
    let trash = {
        let _alone = store.lock()?;
        let mut trash = put_aside_unused(store)?;
        // Without a claim nobody makes anything at the moment: all that is there was left by the dead.
        if !claimed(store)?.anybody {
            trash.extend(leftovers(store)?);
        }
        trash
    };
    empty(&trash)
}

/// Takes the layers that no image has and nobody claims out of the way, and tells where they are.
fn put_aside_unused(store: &ImageStore) -> Result<Vec<PathBuf>, ImageError> {
    let mut needed = claimed(store)?.layers;
    needed.extend(store.records()?.into_iter().flat_map(|(_, record)| record.diff_ids));
    let needed: HashSet<PathBuf> = needed.iter().map(|id| store.layer_path(id)).collect();
    let folder = store.folder("layers");
    let mut trash = Vec::new();
    for layer in entries(&folder)? {
        if !needed.contains(&layer) {
            let target = store.ingest_path(&format!("trash-{}", uuid::Uuid::new_v4()));
            fs::rename(&layer, &target).map_err(io_error("rename", &layer))?;
            trash.push(target);
        }
    }
    Ok(trash)
}

fn leftovers(store: &ImageStore) -> Result<Vec<PathBuf>, ImageError> {
    let now = SystemTime::now();
    let is_fresh = |path: &Path| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| now.duration_since(modified).ok());
        age.is_none_or(|age| age < PARTIAL_DOWNLOADS_KEPT)
    };
    let is_kept = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PARTIAL_DOWNLOAD) && is_fresh(path)
    };
    Ok(entries(&store.folder("ingest"))?.into_iter().filter(|path| !is_kept(path)).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(io_error("read", folder))
}

/// Removes files and folders for good; their size on disk.
fn empty(trash: &[PathBuf]) -> Result<u64, ImageError> {
    let mut bytes = 0;
    for path in trash {
        bytes += size_on_disk(path).unwrap_or(0);
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        gone(removed).map_err(io_error("remove", path))?;
    }
    Ok(bytes)
}

/// A file with several names counts where it is found first.
fn size_on_disk(path: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut open = vec![path.to_owned()];
    let mut blocks = 0;
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.nlink() < 2 || metadata.is_dir() || seen.insert(metadata.ino()) {
            blocks += metadata.blocks();
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(blocks * 512)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
