//! The one writer: all that waits becomes one transaction of the file, with one fsync.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::leases;
use super::tables::Tables;
use super::{Shared, Told, failed};
use crate::store::{Error, Event, LeaseId, Op, Result, Revision, Txn, TxnOutcome};

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the writer is asked for.
pub(super) enum Command {
    Write(Write),
    Compact(Revision, Reply<()>),
}

/// What changes keys or leases.
pub(super) enum Write {
    Txn(Txn, Reply<TxnOutcome>),
    Grant(Duration, Reply<LeaseId>),
    /// The lease was taken out of [`leases::Leases`] already.
    Revoke(LeaseId, Option<Reply<()>>),
}

/// Commands that share a commit: bounds how long the first of them waits.
const GROUP: usize = 512;
/// Bytes of values that share a commit: bounds the memory of a commit.
const GROUP_BYTES: usize = 4 << 20;
/// Revisions whose history is removed with one commit: a compaction of thousands of revisions
/// delays no writer by more than some milliseconds.
const COMPACT_STEP: usize = 256;

/// An answer that may be given once the group is on the disk.
enum Answer {
    Txn(TxnOutcome, Reply<TxnOutcome>),
    Granted(LeaseId, Duration, Reply<LeaseId>),
    Revoked(Option<Reply<()>>),
}

/// What a group has come to, and what may be told of it once it is on the disk.
#[derive(Default)]
struct Done {
    revision: Revision,
    events: Vec<Event>,
    answers: Vec<Answer>,
}

/// A group in the making.
struct Group<'t> {
    tables: Tables<'t>,
    done: Done,
    /// Whether there is anything to commit.
    dirty: bool,
}

/// Serves commands until nobody can send any more.
pub(super) fn run(shared: &Shared, mut queue: mpsc::Receiver<Command>) {
    let mut compactions: Vec<Reply<()>> = Vec::new();
    // A compaction that a crash interrupted is taken up with the next one.
    let mut compacting = false;
    loop {
        let mut commands = Vec::new();
        if !compacting {
            match queue.blocking_recv() {
                Some(command) => commands.push(command),
                None => return,
            }
        }
        let mut bytes = commands.iter().map(Command::bytes).sum::<usize>();
        while commands.len() < GROUP && bytes < GROUP_BYTES {
            let Ok(command) = queue.try_recv() else { break };
            bytes += command.bytes();
            commands.push(command);
        }
        match commit(shared, commands, compacting, &mut compactions) {
            Ok(left) => compacting = left,
            // Whoever waits sees its reply dropped, or was answered.
            Err(error) => {
                error!(error = %error, cause = ?std::error::Error::source(&error), "the store failed to write");
                compacting = false;
                answer_all(&mut compactions, || Err(failed("compact", "a write failed")));
            }
        }
        if !compacting {
            answer_all(&mut compactions, || Ok(()));
        }
    }
}

fn answer_all(replies: &mut Vec<Reply<()>>, answer: impl Fn() -> Result<()>) {
    for reply in replies.drain(..) {
        // The asker may have gone.
        let _ = reply.send(answer());
    }
}

impl Command {
    fn bytes(&self) -> usize {
        let Self::Write(Write::Txn(txn, _)) = self else { return 0 };
        txn.ops.iter().map(Op::bytes).sum()
    }
}

/// Performs a group; tells whether a compaction has more to do.
fn commit(
    shared: &Shared,
    commands: Vec<Command>,
    mut compacting: bool,
    compactions: &mut Vec<Reply<()>>,
) -> Result<bool> {
    let transaction =
        shared.with_database(|database| database.begin_write().map_err(|e| failed("write", e)))?;
    let (done, dirty) = {
        let mut group = Group {
            tables: Tables::open(&transaction)?,
            done: Done { revision: shared.revision(), ..Done::default() },
            dirty: compacting,
        };
        for command in commands {
            match command {
                Command::Compact(revision, reply) => {
                    if group.mark_compacted(revision, reply, compactions)? {
                        compacting = true;
                    }
                }
                Command::Write(write) => group.perform(write)?,
            }
        }
        if compacting {
            compacting = !group.tables.compact(COMPACT_STEP)?;
        }
        if group.dirty {
            group.tables.set_revision(group.done.revision)?;
        }
        (group.done, group.dirty)
    };
    if dirty {
        transaction.commit().map_err(|e| failed("commit", e))?;
    } else {
        transaction.abort().map_err(|e| failed("abort", e))?;
    }
    let Done { revision, events, answers } = done;
    // Readers first, then watches, then those who wrote: a writer that has its answer finds its
    // write everywhere.
    shared.revision.store(revision, Ordering::Release);
    if !events.is_empty() {
        // Nobody listening is no failure.
        let _ = shared.told.send(Told::Changes(revision, Arc::new(events)));
    }
    for answer in answers {
        answer.give(shared);
    }
    Ok(compacting)
}

impl Group<'_> {
    /// Begins a compaction; tells whether there is anything to remove.
    fn mark_compacted(
        &mut self,
        revision: Revision,
        reply: Reply<()>,
        compactions: &mut Vec<Reply<()>>,
    ) -> Result<bool> {
        if revision > self.done.revision {
            let future = failed("compact", format!("revision {revision} is in the future"));
            let _ = reply.send(Err(future));
            return Ok(false);
        }
        compactions.push(reply);
        let news = self.tables.mark_compacted(revision)?;
        self.dirty |= news;
        Ok(news)
    }

    fn perform(&mut self, write: Write) -> Result<()> {
        match write {
            Write::Txn(txn, reply) => {
                if let Some(index) = self.tables.first_conflict(&txn)? {
                    // Told after the commit: what it conflicts with may be of this very group.
                    self.done.answers.push(Answer::Txn(TxnOutcome::Conflict(index), reply));
                    return Ok(());
                }
                match self.tables.check_leases(&txn.ops) {
                    Err(error @ Error::NoSuchLease(_)) => {
                        let _ = reply.send(Err(error));
                        return Ok(());
                    }
                    other => other?,
                }
                let events = self.tables.apply(txn.ops, self.done.revision + 1)?;
                self.take(events);
                self.done
                    .answers
                    .push(Answer::Txn(TxnOutcome::Committed(self.done.revision), reply));
            }
            Write::Grant(ttl, reply) => match leases::seconds(ttl) {
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
                Ok(seconds) => {
                    let lease = self.tables.grant(seconds)?;
                    self.dirty = true;
                    let ttl = Duration::from_secs(seconds);
                    self.done.answers.push(Answer::Granted(lease, ttl, reply));
                }
            },
            Write::Revoke(lease, reply) => {
                let events = self.tables.revoke(lease, self.done.revision + 1)?;
                self.take(events);
                self.dirty = true;
                self.done.answers.push(Answer::Revoked(reply));
            }
        }
        Ok(())
    }

    /// A transaction that changed something has used the next revision.
    fn take(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.done.revision += 1;
            self.done.events.extend(events);
            self.dirty = true;
        }
    }
}

impl Answer {
    fn give(self, shared: &Shared) {
        // Whoever asked may have gone; what was done stays done.
        match self {
            Self::Txn(outcome, reply) => drop(reply.send(Ok(outcome))),
            Self::Granted(lease, ttl, reply) => {
                shared.leases.add(lease, ttl);
                drop(reply.send(Ok(lease)));
            }
            Self::Revoked(Some(reply)) => drop(reply.send(Ok(()))),
            Self::Revoked(None) => {}
        }
    }
}
