//! The smaller kinds, from what users write to what is stored and shown.

mod cluster;
mod controllers;
mod events;
mod limits;
mod policies;
mod priority;
mod runtime;
mod settings;
mod traffic;

use serde_json::{Value, json};

use super::testing::{
    check, check_updates, created, defaulted, errors, row, selectable_fields, settles, with,
};
use super::*;
use crate::cache::MAX_FIELDS;

fn meta() -> Value {
    json!({"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T11:00:00Z"})
}

fn cluster() -> ClusterConfig {
    ClusterConfig {
        service_cidrs: "10.96.0.0/16".parse().unwrap(),
        pod_cidrs: "10.244.0.0/16".parse().unwrap(),
        node_prefixes: Default::default(),
        node_ports: (30000, 32767),
    }
}

#[test]
fn every_kind_has_as_many_cells_as_columns_and_stable_fields() {
    fn ask<K: Kind>(empty: Value) {
        row::<K>(&empty);
        settles_without_validation::<K>(&empty);
        let names: Vec<&str> = K::columns().iter().map(|column| column.name).collect();
        assert!(names.contains(&"Name"), "{names:?}");
        assert!(K::FIELDS.len() <= MAX_FIELDS);
        let registry = registry();
        let kind = registry.stored_as(K::RESOURCE.plural).unwrap();
        for field in K::FIELDS {
            let (last, above) = field.at.split_last().unwrap();
            let value = json!({*last: null});
            let nest = |value| above.iter().rev().fold(value, |below, name| json!({*name: below}));
            // Where a list is on the way, it holds objects.
            let trees = [nest(value.clone()), nest(json!([value]))];
            let decoded = trees.iter().find_map(|tree| kind.decode(tree).ok());
            assert!(decoded.is_some_and(|decoded| decoded.unknown.is_empty()), "{field:?}");
        }
    }
    fn settles_without_validation<K: Kind>(manifest: &Value) {
        let once = defaulted::<K>(manifest);
        let mut again: K::Object = serde_json::from_value(once.clone()).unwrap();
        K::default(&mut again);
        assert_eq!(serde_json::to_value(&again).unwrap(), once);
        // Whatever is wrong with an empty object, telling it must not panic.
        let _ = errors::<K>(manifest);
    }
    ask::<Pods>(json!({}));
    ask::<ReplicationControllers>(json!({}));
    ask::<Services>(json!({}));
    ask::<EndpointsKind>(json!({}));
    ask::<Nodes>(json!({}));
    ask::<Namespaces>(json!({}));
    ask::<Events>(json!({}));
    ask::<ConfigMaps>(json!({}));
    ask::<Secrets>(json!({}));
    ask::<ServiceAccounts>(json!({}));
    ask::<EndpointSlices>(json!({}));
    ask::<NetworkPolicies>(json!({}));
    ask::<ReplicaSets>(json!({}));
    ask::<Deployments>(json!({}));
    ask::<PodTemplates>(json!({}));
    ask::<Leases>(json!({}));
    ask::<PriorityClasses>(json!({}));
    ask::<RuntimeClasses>(json!({"handler": "x"}));
    ask::<LimitRanges>(json!({}));
    ask::<ResourceQuotas>(json!({}));
    ask::<EventsView>(json!({}));
}

#[test]
fn the_registry_has_every_kind_once() {
    let plurals: Vec<&str> = registry().stored().map(|kind| kind.resource().plural).collect();
    for plural in [
        "pods",
        "replicationcontrollers",
        "services",
        "endpoints",
        "endpointslices",
        "networkpolicies",
        "nodes",
        "namespaces",
        "events",
        "configmaps",
        "secrets",
        "serviceaccounts",
        "podtemplates",
        "deployments",
        "replicasets",
        "leases",
        "priorityclasses",
        "runtimeclasses",
        "limitranges",
        "resourcequotas",
    ] {
        assert_eq!(plurals.iter().filter(|found| **found == plural).count(), 1, "{plural}");
    }
}
