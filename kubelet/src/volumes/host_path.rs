//! `hostPath` volumes: the path must be what the pod says it is.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use proto::k8s::api::core::v1::HostPathVolumeSource;

/// Checks, and for the `OrCreate` types makes, what is at the path. The error is for the user.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    if !path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") {
        return Err(format!("{} is not an absolute path without \"..\"", source.path));
    }
    let wanted = source.type_.as_deref().unwrap_or_default();
    create(path, wanted).map_err(|error| format!("failed to make {}: {error}", source.path))?;
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("failed to look at {}: {error}", source.path)),
    };
    let (fits, what) = match wanted {
        // Nothing is checked, but there must be something to mount.
        "" => (found.is_some(), "there"),
        "DirectoryOrCreate" | "Directory" => (found.is_some_and(|t| t.is_dir()), "a directory"),
        "FileOrCreate" | "File" => (found.is_some_and(|t| t.is_file()), "a file"),
        "Socket" => (found.is_some_and(|t| t.is_socket()), "a socket"),
        "CharDevice" => (found.is_some_and(|t| t.is_char_device()), "a character device"),
        "BlockDevice" => (found.is_some_and(|t| t.is_block_device()), "a block device"),
        other => return Err(format!("unknown hostPath type {other:?}")),
    };
    match fits {
        true => Ok(()),
        false => Err(format!("hostPath type check failed: {} is not {what}", source.path)),
    }
}

fn create(path: &Path, wanted: &str) -> io::Result<()> {
    match wanted {
        // Kubernetes leaves this to the container runtime, which makes a missing folder.
        "" if !path.exists() => fs::DirBuilder::new().recursive(true).mode(0o755).create(path),
        "DirectoryOrCreate" if !path.exists() => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
        }
        "FileOrCreate" => {
            let mut options = fs::OpenOptions::new();
            match options.write(true).create_new(true).mode(0o644).open(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                result => result.map(|_| ()),
            }
        }
        _ => Ok(()),
    }
}
