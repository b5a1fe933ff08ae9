//! The loop of a shim: one `poll` over the signal of ended children, the callers, the creators
//! and the output of containers.
//!
//! A *birth* is a creator at work. Its report says which process it has made; the end of its
//! reports says that the program has been executed, or why not.
//!
//! ```text
//! Start ─ fork creator ─ Born: record, tell it to start ─ end of reports ─ Started
//!                             └─ Failed: forget it ────── end of reports ─ Failed
//! ```

mod birth;
mod calls;
mod connection;
mod container;
mod groups;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::failure::{Doing, Failure};
use super::namespaces::Held;
use super::protocol::{Event, Message, Refusal, Reply};
use super::records::{self, SandboxFolder};
use super::view::{Attendant, Views};
use crate::api::ContainerId;
use crate::cgroup::Hierarchies;
use crate::sys;
use birth::Birth;
use connection::Connection;
use container::{Container, End};
use streams::Output;

/// As much as is read from a stream at once: half of what a pipe holds, and small enough to keep.
const BUFFER_BYTES: usize = 32 * 1024;

/// A shim that has had nothing to do for so long will have nothing to do for long: containers run
/// for hours.
const REST_AFTER: Duration = Duration::from_secs(2);

pub(super) struct Server {
    folder: SandboxFolder,
    hierarchies: Hierarchies,
    /// The sandbox's namespaces, as far as the shim is not in them.
    held: Held,
    /// What containers see of themselves, until there is somebody to serve it.
    views: Option<Views>,
    attendant: Option<Attendant>,
    /// The control group in which shims are.
    own_group: String,
    listener: UnixListener,
    signals: SignalFd,
    connections: BTreeMap<u64, Connection>,
    containers: Vec<Container>,
    /// Programs of execs by the connection that each belongs to.
    execs: BTreeMap<u64, Pid>,
    births: BTreeMap<u64, Birth>,
    /// Children that ended while a creator had not yet said whose they are.
    unclaimed: HashMap<i32, End>,
    next_key: u64,
    /// What the containers cannot do without is no more, and nothing can take its place: the first process of
    /// those that they share, or who served what they see of themselves.
    bereft: bool,
    /// The fork that moves this process to its control groups, while it does.
    mover: Option<Pid>,
    /// When to give memory back, if nothing happens until then.
    rest_at: Option<Instant>,
    /// Who is to be told about everything: connection and request.
    watchers_to_be: Vec<(u64, u64)>,
    /// Who asked for the end: connection and request.
    stopping: Option<(u64, u64)>,
    buffer: Vec<u8>,
}

/// What became ready.
enum Ready {
    Signal,
    Caller,
    View,
    Connection { key: u64, readable: bool },
    Birth(u64),
    Output { container: usize, stream: usize },
}

impl Server {
    pub(super) fn new(
        folder: SandboxFolder,
        hierarchies: Hierarchies,
        listener: UnixListener,
        held: Held,
        views: Option<Views>,
    ) -> Result<Server, Failure> {
        // Requests to end from the machine going down reach the containers too; the shim stays to
        // record how they end. It is asked to stop through its socket.
        let mut watched = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            watched.add(signal);
        }
        watched.thread_block().doing("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&watched, flags).doing("watch signals")?;
        Ok(Server {
            folder,
            hierarchies,
            held,
            views,
            attendant: None,
            own_group: String::new(),
            listener,
            signals,
            connections: BTreeMap::new(),
            containers: Vec::new(),
            execs: BTreeMap::new(),
            births: BTreeMap::new(),
            unclaimed: HashMap::new(),
            next_key: 0,
            bereft: false,
            mover: None,
            rest_at: Some(Instant::now() + REST_AFTER),
            watchers_to_be: Vec::new(),
            stopping: None,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Serves until asked to stop; gives the exit code.
    pub(super) fn run(mut self) -> i32 {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(errno) => {
                    eprintln!("poll: {errno}");
                    return 1;
                }
            };
            // Positions of containers and streams are those of the poll: output goes first, and
            // from the back, so that what is taken out moves nothing that is still to come.
            for what in ready.iter().rev() {
                if let Ready::Output { container, stream } = what {
                    self.containers[*container].output.pump(*stream, &mut self.buffer);
                }
            }
            self.dismiss_laggards();
            if ready.is_empty() {
                self.rest();
            }
            for what in ready {
                self.attend(what);
            }
            self.end_orphaned_births();
            self.end_late_births();
            self.close_connections();
            if self.has_stopped() {
                self.end_first_process();
                return 0;
            }
            if self.bereft && self.ends_what_runs() {
                self.end_first_process();
                return 1;
            }
        }
    }

    fn attend(&mut self, what: Ready) {
        match what {
            Ready::Output { .. } => {}
            Ready::Signal => self.reap(),
            Ready::Caller => self.accept(),
            Ready::View => {
                if let Some(views) = &mut self.views {
                    views.serve(&self.hierarchies, &mut self.buffer);
                    self.rest_at = Some(Instant::now() + REST_AFTER);
                }
            }
            Ready::Birth(key) => {
                self.hear_birth(key);
                self.rest_at = Some(Instant::now() + REST_AFTER);
            }
            Ready::Connection { key, readable } => self.serve(key, readable),
        }
    }

    /// Gives back, once, what a quiet shim does not need.
    fn rest(&mut self) {
        if !self.births.is_empty() || self.rest_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.rest_at = None;
        self.containers.shrink_to_fit();
        if let Some(views) = &mut self.views {
            views.rest();
        }
        if let Err(e) = sys::release_program_pages() {
            eprintln!("memory could not be given back: {e}");
        }
    }

    fn wait(&self) -> rustix::io::Result<Vec<Ready>> {
        let mut what = vec![Ready::Signal, Ready::Caller];
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
        ];
        if let Some(views) = &self.views {
            what.push(Ready::View);
            fds.push(PollFd::from_borrowed_fd(views.device(), PollFlags::IN));
        }
        for (key, connection) in &self.connections {
            let mut flags = PollFlags::IN;
            if connection.has_unsent() {
                flags |= PollFlags::OUT;
            }
            what.push(Ready::Connection { key: *key, readable: false });
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), flags));
        }
        for (key, birth) in &self.births {
            what.push(Ready::Birth(*key));
            fds.push(PollFd::from_borrowed_fd(birth.report.as_fd(), PollFlags::IN));
        }
        for (container, holder) in self.containers.iter().enumerate() {
            for (stream, source) in holder.output.streams.iter().enumerate() {
                what.push(Ready::Output { container, stream });
                fds.push(PollFd::from_borrowed_fd(source.source(), PollFlags::IN));
            }
        }
        let deadlines = self.births.values().map(|birth| birth.deadline);
        let deadline = deadlines.min().or(self.rest_at);
        let timeout = deadline.map(|deadline| {
            // Never zero before its time: rounding down would spin.
            let left = deadline.saturating_duration_since(Instant::now());
            let left = left + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
        let happened: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let ready = what.into_iter().zip(happened).filter(|(_, flags)| !flags.is_empty());
        Ok(ready
            .map(|(what, flags)| match what {
                Ready::Connection { key, .. } => {
                    Ready::Connection { key, readable: flags != PollFlags::OUT }
                }
                other => other,
            })
            .collect())
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                let key = self.key();
                self.connections.insert(key, Connection::new(stream));
            }
        }
    }

    fn serve(&mut self, key: u64, readable: bool) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.flush();
        if readable && !connection.read() {
            connection.broken = true;
        }
        while let Some(connection) = self.connections.get_mut(&key) {
            let Some(request) = connection.next_request() else { break };
            self.call(key, request);
        }
    }

    /// Lets go of callers that have hung up, and of those that have all they wanted.
    fn close_connections(&mut self) {
        let done: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.broken || (c.finished && !c.has_unsent()))
            .map(|(key, _)| *key)
            .collect();
        for key in done {
            self.connections.remove(&key);
            if let Some(pid) = self.execs.get(&key) {
                kill_session(*pid);
            }
            for container in &mut self.containers {
                container.output.detach(key);
            }
        }
    }

    /// Tells those who are attached and did not keep up that this is all they get.
    fn dismiss_laggards(&mut self) {
        let viewers = self.containers.iter().flat_map(|container| container.output.viewers());
        for viewer in viewers.filter(|viewer| viewer.lagged) {
            if let Some(connection) = self.connections.get_mut(&viewer.connection)
                && !connection.finished
            {
                connection.send(&Message::Event(Event::Lagged));
                connection.finished = true;
            }
        }
    }

    fn reply(&mut self, to: (u64, u64), result: Result<Reply, Refusal>) {
        let (key, number) = to;
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.send(&Message::Reply { number, result });
        }
    }

    /// Takes note of all children that have ended.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => {
                    if let Some((pid, end)) = End::from_status(status) {
                        self.note_end(pid, end);
                    }
                }
            }
        }
    }

    fn note_end(&mut self, pid: i32, end: End) {
        let container = self
            .containers
            .iter_mut()
            .find(|c| c.record.exit.is_none() && c.record.pid == pid as u32);
        if let Some(container) = container {
            match container.confirmed {
                true => {
                    let id = container.record.id.clone();
                    self.end_container(&id, end);
                }
                false => container.early_end = Some(end),
            }
            return;
        }
        let exec = self.execs.iter().find(|(_, exec)| exec.as_raw() == pid).map(|(key, _)| *key);
        if let Some(key) = exec {
            match self.births.values_mut().find(|birth| birth.is_exec_of(key)) {
                Some(birth) => birth.early_end = Some(end),
                None => self.end_exec(key, end),
            }
            return;
        }
        if self.mover.is_some_and(|mover| mover.as_raw() == pid) {
            return self.mover_ended();
        }
        if self.attendant.is_some_and(|attendant| attendant.pid.as_raw() == pid) {
            self.attendant = None;
            // It ends by itself when the views are taken away, which is with the sandbox.
            if end != End::Code(0) {
                eprintln!("the attendant of the views ended: {end:?}");
                self.bereft = true;
            }
            return;
        }
        if self.held.first.is_some_and(|first| first.as_raw() == pid) {
            eprintln!("the first process of the sandbox ended: {end:?}");
            self.held.first = None;
            self.bereft = true;
            return;
        }
        if self.births.values_mut().any(|birth| birth.note_end_of(pid, &end)) {
            return;
        }
        // libcontainer's helper, or a process whose creator has yet to say so.
        if !self.births.is_empty() {
            self.unclaimed.insert(pid, end);
        }
    }

    /// Records the end of a container and tells everybody.
    fn end_container(&mut self, id: &str, end: End) {
        let folder = self.folder.container(&ContainerId(id.to_owned()));
        let Some(container) = self.containers.iter_mut().find(|c| c.record.id == id) else {
            return;
        };
        container.output.drain(&mut self.buffer);
        self.dismiss_laggards();
        let Some(container) = self.containers.iter_mut().find(|c| c.record.id == id) else {
            return;
        };
        let output = std::mem::take(&mut container.output);
        let attached: Vec<u64> = output.viewers().iter().map(|viewer| viewer.connection).collect();
        drop::<Output>(output);
        // In a namespace of its own the kernel has done so.
        if container.has_company
            && let Err(e) = self.hierarchies.kill_all(&container.group)
        {
            eprintln!("processes of {id} are left: {e}");
        }
        let oom_killed = self.hierarchies.oom_kills(&container.group) > 0;
        let exit = end.into_exit(oom_killed);
        container.record.exit = Some(exit.clone());
        if let Err(e) = records::write(&folder.state(), &container.record) {
            eprintln!("the exit code of {id} could not be written: {e}");
        }
        let removers = std::mem::take(&mut container.removers);
        let event = Message::Event(Event::Exited { container: id.to_owned(), exit });
        for connection in self.connections.values_mut().filter(|c| c.watches) {
            connection.send(&event);
        }
        if !removers.is_empty() {
            self.containers.retain(|c| c.record.id != id);
        }
        for key in attached {
            self.end_exec(key, end);
        }
        for remover in removers {
            self.reply(remover, Ok(Reply::Done));
        }
    }

    /// Tells the caller of an exec how its program ended, or of an attach how the container did.
    fn end_exec(&mut self, key: u64, end: End) {
        self.execs.remove(&key);
        if let Some(connection) = self.connections.get_mut(&key)
            && !connection.finished
        {
            connection.send(&Message::Event(Event::ExecExited { exit_code: end.exit_code() }));
            connection.finished = true;
        }
    }

    /// Once stopping: whether nothing is left, and the caller knows.
    fn has_stopped(&mut self) -> bool {
        let Some((key, number)) = self.stopping else { return false };
        if !self.births.is_empty() || self.containers.iter().any(|c| c.record.exit.is_none()) {
            return false;
        }
        self.reply((key, number), Ok(Reply::Done));
        true
    }

    /// Nothing can be started in this sandbox any more, so that what runs is killed; true once all of it has
    /// ended and that is recorded. The caller of the shim finds the sandbox lost, and makes another.
    fn ends_what_runs(&self) -> bool {
        for container in self.running().filter(|container| container.confirmed) {
            kill_process(container.record.pid);
        }
        self.births.is_empty() && self.running().next().is_none()
    }

    fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| c.record.exit.is_none())
    }

    /// What is left among the processes that the containers have shared goes with the first of them.
    fn end_first_process(&self) {
        if let Some(first) = self.held.first {
            let _ = kill(first, Signal::SIGKILL);
            let _ = waitpid(first, None);
        }
    }

    fn find(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.record.id == id)
    }
}

/// The first process of a pid namespace takes all others with it.
fn kill_process(pid: u32) {
    // One that has just ended is what is wanted.
    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
}

/// Kills the program of an exec and what it started in its own session.
fn kill_session(pid: Pid) {
    // One that has just ended is what is wanted.
    let _ = killpg(pid, Signal::SIGKILL);
    let _ = kill(pid, Signal::SIGKILL);
}
