//! Whether a node takes a pod that was bound to it. Pure.
//!
//! The scheduler has seen to most of it. But a pod can name its node itself, the node may have changed
//! since, and what the node is short of at this moment it knows first.

use std::collections::BTreeMap;

use proto::k8s::api::core::v1::{Pod, Toleration};
use proto::{huge_pages, node_affinity};

use super::allocation::Amounts;
use super::huge_pages::HugePages;
use super::observed::PodFailure;
use super::resources::QosClass;
use super::security::demands_app_armor;
use super::selinux;
use super::spec::host_ports;
use crate::network::HostPort;
use crate::node_status::Health;
use crate::pressure::is_critical;
use crate::pressure::threshold::Condition;

/// What a node has to say about a pod.
pub(crate) struct Surroundings<'a> {
    pub(crate) health: &'a Health,
    /// Nothing while the node does not know itself.
    pub(crate) labels: Option<&'a BTreeMap<String, String>>,
    pub(crate) allocatable: Amounts,
    /// What the other pods were promised.
    pub(crate) used: Amounts,
    /// Of huge pages; nothing while the node does not know itself.
    pub(crate) allocatable_pages: Option<HugePages>,
    pub(crate) used_pages: HugePages,
    /// Those of the other pods.
    pub(crate) used_ports: Vec<HostPort>,
    /// So many other pods are here.
    pub(crate) pods: usize,
    pub(crate) max_pods: usize,
    /// Why AppArmor confines nobody here; nothing: it does.
    pub(crate) no_app_armor: Option<&'a str>,
    /// Why nobody has SELinux labels here; nothing: all do.
    pub(crate) no_selinux: Option<&'a str>,
}

/// Why the pod is not taken, in Kubernetes' words.
pub(crate) fn admit(pod: &Pod, wants: Amounts, node: &Surroundings<'_>) -> Result<(), PodFailure> {
    if node.health.shutting_down {
        return refuse("NodeShutdown", "Pod was rejected as the node is shutting down.");
    }
    under_pressure(pod, node)?;
    let amounts = [
        (
            "pods",
            1,
            i64::try_from(node.pods).unwrap_or(i64::MAX),
            i64::try_from(node.max_pods).unwrap_or(i64::MAX),
        ),
        ("cpu", wants.cpu_milli, node.used.cpu_milli, node.allocatable.cpu_milli),
        ("memory", wants.memory, node.used.memory, node.allocatable.memory),
    ];
    let amounts = amounts.map(|(name, wanted, used, all)| (name.to_owned(), wanted, used, all));
    let pages = HugePages::of_pod(pod);
    let pages = node.allocatable_pages.iter().flat_map(|all| {
        let used = &node.used_pages;
        let of = |size| (huge_pages::resource(size), used.of_size(size), all.of_size(size));
        let named = move |(size, wanted)| {
            let (name, used, all) = of(size);
            (name, wanted, used, all)
        };
        pages.iter().map(named)
    });
    for (name, wanted, used, all) in amounts.into_iter().chain(pages) {
        if wanted > 0 && wanted.saturating_add(used) > all {
            return refuse(
                &format!("OutOf{name}"),
                &format!(
                    "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, \
                     capacity: {all}"
                ),
            );
        }
    }
    if let Some(reason) = node.no_app_armor.filter(|_| demands_app_armor(pod)) {
        return refuse("AppArmor", &format!("Cannot enforce AppArmor: {reason}"));
    }
    if let Some(reason) = node.no_selinux.filter(|_| selinux::is_demanded(pod)) {
        return refuse("SELinux", &format!("Cannot enforce SELinux: {reason}"));
    }
    // Whoever named the node itself would take what comes to another's port away from it.
    let taken = |port: &HostPort| node.used_ports.iter().any(|other| other.conflicts_with(port));
    if host_ports(pod).iter().any(taken) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod \
                       ports";
        return refuse("NodePorts", message);
    }
    if let (Some(labels), Some(spec)) = (node.labels, pod.spec.as_ref())
        && !node_affinity::admits(spec, spec.node_name.as_deref().unwrap_or_default(), labels)
    {
        let message =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return refuse("NodeAffinity", message);
    }
    Ok(())
}

/// A node that is short of memory takes no pod that asks for none; one that is short of anything else
/// takes none at all, but for those of the system.
fn under_pressure(pod: &Pod, node: &Surroundings<'_>) -> Result<(), PodFailure> {
    let pressures = &node.health.pressures;
    if pressures.is_empty() || is_critical(pod) {
        return Ok(());
    }
    let only_memory = pressures.iter().eq([&Condition::Memory]);
    if only_memory && (QosClass::of(pod) != QosClass::BestEffort || tolerates_memory_pressure(pod))
    {
        return Ok(());
    }
    let names: Vec<&str> = pressures.iter().map(|condition| condition.name()).collect();
    refuse("Evicted", &format!("The node had condition: [{}]. ", names.join(" ")))
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let tolerates = |toleration: &Toleration| {
        let of = |field: &Option<String>| field.clone().unwrap_or_default();
        let (key, operator) = (of(&toleration.key), of(&toleration.operator));
        let effect = of(&toleration.effect);
        let key_fits =
            key == "node.kubernetes.io/memory-pressure" || (key.is_empty() && operator == "Exists");
        // The taint has no value.
        let value_fits = operator == "Exists" || of(&toleration.value).is_empty();
        key_fits && value_fits && (effect.is_empty() || effect == "NoSchedule")
    };
    pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).any(tolerates)
}

fn refuse(reason: &str, message: &str) -> Result<(), PodFailure> {
    Err(PodFailure {
        reason: reason.to_owned(),
        message: format!("Pod was rejected: {message}"),
        ..PodFailure::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::test_support::{one_container, pod};

    const PLENTY: Amounts = Amounts { cpu_milli: 2000, memory: 1000 };

    fn verdict(
        spec: Value,
        pressures: &[Condition],
        change: impl FnOnce(&mut Surroundings<'_>),
    ) -> String {
        let health = Health { pressures: pressures.iter().copied().collect(), ..Health::default() };
        let labels = [("disk".to_owned(), "fast".to_owned())].into();
        let mut node = Surroundings {
            health: &health,
            labels: Some(&labels),
            allocatable: PLENTY,
            used: Amounts { cpu_milli: 1500, memory: 900 },
            allocatable_pages: None,
            used_pages: HugePages::default(),
            used_ports: Vec::new(),
            pods: 109,
            max_pods: 110,
            no_app_armor: None,
            no_selinux: None,
        };
        change(&mut node);
        let wants = Amounts { cpu_milli: 500, memory: 100 };
        match admit(&pod("p", spec), wants, &node) {
            Ok(()) => "admitted".to_owned(),
            Err(failure) => format!("{}: {}", failure.reason, failure.message),
        }
    }

    fn plain() -> Value {
        one_container(json!({}))
    }

    fn with(field: &str, value: Value) -> Value {
        let mut spec = plain();
        spec[field] = value;
        spec
    }

    #[test]
    fn a_node_takes_what_it_has_room_for() {
        assert_eq!(verdict(plain(), &[], |_| {}), "admitted");
        assert_eq!(
            verdict(plain(), &[], |node| node.pods = 110),
            "OutOfpods: Pod was rejected: Node didn't have enough resource: pods, requested: 1, \
             used: 110, capacity: 110"
        );
        assert_eq!(
            verdict(plain(), &[], |node| node.used.cpu_milli = 1501),
            "OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu, requested: 500, \
             used: 1501, capacity: 2000"
        );
        assert!(verdict(plain(), &[], |node| node.used.memory = 901).starts_with("OutOfmemory: "));
        let unknown = Amounts { cpu_milli: i64::MAX, memory: i64::MAX };
        assert_eq!(verdict(plain(), &[], |node| node.allocatable = unknown), "admitted");
    }

    #[test]
    fn pages_are_what_is_set_aside() {
        let asking = |size: &str| {
            let limits = json!({"cpu": "500m", "hugepages-2Mi": size, "hugepages-1Gi": "0"});
            one_container(json!({"resources": {"limits": limits}}))
        };
        let pages = |size: &str| HugePages::of_pod(&pod("other", asking(size)));
        let with = |wanted: &str, used: &str, all: Option<&str>| {
            verdict(asking(wanted), &[], |node| {
                node.used_pages = pages(used);
                node.allocatable_pages = all.map(pages);
            })
        };
        assert_eq!(with("4Mi", "4Mi", Some("8Mi")), "admitted");
        assert_eq!(
            with("4Mi", "6Mi", Some("8Mi")),
            "OutOfhugepages-2Mi: Pod was rejected: Node didn't have enough resource: hugepages-2Mi, \
             requested: 4194304, used: 6291456, capacity: 8388608"
        );
        assert!(with("2Mi", "0", Some("0")).starts_with("OutOfhugepages-2Mi: "));
        assert_eq!(with("2Mi", "0", None), "admitted");
    }

    #[test]
    fn a_port_of_the_node_is_one_pods() {
        let having = |protocol: &str, address: Option<&str>| {
            let port = json!({
                "containerPort": 80, "hostPort": 8080, "protocol": protocol, "hostIP": address,
            });
            one_container(json!({"ports": [port]}))
        };
        let refusal = "NodePorts: Pod was rejected: Predicate NodePorts failed: node(s) didn't have free \
                       ports for the requested pod ports";
        let all = having("TCP", None);
        for (wanted, used, verdict_of) in [
            (all.clone(), all.clone(), refusal),
            (all.clone(), having("UDP", None), "admitted"),
            (all.clone(), having("TCP", Some("192.0.2.1")), refusal),
            (having("TCP", Some("192.0.2.1")), having("TCP", Some("0.0.0.0")), refusal),
            (having("TCP", Some("192.0.2.1")), having("TCP", Some("192.0.2.2")), "admitted"),
            (having("TCP", Some("192.0.2.1")), having("TCP", Some("::")), "admitted"),
            (plain(), all.clone(), "admitted"),
        ] {
            let used_ports = host_ports(&pod("other", used.clone()));
            let told = verdict(wanted.clone(), &[], |node| node.used_ports = used_ports);
            assert_eq!(told, verdict_of, "{wanted} beside {used}");
        }
    }

    #[test]
    fn who_demands_a_label_is_not_taken_where_there_are_none() {
        let reason = Some("SELinux is not enabled on the host");
        let refusal = "SELinux: Pod was rejected: Cannot enforce SELinux: SELinux is not enabled on \
                       the host";
        for (options, wanted) in [
            (json!({}), "admitted"),
            (json!({"level": "s0:c1,c2"}), refusal),
            (json!({"type": "spc_t"}), refusal),
        ] {
            let spec = with("securityContext", json!({"seLinuxOptions": options}));
            assert_eq!(verdict(spec.clone(), &[], |node| node.no_selinux = reason), wanted);
            assert_eq!(verdict(spec, &[], |_| {}), "admitted");
        }
    }

    #[test]
    fn who_demands_app_armor_is_not_taken_where_there_is_none() {
        let reason = Some("AppArmor is not enabled on the host");
        let of_pod =
            |kind: &str| with("securityContext", json!({"appArmorProfile": {"type": kind}}));
        let mut of_container = plain();
        of_container["containers"][0]["securityContext"] =
            json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}});
        let refusal = "AppArmor: Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on \
                       the host";
        for (spec, wanted) in [
            (plain(), "admitted"),
            (of_pod("Unconfined"), "admitted"),
            (of_pod("RuntimeDefault"), refusal),
            (of_container, refusal),
        ] {
            assert_eq!(verdict(spec.clone(), &[], |_| {}), "admitted");
            assert_eq!(verdict(spec, &[], |node| node.no_app_armor = reason), wanted);
        }
    }

    #[test]
    fn a_node_takes_what_is_meant_for_it() {
        let demanding = |values: Value| {
            let expression = json!({"key": "disk", "operator": "In", "values": values});
            with(
                "affinity",
                json!({"nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [expression]}],
                    },
                }}),
            )
        };
        assert_eq!(verdict(demanding(json!(["fast", "x"])), &[], |_| {}), "admitted");
        assert!(verdict(demanding(json!(["x"])), &[], |_| {}).starts_with("NodeAffinity: "));
        let slow = || with("nodeSelector", json!({"disk": "slow"}));
        assert_eq!(verdict(with("nodeSelector", json!({"disk": "fast"})), &[], |_| {}), "admitted");
        assert_eq!(
            verdict(slow(), &[], |_| {}),
            "NodeAffinity: Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match \
             Pod's node affinity/selector"
        );
        assert_eq!(verdict(slow(), &[], |node| node.labels = None), "admitted");
    }

    #[test]
    fn a_node_that_is_short_takes_no_more() {
        let asking = || one_container(json!({"resources": {"requests": {"memory": "1"}}}));
        let memory = [Condition::Memory];
        assert_eq!(
            verdict(plain(), &memory, |_| {}),
            "Evicted: Pod was rejected: The node had condition: [MemoryPressure]. "
        );
        assert_eq!(verdict(asking(), &memory, |_| {}), "admitted");
        assert!(verdict(asking(), &[Condition::Disk], |_| {}).contains("[DiskPressure]"));
        let both = [Condition::Memory, Condition::Disk];
        assert!(verdict(asking(), &both, |_| {}).contains("[MemoryPressure DiskPressure]"));
        assert_eq!(verdict(with("priority", json!(2_000_000_000)), &both, |_| {}), "admitted");
        for (toleration, admitted) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}), true),
            (json!({"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}), false),
            (json!({"operator": "Exists", "effect": "NoExecute"}), false),
        ] {
            let spec = with("tolerations", json!([toleration.clone()]));
            let taken = verdict(spec, &memory, |_| {}) == "admitted";
            assert_eq!(taken, admitted, "{toleration}");
        }
    }

    #[test]
    fn a_machine_that_ends_takes_nothing() {
        let health = Health { shutting_down: true, ..Health::default() };
        let node = Surroundings {
            health: &health,
            labels: None,
            allocatable: PLENTY,
            used: Amounts::default(),
            allocatable_pages: None,
            used_pages: HugePages::default(),
            used_ports: Vec::new(),
            pods: 0,
            max_pods: 1,
            no_app_armor: None,
            no_selinux: None,
        };
        let failure = admit(&pod("p", plain()), Amounts::default(), &node).unwrap_err();
        assert_eq!(failure.reason, "NodeShutdown");
    }
}
