//! Programs and logs of this node's pods, for those who ask from outside.

use futures::future::BoxFuture;
use runtime::{ContainerId, ExecConfig, ExecSession, SandboxId};
use tokio::sync::watch;

use super::PodManager;
use super::logs;
use super::names::log_path;
use super::worker::PodView;
use crate::streams::{ContainerTarget, LogOptions, LogStream, PodStreams, StreamFailure};

impl PodManager {
    fn view(&self, target: &ContainerTarget) -> Result<watch::Receiver<PodView>, StreamFailure> {
        let named = |view: &watch::Receiver<PodView>| view.borrow().identity.key == target.pod;
        self.views().get(&target.pod_uid).filter(|view| named(view)).cloned().ok_or_else(|| {
            StreamFailure::not_found(format!("pods \"{}\" not found", target.pod.name))
        })
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
