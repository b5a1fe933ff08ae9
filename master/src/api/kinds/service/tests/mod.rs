//! Services, from what users write to what is stored.

mod allocation;
mod families;
mod rules;
mod updates;

use serde_json::{Value, json};

use super::super::testing::{created, defaulted, row, settles, with};
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

fn cluster(ranges: &str) -> ClusterConfig {
    ClusterConfig {
        service_cidrs: ranges.parse().unwrap(),
        pod_cidrs: "10.244.0.0/16,fd00:244::/48".parse().unwrap(),
        node_prefixes: Default::default(),
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
        with(
            &with(&service(), "/spec/clusterIP", json!("10.96.0.9")),
            "/spec/clusterIPs",
            json!(["10.96.0.9"]),
        ),
        with(
            &with(&service(), "/spec/clusterIP", json!("None")),
            "/spec/ipFamilyPolicy",
            json!("PreferDualStack"),
        ),
        with(&service(), "/spec/type", json!("LoadBalancer")),
        with(&service(), "/spec/sessionAffinity", json!("ClientIP")),
        json!({"metadata": {"name": "db"}, "spec": {"type": "ExternalName", "externalName": "db.example.com."}}),
    ] {
        settles::<Services>(&manifest);
    }
}

#[test]
fn names_are_dns_labels_that_start_with_a_letter() {
    assert_eq!(Services::validate_name("web-1"), Vec::<String>::new());
    assert!(Services::validate_name("1-web")[0].starts_with("a DNS-1035 label must consist"));
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
