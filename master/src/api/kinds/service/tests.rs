//! Services, from what users write to what is stored.

use serde_json::{Value, json};

use super::super::testing::{check, check_updates, created, defaulted, errors, row, settles, with};
use super::super::{ClusterConfig, Kind};
use super::Services;

fn service() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T11:00:00Z"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

fn node_port() -> Value {
    with(&service(), "/spec/type", json!("NodePort"))
}

fn cluster(range: &str) -> ClusterConfig {
    ClusterConfig {
        service_cidr: range.to_owned(),
        pod_cidr: "10.244.0.0/16".to_owned(),
        node_cidr_prefix: 24,
        node_ports: (30000, 30003),
    }
}

/// Spec after allocation, or what was wrong.
fn allocated(manifest: &Value, taken: &[&str]) -> Result<Value, String> {
    let mut object = created::<Services>(manifest);
    let claimed = |claim: &str| taken.contains(&claim);
    Services::allocate(&mut object, None, &cluster("10.96.0.0/29"), &claimed)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let mut value = serde_json::to_value(&object).unwrap();
    value["claims"] = json!(Services::claims(&object));
    Ok(value)
}

#[test]
fn defaults_are_filled_in_as_kubernetes_does() {
    let stored = defaulted::<Services>(
        &json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}),
    );
    assert_eq!(
        stored["spec"],
        json!({
            "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        })
    );
    assert_eq!(stored["status"], json!({"loadBalancer": {}}));
    let stored = defaulted::<Services>(&node_port());
    assert_eq!(stored["spec"]["externalTrafficPolicy"], "Cluster");
    let sticky = with(&service(), "/spec/sessionAffinity", json!("ClientIP"));
    let stored = defaulted::<Services>(&sticky);
    assert_eq!(
        stored["spec"]["sessionAffinityConfig"],
        json!({"clientIP": {"timeoutSeconds": 10800}})
    );
    let balanced = defaulted::<Services>(&with(&service(), "/spec/type", json!("LoadBalancer")));
    assert_eq!(balanced["spec"]["allocateLoadBalancerNodePorts"], true);
}

#[test]
fn what_is_valid_settles() {
    for manifest in [
        service(),
        node_port(),
        with(&service(), "/spec/clusterIP", json!("None")),
        with(&service(), "/spec/clusterIPs", json!(["10.96.0.9"])),
        with(&service(), "/spec/type", json!("LoadBalancer")),
        with(&service(), "/spec/sessionAffinity", json!("ClientIP")),
        json!({"metadata": {"name": "db"}, "spec": {"type": "ExternalName", "externalName": "db.example.com."}}),
    ] {
        settles::<Services>(&manifest);
    }
}

#[test]
fn services_keep_to_the_rules() {
    check::<Services>(
        &service(),
        vec![
            (
                "/spec/type",
                json!("Magic"),
                "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            ("/spec/ports", json!([]), "spec.ports: Required value"),
            (
                "/spec/ports/0/port",
                json!(0),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                "/spec/ports/0/targetPort",
                json!(70000),
                "spec.ports[0].targetPort: Invalid value: 70000",
            ),
            (
                "/spec/ports/0/targetPort",
                json!("a--b"),
                "spec.ports[0].targetPort: Invalid value: \"a--b\": must not contain consecutive hyphens",
            ),
            (
                "/spec/ports/0/protocol",
                json!("ICMP"),
                "spec.ports[0].protocol: Unsupported value: \"ICMP\"",
            ),
            (
                "/spec/ports/0/protocol",
                json!("SCTP"),
                "spec.ports[0].protocol: Forbidden: SCTP is not supported by this version of Kutter",
            ),
            (
                "/spec/ports/0/name",
                json!("Http"),
                "spec.ports[0].name: Invalid value: \"Http\": a lowercase RFC 1123 label",
            ),
            (
                "/spec/ports/0/appProtocol",
                json!("a b"),
                "spec.ports[0].appProtocol: Invalid value: \"a b\"",
            ),
            ("/spec/ports/1", json!({"port": 81}), "spec.ports[1].name: Required value"),
            (
                "/spec/ports/1",
                json!({"port": 81, "name": "http"}),
                "spec.ports[1].name: Duplicate value: \"http\"",
            ),
            (
                "/spec/ports/1",
                json!({"port": 80, "name": "b"}),
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            ),
            ("/spec/ports/1", json!({"port": 80, "name": "b", "protocol": "UDP"}), ""),
            (
                "/spec/ports/0/nodePort",
                json!(30000),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                "/spec/clusterIP",
                json!("x"),
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IPv4 address",
            ),
            (
                "/spec/clusterIPs",
                json!(["10.96.0.1", "10.96.0.2"]),
                "spec.clusterIPs: Invalid value: [\"10.96.0.1\",\"10.96.0.2\"]: may only hold one address",
            ),
            (
                "/spec/ipFamilies",
                json!(["IPv6"]),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                "/spec/ipFamilyPolicy",
                json!("RequireDualStack"),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            ("/spec/selector", json!({"a b": "c"}), "spec.selector: Invalid value: \"a b\""),
            (
                "/spec/sessionAffinity",
                json!("Cookie"),
                "spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\"",
            ),
            (
                "/spec/sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": 5}}),
                "spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None",
            ),
            (
                "/spec/externalTrafficPolicy",
                json!("Cluster"),
                "spec.externalTrafficPolicy: Forbidden: may only be set for externally-accessible services",
            ),
            (
                "/spec/internalTrafficPolicy",
                json!("Near"),
                "spec.internalTrafficPolicy: Unsupported value: \"Near\"",
            ),
            (
                "/spec/internalTrafficPolicy",
                json!("Local"),
                "spec.internalTrafficPolicy: Forbidden: Local is not supported by this version of Kutter",
            ),
            (
                "/spec/allocateLoadBalancerNodePorts",
                json!(true),
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                "/spec/externalIPs",
                json!(["1.2.3.4"]),
                "spec.externalIPs: Forbidden: is not supported by this version of Kutter: use a NodePort service",
            ),
            (
                "/spec/loadBalancerIP",
                json!("1.2.3.4"),
                "spec.loadBalancerIP: Forbidden: is not supported",
            ),
            (
                "/spec/loadBalancerClass",
                json!("a/b"),
                "spec.loadBalancerClass: Forbidden: is not supported",
            ),
            (
                "/spec/loadBalancerSourceRanges",
                json!(["1.2.3.4/32"]),
                "spec.loadBalancerSourceRanges: Forbidden: is not supported",
            ),
            (
                "/spec/healthCheckNodePort",
                json!(30001),
                "spec.healthCheckNodePort: Forbidden: is not supported",
            ),
            (
                "/spec/trafficDistribution",
                json!("PreferClose"),
                "spec.trafficDistribution: Forbidden: is not supported",
            ),
        ],
    );
    check::<Services>(
        &with(&node_port(), "/spec/sessionAffinity", json!("ClientIP")),
        vec![
            (
                "/spec/clusterIP",
                json!("None"),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                "/spec/externalTrafficPolicy",
                json!("Local"),
                "spec.externalTrafficPolicy: Forbidden: Local is not supported",
            ),
            (
                "/spec/sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": 86401}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ),
            (
                "/spec/ports",
                json!([{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30000}]),
                "spec.ports[1].nodePort: Duplicate value: 30000",
            ),
            (
                "/spec/ports",
                json!([{"name": "a", "port": 53, "nodePort": 30000}, {"name": "b", "port": 53, "protocol": "UDP", "nodePort": 30000}]),
                "",
            ),
        ],
    );
}

#[test]
fn an_external_name_is_a_name_and_nothing_else() {
    let external = json!({"metadata": {"name": "db"}, "spec": {"type": "ExternalName", "externalName": "db.example.com"}});
    check::<Services>(
        &external,
        vec![
            ("/spec/externalName", json!(""), "spec.externalName: Required value"),
            (
                "/spec/externalName",
                json!("a_b"),
                "spec.externalName: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain",
            ),
            (
                "/spec/clusterIP",
                json!("10.96.0.3"),
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            ),
            ("/spec/ipFamilies", json!(["IPv4"]), "spec.ipFamilies: Forbidden: may not be set"),
        ],
    );
    assert_eq!(allocated(&external, &[]).unwrap()["claims"], json!([]));
}

#[test]
fn names_are_dns_labels_that_start_with_a_letter() {
    assert_eq!(Services::validate_name("web-1"), Vec::<String>::new());
    assert!(Services::validate_name("1-web")[0].starts_with("a DNS-1035 label must consist"));
}

#[test]
fn an_address_is_picked_out_of_the_range_and_claimed() {
    let taken = [
        "service-ip/10.96.0.1",
        "service-ip/10.96.0.2",
        "service-ip/10.96.0.3",
        "service-ip/10.96.0.4",
        "service-ip/10.96.0.5",
    ];
    // The network's own address and the one for broadcast are never given out: one is left.
    let stored = allocated(&service(), &taken).unwrap();
    assert_eq!(stored["spec"]["clusterIP"], "10.96.0.6");
    assert_eq!(stored["spec"]["clusterIPs"], json!(["10.96.0.6"]));
    assert_eq!(stored["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(stored["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!(stored["claims"], json!(["service-ip/10.96.0.6"]));
    let mut all = taken.to_vec();
    all.push("service-ip/10.96.0.6");
    assert!(allocated(&service(), &all).unwrap_err().contains("range is full"));
}

#[test]
fn a_requested_address_is_given_if_it_can_be() {
    let ask = |ip: &str| {
        allocated(&with(&service(), "/spec/clusterIP", json!(ip)), &["service-ip/10.96.0.3"])
    };
    assert_eq!(ask("10.96.0.1").unwrap()["spec"]["clusterIPs"], json!(["10.96.0.1"]));
    assert_eq!(ask("None").unwrap()["claims"], json!([]));
    assert_eq!(
        ask("10.96.0.3").unwrap_err(),
        "spec.clusterIPs: Invalid value: [\"10.96.0.3\"]: failed to allocate IP 10.96.0.3: provided IP is already allocated"
    );
    for outside in ["10.97.0.1", "10.96.0.0", "10.96.0.7"] {
        assert!(
            ask(outside)
                .unwrap_err()
                .contains("is not in the valid range. The range of valid IPs is 10.96.0.0/29")
        );
    }
}

#[test]
fn node_ports_are_picked_and_claimed_by_protocol() {
    let stored = allocated(
        &node_port(),
        &["node-port/TCP/30000", "node-port/TCP/30001", "node-port/TCP/30003"],
    )
    .unwrap();
    assert_eq!(stored["spec"]["ports"][0]["nodePort"], 30002);
    assert!(stored["claims"].as_array().unwrap().contains(&json!("node-port/TCP/30002")));
    // One number for both protocols of one port.
    let dns = with(
        &node_port(),
        "/spec/ports",
        json!([
            {"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "web", "port": 80},
        ]),
    );
    let stored = allocated(&dns, &[]).unwrap();
    let ports: Vec<i64> =
        (0..3).map(|i| stored["spec"]["ports"][i]["nodePort"].as_i64().unwrap()).collect();
    assert_eq!(ports[0], ports[1]);
    assert_ne!(ports[0], ports[2]);
    assert!(ports.iter().all(|port| (30000..=30003).contains(port)));
}

#[test]
fn a_requested_node_port_is_given_if_it_can_be() {
    let ask = |port: i32| {
        allocated(
            &with(&node_port(), "/spec/ports/0/nodePort", json!(port)),
            &["node-port/TCP/30001"],
        )
    };
    assert_eq!(ask(30002).unwrap()["spec"]["ports"][0]["nodePort"], 30002);
    assert_eq!(
        ask(30001).unwrap_err(),
        "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
    );
    assert_eq!(
        ask(80).unwrap_err(),
        "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30003"
    );
}

#[test]
fn what_was_allocated_stays_over_updates() {
    let old = created::<Services>(&allocated(&node_port(), &[]).unwrap());
    let old_value = serde_json::to_value(&old).unwrap();
    let update = |manifest: &Value| {
        let mut new = serde_json::from_value(manifest.clone()).unwrap();
        Services::default(&mut new);
        Services::prepare_update(&mut new, &old);
        let errors =
            Services::validate(&new).into_iter().chain(Services::validate_update(&new, &old));
        assert_eq!(errors.map(|e| e.to_string()).collect::<Vec<_>>(), Vec::<String>::new());
        // What it holds itself is not in its way.
        Services::allocate(&mut new, Some(&old), &cluster("10.96.0.0/29"), &|claim| {
            Services::claims(&old).iter().any(|own| own == claim)
        })
        .unwrap();
        serde_json::to_value(&new).unwrap()
    };
    // A client that knows nothing of the allocation.
    let kept = update(&node_port());
    assert_eq!(kept["spec"], old_value["spec"]);
    // No longer a node port: the number goes, the address stays.
    let inner = update(&with(&old_value, "/spec/type", json!("ClusterIP")));
    assert_eq!(inner["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(inner["spec"].get("externalTrafficPolicy"), None);
    assert_eq!(inner["spec"]["clusterIP"], old_value["spec"]["clusterIP"]);
    // No longer an address at all.
    let mut external = with(&old_value, "/spec/type", json!("ExternalName"));
    external["spec"]["externalName"] = json!("example.com");
    let external = update(&external);
    assert_eq!(external["spec"].get("clusterIP"), None);
    assert_eq!(external["spec"].get("ipFamilies"), None);
}

#[test]
fn an_address_once_given_cannot_be_changed() {
    let old = with(&service(), "/spec/clusterIP", json!("10.96.0.3"));
    check_updates::<Services>(
        &old,
        vec![
            (
                "/spec/clusterIP",
                json!("10.96.0.4"),
                "spec.clusterIPs[0]: Invalid value: [\"10.96.0.4\"]: may not change once set",
            ),
            ("/spec/clusterIP", json!(null), ""),
            ("/spec/ports/0/port", json!(81), ""),
        ],
    );
    assert!(errors::<Services>(&old).is_empty());
}

#[test]
fn columns_are_those_of_kubectl() {
    let mut object = node_port();
    object["spec"]["clusterIP"] = json!("10.96.0.3");
    object["spec"]["ports"] = json!([{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
    assert_eq!(
        row::<Services>(&object),
        ["web", "NodePort", "10.96.0.3", "<none>", "80:30080/TCP,53/UDP", "60m", "app=web"]
    );
    object["spec"]["type"] = json!("LoadBalancer");
    assert_eq!(row::<Services>(&object)[3], "<pending>");
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
    assert_eq!(row::<Services>(&object)[3], "1.2.3.4");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    assert_eq!(
        row::<Services>(&external)[1..5],
        ["ExternalName", "<none>", "example.com", "<none>"]
    );
}
