//! Attempts to get at keys that others have in their session. Where the filter lets the calls through, it is the
//! session's keyring alone that stands between.

// SAFETY, of all blocks below: system calls with constants and addresses of live local values of the right
// shape; none keeps a pointer.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::ffi::CStr;

use nix::errno::Errno;
use nix::libc::{self, c_long};

use super::{ok, say};

/// What the key is called that all look for.
const NAME: &CStr = c"kutter-attack";
const KIND: &CStr = c"user";

fn keyctl(operation: u32, a: c_long, b: c_long, c: c_long, d: c_long) -> nix::Result<c_long> {
    Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, operation, a, b, c, d) })
}

const SESSION: c_long = libc::KEY_SPEC_SESSION_KEYRING as c_long;

/// Puts a key into its own session, and waits.
pub(crate) fn hold() {
    let (kind, name) = (KIND.as_ptr() as c_long, NAME.as_ptr() as c_long);
    let made = unsafe { libc::syscall(libc::SYS_add_key, kind, name, name, 6, SESSION) };
    match Errno::result(made) {
        Ok(serial) => println!("holds {serial}"),
        Err(errno) => println!("holds nothing: {errno:?}"),
    }
    loop {
        nix::unistd::pause();
    }
}

/// Tries every way to a key of others.
pub(crate) fn take(serial: &str) {
    let serial: c_long = serial.parse().unwrap_or(0);
    let (kind, name) = (KIND.as_ptr() as c_long, NAME.as_ptr() as c_long);
    let requested = unsafe { libc::syscall(libc::SYS_request_key, kind, name, 0, 0) };
    say("request the key", Errno::result(requested).map(ok));
    say("search the session", keyctl(libc::KEYCTL_SEARCH, SESSION, kind, name, 0).map(ok));
    let mut bytes = [0u8; 64];
    let (at, length) = (bytes.as_mut_ptr() as c_long, bytes.len() as c_long);
    say("read the key", keyctl(libc::KEYCTL_READ, serial, at, length, 0).map(ok));
    say("link the key", keyctl(libc::KEYCTL_LINK, serial, SESSION, 0, 0).map(ok));
    say("change the key", keyctl(libc::KEYCTL_UPDATE, serial, name, 6, 0).map(ok));
    // So many bytes: four for each key in it.
    let listed = keyctl(libc::KEYCTL_READ, SESSION, at, length, 0);
    say("list the session", listed.map(|length| (length / 4).to_string()));
    println!("end");
}
