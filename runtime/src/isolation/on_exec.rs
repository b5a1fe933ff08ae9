//! What the next `execve` of this process is told by a file of `/proc`.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Writes to an attribute of this thread, `attr/exec` or the like.
///
/// This is written to `/proc` as the container has it, in which it may have put something else in the place of
/// this file, and would so have its program run unconfined. So it has to be the kernel's, and no mount on the
/// way may be another's.
pub(super) fn write(attribute: &str, text: &str) -> io::Result<()> {
    /// The root of every procfs.
    const ROOT_INODE: u64 = 1;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    let kind = rustix::fs::fstatfs(&proc)?.f_type;
    if kind != rustix::fs::PROC_SUPER_MAGIC || rustix::fs::fstat(&proc)?.st_ino != ROOT_INODE {
        return Err(io::Error::other("/proc is not the kernel's"));
    }
    let file = rustix::fs::openat2(
        proc.as_fd(),
        format!("thread-self/{attribute}"),
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS,
    )?;
    fs::File::from(file).write_all(text.as_bytes())
}
