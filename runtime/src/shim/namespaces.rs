//! The namespaces that the containers of a sandbox share.
//!
//! A *holder*, a fork of the shim that lives for milliseconds, makes them all at once, so that those
//! of network, IPC and UTS belong to the sandbox's users if it has its own: only then may its root
//! bind low ports or set parameters in them. The shim itself stays a user of the machine, with the
//! power to mount and to make control groups, and joins what it has to be in.
//!
//! ```text
//! shim ── fork ── holder: unshare ── "made" ──┐
//!   user map, time offsets, namespaces joined │
//!   └────────────── "go" ─────────> holder: fork first process, its sibling ── its number, end
//! ```
//!
//! Process and time namespaces are not joined by the shim: they are kept open, for creators to
//! have their containers enter.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use rustix::thread::LinkNameSpaceType;

use super::failure::{Doing, Failure};
use super::first;
use super::records::SandboxRecord;
use crate::api::IdRange;
use crate::isolation::confine;
use crate::sys::{self, Fork};

/// What the shim keeps of its sandbox's namespaces, beside those it is in.
#[derive(Default)]
pub(super) struct Held {
    /// If the sandbox has users of its own.
    pub(super) users: Option<OwnedFd>,
    /// If its containers see each other's processes.
    pub(super) processes: Option<OwnedFd>,
    /// The first of those.
    pub(super) first: Option<Pid>,
    /// Clocks that began with the sandbox, where the kernel has such.
    pub(super) time: Option<OwnedFd>,
}

/// Makes the namespaces of a sandbox, and sets in them what its record says.
pub(super) fn make(record: &SandboxRecord) -> Result<Held, Failure> {
    let wanted = Wanted::of(record);
    let (ours, theirs) = UnixStream::pair().doing("make a socket pair")?;
    let (first_ours, first_theirs) = UnixStream::pair().doing("make a socket pair")?;
    let holder = match sys::fork().doing("fork")? {
        Fork::Parent(holder) => holder,
        Fork::Child => {
            drop((ours, first_ours));
            let held = hold(&wanted, theirs, first_theirs);
            sys::exit_now(i32::from(held.is_err()))
        }
    };
    drop((theirs, first_theirs));
    let held = take_over(record, &wanted, holder, ours, first_ours);
    waitpid(holder, None).doing("wait for the holder")?;
    held
}

/// What a holder is to make.
struct Wanted {
    flags: CloneFlags,
    /// Who root of the sandbox is on the machine, if its users are its own.
    root: Option<u32>,
    first_process: bool,
}

const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME);

impl Wanted {
    fn of(record: &SandboxRecord) -> Wanted {
        let config = &record.config;
        let root = record.users.map(|users| users.first);
        let first_process = config.shares_processes && !config.of_host.processes;
        let has_time = Path::new("/proc/self/ns/time_for_children").exists();
        let flags = [
            (root.is_some(), CloneFlags::CLONE_NEWUSER),
            (!config.of_host.network, CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS),
            (!config.of_host.ipc, CloneFlags::CLONE_NEWIPC),
            (first_process, CloneFlags::CLONE_NEWPID),
            // Who shares the machine's processes sees when they were started.
            (has_time && !config.of_host.processes, NEW_TIME),
        ];
        let flags = flags.into_iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag).collect();
        Wanted { flags, root, first_process }
    }
}

const MADE: u8 = 1;
const FAILED: u8 = 2;

/// What the holder does.
fn hold(wanted: &Wanted, mut shim: UnixStream, first: UnixStream) -> Result<(), ()> {
    let mut say = |words: &[u8]| shim.write_all(words).map_err(drop);
    // Who makes a user namespace is charged, as one user of the machine, for what all in it take of the things
    // that the kernel counts by user (watchers of files, keys, pending signals): root would run out of them for
    // itself and for all other sandboxes.
    let made = wanted.root.map_or(Ok(()), confine::become_owner);
    let made = made.and_then(|()| Ok(nix::sched::unshare(wanted.flags)?));
    if let Err(error) = made {
        say(&[FAILED])?;
        return say(error.to_string().as_bytes());
    }
    say(&[MADE])?;
    // An end without a word means that the shim is no more.
    let mut go = [0];
    shim.read_exact(&mut go).map_err(drop)?;
    if wanted.first_process {
        match sys::fork_sibling(None) {
            Ok(Fork::Parent(pid)) => shim.write_all(&pid.as_raw().to_le_bytes()).map_err(drop)?,
            Ok(Fork::Child) => {
                drop(shim);
                first::run(wanted.root.is_some(), first)
            }
            Err(_) => return Err(()),
        }
    }
    drop(first);
    // The namespaces are there for as long as this process is: until the shim has them.
    let mut rest = Vec::new();
    shim.read_to_end(&mut rest).map_err(drop)?;
    Ok(())
}

fn take_over(
    record: &SandboxRecord,
    wanted: &Wanted,
    holder: Pid,
    mut stream: UnixStream,
    first: UnixStream,
) -> Result<Held, Failure> {
    let mut answer = [0];
    stream.read_exact(&mut answer).doing("make namespaces")?;
    if answer != [MADE] {
        let mut reason = String::new();
        stream.read_to_string(&mut reason).doing("make namespaces")?;
        return Err(Failure(format!("make namespaces: {reason}")));
    }
    let open = |name: &str| -> Result<OwnedFd, Failure> {
        let file = File::open(format!("/proc/{holder}/ns/{name}"));
        Ok(file.doing(format_args!("open the namespace {name}"))?.into())
    };
    let mut held = Held::default();
    if let Some(users) = &record.users {
        map_users(holder, users)?;
        held.users = Some(open("user")?);
    }
    if wanted.flags.contains(NEW_TIME) {
        let offsets = clock_offsets()?;
        fs::write(format!("/proc/{holder}/timens_offsets"), offsets).doing("set the clocks")?;
        held.time = Some(open("time_for_children")?);
    }
    for (flag, name, kind) in [
        (CloneFlags::CLONE_NEWNET, "net", LinkNameSpaceType::Network),
        (CloneFlags::CLONE_NEWUTS, "uts", LinkNameSpaceType::HostNameAndNISDomainName),
        (CloneFlags::CLONE_NEWIPC, "ipc", LinkNameSpaceType::InterProcessCommunication),
    ] {
        if wanted.flags.contains(flag) {
            rustix::thread::move_into_link_name_space(open(name)?.as_fd(), Some(kind))
                .doing(format_args!("enter the namespace {name}"))?;
        }
    }
    stream.write_all(&[0]).doing("have the holder go on")?;
    if wanted.first_process {
        let mut number = [0; 4];
        stream.read_exact(&mut number).doing("start the first process")?;
        first::await_it(first)?;
        let number = i32::from_le_bytes(number);
        let file = File::open(format!("/proc/{number}/ns/pid")).doing("open its namespace")?;
        held.first = Some(Pid::from_raw(number));
        held.processes = Some(file.into());
    }
    set_up(record)?;
    Ok(held)
}

pub(super) fn map_users(holder: Pid, users: &IdRange) -> Result<(), Failure> {
    let map = format!("0 {} {}", users.first, users.count);
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{holder}/{file}"), &map).doing(format_args!("write {file}"))?;
    }
    Ok(())
}

/// So that the sandbox's clocks of what has passed begin with it.
fn clock_offsets() -> Result<String, Failure> {
    let mut text = String::new();
    for (name, clock) in
        [("monotonic", ClockId::CLOCK_MONOTONIC), ("boottime", ClockId::CLOCK_BOOTTIME)]
    {
        let now = clock_gettime(clock).doing("read a clock")?;
        text.push_str(&format!("{name} -{} 0\n", now.tv_sec()));
    }
    Ok(text)
}

/// What takes power on a host and harms nobody within a sandbox: to ping, and to listen on the ports
/// that were once for root alone. Containers of containerd have it so as well.
const DEFAULT_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ping_group_range", "0 2147483647"), ("net.ipv4.ip_unprivileged_port_start", "0")];

fn set_up(record: &SandboxRecord) -> Result<(), Failure> {
    let config = &record.config;
    let mut parameters: Vec<(&str, &str)> = Vec::new();
    if !config.of_host.network {
        nix::unistd::sethostname(&config.hostname).doing("set the host name")?;
        sys::bring_up_loopback().doing("bring up the loopback interface")?;
        parameters.extend(DEFAULT_SYSCTLS);
    }
    parameters.extend(config.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    for (name, value) in parameters {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&path, value).doing(format_args!("set {name}"))?;
    }
    Ok(())
}
