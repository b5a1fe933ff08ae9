//! Finds the beginning of the last lines of a log without reading what comes before them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Entry, Segment};

const BLOCK: u64 = 64 * 1024;

/// The file and offset at which the last `lines` lines begin; nothing when there is no file.
pub(super) fn start(files: &[Segment], lines: u64) -> io::Result<Option<(Segment, u64)>> {
    let mut left = lines;
    for segment in files.iter().rev() {
        let file = match File::open(&segment.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let Some(offset) = start_in(&file, &mut left)? {
            return Ok(Some((segment.clone(), offset)));
        }
    }
    Ok(files.first().map(|segment| (segment.clone(), 0)))
}

/// Goes through the file from its end; nothing when it has no more than `left` lines, which are
/// then taken off.
fn start_in(file: &File, left: &mut u64) -> io::Result<Option<u64>> {
    let mut begin = file.metadata()?.len();
    // From `begin` on, up to the end of the last entry not looked at yet.
    let mut carry: Vec<u8> = Vec::new();
    // What follows the last line feed is not complete, and not a line yet.
    let mut at_end = true;
    while begin > 0 {
        let step = BLOCK.min(begin);
        begin -= step;
        let mut block = vec![0; usize::try_from(step).unwrap_or(0)];
        file.read_exact_at(&mut block, begin)?;
        block.extend_from_slice(&carry);
        let mut end = block.len();
        while let Some(feed) = block[..end].iter().rposition(|byte| *byte == b'\n') {
            let after = feed + 1;
            if !at_end && ends_line(&block[after..end]) && count(left) {
                // The entry that ends here belongs to the line before the first one wanted.
                return Ok(Some(begin + end as u64 + 1));
            }
            at_end = false;
            end = feed;
        }
        block.truncate(end);
        carry = block;
    }
    if !at_end && ends_line(&carry) && count(left) {
        return Ok(Some(carry.len() as u64 + 1));
    }
    Ok(None)
}

fn ends_line(raw: &[u8]) -> bool {
    Entry::parse(raw).is_none_or(|entry| entry.full)
}

/// Counts one line; whether it is one too many.
fn count(left: &mut u64) -> bool {
    match left.checked_sub(1) {
        Some(rest) => {
            *left = rest;
            false
        }
        None => true,
    }
}
