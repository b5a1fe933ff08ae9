//! System calls that neither nix nor rustix offers as safe functions.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

/// Which side of a fork this is.
pub(crate) enum Fork {
    Parent(Pid),
    Child,
}

/// Forks a process that has one thread, as the shim and its creators do.
pub(crate) fn fork() -> nix::Result<Fork> {
    // SAFETY: the shim's process never starts a thread, so the child finds every lock, the
    // allocator's included, as free as the parent left it.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Forks a process with one thread so that the child's parent is this process' own parent, and
/// the child is in a control group of version 2, given as its folder.
pub(crate) fn fork_sibling(group: Option<BorrowedFd<'_>>) -> nix::Result<Fork> {
    // The signal at its end is then the one of this process, SIGCHLD.
    clone(libc::CLONE_PARENT as u64, 0, group)
}

/// Forks a process with one thread into a control group of version 2, given as its folder.
pub(crate) fn fork_into(group: BorrowedFd<'_>) -> nix::Result<Fork> {
    clone(0, libc::SIGCHLD as u64, Some(group))
}

fn clone(flags: u64, exit_signal: u64, group: Option<BorrowedFd<'_>>) -> nix::Result<Fork> {
    /// The libc crate's constant of this name is too narrow.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: all of the structure is plain data, for which zeroes are a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    (arguments.flags, arguments.exit_signal) = (flags, exit_signal);
    if let Some(group) = group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: no new stack and no shared memory: this is a fork, and as above there is only one
    // thread. The structure has the size that is passed and outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of::<libc::clone_args>()) };
    match Errno::result(pid)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid as libc::pid_t))),
    }
}

/// Ends this process at once, without running what the parent has registered for its exit.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(code) }
}

/// Sends any signal, those without a name of their own included.
pub(crate) fn send_signal(pid: rustix::process::Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory of this process.
    let result = unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
    Errno::result(result)?;
    Ok(())
}

/// Gives all signals their default meaning and blocks none, as a program expects to be started.
pub(crate) fn reset_signals() -> nix::Result<()> {
    /// A `struct sigaction` of the kernel is shorter than this on every architecture, and zeroes
    /// are the default action without flags.
    const DEFAULT_ACTION: [u64; 8] = [0; 8];
    /// Bytes of the kernel's set of signals.
    const SET_BYTES: usize = 8;
    for number in 1..=64 {
        if matches!(number, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        // The C library refuses to touch the two signals that it keeps for itself, but a caller
        // may have ignored them as well.
        // SAFETY: the default action is no handler, so nothing can be called; the kernel reads
        // the structure and writes nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                DEFAULT_ACTION.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SET_BYTES,
            )
        };
        Errno::result(result)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Ignores a signal.
pub(crate) fn ignore(signal: nix::sys::signal::Signal) -> nix::Result<()> {
    // SAFETY: ignoring is no handler, so nothing can be called.
    unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) }.map(drop)
}

/// Closes all descriptors of a process that will use none any more.
pub(crate) fn close_all() -> nix::Result<()> {
    // SAFETY: the caller, the first process of a sandbox, does nothing but pause from here on: no
    // owner of a descriptor is ever used or dropped.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 0u32, u32::MAX, 0) };
    Errno::result(result).map(drop)
}

/// Closes all descriptors but the first three and this one, of a process that uses no other and never
/// returns to what does.
pub(crate) fn close_all_but(kept: BorrowedFd<'_>) -> nix::Result<()> {
    let kept = kept.as_raw_fd().unsigned_abs();
    for (first, last) in [(3, kept.saturating_sub(1)), (kept + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: the caller, a fork that ends without dropping what its parent had, uses nothing
            // that owns one of these.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            Errno::result(result)?;
        }
    }
    Ok(())
}

/// Closes these in a fork that uses nothing that owns them, and ends without dropping it.
pub(crate) fn close_in_fork(descriptors: &[BorrowedFd<'_>]) {
    for descriptor in descriptors {
        // SAFETY: by the above, nobody takes whatever gets the number next for what had it.
        unsafe { libc::close(descriptor.as_raw_fd()) };
    }
}

/// Closes what whoever started this program left open, all but the first three. Only for the first
/// thing that a program does.
pub(crate) fn close_inherited() -> nix::Result<()> {
    // SAFETY: nothing is open yet that anything in this program owns.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0) };
    Errno::result(result).map(drop)
}

/// Makes sure that no descriptor but the first three outlives the next `execve`.
pub(crate) fn close_others_on_exec() -> nix::Result<()> {
    // SAFETY: this only sets a flag of descriptors; none is closed now.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Gives this process a new, empty session keyring, in which nobody else is. Where the kernel keeps no keys
/// there are none to be kept apart.
pub(crate) fn leave_session_keyring() -> io::Result<()> {
    // SAFETY: with a null name a new keyring is made; nothing else is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Installs a compiled system-call filter for this thread, and all it becomes.
pub(crate) fn install_filter(program: &[u8]) -> io::Result<()> {
    const INSTRUCTION_BYTES: usize = size_of::<libc::sock_filter>();
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION_BYTES) {
        return Err(io::Error::other("the compiled system-call filter is damaged"));
    }
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION_BYTES)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let len = u16::try_from(instructions.len())
        .map_err(|_| io::Error::other("the compiled system-call filter is too long"))?;
    let filter = libc::sock_fprog { len, filter: instructions.as_mut_ptr() };
    // SAFETY: the structure and the instructions it points to live until the call returns; the
    // kernel copies and verifies them.
    let result = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as libc::c_ulong, &filter)
    };
    Errno::result(result)?;
    Ok(())
}

/// Has the async runtime watch a descriptor.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is returned, so it neither changes nor closes while
    // it is registered.
    unsafe { AsyncFd::register(descriptor) }.map_err(|e| e.into_parts().1)
}

/// Shows the files of a mount that is not in use yet as those of other users: of the user namespace,
/// who is 0 in the files is who is 0 in there. With `below`, those of all mounts below it too.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, users: BorrowedFd<'_>, below: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    let recursive = if below { libc::AT_RECURSIVE } else { 0 };
    set_attributes(mount, &attributes, recursive)
}

fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: &libc::mount_attr,
    flags: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the empty path is a terminated string, the structure has the size that is passed,
    // and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// A private copy of the mount that a file is on, showing only this file, refusing writes. What
/// is executed from it cannot be overwritten through `/proc/PID/exe`.
pub(crate) fn read_only_view(path: &Path) -> io::Result<OwnedFd> {
    use rustix::mount::OpenTreeFlags;
    let view = rustix::mount::open_tree(
        rustix::fs::CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(view.as_fd(), &attributes, 0)?;
    Ok(view)
}

/// Gives the memory back in which this program and its libraries are, as far as it is a copy of
/// their files. What is needed again comes back by itself.
pub(crate) fn release_program_pages() -> io::Result<()> {
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    let mut mapping = None;
    for line in text.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            // "55d0c1a00000-55d0c1c00000 r-xp 00000000 fe:00 1234    /usr/bin/shim"
            let of_file = line.contains(" /") && !line.contains(" (deleted)");
            let read_only = line.split(' ').nth(1).is_some_and(|access| !access.contains('w'));
            let bounds =
                usize::from_str_radix(start, 16).ok().zip(usize::from_str_radix(end, 16).ok());
            mapping = bounds.filter(|_| of_file && read_only);
        } else if line.starts_with("Anonymous:")
            && line.split_ascii_whitespace().nth(1) == Some("0")
            && let Some((start, end)) = mapping.take()
        {
            // SAFETY: this range is one mapping of a file, without write access, and no page of it
            // has ever been changed: the kernel would count that as anonymous. So whatever is read
            // from it later is what was there before.
            let result = unsafe {
                let address = std::ptr::with_exposed_provenance_mut(start);
                libc::madvise(address, end - start, libc::MADV_DONTNEED)
            };
            Errno::result(result)?;
        }
    }
    Ok(())
}

/// Brings the loopback interface of this process' network namespace up.
pub(crate) fn bring_up_loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all of the structure is plain data, for which zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    set_interface_flags(rustix::fd::AsFd::as_fd(&socket), &request)
}

fn set_interface_flags(socket: BorrowedFd<'_>, request: &libc::ifreq) -> io::Result<()> {
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which this is, and keeps no reference to it.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, request as *const _) };
    Errno::result(result)?;
    Ok(())
}
