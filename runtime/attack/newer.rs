//! Calls that are newer than many a filter, and do what older ones were refused for.

// SAFETY, of all blocks below: system calls with constants, null pointers or addresses of live local
// values of the right shape; each is expected to fail, and none keeps a pointer.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::fs::File;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc::{self, c_long};

use super::system_calls::{born, call, text};
use super::{Attempt, errno, ok};

/// Of Linux 6.15; the libc crate has no name for it yet.
const SYS_OPEN_TREE_ATTR: c_long = 467;
const SYS_LSM_SET_SELF_ATTR: c_long = 460;

const HERE: c_long = libc::AT_FDCWD as c_long;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    // Mounts, piece by piece.
    ("move_mount", || {
        let (from, to) = (text("/proc"), text("/tmp"));
        let (from, to) = (from.as_ptr() as c_long, to.as_ptr() as c_long);
        call(libc::SYS_move_mount, HERE, from, HERE, to, 0)
    }),
    ("fspick", || call(libc::SYS_fspick, HERE, text("/").as_ptr() as c_long, 0, 0, 0)),
    ("fsconfig", || call(libc::SYS_fsconfig, 0, 6, 0, 0, 0)),
    ("fsmount", || call(libc::SYS_fsmount, 0, 0, 0, 0, 0)),
    ("mount_setattr", || {
        let change = libc::mount_attr {
            attr_set: 0,
            attr_clr: libc::MOUNT_ATTR_RDONLY,
            propagation: 0,
            userns_fd: 0,
        };
        let (path, change) = (text("/sys"), &raw const change);
        let size = size_of::<libc::mount_attr>() as c_long;
        call(libc::SYS_mount_setattr, HERE, path.as_ptr() as c_long, 0, change as c_long, size)
    }),
    ("open_tree_attr", || {
        let clone = c_long::from(libc::OPEN_TREE_CLONE);
        call(SYS_OPEN_TREE_ATTR, HERE, text("/").as_ptr() as c_long, clone, 0, 0)
    }),
    // Namespaces by a call whose flags no filter can see.
    ("clone3 into new users", || {
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = libc::CLONE_NEWUSER as u64;
        arguments.exit_signal = libc::SIGCHLD as u64;
        let size = size_of::<libc::clone_args>() as c_long;
        born(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) })
    }),
    // Requests that the kernel carries out by itself, past every filter.
    ("io_uring_enter", || call(libc::SYS_io_uring_enter, -1, 0, 0, 0, 0)),
    ("io_uring_register", || call(libc::SYS_io_uring_register, -1, 0, 0, 0, 0)),
    // Other processes, by a handle.
    ("pidfd_getfd", || {
        let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
        call(libc::SYS_pidfd_getfd, Errno::result(handle)?, 0, 0, 0, 0)
    }),
    ("process_madvise", || call(libc::SYS_process_madvise, -1, 0, 0, 0, 0)),
    ("kcmp", || {
        let own = c_long::from(std::process::id());
        call(libc::SYS_kcmp, own, own, 0, 0, 0)
    }),
    ("move_pages", || call(libc::SYS_move_pages, 1, 0, 0, 0, 0)),
    ("setns by a handle", || {
        let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
        let spaces = c_long::from(libc::CLONE_NEWNET | libc::CLONE_NEWNS);
        call(libc::SYS_setns, Errno::result(handle)?, spaces, 0, 0, 0)
    }),
    // The rest.
    ("quotactl_fd", || {
        let root = File::open("/").map_err(|e| errno(&e))?;
        call(libc::SYS_quotactl_fd, root.as_raw_fd().into(), 0, 0, 0, 0)
    }),
    ("swapoff", || call(libc::SYS_swapoff, text("/nothing").as_ptr() as c_long, 0, 0, 0, 0)),
    ("vhangup", || call(libc::SYS_vhangup, 0, 0, 0, 0, 0)),
    ("lsm_set_self_attr", || call(SYS_LSM_SET_SELF_ATTR, 101, 0, 0, 0, 0)),
    ("an attribute of overlayfs", || {
        let file = File::create("/tmp/attribute").map_err(|e| errno(&e))?;
        let (name, value) = (text("trusted.overlay.opaque"), text("y"));
        let (name, value) = (name.as_ptr(), value.as_ptr().cast());
        let set = unsafe { libc::fsetxattr(file.as_raw_fd(), name, value, 1, 0) };
        Errno::result(set).map(ok)
    }),
];
