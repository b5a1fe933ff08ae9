//! How a shim comes to be: it leaves its caller, makes the sandbox's namespaces, and says so.

use std::fs::{self, File};
use std::io::Read;
use std::io::Write;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::mount::MsFlags;
use nix::sys::wait::waitpid;

use super::failure::{Doing, Failure};
use super::namespaces;
use super::records::{self, ProcessIdentity, SOCKET, SandboxFolder, SandboxRecord};
use super::server::Server;
use super::view::Views;
use crate::cgroup::Hierarchies;
use crate::isolation::{confine, selinux};
use crate::sys::{self, Fork};

/// The kernel kills a shim for want of memory only after everything else.
const OOM_SCORE_ADJ: i32 = -999;

/// Bound of the shared memory of a sandbox, as containers customarily get it.
const SHARED_MEMORY: &str = "mode=1777,size=64m";

/// Starts a shim in the background; returns when it answers.
pub(super) fn start(folder: SandboxFolder) -> Result<(), Failure> {
    // A shim outlives its caller, and must not hold what that, or its caller's caller, had open: a lock,
    // or the pipe by whose end somebody waits for them.
    sys::close_inherited().doing("close what was inherited")?;
    let (readiness, ready) = std::io::pipe().doing("make a pipe")?;
    // Two forks: the first makes a session, the second leaves its leadership behind and hands
    // the shim to process 1.
    if let Fork::Parent(child) = sys::fork().doing("fork")? {
        drop(ready);
        waitpid(child, None).doing("wait for the fork")?;
        return await_readiness(readiness);
    }
    drop(readiness);
    let beginning = begin(&folder);
    let born = match (nix::unistd::setsid(), &beginning) {
        (Ok(_), Ok(beginning)) => fork_into_group(beginning),
        // What failed is said by the shim.
        (Ok(_), Err(_)) => sys::fork().map(|fork| (fork, false)),
        (Err(errno), _) => Err(errno),
    };
    let is_born_there = match born {
        Ok((Fork::Child, is_born_there)) => is_born_there,
        Ok((Fork::Parent(_), _)) => sys::exit_now(0),
        Err(_) => sys::exit_now(1),
    };
    let prepared = beginning.and_then(|beginning| {
        let group = beginning.record.shim_cgroup.clone();
        let (server, has_joined) = prepare(&folder, beginning)?;
        Ok((server, group, is_born_there && has_joined))
    });
    let code = match prepared {
        Ok((mut server, group, has_left)) => {
            // The caller reads nothing but the end of the pipe as good news.
            drop(ready);
            server.leave_caller_groups(&group, has_left);
            server.run()
        }
        Err(failure) => {
            let mut ready = ready;
            let _ = ready.write_all(failure.0.as_bytes());
            1
        }
    };
    sys::exit_now(code)
}

fn await_readiness(mut readiness: impl Read) -> Result<(), Failure> {
    let mut complaint = String::new();
    readiness.read_to_string(&mut complaint).doing("wait for the shim")?;
    match complaint.is_empty() {
        true => Ok(()),
        false => Err(Failure(complaint)),
    }
}

/// What a shim has to know before it is forked.
struct Beginning {
    record: SandboxRecord,
    hierarchies: Hierarchies,
    /// Keeps the sandbox from being removed until it is known who the shim is.
    claim: File,
}

fn begin(folder: &SandboxFolder) -> Result<Beginning, Failure> {
    let claim = folder.claim().doing("claim the sandbox")?;
    // Whoever wanted it was killed, and the next one has removed it already.
    let claim = claim.ok_or_else(|| Failure("the sandbox is gone".to_owned()))?;
    let record = records::read(&folder.config()).doing("read the configuration")?;
    let hierarchies = Hierarchies::read().doing("find the control groups")?;
    Ok(Beginning { record, hierarchies, claim })
}

/// Forks the shim, and says whether it is where it belongs with version 2: to be moved there it would wait, and
/// keep all others from making groups, until no processor forks.
fn fork_into_group(beginning: &Beginning) -> nix::Result<(Fork, bool)> {
    match beginning.hierarchies.birthplace(&beginning.record.shim_cgroup) {
        Ok(None) => sys::fork().map(|fork| (fork, true)),
        // A group that takes nobody is no reason for not being; moving tells what is wrong with it.
        Ok(Some(group)) => match sys::fork_into(group.as_fd()) {
            Ok(fork) => Ok((fork, true)),
            Err(_) => sys::fork().map(|fork| (fork, false)),
        },
        Err(_) => sys::fork().map(|fork| (fork, false)),
    }
}

/// Makes the sandbox; and says whether the shim is where it belongs with version 1.
fn prepare(folder: &SandboxFolder, beginning: Beginning) -> Result<(Server, bool), Failure> {
    let Beginning { record, hierarchies, claim } = beginning;
    redirect_output(folder)?;
    // Before it makes anything that would be left behind: from here on it is found and killed.
    let other = records::read::<ProcessIdentity>(&folder.shim());
    if other.is_ok_and(|other| other.is_alive()) {
        return Err(Failure("the sandbox has another shim".to_owned()));
    }
    let own = identity_of(std::process::id())?;
    records::write(&folder.shim(), &own).doing("write the shim's identity")?;
    drop(claim);
    // Before it forks anything, so that all of it is there too.
    let joined = hierarchies.join_everywhere(&record.shim_cgroup);
    if let Err(error) = &joined {
        eprintln!("the shim has to be moved out of its caller's control groups: {error}");
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    rustix::thread::set_name(c"kutter-shim").doing("set the name")?;
    confine::set_oom_score(OOM_SCORE_ADJ).doing("protect from the OOM killer")?;
    let held = namespaces::make(&record)?;
    if let Some(first) = held.first {
        let identity = identity_of(first.as_raw() as u32)?;
        records::write(&folder.first_process(), &identity).doing("write its identity")?;
    }
    if !record.config.of_host.ipc {
        mount_shared_memory(&folder.shared_memory(), record.label.as_deref())?;
        if let Some(label) = &record.label {
            label_message_queues(label)?;
        }
    }

    let views = Views::mount(&folder.views(), &record)?;

    let listener = listen(folder)?;
    let server = Server::new(folder.clone(), hierarchies, listener, held, views)?;
    Ok((server, joined.is_ok()))
}

fn identity_of(pid: u32) -> Result<ProcessIdentity, Failure> {
    let found = ProcessIdentity::of(pid);
    found.ok_or_else(|| Failure(format!("/proc does not show the process {pid}")))
}

/// Nothing reads what a shim prints, so complaints go to a file beside its socket.
fn redirect_output(folder: &SandboxFolder) -> Result<(), Failure> {
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(folder.log())
        .doing("open the shim's log")?;
    let null = fs::File::open("/dev/null").doing("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).doing("redirect standard input")?;
    rustix::stdio::dup2_stdout(&log).doing("redirect standard output")?;
    rustix::stdio::dup2_stderr(&log).doing("redirect standard error")
}

/// Containers of a sandbox share memory by name as they share the IPC namespace. The mount is
/// the host's, so that every creator finds it; removing the sandbox takes it away.
fn mount_shared_memory(path: &Path, label: Option<&str>) -> Result<(), Failure> {
    fs::create_dir_all(path).doing("make the folder of the shared memory")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let label = label.map(selinux::mount_option);
    let options: Vec<&str> = [SHARED_MEMORY].into_iter().chain(label.as_deref()).collect();
    nix::mount::mount(Some("shm"), path, Some("tmpfs"), flags, Some(&*options.join(",")))
        .doing("mount the shared memory")
}

/// Message queues are on one file system for the whole IPC namespace, which is there before anybody mounts it.
fn label_message_queues(label: &str) -> Result<(), Failure> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let made = rustix::mount::fsopen("mqueue", FsOpenFlags::FSOPEN_CLOEXEC)
        .and_then(|context| {
            rustix::mount::fsconfig_create(context.as_fd())?;
            let attributes = MountAttrFlags::empty();
            rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        })
        .doing("open the message queues")?;
    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
    match selinux::relabel::set(Path::new(&path), label, true) {
        // Those of other users have no labels.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        set => set.doing("label the message queues"),
    }
}

fn listen(folder: &SandboxFolder) -> Result<UnixListener, Failure> {
    // A socket's path may not be longer than 108 bytes; a name in the working folder always fits.
    std::env::set_current_dir(&folder.0).doing("enter the sandbox's folder")?;
    let listener = UnixListener::bind(SOCKET).doing("make the socket")?;
    listener.set_nonblocking(true).doing("make the socket")?;
    std::env::set_current_dir("/").doing("leave the sandbox's folder")?;
    Ok(listener)
}
