//! The process that holds a sandbox.
//!
//! One shim per sandbox owns its network, IPC and UTS namespaces, is the parent of its
//! containers, holds their pipes and terminals, writes their logs and keeps their exit codes on
//! disk. It is a single-threaded program around `poll`, outlives whoever started it, and is
//! asked through a socket.
//!
//! ```text
//! caller ── socket ── shim ─┬─ creator ── (libcontainer) ── ends once the container is made
//!                           ├─ container's first process
//!                           ├─ creator ── (setns)        ── ends once the program is forked
//!                           └─ program of an exec
//! ```
//!
//! libcontainer forks children that allocate, so it may not be called from a process with
//! threads, and it changes the process that calls it. A *creator* is a fork of the shim in which
//! it is safe to do so. It makes the container its own sibling, so the shim is the parent of
//! all and sees every exit.

mod complaints;
mod creator;
mod daemon;
mod enter;
mod failure;
mod first;
mod image;
mod namespaces;
mod output;
mod probe;
mod propagation;
pub(crate) mod protocol;
pub(crate) mod records;
mod report;
mod root;
mod server;
mod stage;
pub(crate) mod sub_path;
mod view;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use records::SandboxFolder;

/// The word with which the `shim` program only finds out whether sandboxes can have users of their own,
/// with files in the folder that follows.
pub(crate) const PROBE_USERS: &str = "--probe-users";

/// The `shim` program: takes the folder of a sandbox, goes into the background and serves it.
/// Ends with success once the shim in the background answers.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [word, folder] if word == PROBE_USERS => probe::users(Path::new(folder)),
        [folder] => daemon::start(SandboxFolder(PathBuf::from(folder))),
        _ => {
            eprintln!("usage: shim SANDBOX-FOLDER");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
