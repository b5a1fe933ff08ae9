//! A fork of the shim that makes one container with libcontainer, and ends.
//!
//! It works in a mount namespace of its own, so the container's root is mounted nowhere else and
//! is gone with the container's last process, however that ends.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

use super::complaints;
use super::failure::{Doing, Failure};
use super::namespaces::Held;
use super::protocol;
use super::records::{ContainerFolder, ProcessIdentity};
use super::report::{self, Report};
use super::{propagation, root, stage, sub_path};
use crate::cgroup::Hierarchies;
use crate::isolation::confine;
use crate::plan::{Entrance, LaunchPlan, MountPoint, ProcessPlan, Processes};
use crate::sys;

/// libcontainer's name for the one container in a folder.
pub(super) const OCI_ID: &str = "container";

/// What a program starts with as its first three descriptors.
pub(super) struct Stdio {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Runs a creator's work in the process that was forked for it, and ends that.
pub(super) fn run(report: &OwnedFd, work: impl FnOnce() -> Result<(), Failure>) -> ! {
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
        stand_alone()?;
        work()
    }));
    let reason = match result {
        Ok(Ok(())) => sys::exit_now(0),
        Ok(Err(failure)) => failure.0,
        Err(_) => "the creator panicked".to_owned(),
    };
    report::send_failure(report, &reason);
    sys::exit_now(1)
}

/// Makes this fork of the shim a process of its own.
fn stand_alone() -> Result<(), Failure> {
    sys::reset_signals().doing("reset signals")?;
    rustix::thread::set_name(c"kutter-creator").doing("set the name")?;
    // Its helpers are in this group, by which the shim finds them if this process is killed.
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).doing("make a process group")?;
    // Without a shim nobody wants the container.
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).doing("follow the shim")
}

/// Makes a container up to the point where it waits to be told to start.
pub(super) fn create(
    folder: &ContainerFolder,
    mut plan: LaunchPlan,
    joined: Option<ProcessIdentity>,
    held: &Held,
    hierarchies: &Hierarchies,
    stdio: Option<Stdio>,
    report: &Arc<OwnedFd>,
) -> Result<(), Failure> {
    complaints::pass_on(report);
    let filter = read_filter(&plan.process)?;

    nix::sched::unshare(CloneFlags::CLONE_NEWNS).doing("make a mount namespace")?;
    let users = held.users.as_ref().filter(|_| plan.stage.is_some()).map(AsFd::as_fd);
    let label = plan.root.label.clone();
    let bound = sub_path::bind_all(&mut plan.root.mount_points, users, label.as_deref(), || {
        let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            .doing("detach the mount namespace")
    });
    if let Err(failure) = bound {
        report::send(report, &Report::Unfit, None)?;
        return Err(failure);
    }
    match (&plan.stage, &held.users) {
        (Some(stage), Some(users)) => {
            let taken = stage::take(&plan.root, stage, users.as_fd())?;
            let root = stage::lay_out(taken, &plan.root, stage)?;
            root::prepare(&root, &stage.root())?;
        }
        _ => root::prepare(&plan.root, &folder.root())?,
    }
    mount_entrances(&plan, joined, held)?;

    // What libcontainer forks from here inherits both.
    confine::set_oom_score(plan.process.oom_score_adj).doing("set the OOM score")?;
    confine::set_limits(&plan.process).doing("set resource limits")?;

    let uid = plan.on_host(plan.process.user.uid);
    let program = Program {
        process: Rc::new(plan.process),
        mount_points: plan.root.mount_points.into(),
        filter,
        report: Arc::clone(report),
    };
    fs::create_dir_all(folder.oci()).doing("make libcontainer's folder")?;
    let mut builder = ContainerBuilder::new(OCI_ID.to_owned(), SyscallType::default())
        .with_root_path(folder.oci())
        .doing("prepare libcontainer")?
        .with_executor(program);
    let console = match stdio {
        Some(Stdio { stdin, stdout, stderr }) => {
            for end in [&stdin, &stdout, &stderr] {
                give_to(end, uid)?;
            }
            builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
            None
        }
        None => {
            let path = folder.0.join("console.sock");
            let listener = bind_in(&folder.0, "console.sock")?;
            builder = builder.with_console_socket(Some(path));
            Some(listener)
        }
    };
    // As late as possible: from here on this process counts as the container's.
    let bundle = match &plan.group {
        Some(group) => {
            hierarchies.make(&plan.cgroup, group).doing("make the control groups")?;
            hierarchies.join(&plan.cgroup).doing("enter the control groups")?;
            if group.can_hide {
                hierarchies.hide().doing("hide the control groups")?;
            }
            folder.lean_bundle()
        }
        None => folder.bundle(),
    };
    let container = builder
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .doing("make the container")?;
    let pid = container.pid().ok_or_else(|| Failure("the container has no process".to_owned()))?;
    let terminal = console.map(receive_terminal).transpose()?;
    let terminal = terminal.as_ref().map(AsFd::as_fd);
    report::send(report, &Report::Born { pid: pid.as_raw() }, terminal)
}

/// Puts the namespaces that the container joins at paths for libcontainer, which enters by path alone.
fn mount_entrances(
    plan: &LaunchPlan,
    joined: Option<ProcessIdentity>,
    held: &Held,
) -> Result<(), Failure> {
    let mount = |namespace: BorrowedFd<'_>, entrance: Entrance| {
        let path = entrance.path(&plan.entrances);
        fs::File::create(&path).doing("make a place for a namespace")?;
        let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        nix::mount::mount(Some(&*source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .doing("mount a namespace to join")
    };
    if let (Some(users), Some(_)) = (&held.users, &plan.stage) {
        mount(users.as_fd(), Entrance::Users)?;
    }
    if let Some(time) = &held.time {
        mount(time.as_fd(), Entrance::Time)?;
    }
    match (joined, plan.processes, &held.processes) {
        (Some(target), _, _) => mount(processes_of(target)?.as_fd(), Entrance::Processes),
        (None, Processes::OfSandbox, Some(shared)) => mount(shared.as_fd(), Entrance::Processes),
        _ => Ok(()),
    }
}

/// The process namespace of a container. By its number a process could have become another by the time
/// that libcontainer opens the path.
fn processes_of(target: ProcessIdentity) -> Result<fs::File, Failure> {
    let namespace = fs::File::open(format!("/proc/{}/ns/pid", target.pid))
        .doing("look at the process namespace to join")?;
    // Looked at afterwards: what was opened is the target's if that lives still.
    match target.is_alive() {
        true => Ok(namespace),
        false => Err(Failure("the container to join has ended".to_owned())),
    }
}

/// The compiled system-call filter of a process, if it has one.
pub(super) fn read_filter(process: &ProcessPlan) -> Result<Option<Rc<[u8]>>, Failure> {
    let Some(path) = &process.seccomp else { return Ok(None) };
    let filter = fs::read(path).doing(format_args!("read {}", path.display()))?;
    Ok(Some(filter.into()))
}

/// Lets the container's user, by its number on the machine, open its own `/dev/stdout`, which leads to
/// the pipe.
pub(super) fn give_to(end: &OwnedFd, uid: u32) -> Result<(), Failure> {
    let kind = rustix::fs::fstat(end).doing("look at a descriptor")?.st_mode;
    if uid == 0 || rustix::fs::FileType::from_raw_mode(kind) != rustix::fs::FileType::Fifo {
        return Ok(());
    }
    rustix::fs::fchown(end, Some(rustix::fs::Uid::from_raw(uid)), None).doing("hand over a pipe")
}

fn bind_in(folder: &Path, name: &str) -> Result<UnixListener, Failure> {
    std::env::set_current_dir(folder).doing("enter the container's folder")?;
    let listener = UnixListener::bind(name).doing("make the console socket")?;
    std::env::set_current_dir("/").doing("leave the container's folder")?;
    Ok(listener)
}

fn receive_terminal(listener: UnixListener) -> Result<OwnedFd, Failure> {
    // libcontainer connected before it forked and sent before it was done: nothing here waits.
    let (socket, _) = listener.accept().doing("accept the console")?;
    let mut descriptors = Vec::new();
    protocol::receive(&socket, &mut [0; 64], &mut descriptors).doing("receive the console")?;
    descriptors.pop().ok_or_else(|| Failure("no console was sent".to_owned()))
}

/// The last steps of a container's first process, inside libcontainer.
#[derive(Clone)]
struct Program {
    process: Rc<ProcessPlan>,
    mount_points: Rc<[MountPoint]>,
    filter: Option<Rc<[u8]>>,
    report: Arc<OwnedFd>,
}

impl Program {
    fn become_it(&self) -> Failure {
        let separated = propagation::separate(&self.mount_points);
        if let Err(failure) = separated.and_then(|()| enter_working_directory(&self.process, true))
        {
            return failure;
        }
        Failure(confine::confine_and_exec(&self.process, self.filter.as_deref()))
    }
}

impl Executor for Program {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let failure = self.become_it();
        report::send_failure(&self.report, &failure.0);
        sys::exit_now(127)
    }

    /// Everything that can be wrong with the program is found out when it is executed.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// The environment goes with `execve`, in its own order.
    fn setup_envs(
        &self,
        _: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

/// Changes to the working directory of a process that is already in its root file system.
pub(super) fn enter_working_directory(process: &ProcessPlan, make_it: bool) -> Result<(), Failure> {
    let path = &process.working_directory;
    let entered = match std::env::set_current_dir(path) {
        Err(e) if make_it && e.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(path).and_then(|()| std::env::set_current_dir(path))
        }
        other => other,
    };
    entered.doing(format_args!("enter the working directory {path}"))?;
    // A path through /proc may lead to a folder that this process or libcontainer has open. What is not below the
    // container's root has no path that begins with it.
    let reached =
        rustix::process::getcwd(Vec::new()).doing("look where the working directory is")?;
    match reached.as_bytes().starts_with(b"/") {
        true => Ok(()),
        false => Err(Failure(format!(
            "enter the working directory {path}: it is outside of the container's root"
        ))),
    }
}
