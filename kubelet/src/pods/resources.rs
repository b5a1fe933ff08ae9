//! From requests and limits to what a cgroup enforces.

use std::collections::BTreeMap;

use proto::k8s::api::core::v1::{Container, Pod};
use proto::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use runtime::Resources;

use super::PodsConfig;
use super::bounds::all_of;
use super::huge_pages::HugePages;

/// How well a pod is served when the node runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub(crate) const ALL: [Self; 3] = [Self::Guaranteed, Self::Burstable, Self::BestEffort];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// Name of the group of its pods.
    pub(crate) fn cgroup(self) -> &'static str {
        match self {
            Self::Guaranteed => "guaranteed",
            Self::Burstable => "burstable",
            Self::BestEffort => "besteffort",
        }
    }

    /// Guaranteed: every container limits CPU and memory and asks for no less. BestEffort: no
    /// container says anything about either.
    pub(crate) fn of(pod: &Pod) -> Self {
        let containers = pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let (mut guaranteed, mut best_effort) = (true, true);
        for container in containers {
            for resource in ["cpu", "memory"] {
                let limit = amount(container, Kind::Limit, resource);
                let request = amount(container, Kind::Request, resource).or(limit);
                best_effort &= limit.is_none() && request.is_none();
                guaranteed &= limit.is_some() && limit == request;
            }
        }
        match (best_effort, guaranteed) {
            (true, _) => Self::BestEffort,
            (false, true) => Self::Guaranteed,
            (false, false) => Self::Burstable,
        }
    }
}

/// The cgroup all containers of the pod are under.
pub(crate) fn cgroup_parent(root: &str, pod: &Pod, uid: &str) -> String {
    format!("{}/pod{uid}", all_of(root, QosClass::of(pod)))
}

/// The bounds of one container.
pub(crate) fn resources(pod: &Pod, container: &Container, config: &PodsConfig) -> Resources {
    let cpu_limit = amount(container, Kind::Limit, "cpu");
    let cpu = amount(container, Kind::Request, "cpu").or(cpu_limit);
    let memory_limit = amount(container, Kind::Limit, "memory");
    Resources {
        cpu_shares: Some(cpu.map_or(MIN_SHARES, |cpu| shares(cpu.milli_value()))),
        cpu_quota_us: cpu_limit.map(|cpu| quota(cpu.milli_value())),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US),
        memory_limit_bytes: memory_limit.map(|memory| memory.value()),
        // The pod as a whole may have no more.
        pids_limit: Some(config.pod_max_pids),
        huge_page_limits: HugePages::of_container(container).limits(&config.page_sizes),
        oom_score_adj: Some(oom_score_adj(pod, container, config.memory_capacity_bytes)),
    }
}

/// The kernel's least weight; also what a container gets that asks for nothing.
pub(crate) const MIN_SHARES: u64 = 2;
/// The kernel's default.
pub(crate) const PERIOD_US: u64 = 100_000;
/// The kernel refuses less.
const MIN_QUOTA_US: i64 = 1_000;

/// The weight of so many thousandths of a processor.
pub(crate) fn shares(milli_cpu: i64) -> u64 {
    u64::try_from(milli_cpu.saturating_mul(1024) / 1000).unwrap_or(0).clamp(MIN_SHARES, 262_144)
}

/// The time per [`PERIOD_US`] of so many thousandths of a processor.
pub(crate) fn quota(milli_cpu: i64) -> i64 {
    // 100 000 µs per 1000 m.
    milli_cpu.saturating_mul(100).max(MIN_QUOTA_US)
}

/// Who is killed first when the node's memory is exhausted: those who asked for nothing, then
/// those who asked for little of it; last of all those that the node cannot do without. The
/// numbers are Kubernetes'.
fn oom_score_adj(pod: &Pod, container: &Container, capacity: u64) -> i32 {
    if is_node_critical(pod) {
        return LAST;
    }
    match QosClass::of(pod) {
        QosClass::Guaranteed => LAST,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let mut request = memory_request(container);
            // A sidecar outlives those that it serves.
            if container.restart_policy.as_deref() == Some("Always") && is_initial(pod, container) {
                let regular = pod.spec.iter().flat_map(|spec| &spec.containers);
                request = request.max(regular.map(memory_request).min().unwrap_or(0));
            }
            let capacity = i128::from(capacity.max(1));
            let score = 1000 - 1000 * i128::from(request) / capacity;
            // Above every guaranteed pod, below every one that asks for nothing.
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// Of those that are killed last.
const LAST: i32 = -997;

/// Admission gives the number to those alone that have the class, or may name it.
fn is_node_critical(pod: &Pod) -> bool {
    let class = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref());
    class == Some("system-node-critical")
}

fn is_initial(pod: &Pod, container: &Container) -> bool {
    let initial = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    initial.into_iter().any(|one| one.name == container.name)
}

fn memory_request(container: &Container) -> i64 {
    let asked = amount(container, Kind::Request, "memory");
    asked.or_else(|| amount(container, Kind::Limit, "memory")).map_or(0, |memory| memory.value())
}

#[derive(Clone, Copy)]
enum Kind {
    Request,
    Limit,
}

/// What the container says of a resource, unless it is nothing or zero. Quantities were validated
/// when the pod was written.
fn amount(container: &Container, kind: Kind, resource: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    let amounts: &BTreeMap<String, WireQuantity> = match kind {
        Kind::Request => resources.requests.as_ref()?,
        Kind::Limit => resources.limits.as_ref()?,
    };
    let quantity = Quantity::parse(&amounts.get(resource)?.0).ok()?;
    (!quantity.is_zero()).then_some(quantity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "web", "resources": resources}]}
        }))
        .unwrap()
    }

    fn config() -> PodsConfig {
        PodsConfig { memory_capacity_bytes: 4 << 30, ..super::super::test_support::config() }
    }

    fn resources_of(spec: serde_json::Value) -> Resources {
        let pod = pod(spec);
        resources(&pod, &pod.spec.as_ref().unwrap().containers[0], &config())
    }

    #[test]
    fn classes_follow_from_requests_and_limits() {
        let cases = [
            (serde_json::json!({}), QosClass::BestEffort),
            (serde_json::json!({"requests": {"cpu": "0"}}), QosClass::BestEffort),
            (serde_json::json!({"requests": {"cpu": "1"}}), QosClass::Burstable),
            (serde_json::json!({"limits": {"cpu": "1"}}), QosClass::Burstable),
            (serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}}), QosClass::Guaranteed),
            (
                serde_json::json!({
                    "limits": {"cpu": "1", "memory": "1Gi"},
                    "requests": {"cpu": "1000m", "memory": "1024Mi"}
                }),
                QosClass::Guaranteed,
            ),
            (
                serde_json::json!({
                    "limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}
                }),
                QosClass::Burstable,
            ),
        ];
        for (resources, class) in cases {
            assert_eq!(QosClass::of(&pod(resources.clone())), class, "{resources}");
        }
    }

    #[test]
    fn limits_become_quota_and_memory_limit() {
        let resources =
            resources_of(serde_json::json!({"limits": {"cpu": "250m", "memory": "64Mi"}}));
        assert_eq!(resources.cpu_shares, Some(256));
        assert_eq!(resources.cpu_quota_us, Some(25_000));
        assert_eq!(resources.memory_limit_bytes, Some(64 << 20));
        assert_eq!(resources.oom_score_adj, Some(-997));
    }

    #[test]
    fn a_container_that_asks_for_nothing_has_the_least_weight_and_dies_first() {
        let resources = resources_of(serde_json::json!({}));
        assert_eq!(resources.cpu_shares, Some(2));
        assert_eq!(resources.cpu_quota_us, None);
        assert_eq!(resources.memory_limit_bytes, None);
        assert_eq!(resources.oom_score_adj, Some(1000));
        assert_eq!(resources.pids_limit, Some(config().pod_max_pids));
    }

    #[test]
    fn a_burstable_container_ranks_by_its_memory_request() {
        let score = |memory: &str| {
            resources_of(serde_json::json!({"requests": {"memory": memory}})).oom_score_adj
        };
        assert_eq!(score("1Gi"), Some(750));
        assert_eq!(score("1"), Some(999));
        assert_eq!(score("4Gi"), Some(3));
    }

    #[test]
    fn a_pod_that_the_node_cannot_do_without_is_killed_last() {
        let mut pod = pod(serde_json::json!({}));
        let spec = pod.spec.as_mut().unwrap();
        spec.priority_class_name = Some("system-node-critical".to_owned());
        let container = spec.containers[0].clone();
        assert_eq!(resources(&pod, &container, &config()).oom_score_adj, Some(-997));
    }

    #[test]
    fn a_sidecar_is_not_killed_before_those_that_it_serves() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web"},
            "spec": {
                "initContainers": [
                    {"name": "side", "restartPolicy": "Always"},
                    {"name": "large", "restartPolicy": "Always",
                     "resources": {"requests": {"memory": "3Gi"}}},
                    {"name": "first"},
                ],
                "containers": [
                    {"name": "web", "resources": {"requests": {"memory": "2Gi"}}},
                    {"name": "helper", "resources": {"requests": {"memory": "1Gi"}}},
                ],
            },
        }))
        .unwrap();
        let spec = pod.spec.as_ref().unwrap();
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let scores: Vec<_> = all
            .map(|container| resources(&pod, container, &config()).oom_score_adj.unwrap())
            .collect();
        assert_eq!(scores, [750, 250, 999, 500, 750]);
    }

    #[test]
    fn a_pods_cgroup_is_below_that_of_its_class() {
        let parent = cgroup_parent("/kutter/", &pod(serde_json::json!({})), "u-1");
        assert_eq!(parent, "/kutter/pods/besteffort/podu-1");
    }
}
