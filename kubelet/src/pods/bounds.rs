//! Bounds of a pod as a whole, and the weight of its kind among the node's pods. Pure, but for
//! [`keep_weights`].
//!
//! ```text
//! <cgroup-root>/pods        what the node has for pods     (--enforce-node-allocatable)
//!   guaranteed  burstable   weight: what their pods ask for together
//!   besteffort              the least weight
//!     pod<uid>              what its containers have together, its overhead, and --pod-max-pids
//!       <container>         its own limits
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::k8s::api::core::v1::{Pod, ResourceRequirements};
use proto::quantity::Quantity;
use runtime::{ContainerRuntime, Resources};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::allocation::Amounts;
use super::resources::{MIN_SHARES, PERIOD_US, QosClass, quota, shares};
use super::spec::{self, Role};

/// The group of all pods.
pub(crate) fn all_pods(cgroup_root: &str) -> String {
    format!("{}/pods", cgroup_root.trim_end_matches('/'))
}

/// The group of all pods of a class.
pub(crate) fn all_of(cgroup_root: &str, class: QosClass) -> String {
    format!("{}/{}", all_pods(cgroup_root), class.cgroup())
}

/// The bounds of a pod that has what it says.
pub(crate) fn of_pod(pod: &Pod, max_pids: i64) -> Resources {
    let default = ResourceRequirements::default();
    let all = spec::own(pod).map(|(role, one)| (role, one.resources.as_ref().unwrap_or(&default)));
    of_containers(all, Amounts::overhead(pod), max_pids)
}

/// The bounds of a pod whose containers have so much, and which takes so much beside them.
pub(crate) fn of_containers<'a>(
    all: impl Iterator<Item = (Role, &'a ResourceRequirements)> + Clone,
    overhead: Amounts,
    max_pids: i64,
) -> Resources {
    let asked = Amounts::of(all.clone()).plus(overhead);
    let limit = |name: &str| {
        let limits = all.clone().map(|(role, one)| (role, limit_of(one, name)));
        together(limits.filter(|(role, _)| *role != Role::Ephemeral))
    };
    let quota = limit("cpu").map(|cpu| quota(cpu.milli_value() + overhead.cpu_milli));
    Resources {
        cpu_shares: Some(shares(asked.cpu_milli)),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| PERIOD_US),
        memory_limit_bytes: limit("memory").map(|memory| memory.value() + overhead.memory),
        pids_limit: Some(max_pids),
        oom_score_adj: None,
        huge_page_limits: BTreeMap::new(),
    }
}

/// Room for the one and for the other. What one of them does not bound is not bounded.
pub(crate) fn either(one: &Resources, other: &Resources) -> Resources {
    fn most<T: Ord + Copy>(one: Option<T>, other: Option<T>) -> Option<T> {
        one.zip(other).map(|(one, other)| one.max(other))
    }
    let quota = most(one.cpu_quota_us, other.cpu_quota_us);
    Resources {
        cpu_shares: one.cpu_shares.max(other.cpu_shares),
        cpu_quota_us: quota,
        cpu_period_us: quota.and(one.cpu_period_us),
        memory_limit_bytes: most(one.memory_limit_bytes, other.memory_limit_bytes),
        ..one.clone()
    }
}

fn limit_of(resources: &ResourceRequirements, name: &str) -> Option<Quantity> {
    let limit = Quantity::try_from(resources.limits.as_ref()?.get(name)?).ok()?;
    (!limit.is_zero()).then_some(limit)
}

/// What those that stay have together, or an init container beside the sidecars before it, whichever is
/// more. One without a bound leaves all without.
fn together(all: impl Iterator<Item = (Role, Option<Quantity>)>) -> Option<Quantity> {
    let (mut staying, mut starting) = (Quantity::ZERO, Quantity::ZERO);
    for (role, limit) in all {
        let with = staying + limit?;
        match role {
            Role::Init => starting = starting.max(with),
            Role::Sidecar | Role::Regular | Role::Ephemeral => staying = with,
        }
    }
    Some(staying.max(starting)).filter(|sum| !sum.is_zero())
}

/// How the processors are shared among the classes, given what their pods ask for in thousandths. Who asks
/// for nothing gets what the others leave.
fn weight(class: QosClass, asked_milli: i64) -> Resources {
    let shares = match class {
        QosClass::BestEffort => MIN_SHARES,
        QosClass::Guaranteed | QosClass::Burstable => shares(asked_milli),
    };
    Resources { cpu_shares: Some(shares), ..Resources::default() }
}

/// What the pods of each class ask for of processors, in thousandths.
pub(crate) type Asked = BTreeMap<QosClass, i64>;

/// Has the kernel know what the pods of each class ask for, until shutdown.
pub(crate) async fn keep_weights(
    cgroup_root: String,
    mut asked: watch::Receiver<Asked>,
    runtime: Arc<dyn ContainerRuntime>,
    shutdown: CancellationToken,
) {
    let mut known: BTreeMap<QosClass, Resources> = BTreeMap::new();
    loop {
        let now = asked.borrow_and_update().clone();
        for class in QosClass::ALL {
            let weight = weight(class, now.get(&class).copied().unwrap_or(0));
            if known.get(&class) == Some(&weight) {
                continue;
            }
            match runtime.bound_group(&all_of(&cgroup_root, class), &weight).await {
                Ok(()) => drop(known.insert(class, weight)),
                // It is tried again with the next change.
                Err(error) => {
                    let class = class.name();
                    tracing::warn!(%error, class, "cannot weigh the pods of a class");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = asked.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(init: Value, containers: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web"}, "spec": {"initContainers": init, "containers": containers}
        }))
        .unwrap()
    }

    fn limited(name: &str, cpu: &str, memory: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn what_running_a_pod_takes_is_added_to_what_its_containers_have() {
        let bounds = |containers: Value| {
            let mut pod = pod(json!([]), json!([containers]));
            let overhead = json!({"cpu": "500m", "memory": "1Gi"});
            pod.spec.as_mut().unwrap().overhead = serde_json::from_value(overhead).unwrap();
            of_pod(&pod, 64)
        };
        let bound = bounds(limited("a", "1", "2Gi"));
        assert_eq!(bound.cpu_quota_us, Some(150_000));
        assert_eq!(bound.memory_limit_bytes, Some(3 << 30));
        assert_eq!(bound.cpu_shares, Some(shares(1500)));
        // Where containers have no limit, there is none.
        let bound = bounds(json!({"name": "a"}));
        assert_eq!((bound.cpu_quota_us, bound.memory_limit_bytes), (None, None));
        assert_eq!(bound.cpu_shares, Some(shares(500)));
    }

    #[test]
    fn a_pod_has_what_its_containers_have_together() {
        let two = json!([limited("a", "250m", "1Gi"), limited("b", "500m", "1Gi")]);
        let bounds = of_pod(&pod(json!([]), two), 64);
        assert_eq!(bounds.cpu_shares, Some(768));
        assert_eq!((bounds.cpu_quota_us, bounds.cpu_period_us), (Some(75_000), Some(100_000)));
        assert_eq!(bounds.memory_limit_bytes, Some(2 << 30));
        assert_eq!(bounds.pids_limit, Some(64));
    }

    #[test]
    fn init_containers_run_beside_the_sidecars_before_them() {
        let mut sidecar = limited("s", "1", "1Gi");
        sidecar["restartPolicy"] = json!("Always");
        let init = json!([sidecar, limited("i", "3", "4Gi")]);
        let bounds = of_pod(&pod(init, json!([limited("a", "1", "2Gi")])), 64);
        assert_eq!(bounds.cpu_quota_us, Some(400_000));
        assert_eq!(bounds.memory_limit_bytes, Some(5 << 30));
    }

    #[test]
    fn one_container_without_a_limit_leaves_the_pod_without() {
        let asks = json!({"name": "b", "resources": {"requests": {"cpu": "1"}}});
        let bounds = of_pod(&pod(json!([]), json!([limited("a", "1", "1Gi"), asks])), 64);
        assert_eq!(bounds.cpu_shares, Some(2048));
        assert_eq!((bounds.cpu_quota_us, bounds.memory_limit_bytes), (None, None));
        let nothing = of_pod(&pod(json!([]), json!([{"name": "a"}])), 64);
        assert_eq!(nothing.cpu_shares, Some(MIN_SHARES));
    }

    #[test]
    fn a_resize_has_room_for_both_on_its_way() {
        let of = |cpu: &str, memory: &str| {
            of_pod(&pod(json!([]), json!([limited("a", cpu, memory)])), 64)
        };
        let both = either(&of("1", "2Gi"), &of("2", "1Gi"));
        assert_eq!(both, of("2", "2Gi"));
        let endless = of_pod(&pod(json!([]), json!([{"name": "a"}])), 64);
        assert_eq!(either(&endless, &of("1", "1Gi")).memory_limit_bytes, None);
    }

    #[test]
    fn classes_weigh_what_their_pods_ask_for() {
        let shares = |class, milli| weight(class, milli).cpu_shares;
        assert_eq!(shares(QosClass::Guaranteed, 1500), Some(1536));
        assert_eq!(shares(QosClass::Burstable, 0), Some(2));
        assert_eq!(shares(QosClass::BestEffort, 9000), Some(2));
    }

    #[test]
    fn groups_are_below_those_of_all_pods() {
        assert_eq!(all_of("/kutter/", QosClass::Burstable), "/kutter/pods/burstable");
    }
}
