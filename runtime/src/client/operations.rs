//! What is done to a sandbox, one thing at a time: each waits for its turn and is carried to its end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::warn;

use super::control::{Control, Details, Knowledge};
use super::{Inner, Sandbox, blocking};
use crate::api::*;
use crate::isolation::selinux;
use crate::shim::protocol::{Call, Refusal};
use crate::shim::records::SandboxRecord;
use crate::{Error, Result};

/// How long a shim may take to kill and reap everything. What it does not manage is done without
/// it.
const STOP_WITHIN: Duration = Duration::from_secs(10);

impl Inner {
    pub(super) async fn create_sandbox(
        self: &Arc<Self>,
        config: &SandboxConfig,
    ) -> Result<SandboxState> {
        let _turn = self.turn(&config.id).await;
        if let Some(existing) = self.find(&config.id) {
            let state = existing.state();
            // One that died before anything ran in it is as good as none.
            if state.ready || !state.containers.is_empty() {
                return Ok(state);
            }
            self.sandboxes().remove(&config.id);
        }
        let levels = self.selinux.as_ref().is_ok_and(selinux::Policy::has_levels);
        let level = levels.then(|| self.levels.give(&config.id));
        let is_free = config.of_host.processes || config.of_host.ipc;
        let labels = self.labels(&config.selinux, level, is_free).map_err(Error::Invalid)?;
        let record = SandboxRecord {
            config: config.clone(),
            created_at: SystemTime::now(),
            shim_cgroup: self.config.shim_cgroup(),
            users: match config.own_users {
                true => Some(self.users_for(&config.id)?),
                false => None,
            },
            level,
            label: labels.file,
        };
        let (worker, written) = (Arc::clone(self), record.clone());
        let folder = blocking(move || worker.launch_shim(&written)).await?;
        let knowledge = Arc::new(Knowledge::new(config.id.clone(), self.events.clone()));
        let control = Control::connect(&folder, &knowledge)
            .await
            .map_err(|e| Error::Shim { sandbox: config.id.clone(), reason: e.to_string() })?;
        let sandbox = Sandbox { record, folder, control: Some(control), knowledge };
        let state = sandbox.state();
        self.sandboxes().insert(config.id.clone(), Arc::new(sandbox));
        Ok(state)
    }

    /// The SELinux labels that come of these options, if there are any here.
    pub(super) fn labels(
        &self,
        options: &SelinuxOptions,
        level: Option<selinux::Level>,
        is_free: bool,
    ) -> std::result::Result<selinux::Labels, String> {
        match &self.selinux {
            Ok(policy) => policy.labels(options, level, is_free),
            Err(reason) if options.says_anything() => {
                Err(format!("SELinux options cannot be enforced on this node: {reason}"))
            }
            Err(_) => Ok(selinux::Labels::default()),
        }
    }

    fn users_for(&self, id: &SandboxId) -> Result<IdRange> {
        if let Err(reason) = &self.users {
            let reason = format!("sandboxes cannot have users of their own on this node: {reason}");
            return Err(Error::Invalid(reason));
        }
        self.ranges.give(id).ok_or(Error::NoUsersLeft)
    }

    pub(super) async fn remove_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<()> {
        let _turn = self.turn(id).await;
        if let Some(sandbox) = self.find(id) {
            sandbox.knowledge.expect_end();
            // Whatever the shim does not do is done without it, so its answer changes nothing.
            let stop = sandbox.call(Call::Stop, None);
            if tokio::time::timeout(STOP_WITHIN, stop).await.is_err() {
                warn!(sandbox = %id, "the shim does not stop");
            }
        }
        self.clear_away(id).await?;
        self.sandboxes().remove(id);
        Ok(())
    }

    pub(super) async fn start_container(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        config: &ContainerConfig,
    ) -> Result<ContainerState> {
        let _turn = self.turn(sandbox).await;
        let found = self.find(sandbox).ok_or_else(|| Error::NoSuchSandbox(sandbox.clone()))?;
        if let Some(existing) = found.knowledge.container(&config.id) {
            return Ok(existing);
        }
        let (worker, holder, wanted) = (Arc::clone(self), Arc::clone(&found), config.clone());
        blocking(move || worker.write_plan(&holder, &wanted)).await?;
        let call = Call::Start { container: config.id.0.clone() };
        let failed = |reason| Error::Start { container: config.id.clone(), reason };
        let error = match found.call(call, Some(Details::of(config))).await? {
            Ok(_) => match found.knowledge.container(&config.id) {
                Some(state) => return Ok(state),
                None => failed("the shim does not know what it has started".to_owned()),
            },
            Err(Refusal::Failed(reason)) => failed(reason),
            Err(refusal @ (Refusal::Interrupted(_) | Refusal::Unfit(_))) => {
                found.refused(&config.id, refusal)
            }
            Err(refusal) => return Err(found.refused(&config.id, refusal)),
        };
        let (worker, holder, id) = (Arc::clone(self), Arc::clone(&found), config.id.clone());
        blocking(move || worker.remove_container_remains(&holder.record, &id)).await?;
        Err(error)
    }

    pub(super) async fn remove_container(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        container: &ContainerId,
    ) -> Result<()> {
        let _turn = self.turn(sandbox).await;
        let Some(found) = self.find(sandbox) else { return Ok(()) };
        if found.knowledge.shim().is_some() {
            let call = Call::Remove { container: container.0.clone() };
            let answer = tokio::time::timeout(STOP_WITHIN, found.call(call, None)).await;
            let Ok(answer) = answer else {
                let sandbox = sandbox.clone();
                let reason = format!("{container} does not die");
                return Err(Error::Shim { sandbox, reason });
            };
            if let Err(refusal) = answer? {
                return Err(found.refused(container, refusal));
            }
        }
        let (worker, holder, id) = (Arc::clone(self), Arc::clone(&found), container.clone());
        blocking(move || worker.remove_container_remains(&holder.record, &id)).await?;
        found.knowledge.forget(container);
        Ok(())
    }
}
