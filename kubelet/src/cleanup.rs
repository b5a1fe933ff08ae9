//! Removes what a kubelet leaves on a machine on purpose when it ends: containers and their mounts,
//! the pod network, the proxy's rules.

use std::path::PathBuf;

use runtime::ShimRuntime;

use crate::config::Traces;
use crate::lock::{LockError, RootLock};
use crate::network::{self, NetworkError};
use crate::nft::NftError;
use crate::policy;
use crate::proxy::{self, ProxyError};
use crate::volumes::mounts;

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// The kubelet still runs.
    #[error(transparent)]
    Running(#[from] LockError),
    /// Containers could not be removed.
    #[error("failed to remove the containers")]
    Containers(#[source] runtime::Error),
    /// The pod network could not be removed.
    #[error("failed to remove the pod network")]
    Network(#[source] NetworkError),
    /// The rules of network policies could not be removed.
    #[error("failed to remove the rules of network policies")]
    Policy(#[source] NftError),
    /// The proxy's rules could not be removed.
    #[error("failed to remove the rules of the service proxy")]
    Proxy(#[source] ProxyError),
    /// Files or mounts could not be removed.
    #[error("failed to remove {path}")]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Removes everything but certificates, images, logs and the last snapshot. What is gone already is
/// no error.
pub async fn run(traces: &Traces) -> Result<(), CleanupError> {
    let _lock = RootLock::take(&traces.root_dir)?;
    let runtime = ShimRuntime::open(traces.runtime()).await.map_err(CleanupError::Containers)?;
    runtime.shutdown_all().await.map_err(CleanupError::Containers)?;
    network::teardown(&traces.network(), &traces.attached())
        .await
        .map_err(CleanupError::Network)?;
    policy::teardown(&traces.policy_table()).await.map_err(CleanupError::Policy)?;
    proxy::teardown(&traces.nft_table).await.map_err(CleanupError::Proxy)?;
    for folder in [traces.root_dir.join("pods"), traces.root_dir.join("containers")] {
        let error = |source| CleanupError::Files { path: folder.clone(), source };
        mounts::unmount_below(&folder).map_err(error)?;
        match std::fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(error(source));
            }
            _ => {}
        }
    }
    Ok(())
}
