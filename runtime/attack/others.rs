//! What others have on the machine, by names that every attacker knows: so that what is not found is hidden,
//! and not just missing.

// SAFETY, of all blocks below: system calls with constants or addresses of live local values of the right
// shape; none keeps a pointer.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::fs;
use std::io::Read as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use nix::errno::Errno;
use nix::libc;

use super::system_calls::text;
use super::{Outcome, errno, ok, say};

pub(crate) const KEY: libc::key_t = 0x4b75_7474;
pub(crate) const QUEUE: &str = "/kutter-attack";
pub(crate) const FILE: &str = "/dev/shm/kutter-attack";
pub(crate) const SOCKET: &[u8] = b"kutter-attack";

/// Makes all of it, says so, and takes it away when its input ends.
pub(crate) fn be() {
    let create = libc::IPC_CREAT | 0o666;
    let result = |result: libc::c_int| Errno::result(result);
    let (memory, semaphores, messages) = unsafe {
        (libc::shmget(KEY, 1, create), libc::semget(KEY, 1, create), libc::msgget(KEY, create))
    };
    let queue = text(QUEUE);
    let flags = libc::O_CREAT | libc::O_RDWR;
    let opened = unsafe {
        libc::mq_open(queue.as_ptr(), flags, 0o666, std::ptr::null_mut::<libc::mq_attr>())
    };
    let listen = || -> Result<UnixListener, Errno> {
        let address = SocketAddr::from_abstract_name(SOCKET).map_err(|e| errno(&e))?;
        UnixListener::bind_addr(&address).map_err(|e| errno(&e))
    };
    let listener = listen();
    let made: [(&str, Outcome); 6] = [
        ("shared memory", result(memory).map(ok)),
        ("semaphores", result(semaphores).map(ok)),
        ("messages", result(messages).map(ok)),
        ("message queue", result(opened).map(ok)),
        ("file in memory", fs::write(FILE, "x").map(ok).map_err(|e| errno(&e))),
        ("abstract socket", listener.as_ref().map(ok).map_err(|errno| *errno)),
    ];
    for (name, outcome) in made {
        say(name, outcome);
    }
    println!("end");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    unsafe {
        libc::shmctl(memory, libc::IPC_RMID, std::ptr::null_mut());
        libc::semctl(semaphores, 0, libc::IPC_RMID);
        libc::msgctl(messages, libc::IPC_RMID, std::ptr::null_mut());
        libc::mq_unlink(queue.as_ptr());
    }
    let _ = fs::remove_file(FILE);
}
