//! A runtime without containers, for tests of its callers and for hollow nodes.
//!
//! It behaves: containers "run" until they are told to exit or are sent a signal they do not
//! ignore, ids are idempotent, exits become events, a lost sandbox refuses work. A test steers
//! it through the methods of [`FakeRuntime`] that the trait does not have.

mod exec;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::api::*;
use crate::{DiskUsage, Error, Result};

pub use exec::{ExecScript, FakeExec};

/// What a fake container does when nobody tells it otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeProgram {
    /// Starting it fails for this reason.
    pub start_error: Option<String>,
    /// It ends by itself with this code as soon as it has started.
    pub exits_at_once: Option<i32>,
    /// It takes no notice of any signal but SIGKILL.
    pub ignores_signals: bool,
}

type ProgramChoice = dyn Fn(&SandboxId, &ContainerConfig) -> FakeProgram + Send + Sync;

/// A [`ContainerRuntime`] in memory; clones are the same runtime.
#[derive(Clone)]
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<RuntimeEvent>,
    /// When it was made, by both clocks: its time passes as tokio's does, so that a test can pause it.
    began: (SystemTime, Instant),
}

struct State {
    sandboxes: HashMap<SandboxId, FakeSandbox>,
    groups: BTreeMap<String, Resources>,
    next_pid: u32,
    program: Arc<ProgramChoice>,
    exec: Arc<ExecScript>,
    started: Vec<(SandboxId, ContainerConfig)>,
    memory: u64,
    disk: u64,
    failing_removals: u32,
}

struct FakeSandbox {
    config: SandboxConfig,
    ready: bool,
    created_at: SystemTime,
    containers: Vec<FakeContainer>,
}

struct FakeContainer {
    config: ContainerConfig,
    program: FakeProgram,
    state: ContainerState,
}

/// So many events are kept for a receiver that does not keep up.
const EVENT_BACKLOG: usize = 1024;

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeRuntime {
    /// An empty runtime whose containers run until told otherwise.
    pub fn new() -> Self {
        let state = State {
            sandboxes: HashMap::new(),
            groups: BTreeMap::new(),
            next_pid: 1000,
            program: Arc::new(|_, _| FakeProgram::default()),
            exec: Arc::new(|exec| Box::pin(exec::everyday_programs(exec))),
            started: Vec::new(),
            memory: 0,
            disk: 0,
            failing_removals: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            events: broadcast::channel(EVENT_BACKLOG).0,
            began: (SystemTime::now(), Instant::now()),
        }
    }

    /// What a control group was bounded by: the last word on each bound.
    pub fn group(&self, group: &str) -> Option<Resources> {
        self.lock().groups.get(group).cloned()
    }

    /// From now on asks `choose` what a container that is started does.
    pub fn choose_program(
        &self,
        choose: impl Fn(&SandboxId, &ContainerConfig) -> FakeProgram + Send + Sync + 'static,
    ) {
        self.lock().program = Arc::new(choose);
    }

    /// From now on runs `script` for every exec.
    pub fn script_exec(&self, script: Arc<ExecScript>) {
        self.lock().exec = script;
    }

    /// From now on every exec prints and exits as `answer` says, at once.
    pub fn answer_exec(
        &self,
        answer: impl Fn(&ContainerId, &[String]) -> (Vec<u8>, i32) + Send + Sync + 'static,
    ) {
        let answer = Arc::new(answer);
        self.script_exec(Arc::new(move |exec: FakeExec| {
            let (output, code) = answer(&exec.container, &exec.command);
            Box::pin(async move { exec.print_and_exit(&output, code).await })
        }));
    }

    /// Ends a running container with an exit code. False when it does not run.
    pub fn exit(&self, sandbox: &SandboxId, container: &ContainerId, exit_code: i32) -> bool {
        self.end(sandbox, container, exit_code, None, false)
    }

    /// Ends a running container as the kernel does when its memory limit is reached.
    pub fn oom_kill(&self, sandbox: &SandboxId, container: &ContainerId) -> bool {
        self.end(sandbox, container, 128 + SIGKILL, Some(SIGKILL), true)
    }

    /// From now on every container uses so much memory.
    pub fn use_memory(&self, bytes: u64) {
        self.lock().memory = bytes;
    }

    /// From now on every container has written so much into its root file system.
    pub fn use_disk(&self, bytes: u64) {
        self.lock().disk = bytes;
    }

    /// The next so many removals of containers and sandboxes fail.
    pub fn fail_removals(&self, times: u32) {
        self.lock().failing_removals = times;
    }

    fn may_remove(&self, sandbox: &SandboxId) -> Result<()> {
        let mut state = self.lock();
        let Some(left) = state.failing_removals.checked_sub(1) else { return Ok(()) };
        state.failing_removals = left;
        let source = io::ErrorKind::ResourceBusy.into();
        Err(Error::Io { operation: "remove", path: (&sandbox.0).into(), source })
    }

    /// Loses a sandbox, as when its shim is killed. False when there is none of this id.
    pub fn lose_sandbox(&self, sandbox: &SandboxId) -> bool {
        let mut state = self.lock();
        let Some(found) = state.sandboxes.get_mut(sandbox) else { return false };
        found.ready = false;
        drop(state);
        self.send(RuntimeEvent::SandboxLost { sandbox: sandbox.clone() });
        true
    }

    /// All containers that were ever started, in order, removed ones included.
    pub fn started(&self) -> Vec<(SandboxId, ContainerConfig)> {
        self.lock().started.clone()
    }

    /// What a container that still exists was started with.
    pub fn container_config(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
    ) -> Option<ContainerConfig> {
        let state = self.lock();
        let found = state.sandboxes.get(sandbox)?;
        let found = found.containers.iter().find(|c| c.config.id == *container)?;
        Some(found.config.clone())
    }

    /// What time it is for the containers: the machine's time of day when this was made, and since then tokio's clock.
    pub fn now(&self) -> SystemTime {
        let (time, since) = self.began;
        time + since.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one step, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, event: RuntimeEvent) {
        // Without a receiver nobody wants to know, which is no error.
        let _ = self.events.send(event);
    }

    fn end(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        exit_code: i32,
        signal: Option<i32>,
        oom_killed: bool,
    ) -> bool {
        let exit = ContainerExit { exit_code, signal, oom_killed, finished_at: self.now() };
        {
            let mut state = self.lock();
            let Some(found) = state.container(sandbox, container) else { return false };
            if found.state.exit.is_some() {
                return false;
            }
            found.state.pid = None;
            found.state.exit = Some(exit.clone());
        }
        self.send(RuntimeEvent::ContainerExited {
            sandbox: sandbox.clone(),
            container: container.clone(),
            exit,
        });
        true
    }

    fn begin_exec(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<Arc<ExecScript>> {
        let mut state = self.lock();
        let script = Arc::clone(&state.exec);
        state.ready(sandbox)?;
        let found =
            state.container(sandbox, container).ok_or_else(|| no_such(sandbox, container))?;
        match found.state.exit {
            Some(_) => Err(Error::NotRunning(container.clone())),
            None => Ok(script),
        }
    }
}

impl State {
    fn bound(&mut self, group: &str, resources: &Resources) {
        let Resources {
            cpu_shares,
            cpu_quota_us,
            cpu_period_us,
            memory_limit_bytes,
            pids_limit,
            oom_score_adj: _,
            huge_page_limits,
        } = resources.clone();
        let bounds = self.groups.entry(group.to_owned()).or_default();
        bounds.cpu_shares = cpu_shares.or(bounds.cpu_shares);
        bounds.cpu_quota_us = cpu_quota_us.or(bounds.cpu_quota_us);
        bounds.cpu_period_us = cpu_period_us.or(bounds.cpu_period_us);
        bounds.memory_limit_bytes = memory_limit_bytes.or(bounds.memory_limit_bytes);
        bounds.pids_limit = pids_limit.or(bounds.pids_limit);
        bounds.huge_page_limits.extend(huge_page_limits);
    }

    fn container(
        &mut self,
        sandbox: &SandboxId,
        container: &ContainerId,
    ) -> Option<&mut FakeContainer> {
        let sandbox = self.sandboxes.get_mut(sandbox)?;
        sandbox.containers.iter_mut().find(|c| c.config.id == *container)
    }

    fn ready(&mut self, sandbox: &SandboxId) -> Result<&mut FakeSandbox> {
        let found =
            self.sandboxes.get_mut(sandbox).ok_or_else(|| Error::NoSuchSandbox(sandbox.clone()))?;
        if !found.ready {
            return Err(Error::Shim { sandbox: sandbox.clone(), reason: "it is dead".to_owned() });
        }
        Ok(found)
    }
}

impl FakeSandbox {
    fn state(&self) -> SandboxState {
        SandboxState {
            config: self.config.clone(),
            ready: self.ready,
            users: self.config.own_users.then_some(IdRange { first: 1 << 20, count: 1 << 16 }),
            network_namespace: self
                .ready
                .then(|| PathBuf::from(format!("/fake/ns/net/{}", self.config.id))),
            containers: self.containers.iter().map(|c| c.state.clone()).collect(),
            created_at: self.created_at,
        }
    }
}

const SIGKILL: i32 = 9;

fn no_such(sandbox: &SandboxId, container: &ContainerId) -> Error {
    Error::NoSuchContainer { sandbox: sandbox.clone(), container: container.clone() }
}

/// Whether a process that does nothing about a signal survives it: SIGCHLD, SIGCONT, SIGSTOP,
/// SIGTSTP, SIGTTIN, SIGTTOU, SIGURG and SIGWINCH do not end it.
fn is_harmless(signal: i32) -> bool {
    matches!(signal, 0 | 17..=23 | 28)
}

#[async_trait::async_trait]
impl ContainerRuntime for FakeRuntime {
    async fn create_sandbox(&self, config: &SandboxConfig) -> Result<SandboxState> {
        let mut state = self.lock();
        state.bound(&config.cgroup_parent, &config.resources);
        let sandbox = state.sandboxes.entry(config.id.clone()).or_insert_with(|| FakeSandbox {
            config: config.clone(),
            ready: true,
            created_at: self.now(),
            containers: Vec::new(),
        });
        Ok(sandbox.state())
    }

    async fn list(&self) -> Result<Vec<SandboxState>> {
        let state = self.lock();
        let mut all: Vec<_> = state.sandboxes.values().map(FakeSandbox::state).collect();
        all.sort_by(|a, b| a.config.id.cmp(&b.config.id));
        Ok(all)
    }

    /// Nothing runs, so nothing is used, but what a test says.
    async fn usage(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<Usage> {
        let state = self.lock();
        let found = state.sandboxes.get(sandbox).map(FakeSandbox::state);
        let mut containers = found.into_iter().flat_map(|found| found.containers);
        let running = containers.any(|one| one.id == *container && one.exit.is_none());
        let usage = Usage { memory: state.memory, ..Usage::default() };
        running.then_some(usage).ok_or_else(|| Error::NotRunning(container.clone()))
    }

    /// As with memory: what a test says.
    async fn disk_usage(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<DiskUsage> {
        let mut state = self.lock();
        let bytes = state.disk;
        let found = state.container(sandbox, container);
        let usage = DiskUsage { bytes, inodes: 1 };
        found.map(|_| usage).ok_or_else(|| no_such(sandbox, container))
    }

    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<()> {
        self.may_remove(sandbox)?;
        let running: Vec<ContainerId> = match self.lock().sandboxes.get(sandbox) {
            None => return Ok(()),
            Some(found) => found.containers.iter().map(|c| c.config.id.clone()).collect(),
        };
        for container in running {
            self.end(sandbox, &container, 128 + SIGKILL, Some(SIGKILL), false);
        }
        self.lock().sandboxes.remove(sandbox);
        Ok(())
    }

    async fn start_container(
        &self,
        sandbox: &SandboxId,
        config: &ContainerConfig,
    ) -> Result<ContainerState> {
        let (state, exits_at_once) = {
            let mut state = self.lock();
            state.ready(sandbox)?;
            if let Some(existing) = state.container(sandbox, &config.id) {
                return Ok(existing.state.clone());
            }
            let program = (Arc::clone(&state.program))(sandbox, config);
            if let Some(reason) = program.start_error {
                return Err(Error::Start { container: config.id.clone(), reason });
            }
            state.next_pid += 1;
            let container = ContainerState {
                id: config.id.clone(),
                annotations: config.annotations.clone(),
                log_path: config.log_path.clone(),
                pid: Some(state.next_pid),
                started_at: self.now(),
                exit: None,
            };
            let exits_at_once = program.exits_at_once;
            state.started.push((sandbox.clone(), config.clone()));
            state.ready(sandbox)?.containers.push(FakeContainer {
                config: config.clone(),
                program,
                state: container.clone(),
            });
            (container, exits_at_once)
        };
        if let Some(code) = exits_at_once {
            self.exit(sandbox, &config.id, code);
        }
        Ok(state)
    }

    async fn update_container(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        resources: &Resources,
    ) -> Result<()> {
        let mut state = self.lock();
        state.ready(sandbox)?;
        let found =
            state.container(sandbox, container).ok_or_else(|| no_such(sandbox, container))?;
        if found.state.exit.is_some() {
            return Err(Error::NotRunning(container.clone()));
        }
        found.config.resources = resources.clone();
        Ok(())
    }

    async fn bound_group(&self, group: &str, resources: &Resources) -> Result<()> {
        self.lock().bound(group, resources);
        Ok(())
    }

    async fn signal_container(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        signal: i32,
    ) -> Result<()> {
        let ends = {
            let mut state = self.lock();
            state.ready(sandbox)?;
            let found =
                state.container(sandbox, container).ok_or_else(|| no_such(sandbox, container))?;
            if found.state.exit.is_some() {
                return Err(Error::NotRunning(container.clone()));
            }
            signal == SIGKILL || !(found.program.ignores_signals || is_harmless(signal))
        };
        if ends {
            self.end(sandbox, container, 128 + signal, Some(signal), false);
        }
        Ok(())
    }

    async fn remove_container(&self, sandbox: &SandboxId, container: &ContainerId) -> Result<()> {
        self.may_remove(sandbox)?;
        self.end(sandbox, container, 128 + SIGKILL, Some(SIGKILL), false);
        if let Some(found) = self.lock().sandboxes.get_mut(sandbox) {
            found.containers.retain(|c| c.config.id != *container);
        }
        Ok(())
    }

    async fn exec_sync(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput> {
        let script = self.begin_exec(sandbox, container)?;
        exec::run_to_end(script, container, command, timeout).await
    }

    async fn exec(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        config: &ExecConfig,
    ) -> Result<ExecSession> {
        let script = self.begin_exec(sandbox, container)?;
        Ok(exec::start(script, container, config))
    }

    /// What a fake container's own program says is up to the exec script, as a program `attach`.
    async fn attach(
        &self,
        sandbox: &SandboxId,
        container: &ContainerId,
        config: &AttachConfig,
    ) -> Result<ExecSession> {
        let script = self.begin_exec(sandbox, container)?;
        let stdin = config.stdin;
        let config = ExecConfig { command: vec!["attach".to_owned()], stdin, tty: false };
        Ok(exec::start(script, container, &config))
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }
}

#[cfg(test)]
mod tests;
