//! A fork of the shim that starts one program inside a running container, and ends.
//!
//! libcontainer's own way to do this leaves out the system-call filter, the user namespace and
//! the limits. This one takes the confinement from the same plan and through the same last steps
//! as the container's first process.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags};
use rustix::pty::OpenptFlags;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use super::creator::{Stdio, enter_working_directory, give_to, read_filter};
use super::failure::{Doing, Failure};
use super::protocol::{self, Event, Message};
use super::records::ProcessIdentity;
use super::report::{self, Report};
use crate::cgroup::Hierarchies;
use crate::isolation::confine;
use crate::plan::{LaunchPlan, ProcessPlan};
use crate::sys::{self, Fork};

/// Where a program's input and output go.
pub(super) enum Streams {
    Given(Stdio),
    /// To a new terminal, the other side of which is sent over this socket.
    Terminal(OwnedFd),
}

/// Which container is entered.
pub(super) struct Target {
    /// Its first process.
    pub(super) process: ProcessIdentity,
    /// Whether it has clocks of its own.
    pub(super) has_clocks: bool,
}

/// Forks the program as a sibling, so the shim is its parent.
pub(super) fn enter(
    hierarchies: &Hierarchies,
    target: Target,
    plan: LaunchPlan,
    streams: Streams,
    report: &Arc<OwnedFd>,
) -> Result<(), Failure> {
    let Target { process: target, has_clocks } = target;
    let user_on_host = plan.on_host(plan.process.user.uid);
    let process = plan.process;
    let filter = read_filter(&process)?;
    let pid = i32::try_from(target.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Failure("the container has no process".to_owned()))?;
    let handle =
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).doing("find the container")?;
    // The shim has not reaped it, so its number cannot have been given to another; looking costs
    // little and would show a mistake.
    if !target.is_alive() {
        return Err(Failure("the container is not running".to_owned()));
    }
    let own_users = fs::read_link("/proc/self/ns/user").doing("look at the user namespace")?;
    let users = fs::read_link(format!("/proc/{}/ns/user", target.pid))
        .doing("look at the container's user namespace")?;

    // In there, nothing of the machine may be given away.
    if let Streams::Given(stdio) = &streams {
        for end in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
            give_to(end, user_on_host)?;
        }
    }

    // From here on this process is not the shim's equal any more: seen from inside the container
    // it must give away neither its memory nor its program.
    confine::set_oom_score(process.oom_score_adj).doing("set the OOM score")?;
    let group = hierarchies.follow(target.pid).doing("enter the control groups")?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .doing("hide this process")?;
    confine::set_limits(&process).doing("set resource limits")?;

    // Entered by the program itself, once it has been born in its group: from within the namespace,
    // a hierarchy that is delegated to namespaces (as systemd mounts it) refuses to have anybody come
    // in whose own group lies outside.
    let groups = fs::File::open(format!("/proc/{}/ns/cgroup", target.pid))
        .doing("look at the container's cgroup namespace")?;
    let mut namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    if has_clocks {
        namespaces |= ThreadNameSpaceType::TIME;
    }
    let other_users = own_users != users;
    let enter = |namespaces| {
        rustix::thread::move_into_thread_name_spaces(handle.as_fd(), namespaces)
            .doing("enter the container's namespaces")
    };
    // A child is born among the container's processes. Whose users are the machine's must then be
    // in its files already, or it could be asked for the machine's. Other users cannot ask; and they
    // could not have a child in a control group that is the machine's.
    match other_users {
        true => enter(ThreadNameSpaceType::PROCESS_ID)?,
        false => enter(namespaces | ThreadNameSpaceType::PROCESS_ID)?,
    }

    match sys::fork_sibling(group.as_ref().map(AsFd::as_fd)).doing("fork")? {
        Fork::Parent(pid) => report::send(report, &Report::Born { pid: pid.as_raw() }, None),
        Fork::Child => {
            let entered = match other_users {
                true => enter(namespaces | ThreadNameSpaceType::USER)
                    // Root of the machine is nobody in there.
                    .and_then(|()| confine::become_root().doing("become root of the container")),
                false => Ok(()),
            };
            drop(handle);
            let entered = entered.and_then(|()| {
                rustix::thread::move_into_link_name_space(
                    groups.as_fd(),
                    Some(LinkNameSpaceType::ControlGroup),
                )
                .doing("enter the container's cgroup namespace")
            });
            let prepared = entered
                .and_then(|()| report::await_go(report))
                .and_then(|()| become_program(&process, streams));
            let failure = match prepared {
                Ok(()) => Failure(confine::confine_and_exec(&process, filter.as_deref())),
                Err(failure) => failure,
            };
            report::send_failure(report, &failure.0);
            sys::exit_now(127)
        }
    }
}

fn become_program(process: &ProcessPlan, streams: Streams) -> Result<(), Failure> {
    nix::unistd::setsid().doing("make a session")?;
    let stdio = match streams {
        Streams::Given(stdio) => stdio,
        Streams::Terminal(socket) => open_terminal(&socket, process.user.uid)?,
    };
    rustix::stdio::dup2_stdin(&stdio.stdin).doing("set standard input")?;
    rustix::stdio::dup2_stdout(&stdio.stdout).doing("set standard output")?;
    rustix::stdio::dup2_stderr(&stdio.stderr).doing("set standard error")?;
    sys::close_others_on_exec().doing("close descriptors")?;
    enter_working_directory(process, false)
}

/// Makes a terminal out of the container's own devpts, so that its name means something there.
fn open_terminal(socket: &OwnedFd, uid: u32) -> Result<Stdio, Failure> {
    // What is at this path is the container's to choose: it may not make us wait, and must be
    // what it should be.
    let flags = rustix::fs::OFlags::RDWR
        | rustix::fs::OFlags::NOCTTY
        | rustix::fs::OFlags::NONBLOCK
        | rustix::fs::OFlags::CLOEXEC;
    let path = "/dev/pts/ptmx";
    let master =
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).doing("open a terminal")?;
    let device = rustix::fs::fstat(&master).doing("look at the terminal")?.st_rdev;
    if (rustix::fs::major(device), rustix::fs::minor(device)) != (5, 2) {
        return Err(Failure(format!("{path} is no terminal multiplexer")));
    }
    rustix::pty::unlockpt(&master).doing("unlock the terminal")?;
    let peer_flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal =
        rustix::pty::ioctl_tiocgptpeer(&master, peer_flags).doing("open its other side")?;
    let owner = Some(rustix::fs::Uid::from_raw(uid));
    rustix::fs::fchown(&terminal, owner, None).doing("hand over the terminal")?;
    rustix::process::ioctl_tiocsctty(&terminal).doing("take the terminal")?;

    let message = protocol::frame(&Message::Event(Event::Terminal));
    protocol::send(socket, &message, &[master.as_fd()]).doing("send the terminal")?;
    let copy = || terminal.try_clone().doing("copy a descriptor");
    Ok(Stdio { stdin: copy()?, stdout: copy()?, stderr: terminal })
}
