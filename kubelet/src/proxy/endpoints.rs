//! Which endpoints a port of a Service has.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use proto::k8s::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use super::ruleset::{Protocol, Target};

/// The label that says which Service a slice is of.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The slices of the cluster, by the namespace and name of their Service.
pub(crate) struct SlicesByService<'a> {
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

impl<'a> SlicesByService<'a> {
    pub(crate) fn of(slices: &'a [Arc<EndpointSlice>]) -> Self {
        let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
        for slice in slices {
            let Some(service) =
                slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME))
            else {
                continue;
            };
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            by_service.entry((namespace, service.as_str())).or_default().push(slice.as_ref());
        }
        Self { slices: by_service }
    }

    /// The endpoints of a Service's port that are on this node, or all of them.
    pub(crate) fn endpoints(&self, port: &PortOf<'_>, only_on: Option<&str>) -> BTreeSet<Target> {
        let mut ready = BTreeSet::new();
        let mut leaving = BTreeSet::new();
        for slice in self.slices.get(&(port.namespace, port.service)).into_iter().flatten() {
            if slice.address_type != "IPv4" {
                continue;
            }
            let Some(number) = port_number(slice, port) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                if only_on.is_some_and(|node| endpoint.node_name.as_deref() != Some(node)) {
                    continue;
                }
                let pool = match standing(endpoint.conditions.as_ref()) {
                    Standing::Ready => &mut ready,
                    Standing::Leaving => &mut leaving,
                    Standing::Out => continue,
                };
                // One endpoint has one address; Kubernetes keeps further ones without meaning.
                pool.extend(address(endpoint).map(|address| Target { address, port: number }));
            }
        }
        // With none ready, those that are being terminated and still serve are better than none.
        if ready.is_empty() { leaving } else { ready }
    }
}

/// Names a port of a Service.
pub(crate) struct PortOf<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) service: &'a str,
    /// Empty for the only port of a Service.
    pub(crate) name: &'a str,
    pub(crate) protocol: Protocol,
}

fn port_number(slice: &EndpointSlice, port: &PortOf<'_>) -> Option<u16> {
    let ports = slice.ports.iter().flatten();
    ports
        .filter(|candidate| candidate.name.as_deref().unwrap_or_default() == port.name)
        .filter(|candidate| Protocol::parse(candidate.protocol.as_deref()) == Some(port.protocol))
        .find_map(|candidate| u16::try_from(candidate.port?).ok())
}

fn address(endpoint: &Endpoint) -> Option<Ipv4Addr> {
    endpoint.addresses.first()?.parse().ok()
}

enum Standing {
    Ready,
    /// Being terminated, and still serving.
    Leaving,
    Out,
}

/// What is not said counts as Kubernetes documents it: ready, serving as far as ready, staying.
fn standing(conditions: Option<&EndpointConditions>) -> Standing {
    let Some(conditions) = conditions else { return Standing::Ready };
    let ready = conditions.ready.unwrap_or(true);
    if ready {
        Standing::Ready
    } else if conditions.serving.unwrap_or(ready) && conditions.terminating.unwrap_or(false) {
        Standing::Leaving
    } else {
        Standing::Out
    }
}

/// Puts endpoints in an order in which as few as possible change their number: those that stay keep
/// theirs, new ones take the numbers of those that went, and only then the last fill the gaps.
pub(crate) fn arrange(before: &[Target], mut wanted: BTreeSet<Target>) -> Vec<Target> {
    let count = wanted.len();
    let mut places: Vec<Option<Target>> =
        before.iter().map(|target| wanted.remove(target).then_some(*target)).collect();
    // Those beyond the new end move to a gap before it, like new ones.
    let beyond: Vec<Target> = places.iter().skip(count).copied().flatten().collect();
    places.resize(count, None);
    let mut arriving = beyond.into_iter().chain(wanted);
    places.into_iter().filter_map(|place| place.or_else(|| arriving.next())).collect()
}
