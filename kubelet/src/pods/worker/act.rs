//! Carries actions out. Each is a job of its own; what it needs is handed to it, its outcome is a
//! [`Done`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Pod, ResourceRequirements};
use runtime::{ContainerId, ContainerState, SandboxState};

use super::fetch::{self, ImageProblem};
use super::{Context, Worker, tokens};
use crate::dns;
use crate::network::Attachment;
use crate::pods::container::{self, ContainerInput, Prepared};
use crate::pods::names::{PodIdentity, log_path};
use crate::pods::observed::{Attempt, Images, Job, Sandbox, StopReason, Stopping};
use crate::pods::plan::{Intent, PodAction};
use crate::pods::spec::{self, Role};
use crate::pods::{logs, references, security, termination};
use crate::volumes::hostname::HostName;
use crate::volumes::resolver::ClusterDns;
use crate::volumes::{self, Objects, PodDir, VolumeError, Volumes};

/// What became of a job.
pub(super) enum Done {
    Sandbox(Result<SandboxState, String>),
    LostSandboxRemoved(Result<(), String>),
    Network(Result<Vec<IpAddr>, String>),
    Volumes {
        result: Result<Volumes, VolumeError>,
        /// When a token that they show is to be renewed.
        renew_at: Option<Timestamp>,
    },
    Image {
        container: String,
        result: Result<Images, ImageProblem>,
    },
    Started {
        container: String,
        number: u32,
        result: Result<Started, StartProblem>,
    },
    /// The pod as a whole has no more than its containers have.
    Narrowed(Result<(), String>),
    PostStart {
        container: String,
        id: ContainerId,
        result: Result<(), String>,
    },
    PreStop {
        container: String,
        id: ContainerId,
        result: Result<(), String>,
    },
    Signalled {
        container: String,
        signal: i32,
        result: runtime::Result<()>,
    },
    Resized {
        container: String,
        id: ContainerId,
        /// What it has now, if it was done.
        resources: ResourceRequirements,
        result: Result<(), String>,
    },
    Removed {
        id: ContainerId,
        result: runtime::Result<()>,
    },
    Released(Result<(), String>),
    /// What the runtime has of the pod.
    Found(runtime::Result<Option<SandboxState>>),
}

/// A container was started.
pub(super) struct Started {
    pub(super) prepared: Box<Prepared>,
    pub(super) state: ContainerState,
}

/// A container was not started.
pub(super) enum StartProblem {
    /// The specification cannot be carried out until something it refers to changes.
    Config(String),
    /// The program could not be started: the container's own fault.
    Program { prepared: Box<Prepared>, reason: String },
    /// The node's fault.
    Node(String),
}

impl Worker {
    /// Begins an action. Its outcome, whatever it is, comes back to be settled.
    pub(super) async fn begin(&mut self, action: PodAction, intent: Intent) {
        tracing::debug!(?action, "acting");
        if let Some(job) = action.job() {
            self.observed.busy.insert(job);
        }
        match action {
            PodAction::CreateSandbox => self.create_sandbox(),
            PodAction::RemoveLostSandbox => self.remove_lost_sandbox(),
            PodAction::AttachNetwork => self.attach_network(),
            PodAction::PrepareVolumes => self.prepare_volumes(),
            PodAction::FetchImage { container } => self.fetch_image(container),
            PodAction::StartContainer { container, number, restart_delay } => {
                self.start_container(container, number, restart_delay);
            }
            PodAction::CallPostStart { container, id } => self.call_post_start(container, id),
            PodAction::StopContainer { container, id, hook, signal, reason } => {
                // Nobody waits for the hook after the start any more.
                if let Some(hook) = self.hooks.remove(&container) {
                    hook.abort();
                }
                self.observed.busy.remove(&Job::PostStart(container.clone()));
                self.note_stop(&container, reason, hook);
                match signal {
                    Some(signal) => self.stop_container(container, id, signal),
                    None if hook => self.call_pre_stop(container, id),
                    None => {}
                }
            }
            PodAction::CallPreStop { container, id } => self.call_pre_stop(container, id),
            PodAction::SignalContainer { container, id, signal } => {
                self.forget_hook(&container);
                self.stop_container(container, id, signal);
            }
            PodAction::KillContainer { container, id } => self.kill_container(container, id),
            PodAction::RemoveContainer { id } => self.remove_container(id),
            PodAction::ResizeContainer { container, id } => self.resize_container(container, id),
            PodAction::Finish => {
                tracing::info!("all containers of the pod ended");
                self.observed.finished = true;
                self.entry = None;
                // Written down before anything is taken back: it must never run again.
                self.report(intent).await;
                self.observed.busy.remove(&Job::Finish);
            }
            PodAction::Release => self.release(),
            PodAction::ReportRemoved => {
                tracing::info!("nothing of the pod is left");
                self.observed.removal_reported = true;
                let reporter = &self.context.dependencies.reporter;
                reporter.pod_removed(self.identity.key.clone(), &self.identity.uid);
            }
        }
    }

    fn create_sandbox(&mut self) {
        let runtime = Arc::clone(&self.context.dependencies.runtime);
        let domain = self.context.dependencies.state.read(|state| state.cluster_domain.clone());
        let hostname = HostName::of(&self.pod, &domain).of_kernel();
        let config = hostname.map(|hostname| {
            container::sandbox(&self.context.config, &self.identity, &self.pod, hostname)
        });
        self.jobs.spawn(async move {
            let made = async { runtime.create_sandbox(&config?).await.map_err(|e| chain(&e)) };
            Done::Sandbox(made.await)
        });
    }

    fn remove_lost_sandbox(&mut self) {
        let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        self.teller.normal(None, "SandboxChanged", message);
        let context = Arc::clone(&self.context);
        let identity = self.identity.clone();
        self.jobs.spawn(async move {
            Done::LostSandboxRemoved(take_sandbox_back(&context, &identity).await)
        });
    }

    fn attach_network(&mut self) {
        let Sandbox::Ready { network_namespace } = self.observed.sandbox.clone() else { return };
        let network = Arc::clone(&self.context.dependencies.network);
        let (pod, dir) = (Arc::clone(&self.pod), self.dir.clone());
        let identity = self.identity.clone();
        let node_addresses = self.context.config.node_addresses.clone();
        let teller = self.teller.clone();
        let cluster = self.context.dependencies.state.read(|state| {
            let servers = dns::server_addresses(state);
            let known = !servers.is_empty() && !state.cluster_domain.is_empty();
            known.then(|| ClusterDns { servers, domain: state.cluster_domain.clone() })
        });
        self.jobs.spawn(async move {
            let attached = async {
                let addresses = match volumes::hostname::is_on_host(&pod) {
                    true => node_addresses,
                    false => network
                        .attach(&Attachment {
                            pod_uid: &identity.uid,
                            namespace: &identity.key.namespace,
                            name: &identity.key.name,
                            netns: &network_namespace,
                            ports: &spec::host_ports(&pod),
                        })
                        .await
                        .map_err(|error| error.to_string())?,
                };
                let known = addresses.clone();
                let write = move || volumes::etc::write(&dir.etc(), &pod, &known, cluster.as_ref());
                for omitted in blocking(write).await? {
                    teller.warning(None, "DNSConfigForming", omitted);
                }
                Ok(addresses)
            };
            Done::Network(attached.await)
        });
    }

    fn prepare_volumes(&mut self) {
        self.observed.volumes_stale = false;
        let (pod, dir) = (Arc::clone(&self.pod), self.dir.clone());
        let mut objects = self.objects();
        let (identity, now) = (self.identity.clone(), self.context.clock.now());
        let issuer = Arc::clone(&self.context.dependencies.tokens);
        self.jobs.spawn(async move {
            let tokens = tokens::get(&*issuer, &dir, &identity, &pod, now).await;
            objects.tokens = tokens.texts;
            let prepared =
                tokio::task::spawn_blocking(move || volumes::prepare(&dir, &pod, &objects)).await;
            let result = prepared.unwrap_or_else(|panicked| {
                Err(VolumeError {
                    volume: String::new(),
                    message: panicked.to_string(),
                    awaits_object: false,
                })
            });
            Done::Volumes { result, renew_at: tokens.renew_at }
        });
    }

    /// What the volumes show, as far as it is there.
    fn objects(&self) -> Objects {
        let key = |name: &String| ObjectKey::new(&self.identity.key.namespace, name);
        let Some(spec) = &self.pod.spec else { return Objects::default() };
        self.context.dependencies.state.read(|cluster| Objects {
            config_maps: references::shown_config_maps(spec)
                .filter_map(|name| {
                    Some((name.clone(), Arc::clone(cluster.config_maps.get(&key(name))?)))
                })
                .collect(),
            secrets: references::shown_secrets(spec)
                .filter_map(|name| {
                    Some((name.clone(), Arc::clone(cluster.secrets.get(&key(name))?)))
                })
                .collect(),
            node: cluster.node.clone(),
            ..Objects::default()
        })
    }

    fn fetch_image(&mut self, container: String) {
        let (pod, context) = (Arc::clone(&self.pod), Arc::clone(&self.context));
        let teller = self.teller.clone();
        self.jobs.spawn(async move {
            let result = fetch::images(&context, &pod, &container, &teller).await;
            Done::Image { container, result }
        });
    }

    fn start_container(&mut self, container: String, number: u32, restart_delay: Duration) {
        let record = self.observed.containers.iter().find(|record| record.name == container);
        let images = record.and_then(|record| record.image.done()).cloned();
        let volumes = self.observed.volumes.done().cloned();
        let addresses = self.observed.network.done().cloned();
        let (Some(images), Some(volumes), Some(pod_ips)) = (images, volumes, addresses) else {
            return;
        };
        let start = Start {
            context: Arc::clone(&self.context),
            identity: self.identity.clone(),
            pod: Arc::clone(&self.pod),
            images,
            volumes,
            pod_ips,
            resources: record
                .filter(|record| record.role != Role::Ephemeral)
                .map(|record| record.promised.clone()),
            target: spec::target(&self.pod, &container)
                .and_then(|target| self.observed.running(target))
                .map(Attempt::id),
            number,
            restart_delay,
        };
        self.jobs.spawn(async move {
            let result = start.run(&container).await;
            Done::Started { container, number, result }
        });
    }

    /// Tells people, and remembers, that a container is to end.
    fn note_stop(&mut self, container: &str, reason: StopReason, hook: bool) {
        let record = self.observed.containers.iter_mut().find(|r| r.name == container);
        let sidecar = record.as_ref().is_some_and(|record| record.role == Role::Sidecar);
        // Kubernetes has other words for those that are init containers to it.
        let (what, again) = match sidecar {
            true => ("Init container", ""),
            false => ("Container", ", will be restarted"),
        };
        let message = match reason {
            StopReason::PodTerminates => format!("Stopping container {container}"),
            StopReason::Unhealthy => format!("{what} {container} failed liveness probe{again}"),
            StopReason::NeverStarted => format!("{what} {container} failed startup probe{again}"),
            StopReason::ImageChanged => format!("{what} {container} definition changed{again}"),
            StopReason::Resized => format!("{what} {container} resize requires restart"),
            StopReason::HookFailed => "FailedPostStartHook".to_owned(),
        };
        tracing::info!(%container, ?reason, "stopping a container");
        self.teller.normal(Some(container), "Killing", message);
        let since = self.context.clock.now();
        if let Some(record) = record {
            record.stopping = Some(Stopping { reason, since, hook, signalled: None, killed: None });
        }
    }

    fn stop_container(&mut self, container: String, id: ContainerId, signal: i32) {
        let now = self.context.clock.now();
        let record = self.observed.containers.iter_mut().find(|r| r.name == container);
        if let Some(stopping) = record.and_then(|record| record.stopping.as_mut()) {
            stopping.signalled = Some(now);
        }
        self.signal(container, id, signal);
    }

    fn kill_container(&mut self, container: String, id: ContainerId) {
        tracing::info!(%container, "killing a container that did not stop in time");
        let now = self.context.clock.now();
        let record = self.observed.containers.iter_mut().find(|r| r.name == container);
        if let Some(stopping) = record.and_then(|record| record.stopping.as_mut()) {
            stopping.killed = Some(now);
        }
        self.signal(container, id, nix::sys::signal::SIGKILL as i32);
    }

    fn signal(&mut self, container: String, id: ContainerId, signal: i32) {
        let runtime = Arc::clone(&self.context.dependencies.runtime);
        let sandbox = self.identity.sandbox();
        self.jobs.spawn(async move {
            let result = runtime.signal_container(&sandbox, &id, signal).await;
            Done::Signalled { container, signal, result }
        });
    }

    fn remove_container(&mut self, id: ContainerId) {
        let runtime = Arc::clone(&self.context.dependencies.runtime);
        let sandbox = self.identity.sandbox();
        self.jobs.spawn(async move {
            let result = runtime.remove_container(&sandbox, &id).await;
            Done::Removed { id, result }
        });
    }

    fn release(&mut self) {
        let context = Arc::clone(&self.context);
        let (identity, dir) = (self.identity.clone(), self.dir.clone());
        self.jobs.spawn(async move {
            let released = async {
                take_sandbox_back(&context, &identity).await?;
                blocking(move || volumes::remove_volumes(&dir)).await
            };
            Done::Released(released.await)
        });
    }

    /// Asks the runtime what there is of the pod.
    pub(super) fn look_at_runtime(&mut self) {
        let runtime = Arc::clone(&self.context.dependencies.runtime);
        let sandbox = self.identity.sandbox();
        self.jobs.spawn(async move {
            let found = runtime.list().await;
            Done::Found(found.map(|all| all.into_iter().find(|one| one.config.id == sandbox)))
        });
    }
}

/// Network first: an address must not be given to another pod while its holder may still talk.
async fn take_sandbox_back(context: &Context, identity: &PodIdentity) -> Result<(), String> {
    let dependencies = &context.dependencies;
    dependencies.network.detach(&identity.uid).await.map_err(|error| error.to_string())?;
    dependencies.runtime.remove_sandbox(&identity.sandbox()).await.map_err(|error| chain(&error))
}

/// Everything the start of a container needs, detached from the worker.
struct Start {
    context: Arc<Context>,
    identity: PodIdentity,
    pod: Arc<Pod>,
    images: Images,
    volumes: Volumes,
    pod_ips: Vec<IpAddr>,
    /// Those that it was promised; an ephemeral one has none.
    resources: Option<ResourceRequirements>,
    target: Option<ContainerId>,
    number: u32,
    restart_delay: Duration,
}

impl Start {
    async fn run(self, container: &str) -> Result<Started, StartProblem> {
        let runtime = Arc::clone(&self.context.dependencies.runtime);
        let sandbox = self.identity.sandbox();
        let name = container.to_owned();
        let prepared = tokio::task::spawn_blocking(move || self.prepare(&name))
            .await
            .map_err(|panicked| StartProblem::Node(panicked.to_string()))??;
        let prepared = Box::new(prepared);
        match runtime.start_container(&sandbox, &prepared.config).await {
            Ok(state) => Ok(Started { prepared, state }),
            Err(runtime::Error::Start { reason, .. }) => {
                Err(StartProblem::Program { prepared, reason })
            }
            Err(error) => Err(StartProblem::Node(chain(&error))),
        }
    }

    /// Blocks: the image's users and the file for the last words are on disk.
    fn prepare(&self, container: &str) -> Result<Prepared, StartProblem> {
        let config = &self.context.config;
        let container = spec::container(&self.pod, container)
            .ok_or_else(|| StartProblem::Node(format!("there is no container {container}")))?;
        let mut container = container.into_owned();
        if let Some(resources) = &self.resources {
            container.resources = Some(resources.clone());
        }
        let user = security::user_name(&self.pod, &container, &self.images.own.config.user)
            .map_err(|error| StartProblem::Config(error.to_string()))?;
        let user = runtime::image::resolve_user(&self.images.own.layers, &user)
            .map_err(|error| error.to_string());
        let prepared = self.context.dependencies.state.read(|cluster| {
            container::prepare(
                &ContainerInput {
                    config,
                    identity: &self.identity,
                    pod: &self.pod,
                    container: &container,
                    cluster,
                    images: &self.images,
                    volumes: &self.volumes,
                    pod_ips: &self.pod_ips,
                    target: self.target.as_ref(),
                    number: self.number,
                    restart_delay: self.restart_delay,
                },
                user,
            )
        });
        let prepared = prepared.map_err(|error| StartProblem::Config(error.to_string()))?;
        for sub_path in &prepared.sub_paths {
            volumes::sub_path::make(&sub_path.folder, &sub_path.path).map_err(|error| {
                // What there is on the host is no business of the pod's author.
                tracing::warn!(%error, ?sub_path, "failed to prepare a sub path");
                let (volume, container) = (&sub_path.volume, &container.name);
                StartProblem::Config(format!(
                    "failed to prepare subPath for volumeMount {volume:?} of container {container:?}"
                ))
            })?;
        }
        termination::make(&prepared.termination_message)
            .and_then(|()| remove_old_files(config, &self.identity, &container.name, self.number))
            .map_err(|error| StartProblem::Node(error.to_string()))?;
        Ok(prepared)
    }
}

/// Logs and last words of all attempts but this one and the one before it.
fn remove_old_files(
    config: &crate::pods::PodsConfig,
    identity: &PodIdentity,
    container: &str,
    number: u32,
) -> std::io::Result<()> {
    let Some(old) = number.checked_sub(2) else { return Ok(()) };
    let path = log_path(&identity.log_dir(&config.log_dir), container, old);
    logs::remove(&path)?;
    let words = PodDir::new(&config.root_dir, &identity.uid).termination_message(container, old);
    match std::fs::remove_file(words) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// An error with what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Runs what blocks, its error in words.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panicked) => Err(panicked.to_string()),
    }
}
