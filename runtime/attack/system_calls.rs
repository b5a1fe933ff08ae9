//! System calls that reach the kernel as a whole, or other namespaces.

// SAFETY, of all blocks below: system calls with constants, null pointers or addresses of live local
// values of the right shape; each is expected to fail, and none keeps a pointer.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, c_long};

use super::nested::apart;
use super::{Attempt, Outcome, errno, ok, others};

pub(crate) fn call(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
) -> Outcome {
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    Errno::result(result).map(ok)
}

/// Ends the child that a call has made, and waits for it in its parent.
pub(crate) fn born(result: c_long) -> Outcome {
    let child = match Errno::result(result)? {
        0 => unsafe { libc::_exit(0) },
        child => child as libc::pid_t,
    };
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).map(ok)
}

pub(crate) fn text(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

pub(crate) fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> Outcome {
    let (source, target, kind) = (text(source), text(target), text(kind));
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, ptr::null()) };
    Errno::result(result).map(ok)
}

pub(crate) const ATTEMPTS: &[Attempt] = &[
    // Mounts.
    ("mount tmpfs", || mount("x", "/tmp", "tmpfs", 0)),
    ("mount cgroup", || mount("x", "/tmp", "cgroup", 0)),
    ("mount cgroup2", || mount("x", "/tmp", "cgroup2", 0)),
    ("mount proc", || mount("x", "/tmp", "proc", 0)),
    ("mount over /etc", || mount("/tmp", "/etc", "", libc::MS_BIND)),
    ("remount /proc/sys", || mount("", "/proc/sys", "", libc::MS_REMOUNT | libc::MS_BIND)),
    ("remount /sys", || mount("", "/sys", "", libc::MS_REMOUNT)),
    ("share mounts", || mount("", "/", "", libc::MS_SHARED | libc::MS_REC)),
    ("umount /proc/kcore", || {
        let path = text("/proc/kcore");
        Errno::result(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }).map(ok)
    }),
    ("pivot_root", || {
        let path = text("/tmp");
        call(libc::SYS_pivot_root, path.as_ptr() as c_long, path.as_ptr() as c_long, 0, 0, 0)
    }),
    ("fsopen", || call(libc::SYS_fsopen, text("tmpfs").as_ptr() as c_long, 0, 0, 0, 0)),
    ("open_tree", || {
        let path = text("/");
        let clone = c_long::from(libc::OPEN_TREE_CLONE);
        call(libc::SYS_open_tree, libc::AT_FDCWD.into(), path.as_ptr() as c_long, clone, 0, 0)
    }),
    // Namespaces.
    ("unshare users", || apart(|| call(libc::SYS_unshare, libc::CLONE_NEWUSER.into(), 0, 0, 0, 0))),
    ("unshare mounts", || apart(|| call(libc::SYS_unshare, libc::CLONE_NEWNS.into(), 0, 0, 0, 0))),
    ("unshare network", || {
        apart(|| call(libc::SYS_unshare, libc::CLONE_NEWNET.into(), 0, 0, 0, 0))
    }),
    ("clone into new users", || {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        born(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })
    }),
    ("clone3", || {
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        let size = size_of::<libc::clone_args>() as c_long;
        let at = &raw const arguments;
        born(unsafe { libc::syscall(libc::SYS_clone3, at, size) })
    }),
    ("setns", || {
        let namespace = File::open("/proc/self/ns/net").map_err(|e| errno(&e))?;
        call(libc::SYS_setns, namespace.as_raw_fd().into(), 0, 0, 0, 0)
    }),
    // The kernel itself.
    ("init_module", || call(libc::SYS_init_module, 0, 0, text("").as_ptr() as c_long, 0, 0)),
    ("finit_module", || call(libc::SYS_finit_module, 0, text("").as_ptr() as c_long, 0, 0, 0)),
    ("delete_module", || {
        call(libc::SYS_delete_module, text("loop").as_ptr() as c_long, 0, 0, 0, 0)
    }),
    ("kexec_load", || call(libc::SYS_kexec_load, 0, 0, 0, 0, 0)),
    ("bpf", || call(libc::SYS_bpf, 0, 0, 0, 0, 0)),
    ("perf_event_open", || call(libc::SYS_perf_event_open, 0, 0, -1, -1, 0)),
    ("userfaultfd", || call(libc::SYS_userfaultfd, 0, 0, 0, 0, 0)),
    ("io_uring_setup", || call(libc::SYS_io_uring_setup, 1, 0, 0, 0, 0)),
    ("syslog", || call(libc::SYS_syslog, 3, 0, 0, 0, 0)),
    ("reboot", || {
        // Only asks for Ctrl-Alt-Del to be a signal, should it ever get through.
        let (first, second) = (libc::LINUX_REBOOT_MAGIC1, libc::LINUX_REBOOT_MAGIC2);
        let command = libc::LINUX_REBOOT_CMD_CAD_OFF;
        call(libc::SYS_reboot, first.into(), second.into(), command.into(), 0, 0)
    }),
    ("swapon", || call(libc::SYS_swapon, text("/nothing").as_ptr() as c_long, 0, 0, 0, 0)),
    ("acct", || call(libc::SYS_acct, text("/tmp/acct").as_ptr() as c_long, 0, 0, 0, 0)),
    ("quotactl", || call(libc::SYS_quotactl, 0, 0, 0, 0, 0)),
    ("fanotify_init", || call(libc::SYS_fanotify_init, 0, 0, 0, 0, 0)),
    ("open_by_handle_at", || {
        // The root folder of most file systems has the handle 2 or 128.
        let mut handle = [0u32; 6];
        (handle[0], handle[1], handle[2]) = (8, 1, 2);
        let root = File::open("/").map_err(|e| errno(&e))?;
        let at = handle.as_ptr() as c_long;
        call(libc::SYS_open_by_handle_at, root.as_raw_fd().into(), at, 0, 0, 0)
    }),
    // Keys, which no namespace separates.
    ("add_key", || {
        let (kind, name) = (text("user"), text("kutter"));
        let session = c_long::from(libc::KEY_SPEC_USER_KEYRING);
        let (kind, name) = (kind.as_ptr() as c_long, name.as_ptr() as c_long);
        call(libc::SYS_add_key, kind, name, name, 3, session)
    }),
    ("keyctl", || call(libc::SYS_keyctl, 0, libc::KEY_SPEC_USER_KEYRING.into(), 0, 0, 0)),
    ("request_key", || {
        let (kind, name) = (text("user"), text("kutter"));
        call(libc::SYS_request_key, kind.as_ptr() as c_long, name.as_ptr() as c_long, 0, 0, 0)
    }),
    // The machine.
    ("sethostname", || call(libc::SYS_sethostname, text("mine").as_ptr() as c_long, 4, 0, 0, 0)),
    ("settimeofday", || {
        let now = libc::timeval { tv_sec: 0, tv_usec: 0 };
        call(libc::SYS_settimeofday, &raw const now as c_long, 0, 0, 0, 0)
    }),
    ("clock_settime", || {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let clock = c_long::from(libc::CLOCK_REALTIME);
        call(libc::SYS_clock_settime, clock, &raw const now as c_long, 0, 0, 0)
    }),
    ("adjtimex", || {
        let mut change: libc::timex = unsafe { std::mem::zeroed() };
        change.modes = libc::ADJ_TICK;
        change.tick = 10_000;
        Errno::result(unsafe { libc::adjtimex(&raw mut change) }).map(ok)
    }),
    #[cfg(target_arch = "x86_64")]
    ("iopl", || call(libc::SYS_iopl, 3, 0, 0, 0, 0)),
    #[cfg(target_arch = "x86_64")]
    ("ioperm", || call(libc::SYS_ioperm, 0x80, 1, 1, 0, 0)),
    ("personality", || call(libc::SYS_personality, 0x4000_0000, 0, 0, 0, 0)),
    // Precedence over others.
    ("real-time scheduling", || {
        let parameter = libc::sched_param { sched_priority: 1 };
        let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
        Errno::result(result).map(ok)
    }),
    ("priority", || {
        Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) }).map(ok)
    }),
    ("real-time i/o", || call(libc::SYS_ioprio_set, 1, 0, 1 << 13, 0, 0)),
    ("raise the descriptor limit", || {
        let limit = libc::rlimit { rlim_cur: 1 << 30, rlim_max: 1 << 30 };
        Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(ok)
    }),
    ("be spared by the oom killer", || {
        fs::write("/proc/self/oom_score_adj", "-1000").map(ok).map_err(|e| errno(&e))
    }),
    // Other processes.
    ("signal any other process", || {
        let own = std::process::id() as i32;
        // Its own processes are itself and, should it not be the first, that one.
        let found = (2..=65_536)
            .filter(|pid| *pid != own)
            .any(|pid| Errno::result(unsafe { libc::kill(pid, 0) }) != Err(Errno::ESRCH));
        if found { Ok("ok".to_owned()) } else { Err(Errno::ESRCH) }
    }),
    ("signal the parent", || {
        // Seen from the first process of a namespace its parent has no number.
        let parent = unsafe { libc::getppid() };
        Ok(if parent == 0 { "none".to_owned() } else { parent.to_string() })
    }),
    ("the group of processes", || {
        // A signal to the whole group would reach those that it shares it with, seen or not.
        let (group, session) = unsafe { (libc::getpgid(0), libc::getsid(0)) };
        Ok(if group > 0 && session > 0 { "own".to_owned() } else { "ok".to_owned() })
    }),
    ("trace the first process", || {
        if std::process::id() == 1 {
            return Ok("itself".to_owned());
        }
        Errno::result(unsafe { libc::ptrace(libc::PTRACE_SEIZE, 1, 0, 0) }).map(ok)
    }),
    ("shared memory of others", || {
        Errno::result(unsafe { libc::shmget(others::KEY, 1, 0) }).map(ok)
    }),
    ("semaphores of others", || Errno::result(unsafe { libc::semget(others::KEY, 1, 0) }).map(ok)),
    ("messages of others", || Errno::result(unsafe { libc::msgget(others::KEY, 0) }).map(ok)),
    ("file in memory of others", || File::open(others::FILE).map(ok).map_err(|e| errno(&e))),
    ("message queue of others", || {
        let name = text(others::QUEUE);
        Errno::result(unsafe { libc::mq_open(name.as_ptr(), libc::O_RDONLY) }).map(ok)
    }),
    ("abstract socket of others", || {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::{SocketAddr, UnixStream};
        let address = SocketAddr::from_abstract_name(others::SOCKET).map_err(|e| errno(&e))?;
        UnixStream::connect_addr(&address).map(ok).map_err(|e| errno(&e))
    }),
];
