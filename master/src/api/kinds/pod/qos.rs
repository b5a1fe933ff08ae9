//! The class of a pod: who gives way when a node runs out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s as k8s_openapi;
use proto::quantity::Quantity;

/// `Guaranteed` when every container's requests and limits of CPU and memory are set and equal,
/// `BestEffort` when nothing is set, else `Burstable`.
pub(crate) fn class(spec: &PodSpec) -> &'static str {
    let mut anything = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.clone().unwrap_or_default();
        for name in ["cpu", "memory"] {
            let request = amount(resources.requests.as_ref(), name);
            let limit = amount(resources.limits.as_ref(), name);
            anything |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (anything, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Zero says nothing.
fn amount(resources: Option<&BTreeMap<String, WireQuantity>>, name: &str) -> Option<Quantity> {
    let amount = Quantity::try_from(resources?.get(name)?).ok()?;
    (!amount.is_zero()).then_some(amount)
}
