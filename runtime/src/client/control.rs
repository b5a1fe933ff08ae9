//! The connection to a shim, and what is known about its containers through it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};
use tracing::warn;

use super::{Answer, io_error};
use crate::api::*;
use crate::shim::protocol::{
    self, Call, ContainerRecord, Event, FrameBuffer, Message, Reply, Request,
};
use crate::shim::records::{self, ProcessIdentity, SOCKET, SandboxFolder};
use crate::{Error, Result};

/// What the caller knows about a container and its shim does not.
#[derive(Clone, Debug)]
pub(super) struct Details {
    annotations: std::collections::BTreeMap<String, String>,
    log_path: Option<PathBuf>,
}

impl Details {
    pub(super) fn of(config: &ContainerConfig) -> Details {
        Details { annotations: config.annotations.clone(), log_path: config.log_path.clone() }
    }
}

/// What is known about a sandbox.
pub(super) struct Knowledge {
    sandbox: SandboxId,
    events: broadcast::Sender<RuntimeEvent>,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    /// The shim, as long as it answers.
    shim: Option<u32>,
    /// Its end is wanted, and no news.
    end_expected: bool,
    containers: Vec<(ContainerRecord, Details)>,
}

impl Knowledge {
    pub(super) fn new(sandbox: SandboxId, events: broadcast::Sender<RuntimeEvent>) -> Knowledge {
        Knowledge { sandbox, events, facts: Mutex::default() }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Only ever changed in one step, so it is whole whoever panicked.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim's process id, while it answers.
    pub(super) fn shim(&self) -> Option<u32> {
        self.facts().shim
    }

    /// From now on the shim's end is no news.
    pub(super) fn expect_end(&self) {
        self.facts().end_expected = true;
    }

    pub(super) fn containers(&self) -> Vec<ContainerState> {
        let mut facts = self.facts();
        if facts.shim.is_none() {
            note_dead(&mut facts.containers);
        }
        facts.containers.iter().map(|(record, details)| state(record, details)).collect()
    }

    pub(super) fn container(&self, id: &ContainerId) -> Option<ContainerState> {
        self.containers().into_iter().find(|container| container.id == *id)
    }

    pub(super) fn forget(&self, id: &ContainerId) {
        self.facts().containers.retain(|(record, _)| record.id != id.0);
    }

    /// Finds out what a dead shim has left behind.
    pub(super) fn read_from_disk(&self, folder: &SandboxFolder) -> Result<()> {
        let path = folder.containers();
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("read", &path))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = folder.container(&ContainerId(name.clone())).state();
            match records::read::<ContainerRecord>(&path) {
                Ok(record) => found.push((record, read_details(folder, &name)?)),
                // It never came to run.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("read", &path)(e)),
            }
        }
        found.sort_by_key(|(record, _)| record.started_at);
        self.facts().containers = found;
        Ok(())
    }

    fn note_started(&self, record: ContainerRecord, details: Details) {
        let mut facts = self.facts();
        if !facts.containers.iter().any(|(known, _)| known.id == record.id) {
            facts.containers.push((record, details));
        }
    }

    fn note_exit(&self, id: String, exit: ContainerExit) {
        let mut facts = self.facts();
        let found = facts.containers.iter_mut().find(|(record, _)| record.id == id);
        let Some((record, _)) = found else { return };
        record.exit = Some(exit.clone());
        drop(facts);
        let (sandbox, container) = (self.sandbox.clone(), ContainerId(id));
        // Without a receiver nobody wants to know, which is no error.
        let _ = self.events.send(RuntimeEvent::ContainerExited { sandbox, container, exit });
    }

    fn note_loss(&self) {
        let mut facts = self.facts();
        facts.shim = None;
        let expected = facts.end_expected;
        drop(facts);
        if !expected {
            warn!(sandbox = %self.sandbox, "lost a sandbox: its shim is gone");
            let _ = self.events.send(RuntimeEvent::SandboxLost { sandbox: self.sandbox.clone() });
        }
    }
}

/// Without a shim nobody reports an end, and the exit code of one that it has not seen is lost.
fn note_dead(containers: &mut [(ContainerRecord, Details)]) {
    for (record, _) in containers {
        let process = ProcessIdentity { pid: record.pid, start_ticks: record.start_ticks };
        if record.exit.is_none() && !process.is_alive() {
            record.exit = Some(ContainerExit {
                // What Kubernetes reports for a container whose end nobody has seen.
                exit_code: 137,
                signal: None,
                oom_killed: false,
                finished_at: SystemTime::now(),
            });
        }
    }
}

fn state(record: &ContainerRecord, details: &Details) -> ContainerState {
    ContainerState {
        id: ContainerId(record.id.clone()),
        annotations: details.annotations.clone(),
        log_path: details.log_path.clone(),
        pid: record.exit.is_none().then_some(record.pid),
        started_at: record.started_at,
        exit: record.exit.clone(),
    }
}

fn read_details(folder: &SandboxFolder, id: &str) -> Result<Details> {
    let path = folder.container(&ContainerId(id.to_owned())).config();
    let config: ContainerConfig = records::read(&path).map_err(io_error("read", &path))?;
    Ok(Details::of(&config))
}

/// A connection to a shim. Dropping it hangs up, which the shim survives.
pub(super) struct Control {
    calls: mpsc::Sender<Pending>,
}

struct Pending {
    call: Call,
    details: Option<Details>,
    answer: oneshot::Sender<Answer>,
}

/// Callers beyond this number wait: a shim answers one after the other.
const CALLS_AT_ONCE: usize = 16;

impl Control {
    /// Connects, and learns about the shim's containers.
    pub(super) async fn connect(
        folder: &SandboxFolder,
        knowledge: &Arc<Knowledge>,
    ) -> Result<Control> {
        let mut talk = Talk::begin(folder).await?;
        let request = Request { number: 0, call: Call::Watch };
        talk.send(&request).await.map_err(|e| talk.failed(knowledge, &e.to_string()))?;
        let answer = talk.next().await.map_err(|e| talk.failed(knowledge, &e.to_string()))?;
        let records = match answer {
            Some(Message::Reply { result: Ok(Reply::Containers(records)), .. }) => records,
            other => return Err(talk.failed(knowledge, &format!("unexpected answer {other:?}"))),
        };
        let identity_path = folder.shim();
        let holder = folder.clone();
        let (identity, containers) = super::blocking(move || {
            let identity: ProcessIdentity =
                records::read(&identity_path).map_err(io_error("read", &identity_path))?;
            let with_details = |record: ContainerRecord| {
                let details = read_details(&holder, &record.id)?;
                Ok((record, details))
            };
            let containers: Result<Vec<_>> = records.into_iter().map(with_details).collect();
            Ok((identity, containers?))
        })
        .await?;
        *knowledge.facts() = Facts { shim: Some(identity.pid), end_expected: false, containers };
        let (calls, pending) = mpsc::channel(CALLS_AT_ONCE);
        tokio::spawn(converse(talk, pending, Arc::clone(knowledge)));
        Ok(Control { calls })
    }

    /// Asks the shim for something; nothing if it dies before it answers.
    pub(super) async fn call(&self, call: Call, details: Option<Details>) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.calls.send(Pending { call, details, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// Carries calls to the shim and answers and events back, until either side ends.
async fn converse(mut talk: Talk, mut calls: mpsc::Receiver<Pending>, knowledge: Arc<Knowledge>) {
    let mut waiting = HashMap::new();
    let mut number = 0;
    loop {
        tokio::select! {
            call = calls.recv() => {
                // Nobody holds the runtime any more.
                let Some(Pending { call, details, answer }) = call else { return };
                number += 1;
                if talk.send(&Request { number, call }).await.is_err() {
                    break;
                }
                waiting.insert(number, (details, answer));
            }
            message = talk.next() => match message {
                Ok(Some(message)) => hear(message, &mut waiting, &knowledge),
                Ok(None) => break,
                Err(error) => {
                    warn!(sandbox = %knowledge.sandbox, %error, "the shim cannot be understood");
                    break;
                }
            },
        }
    }
    knowledge.note_loss();
}

fn hear(
    message: Message,
    waiting: &mut HashMap<u64, (Option<Details>, oneshot::Sender<Answer>)>,
    knowledge: &Knowledge,
) {
    match message {
        Message::Reply { number, result } => {
            let Some((details, answer)) = waiting.remove(&number) else { return };
            // Known before the answer arrives, and before the event of its end, which follows.
            if let (Ok(Reply::Started(record)), Some(details)) = (&result, details) {
                knowledge.note_started(record.clone(), details);
            }
            // Whoever asked may have lost interest.
            let _ = answer.send(result);
        }
        Message::Event(Event::Exited { container, exit }) => knowledge.note_exit(container, exit),
        Message::Event(_) => {}
    }
}

/// Frames over a shim's socket.
struct Talk {
    stream: UnixStream,
    arrived: FrameBuffer,
}

/// Connects to a sandbox's shim.
pub(super) async fn connect(folder: &SandboxFolder) -> Result<UnixStream> {
    // The path of a socket may not be longer than 108 bytes; this one never is.
    let holder = File::open(&folder.0).map_err(io_error("open", &folder.0))?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", holder.as_raw_fd());
    UnixStream::connect(path).await.map_err(io_error("connect to", &folder.socket()))
}

impl Talk {
    async fn begin(folder: &SandboxFolder) -> Result<Talk> {
        Ok(Talk { stream: connect(folder).await?, arrived: FrameBuffer::default() })
    }

    async fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.write_all(&protocol::frame(request)).await
    }

    /// The next message; may be dropped and asked again without losing any.
    async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.arrived.next().map_err(io::Error::other)? {
                return Ok(Some(message));
            }
            let mut bytes = [0; 8192];
            match self.stream.read(&mut bytes).await? {
                0 => return Ok(None),
                length => self.arrived.push(&bytes[..length]),
            }
        }
    }

    fn failed(&self, knowledge: &Knowledge, reason: &str) -> Error {
        Error::Shim { sandbox: knowledge.sandbox.clone(), reason: reason.to_owned() }
    }
}
