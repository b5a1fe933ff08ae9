//! A machine of the lab.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::init::{self, Request};

/// Set by the lab's program to find itself again: it is also every machine's init.
const LAB_PROGRAM: &str = "lab";

/// A set of namespaces under an init.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Host name, and name within the lab.
    pub name: String,
    /// Its address on the lab's network.
    pub address: Ipv4Addr,
    /// Likewise, of the other family.
    pub address6: Ipv6Addr,
    /// State, logs and sockets of what runs on it.
    pub folder: PathBuf,
    /// The init's process id on the host.
    pub init_pid: u32,
    /// While it is open, the machine is up.
    #[serde(skip)]
    plug: Option<ChildStdin>,
}

impl Machine {
    /// Starts a machine. It goes down with the returned value unless it is to `stay`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(
        name: &str,
        (address, address6): (Ipv4Addr, Ipv6Addr),
        folder: PathBuf,
        stay: bool,
    ) -> Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let socket = folder.join("init.sock");
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let mut command = Command::new(program(LAB_PROGRAM)?);
        command.args(["init", "--name", name, "--socket"]).arg(&socket);
        if stay {
            command.arg("--stay");
        }
        let log = std::fs::File::create(folder.join("init.log"))?;
        let mut child = command
            .stdin(if stay { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("the lab program does not start")?;
        let plug = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        child.wait()?;
        let init_pid = line.trim().parse().map_err(|_| {
            let log = std::fs::read_to_string(folder.join("init.log")).unwrap_or_default();
            anyhow::anyhow!("machine {name} does not start: {}", log.trim())
        })?;
        let machine = Self { name: name.to_owned(), address, address6, folder, init_pid, plug };
        let deadline = Instant::now() + Duration::from_secs(10);
        while init::ask(&socket, &Request::Status { name: String::new() }).is_err() {
            if Instant::now() > deadline {
                bail!("the init of machine {name} does not answer");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(machine)
    }

    /// Starts a program on it, its output going to `<folder>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started, or one of this name runs.
    pub fn spawn(&self, name: &str, command: &[String]) -> Result<i32> {
        let log = self.log(name);
        let request =
            Request::Spawn { name: name.to_owned(), command: command.to_vec(), env: env(), log };
        self.ask(&request)?.context("it ended at once")
    }

    /// The process id, within the machine, of a program started by [`spawn`](Self::spawn).
    ///
    /// # Errors
    /// When the machine is down.
    pub fn running(&self, name: &str) -> Result<Option<i32>> {
        self.ask(&Request::Status { name: name.to_owned() })
    }

    /// Sends a signal to a program.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        self.ask(&Request::Signal { name: name.to_owned(), signal: signal as i32 })?;
        Ok(())
    }

    /// Sends a signal to a program and waits for its end.
    ///
    /// # Errors
    /// When it does not end within ten seconds.
    pub fn end(&self, name: &str, signal: Signal) -> Result<()> {
        let before = self.running(name)?;
        self.signal(name, signal)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while before.is_some() && self.running(name)? == before {
            if Instant::now() > deadline {
                bail!("{name} on {} does not end by {signal}", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A command to be run on it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init_pid.to_string(), "--mount", "--uts", "--ipc", "--net"])
            .arg("--pid");
        if let Ok(folder) = std::env::current_dir() {
            // Entering a mount namespace loses the working directory.
            command.arg(format!("--wdns={}", folder.display()));
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs a command on it to its end; its standard output.
    ///
    /// # Errors
    /// When it fails; the error has what it wrote to its standard error.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let (program, arguments) = command.split_first().context("no program given")?;
        checked(self.command(program).args(arguments), command)
    }

    /// Where the output of a program goes.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// Pulls the plug: all its processes end at once.
    pub fn kill(&mut self) {
        self.plug = None;
        let Ok(pid) = i32::try_from(self.init_pid) else { return };
        let pid = nix::unistd::Pid::from_raw(pid);
        // No error of interest: it may be down already.
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        let gone = || !Path::new(&format!("/proc/{pid}/ns/net")).exists();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn ask(&self, request: &Request) -> Result<Option<i32>> {
        init::ask(&self.folder.join("init.sock"), request)
            .with_context(|| format!("machine {}", self.name))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.plug.is_some() {
            self.kill();
        }
    }
}

/// What programs of the lab are told beside their arguments.
fn env() -> Vec<(String, String)> {
    let filter = std::env::var("KUTTER_LOG").unwrap_or_else(|_| "info".to_owned());
    vec![("RUST_LOG".to_owned(), filter), ("RUST_BACKTRACE".to_owned(), "1".to_owned())]
}

/// A program of the workspace, built by the same build as the running one.
///
/// # Errors
/// When it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{name} is not built: run cargo build --workspace first (beside {})",
                own.display()
            )
        })
}

/// Runs a command; its standard output, or an error with its standard error.
pub(crate) fn checked(command: &mut Command, words: &[&str]) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| words.join(" "))?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("{}: {status}: {}", words.join(" "), stderr.trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
