//! What callers may ask for.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::libc;

use super::streams::{InputEnd, Viewer};
use super::{Server, kill_process};
use crate::shim::creator::Stdio;
use crate::shim::enter::Streams;
use crate::shim::failure::{Doing, Failure};
use crate::shim::protocol::{Call, Event, Message, Refusal, Reply, Request};

impl Server {
    /// Carries out a request, or begins to.
    pub(super) fn call(&mut self, key: u64, request: Request) {
        let caller = (key, request.number);
        let descriptors = match self.connections.get_mut(&key) {
            Some(connection) => std::mem::take(&mut connection.descriptors),
            None => return,
        };
        // Without a result here the reply comes later.
        let result = match request.call {
            Call::Watch => {
                self.watchers_to_be.push(caller);
                self.admit_watchers();
                Ok(None)
            }
            Call::Start { container } => self.start(caller, container),
            Call::Signal { container, signal } => self.signal(&container, signal).map(Some),
            Call::Remove { container } => self.remove(caller, &container),
            Call::Stop => {
                self.stop(caller);
                Ok(None)
            }
            Call::Exec { container, command, stdin, tty } => {
                let wanted = Wanted { stdin, tty };
                self.exec(caller, &container, command, wanted, descriptors).map(|()| None)
            }
            Call::Attach { container, stdout, stderr, stdin, once } => {
                let wanted = Attachment { stdout, stderr, stdin, once };
                self.attach(key, &container, wanted, descriptors).map(Some)
            }
            Call::EndInput => {
                for container in &mut self.containers {
                    container.output.end_input(key);
                }
                Ok(Some(Reply::Done))
            }
        };
        match result {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(caller, Ok(reply)),
            Err(refusal) => self.reply(caller, Err(refusal)),
        }
    }

    /// Answers those who want to watch, once no container is half made: they are told about every
    /// container that runs or ever ran.
    pub(super) fn admit_watchers(&mut self) {
        if self.births.values().any(|birth| birth.is_container()) {
            return;
        }
        for (key, number) in std::mem::take(&mut self.watchers_to_be) {
            if let Some(connection) = self.connections.get_mut(&key) {
                connection.watches = true;
            }
            let records = self.containers.iter().map(|c| c.record.clone()).collect();
            self.reply((key, number), Ok(Reply::Containers(records)));
        }
    }

    fn start(&mut self, caller: (u64, u64), id: String) -> Result<Option<Reply>, Refusal> {
        if self.stopping.is_some() {
            return Err(Refusal::Failed("the sandbox is being removed".to_owned()));
        }
        if self.births.values().any(|birth| birth.is_of(&id)) {
            return Err(Refusal::Failed("it is being started".to_owned()));
        }
        if let Some(container) = self.find(&id) {
            return Ok(Some(Reply::Started(container.record.clone())));
        }
        self.bear_container(caller, id).map_err(|failure| Refusal::Failed(failure.0))?;
        Ok(None)
    }

    fn signal(&mut self, id: &str, signal: i32) -> Result<Reply, Refusal> {
        let container = self.find(id).ok_or(Refusal::NoSuchContainer)?;
        if container.record.exit.is_some() {
            return Err(Refusal::NotRunning);
        }
        // It is our child and not yet waited for, so the number is still its own. Realtime
        // signals have no name in nix.
        let pid = rustix::process::Pid::from_raw(container.record.pid as i32);
        let valid = (1..=libc::SIGRTMAX()).contains(&signal);
        let (Some(pid), true) = (pid, valid) else {
            return Err(Refusal::Failed(format!("there is no signal {signal}")));
        };
        crate::sys::send_signal(pid, signal).map_err(|e| Refusal::Failed(e.to_string()))?;
        Ok(Reply::Done)
    }

    fn remove(&mut self, caller: (u64, u64), id: &str) -> Result<Option<Reply>, Refusal> {
        if self.births.values().any(|birth| birth.is_of(id)) {
            return Err(Refusal::Failed("it is being started".to_owned()));
        }
        let Some(container) = self.find(id) else { return Ok(Some(Reply::Done)) };
        if container.record.exit.is_none() {
            container.removers.push(caller);
            kill_process(container.record.pid);
            return Ok(None);
        }
        self.containers.retain(|c| c.record.id != id);
        Ok(Some(Reply::Done))
    }

    fn stop(&mut self, caller: (u64, u64)) {
        self.stopping = Some(caller);
        self.await_mover();
        for container in self.containers.iter().filter(|c| c.record.exit.is_none()) {
            kill_process(container.record.pid);
        }
    }

    fn exec(
        &mut self,
        caller: (u64, u64),
        id: &str,
        command: Vec<String>,
        wanted: Wanted,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let container = self.find(id).ok_or(Refusal::NoSuchContainer)?;
        if container.record.exit.is_some() || !container.confirmed {
            return Err(Refusal::NotRunning);
        }
        let failed = |failure: Failure| Refusal::Failed(failure.0);
        let streams = match wanted.tty {
            true => Streams::Terminal(self.socket_of(caller.0).map_err(failed)?),
            false => Streams::Given(stdio(wanted.stdin, descriptors).map_err(failed)?),
        };
        self.bear_exec(caller, id, command, streams).map_err(failed)
    }

    fn attach(
        &mut self,
        key: u64,
        id: &str,
        wanted: Attachment,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Reply, Refusal> {
        let failed = |failure: Failure| Refusal::Failed(failure.0);
        let container = self.containers.iter_mut().find(|c| c.record.id == id);
        let container = container.ok_or(Refusal::NoSuchContainer)?;
        if container.record.exit.is_some() || !container.confirmed {
            return Err(Refusal::NotRunning);
        }
        let mut descriptors = descriptors.into_iter();
        let mut pipe = |wanted: bool| -> Result<Option<OwnedFd>, Refusal> {
            if !wanted {
                return Ok(None);
            }
            let missing = || Failure("a descriptor is missing".to_owned());
            let end = descriptors.next().ok_or_else(missing).map_err(failed)?;
            rustix::io::ioctl_fionbio(&end, true).doing("set up a pipe").map_err(failed)?;
            Ok(Some(end))
        };
        let (stdout, stderr) = (pipe(wanted.stdout)?, pipe(wanted.stderr)?);
        let mut input = false;
        if let Some(connection) = self.connections.get_mut(&key) {
            match container.output.input_end() {
                InputEnd::Pipe(end) if wanted.stdin => {
                    connection.send_with(&Message::Event(Event::Input), end);
                    input = true;
                }
                InputEnd::Terminal { end, takes_input } => {
                    connection.send_with(&Message::Event(Event::Terminal), end);
                    input = wanted.stdin && takes_input;
                }
                InputEnd::Pipe(_) | InputEnd::Nothing => {}
            }
        }
        let viewer = Viewer {
            connection: key,
            stdout,
            stderr,
            ends_input: input && wanted.once,
            lagged: false,
        };
        match container.output.attach(viewer) {
            true => Ok(Reply::Attached { input }),
            false => Err(Refusal::Failed("too many are attached to it already".to_owned())),
        }
    }

    fn socket_of(&self, key: u64) -> Result<OwnedFd, Failure> {
        match self.connections.get(&key) {
            Some(connection) => connection.duplicate().doing("copy the caller's socket"),
            None => Err(Failure("the caller has gone".to_owned())),
        }
    }
}

struct Wanted {
    stdin: bool,
    tty: bool,
}

/// What an attach is for.
struct Attachment {
    stdout: bool,
    stderr: bool,
    stdin: bool,
    once: bool,
}

/// Sorts the descriptors that came with a request.
fn stdio(with_stdin: bool, descriptors: Vec<OwnedFd>) -> Result<Stdio, Failure> {
    let mut descriptors = descriptors.into_iter();
    let missing = || Failure("a descriptor is missing".to_owned());
    let stdin = match with_stdin {
        true => descriptors.next().ok_or_else(missing)?,
        false => File::open("/dev/null").doing("open /dev/null")?.into(),
    };
    let stdout = descriptors.next().ok_or_else(missing)?;
    let stderr = descriptors.next().ok_or_else(missing)?;
    Ok(Stdio { stdin, stdout, stderr })
}
