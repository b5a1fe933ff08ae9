//! How much of what is bounded by quotas an object takes. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s as k8s_openapi;
use proto::quantity::Quantity;

use crate::api::kinds::ResourceInfo;
use crate::api::registry::AnyObject;

/// By the names that quotas use.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// Kinds that quotas have always counted by their plurals too.
const BY_PLURAL: &[&str] =
    &["configmaps", "replicationcontrollers", "resourcequotas", "secrets", "services"];

/// The name by which objects of a kind are counted: `count/deployments.apps`.
pub(crate) fn count_name(resource: &ResourceInfo) -> String {
    match resource.group {
        "" => format!("count/{}", resource.plural),
        group => format!("count/{}.{group}", resource.plural),
    }
}

/// What an object takes.
pub(super) fn of(resource: &ResourceInfo, object: &dyn AnyObject, now: Timestamp) -> Amounts {
    let mut amounts = of_count(&count_name(resource), 1);
    if let Some(pod) = object.as_any().downcast_ref::<Pod>() {
        amounts.extend(of_pod(pod, now));
    }
    if let Some(service) = object.as_any().downcast_ref::<Service>() {
        amounts.extend(of_service(service));
    }
    amounts
}

/// What so many objects take by being there.
pub(super) fn of_count(count_name: &str, count: usize) -> Amounts {
    let count = Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX));
    let plural = count_name.strip_prefix("count/").filter(|plural| BY_PLURAL.contains(plural));
    let names = [Some(count_name), plural];
    names.into_iter().flatten().map(|name| (name.to_owned(), count)).collect()
}

/// What a pod takes beside its count, until it has ended.
pub(super) fn of_pod(pod: &Pod, now: Timestamp) -> Amounts {
    if has_ended(pod, now) {
        return Amounts::new();
    }
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(&mut running, &of_container(container));
    }
    let mut running = with_initial(running, spec, of_container);
    add_overhead(&mut running, spec.overhead.as_ref());
    running.insert("pods".to_owned(), Quantity::from_units(1));
    running
}

/// What a pod takes whose containers take so much: with its sidecars, or as much as an init container
/// beside the sidecars before it, whichever is more.
pub(in crate::api::admission) fn with_initial(
    mut running: Amounts,
    spec: &PodSpec,
    of: impl Fn(&Container) -> Amounts,
) -> Amounts {
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let amounts = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &amounts);
            raise(&mut starting, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &amounts);
            raise(&mut starting, &moment);
        }
    }
    add(&mut running, &sidecars);
    raise(&mut running, &starting);
    running
}

/// What running the pod takes counts like what its containers ask for, and where these have limits,
/// beside them.
fn add_overhead(sum: &mut Amounts, overhead: Option<&BTreeMap<String, WireQuantity>>) {
    for (name, wire) in overhead.into_iter().flatten() {
        let Ok(amount) = Quantity::try_from(wire) else { continue };
        for request in [name.clone(), format!("requests.{name}")] {
            *sum.entry(request).or_default() += amount;
        }
        if let Some(limit) = sum.get_mut(&format!("limits.{name}")) {
            *limit += amount;
        }
    }
}

fn add(sum: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(most: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let one = most.entry(name.clone()).or_insert(*amount);
        *one = (*one).max(*amount);
    }
}

/// What a container asks for and may use.
pub(super) fn of_container(container: &Container) -> Amounts {
    let resources = container.resources.clone().unwrap_or_default();
    let mut amounts = Amounts::new();
    for (prefix, list) in [("requests.", resources.requests), ("limits.", resources.limits)] {
        for (name, wire) in list.into_iter().flatten() {
            let Ok(amount) = Quantity::try_from(&wire) else { continue };
            amounts.insert(format!("{prefix}{name}"), amount);
            if prefix == "requests." {
                amounts.insert(name, amount);
            }
        }
    }
    amounts
}

/// Whether all has ended, or should have by now: a node that is lost does not say.
fn has_ended(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || ends_at(pod).is_some_and(|end| end <= now)
}

/// When a pod that is being deleted counts no more, whatever its node says.
pub(crate) fn ends_at(pod: &Pod) -> Option<Timestamp> {
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    // Twice the grace period, as in Kubernetes: the timestamp is its end already.
    pod.metadata.deletion_timestamp.as_ref()?.0.checked_add(grace).ok()
}

/// What a Service takes beside its count.
pub(super) fn of_service(service: &Service) -> Amounts {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let node_ports = match spec.type_.as_deref() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => {
            ports.iter().filter(|port| port.node_port.unwrap_or(0) != 0).count()
        }
        Some("LoadBalancer") => ports.len(),
        _ => 0,
    };
    let units = |count: usize| Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX));
    [
        ("services.nodeports".to_owned(), units(node_ports)),
        ("services.loadbalancers".to_owned(), units(balanced.into())),
    ]
    .into()
}
