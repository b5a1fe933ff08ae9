//! Who may talk to whom.

use super::*;

#[test]
fn network_policies_keep_to_the_rules() {
    let policy = json!({"metadata": meta(), "spec": {
        "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"protocol": "UDP", "port": "dns"}, {"protocol": "SCTP"}],
            "from": [
                {"podSelector": {}},
                {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {}},
                {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
            ],
        }],
        "egress": [{"ports": [{"protocol": "TCP", "port": 443}], "to": [{"ipBlock": {"cidr": "fd00::/8"}}]}],
    }});
    settles::<NetworkPolicies>(&policy);
    let port = "/spec/ingress/0/ports/0";
    let block = "/spec/ingress/0/from/2/ipBlock";
    let (number, end, protocol) =
        (format!("{port}/port"), format!("{port}/endPort"), format!("{port}/protocol"));
    let (cidr, except) = (format!("{block}/cidr"), format!("{block}/except/0"));
    check::<NetworkPolicies>(
        &policy,
        vec![
            (
                "/spec/podSelector/matchLabels/app",
                json!("-"),
                "spec.podSelector.matchLabels: Invalid value: \"-\"",
            ),
            (
                "/spec/podSelector/matchExpressions/0/operator",
                json!("Near"),
                "spec.podSelector.matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator",
            ),
            (
                "/spec/podSelector/matchExpressions/0/values",
                json!([]),
                "spec.podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
            (
                "/spec/policyTypes/0",
                json!("Both"),
                "spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Ingress\", \"Egress\"",
            ),
            (
                "/spec/policyTypes",
                json!(["Ingress", "Egress", "Ingress"]),
                "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Ingress\"]: may not specify more than two policyTypes",
            ),
            (
                &protocol,
                json!("ICMP"),
                "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
            ),
            (&number, json!(0), "spec.ingress[0].ports[0].port: Invalid value: 0: must be between"),
            (
                &number,
                json!("http"),
                "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
            ),
            (
                &number,
                json!(null),
                "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is not specified",
            ),
            (
                &end,
                json!(79),
                "spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`",
            ),
            (&end, json!(65536), "spec.ingress[0].ports[0].endPort: Invalid value: 65536: must be"),
            (
                "/spec/ingress/0/ports/1/port",
                json!("a--b"),
                "spec.ingress[0].ports[1].port: Invalid value: \"a--b\": must not contain consecutive",
            ),
            (
                "/spec/ingress/0/from/0",
                json!({}),
                "spec.ingress[0].from[0]: Required value: must specify a peer",
            ),
            (
                "/spec/ingress/0/from/2/podSelector",
                json!({}),
                "spec.ingress[0].from[2]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (&cidr, json!(""), "spec.ingress[0].from[2].ipBlock.cidr: Required value"),
            (
                &cidr,
                json!("10.0.0.0"),
                "spec.ingress[0].from[2].ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a valid CIDR value",
            ),
            (
                &except,
                json!("11.0.0.0/16"),
                "spec.ingress[0].from[2].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                &except,
                json!("10.0.0.0/8"),
                "spec.ingress[0].from[2].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            ),
            (
                &except,
                json!("fd00::/16"),
                "spec.ingress[0].from[2].ipBlock.except[0]: Invalid value: \"fd00::/16\": must be a strict subset of `cidr`",
            ),
            (
                "/spec/egress/0/to/0/namespaceSelector",
                json!({}),
                "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
        ],
    );
}

#[test]
fn a_policy_isolates_what_it_has_rules_for() {
    let types = |spec: Value| {
        defaulted::<NetworkPolicies>(&json!({"metadata": meta(), "spec": spec}))["spec"]["policyTypes"].clone()
    };
    assert_eq!(types(json!({"podSelector": {}})), json!(["Ingress"]));
    assert_eq!(types(json!({"podSelector": {}, "egress": []})), json!(["Ingress"]));
    assert_eq!(types(json!({"podSelector": {}, "egress": [{}]})), json!(["Ingress", "Egress"]));
    assert_eq!(types(json!({"podSelector": {}, "policyTypes": ["Egress"]})), json!(["Egress"]));
    let ports = json!({"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]});
    let policy = defaulted::<NetworkPolicies>(&json!({"metadata": meta(), "spec": ports}));
    assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
}

#[test]
fn a_policy_shows_whom_it_applies_to() {
    let policy = |selector: Value| json!({"metadata": meta(), "spec": {"podSelector": selector}});
    assert_eq!(row::<NetworkPolicies>(&policy(json!({}))), ["web", "<none>", "60m"]);
    let some = policy(json!({"matchLabels": {"app": "web"}}));
    assert_eq!(row::<NetworkPolicies>(&some)[1], "app=web");
}
