//! What a worker lets others see of its pod: enough to find programs, logs and its network.

use std::net::IpAddr;

use proto::k8s::api::core::v1::{Pod, PodStatus};
use runtime::ContainerId;

use crate::pods::names::PodIdentity;
use crate::pods::observed::Observed;
use crate::pods::spec;

/// A pod as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodView {
    pub(crate) identity: PodIdentity,
    pub(crate) address: Option<IpAddr>,
    pub(crate) containers: Vec<ContainerView>,
    /// Nothing of it is left but its status and its logs.
    pub(crate) released: bool,
}

/// A container as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerView {
    pub(crate) name: String,
    /// The newest attempt.
    pub(crate) attempt: Option<(u32, ContainerId)>,
    pub(crate) running: bool,
    /// Why it does not run, if it waits.
    pub(crate) waiting: Option<String>,
}

impl PodView {
    pub(super) fn new(identity: &PodIdentity, pod: &Pod) -> Self {
        let containers = spec::roles(pod)
            .map(|(_, name)| ContainerView {
                name: name.to_owned(),
                attempt: None,
                running: false,
                waiting: Some("ContainerCreating".to_owned()),
            })
            .collect();
        Self { identity: identity.clone(), address: None, containers, released: false }
    }

    pub(super) fn of(identity: &PodIdentity, observed: &Observed, status: &PodStatus) -> Self {
        let waiting = |name: &str| {
            let lists = [
                &status.init_container_statuses,
                &status.container_statuses,
                &status.ephemeral_container_statuses,
            ];
            let mut all = lists.into_iter().flatten().flatten();
            all.find(|s| s.name == name)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
        };
        let containers = observed
            .containers
            .iter()
            .map(|record| ContainerView {
                name: record.name.clone(),
                attempt: record.current.as_ref().map(|a| (a.labels.number, a.id())),
                running: record.running().is_some(),
                waiting: waiting(&record.name),
            })
            .collect();
        let address = status.pod_ip.as_deref().and_then(|address| address.parse().ok());
        let released = observed.release.done().is_some();
        Self { identity: identity.clone(), address, containers, released }
    }

    pub(crate) fn container(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|container| container.name == name)
    }
}
