//! Runs inside a container and tries to get out of it, or to take more than its share.
//!
//! Each attempt prints a line `name: outcome`. An outcome is the name of an error (`EPERM`), `ok` for
//! what went through, or a word of the attempt's own. The test that starts this knows which outcomes
//! are right; nothing is judged here.
//!
//! ```text
//! attack all            every attempt that ends by itself
//! attack keys SERIAL    takes a key of others that has this number
//! attack processes PID  attempts on a process that is another's
//! attack others         what a container must not find: puts it there, and takes it away when its input ends
//! attack hold           keeps a key in its session, says its number, and stays
//! attack fork|memory|shared-memory|descriptors|inotify|disk FOLDER|inodes FOLDER|log
//!                       one that takes and takes
//! ```

mod bombs;
mod escapes;
mod keys;
mod nested;
mod newer;
mod others;
mod processes;
mod sockets;
mod system_calls;

use std::io;

use nix::errno::Errno;

/// What came of an attempt.
pub(crate) type Outcome = Result<String, Errno>;

/// An attempt and its name.
pub(crate) type Attempt = (&'static str, fn() -> Outcome);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["all"] => {
            say("leaked descriptors", escapes::leaked_descriptors());
            let kinds = [
                system_calls::ATTEMPTS,
                newer::ATTEMPTS,
                nested::ATTEMPTS,
                sockets::ATTEMPTS,
                escapes::ATTEMPTS,
            ];
            for (name, attempt) in kinds.into_iter().flatten() {
                say(name, attempt());
            }
            println!("end");
        }
        ["keys", serial] => keys::take(serial),
        ["processes", process] => processes::all(process),
        ["others"] => others::be(),
        ["hold"] => keys::hold(),
        ["fork"] => say("fork", bombs::fork()),
        ["memory"] => say("memory", bombs::memory()),
        ["shared-memory"] => say("shared memory", bombs::shared_memory()),
        ["inotify"] => bombs::inotify(),
        ["descriptors"] => say("descriptors", bombs::descriptors()),
        ["disk", folder] => say("disk", bombs::disk(folder)),
        ["inodes", folder] => say("inodes", bombs::inodes(folder)),
        ["log"] => bombs::log(),
        _ => {
            eprintln!("no such attack: {args:?}");
            std::process::exit(2);
        }
    }
}

fn say(name: &str, outcome: Outcome) {
    match outcome {
        Ok(word) => println!("{name}: {word}"),
        Err(errno) => println!("{name}: {errno:?}"),
    }
}

/// That it went through.
pub(crate) fn ok<T>(_: T) -> String {
    "ok".to_owned()
}

/// The number of an error of the standard library.
pub(crate) fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
