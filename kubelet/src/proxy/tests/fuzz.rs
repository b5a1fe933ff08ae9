//! The fuzzer's target, over a bounded number of cases.

use super::super::fuzzing;
use super::*;
use crate::fuzzing::run;

/// Pieces of slices that mean something: addresses of all kinds, ports out of range, other types.
const PIECES: [&[u8]; 23] = [
    b"10.244.0.2",
    b"fd00:244::2",
    b"::ffff:10.244.0.2",
    b"127.0.0.1",
    b"127.8.8.8",
    b"::1",
    b"::ffff:127.0.0.1",
    b"169.254.169.254",
    b"224.0.0.9",
    b"fe80::1",
    b"0.0.0.0",
    b"ff02::1",
    b"IPv6",
    b"FQDN",
    b"null",
    b"true",
    b"65536",
    b"-1",
    b"0",
    b"\"\"",
    b"{}",
    b"[]",
    b",{\"addresses\":[]}",
];

fn corpus() -> Vec<Vec<u8>> {
    let labels = json!({"kubernetes.io/service-name": "web"});
    let ports = json!([
        {"port": 8080}, {"name": "http", "port": 8081, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "sctp", "port": 54, "protocol": "SCTP"},
    ]);
    let end = |address: &str, extra: Value| {
        let mut end = json!({"addresses": [address], "nodeName": "here"});
        end.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        end
    };
    let slice = |version: &str, endpoints: Vec<Value>| {
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "default", "labels": labels},
            "addressType": version, "ports": ports, "endpoints": endpoints,
        });
        slice.to_string().into_bytes()
    };
    let gone = json!({"ready": false, "serving": true, "terminating": true});
    vec![
        slice(
            "IPv4",
            vec![end("10.244.0.2", json!({})), end("10.244.1.2", json!({"nodeName": "far"}))],
        ),
        slice("IPv6", vec![end("fd00:244::2", json!({"conditions": gone}))]),
        slice(
            "IPv4",
            vec![
                end(
                    "10.244.0.3",
                    json!({"hints": {"forZones": [{"name": "a"}]}, "hostname": "db-0"}),
                ),
                end("10.244.0.4", json!({"hints": {"forNodes": [{"name": "here"}]}})),
            ],
        ),
        slice("FQDN", vec![end("www.example.org", json!({}))]),
    ]
}

#[test]
fn any_slice_leads_to_its_own_addresses_or_nowhere() {
    run(fuzzing::endpoint_slice, &PIECES, &corpus());
}

#[test]
fn the_names_of_any_slice_lead_to_its_own_addresses_or_nowhere() {
    run(crate::dns::fuzzing::endpoint_slice, &PIECES, &corpus());
}
