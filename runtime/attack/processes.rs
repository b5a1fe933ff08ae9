//! Attempts on one process that is another's, by a container that sees it: what belongs to root of the machine
//! has more power than a container, and that is what stands between.

// SAFETY, of all blocks below: system calls with constants or addresses of live local values of the right
// shape; none keeps a pointer.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::fs::{self, File, OpenOptions};
use std::io;

use nix::errno::Errno;
use nix::libc::{self, c_long};

use super::system_calls::call;
use super::{Outcome, errno, ok, say};

pub(crate) fn all(process: &str) {
    let pid: i32 = process.parse().unwrap_or(0);
    let file = |name: &str| format!("/proc/{pid}/{name}");
    let told = |result: io::Result<()>| -> Outcome { result.map(ok).map_err(|e| errno(&e)) };
    let handle = || Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) });
    let transfer = |number: c_long| {
        let mut byte = [0u8; 1];
        let ours = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let theirs = libc::iovec { iov_base: 0x1000 as *mut _, iov_len: 1 };
        Errno::result(unsafe {
            let one: c_long = 1;
            libc::syscall(number, pid, &raw const ours, one, &raw const theirs, one, 0 as c_long)
        })
        .map(ok)
    };
    say("trace it", Errno::result(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) }).map(ok));
    say("read its memory", transfer(libc::SYS_process_vm_readv));
    say("write its memory", transfer(libc::SYS_process_vm_writev));
    let memory = OpenOptions::new().write(true).open(file("mem"));
    say("open its memory", told(memory.map(drop)));
    say("its root", told(fs::metadata(file("root/")).map(drop)));
    say("its folder", told(fs::metadata(file("cwd/")).map(drop)));
    say("its descriptors", told(File::open(file("fd/0")).map(drop)));
    say("its program", told(File::open(file("exe")).map(drop)));
    let first = fs::read_dir(file("map_files")).and_then(|mut files| files.next().transpose());
    say("its mapped files", told(first.map(drop)));
    // The environment was the kubelet's.
    say("its environment", told(fs::read(file("environ")).map(drop)));
    say("its namespaces", told(File::open(file("ns/mnt")).map(drop)));
    say(
        "take its descriptor",
        handle().and_then(|handle| call(libc::SYS_pidfd_getfd, handle, 3, 0, 0, 0)),
    );
    say(
        "enter its namespaces",
        handle()
            .and_then(|handle| call(libc::SYS_setns, handle, libc::CLONE_NEWNS.into(), 0, 0, 0)),
    );
    println!("end");
}
