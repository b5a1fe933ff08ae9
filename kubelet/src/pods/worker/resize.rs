//! A running pod asks for other resources: whether it is promised them, and how it gets them.

use std::sync::Arc;

use proto::k8s::api::core::v1::{Pod, ResourceRequirements};
use runtime::{ContainerId, Resources};
use serde::Serialize;

use super::Worker;
use super::act::{Done, chain};
use super::settle::RETRY;
use crate::pods::allocation::Amounts;
use crate::pods::bounds;
use crate::pods::observed::{Failure, Job};
use crate::pods::plan::Intent;
use crate::pods::recover::Promises;
use crate::pods::resources;
use crate::pods::spec::{self, Role};

impl Worker {
    /// What the containers were promised, as it is written down.
    pub(super) fn promises(&self) -> Promises {
        let own = self.observed.containers.iter().filter(|r| r.role != Role::Ephemeral);
        own.map(|record| (record.name.clone(), record.promised.clone())).collect()
    }

    /// Promises the pod what it asks for by now, if there is room for it.
    pub(super) async fn consider_resize(&mut self) {
        let wanted: Promises = spec::own(&self.pod)
            .map(|(_, c)| (c.name.clone(), c.resources.clone().unwrap_or_default()))
            .collect();
        if wanted == self.promises() || self.intent() != Intent::Run || self.observed.finished {
            self.observed.pending_resize = None;
            return;
        }
        let Some(entry) = &self.entry else { return };
        // Whoever frees room from now on wakes us.
        self.freed.mark_unchanged();
        let state = &self.context.dependencies.state;
        let allocatable = state.read(|cluster| Amounts::allocatable(cluster.node.as_deref()));
        let default = ResourceRequirements::default();
        let asked = spec::own(&self.pod).map(|(role, c)| (role, c.resources.as_ref()));
        let asked = Amounts::of(asked.map(|(role, asked)| (role, asked.unwrap_or(&default))))
            .plus(Amounts::overhead(&self.pod));
        match entry.change(asked, allocatable) {
            Ok(()) => {
                tracing::info!("promised the pod other resources");
                self.observed.pending_resize = None;
                let own = self.observed.containers.iter_mut();
                for record in own.filter(|record| record.role != Role::Ephemeral) {
                    if let Some(wanted) = wanted.get(&record.name) {
                        // Until now it had what was promised before.
                        record.applied.get_or_insert_with(|| record.promised.clone());
                        record.promised.clone_from(wanted);
                        record.resize_failure = None;
                    }
                }
                let message = format!("Pod resize started: {}", summary(&self.pod, ""));
                self.teller.normal(None, "ResizeStarted", message);
                // Before anything is done: the next kubelet must not promise it to another.
                self.record(self.previous.clone()).await;
            }
            Err(pending) => {
                if self.observed.pending_resize.as_ref() != Some(&pending) {
                    tracing::info!(reason = pending.reason, message = %pending.message, "no resize");
                    let summary = summary(&self.pod, &pending.message);
                    let message = format!("Pod resize {}: {summary}", pending.reason);
                    self.teller.warning(None, &format!("Resize{}", pending.reason), message);
                }
                self.observed.pending_resize = Some(pending);
            }
        }
    }

    /// Gives a running container what it was promised.
    pub(super) fn resize_container(&mut self, container: String, id: ContainerId) {
        let Some(record) = self.observed.containers.iter().find(|r| r.name == container) else {
            return;
        };
        let Some(spec) = spec::container(&self.pod, &container) else { return };
        let (promised, had) = (record.promised.clone(), record.applied.clone());
        let with = |resources: ResourceRequirements| {
            let mut spec = spec.clone().into_owned();
            spec.resources = Some(resources);
            resources::resources(&self.pod, &spec, &self.context.config)
        };
        let bounds = with(promised.clone());
        let had = had.and_then(|had| with(had).memory_limit_bytes);
        let wide = self.room();
        let group = resources::cgroup_parent(
            &self.context.config.cgroup_root,
            &self.pod,
            &self.identity.uid,
        );
        let shrinks = bounds.memory_limit_bytes.filter(|limit| had.is_none_or(|had| *limit < had));
        let runtime = Arc::clone(&self.context.dependencies.runtime);
        let sandbox = self.identity.sandbox();
        self.jobs.spawn(async move {
            let resized = async {
                // The kernel would kill for what is used beyond it.
                if let Some(limit) = shrinks {
                    let usage = runtime.usage(&sandbox, &id).await.map_err(|e| chain(&e))?;
                    if i64::try_from(usage.memory).is_ok_and(|used| used > limit) {
                        return Err(format!(
                            "attempting to set container memory limit ({limit}) below current \
                             usage ({})",
                            usage.memory
                        ));
                    }
                }
                // Together first: the kernel lets no group have more than the one that it is in.
                runtime.bound_group(&group, &wide).await.map_err(|e| chain(&e))?;
                runtime.update_container(&sandbox, &id, &bounds).await.map_err(|e| chain(&e))
            };
            let result = resized.await;
            Done::Resized { container, id, resources: promised, result }
        });
    }

    /// The bounds of the pod while its containers have in part what they had, and in part what they were
    /// promised.
    fn room(&self) -> Resources {
        let most = self.context.config.pod_max_pids;
        let own = || self.observed.containers.iter().filter(|r| r.role != Role::Ephemeral);
        let promised = own().map(|record| (record.role, &record.promised));
        let had = own().map(|r| (r.role, r.applied.as_ref().unwrap_or(&r.promised)));
        let overhead = Amounts::overhead(&self.pod);
        let had = bounds::of_containers(had, overhead, most);
        let promised = bounds::of_containers(promised, overhead, most);
        bounds::either(&had, &promised)
    }

    /// Once all containers have what they were promised, the pod has no more than that.
    fn narrow(&mut self) {
        if self.is_under_way() {
            return;
        }
        let bounds = self.room();
        let root = &self.context.config.cgroup_root;
        let group = resources::cgroup_parent(root, &self.pod, &self.identity.uid);
        let runtime = Arc::clone(&self.context.dependencies.runtime);
        self.jobs.spawn(async move {
            let result = runtime.bound_group(&group, &bounds).await;
            Done::Narrowed(result.map_err(|error| chain(&error)))
        });
    }

    /// Whether a container has something else than what it was promised.
    fn is_under_way(&self) -> bool {
        self.observed.containers.iter().any(|record| {
            record.applied.as_ref().is_some_and(|applied| *applied != record.promised)
        })
    }

    /// Says so when all containers have what they were promised, those included that were started anew for it.
    pub(super) fn tell_end_of_resize(&mut self) {
        let is_under_way = self.is_under_way();
        if self.resizing && !is_under_way && self.intent() == Intent::Run {
            let message = format!("Pod resize completed: {}", summary(&self.pod, ""));
            self.teller.normal(None, "ResizeCompleted", message);
        }
        self.resizing = is_under_way;
    }

    pub(super) fn settle_resize(
        &mut self,
        container: &str,
        id: &ContainerId,
        resources: ResourceRequirements,
        result: Result<(), String>,
    ) {
        self.observed.busy.remove(&Job::Resize(container.to_owned()));
        let now = self.context.clock.now();
        let record = self.observed.containers.iter_mut().find(|record| record.name == container);
        // Another attempt has its resources from its start.
        let Some(record) = record.filter(|r| r.running().is_some_and(|a| a.id() == *id)) else {
            return;
        };
        match result {
            Ok(()) => {
                tracing::info!(%container, "gave a container other resources");
                record.applied = Some(resources);
                record.resize_failure = None;
                self.narrow();
            }
            Err(message) => {
                tracing::info!(%container, %message, "failed to resize a container");
                let previous = record.resize_failure.take();
                if previous.as_ref().map(|failure| &failure.message) != Some(&message) {
                    let told = format!("Pod resize error: {}", summary(&self.pod, &message));
                    self.teller.warning(None, "ResizeError", told);
                }
                let failure = Failure::backing_off(previous.as_ref(), "Error", message, now, RETRY);
                record.resize_failure = Some(failure);
            }
        }
    }
}

/// What events say of a resize: what the pod asks for, and what is in its way, as Kubernetes writes it.
fn summary(pod: &Pod, error: &str) -> String {
    #[derive(Serialize)]
    struct Asked<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<Asked<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<Asked<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    let asked = |of: Role| {
        let containers = spec::own(pod).filter(move |(role, _)| *role == of);
        let asked = containers.map(|(_, container)| Asked {
            name: &container.name,
            resources: container.resources.clone().unwrap_or_default(),
        });
        asked.collect()
    };
    let summary = Summary {
        init_containers: asked(Role::Sidecar),
        containers: asked(Role::Regular),
        generation: pod.metadata.generation.unwrap_or(0),
        error,
    };
    serde_json::to_string(&summary).unwrap_or_default()
}
