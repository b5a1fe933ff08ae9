//! What becomes of a Service when it is written once more.

use serde_json::{Value, json};

use super::super::super::Kind;
use super::super::super::testing::{check_updates, created, errors, with};
use super::super::Services;
use super::{allocated, cluster, node_port, service};

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
fn a_port_keeps_its_node_port_by_its_name() {
    let ports = |list: Value| with(&node_port(), "/spec/ports", list);
    let old = created::<Services>(&ports(json!([
        {"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30001},
    ])));
    let numbers = |list: Value| {
        let mut new = created::<Services>(&ports(list));
        Services::prepare_update(&mut new, &old);
        let ports = new.spec.unwrap().ports.unwrap();
        ports.into_iter().map(|port| port.node_port.unwrap_or(0)).collect::<Vec<_>>()
    };
    let renumbered = json!([{"name": "a", "port": 90}, {"name": "b", "port": 80}]);
    assert_eq!(numbers(renumbered), [30000, 30001]);
    let renamed = json!([{"name": "c", "port": 80}, {"name": "b", "port": 81}]);
    assert_eq!(numbers(renamed), [0, 30001]);
    // Another port asks for the number.
    let taken = json!([{"name": "a", "port": 80}, {"name": "c", "port": 82, "nodePort": 30000}]);
    assert_eq!(numbers(taken), [0, 30000]);
}

#[test]
fn an_address_once_given_cannot_be_changed() {
    let old = with(&service(), "/spec/clusterIP", json!("10.96.0.3"));
    // As kubectl patches: the newer field comes back as it was.
    check_updates::<Services>(
        &with(&old, "/spec/clusterIPs", json!(["10.96.0.3"])),
        vec![
            (
                "/spec/clusterIP",
                json!("10.96.0.4"),
                "spec.clusterIPs[0]: Invalid value: [\"10.96.0.4\"]: may not change once set",
            ),
            ("/spec/clusterIP", json!(""), ""),
        ],
    );
    let headless = with(&service(), "/spec/clusterIP", json!("None"));
    check_updates::<Services>(
        &headless,
        vec![(
            "/spec/clusterIP",
            json!("10.96.0.4"),
            "spec.clusterIPs[0]: Invalid value: [\"10.96.0.4\"]: may not change once set",
        )],
    );
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
fn a_change_of_the_type_takes_along_what_belongs_to_it() {
    let mut balanced = with(&service(), "/spec/type", json!("LoadBalancer"));
    balanced["spec"]["externalTrafficPolicy"] = json!("Local");
    balanced["spec"]["loadBalancerClass"] = json!("example.com/mine");
    let mut old = created::<Services>(&allocated(&balanced, &[]).unwrap());
    let reached = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}});
    old.status = Some(serde_json::from_value(reached).unwrap());
    let update = |kind: &str| {
        let mut new = old.clone();
        new.spec.as_mut().unwrap().type_ = Some(kind.to_owned());
        Services::default(&mut new);
        Services::prepare_update(&mut new, &old);
        assert!(Services::validate(&new).is_empty(), "{kind}");
        assert!(Services::validate_update(&new, &old).is_empty(), "{kind}");
        serde_json::to_value(&new).unwrap()
    };
    let node_port = update("NodePort");
    assert_eq!(node_port["spec"]["externalTrafficPolicy"], "Local");
    for field in ["healthCheckNodePort", "loadBalancerClass", "allocateLoadBalancerNodePorts"] {
        assert_eq!(node_port["spec"].get(field), None, "{field}");
    }
    assert_eq!(node_port["status"], json!({"loadBalancer": {}}));
    assert_eq!(update("ClusterIP")["spec"].get("externalTrafficPolicy"), None);
    assert_eq!(update("LoadBalancer")["status"], json!(old.status));
    check_updates::<Services>(
        &serde_json::to_value(&old).unwrap(),
        vec![
            ("/spec/loadBalancerClass", json!("example.com/other"), "spec.loadBalancerClass"),
            ("/spec/healthCheckNodePort", json!(null), ""),
            ("/spec/healthCheckNodePort", json!(1), "spec.healthCheckNodePort: Forbidden"),
        ],
    );
}
