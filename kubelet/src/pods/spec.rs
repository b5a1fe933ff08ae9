//! Finding one's way in a pod's specification.

use std::borrow::Cow;

use proto::ephemeral;
use proto::k8s::api::core::v1::{Container, EphemeralContainer, ImageVolumeSource, Pod};

use super::observed::PostStart;
use crate::network::HostPort;
use crate::static_pods::{MIRROR_ANNOTATION, SOURCE_ANNOTATION};

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It does its work before those behind it start.
    Init,
    /// It is started among the init containers and stays: what Kubernetes calls a sidecar.
    Sidecar,
    /// The pod is there for it.
    Regular,
    /// It was added to look into the pod: it starts once, and the pod's fate does not hang on it.
    Ephemeral,
}

impl Role {
    /// The field of the specification that names such containers.
    pub(crate) fn list(self) -> &'static str {
        match self {
            Self::Init | Self::Sidecar => "initContainers",
            Self::Regular => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// Whether the pod comes from the node itself, so that no controller would make it anew.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let annotation = |name: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(name));
    annotation(SOURCE_ANNOTATION).is_some_and(|source| source != "api")
        || annotation(MIRROR_ANNOTATION).is_some()
}

/// The specification of a container by its name, an ephemeral one included.
pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let own = own(pod).map(|(_, container)| container);
    let own = own.into_iter().find(|container| container.name == name).map(Cow::Borrowed);
    own.or_else(|| Some(Cow::Owned(ephemeral::split(ephemeral(pod, name)?.clone()).0)))
}

/// The containers that the pod is made of, in the order of their start.
pub(crate) fn own(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> + Clone {
    let spec = pod.spec.iter();
    let initial = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
    let initial = initial.map(|container| match container.restart_policy.as_deref() {
        Some("Always") => (Role::Sidecar, container),
        _ => (Role::Init, container),
    });
    initial.chain(spec.flat_map(|spec| &spec.containers).map(|one| (Role::Regular, one)))
}

/// The most that containers have of something at a time: all that stay together, or an init container beside the
/// sidecars before it.
pub(crate) fn most_together(pod: &Pod, has: impl Fn(&Container) -> i64) -> i64 {
    let (mut staying, mut starting) = (0, 0);
    for (role, container) in own(pod) {
        match role {
            Role::Init => starting = i64::max(starting, staying + has(container)),
            Role::Sidecar | Role::Regular => staying += has(container),
            Role::Ephemeral => {}
        }
    }
    staying.max(starting)
}

/// The ports of the node that lead to the pod, or are its own.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    // Those of init containers are of no use: they come and go.
    let containers = own(pod).filter(|(role, _)| *role != Role::Init);
    let containers = containers.map(|(_, container)| container);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = |number: i32| u16::try_from(number).ok().filter(|port| *port > 0);
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                // An unspecified address means all of its family.
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: number(port.host_port?)?,
                container_port: number(port.container_port)?,
            })
        })
        .collect()
}

/// Names of those that were added to look into the pod.
pub(crate) fn ephemeral_names(pod: &Pod) -> impl Iterator<Item = &str> {
    pod.spec.iter().flat_map(ephemeral::names)
}

/// All containers by their names.
pub(crate) fn roles(pod: &Pod) -> impl Iterator<Item = (Role, &str)> {
    let own = own(pod).map(|(role, container)| (role, container.name.as_str()));
    own.chain(ephemeral_names(pod).map(|name| (Role::Ephemeral, name)))
}

/// The volumes of a container that are images, by name.
pub(crate) fn mounted_images<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> impl Iterator<Item = (&'a str, &'a ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let is_mounted =
        |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    volumes
        .filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
        .filter(move |(name, _)| is_mounted(name))
}

/// Whether the container has a hook that follows its start.
pub(crate) fn post_start(pod: &Pod, name: &str) -> PostStart {
    let spec = container(pod, name);
    let lifecycle = spec.as_ref().and_then(|spec| spec.lifecycle.as_ref());
    match lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some()) {
        true => PostStart::Due,
        false => PostStart::Done,
    }
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
