//! Keeps a task for every probe that should be under way.

use std::collections::HashMap;
use std::sync::Arc;

use runtime::ContainerId;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Worker;
use crate::pods::observed::PostStart;
use crate::pods::observed::{ContainerRecord, Verdicts};
use crate::pods::plan::is_started;
use crate::pods::probes::{Check, ProbeKind, ProbeNews, ProbeTask, Timing};
use crate::pods::spec;

/// The probes under way. They end with it.
pub(super) struct Probes {
    tasks: HashMap<(ContainerId, ProbeKind), Option<Abort>>,
    news: mpsc::Sender<ProbeNews>,
}

impl Probes {
    pub(super) fn new(news: mpsc::Sender<ProbeNews>) -> Self {
        Self { tasks: HashMap::new(), news }
    }
}

/// Ends a task when dropped.
struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

const KINDS: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

pub(super) fn put_verdict(verdicts: &mut Verdicts, news: &ProbeNews) {
    let verdict = match news.kind {
        ProbeKind::Startup => &mut verdicts.startup,
        ProbeKind::Readiness => &mut verdicts.readiness,
        ProbeKind::Liveness => &mut verdicts.liveness,
    };
    *verdict = Some(news.healthy);
}

impl Worker {
    /// Starts the probes that should be under way and stops all others.
    pub(super) fn keep_probing(&mut self) {
        let mut wanted: Vec<(usize, ContainerId, ProbeKind)> = Vec::new();
        if self.observed.network.done().is_some() && !self.observed.finished {
            for (index, record) in self.observed.containers.iter().enumerate() {
                let Some(attempt) = record.running() else { continue };
                for kind in KINDS {
                    if self.is_wanted(record, kind) {
                        wanted.push((index, attempt.id(), kind));
                    }
                }
            }
        }
        self.probes.tasks.retain(|(id, kind), _| {
            wanted.iter().any(|(_, wanted_id, wanted_kind)| wanted_id == id && wanted_kind == kind)
        });
        for (index, id, kind) in wanted {
            if !self.probes.tasks.contains_key(&(id.clone(), kind)) {
                let task = self.start_probe(index, kind);
                self.probes.tasks.insert((id, kind), task);
            }
        }
    }

    fn is_wanted(&self, record: &ContainerRecord, kind: ProbeKind) -> bool {
        let spec = spec::container(&self.pod, &record.name);
        // Nothing else is done with a container before its hook has succeeded.
        let called = record.post_start == PostStart::Done;
        if !called || spec.as_deref().and_then(|spec| kind.of(spec)).is_none() {
            return false;
        }
        let started = is_started(&self.pod, record);
        match kind {
            ProbeKind::Startup => !started && record.stopping.is_none(),
            // A container that is being stopped is not started again, but may refuse requests.
            ProbeKind::Readiness => started,
            ProbeKind::Liveness => started && record.stopping.is_none(),
        }
    }

    /// Nothing when the probe cannot be carried out as it is specified; people are told.
    fn start_probe(&self, index: usize, kind: ProbeKind) -> Option<Abort> {
        let record = self.observed.containers.get(index)?;
        let attempt = record.running()?;
        let spec = spec::container(&self.pod, &record.name)?;
        let probe = kind.of(&spec)?;
        let address = *self.observed.network.done()?.first()?;
        let check = match Check::of(probe, &spec, address) {
            Ok(check) => check,
            Err(problem) => {
                let message = format!("{kind:?} probe errored: {problem}");
                self.teller.warning(Some(&record.name), "Unhealthy", message);
                return None;
            }
        };
        let task = ProbeTask {
            kind,
            container_name: record.name.clone(),
            container: attempt.id(),
            sandbox: self.identity.sandbox(),
            timing: Timing::of(probe),
            check,
            known: match kind {
                ProbeKind::Readiness => record.verdicts.readiness,
                ProbeKind::Startup | ProbeKind::Liveness => None,
            },
            started_at: attempt.started_at,
            runtime: Arc::clone(&self.context.dependencies.runtime),
            clock: self.context.clock.clone(),
            teller: self.teller.clone(),
            news: self.probes.news.clone(),
        };
        Some(Abort(tokio::spawn(task.run()).abort_handle()))
    }
}
