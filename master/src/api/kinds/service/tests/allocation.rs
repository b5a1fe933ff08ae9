//! Which addresses and ports a Service gets.

use serde_json::json;

use super::super::super::testing::{errors, with};
use super::super::Services;
use super::{allocated, node_port, service};

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
fn node_ports_can_be_done_without() {
    let mut balanced = with(&service(), "/spec/type", json!("LoadBalancer"));
    balanced["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
    let stored = allocated(&balanced, &[]).unwrap();
    assert_eq!(stored["spec"]["ports"][0].get("nodePort"), None);
    // Who asks for a number gets it nevertheless.
    balanced["spec"]["ports"][0]["nodePort"] = json!(30001);
    assert_eq!(errors::<Services>(&balanced), Vec::<String>::new());
    let stored = allocated(&balanced, &[]).unwrap();
    assert!(stored["claims"].as_array().unwrap().contains(&json!("node-port/TCP/30001")));
}

#[test]
fn health_is_asked_for_at_a_node_port() {
    let mut local = with(&service(), "/spec/type", json!("LoadBalancer"));
    local["spec"]["externalTrafficPolicy"] = json!("Local");
    let stored = allocated(&local, &["node-port/TCP/30000", "node-port/TCP/30001"]).unwrap();
    let spec = &stored["spec"];
    let numbers = [&spec["ports"][0]["nodePort"], &spec["healthCheckNodePort"]];
    assert!(numbers == [30002, 30003] || numbers == [30003, 30002], "{numbers:?}");
    let claims = stored["claims"].as_array().unwrap();
    assert!(claims.contains(&json!("node-port/TCP/30002")), "{claims:?}");
    assert!(claims.contains(&json!("node-port/TCP/30003")), "{claims:?}");
    local["spec"]["healthCheckNodePort"] = json!(30001);
    assert_eq!(allocated(&local, &[]).unwrap()["spec"]["healthCheckNodePort"], 30001);
    let error = allocated(&local, &["node-port/TCP/30001"]).unwrap_err();
    assert_eq!(
        error,
        "spec.healthCheckNodePort: Invalid value: 30001: provided port is already allocated"
    );
}

#[test]
fn what_is_headless_and_without_selector_may_be_of_any_family() {
    let strangers = json!({
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {"clusterIP": "None", "ports": [{"port": 5432}]},
    });
    let stored = allocated(&strangers, &[]).unwrap();
    assert_eq!(stored["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(stored["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(errors::<Services>(&stored), Vec::<String>::new());
    let single = with(&strangers, "/spec/ipFamilyPolicy", json!("SingleStack"));
    assert_eq!(allocated(&single, &[]).unwrap()["spec"]["ipFamilies"], json!(["IPv4"]));
}
