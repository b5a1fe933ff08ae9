//! Attempts that take until somebody stops them.

// SAFETY, of all blocks below: `fork` in a process without threads, whose child only waits; memory that the
// kernel has just given, written to in its bounds.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, fork as fork_once, pause};

use super::{Outcome, errno};

/// Makes processes until there may be no more.
pub(crate) fn fork() -> Outcome {
    let mut made = 0;
    loop {
        match unsafe { fork_once() } {
            Ok(ForkResult::Parent { .. }) => made += 1,
            Ok(ForkResult::Child) => loop {
                pause();
            },
            Err(Errno::EAGAIN) => return Ok(format!("stopped after {made}")),
            Err(errno) => return Err(errno),
        }
    }
}

/// Takes memory, and uses it, until it is killed.
pub(crate) fn memory() -> Outcome {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        // What is all zeros would not be there until it is written to.
        held.push(vec![1; 1 << 20]);
        if held.len() > 1 << 16 {
            return Ok("ok".to_owned());
        }
    }
}

/// Takes memory that outlives its process, until it is killed.
pub(crate) fn shared_memory() -> Outcome {
    for _ in 0..1 << 10 {
        let (size, flags) = (16 << 20, libc::IPC_CREAT | 0o600);
        let segment = Errno::result(unsafe { libc::shmget(libc::IPC_PRIVATE, size, flags) })?;
        let at = unsafe { libc::shmat(segment, std::ptr::null(), 0) };
        if at.addr() == usize::MAX {
            return Err(Errno::last());
        }
        // What is not written to is not there.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), 1, size) };
    }
    Ok("ok".to_owned())
}

/// Makes watchers of files until there may be no more, and keeps them: the kernel counts them by user.
pub(crate) fn inotify() {
    let mut made = 0;
    loop {
        match Errno::result(unsafe { libc::inotify_init1(0) }) {
            Ok(_) => made += 1,
            Err(errno) => {
                println!("inotify: {errno:?} after {made}");
                loop {
                    pause();
                }
            }
        }
    }
}

/// Opens files until there may be no more.
pub(crate) fn descriptors() -> Outcome {
    let mut held = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(e) if errno(&e) == Errno::EMFILE => {
                return Ok(format!("stopped after {}", held.len()));
            }
            Err(e) => return Err(errno(&e)),
        }
    }
}

/// Fills a file system.
pub(crate) fn disk(folder: &str) -> Outcome {
    let mut file = File::create(Path::new(folder).join("full")).map_err(|e| errno(&e))?;
    let block = vec![0; 1 << 20];
    for _ in 0..1 << 16 {
        file.write_all(&block).map_err(|e| errno(&e))?;
    }
    Ok("ok".to_owned())
}

/// Makes files without content.
pub(crate) fn inodes(folder: &str) -> Outcome {
    for number in 0..1 << 24 {
        File::create(Path::new(folder).join(number.to_string())).map_err(|e| errno(&e))?;
    }
    fs::remove_dir_all(folder).map_err(|e| errno(&e))?;
    Ok("ok".to_owned())
}

/// Says the same again and again, 64 MB of it.
pub(crate) fn log() {
    let line = format!("{}\n", "x".repeat(1023));
    let mut out = io::stdout().lock();
    for _ in 0..1 << 16 {
        if out.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
    let _ = out.write_all(b"end\n");
}
