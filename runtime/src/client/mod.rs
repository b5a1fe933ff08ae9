//! [`ShimRuntime`]: containers through shims, one per sandbox.
//!
//! The runtime keeps nothing that is not also with a shim or on disk, so it may be killed and
//! started again at any moment:
//!
//! * [`control`]: the connection to a shim, and what is known about its containers;
//! * [`launch`]: writing down what a shim is to do, and starting the shim itself;
//! * [`operations`]: what is done to a sandbox, one thing at a time;
//! * [`exec`]: streams of programs executed in containers, [`attach`]: of the containers' own;
//! * [`removal`]: taking away all that a container or sandbox may have left, whatever state it
//!   and its shim are in.
//!
//! Work on files and processes blocks; it is done in [`blocking`] and nowhere else.

mod attach;
mod control;
mod exec;
mod launch;
mod levels;
mod mounts;
mod operations;
mod removal;
mod users;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, broadcast};
use tracing::{error, info, warn};

use crate::api::*;
use crate::cgroup::Hierarchies;
use crate::isolation::seccomp::FilterCache;
use crate::isolation::{apparmor, selinux};
use crate::shim::protocol::{Call, Refusal, Reply};
use crate::shim::records::{self, SandboxFolder, SandboxRecord};
use crate::{DiskUsage, Error, Result, disk_usage, sys};
use control::{Control, Details, Knowledge};
use levels::Levels;
use users::Ranges;

/// Where a [`ShimRuntime`] keeps things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimRuntimeConfig {
    /// For what does not outlive the machine's next start, such as `/run/kutter`.
    pub state_dir: PathBuf,
    /// For what containers write, on disk, such as `/var/lib/kutter/kubelet/containers`.
    pub data_dir: PathBuf,
    /// The `shim` program; nothing means the one beside the running program.
    pub shim_path: Option<PathBuf>,
    /// Control group of everything of this node, starting with `/`. Shims are in `shims` below it.
    pub cgroup_root: String,
    /// Users and groups of the machine, for sandboxes with users of their own.
    pub user_ids: IdRange,
}

/// [`ShimRuntimeConfig::user_ids`], unless the operator says otherwise: beyond what distributions and
/// systemd give to anybody, enough for 4000 sandboxes.
pub const DEFAULT_USER_IDS: IdRange =
    IdRange { first: 0x7000_0000, count: 4000 * users::IDS_PER_SANDBOX };

impl ShimRuntimeConfig {
    fn shim_cgroup(&self) -> String {
        format!("{}/shims", self.cgroup_root.trim_end_matches('/'))
    }

    fn sandboxes(&self) -> PathBuf {
        self.state_dir.join("sandboxes")
    }
}

/// A [`ContainerRuntime`] of real containers.
pub struct ShimRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    config: ShimRuntimeConfig,
    hierarchies: Hierarchies,
    swap_accounting: bool,
    /// Whether the kernel has clocks for each sandbox.
    has_clocks: bool,
    ranges: Ranges,
    /// Why sandboxes cannot have users of their own, if they cannot.
    users: std::result::Result<(), String>,
    /// Why containers have no AppArmor profiles, if they have none.
    app_armor: std::result::Result<(), String>,
    /// What the policy of SELinux says of containers, or why they have no labels.
    selinux: std::result::Result<selinux::Policy, String>,
    levels: Levels,
    filters: FilterCache,
    /// The shim's program, where nothing can write to it.
    shim_program: OwnedFd,
    sandboxes: Mutex<HashMap<SandboxId, Arc<Sandbox>>>,
    /// One change of a sandbox at a time.
    turns: Mutex<HashMap<SandboxId, Weak<tokio::sync::Mutex<()>>>>,
    events: broadcast::Sender<RuntimeEvent>,
}

struct Sandbox {
    record: SandboxRecord,
    folder: SandboxFolder,
    /// Nothing when its shim was dead when it was found.
    control: Option<Control>,
    knowledge: Arc<Knowledge>,
}

/// So many events are kept for a receiver that does not keep up: a few for every container that
/// a node holds.
const EVENT_BACKLOG: usize = 4096;

/// How long a shim may take to answer an agent that has started again. It does so at once, unless
/// a creator is at work, which has a minute.
const ADOPT_WITHIN: Duration = Duration::from_secs(75);

impl ShimRuntime {
    /// Takes charge of what there is, and is ready for more.
    pub async fn open(config: ShimRuntimeConfig) -> Result<ShimRuntime> {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let inner = blocking(move || Inner::new(config, events)).await?;
        let inner = Arc::new(inner);
        let state_dir = inner.config.sandboxes();
        let names = blocking(move || subfolders(&state_dir)).await?;
        let adoptions = names.into_iter().map(|name| {
            let (inner, id) = (&inner, SandboxId(name));
            async move {
                // One that cannot be understood must not keep the agent from all the others.
                if let Err(error) = inner.adopt(id.clone()).await {
                    error!(sandbox = %id, %error, "a sandbox could not be adopted");
                }
            }
        });
        futures::future::join_all(adoptions).await;
        Ok(ShimRuntime { inner })
    }

    /// Whether sandboxes can have users of their own on this machine.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub fn own_users(&self) -> std::result::Result<(), &str> {
        match &self.inner.users {
            Ok(()) => Ok(()),
            Err(reason) => Err(reason),
        }
    }

    /// Whether containers have AppArmor profiles on this machine.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub fn app_armor(&self) -> std::result::Result<(), &str> {
        match &self.inner.app_armor {
            Ok(()) => Ok(()),
            Err(reason) => Err(reason),
        }
    }

    /// Whether containers have SELinux labels on this machine.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub fn selinux(&self) -> std::result::Result<(), &str> {
        match &self.inner.selinux {
            Ok(_) => Ok(()),
            Err(reason) => Err(reason),
        }
    }

    /// Removes all sandboxes, and what the runtime itself has made in the system.
    pub async fn shutdown_all(&self) -> Result<()> {
        let state_dir = self.inner.config.sandboxes();
        let names = blocking(move || subfolders(&state_dir)).await?;
        let removals = names.into_iter().map(|name| {
            let sandbox = SandboxId(name);
            async move { self.remove_sandbox(&sandbox).await }
        });
        futures::future::try_join_all(removals).await?;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            // What shims have forked last may still be on its way out.
            let shims = inner.config.shim_cgroup();
            inner.hierarchies.kill_all(&shims)?;
            inner.hierarchies.remove(&shims)?;
            inner.hierarchies.remove_unused_tree(&inner.config.cgroup_root);
            Ok(())
        })
        .await
    }
}

impl Inner {
    fn new(config: ShimRuntimeConfig, events: broadcast::Sender<RuntimeEvent>) -> Result<Inner> {
        for folder in [config.sandboxes(), config.data_dir.clone()] {
            fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        }
        let shim_path = match &config.shim_path {
            Some(path) => path.clone(),
            None => beside_this_program("shim")?,
        };
        let shim_program =
            sys::read_only_view(&shim_path).map_err(io_error("open the shim", &shim_path))?;
        let hierarchies = Hierarchies::read()?;
        Ok(Inner {
            swap_accounting: hierarchies.account_swap(),
            has_clocks: Path::new("/proc/self/ns/time_for_children").exists(),
            ranges: Ranges::new(config.user_ids),
            users: launch::probe_users(&shim_program, &config.data_dir),
            hierarchies,
            app_armor: apparmor::prepare(),
            selinux: selinux::prepare(),
            levels: Levels::default(),
            filters: FilterCache::new(config.data_dir.join("seccomp")),
            config,
            shim_program,
            sandboxes: Mutex::default(),
            turns: Mutex::default(),
            events,
        })
    }

    fn sandboxes(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<Sandbox>>> {
        // Only ever changed in one step, so it is whole whoever panicked.
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, sandbox: &SandboxId) -> Option<Arc<Sandbox>> {
        self.sandboxes().get(sandbox).cloned()
    }

    fn folder(&self, sandbox: &SandboxId) -> SandboxFolder {
        SandboxFolder::new(&self.config.state_dir, sandbox)
    }

    /// Waits until nobody else changes the sandbox.
    async fn turn(&self, sandbox: &SandboxId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(sandbox).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    turns.insert(sandbox.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    /// Takes charge of a sandbox of an earlier life.
    async fn adopt(self: &Arc<Self>, id: SandboxId) -> Result<()> {
        let folder = self.folder(&id);
        let path = folder.config();
        let record = blocking(move || match records::read::<SandboxRecord>(&path) {
            Ok(record) => Ok(Some(record)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("read", &path)(e)),
        })
        .await?;
        if let Some(users) = record.as_ref().and_then(|record| record.users) {
            self.ranges.note(&id, users);
        }
        if let Some(level) = record.as_ref().and_then(|record| record.level) {
            self.levels.note(&id, level);
        }
        let Some(record) = record else {
            // Making it, or removing it, was not brought to its end.
            return self.clear_away(&id).await;
        };
        let knowledge = Arc::new(Knowledge::new(id.clone(), self.events.clone()));
        let answer = tokio::time::timeout(ADOPT_WITHIN, Control::connect(&folder, &knowledge));
        let control = match answer.await {
            Ok(Ok(control)) => Some(control),
            silence_or_error => {
                let reason = silence_or_error.ok().and_then(|answer| answer.err());
                warn!(sandbox = %id, ?reason, "the shim of a sandbox does not answer");
                let (knowledge, folder) = (Arc::clone(&knowledge), folder.clone());
                blocking(move || knowledge.read_from_disk(&folder)).await?;
                None
            }
        };
        info!(sandbox = %id, alive = control.is_some(), "adopted a sandbox");
        let sandbox = Sandbox { record, folder, control, knowledge };
        self.sandboxes().insert(id, Arc::new(sandbox));
        Ok(())
    }

    /// Removes what there is in the system and on disk of a sandbox whose shim has been told.
    async fn clear_away(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        let (inner, sandbox) = (Arc::clone(self), id.clone());
        blocking(move || inner.remove_sandbox_remains(&sandbox)).await?;
        self.ranges.take_back(id);
        self.levels.take_back(id);
        Ok(())
    }
}

impl Sandbox {
    fn state(&self) -> SandboxState {
        let shim = self.knowledge.shim();
        SandboxState {
            config: self.record.config.clone(),
            ready: shim.is_some(),
            users: self.record.users,
            network_namespace: shim.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net"))),
            containers: self.knowledge.containers(),
            created_at: self.record.created_at,
        }
    }

    async fn call(&self, call: Call, details: Option<Details>) -> Result<Answer> {
        let lost = |reason: &str| Error::Shim {
            sandbox: self.record.config.id.clone(),
            reason: reason.to_owned(),
        };
        let control = self.control.as_ref().ok_or_else(|| lost("it is dead"))?;
        let answer = control.call(call, details).await;
        answer.ok_or_else(|| lost("it died before it answered"))
    }

    fn refused(&self, container: &ContainerId, refusal: Refusal) -> Error {
        let sandbox = self.record.config.id.clone();
        match refusal {
            Refusal::NoSuchContainer => {
                Error::NoSuchContainer { sandbox, container: container.clone() }
            }
            Refusal::NotRunning => Error::NotRunning(container.clone()),
            Refusal::Failed(reason) => Error::Shim { sandbox, reason },
            Refusal::Unfit(reason) => Error::Create { container: container.clone(), reason },
            Refusal::Interrupted(reason) => {
                Error::Interrupted { container: container.clone(), reason }
            }
        }
    }
}

type Answer = std::result::Result<Reply, Refusal>;

#[async_trait::async_trait]
impl ContainerRuntime for ShimRuntime {
    async fn create_sandbox(&self, config: &SandboxConfig) -> Result<SandboxState> {
        launch::check_sandbox(config)?;
        let (inner, config) = (Arc::clone(&self.inner), config.clone());
        to_its_end(async move { inner.create_sandbox(&config).await }).await
    }

    async fn list(&self) -> Result<Vec<SandboxState>> {
        let mut all: Vec<Arc<Sandbox>> = self.inner.sandboxes().values().cloned().collect();
        all.sort_by(|a, b| a.record.config.id.cmp(&b.record.config.id));
        Ok(all.iter().map(|sandbox| sandbox.state()).collect())
    }

    async fn usage(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<Usage> {
        let known = self.inner.sandboxes().get(sandbox).cloned();
        let group = known.map(|known| known.record.container_cgroup(container));
        let usage = group.and_then(|group| self.inner.hierarchies.usage(&group));
        usage.ok_or_else(|| Error::NotRunning(container.clone()))
    }

    async fn disk_usage(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<DiskUsage> {
        let upper = self.inner.container_data(sandbox, container).join("upper");
        blocking(move || disk_usage(&upper).map_err(io_error("count what is in", &upper))).await
    }

    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        launch::check_id(&sandbox.0, launch::MAX_SANDBOX_ID)?;
        let (inner, sandbox) = (Arc::clone(&self.inner), sandbox.clone());
        to_its_end(async move { inner.remove_sandbox(&sandbox).await }).await
    }

    async fn start_container(
        &self,
        sandbox: &SandboxId,
        config: &ContainerConfig,
    ) -> Result<ContainerState> {
        launch::check_container(config)?;
        let inner = Arc::clone(&self.inner);
        let (sandbox, config) = (sandbox.clone(), config.clone());
        to_its_end(async move { inner.start_container(&sandbox, &config).await }).await
    }

    async fn update_container(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        resources: &Resources,
    ) -> Result<()> {
        let found =
            self.inner.find(sandbox).ok_or_else(|| Error::NoSuchSandbox(sandbox.clone()))?;
        let (inner, container) = (Arc::clone(&self.inner), container.clone());
        let (sandbox, resources) = (sandbox.clone(), resources.clone());
        to_its_end(async move {
            let _turn = inner.turn(&sandbox).await;
            let running = found.knowledge.container(&container).is_some_and(|c| c.exit.is_none());
            if !running {
                return Err(Error::NotRunning(container));
            }
            let group = found.record.container_cgroup(&container);
            let swap = inner.swap_accounting;
            blocking(move || inner.hierarchies.limit(&group, &resources, swap)).await
        })
        .await
    }

    async fn bound_group(&self, group: &str, resources: &Resources) -> Result<()> {
        launch::check_group(group)?;
        let inner = Arc::clone(&self.inner);
        let (group, resources) = (group.to_owned(), resources.clone());
        blocking(move || inner.hierarchies.bound(&group, &resources)).await
    }

    async fn signal_container(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        signal: i32,
    ) -> Result<()> {
        let found =
            self.inner.find(sandbox).ok_or_else(|| Error::NoSuchSandbox(sandbox.clone()))?;
        let call = Call::Signal { container: container.0.clone(), signal };
        match found.call(call, None).await? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(found.refused(container, refusal)),
        }
    }

    async fn remove_container(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<()> {
        launch::check_id(&container.0, launch::MAX_CONTAINER_ID)?;
        let inner = Arc::clone(&self.inner);
        let (sandbox, container) = (sandbox.clone(), container.clone());
        to_its_end(async move { inner.remove_container(&sandbox, &container).await }).await
    }

    async fn exec_sync(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput> {
        let config = ExecConfig { command: command.to_vec(), stdin: false, tty: false };
        let began = tokio::time::Instant::now();
        let start = self.exec(sandbox, container, &config);
        match tokio::time::timeout(timeout, start).await {
            Ok(session) => exec::run_to_end(session?, container, began + timeout).await,
            Err(_) => Ok(exec::timed_out(Vec::new())),
        }
    }

    async fn exec(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        config: &ExecConfig,
    ) -> Result<ExecSession> {
        let found =
            self.inner.find(sandbox).ok_or_else(|| Error::NoSuchSandbox(sandbox.clone()))?;
        exec::start(&found, container, config).await
    }

    async fn attach(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        config: &AttachConfig,
    ) -> Result<ExecSession> {
        let found =
            self.inner.find(sandbox).ok_or_else(|| Error::NoSuchSandbox(sandbox.clone()))?;
        attach::start(&found, container, config).await
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }
}

/// Carries a change through even if whoever asked for it stops waiting: one that is cut off in the
/// middle would have to be found and mended by the next.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// Runs what blocks where it may. It runs to its end even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

fn subfolders(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error("read", path))? {
        let entry = entry.map_err(io_error("read", path))?;
        // Every folder in here was named by us; ids are plain ASCII.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn beside_this_program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(io_error("find", Path::new("/proc/self/exe")))?;
    Ok(own.with_file_name(name))
}
