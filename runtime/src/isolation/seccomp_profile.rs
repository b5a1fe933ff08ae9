//! The default system-call filter: what containers customarily get, as data.
//!
//! Everything not named here fails with EPERM. Left out are calls that reach the kernel or
//! other namespaces as a whole (modules, kexec, mounts, swap, clocks), old ones with a bad
//! record, and `io_uring`, which performs operations past the filter. Some come back with the
//! capability that governs them anyhow.

use super::Capabilities;

/// Calls that are always allowed.
pub(super) const ALLOWED: &[&[&str]] = &[FILES, PROCESSES, MEMORY, TIME, NETWORK, IDENTITY];

/// Files, folders, attributes, events on descriptors, asynchronous reads and writes.
#[rustfmt::skip]
const FILES: &[&str] = &[
    "_llseek", "_newselect", "access", "chdir", "chmod", "chown", "chown32", "close",
    "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create",
    "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "faccessat", "faccessat2", "fadvise64",
    "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchown",
    "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock",
    "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync",
    "ftruncate", "ftruncate64", "futimesat", "getcwd", "getdents", "getdents64", "getxattr",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel",
    "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup",
    "io_submit", "ioctl", "lchown", "lchown32", "lgetxattr", "link", "linkat", "listxattr",
    "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "mkdir", "mkdirat",
    "mknod", "mknodat", "name_to_handle_at", "newfstatat", "open", "openat", "openat2", "pipe",
    "pipe2", "poll", "ppoll", "ppoll_time64", "pread64", "preadv", "preadv2", "pselect6",
    "pselect6_time64", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink",
    "readlinkat", "readv", "removexattr", "rename", "renameat", "renameat2", "rmdir", "select",
    "sendfile", "sendfile64", "setxattr", "splice", "stat", "stat64", "statfs", "statfs64",
    "statx", "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "tee", "truncate",
    "truncate64", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64",
    "utimes", "vmsplice", "write", "writev",
];

/// Processes, threads, signals, scheduling, limits, and Landlock, which only takes away.
#[rustfmt::skip]
const PROCESSES: &[&str] = &[
    "arch_prctl", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_time64",
    "futex_waitv", "get_robust_list", "get_thread_area", "getcpu", "getitimer", "getpgid",
    "getpgrp", "getpid", "getppid", "getpriority", "getrlimit", "getrusage", "getsid", "gettid",
    "ioprio_get", "ioprio_set", "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "membarrier", "modify_ldt", "pause", "pidfd_open",
    "pidfd_send_signal", "prctl", "prlimit64", "process_mrelease", "process_vm_readv",
    "process_vm_writev", "ptrace", "restart_syscall", "rseq", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
    "seccomp", "set_robust_list", "set_thread_area", "set_tid_address", "setitimer", "setpgid",
    "setpriority", "setrlimit", "setsid", "sigaltstack", "signal", "signalfd", "signalfd4",
    "sigpending", "sigprocmask", "sigreturn", "sigsuspend", "sysinfo", "tgkill", "tkill",
    "ugetrlimit", "uname", "vfork", "wait4", "waitid", "waitpid",
];

/// Memory and System V and POSIX ways to share it or send messages.
#[rustfmt::skip]
const MEMORY: &[&str] = &[
    "brk", "ipc", "madvise", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2",
    "mlockall", "mmap", "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open",
    "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
    "mq_unlink", "mremap", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock",
    "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages",
    "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "shmat", "shmctl", "shmdt",
    "shmget",
];

/// Reading clocks, sleeping, timers. Setting a clock is refused by the kernel without
/// CAP_SYS_TIME, but the calls named here also read.
#[rustfmt::skip]
const TIME: &[&str] = &[
    "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres",
    "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
    "clock_nanosleep_time64", "gettimeofday", "nanosleep", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64", "times",
];

/// Sockets, but for the making of one, which looks at the family. What 32-bit programs use instead, `socketcall`,
/// has its arguments in memory, where no filter sees them; without it they would have no sockets at all. There
/// AppArmor's profile is what keeps a family away.
#[rustfmt::skip]
const NETWORK: &[&str] = &[
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg",
    "sendto", "setsockopt", "shutdown", "socketcall", "socketpair",
];

/// Users, groups, capabilities, random numbers.
#[rustfmt::skip]
const IDENTITY: &[&str] = &[
    "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32",
    "getgroups", "getgroups32", "getrandom", "getresgid", "getresgid32", "getresuid",
    "getresuid32", "getuid", "getuid32", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32",
    "setgid", "setgid32", "setgroups", "setgroups32", "setregid", "setregid32", "setresgid",
    "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setuid", "setuid32",
];

/// Calls of the ARM architectures alone.
#[rustfmt::skip]
pub(super) const ALLOWED_ON_ARM: &[&str] = &[
    "arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls",
    "sync_file_range2",
];

/// What comes back with a capability.
#[rustfmt::skip]
pub(super) const ALLOWED_WITH: &[(&str, &[&str])] = &[
    ("BPF", &["bpf"]),
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("PERFMON", &["perf_event_open"]),
    ("SYSLOG", &["syslog"]),
    (
        "SYS_ADMIN",
        &[
            "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
            "lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree",
            "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns",
            "syslog", "umount", "umount2", "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
];

/// Execution domains that are plain Linux: Linux itself, with 2.6 in its version, with
/// addresses not randomised, both, and the question which is set.
pub(super) const PERSONALITIES: &[u64] = &[0x0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// The families of sockets that may be made, as masks of what is passed and values below them: all but two. That
/// of the kernel's ciphers (38) reaches code that has let its users change cached pages of files, and so of what
/// other containers execute; that between virtual machines and their host (40) is confined by no namespace.
///
/// The kernel takes an `int` and leaves out the upper half of the register, so the masks do, too: a filter that
/// compared all of it would be passed by any number whose upper half is not zero. What has no family yet is refused.
pub(super) const SOCKET_FAMILIES: &[(u64, u64)] = &[
    (0xffff_ffe0, 0),  // to 31
    (0xffff_fffc, 32), // to 35
    (0xffff_fffe, 36), // and 37
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42), // and 43
    (0xffff_fffc, 44), // to 47
];

/// The flags of `clone` that make namespaces. `clone3` hides its flags from a filter, so it is
/// said not to exist, and the C libraries fall back to `clone`.
pub(super) const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// From this number on every architecture counts alike, and the libseccomp of the oldest
/// supported distribution knows no names: these calls are decided by number.
pub(super) const FIRST_BY_NUMBER: u32 = 451;

/// cachestat, fchmodat2, map_shadow_stack, futex_wake, futex_wait, futex_requeue, mseal,
/// setxattrat, getxattrat, listxattrat, removexattrat.
pub(super) const ALLOWED_BY_NUMBER: &[u32] =
    &[451, 452, 453, 454, 455, 456, 462, 463, 464, 465, 466];

/// Names of all calls that this profile allows without looking at their arguments.
pub(super) fn allowed(capabilities: Capabilities) -> Vec<&'static str> {
    let always = ALLOWED.iter().flat_map(|group| group.iter());
    let granted = ALLOWED_WITH.iter().filter(|(name, _)| capabilities.has(name));
    let granted = granted.flat_map(|(_, calls)| calls.iter());
    let arm = ALLOWED_ON_ARM.iter().filter(|_| cfg!(target_arch = "aarch64"));
    let mut names: Vec<_> = always.chain(granted).chain(arm).copied().collect();
    names.sort_unstable();
    names.dedup();
    names
}
