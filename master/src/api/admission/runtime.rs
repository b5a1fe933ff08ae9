//! How a new pod is run: its RuntimeClass says what that costs and where it is possible. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use proto::{RUNTIME_HANDLER, k8s as k8s_openapi};

type Amounts = BTreeMap<String, WireQuantity>;

/// The class that a pod names.
pub(super) fn name(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
    name.filter(|name| !name.is_empty())
}

/// Gives the pod what its class says; nothing is `class` when there is none of the name, or the pod names
/// none. The words of the refusals are Kubernetes', but for a handler: there a node finds out.
pub(super) fn complete(pod: &mut Pod, class: Option<&RuntimeClass>) -> Result<(), String> {
    let named = name(pod).map(str::to_owned);
    let spec = pod.spec.get_or_insert_default();
    let class = match (named, class) {
        (Some(name), None) => {
            return Err(format!("pod rejected: RuntimeClass \"{name}\" not found"));
        }
        (Some(name), Some(class)) if class.handler != RUNTIME_HANDLER => {
            return Err(format!(
                "pod rejected: RuntimeClass \"{name}\": no runtime for \"{}\" is configured: nodes \
                 have \"{RUNTIME_HANDLER}\" only",
                class.handler
            ));
        }
        (Some(_), Some(class)) => Some(class),
        (None, _) => None,
    };
    set_overhead(spec, class)?;
    let scheduling = class.and_then(|class| class.scheduling.as_ref());
    let selector = scheduling.and_then(|scheduling| scheduling.node_selector.as_ref());
    for (key, value) in selector.into_iter().flatten() {
        let own = spec.node_selector.get_or_insert_default();
        let said = own.entry(key.clone()).or_insert_with(|| value.clone());
        if said != value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                 pod.spec.nodeSelector[{key}] = {said}"
            ));
        }
    }
    let tolerations = scheduling.and_then(|scheduling| scheduling.tolerations.as_ref());
    for toleration in tolerations.into_iter().flatten() {
        let own = spec.tolerations.get_or_insert_default();
        if !own.contains(toleration) {
            own.push(toleration.clone());
        }
    }
    Ok(())
}

fn set_overhead(spec: &mut PodSpec, class: Option<&RuntimeClass>) -> Result<(), String> {
    let said = spec.overhead.take().filter(|said| !said.is_empty());
    match (said, class.and_then(|class| class.overhead.as_ref())) {
        (Some(_), None) => {
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass \
                                defined Overhead"
                .to_owned())
        }
        (Some(said), Some(overhead)) if !same(&said, overhead.pod_fixed.as_ref()) => {
            Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
                .to_owned())
        }
        (_, overhead) => {
            spec.overhead = overhead.and_then(|overhead| overhead.pod_fixed.clone());
            Ok(())
        }
    }
}

/// Whether these are the same amounts, however they are written. What cannot be read is told by whoever
/// checks the pod.
fn same(one: &Amounts, other: Option<&Amounts>) -> bool {
    let read = |amounts: &Amounts| -> BTreeMap<String, Result<Quantity, String>> {
        let amount = |wire: &WireQuantity| Quantity::try_from(wire).map_err(|_| wire.0.clone());
        amounts.iter().map(|(name, wire)| (name.clone(), amount(wire))).collect()
    };
    read(one) == other.map(read).unwrap_or_default()
}
