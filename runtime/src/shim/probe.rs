//! Whether this machine can give sandboxes users of their own: tried out, since what it takes is spread
//! over the kernel's version, its configuration, the file systems, and what the machine itself may do
//! if it is a container.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;

use super::failure::{Doing, Failure};
use super::{namespaces, stage};
use crate::api::IdRange;
use crate::isolation::confine;
use crate::sys::{self, Fork};

/// Any users that are not the machine's root.
const USERS: IdRange = IdRange { first: 0x7000_0000, count: 65_536 };

/// Tries to show the files of a folder, and of a file system in memory, by other users, and to mount what
/// those need in every container. Leaves nothing.
pub(super) fn users(folder: &Path) -> Result<(), Failure> {
    let (mut ours, theirs) = UnixStream::pair().doing("make a socket pair")?;
    let child = match sys::fork().doing("fork")? {
        Fork::Parent(child) => child,
        Fork::Child => {
            drop(ours);
            let mut shim = theirs;
            if let Err(failure) = live_in_a_namespace(&mut shim) {
                let _ = shim.write_all(failure.0.as_bytes());
            }
            sys::exit_now(0)
        }
    };
    drop(theirs);
    let outcome = try_out(folder, child, &mut ours);
    drop(ours);
    waitpid(child, None).doing("wait for the child")?;
    outcome
}

fn try_out(folder: &Path, child: nix::unistd::Pid, words: &mut UnixStream) -> Result<(), Failure> {
    await_zero(words)?;
    namespaces::map_users(child, &USERS)?;
    let users = File::open(format!("/proc/{child}/ns/user")).doing("open the user namespace")?;
    words.write_all(&[0]).doing("have the child go on")?;
    await_zero(words)?;

    nix::sched::unshare(CloneFlags::CLONE_NEWNS).doing("make a mount namespace")?;
    let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .doing("separate the mounts")?;
    stage::take_one(folder, users.as_fd())?;
    // As Secrets and volumes in memory are.
    let memory = Path::new("/proc");
    nix::mount::mount(Some("probe"), memory, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .doing("mount a file system in memory")?;
    stage::take_one(memory, users.as_fd())?;
    Ok(())
}

/// A zero comes when all is well, and words otherwise.
fn await_zero(stream: &mut UnixStream) -> Result<(), Failure> {
    let mut first = [0];
    stream.read_exact(&mut first).doing("hear the child")?;
    if first == [0] {
        return Ok(());
    }
    let mut words = String::from_utf8_lossy(&first).into_owned();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).doing("hear the child")?;
    words.push_str(&String::from_utf8_lossy(&rest));
    Err(Failure(words))
}

fn live_in_a_namespace(shim: &mut UnixStream) -> Result<(), Failure> {
    let flags = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC;
    nix::sched::unshare(flags).doing("make a user namespace")?;
    shim.write_all(&[0]).doing("tell the shim")?;
    shim.read_exact(&mut [0]).doing("hear the shim")?;
    confine::become_root().doing("become root of a user namespace")?;
    let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .doing("separate the mounts")?;
    // The namespace of processes begins with a child.
    match sys::fork().doing("fork")? {
        Fork::Child => {
            let outcome = mount_kernels();
            let words = outcome.map_or_else(|failure| failure.0.into_bytes(), |()| vec![0]);
            let _ = shim.write_all(&words);
            sys::exit_now(0)
        }
        Fork::Parent(child) => waitpid(child, None).doing("wait for the child").map(drop),
    }
}

/// Where the machine shows only parts of its own, the kernel does not show more to others.
fn mount_kernels() -> Result<(), Failure> {
    for (kind, place) in [("sysfs", "/sys"), ("proc", "/proc"), ("mqueue", "/sys")] {
        nix::mount::mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .doing(format_args!("mount {kind} in a user namespace"))?;
    }
    Ok(())
}
