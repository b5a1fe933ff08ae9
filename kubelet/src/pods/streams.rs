//! Programs and logs of this node's pods, for those who ask from outside.

use std::sync::Arc;

use futures::future::BoxFuture;
use proto::ObjectKey;
use runtime::{AttachConfig, ContainerId, ExecConfig, ExecSession, SandboxId};
use tokio::sync::watch;

use super::PodManager;
use super::names::log_path;
use super::worker::PodView;
use super::{connect, logs, pages, spec};
use crate::streams::{
    AttachOptions, Connection, ContainerTarget, LogOptions, LogStream, Place, PodStreams,
    PodTarget, StreamFailure,
};

impl PodManager {
    fn view(&self, target: &ContainerTarget) -> Result<watch::Receiver<PodView>, StreamFailure> {
        self.view_of(&target.pod, &target.pod_uid)
    }

    fn view_of(
        &self,
        pod: &ObjectKey,
        uid: &str,
    ) -> Result<watch::Receiver<PodView>, StreamFailure> {
        let uid = self.state().read(|state| state.uid_here(pod, uid).to_owned());
        let named = |view: &watch::Receiver<PodView>| view.borrow().identity.key == *pod;
        self.views()
            .get(&uid)
            .filter(|view| named(view))
            .cloned()
            .ok_or_else(|| StreamFailure::not_found(format!("pods \"{}\" not found", pod.name)))
    }

    /// Whether the container's input ends with the first who is attached to it.
    fn has_input_once(&self, target: &ContainerTarget) -> bool {
        self.state().read(|state| {
            let pod = state.pod(&target.pod, state.uid_here(&target.pod, &target.pod_uid))?;
            spec::container(pod, &target.container)?.stdin_once
        }) == Some(true)
    }

    /// The network namespace of a pod that runs, and its address.
    async fn network_of(&self, target: &PodTarget) -> Result<connect::PodNet, StreamFailure> {
        let view = self.view_of(&target.pod, &target.uid)?;
        let (sandbox, address) = {
            let view = view.borrow();
            (view.identity.sandbox(), view.address)
        };
        let all = self.runtime().list().await;
        let all = all.map_err(|error| StreamFailure::internal(error.to_string()))?;
        let found = all.into_iter().find(|found| found.config.id == sandbox);
        let namespace = found.and_then(|found| found.network_namespace).ok_or_else(|| {
            let name = &target.pod.name;
            StreamFailure::bad_request(format!(
                "unable to do port forwarding: pod {name} is not running"
            ))
        })?;
        Ok(connect::PodNet { namespace, address })
    }
}

#[async_trait::async_trait]
impl PodStreams for PodManager {
    async fn exec(
        &self,
        target: &ContainerTarget,
        config: &ExecConfig,
    ) -> Result<ExecSession, StreamFailure> {
        let view = self.view(target)?;
        let (sandbox, container) = running_container(&view.borrow(), target)?;
        let session = self.runtime().exec(&sandbox, &container, config).await;
        session.map_err(|error| match error {
            // The program cannot be started: what the client asked for, not what the node did.
            runtime::Error::Exec { reason, .. } => StreamFailure::bad_request(reason),
            runtime::Error::NotRunning(_) => not_running(target),
            other => StreamFailure::internal(other.to_string()),
        })
    }

    async fn attach(
        &self,
        target: &ContainerTarget,
        options: AttachOptions,
    ) -> Result<ExecSession, StreamFailure> {
        let view = self.view(target)?;
        let (sandbox, container) = running_container(&view.borrow(), target)?;
        let AttachOptions { stdin, stdout, stderr } = options;
        let once = self.has_input_once(target);
        let config = AttachConfig { stdin, stdout, stderr, once };
        let session = self.runtime().attach(&sandbox, &container, &config).await;
        session.map_err(|error| match error {
            runtime::Error::NotRunning(_) => not_running(target),
            other => StreamFailure::internal(other.to_string()),
        })
    }

    async fn connect(&self, place: &Place, port: u16) -> Result<Connection, StreamFailure> {
        match place {
            Place::PodLoopback(pod) => connect::loopback(&self.network_of(pod).await?, port).await,
            Place::PodAddress(pod) => connect::address(&self.network_of(pod).await?, port).await,
            Place::Node if port == 0 => {
                Ok(pages::serve(self.state().clone(), Arc::clone(self.runtime())))
            }
            Place::Node => connect::node(self.node_addresses(), port).await,
        }
    }

    async fn logs(
        &self,
        target: &ContainerTarget,
        options: LogOptions,
    ) -> Result<LogStream, StreamFailure> {
        let view = self.view(target)?;
        let (path, finished) = self.log_of(&view, target, options.previous)?;
        logs::open(path, options, finished).await
    }
}

impl PodManager {
    /// Where the log is, and what tells that nothing more will be written to it.
    fn log_of(
        &self,
        view: &watch::Receiver<PodView>,
        target: &ContainerTarget,
        previous: bool,
    ) -> Result<(std::path::PathBuf, BoxFuture<'static, ()>), StreamFailure> {
        let seen = view.borrow();
        let container = seen.container(&target.container).ok_or_else(|| unknown(target))?;
        let (name, pod) = (&target.container, &target.pod.name);
        let number = match (&container.attempt, previous) {
            (Some((number, _)), false) => *number,
            (Some((number, _)), true) if *number > 0 => *number - 1,
            (_, true) => {
                return Err(StreamFailure::bad_request(format!(
                    "previous terminated container \"{name}\" in pod \"{pod}\" not found"
                )));
            }
            (None, false) => {
                let reason = match container.waiting.as_deref() {
                    Some("ErrImagePull" | "ImagePullBackOff") => "trying and failing to pull image",
                    Some(reason) => reason,
                    None => "ContainerCreating",
                };
                return Err(StreamFailure::bad_request(format!(
                    "container \"{name}\" in pod \"{pod}\" is waiting to start: {reason}"
                )));
            }
        };
        let folder = seen.identity.log_dir(self.log_dir());
        let finished = ended(view.clone(), target.container.clone(), number);
        Ok((log_path(&folder, &target.container, number), finished))
    }
}

/// Ends when this attempt does not run any more.
fn ended(
    mut view: watch::Receiver<PodView>,
    container: String,
    number: u32,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let over = view.wait_for(|view| {
            let container = view.container(&container);
            !container.is_some_and(|container| {
                container.running && container.attempt.as_ref().is_some_and(|(n, _)| *n == number)
            })
        });
        // A worker that is gone has no running containers.
        let _ = over.await;
    })
}

fn running_container(
    view: &PodView,
    target: &ContainerTarget,
) -> Result<(SandboxId, ContainerId), StreamFailure> {
    let container = view.container(&target.container).ok_or_else(|| unknown(target))?;
    match &container.attempt {
        Some((_, id)) if container.running => Ok((view.identity.sandbox(), id.clone())),
        _ => Err(not_running(target)),
    }
}

fn unknown(target: &ContainerTarget) -> StreamFailure {
    StreamFailure::bad_request(format!(
        "container {} is not valid for pod {}",
        target.container, target.pod.name
    ))
}

fn not_running(target: &ContainerTarget) -> StreamFailure {
    StreamFailure::not_found(format!(
        "unable to upgrade connection: container not found (\"{}\")",
        target.container
    ))
}
