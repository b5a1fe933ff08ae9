//! Paths below a volume that are mounted by themselves.
//!
//! Containers write to the volume meanwhile. What is done here stays below the volume whatever they do,
//! and decides nothing: the runtime opens the path once more, and mounts what it has opened.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

/// Makes the folders of the path that are missing, with the owner and the mode of the volume.
pub(crate) fn make(volume: &Path, path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let volume = match rustix::fs::openat(CWD, volume, flags, Mode::empty()) {
        Ok(volume) => volume,
        Err(Errno::NOTDIR) => return Err(io::Error::other("the volume is a file")),
        Err(errno) => return Err(errno.into()),
    };
    match open_below(&volume, path) {
        Err(Errno::NOENT) => make_missing(&volume, path),
        result => Ok(result.map(|_| ())?),
    }
}

fn make_missing(volume: &OwnedFd, path: &Path) -> io::Result<()> {
    let model = rustix::fs::fstat(volume)?;
    let mut so_far = PathBuf::from(".");
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        // Of the path so far all is there, links that lead on below the volume among it.
        let here = open_below(volume, &so_far)?;
        so_far.push(name);
        match open_below(volume, &so_far) {
            Ok(_) => {}
            Err(Errno::NOENT) => make_one(&here, name, &model)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn make_one(here: &OwnedFd, name: &OsStr, model: &rustix::fs::Stat) -> io::Result<()> {
    match rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        // Another container of the pod was faster.
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(here.as_fd(), name, flags, Mode::empty())?;
    // In this order: a change of the owner takes the bits away that act on behalf of it.
    let owner = (Uid::from_raw(model.st_uid), Gid::from_raw(model.st_gid));
    rustix::fs::chownat(&made, "", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(model.st_mode & 0o7777))?;
    Ok(())
}

/// Enough for a container that renames folders all the time to be outlasted.
const ATTEMPTS: u32 = 128;

fn open_below(volume: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..ATTEMPTS {
        match rustix::fs::openat2(volume, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_missing_is_made_as_the_volume_is() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume");
        fs::create_dir_all(volume.join("here")).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2770)).unwrap();
        symlink("here", volume.join("link")).unwrap();
        fs::write(volume.join("file"), "x").unwrap();
        for path in ["a/b/c", "link/made", "file", "./a/./d", "here"] {
            make(&volume, Path::new(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        for path in ["a", "a/b", "a/b/c", "here/made", "a/d"] {
            let mode = fs::metadata(volume.join(path)).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o2770, "{path}");
        }
    }

    #[test]
    fn nothing_is_made_outside_the_volume() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "x").unwrap();
        symlink("..", volume.join("up")).unwrap();
        symlink(root.path(), volume.join("absolute")).unwrap();
        symlink("../nowhere", volume.join("dangling")).unwrap();
        for path in ["up/x", "absolute/x", "dangling/x", "dangling", "../x", "a/../../x", "file/x"]
        {
            assert!(make(&volume, Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
