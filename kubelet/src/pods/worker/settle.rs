//! Takes in what happened: outcomes of jobs, ends of containers, what others wrote.

use proto::k8s::api::core::v1::ResourceRequirements;
use runtime::{ContainerExit, ContainerId, SandboxState};

use super::Worker;
use super::act::{Done, StartProblem, Started, chain};
use super::fetch::ImageProblem;
use crate::pods::PodFailure;
use crate::pods::clock::timestamp;
use crate::pods::container::Prepared;
use crate::pods::names::{AttemptLabels, log_path};
use crate::pods::observed::{
    Attempt, Exit, FIRST_BACKOFF, Failure, Images, Job, Progress, START_ERROR, Sandbox, Superseded,
    Verdicts,
};
use crate::pods::recover::{exit, vanished};
use crate::pods::spec::{self, Role};
use crate::pods::status::terminated;
use crate::pods::termination;
use crate::volumes::{VolumeError, Volumes};

/// The first delay before something that failed on this node, and not for the pod's fault, is
/// tried again.
pub(super) const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

impl Worker {
    /// Takes the outcome of a job in.
    pub(super) async fn settle(&mut self, done: Done) {
        match done {
            Done::Sandbox(result) => self.settle_sandbox(result),
            Done::LostSandboxRemoved(result) => self.settle_lost_sandbox(result),
            Done::Network(result) => {
                self.observed.busy.remove(&Job::Network);
                self.observed.network = match result {
                    Ok(addresses) => Progress::Done(addresses),
                    Err(message) => {
                        let failure = self.node_failure(self.observed.network.failure(), message);
                        self.tell_sandbox_failure(&failure);
                        Progress::Failed(failure)
                    }
                };
            }
            Done::Volumes { result, renew_at } => {
                self.renew_at = renew_at;
                self.settle_volumes(result);
            }
            Done::Image { container, result } => self.settle_image(&container, result),
            Done::Started { container, number, result } => {
                self.observed.busy.remove(&Job::Start);
                self.settle_start(&container, number, result).await;
            }
            Done::Signalled { container, signal, result } => {
                self.observed.busy.remove(&Job::Signal(container.clone()));
                if let Err(error) = result {
                    // Usually it ended just now; whatever it is, the runtime knows better.
                    tracing::info!(%container, signal, error = %chain(&error), "failed to signal");
                    self.look_at_runtime();
                }
            }
            Done::PostStart { container, id, result } => {
                self.settle_post_start(&container, &id, result);
            }
            Done::PreStop { container, id, result } => {
                self.settle_pre_stop(&container, &id, result)
            }
            Done::Narrowed(result) => {
                // What is used beyond it may stay; its containers have their own limits.
                if let Err(message) = result {
                    tracing::warn!(%message, "cannot bound the pod as a whole");
                }
            }
            Done::Resized { container, id, resources, result } => {
                self.settle_resize(&container, &id, resources, result);
            }
            Done::Removed { id, result } => {
                self.settle_removed(&id, result);
            }
            Done::Released(result) => {
                self.observed.busy.remove(&Job::Release);
                self.observed.release = match result {
                    Ok(()) => {
                        self.observed.sandbox = Sandbox::Absent(None);
                        self.entry = None;
                        Progress::Done(())
                    }
                    Err(message) => {
                        tracing::warn!(%message, "failed to take the pod's resources back");
                        let previous = self.observed.release.failure();
                        Progress::Failed(self.node_failure(previous, message))
                    }
                };
            }
            Done::Found(Ok(found)) => self.compare(found).await,
            Done::Found(Err(error)) => {
                tracing::warn!(error = %chain(&error), "failed to list what runs");
            }
        }
    }

    /// Takes in what others wrote.
    pub(super) async fn absorb_mail(&mut self) {
        let mail = self.mailbox.take();
        if mail.objects_changed {
            self.objects_changed();
        }
        for (id, exit) in mail.exits {
            self.container_ended(id, exit).await;
        }
        if mail.sandbox_lost && matches!(self.observed.sandbox, Sandbox::Ready { .. }) {
            self.lose_sandbox();
        }
        if let Some(found) = mail.found {
            self.compare(found).await;
        }
        if let Some(failure) = mail.failed {
            self.fail(failure).await;
        }
    }

    /// The node wants the pod to go. That is written down first: the next kubelet has to want it, too.
    async fn fail(&mut self, failure: PodFailure) {
        if self.observed.finished || self.observed.failed.is_some() {
            return;
        }
        tracing::info!(reason = failure.reason, message = failure.message, "ending the pod");
        self.teller.warning(None, &failure.reason, failure.message.clone());
        self.observed.failed = Some(failure);
        self.record(self.previous.clone()).await;
    }

    /// A ConfigMap or Secret changed: whatever waited for it may be tried again.
    fn objects_changed(&mut self) {
        let awaits_change = |failure: &Failure| failure.retry_at.is_none();
        for record in &mut self.observed.containers {
            if record.blocked.as_ref().is_some_and(awaits_change) {
                record.blocked = None;
            }
        }
        match &self.observed.volumes {
            Progress::Failed(failure) if awaits_change(failure) => {
                self.observed.volumes = Progress::Waiting;
            }
            // Also while they are being prepared, out of what was known before.
            _ => self.observed.volumes_stale = true,
        }
    }

    fn settle_sandbox(&mut self, result: Result<SandboxState, String>) {
        self.observed.busy.remove(&Job::Sandbox);
        self.observed.sandbox = match result {
            Ok(SandboxState { ready: true, network_namespace: Some(path), .. }) => {
                Sandbox::Ready { network_namespace: path }
            }
            Ok(_) => Sandbox::Lost(None),
            Err(message) => {
                let previous = match &self.observed.sandbox {
                    Sandbox::Absent(failure) => failure.as_ref(),
                    Sandbox::Ready { .. } | Sandbox::Lost(_) => None,
                };
                let failure = self.node_failure(previous, message);
                self.tell_sandbox_failure(&failure);
                Sandbox::Absent(Some(failure))
            }
        };
    }

    fn settle_lost_sandbox(&mut self, result: Result<(), String>) {
        self.observed.busy.remove(&Job::Sandbox);
        self.observed.sandbox = match result {
            Ok(()) => {
                self.observed.superseded.clear();
                for record in &mut self.observed.containers {
                    if let Some(attempt) = &mut record.current {
                        attempt.in_runtime = false;
                    }
                }
                Sandbox::Absent(None)
            }
            Err(message) => {
                tracing::warn!(%message, "failed to remove a lost sandbox");
                let previous = match &self.observed.sandbox {
                    Sandbox::Lost(failure) => failure.as_ref(),
                    Sandbox::Ready { .. } | Sandbox::Absent(_) => None,
                };
                Sandbox::Lost(Some(self.node_failure(previous, message)))
            }
        };
    }

    fn settle_volumes(&mut self, result: Result<Volumes, VolumeError>) {
        self.observed.busy.remove(&Job::Volumes);
        let error = match result {
            Ok(volumes) => {
                self.observed.volumes = Progress::Done(volumes);
                return;
            }
            Err(error) => error,
        };
        self.teller.warning(None, "FailedMount", error.to_string());
        let now = self.context.clock.now();
        let failure = match error.awaits_object {
            true => Failure::until_change("ContainerCreating", error.to_string(), now),
            false => self.node_failure(self.observed.volumes.failure(), error.to_string()),
        };
        // Containers that run keep what they have.
        if self.observed.volumes.done().is_none() {
            self.observed.volumes = Progress::Failed(failure);
        }
    }

    fn settle_image(&mut self, container: &str, result: Result<Images, ImageProblem>) {
        self.observed.busy.remove(&Job::Image(container.to_owned()));
        let now = self.context.clock.now();
        let record = self.observed.containers.iter_mut().find(|r| r.name == container);
        let Some(record) = record else { return };
        record.image = match result {
            Ok(images) => Progress::Done(images),
            Err(ImageProblem { image, reason, message }) => {
                tracing::info!(%container, image, reason, %message, "no image");
                let previous = record.image.failure();
                record.missing_image.clone_from(&image);
                if reason == "ErrImagePull" {
                    let message = format!("Back-off pulling image \"{image}\"");
                    self.teller.normal(Some(container), "BackOff", message);
                    let message = "Error: ImagePullBackOff".to_owned();
                    self.teller.warning(Some(container), "Failed", message);
                }
                Progress::Failed(Failure::backing_off(
                    previous,
                    reason,
                    message,
                    now,
                    FIRST_BACKOFF,
                ))
            }
        };
    }

    async fn settle_start(
        &mut self,
        container: &str,
        number: u32,
        result: Result<Started, StartProblem>,
    ) {
        match result {
            Ok(Started { prepared, state }) => {
                tracing::info!(%container, number, pid = state.pid, "started a container");
                self.tell_start(&prepared, None);
                let id = state.id.clone();
                let attempt = Attempt {
                    labels: prepared.labels,
                    started_at: timestamp(state.started_at),
                    exit: None,
                    in_runtime: true,
                };
                self.begin_attempt(container, attempt, prepared.resources);
                // It may have ended before we knew that it had begun.
                let ended = self.early_exits.remove(&id).or(state.exit);
                if let Some(ended) = ended {
                    self.container_ended(id, ended).await;
                }
            }
            Err(StartProblem::Program { prepared, reason }) => {
                tracing::info!(%container, number, %reason, "failed to start a container");
                self.tell_start(&prepared, Some(&reason));
                let now = self.context.clock.now();
                let exit = Exit {
                    code: 128,
                    signal: None,
                    reason: START_ERROR.to_owned(),
                    message: Some(reason),
                    finished_at: now,
                };
                let attempt = Attempt {
                    labels: prepared.labels,
                    started_at: now,
                    exit: Some(exit),
                    in_runtime: false,
                };
                self.begin_attempt(container, attempt, prepared.resources);
            }
            Err(StartProblem::Config(message)) => {
                let now = self.context.clock.now();
                self.teller.warning(Some(container), "Failed", format!("Error: {message}"));
                let failure = Failure::until_change("CreateContainerConfigError", message, now);
                self.block(container, failure);
            }
            Err(StartProblem::Node(message)) => {
                tracing::warn!(%container, %message, "failed to start a container");
                self.teller.warning(Some(container), "Failed", format!("Error: {message}"));
                let record = self.observed.containers.iter().find(|r| r.name == container);
                let previous = record.and_then(|record| record.blocked.as_ref());
                let mut failure = self.node_failure(previous, message);
                failure.reason = "CreateContainerError";
                self.block(container, failure);
                self.look_at_runtime();
            }
        }
    }

    fn block(&mut self, container: &str, failure: Failure) {
        let record = self.observed.containers.iter_mut().find(|r| r.name == container);
        if let Some(record) = record {
            record.blocked = Some(failure);
        }
    }

    fn tell_start(&self, prepared: &Prepared, problem: Option<&str>) {
        let name = &prepared.labels.container;
        if !prepared.skipped_variables.is_empty() {
            let keys = prepared.skipped_variables.join("; ");
            let message = format!(
                "Keys [{keys}] were skipped since they are considered invalid environment \
                 variable names."
            );
            self.teller.warning(None, "InvalidEnvironmentVariableNames", message);
        }
        self.teller.normal(Some(name), "Created", format!("Created container: {name}"));
        match problem {
            None => self.teller.normal(Some(name), "Started", format!("Started container {name}")),
            Some(problem) => self.teller.warning(Some(name), "Failed", format!("Error: {problem}")),
        }
    }

    /// A new attempt takes the place of the one before it.
    fn begin_attempt(
        &mut self,
        container: &str,
        attempt: Attempt,
        resources: ResourceRequirements,
    ) {
        let uid = self.identity.uid.clone();
        let record = self.observed.containers.iter_mut().find(|r| r.name == container);
        let Some(record) = record else { return };
        if let Some(before) = record.current.replace(attempt) {
            if let Some(exit) = &before.exit {
                record.last = Some(terminated(&uid, &before, exit));
            }
            if before.in_runtime {
                self.observed.superseded.push(Superseded::new(before.id()));
            }
        }
        // The next start looks for its image anew.
        record.image = Progress::Waiting;
        record.blocked = None;
        record.applied = (record.role != Role::Ephemeral).then_some(resources);
        record.resize_failure = None;
        record.post_start = spec::post_start(&self.pod, container);
        record.stopping = None;
        record.verdicts = Verdicts::default();
    }

    async fn container_ended(&mut self, id: ContainerId, ended: ContainerExit) {
        let index = self
            .observed
            .containers
            .iter()
            .position(|record| record.current.as_ref().is_some_and(|a| a.id() == id));
        let Some(index) = index else {
            // One that is just being started; anything else is none of ours any more.
            if self.observed.busy.contains(&Job::Start) {
                self.early_exits.insert(id, ended);
            }
            return;
        };
        let record = &mut self.observed.containers[index];
        let Some(attempt) = record.current.as_mut().filter(|attempt| attempt.exit.is_none()) else {
            return;
        };
        tracing::info!(
            container = %record.name, exit_code = ended.exit_code, signal = ended.signal,
            oom_killed = ended.oom_killed, "a container ended"
        );
        attempt.exit = Some(exit(&ended));
        let (labels, name) = (attempt.labels.clone(), record.name.clone());
        self.forget_hook(&name);
        let message = self.last_words(&labels, ended.exit_code).await;
        let record = &mut self.observed.containers[index];
        if let Some(exit) = record.current.as_mut().and_then(|attempt| attempt.exit.as_mut()) {
            exit.message = message;
        }
    }

    /// Last words of containers that ended while no kubelet was there.
    pub(super) async fn read_last_words(&mut self) {
        for index in 0..self.observed.containers.len() {
            let Some(attempt) = &self.observed.containers[index].current else { continue };
            let Some(exit) = attempt.exit.as_ref().filter(|_| attempt.in_runtime) else { continue };
            let (labels, code) = (attempt.labels.clone(), exit.code);
            let message = self.last_words(&labels, code).await;
            let attempt = self.observed.containers[index].current.as_mut();
            if let Some(exit) = attempt.and_then(|attempt| attempt.exit.as_mut()) {
                exit.message = message;
            }
        }
    }

    async fn last_words(&self, labels: &AttemptLabels, exit_code: i32) -> Option<String> {
        let container = spec::container(&self.pod, &labels.container)?.into_owned();
        let message = self.dir.termination_message(&labels.container, labels.number);
        let logs = self.identity.log_dir(&self.context.config.log_dir);
        let log = log_path(&logs, &labels.container, labels.number);
        let read = move || termination::read(&container, &message, &log, exit_code);
        match tokio::task::spawn_blocking(read).await {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "failed to read a container's last words");
                None
            }
        }
    }

    /// The shim died: nobody knows how its containers fare, and nobody can reach them.
    fn lose_sandbox(&mut self) {
        tracing::warn!("the pod's sandbox is lost");
        self.observed.sandbox = Sandbox::Lost(None);
        self.observed.network = Progress::Waiting;
        self.observed.addresses_before.clear();
        let now = self.context.clock.now();
        for record in &mut self.observed.containers {
            if let Some(attempt) = record.current.as_mut().filter(|a| a.exit.is_none()) {
                attempt.exit = Some(vanished(now));
            }
        }
    }

    /// Events were missed, or something is odd: compares with what the runtime says.
    async fn compare(&mut self, found: Option<SandboxState>) {
        let unsettled = [Job::Sandbox, Job::Start, Job::Release];
        if self.observed.busy.iter().any(|job| unsettled.contains(job)) {
            // What was listed may be older than what is being done; its outcome tells.
            for container in found.into_iter().flat_map(|sandbox| sandbox.containers) {
                if let Some(exit) = container.exit {
                    self.container_ended(container.id, exit).await;
                }
            }
            return;
        }
        let Sandbox::Ready { .. } = self.observed.sandbox else { return };
        let Some(found) = found.filter(|found| found.ready) else {
            self.lose_sandbox();
            return;
        };
        let now = self.context.clock.now();
        for record in &mut self.observed.containers {
            if let Some(attempt) = record.current.as_mut().filter(|a| a.exit.is_none()) {
                let id = attempt.id();
                if !found.containers.iter().any(|container| container.id == id) {
                    attempt.exit = Some(vanished(now));
                }
            }
        }
        for container in found.containers {
            if let Some(exit) = container.exit {
                self.container_ended(container.id, exit).await;
            }
        }
    }

    /// What cannot be removed is tried again, until it goes with the sandbox.
    fn settle_removed(&mut self, id: &ContainerId, result: runtime::Result<()>) {
        self.observed.busy.remove(&Job::Remove(id.clone()));
        let now = self.context.clock.now();
        match result {
            Ok(())
            | Err(runtime::Error::NoSuchContainer { .. } | runtime::Error::NoSuchSandbox(_)) => {
                self.observed.superseded.retain(|superseded| superseded.id != *id);
            }
            Err(error) => {
                let message = chain(&error);
                tracing::warn!(container = %id, error = %message, "failed to remove a container");
                let kept = self.observed.superseded.iter_mut().find(|one| one.id == *id);
                if let Some(Superseded { failure, .. }) = kept {
                    let previous = failure.take();
                    let again =
                        Failure::backing_off(previous.as_ref(), "Error", message, now, RETRY);
                    *failure = Some(again);
                }
            }
        }
    }

    fn node_failure(&self, previous: Option<&Failure>, message: String) -> Failure {
        let now = self.context.clock.now();
        Failure::backing_off(previous, "ContainerCreating", message, now, RETRY)
    }

    fn tell_sandbox_failure(&self, failure: &Failure) {
        tracing::warn!(message = %failure.message, "failed to make the pod's sandbox");
        let message = format!("Failed to create pod sandbox: {}", failure.message);
        self.teller.warning(None, "FailedCreatePodSandBox", message);
    }
}
