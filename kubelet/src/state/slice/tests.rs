use serde_json::json;

use super::*;

fn slice() -> EndpointSlice {
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "web-x", "namespace": "shop", "uid": "7",
            "labels": {"kubernetes.io/service-name": "web", "other": "label"},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 8080, "appProtocol": "h2c"},
            {"name": "all", "protocol": "UDP"}, {"port": 53}, {"name": "wide", "port": 70000},
        ],
        "endpoints": [
            {"addresses": ["10.0.0.1", "10.0.0.9"], "nodeName": "n1", "zone": "a", "hostname": "db-0",
                "hints": {"forZones": [{"name": "a"}, {"name": "b"}]},
                "targetRef": {"kind": "Pod", "name": "db-0"}},
            {"addresses": ["10.0.0.2"], "nodeName": "n1", "conditions": {"ready": true},
                "hints": {"forNodes": [{"name": "n1"}]}},
            {"addresses": ["10.0.0.3"], "nodeName": "n2", "conditions": {"ready": false, "serving": true,
                "terminating": true}, "hints": {"forNodes": [{"name": "n1"}]}},
            {"addresses": ["10.0.0.4"], "hostname": "", "conditions": {"ready": false}},
            {"addresses": ["example.org"]},
        ],
    });
    serde_json::from_value(object).unwrap()
}

#[test]
fn what_proxy_and_names_read_is_kept() {
    let slice = slice();
    let owner = slice.owner(&ObjectKey::new("shop", "web-x")).unwrap();
    assert_eq!((owner, slice.ip()), (ObjectKey::new("shop", "web"), Some(Ip::V4)));
    let ports: Vec<_> = slice.ports().map(|one| (one.name, one.protocol, one.number)).collect();
    assert_eq!(ports, [("http", "TCP", 8080), ("", "TCP", 53)]);
    let ends: Vec<_> = slice.endpoints().collect();
    let first: Vec<String> = ends[0].addresses().map(|address| address.to_string()).collect();
    assert_eq!(first, ["10.0.0.1", "10.0.0.9"]);
    assert_eq!((ends[0].node(), ends[0].hostname()), (Some("n1"), Some("db-0")));
    assert_eq!(ends[0].for_zones().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(ends[0].for_nodes().count(), 0);
    assert_eq!(ends[1].for_nodes().collect::<Vec<_>>(), ["n1"]);
    assert_eq!((ends[3].node(), ends[3].hostname(), ends.len()), (None, None, 4));
    let standings: Vec<_> = ends.iter().map(|end| end.standing()).collect();
    let [ready, leaving, out] = [Standing::Ready, Standing::Leaving, Standing::Out];
    assert_eq!(standings, [ready, ready, leaving, out]);
}

#[test]
fn nobody_is_sent_to_an_address_that_means_something_else_to_everybody() {
    let endpoints = |addresses: &[&str]| {
        let object = json!({
            "metadata": {}, "addressType": "IPv4", "ports": null,
            "endpoints": [{"addresses": addresses}],
        });
        let slice: EndpointSlice = serde_json::from_value(object).unwrap();
        let all = slice.endpoints().flat_map(|endpoint| endpoint.addresses());
        all.map(|address| address.to_string()).collect::<Vec<_>>()
    };
    for refused in [
        "127.0.0.1",
        "127.255.255.255",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "239.1.2.3",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.0.1",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "ff0e::1",
    ] {
        assert!(endpoints(&[refused]).is_empty(), "{refused}");
        assert!(endpoints(&[refused, "10.0.0.1"]).is_empty(), "the first counts: {refused}");
        assert_eq!(endpoints(&["10.0.0.1", refused]), ["10.0.0.1"], "{refused}");
    }
    for allowed in
        ["10.0.0.1", "126.0.0.1", "128.0.0.1", "169.253.0.1", "203.0.113.1", "fd00::1", "fec0::1"]
    {
        assert_eq!(endpoints(&[allowed]), [allowed]);
    }
}

#[test]
fn what_was_written_is_read_again() {
    for slice in [
        slice(),
        serde_json::from_value(json!({
            "metadata": {}, "addressType": "FQDN", "ports": null, "endpoints": null,
        }))
        .unwrap(),
    ] {
        let text = serde_json::to_string(&slice).unwrap();
        assert_eq!(serde_json::from_str::<EndpointSlice>(&text).unwrap(), slice, "{text}");
    }
}

#[test]
fn what_is_the_same_is_there_once() {
    let slice = slice();
    assert_eq!(&*slice.texts.all, "httpTCPn1db-0abn2");
    assert_eq!(slice.traits.len(), 2);
    assert_eq!(size_of::<Packed>(), 32);
}

#[test]
fn what_is_no_slice_is_refused() {
    for text in [
        "{}",
        r#"{"metadata": {}}"#,
        r#"{"metadata": {}, "addressType": "IPv4", "endpoints": [{}]}"#,
    ] {
        assert!(serde_json::from_str::<EndpointSlice>(text).is_err(), "{text}");
    }
}
