//! Folders with a mode and a group.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a folder is like, whatever the umask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) mode: u32,
    pub(super) group: Option<u32>,
}

/// What its group may do in a volume's folder: all, and what is made in there is the group's as well.
const OF_GROUP: u32 = 0o2770;

impl Folder {
    pub(super) fn new(mode: u32) -> Self {
        Self { mode, group: None }
    }

    /// The same for the group of a pod's volumes that the kubelet writes: it reads.
    pub(super) fn of_group(self, group: Option<u32>) -> Self {
        match group {
            None => self,
            group => Self { mode: self.mode | 0o2550, group },
        }
    }

    /// The same for the group of a pod's volumes that its containers write.
    pub(super) fn shared_by(self, group: Option<u32>) -> Self {
        match group {
            None => self,
            group => Self { mode: self.mode | OF_GROUP, group },
        }
    }

    /// Makes it; it must not be there.
    pub(super) fn make(self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        std::os::unix::fs::chown(path, None, self.group)?;
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode))
    }

    /// Makes it, unless it is there: then containers may have changed it, and it stays as it is. It
    /// appears whole.
    pub(super) fn ensure(self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(path);
        fs::create_dir_all(parent)?;
        // No volume's name starts with a dot.
        let new =
            parent.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
        match fs::remove_dir(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.make(&new)?;
        fs::rename(&new, path)
    }
}
