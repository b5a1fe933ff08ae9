//! Unpacking a layer into the folder that overlayfs uses as a lower directory.
//!
//! A layer is untrusted. Every path is resolved by the kernel with the layer's folder as root
//! (`openat2`, `RESOLVE_IN_ROOT`), so neither `..` nor a symbolic link that the layer itself brought
//! along leads out of it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, makedev,
};
use sha2::{Digest, Sha256};

use super::bounds::Bounds;
use super::headers::{Allowance, Bounded, finish_reading};
use super::store::{ImageStore, hex};
use super::{ImageError, io_error};

/// Marks a deleted name in a layer.
const WHITEOUT: &str = ".wh.";
/// Marks a folder that hides what lower layers have in it.
const OPAQUE: &str = ".wh..wh..opq";
/// How overlayfs itself marks such a folder.
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";

/// Where a layer's folder says which is the highest user or group among its owners.
const HIGHEST_OWNER: &str = "trusted.kutter.highest-owner";

/// The highest user or group that a layer's files belong to; nothing of one that an earlier version has
/// unpacked.
pub(crate) fn highest_owner(layer: &Path) -> Option<u32> {
    let mut text = [0; 16];
    let length = rustix::fs::getxattr(layer, HIGHEST_OWNER, &mut text).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.parse().ok()
}

/// A file from so many bytes on is first compared with the room there is.
const LARGE_FILE: u64 = 64 << 20;

/// Checks that a downloaded blob is what its digest says.
pub(super) fn verify_blob(blob: &Path, digest: &str) -> Result<(), ImageError> {
    let mut file = File::open(blob).map_err(io_error("open", blob))?;
    let mut hasher = Hashing { inner: &mut file, hasher: Sha256::new() };
    io::copy(&mut hasher, &mut io::sink()).map_err(io_error("read", blob))?;
    let found = hasher.finish();
    if found == digest {
        Ok(())
    } else {
        Err(damaged(digest, format!("the content has the digest {found}")))
    }
}

/// Unpacks a layer (tar, as it is or compressed with gzip or zstd) whose unpacked form has the
/// digest `diff_id`, unless the store has it. The folder appears under its name only when all of it
/// is there and the digest is right.
pub(super) fn unpack_layer(
    store: &ImageStore,
    blob: &Path,
    diff_id: &str,
    bounds: &Bounds,
) -> Result<(), ImageError> {
    let file = File::open(blob).map_err(io_error("open", blob))?;
    unpack_stream(store, file, diff_id, bounds)
}

/// As [`unpack_layer`], from anything that can be read.
pub(super) fn unpack_stream(
    store: &ImageStore,
    blob: impl Read,
    diff_id: &str,
    bounds: &Bounds,
) -> Result<(), ImageError> {
    let target = store.layer_path(diff_id);
    if target.is_dir() {
        return Ok(());
    }
    let temporary = store.ingest_path(&format!("layer-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&temporary).map_err(io_error("create", &temporary))?;
    let unpacked = unpack_to(blob, &temporary, diff_id, bounds).and_then(|()| {
        sync(&temporary).map_err(io_error("sync", &temporary))?;
        match fs::rename(&temporary, &target) {
            // Somebody else was quicker with the same layer.
            Err(_) if target.is_dir() => Ok(()),
            result => result.map_err(io_error("rename", &temporary)),
        }
    });
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(io_error("remove", &temporary))?;
    }
    unpacked
}

/// One sync for all of the layer's files, before its name tells that it is whole.
fn sync(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    Ok(rustix::fs::syncfs(folder.as_fd())?)
}

fn unpack_to(
    blob: impl Read,
    folder: &Path,
    diff_id: &str,
    bounds: &Bounds,
) -> Result<(), ImageError> {
    let fail = |error: io::Error| damaged(diff_id, error.to_string());
    let allowance = Allowance::default();
    let bounded = Bounded { inner: decompress(blob).map_err(fail)?, allowance: &allowance };
    let mut hashing = Hashing { inner: bounded, hasher: Sha256::new() };
    let root = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| io_error("open", folder)(error.into()))?;
    rustix::fs::chmod(folder, Mode::from_raw_mode(0o755))
        .map_err(|error| io_error("change", folder)(error.into()))?;

    let mut unpacker = Unpacker { root, folders: Vec::new(), bounds };
    let mut archive = tar::Archive::new(&mut hashing);
    archive.set_ignore_zeros(false);
    let mut highest = 0;
    let mut entries = archive.entries().map_err(fail)?;
    while let Some(entry) = allowance.during_headers(|| entries.next()) {
        let mut entry = entry.map_err(fail)?;
        let path = entry.path().map_err(fail)?.into_owned();
        // What is no number is found out below.
        let ids = [entry.header().uid(), entry.header().gid()];
        highest = ids.into_iter().flatten().fold(highest, u64::max);
        bounds
            .take(entry.size())
            .and_then(|()| unpacker.entry(&mut entry, &path))
            .and_then(|()| finish_reading(&mut entry))
            .map_err(|error| damaged(diff_id, format!("\"{}\": {error}", path.display())))?;
    }
    unpacker.finish().map_err(fail)?;
    let highest = highest.to_string();
    match rustix::fs::setxattr(folder, HIGHEST_OWNER, highest.as_bytes(), XattrFlags::empty()) {
        // Without the mark, files of such owners belong to nobody in a container with other users.
        Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::NOTSUP) => {}
        Err(error) => return Err(io_error("mark", folder)(error.into())),
    }
    // The digest covers what follows the end of the archive, too.
    io::copy(&mut hashing, &mut io::sink()).map_err(fail)?;
    let found = hashing.finish();
    if found == diff_id {
        Ok(())
    } else {
        Err(damaged(diff_id, format!("the unpacked content has the digest {found}")))
    }
}

/// Tells the compression by the first bytes: media types are not always right.
fn decompress<'a>(blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut blob = BufReader::with_capacity(1 << 17, blob);
    let start = blob.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(blob))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(blob)?)
    } else {
        Box::new(blob)
    })
}

struct Unpacker<'a> {
    bounds: &'a Bounds,
    root: OwnedFd,
    /// Folders get their times last: making files in them changes these.
    folders: Vec<(PathBuf, i64)>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        if entry.header().entry_type().is_pax_global_extensions() {
            // Of the archive as a whole: a comment of who made it, as a rule.
            return Ok(());
        }
        let Some((parent, name)) = split(path)? else {
            return self.folder_metadata(entry, Path::new("."));
        };
        let parent = self.parent(&parent)?;
        if name == OPAQUE {
            return Ok(rustix::fs::fsetxattr(
                &reopen(&parent)?,
                OVERLAY_OPAQUE,
                b"y",
                XattrFlags::empty(),
            )?);
        }
        if let Some(deleted) = name.strip_prefix(WHITEOUT) {
            if deleted.is_empty() || deleted == "." || deleted == ".." {
                return Err(io::Error::other("is no name to delete"));
            }
            clear(&parent, deleted)?;
            let mode = Mode::empty();
            return Ok(rustix::fs::mknodat(
                &parent,
                deleted,
                FileType::CharacterDevice,
                mode,
                makedev(0, 0),
            )?);
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            match rustix::fs::mkdirat(&parent, &*name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => {
                    let found = rustix::fs::statat(&parent, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
                    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                        clear(&parent, &name)?;
                        rustix::fs::mkdirat(&parent, &*name, Mode::from_raw_mode(0o755))?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
            return self.folder_metadata(entry, path);
        }
        clear(&parent, &name)?;
        self.file(entry, &parent, &name, kind)
    }

    fn file<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        parent: &OwnedFd,
        name: &str,
        kind: tar::EntryType,
    ) -> io::Result<()> {
        let header = entry.header().clone();
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        match kind {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                self.has_room_for(entry.size())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let flags = flags | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
                io::copy(entry, &mut File::from(file))?;
            }
            tar::EntryType::Symlink => {
                let target = link_name(entry)?;
                rustix::fs::symlinkat(&target, parent, name)?;
            }
            tar::EntryType::Link => {
                let target = link_name(entry)?;
                let Some((target_parent, target_name)) = split(&target)? else {
                    return Err(io::Error::other("links to the root"));
                };
                let target_parent = self.open_folder(&target_parent)?;
                let flags = AtFlags::empty();
                return Ok(rustix::fs::linkat(&target_parent, &*target_name, parent, name, flags)?);
            }
            tar::EntryType::Fifo => {
                rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0)?;
            }
            tar::EntryType::Char | tar::EntryType::Block => {
                let major = header.device_major()?.unwrap_or(0);
                let minor = header.device_minor()?.unwrap_or(0);
                let kind = match kind {
                    tar::EntryType::Char => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                // 0/0 is overlayfs' mark of a deleted name; a layer says that by `.wh.` only.
                if (major, minor) == (0, 0) {
                    return Err(io::Error::other("is the device 0/0"));
                }
                rustix::fs::mknodat(parent, name, kind, mode, makedev(major, minor))?;
            }
            other => return Err(io::Error::other(format!("has the unknown type {other:?}"))),
        }
        let (uid, gid) = owner(&header)?;
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != tar::EntryType::Symlink {
            // After the owner: a change of owner drops set-user-id.
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        set_xattrs(entry, parent, name)?;
        set_times(parent, name, header.mtime()?.cast_signed())
    }

    /// A sparse file of a few bytes in the archive can be larger than any disk.
    fn has_room_for(&self, size: u64) -> io::Result<()> {
        if size < LARGE_FILE {
            return Ok(());
        }
        let disk = rustix::fs::fstatvfs(&reopen(&self.root)?)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        match size < free {
            true => Ok(()),
            false => Err(io::Error::other(format!("has {size} bytes, and {free} are free"))),
        }
    }

    fn folder_metadata<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        path: &Path,
    ) -> io::Result<()> {
        let header = entry.header().clone();
        let folder = reopen(&self.open_folder(path)?)?;
        let (uid, gid) = owner(&header)?;
        rustix::fs::fchown(&folder, Some(uid), Some(gid))?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(header.mode()? & 0o7777))?;
        for (name, value) in xattrs(entry)? {
            rustix::fs::fsetxattr(&folder, &*name, &value, XattrFlags::empty())?;
        }
        self.bounds.remember(path)?;
        self.folders.push((path.to_owned(), header.mtime()?.cast_signed()));
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        for (path, mtime) in std::mem::take(&mut self.folders).into_iter().rev() {
            // It may have been replaced by something else later in the layer.
            let Ok(folder) = self.open_folder(&path) else { continue };
            rustix::fs::futimens(&reopen(&folder)?, &times(mtime))?;
        }
        Ok(())
    }

    /// The folder of this path, made when the layer did not say anything about it.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open_folder(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut so_far = PathBuf::new();
                for component in path.components() {
                    let inside = self.open_folder(&so_far)?;
                    match rustix::fs::mkdirat(
                        &inside,
                        component.as_os_str(),
                        Mode::from_raw_mode(0o755),
                    ) {
                        Ok(()) => {
                            self.bounds.take(0)?;
                            so_far.push(component);
                        }
                        Err(rustix::io::Errno::EXIST) => so_far.push(component),
                        Err(error) => return Err(error.into()),
                    }
                }
                self.open_folder(path)
            }
            result => result,
        }
    }

    fn open_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?)
    }
}

/// A path in a layer as folder and name; nothing for the root itself.
fn split(path: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => match part.to_str() {
                Some(part) => parts.push(part.to_owned()),
                None => return Err(io::Error::other("is not UTF-8")),
            },
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir => return Err(io::Error::other("leads out of the layer")),
            Component::Prefix(_) => return Err(io::Error::other("is no path")),
        }
    }
    Ok(parts.pop().map(|name| (parts.iter().collect(), name)))
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<PathBuf> {
    entry
        .link_name()?
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| io::Error::other("is a link to nothing"))
}

fn owner(header: &tar::Header) -> io::Result<(rustix::fs::Uid, rustix::fs::Gid)> {
    let number = |value: u64| {
        u32::try_from(value)
            .map_err(|_| io::Error::other(format!("has the impossible owner {value}")))
    };
    Ok((
        rustix::fs::Uid::from_raw(number(header.uid()?)?),
        rustix::fs::Gid::from_raw(number(header.gid()?)?),
    ))
}

/// Makes way for a new entry. A later entry of a layer replaces an earlier one.
fn clear(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => {
            // Its own process' view of the open folder: no other path leads there safely.
            fs::remove_dir_all(proc_path(parent).join(name))
        }
        Err(error) => Err(error.into()),
    }
}

fn set_xattrs<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    parent: &OwnedFd,
    name: &str,
) -> io::Result<()> {
    for (key, value) in xattrs(entry)? {
        let path = proc_path(parent).join(name);
        rustix::fs::lsetxattr(&path, &*key, &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Extended attributes; those by which overlayfs is steered are not a layer's to set.
fn xattrs<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
            else {
                continue;
            };
            if !name.starts_with("trusted.") && !name.starts_with("user.overlay.") {
                found.push((name.to_owned(), extension.value_bytes().to_vec()));
            }
        }
    }
    Ok(found)
}

fn set_times(parent: &OwnedFd, name: &str, mtime: i64) -> io::Result<()> {
    Ok(rustix::fs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// An `O_PATH` descriptor serves for names only; this one can also be read and changed.
fn reopen(folder: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, ".", flags, Mode::empty())?)
}

fn proc_path(folder: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn damaged(layer: &str, reason: String) -> ImageError {
    ImageError::Layer { layer: layer.to_owned(), reason }
}

/// Reads through, and knows the digest of what was read.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R> Hashing<R> {
    fn finish(self) -> String {
        format!("sha256:{}", hex(&self.hasher.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
