//! Attempts with all the power that root has among users of its own making. Where the filter lets namespaces be
//! made, what this power reaches has to be the attacker's own.

// SAFETY, of all blocks below: `fork` and `_exit` in a process without threads; system calls with constants or
// addresses of live local values of the right shape, none of which keeps a pointer.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::fs;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::SFlag;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, getgid, getuid};

use super::escapes::{device, write};
use super::system_calls::{call, mount, text};
use super::{Attempt, Outcome, errno};

/// Makes an attempt in a process of its own, for those that change the process that makes them. A word that is
/// not `ok` becomes it.
pub(crate) fn apart(attempt: impl FnOnce() -> Outcome) -> Outcome {
    match unsafe { fork() }? {
        ForkResult::Child => {
            let code = attempt().map_or_else(|errno| errno as i32, |_| 0);
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok("ok".to_owned()),
            WaitStatus::Exited(_, code) => Err(Errno::from_raw(code)),
            other => Ok(format!("{other:?}")),
        },
    }
}

/// Makes it as root of new users, in namespaces that belong to them.
fn as_new_root(attempt: fn() -> Outcome) -> Outcome {
    apart(|| {
        let (user, group) = (getuid(), getgid());
        unshare(CloneFlags::CLONE_NEWUSER)?;
        let told = |path: &str, text: String| fs::write(path, text).map_err(|e| errno(&e));
        told("/proc/self/setgroups", "deny".to_owned())?;
        told("/proc/self/uid_map", format!("0 {user} 1"))?;
        told("/proc/self/gid_map", format!("0 {group} 1"))?;
        unshare(
            CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWCGROUP
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWIPC
                | CloneFlags::CLONE_NEWUTS,
        )?;
        attempt()
    })
}

/// Mounts control groups at `/tmp` and writes to one of their files, which is there already or not at all.
fn raise(kind: &str, options: &str, file: &str, value: &str) -> Outcome {
    let (name, place, kind, options) = (text("x"), text("/tmp"), text(kind), text(options));
    let (name, place, kind) = (name.as_ptr(), place.as_ptr(), kind.as_ptr());
    let mounted = unsafe { libc::mount(name, place, kind, 0, options.as_ptr().cast()) };
    Errno::result(mounted)?;
    write(&format!("/tmp/{file}"), value)
}

pub(crate) const ATTEMPTS: &[Attempt] = &[
    ("as new root: proc", || as_new_root(|| mount("x", "/tmp", "proc", 0))),
    ("as new root: sysfs", || as_new_root(|| mount("x", "/tmp", "sysfs", 0))),
    ("as new root: debugfs", || as_new_root(|| mount("x", "/tmp", "debugfs", 0))),
    ("as new root: uncover /proc", || {
        as_new_root(|| {
            let path = text("/proc/sys");
            Errno::result(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }).map(super::ok)
        })
    }),
    ("as new root: remount /proc/sys", || {
        as_new_root(|| mount("", "/proc/sys", "", libc::MS_REMOUNT | libc::MS_BIND))
    }),
    ("as new root: limits of version 1", || {
        as_new_root(|| raise("cgroup", "memory", "memory.limit_in_bytes", "1073741824"))
    }),
    ("as new root: processes of version 1", || {
        as_new_root(|| raise("cgroup", "pids", "pids.max", "max"))
    }),
    ("as new root: release_agent", || {
        as_new_root(|| raise("cgroup", "pids", "release_agent", "/tmp/x"))
    }),
    ("as new root: limits of version 2", || {
        as_new_root(|| raise("cgroup2", "", "memory.max", "max"))
    }),
    ("as new root: core_pattern", || {
        as_new_root(|| write("/proc/sys/kernel/core_pattern", "|/tmp/x"))
    }),
    ("as new root: node of a disk", || as_new_root(|| device(SFlag::S_IFBLK, 254, 0))),
    ("as new root: init_module", || {
        as_new_root(|| call(libc::SYS_init_module, 0, 0, text("").as_ptr() as _, 0, 0))
    }),
    ("as new root: a disk's file system", || as_new_root(|| mount("/dev/null", "/tmp", "ext4", 0))),
    ("as new root: syslog", || as_new_root(|| call(libc::SYS_syslog, 3, 0, 0, 0, 0))),
    ("as new root: the clock", || {
        as_new_root(|| {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let clock = libc::CLOCK_REALTIME.into();
            call(libc::SYS_clock_settime, clock, &raw const now as _, 0, 0, 0)
        })
    }),
];
