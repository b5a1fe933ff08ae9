//! `fieldRef` and `resourceFieldRef`.

use std::net::IpAddr;

use proto::k8s::api::core::v1::{Container, ResourceFieldSelector};

use super::{ConfigError, Sources};
use crate::downward;

/// The value of a field of the pod.
pub(super) fn pod_field(path: &str, sources: &Sources<'_>) -> Result<String, ConfigError> {
    if let Some(value) = downward::metadata(path, &sources.pod.metadata) {
        return Ok(value);
    }
    let spec = sources.pod.spec.as_ref();
    let value = match path {
        "spec.nodeName" => Some(sources.node_name.to_owned()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" => sources.host_ips.first().map(IpAddr::to_string),
        "status.hostIPs" => Some(joined(sources.host_ips)),
        "status.podIP" => sources.pod_ips.first().map(IpAddr::to_string),
        "status.podIPs" => Some(joined(sources.pod_ips)),
        _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
    };
    Ok(value.unwrap_or_default())
}

/// The value of a resource of the container, or of another one of the pod when it says so.
pub(super) fn container_resource(
    selector: &ResourceFieldSelector,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<String, ConfigError> {
    let node = sources.cluster.node.as_deref();
    downward::resource(selector, Some(container), sources.pod, node).map_err(ConfigError)
}

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}
