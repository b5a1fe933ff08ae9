//! What each pod of this node uses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::k8s::api::core::v1::Pod;
use runtime::{ContainerRuntime, DiskUsage, disk_usage};

use super::rank::{Candidate, Use};
use crate::pods::{AttemptLabels, PodIdentity};
use crate::volumes::PodDir;

/// Where pods leave files.
pub(super) struct Places {
    pub(super) root_dir: PathBuf,
    pub(super) log_dir: PathBuf,
}

/// Which pods' files are counted: that takes a walk through all of them.
pub(super) type Counted<'a> = &'a (dyn Fn(&Pod) -> bool + Send + Sync);

/// Measures the pods that have a sandbox.
pub(super) async fn measure<'a>(
    runtime: &Arc<dyn ContainerRuntime>,
    places: &Places,
    pods: &'a [Arc<Pod>],
    counted: Counted<'_>,
) -> Vec<Candidate<'a>> {
    let found = runtime.list().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot tell what pods use");
        Vec::new()
    });
    let sandboxes: HashMap<&str, _> =
        found.iter().map(|sandbox| (sandbox.config.id.0.as_str(), sandbox)).collect();
    let mut candidates = Vec::new();
    for pod in pods {
        let Some(sandbox) = pod.metadata.uid.as_deref().and_then(|uid| sandboxes.get(uid)) else {
            continue;
        };
        let Some(identity) = PodIdentity::of(sandbox) else { continue };
        let counts_files = counted(pod);
        let logs = identity.log_dir(&places.log_dir);
        let mut used: Vec<(String, Use)> = Vec::new();
        for container in &sandbox.containers {
            let Some(labels) = AttemptLabels::of(container) else { continue };
            let mut one = Use::default();
            if container.exit.is_none()
                && let Ok(usage) = runtime.usage(&sandbox.config.id, &container.id).await
            {
                one.memory = signed(usage.memory);
                one.processes = signed(usage.processes);
            }
            if counts_files
                && let Ok(disk) = runtime.disk_usage(&sandbox.config.id, &container.id).await
            {
                add(&mut one, disk);
            }
            // Every attempt of a container is the same container.
            match used.iter_mut().find(|(name, _)| *name == labels.container) {
                Some((_, sum)) => *sum += one,
                None => {
                    if counts_files {
                        add(&mut one, count(logs.join(&labels.container)).await);
                    }
                    used.push((labels.container, one));
                }
            }
        }
        let mut all = Use::default();
        used.iter().for_each(|(_, one)| all += *one);
        let mut volumes = Vec::new();
        if counts_files {
            let dir = PodDir::new(&places.root_dir, &identity.uid);
            add(&mut all, count(dir.path().to_owned()).await);
            volumes = volume_uses(pod, &dir).await;
        }
        candidates.push(Candidate { pod, all, containers: used, volumes });
    }
    candidates
}

/// What `emptyDir` volumes with a limit hold; those in memory are bounded by their file system.
async fn volume_uses(pod: &Pod, dir: &PodDir) -> Vec<(String, i64)> {
    let mut uses = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let limited = volume.empty_dir.as_ref().is_some_and(|empty| {
            empty.size_limit.is_some() && empty.medium.as_deref().is_none_or(str::is_empty)
        });
        if limited {
            let disk = count(dir.volume(&volume.name)).await;
            uses.push((volume.name.clone(), signed(disk.bytes)));
        }
    }
    uses
}

async fn count(path: PathBuf) -> DiskUsage {
    let counted = tokio::task::spawn_blocking(move || disk_usage(Path::new(&path))).await;
    counted.ok().and_then(Result::ok).unwrap_or_default()
}

fn add(sum: &mut Use, disk: DiskUsage) {
    sum.disk += signed(disk.bytes);
    sum.inodes += signed(disk.inodes);
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
