//! The older form of the same: one `Endpoints` object per Service. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::k8s as k8s_openapi;

use super::addresses::{self, Port};
use crate::controllers::pods::PodView;

/// Addresses in one object at the most, as in Kubernetes; an object must stay small enough to send.
const MAX_ADDRESSES: usize = 1000;
/// Says that there are more.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Marks objects made here: only they go with their Service.
pub(crate) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub(crate) const MANAGER: &str = "endpoint-controller";
/// Marks what belongs to a Service without an address of its own.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// What the object of a Service has to say.
pub(crate) fn endpoints(service: &Service, pods: &[Arc<PodView>]) -> Endpoints {
    let spec = service.spec.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if addresses::is_headless(&spec) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let primary = addresses::families(&spec)[0];
    let public = addresses::publishes_not_ready(&spec);
    let mut groups = BTreeMap::<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)>::new();
    let mut count = 0;
    // Those in use before those that are not, should there be too many.
    let mut pods: Vec<&PodView> = pods.iter().map(|pod| &**pod).collect();
    pods.sort_by_key(|pod| (!(pod.ready || public), &pod.key));
    for pod in pods {
        let here = !pod.is_finished() && (public || !pod.deleting);
        let ports = addresses::ports(&spec, pod);
        let leads_nowhere = ports.is_empty() && spec.ports.iter().flatten().next().is_some();
        let ip = pod.ips.iter().find(|ip| addresses::may_serve(ip, primary));
        let Some(ip) = ip.filter(|_| here && !leads_nowhere) else { continue };
        count += 1;
        if count > MAX_ADDRESSES {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.clone(),
            hostname: addresses::hostname(service, pod),
            node_name: (!pod.node.is_empty()).then(|| pod.node.clone()),
            target_ref: Some(addresses::target_ref(pod)),
        };
        let (ready, waiting) = groups.entry(ports).or_default();
        if pod.ready || public { ready } else { waiting }.push(address);
    }
    let annotations = (count > MAX_ADDRESSES)
        .then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
    let subsets: Vec<EndpointSubset> = groups.into_iter().map(subset).collect();
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations,
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

/// Makes an existing object say what it should; tells whether it did not.
pub(crate) fn update(stored: &mut Endpoints, desired: &Endpoints) -> bool {
    let over = |endpoints: &Endpoints| {
        let annotations = endpoints.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(OVER_CAPACITY).cloned())
    };
    if stored.subsets.as_deref().unwrap_or_default()
        == desired.subsets.as_deref().unwrap_or_default()
        && stored.metadata.labels == desired.metadata.labels
        && over(stored) == over(desired)
    {
        return false;
    }
    stored.subsets.clone_from(&desired.subsets);
    stored.metadata.labels.clone_from(&desired.metadata.labels);
    let annotations = stored.metadata.annotations.get_or_insert_default();
    match over(desired) {
        Some(value) => annotations.insert(OVER_CAPACITY.to_owned(), value),
        None => annotations.remove(OVER_CAPACITY),
    };
    true
}

type ByPorts = (Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>));

fn subset((ports, (ready, waiting)): ByPorts) -> EndpointSubset {
    let some = |addresses: Vec<EndpointAddress>| (!addresses.is_empty()).then_some(addresses);
    let ports: Vec<EndpointPort> = ports
        .into_iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: (!port.name.is_empty()).then_some(port.name),
                port: port.port?,
                protocol: Some(port.protocol),
                app_protocol: port.app_protocol,
            })
        })
        .collect();
    EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(waiting),
        ports: (!ports.is_empty()).then_some(ports),
    }
}
