//! The first process of a machine: starts programs when told, reaps everything, and takes the
//! machine down with it.
//!
//! It listens on a Unix socket for one JSON request per connection, so that the lab's program can
//! come and go while the machine stays.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};
use serde::{Deserialize, Serialize};

/// What an init can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Starts a program under a name; one program per name at a time.
    Spawn {
        /// By which it is spoken of.
        name: String,
        /// Program and arguments.
        command: Vec<String>,
        /// Further environment.
        env: Vec<(String, String)>,
        /// Its output is appended here.
        log: PathBuf,
    },
    /// Sends a signal to a program, and waits for its end if it is SIGKILL or SIGTERM.
    Signal {
        /// Which one.
        name: String,
        /// Which signal, by number.
        signal: i32,
    },
    /// Asks whether a program runs.
    Status {
        /// Which one.
        name: String,
    },
}

/// What an init answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done; the process id within the machine while it runs.
    Ok {
        /// Nothing: it does not run.
        pid: Option<i32>,
    },
    /// Not done.
    Error {
        /// Why.
        reason: String,
    },
}

/// Asks the init behind a socket.
///
/// # Errors
/// When it cannot be reached or refuses.
pub fn ask(socket: &Path, request: &Request) -> Result<Option<i32>> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "no machine answers at {}: one that was killed as a whole does not come back; \
                 `lab down` and `lab up` make new ones",
            socket.display()
        )
    })?;
    serde_json::to_writer(&mut stream, request)?;
    stream.write_all(b"\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match serde_json::from_str(&answer).context("the machine went down meanwhile")? {
        Response::Ok { pid } => Ok(pid),
        Response::Error { reason } => bail!(reason),
    }
}

/// Makes a machine's namespaces, starts its init in them, and prints that one's process id.
/// The init ends when its standard input closes, unless it is to `stay`.
///
/// # Errors
/// When namespaces cannot be made: that takes root.
pub fn launch(name: &str, socket: &Path, stay: bool) -> Result<()> {
    let flags = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(flags).context("namespaces cannot be made; are you root?")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["init", "--inner", "--name", name, "--socket"]).arg(socket);
    if stay {
        command.arg("--stay").stdin(Stdio::null());
    }
    let child = command.spawn().context("init does not start")?;
    println!("{}", child.id());
    Ok(())
}

#[derive(Default)]
struct Programs {
    running: HashMap<String, Pid>,
}

/// Runs as the first process of a machine; see [`launch`].
///
/// # Errors
/// When the machine cannot be set up. Does not return otherwise.
pub fn serve(name: &str, socket: &Path, stay: bool) -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)
        .context("private mounts")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("mount /proc")?;
    sethostname(name).context("set the host name")?;

    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    // Blocked before any thread is started, so that `wait` below gets every one.
    children.thread_block()?;
    let programs: Arc<Mutex<Programs>> = Arc::default();
    let listener = UnixListener::bind(socket).context("listen for requests")?;
    let served = Arc::clone(&programs);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let programs = Arc::clone(&served);
            thread::spawn(move || {
                if let Err(error) = handle(stream, &programs) {
                    eprintln!("request failed: {error:#}");
                }
            });
        }
    });
    if !stay {
        thread::spawn(|| {
            let mut nothing = [0];
            while matches!(std::io::stdin().read(&mut nothing), Ok(1)) {}
            std::process::exit(0);
        });
    }
    loop {
        reap(&programs);
        children.wait()?;
    }
}

fn lock(programs: &Mutex<Programs>) -> MutexGuard<'_, Programs> {
    programs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the exit codes of all that ended, programs and orphans alike.
fn reap(programs: &Mutex<Programs>) {
    // Under the lock: a program cannot end before it is entered.
    let mut programs = lock(programs);
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
        programs.running.retain(|_, pid| Some(*pid) != status.pid());
    }
}

fn handle(mut stream: UnixStream, programs: &Mutex<Programs>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let response = match serde_json::from_str(&line)
        .map_err(Into::into)
        .and_then(|request| perform(request, programs))
    {
        Ok(pid) => Response::Ok { pid },
        Err(error) => Response::Error { reason: format!("{error:#}") },
    };
    serde_json::to_writer(&mut stream, &response)?;
    Ok(stream.write_all(b"\n")?)
}

fn perform(request: Request, programs: &Mutex<Programs>) -> Result<Option<i32>> {
    match request {
        Request::Spawn { name, command, env, log } => {
            let log = open_log(&log)?;
            let (program, arguments) = command.split_first().context("no program given")?;
            let mut programs = lock(programs);
            if programs.running.contains_key(&name) {
                bail!("{name} runs already");
            }
            let child = Command::new(program)
                .args(arguments)
                .envs(env)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("{program} does not start"))?;
            let pid = i32::try_from(child.id())?;
            programs.running.insert(name, Pid::from_raw(pid));
            Ok(Some(pid))
        }
        Request::Signal { name, signal } => {
            let signal = Signal::try_from(signal)?;
            let pid = lock(programs).running.get(&name).copied();
            let Some(pid) = pid else { bail!("{name} does not run") };
            kill(pid, signal)?;
            Ok(Some(pid.as_raw()))
        }
        Request::Status { name } => Ok(lock(programs).running.get(&name).map(|pid| pid.as_raw())),
    }
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("failed to open {}", path.display()))
}
