//! The first process of those that the containers of a sandbox share: it adopts what its parent has
//! left behind, and its end is the end of all. It has no power, no files and no one to listen to:
//! its root is an empty folder, for containers can see it through `/proc`.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::failure::{Doing, Failure};
use crate::sys;

/// Nobody, by custom.
const NOBODY: u32 = 65_534;

/// As people know it who have seen the first process of a pod.
const NAME: &std::ffi::CStr = c"pause";

/// Becomes the first process. The shim hears a zero byte once it is, or the reason why not.
pub(super) fn run(own_users: bool, mut shim: UnixStream) -> ! {
    let Err(failure) = prepare(own_users).and_then(|()| settle(&mut shim));
    let _ = shim.write_all(failure.0.as_bytes());
    sys::exit_now(1)
}

/// Waits until it is what it is to be.
pub(super) fn await_it(mut first: UnixStream) -> Result<(), Failure> {
    let mut words = Vec::new();
    first.read_to_end(&mut words).doing("start the first process")?;
    if words == [0] {
        return Ok(());
    }
    Err(Failure(format!("start the first process: {}", String::from_utf8_lossy(&words))))
}

fn prepare(own_users: bool) -> Result<(), Failure> {
    if own_users {
        become_user(0)?;
    }
    rustix::thread::set_name(NAME).doing("set the name")?;
    nix::unistd::setsid().doing("make a session")?;
    let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
    nix::sched::unshare(namespaces).doing("make a mount namespace")?;
    let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .doing("separate the mounts")?;
    // Any folder that is there on every machine.
    let root = Path::new("/proc");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    nix::mount::mount(Some("empty"), root, Some("tmpfs"), flags, Some("size=0k,mode=555"))
        .doing("mount an empty root")?;
    std::env::set_current_dir(root).doing("enter the empty root")?;
    nix::unistd::pivot_root(".", ".").doing("change the root")?;
    // The old root lies on top of the new one.
    nix::mount::umount2(".", MntFlags::MNT_DETACH).doing("unmount the old root")?;
    std::env::set_current_dir("/").doing("enter the new root")?;
    become_user(NOBODY)?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).doing("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).doing("set no_new_privs")
}

fn become_user(id: u32) -> Result<(), Failure> {
    use rustix::thread;
    thread::set_thread_groups(&[]).doing("drop groups")?;
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    thread::set_thread_res_gid(group, group, group).doing("change the group")?;
    thread::set_thread_res_uid(user, user, user).doing("change the user")
}

fn settle(shim: &mut UnixStream) -> Result<Infallible, Failure> {
    // What ends among the adopted is waited for by the kernel. Signals from within mean nothing to
    // the first process of a namespace; those from the machine are not meant for it either.
    sys::ignore(Signal::SIGCHLD).doing("ignore ended children")?;
    shim.write_all(&[0]).doing("tell the shim")?;
    sys::close_all().doing("close descriptors")?;
    loop {
        nix::unistd::pause();
    }
}
