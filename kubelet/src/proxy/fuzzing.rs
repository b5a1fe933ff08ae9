//! What has to hold of every endpoint slice, whatever is in it: a target of the fuzzer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;
use proto::ObjectKey;
use proto::k8s::api::core::v1::Service;
use serde_json::json;

use super::diff::steps;
use super::endpoints::Here;
use super::model::{Model, News, Place};
use super::ranges::Ranges;
use crate::nft::expr::Ip;
use crate::state::EndpointSlice;

/// A slice as a master tells of it. What is kept of it can be written and read again; the Service's
/// addresses lead to addresses of its own version of IP that the slice has, and nowhere else: to none at
/// which everybody finds something else; and taking it away leaves what was before.
///
/// # Panics
/// When that does not hold.
pub fn endpoint_slice(input: &[u8]) {
    let Ok(slice) = serde_json::from_slice::<EndpointSlice>(input) else { return };
    let text = serde_json::to_string(&slice).expect("a slice can be written");
    let again: EndpointSlice = serde_json::from_str(&text).expect("what was written can be read");
    assert_eq!(again, slice, "of {text}");

    let key = ObjectKey::new("default", "web-1");
    let (service, slice) = (Arc::new(service()), Arc::new(slice));
    let owner = ObjectKey::new("default", "web");
    let mut model = Model::carrying_on(place(), Vec::new());
    let news = |services, slice: Option<Arc<EndpointSlice>>| News {
        everything: false,
        services,
        slices: vec![(key.clone(), slice)],
        place: place(),
    };
    model.update(news(vec![(owner, Some(service))], None));
    let before = model.rulesets().clone();
    let changed = model.update(news(Vec::new(), Some(slice.clone())));
    let known: BTreeSet<IpAddr> =
        slice.endpoints().flat_map(|endpoint| endpoint.addresses()).collect();
    for (ip, ruleset) in model.rulesets() {
        for (frontend, port) in ruleset.services() {
            assert_eq!(Ip::of(frontend.address), *ip);
            for target in port.targets() {
                let real = target.address.to_canonical();
                assert_eq!(Ip::of(target.address), *ip, "{target:?} of {text}");
                assert!(known.contains(&target.address), "{target:?} of {text}");
                assert!(NOBODYS.iter().all(|range| !range.contains(&real)), "{real} of {text}");
                assert!(slice.ports().any(|port| port.number == target.port), "of {text}");
            }
        }
    }
    // Whatever the rules say, they can be told to the kernel.
    drop(steps(None, &changed, model.rulesets()));
    model.update(news(Vec::new(), None));
    assert_eq!(*model.rulesets(), before, "after {text}");
}

/// Of this very host, of a wire alone, of many: nobody is sent there.
static NOBODYS: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    let ranges = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "fe80::/10",
        "ff00::/8",
    ];
    ranges.map(|range| range.parse().expect("a range")).into()
});

/// One whose ports have names, protocols and none.
fn service() -> Service {
    let object = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:96::10"],
            "type": "NodePort", "externalTrafficPolicy": "Local",
            "ports": [
                {"port": 80, "nodePort": 30080},
                {"name": "http", "port": 81, "nodePort": 30081},
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
                {"name": "sctp", "port": 54, "protocol": "SCTP", "nodePort": 30054},
            ],
        },
    });
    serde_json::from_value(object).expect("a Service")
}

fn place() -> Place {
    let ranges = |own: &str, services: &str| Ranges {
        own: own.parse().ok(),
        pods: own.parse().into_iter().collect(),
        services: services.parse().into_iter().collect(),
        ..Ranges::default()
    };
    Place {
        here: Here { node: "here".to_owned(), zone: Some("a".to_owned()) },
        addresses: vec![IpAddr::from([192, 0, 2, 10])],
        ranges: [
            (Ip::V4, ranges("10.244.0.0/24", "10.96.0.0/16")),
            (Ip::V6, ranges("fd00:244::/64", "fd00:96::/112")),
        ]
        .into(),
    }
}
