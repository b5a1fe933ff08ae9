//! Where endpoints are, and for whom they are meant: zones and `trafficDistribution`. Pure.

pub(crate) mod auto;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};
use proto::k8s as k8s_openapi;

use super::addresses::Group;

/// The label that says in which zone a node is.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// Says of each endpoint its zone and, when the Service wishes traffic to stay close, for which zone
/// and node it is meant. Each is meant for its own: nodes take what is meant for them as long as there
/// is any, and everything otherwise.
pub(crate) fn place(
    groups: &mut BTreeMap<Group, Vec<Endpoint>>,
    spec: &ServiceSpec,
    zone_of: impl Fn(&str) -> Option<String>,
) {
    let (zones, nodes) = match spec.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => (true, false),
        Some("PreferSameNode") => (true, true),
        _ => (false, false),
    };
    for endpoint in groups.values_mut().flatten() {
        endpoint.zone = endpoint.node_name.as_deref().and_then(&zone_of);
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        let (zone, node) = (endpoint.zone.clone(), endpoint.node_name.clone());
        let for_zones = zone.filter(|_| zones).map(|name| vec![ForZone { name }]);
        let for_nodes = node.filter(|_| nodes).map(|name| vec![ForNode { name }]);
        let meant = ready == Some(true) && (for_zones.is_some() || for_nodes.is_some());
        endpoint.hints = meant.then_some(EndpointHints { for_nodes, for_zones });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::endpoints::addresses::Family;

    fn placed(distribution: Value) -> Value {
        let endpoint = |node: &str, ready: bool| -> Endpoint {
            let conditions = json!({"ready": ready});
            let endpoint = json!({"addresses": [], "nodeName": node, "conditions": conditions});
            serde_json::from_value(endpoint).unwrap()
        };
        let endpoints = vec![endpoint("a", true), endpoint("b", false), endpoint("c", true)];
        let mut groups = BTreeMap::from([((Family::V4, Vec::new()), endpoints)]);
        let spec = serde_json::from_value(json!({"trafficDistribution": distribution})).unwrap();
        // The node c is in no zone.
        place(&mut groups, &spec, |node| (node != "c").then(|| format!("zone-{node}")));
        let told =
            groups.values().flatten().map(|one| json!({"zone": one.zone, "hints": one.hints}));
        Value::Array(told.collect())
    }

    #[test]
    fn an_endpoint_says_its_zone_and_is_meant_for_everybody() {
        assert_eq!(
            placed(Value::Null),
            json!([
                {"zone": "zone-a", "hints": null},
                {"zone": "zone-b", "hints": null},
                {"zone": null, "hints": null},
            ])
        );
    }

    #[test]
    fn traffic_that_shall_stay_close_is_hinted_at_by_zone() {
        for word in ["PreferClose", "PreferSameZone"] {
            let placed = placed(json!(word));
            assert_eq!(placed[0]["hints"], json!({"forZones": [{"name": "zone-a"}]}));
            assert_eq!(placed[1]["hints"], Value::Null, "not ready");
            assert_eq!(placed[2]["hints"], Value::Null, "in no zone");
        }
    }

    #[test]
    fn traffic_that_shall_stay_on_its_node_falls_back_to_the_zone() {
        let placed = placed(json!("PreferSameNode"));
        assert_eq!(
            placed[0]["hints"],
            json!({"forNodes": [{"name": "a"}], "forZones": [{"name": "zone-a"}]})
        );
        assert_eq!(placed[2]["hints"], json!({"forNodes": [{"name": "c"}]}));
    }
}
