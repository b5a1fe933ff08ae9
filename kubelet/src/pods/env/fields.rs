//! `fieldRef` and `resourceFieldRef`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::k8s::api::core::v1::{Container, ResourceFieldSelector};
use proto::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;

use super::{ConfigError, Sources};

/// The value of a field of the pod.
pub(super) fn pod_field(path: &str, sources: &Sources<'_>) -> Result<String, ConfigError> {
    let metadata = &sources.pod.metadata;
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(entry(metadata.labels.as_ref(), key));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(entry(metadata.annotations.as_ref(), key));
    }
    let spec = sources.pod.spec.as_ref();
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
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
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        None => container,
        Some(name) => sources
            .pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .find(|container| container.name == name)
            .ok_or_else(|| ConfigError(format!("container {name} not found")))?,
    };
    let resources = container.resources.as_ref();
    let (amounts, resource) = match selector.resource.split_once('.') {
        Some(("limits", resource)) => (resources.and_then(|r| r.limits.as_ref()), resource),
        Some(("requests", resource)) => (resources.and_then(|r| r.requests.as_ref()), resource),
        _ => {
            return Err(ConfigError(format!(
                "unsupported container resource : {}",
                selector.resource
            )));
        }
    };
    let stated = amounts.and_then(|amounts| amounts.get(resource));
    // Without a limit a container may use what the node has to give.
    let amount = match stated {
        None if selector.resource.starts_with("limits.") => allocatable(resource, sources),
        stated => stated,
    };
    let parse = |quantity: &WireQuantity| {
        Quantity::parse(&quantity.0).map_err(|error| ConfigError(error.to_string()))
    };
    let amount = amount.map(&parse).transpose()?.unwrap_or(Quantity::ZERO).nano_value();
    let divisor = match &selector.divisor {
        Some(divisor) => parse(divisor)?.nano_value(),
        None => 0,
    };
    let divisor = if divisor > 0 { divisor } else { Quantity::from_units(1).nano_value() };
    // Rounded up: half a core asked for in cores is one.
    Ok(((amount + divisor - 1) / divisor).to_string())
}

fn allocatable<'a>(resource: &str, sources: &'a Sources<'_>) -> Option<&'a WireQuantity> {
    let status = sources.cluster.node.as_ref()?.status.as_ref()?;
    status.allocatable.as_ref()?.get(resource)
}

/// `key` out of `path['key']`.
fn subscript<'a>(path: &'a str, field: &str) -> Option<&'a str> {
    path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")
}

fn entry(map: Option<&BTreeMap<String, String>>, key: &str) -> String {
    map.and_then(|map| map.get(key)).cloned().unwrap_or_default()
}

fn joined(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}
