//! A container's last words: the file it may write before it ends, or the end of its log.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use proto::k8s::api::core::v1::Container;

use super::logs;

/// Kubernetes' bounds.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: u64 = 80;

/// Makes the file empty, so that it can be mounted. Any user of the container may write to it.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = fs::File::create(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o666))
}

/// What the container left; nothing when it left nothing.
pub(crate) fn read(
    container: &Container,
    message: &Path,
    log: &Path,
    exit_code: i32,
) -> Option<String> {
    let said = read_message(message);
    if said.is_some() {
        return said;
    }
    let fall_back =
        container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !fall_back || exit_code == 0 {
        return None;
    }
    let tail = logs::last_lines(log, MAX_LOG_LINES, MAX_LOG_BYTES).ok()?;
    (!tail.is_empty()).then(|| String::from_utf8_lossy(&tail).into_owned())
}

fn read_message(path: &Path) -> Option<String> {
    // The container could write to this file, but not put another one into its place.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
        .ok()?;
    let mut text = Vec::new();
    file.take(MAX_MESSAGE).read_to_end(&mut text).ok()?;
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
}
