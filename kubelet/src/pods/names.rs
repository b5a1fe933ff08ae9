//! What sandboxes, containers and their annotations are called.
//!
//! A sandbox has the pod's uid as its id: asking twice for it gives one. A container's id is its
//! name and the number of its attempt, `web-3`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::ObjectKey;
use runtime::{ContainerId, ContainerState, SandboxId, SandboxState};

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const ATTEMPT: &str = "io.kubernetes.container.restartCount";
const IMAGE: &str = "kutter.io/image";
const IMAGE_ID: &str = "kutter.io/image-id";
const VOLUME_IMAGES: &str = "kutter.io/volume-images";
const STOP_SIGNAL: &str = "kutter.io/stop-signal";
const RESTART_DELAY: &str = "kutter.io/restart-delay-seconds";

/// Which pod: a pod that was deleted and made again under its name is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodIdentity {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
}

impl PodIdentity {
    pub(crate) fn sandbox(&self) -> SandboxId {
        SandboxId(self.uid.clone())
    }

    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        [(POD_NAME, &self.key.name), (POD_NAMESPACE, &self.key.namespace), (POD_UID, &self.uid)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into()
    }

    /// Whose sandbox this is; nothing when no kubelet made it.
    pub(crate) fn of(sandbox: &SandboxState) -> Option<Self> {
        let get = |name| sandbox.config.annotations.get(name).cloned();
        Some(Self { key: ObjectKey::new(get(POD_NAMESPACE)?, get(POD_NAME)?), uid: get(POD_UID)? })
    }

    /// Where the logs of its containers are: `<namespace>_<name>_<uid>`, as the log shippers expect.
    pub(crate) fn log_dir(&self, root: &Path) -> PathBuf {
        root.join(format!("{}_{}_{}", self.key.namespace, self.key.name, self.uid))
    }
}

/// Uids become names of folders and sandboxes.
pub(crate) fn is_safe_uid(uid: &str) -> bool {
    (1..=64).contains(&uid.len()) && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// One start of a container, as its annotations tell it to a kubelet that was not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttemptLabels {
    pub(crate) container: String,
    pub(crate) number: u32,
    /// As the pod names it.
    pub(crate) image: String,
    /// What it turned out to be.
    pub(crate) image_id: String,
    /// What the images turned out to be that it mounts, by the volumes' names.
    pub(crate) volume_images: BTreeMap<String, String>,
    /// What ends the program in order.
    pub(crate) stop_signal: i32,
    /// How long to wait after its end before the next attempt.
    pub(crate) restart_delay: Duration,
}

impl AttemptLabels {
    pub(crate) fn id(&self) -> ContainerId {
        container_id(&self.container, self.number)
    }

    pub(crate) fn annotations(&self, pod: &PodIdentity) -> BTreeMap<String, String> {
        let mut annotations = pod.annotations();
        annotations.extend([
            (CONTAINER_NAME.to_owned(), self.container.clone()),
            (ATTEMPT.to_owned(), self.number.to_string()),
            (IMAGE.to_owned(), self.image.clone()),
            (IMAGE_ID.to_owned(), self.image_id.clone()),
            (STOP_SIGNAL.to_owned(), self.stop_signal.to_string()),
            (RESTART_DELAY.to_owned(), self.restart_delay.as_secs().to_string()),
        ]);
        if !self.volume_images.is_empty() {
            let pairs = self.volume_images.iter().map(|(volume, id)| format!("{volume}={id}"));
            annotations.insert(VOLUME_IMAGES.to_owned(), pairs.collect::<Vec<_>>().join(" "));
        }
        annotations
    }

    /// Nothing when no kubelet started the container.
    pub(crate) fn of(container: &ContainerState) -> Option<Self> {
        let get = |name| container.annotations.get(name);
        Some(Self {
            container: get(CONTAINER_NAME)?.clone(),
            number: get(ATTEMPT)?.parse().ok()?,
            image: get(IMAGE)?.clone(),
            image_id: get(IMAGE_ID)?.clone(),
            volume_images: get(VOLUME_IMAGES)
                .into_iter()
                .flat_map(|pairs| pairs.split(' '))
                .filter_map(|pair| pair.split_once('='))
                .map(|(volume, id)| (volume.to_owned(), id.to_owned()))
                .collect(),
            stop_signal: get(STOP_SIGNAL)?.parse().ok()?,
            restart_delay: Duration::from_secs(get(RESTART_DELAY)?.parse().ok()?),
        })
    }
}

pub(crate) fn container_id(container: &str, attempt: u32) -> ContainerId {
    ContainerId(format!("{container}-{attempt}"))
}

/// `status.containerStatuses[].containerID`: unique in the cluster.
pub(crate) fn status_container_id(uid: &str, container: &ContainerId) -> String {
    format!("kutter://{uid}_{container}")
}

/// The log of one attempt.
pub(crate) fn log_path(pod_log_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_log_dir.join(container).join(format!("{attempt}.log"))
}
