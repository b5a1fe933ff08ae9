//! Keeps one worker per pod of this node.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{PodsConfig, PodsDependencies, PodsError};

/// Runs the pods of this node.
pub struct PodManager {
    config: Arc<PodsConfig>,
    dependencies: PodsDependencies,
}

impl PodManager {
    /// Nothing happens before [`run`](Self::run).
    pub fn new(config: PodsConfig, dependencies: PodsDependencies) -> Arc<Self> {
        Arc::new(Self { config: Arc::new(config), dependencies })
    }

    /// Takes over what runs on this node, then follows the state until shutdown. On return no pod
    /// was stopped: containers outlive the kubelet.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), PodsError> {
        let found = self.dependencies.runtime.list().await.map_err(PodsError::List)?;
        tracing::info!(root = %self.config.root_dir.display(), sandboxes = found.len(), "pods");
        shutdown.cancelled().await;
        Ok(())
    }
}
