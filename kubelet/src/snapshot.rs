//! The last snapshot on disk, so that a kubelet that starts while no master can be reached keeps
//! its pods, volumes, services and routes.
//!
//! A file per kind of object in `<root-dir>/snapshot`, each replaced as a whole. A change of a
//! pod's status does not write the services again.
//!
//! A change is written at once, as `pods.fresh.json`, for a kubelet that is killed: whatever has been
//! written is there for the next one. To have it outlast a loss of power takes the disk many
//! milliseconds and is done now and then; the file is `pods.json` from then on. A kubelet that starts
//! takes the fresh file where there is one, unless it is damaged.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::k8s::api::core::v1::Node;
use proto::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::k8s::{Metadata, Resource};
use proto::{ObjectKey, Peer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::files;
use crate::state::{Change, ClusterState, StateHandle};

/// Changes that come together are written together.
const COALESCE: Duration = Duration::from_millis(5);
/// After a write, so many times its duration pass before the next: with many thousand endpoints
/// the processor is still free for most of the time.
const REST_FACTOR: u32 = 20;
/// But never longer than this, however much there is: what a kubelet that starts without a master
/// does not know is a gap.
const MAX_REST: Duration = Duration::from_millis(500);
/// Between a change and its being durable. What a loss of power takes away within that time is
/// what the disk would lose anyway, and no container outlives it.
const DURABLE_AFTER: Duration = Duration::from_secs(1);

/// A snapshot that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A file operation failed.
    #[error("failed to {operation} {path}")]
    Io {
        /// The verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("failed to decode {path}")]
    Decode {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What is written on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Pods,
    ConfigMaps,
    Secrets,
    Services,
    EndpointSlices,
    Cluster,
}

const PARTS: [Part; 6] = [
    Part::Pods,
    Part::ConfigMaps,
    Part::Secrets,
    Part::Services,
    Part::EndpointSlices,
    Part::Cluster,
];

impl Part {
    fn file_name(self) -> &'static str {
        match self {
            Self::Pods => "pods.json",
            Self::ConfigMaps => "configmaps.json",
            Self::Secrets => "secrets.json",
            Self::Services => "services.json",
            Self::EndpointSlices => "endpointslices.json",
            Self::Cluster => "cluster.json",
        }
    }

    /// Of what is not durable yet.
    fn fresh_name(self) -> String {
        self.file_name().replace(".json", ".fresh.json")
    }
}

/// The rest of the state, in one file.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Cluster {
    node: Option<Node>,
    peers: Vec<Peer>,
    pod_cidrs: Vec<String>,
    service_cidrs: Vec<String>,
    cluster_domain: String,
    masters: Vec<IpAddr>,
}

/// The folder of the last snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotFolder(PathBuf);

impl SnapshotFolder {
    /// The one of a kubelet's state folder.
    pub fn of(root_dir: &Path) -> Self {
        Self(root_dir.join("snapshot"))
    }

    /// Puts what is kept into the state; tells whether there was anything. The state is loaded, but
    /// not confirmed.
    ///
    /// # Errors
    /// When a file cannot be read or decoded; the state is then as it was.
    pub fn load(&self, state: &StateHandle) -> Result<bool, SnapshotError> {
        // Written first by `save_all`, and always there.
        let Some(cluster) = self.read::<Cluster>(Part::Cluster)? else { return Ok(false) };
        let Cluster { node, peers, pod_cidrs, service_cidrs, cluster_domain, masters } = cluster;
        let loaded = ClusterState {
            loaded: true,
            confirmed: false,
            pods: self.objects(Part::Pods)?,
            config_maps: self.objects(Part::ConfigMaps)?,
            secrets: self.objects(Part::Secrets)?,
            services: self.objects(Part::Services)?,
            endpoint_slices: self.objects(Part::EndpointSlices)?,
            peers: peers.into_iter().map(|peer| (peer.node.clone(), Arc::new(peer))).collect(),
            node: node.map(Arc::new),
            pod_cidrs,
            service_cidrs,
            cluster_domain,
            masters,
        };
        state.write([Change::Everything], |state| *state = loaded);
        Ok(true)
    }

    /// Writes whatever changes, until shutdown and once more then. A failed write is told and tried
    /// again with the next change.
    pub async fn keep(self, state: StateHandle, shutdown: CancellationToken) {
        let mut changes = state.changes();
        let mut earliest = Instant::now();
        // Written, but not durable; since when.
        let mut fresh: Vec<Part> = Vec::new();
        let mut durable_at = Instant::now();
        loop {
            let mut dirty: Vec<Part> = Vec::new();
            tokio::select! {
                change = changes.recv() => note(change, &mut dirty),
                () = tokio::time::sleep_until(durable_at.into()), if !fresh.is_empty() => {
                    self.settle(std::mem::take(&mut fresh)).await;
                    continue;
                }
                () = shutdown.cancelled() => {}
            }
            // More may follow at once; it is written together.
            let due = earliest.max(Instant::now() + COALESCE);
            let mut waiting = !shutdown.is_cancelled();
            while waiting {
                tokio::select! {
                    change = changes.recv() => note(change, &mut dirty),
                    () = tokio::time::sleep_until(due.into()) => waiting = false,
                    () = shutdown.cancelled() => waiting = false,
                }
            }
            loop {
                match changes.try_recv() {
                    Ok(change) => note(Ok(change), &mut dirty),
                    Err(TryRecvError::Lagged(by)) => note(Err(RecvError::Lagged(by)), &mut dirty),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            let started = Instant::now();
            if fresh.is_empty() {
                durable_at = started + DURABLE_AFTER;
            }
            for part in self.write(&state, dirty).await {
                if !fresh.contains(&part) {
                    fresh.push(part);
                }
            }
            if shutdown.is_cancelled() {
                self.settle(fresh).await;
                return;
            }
            earliest = Instant::now() + (started.elapsed() * REST_FACTOR).min(MAX_REST);
        }
    }

    /// Returns what was written.
    async fn write(&self, state: &StateHandle, parts: Vec<Part>) -> Vec<Part> {
        if parts.is_empty() || !state.read(|state| state.loaded) {
            return Vec::new();
        }
        let (folder, state) = (self.clone(), state.clone());
        self.in_background(parts, move |parts| folder.save(&state, parts)).await
    }

    /// Makes durable what was written.
    async fn settle(&self, parts: Vec<Part>) {
        let folder = self.clone();
        self.in_background(parts, move |parts| folder.make_durable(parts)).await;
    }

    /// Does something that waits for the disk; returns the parts if that went well.
    async fn in_background(
        &self,
        parts: Vec<Part>,
        work: impl FnOnce(&[Part]) -> Result<(), SnapshotError> + Send + 'static,
    ) -> Vec<Part> {
        let done = tokio::task::spawn_blocking(move || work(&parts).map(|()| parts)).await;
        match done {
            Ok(Ok(parts)) => {
                debug!(parts = parts.len(), "kept the snapshot");
                return parts;
            }
            Ok(Err(failure)) => {
                error!(error = %crate::join::Chain(&failure), "failed to keep the snapshot");
            }
            Err(failure) => error!(error = %failure, "failed to keep the snapshot"),
        }
        Vec::new()
    }

    fn save(&self, state: &StateHandle, parts: &[Part]) -> Result<(), SnapshotError> {
        files::make_private_folder(&self.0).map_err(|source| self.io("make", &self.0, source))?;
        // The file that `load` asks for first is written last: then the others are there.
        for part in PARTS.into_iter().filter(|part| parts.contains(part)) {
            let path = self.0.join(part.fresh_name());
            let json = encode(part, state)
                .map_err(|source| SnapshotError::Decode { path: path.clone(), source })?;
            files::replace_for_now(&path, &json)
                .map_err(|source| self.io("write", &path, source))?;
        }
        Ok(())
    }

    fn make_durable(&self, parts: &[Part]) -> Result<(), SnapshotError> {
        for part in PARTS.into_iter().filter(|part| parts.contains(part)) {
            let path = self.0.join(part.fresh_name());
            files::make_durable(&path, &self.0.join(part.file_name()))
                .map_err(|source| self.io("make durable", &path, source))?;
        }
        Ok(())
    }

    /// The fresh file, and where that is missing or damaged the durable one.
    fn read<T: DeserializeOwned>(&self, part: Part) -> Result<Option<T>, SnapshotError> {
        match self.read_file(&part.fresh_name()) {
            Ok(Some(fresh)) => return Ok(Some(fresh)),
            Ok(None) => {}
            Err(failure @ SnapshotError::Decode { .. }) => {
                warn!(error = %crate::join::Chain(&failure), "the power was lost while it was written");
            }
            Err(failure) => return Err(failure),
        }
        self.read_file(part.file_name())
    }

    fn read_file<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, SnapshotError> {
        let path = self.0.join(name);
        let json =
            files::read_if_present(&path).map_err(|source| self.io("read", &path, source))?;
        json.map(|json| serde_json::from_slice(&json))
            .transpose()
            .map_err(|source| SnapshotError::Decode { path, source })
    }

    fn objects<T>(&self, part: Part) -> Result<HashMap<ObjectKey, Arc<T>>, SnapshotError>
    where
        T: DeserializeOwned + Resource + Metadata<Ty = ObjectMeta>,
    {
        let objects: Vec<T> = self.read(part)?.unwrap_or_default();
        let keyed = objects.into_iter().map(|object| {
            let meta = object.metadata();
            let namespace = meta.namespace.clone().unwrap_or_default();
            let key = ObjectKey::new(namespace, meta.name.clone().unwrap_or_default());
            (key, Arc::new(object))
        });
        Ok(keyed.collect())
    }

    fn io(&self, operation: &'static str, path: &Path, source: io::Error) -> SnapshotError {
        SnapshotError::Io { operation, path: path.to_owned(), source }
    }
}

/// Remembers what a change touches.
fn note(change: Result<Change, RecvError>, dirty: &mut Vec<Part>) {
    let parts: &[Part] = match change {
        Ok(Change::Everything) | Err(RecvError::Lagged(_)) => &PARTS,
        Ok(Change::Pod(_)) => &[Part::Pods],
        Ok(Change::ConfigMap(_)) => &[Part::ConfigMaps],
        Ok(Change::Secret(_)) => &[Part::Secrets],
        Ok(Change::Service(_)) => &[Part::Services],
        Ok(Change::EndpointSlice(_)) => &[Part::EndpointSlices],
        Ok(Change::Peers | Change::Node) => &[Part::Cluster],
        // Cannot be: the state's handle, which this task holds, is the sender.
        Err(RecvError::Closed) => &[],
    };
    for part in parts {
        if !dirty.contains(part) {
            dirty.push(*part);
        }
    }
}

/// The objects are shared, so the lock is held for as long as it takes to count references.
fn encode(part: Part, state: &StateHandle) -> Result<Vec<u8>, serde_json::Error> {
    fn json<T: Serialize>(objects: Vec<Arc<T>>) -> Result<Vec<u8>, serde_json::Error> {
        let objects: Vec<&T> = objects.iter().map(Arc::as_ref).collect();
        serde_json::to_vec(&objects)
    }
    fn values<K, T>(map: &HashMap<K, Arc<T>>) -> Vec<Arc<T>> {
        map.values().cloned().collect()
    }
    match part {
        Part::Pods => json(state.read(|state| values(&state.pods))),
        Part::ConfigMaps => json(state.read(|state| values(&state.config_maps))),
        Part::Secrets => json(state.read(|state| values(&state.secrets))),
        Part::Services => json(state.read(|state| values(&state.services))),
        Part::EndpointSlices => json(state.read(|state| values(&state.endpoint_slices))),
        Part::Cluster => serde_json::to_vec(&state.read(|state| Cluster {
            node: state.node.as_deref().cloned(),
            peers: state.peers.values().map(|peer| peer.as_ref().clone()).collect(),
            pod_cidrs: state.pod_cidrs.clone(),
            service_cidrs: state.service_cidrs.clone(),
            cluster_domain: state.cluster_domain.clone(),
            masters: state.masters.clone(),
        })),
    }
}

#[cfg(test)]
mod tests;
