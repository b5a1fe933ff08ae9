//! Where the traffic of Services goes.

use super::*;

#[test]
fn endpoints_keep_to_the_rules() {
    let endpoints = json!({
        "metadata": meta(),
        "subsets": [{"addresses": [{"ip": "10.244.0.2"}, {"ip": "10.244.0.3"}], "ports": [{"port": 80}, {"name": "b", "port": 81}]}],
    });
    let valid = with(&endpoints, "/subsets/0/ports/0/name", json!("a"));
    settles::<EndpointsKind>(&valid);
    check::<EndpointsKind>(
        &valid,
        vec![
            ("/subsets/0/ports/0/name", json!(null), "subsets[0].ports[0].name: Required value"),
            (
                "/subsets/0/addresses",
                json!([]),
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("x"),
                "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("127.0.0.1"),
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("0.0.0.0"),
                "subsets[0].addresses[0].ip: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("169.254.1.1"),
                "subsets[0].addresses[0].ip: Invalid value: \"169.254.1.1\": may not be in the link-local range",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("fe80::1"),
                "subsets[0].addresses[0].ip: Invalid value: \"fe80::1\": may not be in the link-local range",
            ),
            (
                "/subsets/0/addresses/0/ip",
                json!("224.0.0.5"),
                "subsets[0].addresses[0].ip: Invalid value: \"224.0.0.5\": may not be in the link-local \
                 multicast range",
            ),
            ("/subsets/0/ports/0/port", json!(0), "subsets[0].ports[0].port: Invalid value: 0"),
            (
                "/subsets/0/ports/0/protocol",
                json!("x"),
                "subsets[0].ports[0].protocol: Unsupported value: \"x\"",
            ),
        ],
    );
    assert_eq!(
        row::<EndpointsKind>(&valid),
        ["web", "10.244.0.2:80,10.244.0.3:80,10.244.0.2:81 + 1 more...", "60m"]
    );
    assert_eq!(row::<EndpointsKind>(&json!({"metadata": meta()}))[1], "<none>");
}

#[test]
fn endpoint_slices_keep_to_the_rules() {
    let slice = json!({
        "metadata": meta(), "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.2"], "nodeName": "n1"}],
        "ports": [{"port": 80}, {"name": "b", "port": 81}],
    });
    settles::<EndpointSlices>(&slice);
    check::<EndpointSlices>(
        &slice,
        vec![
            ("/addressType", json!(""), "addressType: Required value"),
            (
                "/addressType",
                json!("IPX"),
                "addressType: Unsupported value: \"IPX\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
            ),
            (
                "/addressType",
                json!("IPv6"),
                "endpoints[0].addresses[0]: Invalid value: \"10.244.0.2\": must be a valid IPv6 address",
            ),
            (
                "/endpoints/0/addresses",
                json!([]),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                "/endpoints/0/addresses/0",
                json!("127.0.0.1"),
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (
                "/endpoints/0/addresses/0",
                json!("169.254.1.1"),
                "endpoints[0].addresses[0]: Invalid value: \"169.254.1.1\": may not be in the link-local \
                 range",
            ),
            (
                "/endpoints/0/addresses/0",
                json!("224.0.0.5"),
                "endpoints[0].addresses[0]: Invalid value: \"224.0.0.5\": may not be in the link-local \
                 multicast range",
            ),
            ("/endpoints/0/nodeName", json!("A"), "endpoints[0].nodeName: Invalid value"),
            ("/endpoints/0/hints", json!({"forZones": [{"name": "a"}, {"name": "b"}]}), ""),
            (
                "/endpoints/0/hints",
                json!({"forZones": [{"name": "a"}, {"name": "a"}]}),
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
            ),
            (
                "/endpoints/0/hints",
                json!({"forNodes": [{"name": "A"}]}),
                "endpoints[0].hints.forNodes[0].name: Invalid value: \"A\"",
            ),
            (
                "/endpoints/0/hints",
                json!({"forNodes": vec![json!({"name": "a"}); 9]}),
                "endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items",
            ),
            // It cannot be written, and is dropped.
            ("/endpoints/0/deprecatedTopology", json!({"a b": "7"}), ""),
            ("/ports/1/name", json!(""), "ports[1].name: Duplicate value: \"\""),
            ("/ports/1/name", json!("B"), "ports[1].name: Invalid value: \"B\""),
            ("/ports/1/port", json!(0), "ports[1].port: Invalid value: 0"),
            (
                "/ports/1/appProtocol",
                json!("h2 c"),
                "ports[1].appProtocol: Invalid value: \"h2 c\"",
            ),
        ],
    );
    let named = |name: &str| {
        json!({
            "metadata": meta(), "addressType": "FQDN", "endpoints": [{"addresses": [name]}],
        })
    };
    assert_eq!(errors::<EndpointSlices>(&named("db.example.com.")), Vec::<String>::new());
    let short = errors::<EndpointSlices>(&named("db"));
    assert!(short[0].ends_with("at least two segments separated by dots"), "{short:?}");
    let many: Vec<Value> = (0..1001).map(|_| json!({"addresses": ["10.0.0.1"]})).collect();
    check::<EndpointSlices>(
        &slice,
        vec![(
            "/endpoints",
            json!(many),
            "endpoints: Too many: 1001: must have at most 1000 items",
        )],
    );
    check_updates::<EndpointSlices>(
        &with(&slice, "/endpoints", json!([])),
        vec![(
            "/addressType",
            json!("IPv6"),
            "addressType: Invalid value: \"IPv6\": field is immutable",
        )],
    );
    assert_eq!(row::<EndpointSlices>(&slice), ["web", "IPv4", "80,81", "10.244.0.2", "60m"]);
    let empty = json!({"metadata": meta(), "addressType": "IPv4"});
    assert_eq!(row::<EndpointSlices>(&empty)[2..4], ["<unset>", "<unset>"]);
}
