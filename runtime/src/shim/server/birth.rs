//! Creators at work: from the fork to the executed program, or to the reason why not.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::{PipeFlags, pipe_with};

use super::connection::Connection;
use super::container::{Container, End};
use super::streams::{Output, Stream};
use super::{Server, kill_session};
use crate::api::ContainerId;
use crate::plan::{LaunchPlan, Processes};
use crate::shim::creator::{self, OCI_ID, Stdio};
use crate::shim::enter::{self, Streams, Target};
use crate::shim::failure::{Doing, Failure};
use crate::shim::output::{Log, StreamName};
use crate::shim::protocol::{ContainerRecord, Refusal, Reply};
use crate::shim::records::{self, ContainerFolder, ProcessIdentity};
use crate::shim::report::{self, Report};
use crate::shim::view::Attendant;
use crate::sys::{self, Fork};

/// A creator takes milliseconds. One that takes so long is stuck, and is killed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Birth {
    pub(super) report: OwnedFd,
    pub(super) deadline: Instant,
    /// Who asked: connection and request.
    caller: (u64, u64),
    creator: Pid,
    /// The creator has ended, and whether it was killed; what it had to say may still be on its way.
    creator_ended: Option<bool>,
    born: bool,
    what: Newborn,
    failure: Option<String>,
    cause: Option<String>,
    unfit: bool,
    /// The program of an exec that ended before this birth was over.
    pub(super) early_end: Option<End>,
}

enum Newborn {
    /// Kept here until there is a process.
    Container {
        id: String,
        group: String,
        has_company: bool,
        output: Output,
    },
    Exec,
}

impl Birth {
    fn has_report(&self) -> bool {
        let mut waiting = [PollFd::new(&self.report, PollFlags::IN)];
        rustix::event::poll(&mut waiting, Some(&Timespec::default())).is_ok_and(|n| n > 0)
    }

    pub(super) fn is_exec_of(&self, connection: u64) -> bool {
        matches!(self.what, Newborn::Exec) && self.caller.0 == connection
    }

    /// Whether this is its creator; notes that it has ended.
    pub(super) fn note_end_of(&mut self, pid: i32, end: &End) -> bool {
        let own = self.creator.as_raw() == pid;
        if own {
            self.creator_ended = Some(matches!(end, End::Signal(_)));
        }
        own
    }

    /// Whether its creator was killed. Asked when all have closed their ends of the reports: if the
    /// creator has not been waited for yet, it is a matter of a moment.
    fn was_interrupted(&self) -> bool {
        let killed = || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            matches!(waitid(Id::Pid(self.creator), flags), Ok(WaitStatus::Signaled(..)))
        };
        self.creator_ended.unwrap_or_else(killed)
    }

    /// What whoever asked is told of a failure. What is told in the middle of an interruption (a pipe
    /// that broke) is not the reason.
    fn refusal(&self, reason: String) -> Refusal {
        match (self.was_interrupted(), self.unfit) {
            (true, _) => Refusal::Interrupted(reason),
            (false, true) => Refusal::Unfit(reason),
            (false, false) => Refusal::Failed(reason),
        }
    }

    pub(super) fn is_container(&self) -> bool {
        matches!(self.what, Newborn::Container { .. })
    }

    pub(super) fn is_of(&self, container: &str) -> bool {
        matches!(&self.what, Newborn::Container { id, .. } if id == container)
    }
}

impl Server {
    /// Forks the creator of a container.
    pub(super) fn bear_container(&mut self, caller: (u64, u64), id: String) -> Result<(), Failure> {
        let folder = self.folder.container(&ContainerId(id.clone()));
        let plan: LaunchPlan =
            records::read(&folder.launch()).doing("read the container's plan")?;
        let joined = plan.joins_processes_of.clone();
        let joined = joined.map(|target| self.runs_as(&target)).transpose()?;
        let log = plan.log.clone().map(Log::open).transpose().doing("open the log")?;
        let group = plan.cgroup.clone();
        if let Some(views) = self.views.take_if(|_| !plan.view.is_empty()) {
            // Forked where the shim is: one that is still being moved moves it afterwards.
            let is_moved = self.mover.is_none();
            self.attendant = Some(Attendant::start(views, &self.hierarchies, is_moved)?);
        }
        let (stdio, mut output) = match plan.tty {
            true => (None, Output::of_terminal(log, plan.stdin)),
            false => {
                let (stdio, output) = make_pipes(&plan, log)?;
                (Some(stdio), output)
            }
        };
        let has_company = joined.is_some() || plan.processes != Processes::Own;
        let (held, hierarchies) = (&self.held, &self.hierarchies);
        let work = |report: &Arc<OwnedFd>| {
            creator::create(&folder, plan, joined, held, hierarchies, stdio, report)
        };
        let (creator, report) = fork_creator(&self.entrances(), work)?;
        // A container that is never told to start leaves no trace of output.
        output.streams.shrink_to_fit();
        let what = Newborn::Container { id, group, has_company, output };
        self.add_birth(caller, creator, report, what);
        Ok(())
    }

    /// What callers reach the shim by.
    fn entrances(&self) -> Vec<BorrowedFd<'_>> {
        let connections = self.connections.values().map(Connection::as_fd);
        connections.chain([self.listener.as_fd()]).collect()
    }

    /// The first process of a container that runs.
    fn runs_as(&mut self, container: &str) -> Result<ProcessIdentity, Failure> {
        let found = self.find(container).filter(|found| found.record.exit.is_none());
        let found = found.ok_or_else(|| Failure(format!("{container} does not run")))?;
        Ok(ProcessIdentity { pid: found.record.pid, start_ticks: found.record.start_ticks })
    }

    /// Forks the creator of a program in a container.
    pub(super) fn bear_exec(
        &mut self,
        caller: (u64, u64),
        container: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<(), Failure> {
        let folder = self.folder.container(&ContainerId(container.to_owned()));
        let Some(found) = self.find(container) else {
            return Err(Failure("there is no such container".to_owned()));
        };
        let target =
            ProcessIdentity { pid: found.record.pid, start_ticks: found.record.start_ticks };
        let hierarchies = &self.hierarchies;
        let has_clocks = self.held.time.is_some();
        let (creator, report) = fork_creator(&self.entrances(), move |report| {
            let mut plan: LaunchPlan =
                records::read(&folder.launch()).doing("read the container's plan")?;
            plan.process.args = command;
            let target = Target { process: target, has_clocks };
            enter::enter(hierarchies, target, plan, streams, report)
        })?;
        self.add_birth(caller, creator, report, Newborn::Exec);
        Ok(())
    }

    fn add_birth(&mut self, caller: (u64, u64), creator: Pid, report: OwnedFd, what: Newborn) {
        let key = self.key();
        let deadline = Instant::now() + PATIENCE;
        let birth = Birth {
            report,
            deadline,
            caller,
            creator,
            creator_ended: None,
            born: false,
            what,
            failure: None,
            cause: None,
            unfit: false,
            early_end: None,
        };
        self.births.insert(key, birth);
    }

    /// Acts on a report.
    pub(super) fn hear_birth(&mut self, key: u64) {
        let Some(birth) = self.births.get_mut(&key) else { return };
        let mut descriptors = Vec::new();
        match report::receive(&birth.report, &mut descriptors) {
            Ok(Some(Report::Born { pid })) => {
                if let Err(failure) = self.take(key, pid, descriptors.pop()) {
                    self.fail_birth(key, failure.0);
                }
            }
            // The first is the innermost.
            Ok(Some(Report::Cause { reason })) => drop(birth.cause.get_or_insert(reason)),
            Ok(Some(Report::Unfit)) => birth.unfit = true,
            Ok(Some(Report::Failed { reason })) => {
                birth.failure = Some(match birth.cause.take() {
                    Some(cause) => format!("{reason}: {cause}"),
                    None => reason,
                });
            }
            Ok(None) => self.finish_birth(key),
            Err(failure) => {
                birth.failure = Some(failure.0);
                self.finish_birth(key);
            }
        }
    }

    /// Takes charge of a new process.
    fn take(&mut self, key: u64, pid: i32, terminal: Option<OwnedFd>) -> Result<(), Failure> {
        let early_end = self.unclaimed.remove(&pid);
        let Some(birth) = self.births.get_mut(&key) else { return Ok(()) };
        birth.born = true;
        let caller = birth.caller.0;
        let Newborn::Container { id, group, has_company, output } = &mut birth.what else {
            birth.early_end = early_end;
            self.execs.insert(caller, Pid::from_raw(pid));
            return report::let_go(&birth.report);
        };
        let mut output = std::mem::take(output);
        if let Some(terminal) = terminal {
            set_nonblocking(&terminal)?;
            output.streams.push(Stream::new(terminal, StreamName::Stdout));
        }
        let (id, group, has_company) = (id.clone(), group.clone(), *has_company);
        // It has ended already if there is no such process; that is found out below.
        let start_ticks = ProcessIdentity::of(pid as u32).map_or(0, |found| found.start_ticks);
        let record = ContainerRecord {
            id: id.clone(),
            pid: pid as u32,
            start_ticks,
            started_at: SystemTime::now(),
            exit: None,
        };
        let folder = self.folder.container(&ContainerId(id));
        // On disk before it runs: whatever happens next, the process is known.
        let written = records::write(&folder.state(), &record).doing("write the container's state");
        self.containers.push(Container {
            record,
            group,
            has_company,
            output,
            confirmed: false,
            early_end,
            removers: Vec::new(),
        });
        written.and_then(|()| tell_to_start(&folder))
    }

    fn fail_birth(&mut self, key: u64, reason: String) {
        let Some(birth) = self.births.get_mut(&key) else { return };
        let creator = birth.creator;
        let pid = match &birth.what {
            Newborn::Exec => self.execs.get(&birth.caller.0).copied(),
            Newborn::Container { id, .. } => {
                let found = self.containers.iter().find(|c| c.record.id == *id);
                found.map(|c| Pid::from_raw(c.record.pid as i32))
            }
        };
        birth.failure = Some(reason);
        for pid in [Some(creator), pid].into_iter().flatten() {
            // The end of its reports, which follows from this, is where the birth ends.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Kills creators that are stuck.
    pub(super) fn end_late_births(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> =
            self.births.iter().filter(|(_, b)| b.deadline <= now).map(|(key, _)| *key).collect();
        for key in late {
            self.fail_birth(key, "it took too long".to_owned());
            if let Some(birth) = self.births.get_mut(&key) {
                birth.deadline = now + PATIENCE;
            }
        }
    }

    /// Ends births whose creator was killed before it could say what it has made.
    pub(super) fn end_orphaned_births(&mut self) {
        let orphaned: Vec<u64> = self
            .births
            .iter()
            .filter(|(_, birth)| birth.creator_ended.is_some() && !birth.born)
            .map(|(key, _)| *key)
            .collect();
        for key in orphaned {
            // It may have spoken before it ended.
            while self.births.get(&key).is_some_and(|birth| !birth.born && birth.has_report()) {
                self.hear_birth(key);
            }
            let Some(birth) = self.births.get_mut(&key) else { continue };
            if birth.born || birth.failure.is_some() {
                continue;
            }
            birth.failure = Some("its creator died".to_owned());
            // A helper is in the creator's group. The container's process waits, in the container's
            // control group, for what will never come; that of an exec for the end of the report.
            let _ = killpg(birth.creator, Signal::SIGKILL);
            self.finish_birth(key);
        }
    }

    /// All have been heard: the program runs, or it never will.
    fn finish_birth(&mut self, key: u64) {
        let Some(mut birth) = self.births.remove(&key) else { return };
        let missing = match &birth.what {
            Newborn::Container { id, .. } => !self.containers.iter().any(|c| c.record.id == *id),
            Newborn::Exec => !self.execs.contains_key(&birth.caller.0),
        };
        let unsaid = || missing.then(|| "its creator died".to_owned());
        let failure = birth.failure.take().or_else(unsaid).map(|reason| birth.refusal(reason));
        match birth.what {
            Newborn::Container { id, .. } => self.finish_container(birth.caller, &id, failure),
            Newborn::Exec => self.finish_exec(birth.caller, failure, birth.early_end),
        }
        if self.births.is_empty() {
            self.unclaimed.clear();
        }
        self.admit_watchers();
    }

    fn finish_container(&mut self, caller: (u64, u64), id: &str, failure: Option<Refusal>) {
        let position = self.containers.iter().position(|c| c.record.id == id);
        let position = match (failure, position) {
            (None, Some(position)) => position,
            (failure, position) => {
                if let Some(position) = position {
                    self.containers.remove(position);
                    let folder = self.folder.container(&ContainerId(id.to_owned()));
                    let _ = std::fs::remove_file(folder.state());
                }
                let gone = || Refusal::Failed("it is not there".to_owned());
                return self.reply(caller, Err(failure.unwrap_or_else(gone)));
            }
        };
        let container = &mut self.containers[position];
        container.confirmed = true;
        let record = container.record.clone();
        let early_end = container.early_end.take();
        self.reply(caller, Ok(Reply::Started(record)));
        if let Some(end) = early_end {
            self.end_container(id, end);
        }
    }

    fn finish_exec(
        &mut self,
        caller: (u64, u64),
        failure: Option<Refusal>,
        early_end: Option<End>,
    ) {
        let pid = self.execs.get(&caller.0).copied();
        if let Some(refusal) = failure {
            self.execs.remove(&caller.0);
            self.reply(caller, Err(refusal));
            if let Some(connection) = self.connections.get_mut(&caller.0) {
                connection.finished = true;
            }
            return;
        }
        self.reply(caller, Ok(Reply::ExecStarted));
        match (early_end, pid) {
            (Some(end), _) => self.end_exec(caller.0, end),
            // The caller hung up before there was anything to kill.
            (None, Some(pid)) if !self.connections.contains_key(&caller.0) => kill_session(pid),
            _ => {}
        }
    }
}

/// Forks a creator without the shim's entrances. What it forks may outlive the shim for a while, and
/// whoever found an entrance open would wait for an answer of a shim that is dead.
fn fork_creator(
    entrances: &[BorrowedFd<'_>],
    work: impl FnOnce(&Arc<OwnedFd>) -> Result<(), Failure>,
) -> Result<(Pid, OwnedFd), Failure> {
    let (ours, theirs) = report::channel()?;
    match sys::fork().doing("fork")? {
        Fork::Parent(pid) => Ok((pid, ours)),
        Fork::Child => {
            sys::close_in_fork(entrances);
            drop(ours);
            let theirs = Arc::new(theirs);
            creator::run(&theirs, || work(&theirs))
        }
    }
}

/// The container's ends and ours. What nobody wants to hear or say goes to `/dev/null`.
fn make_pipes(plan: &LaunchPlan, log: Option<Log>) -> Result<(Stdio, Output), Failure> {
    let null = || -> Result<OwnedFd, Failure> {
        let file = File::options().read(true).write(true).open("/dev/null");
        Ok(file.doing("open /dev/null")?.into())
    };
    let pipe = || pipe_with(PipeFlags::CLOEXEC).doing("make a pipe");
    let (stdin, held) = match plan.stdin {
        true => {
            let (theirs, ours) = pipe()?;
            (theirs, Some(ours))
        }
        false => (null()?, None),
    };
    if log.is_none() {
        let stdio = Stdio { stdin, stdout: null()?, stderr: null()? };
        return Ok((stdio, Output::of_pipes(None, held)));
    }
    let mut output = Output::of_pipes(log, held);
    let (stdout, theirs) = pipe()?;
    let (stderr, their_stderr) = pipe()?;
    for (source, name) in [(stdout, StreamName::Stdout), (stderr, StreamName::Stderr)] {
        set_nonblocking(&source)?;
        output.streams.push(Stream::new(source, name));
    }
    Ok((Stdio { stdin, stdout: theirs, stderr: their_stderr }, output))
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Failure> {
    rustix::io::ioctl_fionbio(fd, true).doing("set up a stream")
}

/// Lets the process that libcontainer has prepared execute its program.
fn tell_to_start(folder: &ContainerFolder) -> Result<(), Failure> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let path = folder.oci().join(OCI_ID);
    std::env::set_current_dir(&path).doing("enter libcontainer's folder")?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .doing("make a socket")?;
    let address = SocketAddrUnix::new("notify.sock").doing("name the socket")?;
    let connected = rustix::net::connect(socket.as_fd(), &address).doing("tell it to start");
    std::env::set_current_dir("/").doing("leave libcontainer's folder")?;
    connected
}
