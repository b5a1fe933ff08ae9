//! Who has to go, and what that pod is told. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proto::k8s::api::core::v1::Pod;
use proto::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::priority::{self, SYSTEM_CRITICAL};
use proto::quantity::Quantity;

use super::decide::Passed;
use super::threshold::Resource;
use crate::pods;

/// What a pod or a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) memory: i64,
    pub(super) disk: i64,
    pub(super) inodes: i64,
    pub(super) processes: i64,
}

impl Use {
    pub(super) fn of(&self, resource: Resource) -> i64 {
        match resource {
            Resource::Memory => self.memory,
            Resource::EphemeralStorage => self.disk,
            Resource::Inodes => self.inodes,
            Resource::Pids => self.processes,
        }
    }
}

impl std::ops::AddAssign for Use {
    fn add_assign(&mut self, other: Self) {
        self.memory += other.memory;
        self.disk += other.disk;
        self.inodes += other.inodes;
        self.processes += other.processes;
    }
}

/// A pod that runs here, with what it uses.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) pod: &'a Pod,
    pub(super) all: Use,
    /// By container.
    pub(super) containers: Vec<(String, Use)>,
    /// By volume on disk.
    pub(super) volumes: Vec<(String, i64)>,
}

/// Whether the node keeps a pod whatever happens: static pods, and those of the highest priority.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    priority::of(pod) >= SYSTEM_CRITICAL || pods::is_static(pod)
}

/// What a pod asks for of a resource; nobody asks for inodes or processes.
fn request(pod: &Pod, resource: Resource) -> i64 {
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref());
    let asked = pods::most_together(pod, |container| container_request(container, resource));
    asked + amount(overhead, resource)
}

fn amount(list: Option<&BTreeMap<String, WireQuantity>>, resource: Resource) -> i64 {
    let amount = list.and_then(|list| list.get(resource.name()));
    amount.and_then(|amount| Quantity::try_from(amount).ok()).map_or(0, |amount| amount.value())
}

fn container_request(container: &proto::k8s::api::core::v1::Container, resource: Resource) -> i64 {
    let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    amount(list, resource)
}

/// Orders pods as Kubernetes does: first those that use more than they asked for, then by priority,
/// then by how much more.
pub(super) fn rank(candidates: &mut [Candidate<'_>], resource: Resource) {
    candidates.sort_by_key(|candidate| {
        let used = candidate.all.of(resource);
        let above = used - request(candidate.pod, resource);
        let priority = priority::of(candidate.pod);
        // Nobody asks for processes, so nobody keeps to what was asked for.
        let within = resource != Resource::Pids && above <= 0;
        (within, priority, Reverse(above))
    });
}

/// Why the pod has to go, in Kubernetes' words.
pub(super) fn message(candidate: &Candidate<'_>, passed: &Passed) -> String {
    let resource = passed.resource();
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        resource.name(),
        resource.format(passed.bound()),
        resource.format(passed.level.available),
    );
    if !matches!(resource, Resource::Memory | Resource::EphemeralStorage) {
        return message;
    }
    let spec = candidate.pod.spec.as_ref();
    for (name, used) in &candidate.containers {
        let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let all = spec.into_iter().flat_map(|spec| &spec.containers).chain(init);
        let Some(container) = all.into_iter().find(|container| container.name == *name) else {
            continue;
        };
        let (used, asked) = (used.of(resource), container_request(container, resource));
        if used > asked {
            // Nothing is written "0" whatever the unit.
            let asked = if asked == 0 { "0".to_owned() } else { resource.format(asked) };
            message.push_str(&format!(
                "Container {name} was using {}, request is {asked}, has larger consumption of {}. ",
                resource.format(used),
                resource.name(),
            ));
        }
    }
    message
}

/// What a pod fills beyond its own limits of local storage; nothing when it keeps to them.
pub(super) fn over_limit(candidate: &Candidate<'_>) -> Option<String> {
    let spec = candidate.pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit.as_ref())
        else {
            continue;
        };
        let used = candidate.volumes.iter().find(|(name, _)| *name == volume.name);
        let Ok(bound) = Quantity::try_from(limit) else { continue };
        if used.is_some_and(|(_, used)| bound.value() > 0 && *used > bound.value()) {
            let name = &volume.name;
            return Some(format!(
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{bound}\". "
            ));
        }
    }
    let limit = |container: &proto::k8s::api::core::v1::Container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        Quantity::try_from(limits.get(Resource::EphemeralStorage.name())?).ok()
    };
    let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
    if all().any(|container| limit(container).is_some()) {
        let limit = |container: &_| limit(container).map_or(0, |limit| limit.value());
        let overhead = amount(spec.overhead.as_ref(), Resource::EphemeralStorage);
        let total = pods::most_together(candidate.pod, limit) + overhead;
        if candidate.all.disk > total {
            let total = Quantity::from_bytes(total);
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {total}. "
            ));
        }
    }
    all().find_map(|container| {
        let bound = limit(container).filter(|bound| !bound.is_zero())?;
        let (name, used) = candidate.containers.iter().find(|(name, _)| *name == container.name)?;
        (used.disk > bound.value()).then(|| {
            format!("Container {name} exceeded its local ephemeral storage limit \"{bound}\". ")
        })
    })
}

/// Whether a pod has a limit of local storage, so that somebody has to measure what it fills.
pub(super) fn has_storage_limit(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let limited = |container: &proto::k8s::api::core::v1::Container| {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key(Resource::EphemeralStorage.name()))
    };
    spec.init_containers.iter().flatten().chain(&spec.containers).any(limited)
        || spec.volumes.iter().flatten().any(|volume| {
            volume.empty_dir.as_ref().is_some_and(|empty| {
                empty.size_limit.is_some() && empty.medium.as_deref().is_none_or(str::is_empty)
            })
        })
}
