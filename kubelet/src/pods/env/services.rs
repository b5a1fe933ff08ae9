//! The variables by which containers find services, as Docker links once had them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::k8s::api::core::v1::{Pod, Service};

use crate::state::ClusterState;

/// Variables of all services in the pod's namespace, unless the pod does not want them, and of
/// `default/kubernetes`, always.
pub(super) fn variables(cluster: &ClusterState, pod: &Pod) -> BTreeMap<String, String> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut variables = BTreeMap::new();
    // The namespace's own services come last, and so win over `default/kubernetes`.
    for (key, service) in &cluster.services {
        if key.namespace == "default" && key.name == "kubernetes" {
            add(&key.name, service, &mut variables);
        }
    }
    for (key, service) in &cluster.services {
        if links && key.namespace == namespace {
            add(&key.name, service, &mut variables);
        }
    }
    variables
}

fn add(name: &str, service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ports = spec.ports.as_deref().unwrap_or_default();
    // A headless service has no address of its own, an external name none at all.
    let (Some(address), Some(first)) = (address, ports.first()) else { return };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let host = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    variables.insert(format!("{prefix}_SERVICE_HOST"), address.to_string());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.insert(
                format!("{prefix}_SERVICE_PORT_{}", upper(port_name)),
                port.port.to_string(),
            );
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        variables.insert(format!("{link}_PORT"), port.port.to_string());
        variables.insert(format!("{link}_ADDR"), address.to_string());
        variables.insert(link, url);
    }
}
