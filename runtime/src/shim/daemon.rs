//! How a shim comes to be: it leaves its caller, makes the sandbox's namespaces, and says so.

use std::fs;
use std::io::Read;
use std::io::Write;
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
use crate::isolation::confine;
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
    let second = nix::unistd::setsid().and_then(|_| sys::fork());
    match second {
        Ok(Fork::Child) => {}
        Ok(Fork::Parent(_)) => sys::exit_now(0),
        Err(_) => sys::exit_now(1),
    }
    let code = match prepare(&folder) {
        Ok((mut server, record)) => {
            // The caller reads nothing but the end of the pipe as good news.
            drop(ready);
            server.leave_caller_groups(&record.shim_cgroup);
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

fn prepare(folder: &SandboxFolder) -> Result<(Server, SandboxRecord), Failure> {
    let record: SandboxRecord = records::read(&folder.config()).doing("read the configuration")?;
    redirect_output(folder)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    rustix::thread::set_name(c"kutter-shim").doing("set the name")?;
    confine::set_oom_score(OOM_SCORE_ADJ).doing("protect from the OOM killer")?;
    let hierarchies = Hierarchies::read().doing("find the control groups")?;
    let held = namespaces::make(&record)?;
    if let Some(first) = held.first {
        let identity = identity_of(first.as_raw() as u32)?;
        records::write(&folder.first_process(), &identity).doing("write its identity")?;
    }
    if !record.config.of_host.ipc {
        mount_shared_memory(&folder.shared_memory())?;
    }

    let views = Views::mount(&folder.views(), &record)?;

    let listener = listen(folder)?;
    let own = identity_of(std::process::id())?;
    records::write(&folder.shim(), &own).doing("write the shim's identity")?;
    let server = Server::new(folder.clone(), hierarchies, listener, held, views)?;
    Ok((server, record))
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
fn mount_shared_memory(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).doing("make the folder of the shared memory")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("shm"), path, Some("tmpfs"), flags, Some(SHARED_MEMORY))
        .doing("mount the shared memory")
}

fn listen(folder: &SandboxFolder) -> Result<UnixListener, Failure> {
    // A socket's path may not be longer than 108 bytes; a name in the working folder always fits.
    std::env::set_current_dir(&folder.0).doing("enter the sandbox's folder")?;
    let listener = UnixListener::bind(SOCKET).doing("make the socket")?;
    listener.set_nonblocking(true).doing("make the socket")?;
    std::env::set_current_dir("/").doing("leave the sandbox's folder")?;
    Ok(listener)
}
