//! Removes what is left of a pod that the state does not know: it was deleted while no kubelet
//! was there to hear of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use runtime::{RuntimeEvent, SandboxId, SandboxState};
use tokio::sync::broadcast::error::RecvError;

use super::names::{AttemptLabels, PodIdentity, is_safe_uid};
use super::observed::MAX_BACKOFF;
use super::worker::Context;
use crate::volumes::{self, PodDir};

/// Nobody knows any more how long these containers were to be given. Kubernetes gives a second.
const GRACE: Duration = Duration::from_secs(1);

/// After a failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Stops and removes everything of the pod.
pub(super) async fn remove(
    context: Arc<Context>,
    uid: String,
    identity: Option<PodIdentity>,
    sandbox: Option<SandboxState>,
) {
    if !is_safe_uid(&uid) {
        tracing::warn!(uid, "leaving a folder alone that is no pod's");
        return;
    }
    tracing::info!(uid, pod = ?identity.as_ref().map(|i| i.key.to_string()), "removing remains");
    if let Some(sandbox) = &sandbox {
        tokio::select! {
            () = stop(&context, sandbox) => {}
            () = tokio::time::sleep(GRACE) => {}
            () = context.shutdown.cancelled() => return,
        }
    }
    persist(&context, "failed to remove the remains of a pod", || {
        take_back(&context, &uid, identity.as_ref())
    })
    .await;
}

/// Does it until it is done, or until shutdown: then the next kubelet finds what is left. Says whether it is
/// done.
pub(super) async fn persist<F>(context: &Context, failure: &str, attempt: impl Fn() -> F) -> bool
where
    F: Future<Output = Result<(), String>>,
{
    let mut delay = FIRST_RETRY;
    loop {
        let Err(problem) = attempt().await else { return true };
        tracing::warn!(%problem, retry_seconds = delay.as_secs(), "{failure}");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = context.shutdown.cancelled() => return false,
        }
        delay = delay.saturating_mul(2).min(MAX_BACKOFF);
    }
}

/// Removes the pod's folder and its logs.
pub(super) async fn remove_files(dir: &PodDir, logs: Option<&Path>) -> Result<(), String> {
    let (dir, logs) = (dir.clone(), logs.map(Path::to_owned));
    let removed = tokio::task::spawn_blocking(move || {
        // The folder last: it is how a kubelet that starts again finds the logs.
        if let Some(logs) = logs {
            volumes::remove_tree(&logs)?;
        }
        volumes::remove_pod(&dir)
    });
    match removed.await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panicked) => Err(panicked.to_string()),
    }
}

/// Asks the containers to end, and waits until they have.
async fn stop(context: &Context, sandbox: &SandboxState) {
    let runtime = &context.dependencies.runtime;
    let mut events = runtime.events();
    let mut running: Vec<_> = sandbox.containers.iter().filter(|c| c.exit.is_none()).collect();
    for container in &running {
        let signal = AttemptLabels::of(container).map_or(15, |labels| labels.stop_signal);
        let sent = runtime.signal_container(&sandbox.config.id, &container.id, signal).await;
        if let Err(error) = sent {
            tracing::debug!(container = %container.id, %error, "failed to stop a container");
        }
    }
    while !running.is_empty() {
        match events.recv().await {
            Ok(RuntimeEvent::ContainerExited { sandbox: of, container, .. })
                if of == sandbox.config.id =>
            {
                running.retain(|left| left.id != container);
            }
            Ok(RuntimeEvent::SandboxLost { sandbox: of }) if of == sandbox.config.id => return,
            Ok(_) => {}
            // Whether they ended is not known; they are given their time.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn take_back(
    context: &Context,
    uid: &str,
    identity: Option<&PodIdentity>,
) -> Result<(), String> {
    let dependencies = &context.dependencies;
    dependencies.network.detach(uid).await.map_err(|error| error.to_string())?;
    dependencies
        .runtime
        .remove_sandbox(&SandboxId(uid.to_owned()))
        .await
        .map_err(|error| error.to_string())?;
    let dir = PodDir::new(&context.config.root_dir, uid);
    let logs = identity.map(|identity| identity.log_dir(&context.config.log_dir));
    remove_files(&dir, logs.as_deref()).await
}
