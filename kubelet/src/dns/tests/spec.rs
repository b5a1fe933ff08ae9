//! The examples of Kubernetes' DNS specification, version 1.1, each as it stands there but for the times
//! for which answers hold.
//!
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>

use std::net::IpAddr;

use super::*;

/// What the examples are about: in the namespace `default` the Service `kubernetes`, a headless one and
/// one that is another name.
pub(super) fn example() -> ClusterState {
    let mut state = ClusterState {
        loaded: true,
        pod_cidrs: vec!["10.3.0.0/25".to_owned()],
        service_cidrs: vec!["10.3.0.0/24".to_owned(), "2001:db8::/112".to_owned()],
        cluster_domain: "cluster.local".to_owned(),
        ..ClusterState::default()
    };
    let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.3.0.128/25"}});
    state.node = Some(Arc::new(serde_json::from_value(node).unwrap()));
    let https = json!([{"name": "https", "protocol": "TCP", "port": 443}, {"port": 9000}]);
    let both = json!(["10.3.0.1", "2001:db8::1"]);
    put_service(
        &mut state,
        "default",
        "kubernetes",
        json!({"clusterIP": "10.3.0.1", "clusterIPs": both, "ports": https}),
    );
    put_service(&mut state, "default", "headless", json!({"clusterIP": "None", "ports": https}));
    for (name, endpoints) in [
        (
            "headless-4",
            json!([
                {"addresses": ["10.3.0.100"], "hostname": "my-pet"},
                {"addresses": ["10.3.0.2"], "hostname": "my-pet-2"},
                {"addresses": ["10.3.0.3"]},
                {"addresses": ["10.3.0.4"], "conditions": {"ready": false}},
            ]),
        ),
        ("headless-6", json!([{"addresses": ["2001:db8::2"], "hostname": "my-pet"}])),
    ] {
        let family = if name.ends_with('6') { "IPv6" } else { "IPv4" };
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "headless"}},
            "addressType": family, "endpoints": endpoints, "ports": https,
        });
        let key = ObjectKey::new("default", name);
        state.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
    }
    put_service(&mut state, "default", "empty", json!({"clusterIP": "None", "ports": https}));
    let alias = json!({"type": "ExternalName", "externalName": "www.example.com"});
    put_service(&mut state, "default", "foo", alias);
    state
}

/// Questions with their answers, of any order. Nothing: there is no such name.
pub(super) const EXAMPLES: [(&str, RecordType, &[&str]); 17] = {
    use RecordType as T;
    [
        // 2.2
        ("dns-version.cluster.local.", T::TXT, &["1.1.0"]),
        // 2.3.1
        ("kubernetes.default.svc.cluster.local.", T::A, &["10.3.0.1"]),
        ("kubernetes.default.svc.cluster.local.", T::AAAA, &["2001:db8::1"]),
        // 2.3.2
        (
            "_https._tcp.kubernetes.default.svc.cluster.local.",
            T::SRV,
            &["0 100 443 kubernetes.default.svc.cluster.local."],
        ),
        // 2.3.3
        ("1.0.3.10.in-addr.arpa.", T::PTR, &["kubernetes.default.svc.cluster.local."]),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
            T::PTR,
            &["kubernetes.default.svc.cluster.local."],
        ),
        // 2.4.1
        ("headless.default.svc.cluster.local.", T::A, &["10.3.0.100", "10.3.0.2", "10.3.0.3"]),
        ("headless.default.svc.cluster.local.", T::AAAA, &["2001:db8::2"]),
        ("empty.default.svc.cluster.local.", T::A, &[]),
        ("empty.default.svc.cluster.local.", T::AAAA, &[]),
        ("my-pet.headless.default.svc.cluster.local.", T::A, &["10.3.0.100"]),
        ("my-pet.headless.default.svc.cluster.local.", T::AAAA, &["2001:db8::2"]),
        ("10-3-0-3.headless.default.svc.cluster.local.", T::A, &["10.3.0.3"]),
        // 2.4.2
        (
            "_https._tcp.headless.default.svc.cluster.local.",
            T::SRV,
            &[
                "0 33 443 my-pet.headless.default.svc.cluster.local.",
                "0 33 443 my-pet-2.headless.default.svc.cluster.local.",
                "0 33 443 10-3-0-3.headless.default.svc.cluster.local.",
            ],
        ),
        // 2.4.3
        ("100.0.3.10.in-addr.arpa.", T::PTR, &["my-pet.headless.default.svc.cluster.local."]),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
            T::PTR,
            &["my-pet.headless.default.svc.cluster.local."],
        ),
        // 2.5
        ("foo.default.svc.cluster.local.", T::CNAME, &["www.example.com."]),
    ]
};

#[test]
fn the_examples_are_answered_as_they_stand_in_the_specification() {
    let state = example();
    let (zone, names) = (zone_of(&state).unwrap(), Names::of(objects(&state)));
    for (question, record_type, wanted) in EXAMPLES {
        let found = ask(&zone, &names, question, record_type);
        let found = found.split(" + ").next().unwrap_or_default();
        let mut found: Vec<&str> = found.split(", ").filter(|one| *one != "-").collect();
        let mut wanted = wanted.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{question} {record_type}");
    }
    // 2.1: in whatever letters it is asked.
    for (question, record_type, _) in EXAMPLES {
        let loud = ask(&zone, &names, &question.to_uppercase(), record_type);
        assert_eq!(loud, ask(&zone, &names, question, record_type));
    }
    // Unnamed ports have no record of their own.
    assert_eq!(zone.servers, ["10.3.0.129".parse::<IpAddr>().unwrap()]);
    let unnamed = "_._tcp.kubernetes.default.svc.cluster.local.";
    assert_eq!(ask(&zone, &names, unnamed, RecordType::SRV), "-");
}
