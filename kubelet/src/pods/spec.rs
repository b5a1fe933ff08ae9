//! Finding one's way in a pod's specification.

use std::borrow::Cow;

use proto::ephemeral;
use proto::k8s::api::core::v1::{Container, EphemeralContainer, Pod};

/// The specification of a container by its name, an ephemeral one included.
pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let regular = regular(pod).find(|container| container.name == name).map(Cow::Borrowed);
    regular.or_else(|| Some(Cow::Owned(ephemeral::split(ephemeral(pod, name)?.clone()).0)))
}

/// The containers that the pod is made of.
pub(crate) fn regular(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

/// Names of those that were added to look into the pod.
pub(crate) fn ephemeral_names(pod: &Pod) -> impl Iterator<Item = &str> {
    pod.spec.iter().flat_map(ephemeral::names)
}

/// The container whose processes an ephemeral one sees, if it names one.
pub(crate) fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let target = ephemeral(pod, name)?.target_container_name.as_deref();
    target.filter(|target| !target.is_empty())
}

fn ephemeral<'a>(pod: &'a Pod, name: &str) -> Option<&'a EphemeralContainer> {
    let mut all = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    all.find(|container| container.name == name)
}
