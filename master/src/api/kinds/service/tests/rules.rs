//! What is wrong with a Service.

use serde_json::{Value, json};

use super::super::super::Kind;
use super::super::super::testing::{check, created, with};
use super::super::Services;
use super::{allocated, node_port, service};

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
            ("/spec/ports/0/protocol", json!("SCTP"), ""),
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
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7",
            ),
            (
                "/spec/clusterIPs",
                json!(["10.96.0.1"]),
                "spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: must be empty when `clusterIP` is not specified",
            ),
            (
                "/metadata/annotations",
                json!({
                    "service.kubernetes.io/topology-aware-hints": "auto",
                    "service.kubernetes.io/topology-mode": "Auto",
                }),
                "metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"Auto\": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified",
            ),
            ("/metadata/annotations", json!({"service.kubernetes.io/topology-mode": "Auto"}), ""),
            (
                "/metadata/annotations",
                json!({"service.kubernetes.io/topology-mode": "PreferZone"}),
                "metadata.annotations[service.kubernetes.io/topology-mode]: Unsupported value: \"PreferZone\": supported values: \"Auto\", \"auto\", \"Disabled\", \"disabled\"",
            ),
            (
                "/metadata/annotations",
                json!({"service.beta.kubernetes.io/load-balancer-source-ranges": ""}),
                "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            ("/spec/selector", json!({"a b": "c"}), "spec.selector: Invalid value: \"a b\""),
            (
                "/spec/sessionAffinity",
                json!("Cookie"),
                "spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\"",
            ),
            (
                "/spec/ipFamilies",
                json!(["IPv4", "IPv4"]),
                "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
            ),
            (
                "/spec/ipFamilies",
                json!(["IPv5"]),
                "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
            ),
            (
                "/spec/ipFamilyPolicy",
                json!("Both"),
                "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
            ),
            ("/spec/internalTrafficPolicy", json!("Local"), ""),
            ("/spec/trafficDistribution", json!("PreferSameNode"), ""),
            ("/spec/externalIPs", json!(["192.0.2.1", "2001:db8::1"]), ""),
            // Without affinity it means nothing, and goes.
            ("/spec/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 5}}), ""),
            (
                "/spec/externalTrafficPolicy",
                json!("Cluster"),
                "spec.externalTrafficPolicy: Invalid value: \"Cluster\": may only be set for externally-accessible services",
            ),
            (
                "/spec/internalTrafficPolicy",
                json!("Near"),
                "spec.internalTrafficPolicy: Unsupported value: \"Near\"",
            ),
            (
                "/spec/allocateLoadBalancerNodePorts",
                json!(true),
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                "/spec/externalIPs",
                json!(["1.2.3.4", "127.0.0.1"]),
                "spec.externalIPs[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (
                "/spec/loadBalancerClass",
                json!("a/b"),
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                "/spec/loadBalancerSourceRanges",
                json!(["1.2.3.4/32"]),
                "spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                "/spec/healthCheckNodePort",
                json!(30001),
                "spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ),
            (
                "/spec/trafficDistribution",
                json!("Near"),
                "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
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
            ("/spec/externalTrafficPolicy", json!("Local"), ""),
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
            (
                "/spec/ports",
                json!([{"port": 80, "nodePort": 30000}]),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ExternalName'",
            ),
            ("/spec/externalName", json!("."), "spec.externalName: Required value"),
        ],
    );
    assert_eq!(allocated(&external, &[]).unwrap()["claims"], json!([]));
}

#[test]
fn a_balancer_says_where_it_is() {
    let balanced = with(&service(), "/spec/type", json!("LoadBalancer"));
    let wrong = |manifest: &Value, ingress: Value| {
        let mut service = created::<Services>(manifest);
        let status = json!({"loadBalancer": {"ingress": [ingress]}});
        service.status = Some(serde_json::from_value(status).unwrap());
        Services::default(&mut service);
        let errors = Services::validate_status_update(&service, &service);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (ingress, expected) in [
        (json!({"ip": "192.0.2.1"}), ""),
        (json!({"hostname": "lb.example.com"}), ""),
        (
            json!({"ip": "x"}),
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address",
        ),
        (
            json!({"ipMode": "VIP"}),
            "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
        ),
        (
            json!({"ip": "192.0.2.1", "ipMode": "Near"}),
            "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"Near\": supported values: \"Proxy\", \"VIP\"",
        ),
        (
            json!({"hostname": "192.0.2.1"}),
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
        ),
        (
            json!({"hostname": "a b"}),
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"a b\": a lowercase RFC 1123",
        ),
    ] {
        let found = wrong(&balanced, ingress.clone());
        match expected {
            "" => assert_eq!(found, Vec::<String>::new(), "{ingress}"),
            _ => assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}"),
        }
    }
    assert_eq!(
        wrong(&service(), json!({"ip": "192.0.2.1"})),
        [
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
        ]
    );
}

#[test]
fn what_only_a_balancer_has_keeps_to_the_rules() {
    let balanced = with(&service(), "/spec/type", json!("LoadBalancer"));
    check::<Services>(
        &balanced,
        vec![
            ("/spec/loadBalancerSourceRanges", json!(["192.0.2.0/24", " 2001:db8::/32 "]), ""),
            (
                "/spec/loadBalancerSourceRanges",
                json!(["192.0.2.7/24"]),
                "spec.loadBalancerSourceRanges[0]: Invalid value: \"192.0.2.7/24\": 192.0.2.7/24 does not begin its range: write 192.0.2.0/24",
            ),
            ("/spec/loadBalancerClass", json!("example.com/mine"), ""),
            (
                "/spec/loadBalancerClass",
                json!("a b"),
                "spec.loadBalancerClass: Invalid value: \"a b\": name part must consist of",
            ),
            ("/spec/loadBalancerIP", json!("192.0.2.7"), ""),
            (
                "/spec/loadBalancerIP",
                json!("node-1"),
                "spec.loadBalancerIP: Invalid value: \"node-1\": must be a valid IP address",
            ),
            (
                "/spec/ports/0/port",
                json!(10250),
                "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally",
            ),
            (
                "/spec/healthCheckNodePort",
                json!(30001),
                "spec.healthCheckNodePort: Invalid value: 30001: may only be set when",
            ),
        ],
    );
    let local = with(&balanced, "/spec/externalTrafficPolicy", json!("Local"));
    check::<Services>(
        &local,
        vec![
            ("/spec/healthCheckNodePort", json!(30001), ""),
            (
                "/spec/healthCheckNodePort",
                json!(70000),
                "spec.healthCheckNodePort: Invalid value: 70000: must be between",
            ),
        ],
    );
}
