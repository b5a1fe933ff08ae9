//! Users and groups by the names an image has for them.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::ImageError;
use crate::api::User;

/// A larger `/etc/passwd` or `/etc/group` is not read; real ones have a few KiB.
const MAX_FILE: u64 = 1 << 20;

/// The numeric form of `user`, `uid`, `user:group` or `uid:gid`, as the `/etc/passwd` and
/// `/etc/group` of the unpacked layers (the lowest first) say. An empty text means root. A user given
/// by name, or by a number that the image knows, gets its primary and further groups.
///
/// # Errors
/// When a name is not known to the image.
pub fn resolve_user(layers: &[PathBuf], user: &str) -> Result<User, ImageError> {
    let (user_part, group_part) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let passwd = read(layers, "etc/passwd");
    let group = read(layers, "etc/group");

    let known = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 4 && (fields[0] == user_part || fields[2] == user_part));
    let uid = match user_part.parse::<u32>() {
        Ok(uid) => uid,
        Err(_) => known
            .as_ref()
            .and_then(|fields| fields[2].parse().ok())
            .ok_or_else(|| ImageError::NoSuchUser { name: user_part.to_owned() })?,
    };
    let gid = match group_part.filter(|group| !group.is_empty()) {
        Some(name) => match name.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => groups(&group)
                .find(|fields| fields[0] == name)
                .and_then(|fields| fields[2].parse().ok())
                .ok_or_else(|| ImageError::NoSuchUser { name: name.to_owned() })?,
        },
        None => known.as_ref().and_then(|fields| fields[3].parse().ok()).unwrap_or(0),
    };
    // As container engines do it: an explicit group replaces the further groups as well.
    let mut additional_gids: Vec<u32> = match (&known, group_part) {
        (Some(known), None) => groups(&group)
            .filter(|fields| fields[3].split(',').any(|member| member == known[0]))
            .filter_map(|fields| fields[2].parse().ok())
            .filter(|other| *other != gid)
            .collect(),
        _ => Vec::new(),
    };
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User { uid, gid, additional_gids })
}

fn groups(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4)
}

/// The file as the uppermost layer that has it says; empty when none has it.
fn read(layers: &[PathBuf], path: &str) -> String {
    for layer in layers.iter().rev() {
        let Ok(root) = rustix::fs::open(layer, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
        else {
            continue;
        };
        // Symbolic links in the image must not lead out of it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) else {
            continue;
        };
        let file = std::fs::File::from(file);
        match file.metadata() {
            // A whiteout: the file was deleted in this layer.
            Ok(metadata) if metadata.file_type().is_char_device() => return String::new(),
            Ok(metadata) if metadata.is_file() => {
                let mut text = Vec::new();
                if file.take(MAX_FILE).read_to_end(&mut text).is_ok() {
                    return String::from_utf8_lossy(&text).into_owned();
                }
            }
            _ => {}
        }
    }
    String::new()
}
