//! What is mounted, by the kernel's table.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, StatxFlags};

/// A line of `/proc/PID/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number in the mount namespace, which `statx` tells as well.
    pub id: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// Where, as the process sees it.
    pub point: PathBuf,
    /// Whether what is mounted below it shows in its peers, and the other way round.
    pub is_shared: bool,
    /// Whether what is mounted below its master shows here.
    pub is_slave: bool,
}

/// All mounts that this process sees, in the order in which they were made.
pub fn visible() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// The mount that an open file or folder is on.
pub(crate) fn of(opened: impl AsFd) -> io::Result<MountEntry> {
    let found = rustix::fs::statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let entry = visible()?.into_iter().find(|entry| entry.id == found.stx_mnt_id);
    entry.ok_or_else(|| io::Error::other("it is not among the mounts of this process"))
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 / /mnt/a\040b rw,noatime shared:1 master:2 - ext3 /dev/root rw`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse::<u64>().ok();
    let (id, parent) = (number()?, number()?);
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(2)?)));
    let optional: Vec<&[u8]> = fields.skip(1).take_while(|field| *field != b"-").collect();
    let has = |prefix: &[u8]| optional.iter().any(|field| field.starts_with(prefix));
    Some(MountEntry { id, parent, point, is_shared: has(b"shared:"), is_slave: has(b"master:") })
}

/// Undoes the octal escapes of blanks, line ends and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_with_odd_names_and_propagation() {
        let text = b"36 35 98:0 / /mnt/a\\040b rw - ext3 /dev/root rw\n\
            37 36 0:3 /x /x rw,noatime shared:4 - tmpfs t rw\n\
            38 36 0:3 / /y\\134 rw shared:5 master:4 propagate_from:2 - tmpfs shared:9 rw\n\n";
        let entry = |id, parent, point: &str, is_shared, is_slave| MountEntry {
            id,
            parent,
            point: PathBuf::from(point),
            is_shared,
            is_slave,
        };
        assert_eq!(
            parse(text),
            [
                entry(36, 35, "/mnt/a b", false, false),
                entry(37, 36, "/x", true, false),
                entry(38, 36, "/y\\", true, true),
            ]
        );
    }
}
