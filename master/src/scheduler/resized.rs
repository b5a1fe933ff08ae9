//! What a pod counts for whose resources are being changed.
//!
//! Until its node has given it more, or taken some away, it counts for whichever is the most: what it
//! asks for, what it was promised, what it has. What its node can never give does not count.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s as k8s_openapi;
use proto::quantity::Quantity;

type Wire = BTreeMap<String, WireQuantity>;

/// The pod's specification with the requests that count.
pub(crate) fn counted(pod: &Pod) -> Cow<'_, PodSpec> {
    let Some(spec) = &pod.spec else { return Cow::Owned(PodSpec::default()) };
    let infeasible = is_infeasible(pod);
    let statuses = || {
        let lists = pod.status.iter().map(|s| [&s.init_container_statuses, &s.container_statuses]);
        lists.flatten().flatten().flatten()
    };
    let mut counted = Cow::Borrowed(spec);
    let initial = spec.init_containers.iter().flatten().enumerate().map(|one| (true, one));
    let regular = spec.containers.iter().enumerate().map(|one| (false, one));
    for (initial, (index, container)) in initial.chain(regular) {
        let Some(status) = statuses().find(|status| status.name == container.name) else {
            continue;
        };
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let held = held(status);
        // Nearly always: nothing is being changed.
        let Some(held) = held.filter(|held| Some(held) != asked) else { continue };
        let most = match asked.filter(|_| !infeasible) {
            Some(asked) => larger(held, asked),
            None => held,
        };
        let counted = counted.to_mut();
        let containers = match initial {
            true => counted.init_containers.get_or_insert_default(),
            false => &mut counted.containers,
        };
        containers[index].resources.get_or_insert_default().requests = Some(most);
    }
    counted
}

/// What a container was promised or has, whichever is more.
fn held(status: &ContainerStatus) -> Option<Wire> {
    let promised = status.allocated_resources.clone()?;
    let has = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    Some(match has {
        Some(has) if *has != promised => larger(promised, has),
        _ => promised,
    })
}

fn larger(mut one: Wire, other: &Wire) -> Wire {
    for (name, amount) in other {
        let parsed = |wire: Option<&WireQuantity>| Quantity::try_from(wire?).ok();
        if parsed(one.get(name)) < parsed(Some(amount)) {
            one.insert(name.clone(), amount.clone());
        }
    }
    one
}

fn is_infeasible(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|condition| {
        condition.type_ == "PodResizePending"
            && condition.status == "True"
            && condition.reason.as_deref() == Some("Infeasible")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_most_counts_but_not_what_can_never_be() {
        let cpu = |amount: &str| json!({"cpu": amount});
        let pod = |asked: Value, status: Value, reason: &str| -> Pod {
            serde_json::from_value(json!({
                "spec": {"containers": [{"name": "main", "resources": {"requests": asked}}]},
                "status": {
                    "containerStatuses": [status],
                    "conditions": [
                        {"type": "PodResizePending", "status": "True", "reason": reason},
                    ],
                },
            }))
            .unwrap()
        };
        let status = |promised: Value, has: Value| {
            json!({
                "name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": promised, "resources": {"requests": has},
            })
        };
        let silent = json!({
            "name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        });
        for (asked, status, reason, expected) in [
            (cpu("1"), silent, "", cpu("1")),
            (cpu("1"), status(cpu("1"), cpu("1")), "", cpu("1")),
            (cpu("2"), status(cpu("1"), cpu("1")), "Deferred", cpu("2")),
            (cpu("90"), status(cpu("1"), cpu("1")), "Infeasible", cpu("1")),
            (cpu("1"), status(cpu("1"), cpu("2")), "", cpu("2")),
            (cpu("500m"), status(cpu("1"), cpu("750m")), "", cpu("1")),
        ] {
            let pod = pod(asked.clone(), status.clone(), reason);
            let counted = counted(&pod);
            let requests = &counted.containers[0].resources.as_ref().unwrap().requests;
            assert_eq!(serde_json::to_value(requests).unwrap(), expected, "{asked} {status}");
        }
    }
}
