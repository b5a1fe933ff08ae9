//! The zone, and how it follows changes.

use std::net::IpAddr;

use super::*;

#[test]
fn names_are_answered_as_the_specification_has_them() {
    use RecordType as T;
    let state = state();
    let (zone, names) = (zone_of(&state).unwrap(), Names::of(objects(&state)));
    let cases = [
        // A Service with an address.
        ("web.shop.svc.cluster.local", T::A, "10.96.0.10"),
        ("WEB.Shop.SVC.Cluster.LOCAL", T::A, "10.96.0.10"),
        ("web.shop.svc.cluster.local", T::AAAA, "fd00:10:96::10"),
        ("web.shop.svc.cluster.local", T::TXT, "nothing"),
        (
            "_http._tcp.web.shop.svc.cluster.local",
            T::SRV,
            "0 100 80 web.shop.svc.cluster.local. + 10.96.0.10, fd00:10:96::10",
        ),
        (
            "_dns._udp.web.shop.svc.cluster.local",
            T::SRV,
            "0 100 53 web.shop.svc.cluster.local. + 10.96.0.10, fd00:10:96::10",
        ),
        ("_http._tcp.web.shop.svc.cluster.local", T::A, "nothing"),
        ("_http._udp.web.shop.svc.cluster.local", T::SRV, "-"),
        ("_tcp.web.shop.svc.cluster.local", T::SRV, "nothing"),
        ("_sctp.web.shop.svc.cluster.local", T::SRV, "-"),
        ("x.web.shop.svc.cluster.local", T::A, "-"),
        ("10.0.96.10.in-addr.arpa", T::PTR, "web.shop.svc.cluster.local."),
        ("10.0.96.10.in-addr.arpa", T::A, "nothing"),
        // A headless one.
        ("db.shop.svc.cluster.local", T::A, "10.244.1.7, 10.244.2.8"),
        ("db.shop.svc.cluster.local", T::AAAA, "fd00:10:244:1::7, fd00:10:244:2::"),
        ("db.shop.svc.cluster.local", T::MX, "nothing"),
        ("db-0.db.shop.svc.cluster.local", T::A, "10.244.1.7"),
        ("db-0.db.shop.svc.cluster.local", T::AAAA, "fd00:10:244:1::7"),
        ("fd00-10-244-2--0.db.shop.svc.cluster.local", T::AAAA, "fd00:10:244:2::"),
        ("fd00-10-244-2--0.db.shop.svc.cluster.local", T::A, "nothing"),
        // One that has a name has no other.
        ("10-244-1-7.db.shop.svc.cluster.local", T::A, "-"),
        ("10-244-2-8.db.shop.svc.cluster.local", T::A, "10.244.2.8"),
        ("10-244-2-9.db.shop.svc.cluster.local", T::A, "-"),
        (
            "_http._tcp.db.shop.svc.cluster.local",
            T::SRV,
            "0 33 8080 db-0.db.shop.svc.cluster.local., \
             0 33 8080 10-244-2-8.db.shop.svc.cluster.local., \
             0 33 8080 fd00-10-244-2--0.db.shop.svc.cluster.local. \
             + 10.244.1.7, fd00:10:244:1::7, 10.244.2.8, fd00:10:244:2::",
        ),
        ("_tcp.db.shop.svc.cluster.local", T::SRV, "nothing"),
        ("_http._udp.db.shop.svc.cluster.local", T::SRV, "-"),
        // Endpoints of one with an address have names, too.
        ("10-244-1-5.web.shop.svc.cluster.local", T::A, "10.244.1.5"),
        ("10-244-1-6.web.shop.svc.cluster.local", T::A, "-"),
        ("10-244-2-8.web.shop.svc.cluster.local", T::A, "-"),
        ("none.shop.svc.cluster.local", T::A, "-"),
        // Another name.
        ("far.shop.svc.cluster.local", T::A, "www.example.org."),
        ("far.shop.svc.cluster.local", T::CNAME, "www.example.org."),
        ("x.far.shop.svc.cluster.local", T::A, "-"),
        ("_http._tcp.far.shop.svc.cluster.local", T::SRV, "-"),
        // An address is nobody's alias.
        ("number.shop.svc.cluster.local", T::A, "-"),
        // One family only.
        ("six.shop.svc.cluster.local", T::AAAA, "fd00:10:96::20"),
        ("six.shop.svc.cluster.local", T::A, "nothing"),
        // There are no wildcards, and who asks for anything gets something.
        ("*.shop.svc.cluster.local", T::A, "-"),
        ("any.shop.svc.cluster.local", T::A, "-"),
        ("web.*.svc.cluster.local", T::A, "-"),
        ("*._tcp.web.shop.svc.cluster.local", T::SRV, "-"),
        ("web.shop.svc.cluster.local", T::ANY, "10.96.0.10"),
        ("six.shop.svc.cluster.local", T::ANY, "fd00:10:96::20"),
        // Pods by their address.
        ("fd00-10-244-2--8.shop.pod.cluster.local", T::AAAA, "fd00:10:244:2::8"),
        ("192-0-2-21.shop.pod.cluster.local", T::A, "192.0.2.21"),
        ("10-244-2-8.shop.pod.cluster.local", T::AAAA, "nothing"),
        ("10-244-2-8.shop.pod.cluster.local", T::A, "10.244.2.8"),
        ("192-0-2-1.shop.pod.cluster.local", T::A, "-"),
        ("x.shop.pod.cluster.local", T::A, "-"),
        // The zone.
        ("dns-version.cluster.local", T::TXT, "1.1.0"),
        ("cluster.local", T::A, "nothing"),
        ("dns-version.cluster.local", T::A, "nothing"),
        ("cluster.local", T::NS, "ns.dns.cluster.local. + 10.244.1.1, fd00:10:244:1::1"),
        ("cluster.local", T::DS, "nothing"),
        ("web.shop.svc.cluster.local", T::NS, "nothing"),
        ("ns.dns.cluster.local", T::A, "10.244.1.1"),
        ("ns.dns.cluster.local", T::AAAA, "fd00:10:244:1::1"),
        ("svc.cluster.local", T::A, "nothing"),
        ("shop.svc.cluster.local", T::A, "nothing"),
        ("empty.svc.cluster.local", T::A, "-"),
        ("web.empty.svc.cluster.local", T::A, "-"),
        ("missing.shop.svc.cluster.local", T::A, "-"),
        ("www.example.org.cluster.local", T::A, "-"),
        // What is not the cluster's.
        ("www.example.org", T::A, "elsewhere"),
        ("local", T::A, "elsewhere"),
        ("1.2.0.192.in-addr.arpa", T::PTR, "elsewhere"),
        ("10.in-addr.arpa", T::PTR, "elsewhere"),
    ];
    for (question, record_type, wanted) in cases {
        assert_eq!(ask(&zone, &names, question, record_type), wanted, "{question} {record_type}");
    }
    let reverse = [
        ("10.0.96.10", "elsewhere"),
        ("10.96.0.10", "web.shop.svc.cluster.local."),
        // Names that somebody chose come first.
        ("10.244.1.7", "db-0.db.shop.svc.cluster.local., 10-244-1-7.web.shop.svc.cluster.local."),
        ("10.244.1.5", "10-244-1-5.web.shop.svc.cluster.local."),
        ("fd00:10:96::10", "web.shop.svc.cluster.local."),
        ("fd00:10:244:1::7", "db-0.db.shop.svc.cluster.local."),
        ("fd00:10:244:9::7", "-"),
        ("2001:db8::1", "elsewhere"),
        ("192.0.2.21", "elsewhere"),
        ("10.244.2.8", "10-244-2-8.db.shop.svc.cluster.local."),
        ("10.244.2.9", "-"),
        ("10.96.0.11", "-"),
    ];
    for (address, wanted) in reverse {
        let question = Name::from(address.parse::<IpAddr>().unwrap()).to_string();
        assert_eq!(ask(&zone, &names, &question, T::PTR), wanted, "{address}");
    }
    let several = name("db.shop.svc.cluster.local");
    let asked = Asked { name: &several, record_type: T::A, turn: 1, most: 4096 };
    let Answer::Records { answers, .. } = zone.answer(&names, asked) else { panic!("no records") };
    assert_eq!(answers.iter().map(told).collect::<Vec<_>>(), ["10.244.2.8", "10.244.1.7"]);
}

/// Changes a state, given what makes endpoints of an address.
type Edit = fn(&mut ClusterState, &dyn Fn(&str) -> Value) -> Change;

#[test]
fn names_follow_what_changes() {
    let mut state = state();
    let mut names = Names::of(objects(&state));
    let zone = zone_of(&state).unwrap();
    let endpoint = |address: &str| json!([{"addresses": [address]}]);
    let changes: [Edit; 11] = [
        // An endpoint that is not ready any more, and one that comes.
        |state, _| {
            let endpoints = json!([
                {"addresses": ["10.244.1.7"], "hostname": "db-0", "conditions": {"ready": false}},
                {"addresses": ["10.244.2.8"]},
                {"addresses": ["10.244.2.9"], "hostname": "db-9"},
            ]);
            put_slice(state, "db", "db-1", endpoints)
        },
        |state, one| put_slice(state, "web", "web-1", one("10.244.1.5")),
        |state, one| put_slice(state, "db", "db-1", one("10.244.1.20")),
        |state, one| put_slice(state, "db", "db-2", one("10.244.1.21")),
        // A slice that changes hands.
        |state, one| put_slice(state, "none", "db-2", one("10.244.1.21")),
        |state, _| put_service(state, "shop", "web", json!({"clusterIP": "10.96.0.99"})),
        // From an address to none, and to another name.
        |state, _| put_service(state, "shop", "web", json!({"clusterIP": "None"})),
        |state, _| put_service(state, "shop", "db", json!({"clusterIP": "10.96.0.50"})),
        |state, _| {
            let key = ObjectKey::new("shop", "db-1");
            state.endpoint_slices.remove(&key);
            Change::EndpointSlice(key)
        },
        |state, _| {
            let key = ObjectKey::new("shop", "db");
            state.services.remove(&key);
            Change::Service(key)
        },
        |state, _| put_service(state, "other", "first", json!({"clusterIP": "10.96.0.60"})),
    ];
    let questions = [
        ("web.shop.svc.cluster.local", RecordType::A),
        ("db.shop.svc.cluster.local", RecordType::A),
        ("none.shop.svc.cluster.local", RecordType::A),
        ("first.other.svc.cluster.local", RecordType::A),
        ("other.svc.cluster.local", RecordType::A),
        ("20.1.244.10.in-addr.arpa", RecordType::PTR),
        ("21.1.244.10.in-addr.arpa", RecordType::PTR),
        ("7.1.244.10.in-addr.arpa", RecordType::PTR),
        ("5.1.244.10.in-addr.arpa", RecordType::PTR),
        ("9.2.244.10.in-addr.arpa", RecordType::PTR),
        ("db-9.db.shop.svc.cluster.local", RecordType::A),
        ("10-244-1-20.db.shop.svc.cluster.local", RecordType::A),
        ("10-244-1-21.none.shop.svc.cluster.local", RecordType::A),
        ("10.0.96.10.in-addr.arpa", RecordType::PTR),
        ("99.0.96.10.in-addr.arpa", RecordType::PTR),
        ("50.0.96.10.in-addr.arpa", RecordType::PTR),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let change = change(&mut state, &endpoint);
        names.follow(&change, &state);
        let anew = Names::of(objects(&state));
        for (question, record_type) in questions {
            let followed = ask(&zone, &names, question, record_type);
            let wanted = ask(&zone, &anew, question, record_type);
            assert_eq!(followed, wanted, "change {number}: {question}");
        }
    }
}

#[test]
fn renewed_names_are_those_of_a_newcomer_and_what_stayed_is_left_alone() {
    let mut state = state();
    let mut names = Names::of(objects(&state));
    assert!(names.renewals(objects(&state)).is_empty());
    // One goes, one comes, one changes; of the slices one goes, one changes, one is another Service's now.
    state.services.remove(&ObjectKey::new("shop", "six"));
    state.endpoint_slices.remove(&ObjectKey::new("shop", "db-6"));
    put_service(&mut state, "other", "new", json!({"clusterIP": "10.96.0.99"}));
    put_service(&mut state, "shop", "web", json!({"clusterIP": "10.96.0.11"}));
    put_slice(&mut state, "db", "db-1", json!([{"addresses": ["10.244.1.99"]}]));
    put_slice(&mut state, "db", "web-1", json!([{"addresses": ["10.244.1.5"]}]));
    let renewals = names.renewals(objects(&state));
    assert_eq!(renewals.len(), 6, "{renewals:?}");
    renewals.into_iter().for_each(|renewal| names.renew(renewal));
    assert_eq!(names, Names::of(objects(&state)));
}
