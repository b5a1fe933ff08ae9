//! Puts a set of files into a folder so that a reader sees either all of the old or all of the
//! new ones, in the layout that programs know from Kubernetes:
//!
//! ```text
//! ..2026_11_23_15_04_05.000000001/key   the content
//! ..data -> ..2026_11_23_15_04_05.000000001
//! key -> ..data/key
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use jiff::Timestamp;

use super::folder::Folder;

/// Files by their path within the volume.
pub(super) type Files = BTreeMap<String, ProjectedFile>;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProjectedFile {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    /// Nobody in particular: the kubelet's user.
    pub(super) owner: Option<u32>,
    /// Nobody in particular: the kubelet's group. Folders have it, too.
    pub(super) group: Option<u32>,
}

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes the folder show exactly `files`. Whether anything changed.
pub(super) fn write(dir: &Path, files: &Files) -> io::Result<bool> {
    for path in files.keys() {
        check(path)?;
    }
    let current = match fs::read_link(dir.join(DATA)) {
        Ok(target) => Some(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let unchanged = match &current {
        Some(target) => read_back(&dir.join(target))? == *files,
        None => false,
    };
    if !unchanged {
        let version = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
        write_version(&dir.join(&version), files)?;
        let new = dir.join(NEW_DATA);
        remove_file(&new)?;
        symlink(&version, &new)?;
        fs::rename(&new, dir.join(DATA))?;
    }
    // Also after no change: a predecessor may have died between the steps.
    show(dir, files)?;
    remove_old_versions(dir)?;
    Ok(!unchanged)
}

/// A path must stay within the volume and out of the way of our own names.
fn check(path: &str) -> io::Result<()> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.is_empty() && !path.starts_with("..") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}")))
}

fn write_version(version: &Path, files: &Files) -> io::Result<()> {
    // All files of a volume are of one group.
    let folder = Folder::new(0o755).of_group(files.values().find_map(|file| file.group));
    folder.make(version)?;
    for (path, file) in files {
        let mut parent = version.to_owned();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            if !parent.is_dir() {
                folder.make(&parent)?;
            }
        }
        let path = version.join(path);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut opened = options.open(&path)?;
        opened.write_all(&file.content)?;
        // Before the mode: a change of the owner takes bits away.
        std::os::unix::fs::fchown(&opened, file.owner, file.group)?;
        opened.set_permissions(fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// One link per name at the top of the volume; links to names that are gone are removed.
fn show(dir: &Path, files: &Files) -> io::Result<()> {
    let tops: BTreeSet<&str> =
        files.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for top in &tops {
        match symlink(Path::new(DATA).join(top), dir.join(top)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(&*name) && entry.file_type()?.is_symlink() {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_old_versions(dir: &Path) -> io::Result<()> {
    let current = fs::read_link(dir.join(DATA))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_version =
            entry.file_name().to_string_lossy().starts_with("..") && entry.file_type()?.is_dir();
        if is_version && Path::new(&entry.file_name()) != current {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn read_back(version: &Path) -> io::Result<Files> {
    let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let mut files = Files::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(version.join(&folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if entry.file_type()?.is_dir() {
                folders.push(path);
                continue;
            }
            let metadata = entry.metadata()?;
            let mode = metadata.permissions().mode() & 0o777;
            let owner = Some(metadata.uid()).filter(|owner| *owner != own.0);
            let group = Some(metadata.gid()).filter(|group| *group != own.1);
            let content = fs::read(entry.path())?;
            files.insert(path, ProjectedFile { content, mode, owner, group });
        }
    }
    Ok(files)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
