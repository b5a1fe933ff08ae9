//! Namespaces, nodes and leases.

use super::*;

#[test]
fn namespaces_are_held_until_they_are_empty() {
    let manifest =
        json!({"metadata": {"name": "team", "creationTimestamp": "2026-01-01T11:00:00Z"}});
    settles::<Namespaces>(&manifest);
    let stored = defaulted::<Namespaces>(&manifest);
    assert_eq!(stored["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(stored["status"]["phase"], "Active");
    assert_eq!(stored["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    assert_eq!(row::<Namespaces>(&stored), ["team", "Active", "60m"]);
    assert!(Namespaces::validate_name("a.b")[0].contains("must not contain dots"));

    let mut namespace = created::<Namespaces>(&manifest);
    assert_eq!(
        Namespaces::deletion(&namespace, Some(0)),
        Deletion::Graceful { grace_period_seconds: 0 }
    );
    Namespaces::prepare_deletion(&mut namespace);
    namespace.metadata.deletion_timestamp =
        Some(proto::k8s::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(row::<Namespaces>(&serde_json::to_value(&namespace).unwrap())[1], "Terminating");

    // A client that leaves the finalizers out does not take them away; who says they are gone does.
    let mut update = namespace.clone();
    update.spec = None;
    Namespaces::prepare_update(&mut update, &namespace);
    assert_eq!(update.spec, namespace.spec);
    update.spec.as_mut().unwrap().finalizers = Some(Vec::new());
    Namespaces::prepare_update(&mut update, &namespace);
    assert_eq!(Namespaces::deletion(&update, None), Deletion::Immediate);

    for namespace in namespace::initial() {
        assert!(Namespaces::undeletable(&namespace).is_some());
    }
    assert!(Namespaces::undeletable(&namespace).is_none());
}

pub(super) fn node() -> Value {
    json!({
        "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T11:00:00Z"},
        "spec": {"taints": [{"key": "dedicated", "value": "web", "effect": "NoSchedule"}]},
        "status": {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "1"}, "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    })
}

#[test]
fn nodes_keep_to_the_rules() {
    settles::<Nodes>(&node());
    check::<Nodes>(
        &node(),
        vec![
            ("/spec/podCIDR", json!("10.244.7.0/24"), ""),
            (
                "/spec/podCIDRs",
                json!(["x"]),
                "spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24",
            ),
            (
                "/spec/podCIDRs",
                json!(["10.244.0.1/24"]),
                "spec.podCIDRs[0]: Invalid value: \"10.244.0.1/24\": must not have bits set beyond the prefix length",
            ),
            ("/spec/podCIDRs", json!(["fd00::/64", "10.244.0.0/24"]), ""),
            (
                "/spec/podCIDRs",
                json!(["10.244.0.0/24", "fd00::/64", "fd01::/64"]),
                "spec.podCIDRs: Invalid value: [\"10.244.0.0/24\",\"fd00::/64\",\"fd01::/64\"]: may specify no more than one CIDR",
            ),
            (
                "/spec/podCIDRs",
                json!(["10.244.0.0/24", "10.244.1.0/24"]),
                "spec.podCIDRs: Invalid value: [\"10.244.0.0/24\",\"10.244.1.0/24\"]: may specify no more than one CIDR for each IP family",
            ),
            (
                "/spec/taints/0/effect",
                json!("x"),
                "metadata.taints[0].effect: Unsupported value: \"x\"",
            ),
            ("/spec/taints/0/key", json!("a b"), "metadata.taints[0].key: Invalid value: \"a b\""),
            (
                "/spec/taints/1",
                json!({"key": "dedicated", "effect": "NoSchedule"}),
                "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"dedicated\"}: taints must be unique by key and effect pair",
            ),
            (
                "/metadata/annotations",
                json!({"scheduler.alpha.kubernetes.io/taints": "["}),
                "metadata.annotations: Invalid value: \"scheduler.alpha.kubernetes.io/taints\"",
            ),
            (
                "/metadata/annotations",
                json!({"scheduler.alpha.kubernetes.io/taints": "[{\"key\":\"a\",\"effect\":\"No\"}]"}),
                "metadata.annotations.scheduler.alpha.kubernetes.io/taints[0].effect: Unsupported value: \"No\"",
            ),
            (
                "/status/capacity/cpu",
                json!("-2"),
                "status.capacity.cpu: Invalid value: \"-2\": must be greater than or equal to 0",
            ),
            (
                "/status/capacity/cpu",
                json!("x"),
                "status.capacity.cpu: Invalid value: \"x\": quantities must match",
            ),
            (
                "/status/capacity/pods",
                json!("1500m"),
                "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
            ),
            (
                "/status/capacity/example.com~1gpu",
                json!("1500m"),
                "status.capacity.example.com/gpu: Invalid value: \"1500m\": must be an integer",
            ),
            (
                "/status/addresses/0/address",
                json!("x"),
                "status.addresses[0].address: Invalid value",
            ),
        ],
    );
    let ranged = with(&node(), "/spec/podCIDRs", json!(["10.244.0.0/24"]));
    check_updates::<Nodes>(
        &ranged,
        vec![
            ("/spec/podCIDRs", json!(null), ""),
            ("/spec/unschedulable", json!(true), ""),
            ("/spec/podCIDRs", json!(["10.244.0.0/24", "fd00::/64"]), ""),
            (
                "/spec/podCIDRs",
                json!(["fd00::/64", "10.244.0.0/24"]),
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR",
            ),
            (
                "/spec/podCIDRs",
                json!(["10.244.1.0/24"]),
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR",
            ),
            ("/spec/externalID", json!("i-1"), "spec.externalID: Forbidden: may not be updated"),
        ],
    );
}

#[test]
fn a_node_gets_a_range_of_each_family() {
    let single = cluster();
    let dual =
        ClusterConfig { pod_cidrs: "10.244.0.0/16,fd00:244::/48".parse().unwrap(), ..cluster() };
    let mut node = created::<Nodes>(&node());
    let taken = |claim: &str| claim == "pod-cidr/fd00:244::-64";
    Nodes::allocate(&mut node, None, &dual, &taken).unwrap();
    let spec = node.spec.clone().unwrap();
    assert_eq!(spec.pod_cidr.as_deref(), Some("10.244.0.0/24"));
    assert_eq!(spec.pod_cidrs.unwrap(), ["10.244.0.0/24", "fd00:244:0:1::/64"]);
    assert_eq!(Nodes::claims(&node), ["pod-cidr/10.244.0.0-24", "pod-cidr/fd00:244:0:1::-64"]);

    // The cluster gets its second family while the node is in it.
    let mut old = created::<Nodes>(&self::node());
    Nodes::allocate(&mut old, None, &single, &|_| false).unwrap();
    let mut new = old.clone();
    Nodes::allocate(&mut new, Some(&old), &dual, &taken).unwrap();
    let ranges = new.spec.clone().unwrap().pod_cidrs.unwrap();
    assert_eq!(ranges, ["10.244.0.0/24", "fd00:244:0:1::/64"]);
    // With none to be had it goes on as it was, and so it does when the cluster has lost the family.
    let mut poor = old.clone();
    Nodes::allocate(&mut poor, Some(&old), &dual, &|_| true).unwrap();
    assert_eq!(poor, old);
    let mut kept = new.clone();
    Nodes::allocate(&mut kept, Some(&new), &single, &|_| true).unwrap();
    assert_eq!(kept, new);
}

#[test]
fn a_node_gets_the_first_free_range() {
    let mut first = created::<Nodes>(&node());
    let taken = |claim: &str| claim == "pod-cidr/10.244.0.0-24";
    Nodes::allocate(&mut first, None, &cluster(), &taken).unwrap();
    let spec = first.spec.clone().unwrap();
    assert_eq!(spec.pod_cidr.as_deref(), Some("10.244.1.0/24"));
    assert_eq!(spec.pod_cidrs, Some(vec!["10.244.1.0/24".to_owned()]));
    assert_eq!(Nodes::claims(&first), ["pod-cidr/10.244.1.0-24"]);

    let ask = |range: &str| {
        let mut node = created::<Nodes>(&with(&node(), "/spec/podCIDR", json!(range)));
        let errors = Nodes::allocate(&mut node, None, &cluster(), &taken).err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(ask("10.244.7.0/24"), "");
    assert!(ask("10.244.0.0/24").contains("held by another node"));
    assert!(ask("10.244.0.0/23").contains("must be a /24 range out of 10.244.0.0/16"));
    assert!(ask("10.245.0.0/24").contains("must be a /24 range"));
    assert!(ask("fd00::/64").contains("IPv6 is not configured on this cluster"));
    let full = Nodes::allocate(&mut created::<Nodes>(&node()), None, &cluster(), &|_| true);
    assert!(full.unwrap_err()[0].detail.contains("no range is left"));
}

#[test]
fn a_node_tells_how_it_is() {
    let mut node = node();
    node["metadata"]["labels"] = json!({
        "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x",
    });
    assert_eq!(row::<Nodes>(&node)[1..3], ["Unknown", "control-plane,worker,x"]);
    node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    node["status"]["nodeInfo"] = json!({
        "kubeletVersion": "v1", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "kutter://1",
        "architecture": "", "bootID": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "systemUUID": "",
    });
    assert_eq!(
        row::<Nodes>(&node),
        [
            "n1",
            "Ready",
            "control-plane,worker,x",
            "60m",
            "v1",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.1",
            "kutter://1"
        ]
    );
    node["spec"]["unschedulable"] = json!(true);
    node["status"]["conditions"][0]["status"] = json!("Unknown");
    assert_eq!(row::<Nodes>(&node)[1], "NotReady,SchedulingDisabled");
}

#[test]
fn leases_keep_to_the_rules() {
    let lease = json!({"metadata": meta(), "spec": {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T11:00:00.000001Z",
        "renewTime": "2026-01-01T11:00:00.000001Z",
        "leaseTransitions": 0,
    }});
    settles::<Leases>(&lease);
    check::<Leases>(
        &lease,
        vec![
            (
                "/spec/leaseDurationSeconds",
                json!(0),
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                "/spec/leaseTransitions",
                json!(-1),
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ),
            ("/spec/strategy", json!("OldestEmulationVersion"), "spec.strategy: Forbidden"),
            ("/spec/preferredHolder", json!("b"), "spec.preferredHolder: Forbidden"),
            ("/spec/holderIdentity", json!(""), ""),
            ("/spec", json!(null), ""),
        ],
    );
    assert_eq!(row::<Leases>(&lease), ["web", "a", "60m"]);
}

#[test]
fn service_accounts_are_identities() {
    let account = json!({"metadata": meta(), "secrets": [{"name": "a"}]});
    settles::<ServiceAccounts>(&account);
    let more = json!([{"name": "a", "namespace": "other", "kind": "Secret", "uid": "u"}]);
    let stored = defaulted::<ServiceAccounts>(&with(&account, "/secrets", more));
    assert_eq!(stored["secrets"], json!([{"name": "a"}]));
    assert_eq!(row::<ServiceAccounts>(&account), ["web", "1", "60m"]);
}
