//! Which images go when the disk fills. Pure.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use proto::k8s::api::core::v1::Pod;
use runtime::image::{StoredImage, normalise_reference};

/// When images are removed, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageGc {
    /// From this percentage of the disk on, images go; 100: never.
    pub high_percent: u8,
    /// Down to this percentage.
    pub low_percent: u8,
    /// Images stay so long after they came, used or not.
    pub minimum_age: Duration,
}

impl ImageGc {
    /// How many bytes images have to give back of a disk that is so full; nothing while it is not.
    pub(super) fn excess(&self, available: i64, capacity: i64) -> Option<i64> {
        if capacity <= 0 || self.high_percent >= 100 {
            return None;
        }
        let used_percent = 100 - available.min(capacity) * 100 / capacity;
        let free_wanted = capacity * (100 - i64::from(self.low_percent)) / 100;
        (used_percent >= i64::from(self.high_percent)).then(|| free_wanted - available)
    }
}

/// What is in use: images of containers that exist, those that they mount included, and those that pods
/// name.
pub(super) struct InUse {
    pub(super) ids: HashSet<String>,
    /// In their full form.
    names: HashSet<String>,
}

impl InUse {
    pub(super) fn new<'a>(ids: HashSet<String>, pods: impl Iterator<Item = &'a Pod>) -> Self {
        let names = pods.filter(|pod| !is_over(pod)).flat_map(images_of).collect();
        Self { ids, names }
    }

    pub(super) fn has(&self, stored: &StoredImage) -> bool {
        let image = &stored.image;
        // Containers tell what they are made from by the digest that it was pulled by, if it was.
        std::iter::once(&image.id).chain(&image.repo_digests).any(|id| self.ids.contains(id))
            || image.tags.iter().chain(&image.repo_digests).any(|name| self.names.contains(name))
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn images_of(pod: &Pod) -> impl Iterator<Item = String> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| {
        let volumes = spec.volumes.iter().flatten();
        let volumes = volumes.filter_map(|volume| Some(&volume.image.as_ref()?.reference));
        let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|one| &one.image);
        regular.map(|one| &one.image).chain(ephemeral).chain(volumes)
    })
    .filter_map(|image| normalise_reference(image.as_deref()?).ok())
}

/// The images that may go, the one that was not used for longest first.
pub(super) fn removable<'a>(
    images: &'a [StoredImage],
    in_use: &InUse,
    minimum_age: Duration,
    now: SystemTime,
) -> Vec<&'a StoredImage> {
    let is_old = |stored: &StoredImage| {
        now.duration_since(stored.added_at).is_ok_and(|age| age >= minimum_age)
    };
    let mut removable: Vec<&StoredImage> =
        images.iter().filter(|stored| !in_use.has(stored) && is_old(stored)).collect();
    removable.sort_by_key(|stored| (stored.last_used_at, stored.added_at));
    removable
}
