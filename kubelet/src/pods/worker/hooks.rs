//! Calls the hooks of containers, and takes in how they fared.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use proto::k8s::api::core::v1::{Lifecycle, LifecycleHandler};
use runtime::ContainerId;

use super::Worker;
use super::act::Done;
use crate::pods::hooks::Hook;
use crate::pods::observed::{Job, PostStart};
use crate::pods::spec;

impl Worker {
    pub(super) fn call_post_start(&mut self, container: String, id: ContainerId) {
        let call = self.hook(&container, id.clone(), |lifecycle| lifecycle.post_start);
        let name = container.clone();
        let job = async move { Done::PostStart { container, id, result: call.await } };
        self.hooks.insert(name, self.jobs.spawn(job));
    }

    pub(super) fn call_pre_stop(&mut self, container: String, id: ContainerId) {
        let call = self.hook(&container, id.clone(), |lifecycle| lifecycle.pre_stop);
        let name = container.clone();
        let job = async move { Done::PreStop { container, id, result: call.await } };
        self.hooks.insert(name, self.jobs.spawn(job));
    }

    fn hook(
        &self,
        container: &str,
        id: ContainerId,
        handler: impl Fn(Lifecycle) -> Option<LifecycleHandler>,
    ) -> BoxFuture<'static, Result<(), String>> {
        let spec = spec::container(&self.pod, container);
        let handler = spec.as_ref().and_then(|spec| handler(spec.lifecycle.clone()?));
        let hook = match (spec, handler) {
            (Some(spec), Some(handler)) => Hook::of(&handler, &spec, self.address()),
            _ => Err("there is no hook".to_owned()),
        };
        let runtime = Arc::clone(&self.context.dependencies.runtime);
        let sandbox = self.identity.sandbox();
        Box::pin(async move { hook?.call(runtime.as_ref(), &sandbox, &id).await })
    }

    /// A pod that ends is not attached anew by a kubelet that has just started; then its status tells.
    fn address(&self) -> Option<IpAddr> {
        let attached = self.observed.network.done().and_then(|all| all.first()).copied();
        let told = || self.pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok();
        attached.or_else(told)
    }

    /// Whatever hook of the container is under way, nobody waits for it any more.
    pub(super) fn forget_hook(&mut self, container: &str) {
        if let Some(hook) = self.hooks.remove(container) {
            hook.abort();
        }
        self.observed.busy.remove(&Job::PostStart(container.to_owned()));
        self.observed.busy.remove(&Job::PreStop(container.to_owned()));
    }

    pub(super) fn settle_post_start(
        &mut self,
        container: &str,
        id: &ContainerId,
        result: Result<(), String>,
    ) {
        let record = self.observed.containers.iter_mut().find(|record| record.name == container);
        let current = record.filter(|r| r.running().is_some_and(|attempt| attempt.id() == *id));
        let Some(record) = current.filter(|record| record.stopping.is_none()) else { return };
        record.post_start = match &result {
            Ok(()) => PostStart::Done,
            Err(_) => PostStart::Failed,
        };
        self.forget_hook(container);
        if let Err(problem) = result {
            tracing::warn!(%container, %problem, "the hook after the start failed");
            let message = "PostStartHook failed".to_owned();
            self.teller.warning(Some(container), "FailedPostStartHook", message);
        }
    }

    pub(super) fn settle_pre_stop(
        &mut self,
        container: &str,
        id: &ContainerId,
        result: Result<(), String>,
    ) {
        let record = self.observed.containers.iter_mut().find(|record| record.name == container);
        let current = record.filter(|r| r.running().is_some_and(|attempt| attempt.id() == *id));
        let Some(record) = current else { return };
        if let Some(stopping) = &mut record.stopping {
            stopping.hook = false;
        }
        self.forget_hook(container);
        if let Err(problem) = result {
            tracing::warn!(%container, %problem, "the hook before the end failed");
            let message = "PreStopHook failed".to_owned();
            self.teller.warning(Some(container), "FailedPreStopHook", message);
        }
    }
}
