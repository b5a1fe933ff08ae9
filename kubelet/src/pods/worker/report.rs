//! Computes the status, and tells the record and the master when it changed.

use jiff::Timestamp;
use proto::k8s::api::core::v1::{Pod, PodStatus};

use super::status::{PULL_ERROR_SHOWN, StatusInput, status};
use super::{PodView, Worker};
use crate::pods::clock::after;
use crate::pods::plan::Intent;
use crate::pods::record::{Record, stops};
use crate::pods::spec;

impl Worker {
    /// Reports what changed. Gives the time at which there will be something to report even if
    /// nothing happens.
    pub(super) async fn report(&mut self, intent: Intent) -> Option<Timestamp> {
        let now = self.context.clock.now();
        let status = status(&StatusInput {
            pod: &self.pod,
            intent,
            observed: &self.observed,
            host_ips: &self.context.config.node_addresses,
            start_time: self.start_time,
            previous: self.previous.as_ref(),
            now,
        });
        let view = PodView::of(&self.identity, &self.observed, &status);
        self.view.send_if_modified(|seen| {
            let changed = *seen != view;
            *seen = view;
            changed
        });
        // Nobody is interested in a pod whose object is gone, or that was reported as removed.
        if self.gone || self.observed.removal_reported {
            return None;
        }
        if now < self.quiet_until && is_uneventful(&status) {
            return Some(self.quiet_until);
        }
        if self.previous.as_ref() != Some(&status) || !self.reported {
            self.record(Some(status.clone())).await;
            self.reported = true;
            self.previous = Some(status.clone());
            self.context.dependencies.reporter.pod_status(
                self.identity.key.clone(),
                &self.identity.uid,
                status,
            );
        }
        // A failed pull is called a back-off after a while.
        let failures = self.observed.containers.iter().filter_map(|r| r.image.failure());
        failures.map(|f| after(f.at, PULL_ERROR_SHOWN)).filter(|at| *at > now).min()
    }

    /// Writes down which containers are asked to end, if that is not known on disk.
    pub(super) async fn remember_stops(&mut self) {
        if stops(&self.observed) != self.recorded_stops && !self.observed.finished {
            self.record(self.previous.clone()).await;
        }
    }

    /// Writes down what is about to be reported.
    pub(super) async fn record(&mut self, status: Option<PodStatus>) {
        let mut record =
            Record::new(&self.identity, status, self.promises(), self.observed.failed.clone());
        record.stops = stops(&self.observed);
        self.recorded_stops.clone_from(&record.stops);
        record.from_file = spec::is_static(&self.pod).then(|| Pod::clone(&self.pod));
        let dir = self.dir.clone();
        let written = tokio::task::spawn_blocking(move || record.write(&dir)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to write the pod's record"),
            Err(error) => tracing::error!(%error, "failed to write the pod's record"),
        }
    }
}

/// Whether the status says no more than that the pod is on its way.
fn is_uneventful(status: &PodStatus) -> bool {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let mut states = lists.into_iter().flatten().flatten().map(|s| s.state.as_ref());
    status.phase.as_deref() == Some("Pending")
        && states.all(|state| {
            let Some(state) = state else { return true };
            let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
            let failed = state.terminated.as_ref().is_some_and(|ended| ended.exit_code != 0);
            matches!(waits, None | Some("ContainerCreating" | "PodInitializing")) && !failed
        })
}
