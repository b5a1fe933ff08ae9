//! Decisions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::{Contents, charge, count, to_wire};
use crate::api::kinds::{ConfigMaps, Deployments, Kind, Pods, Services};
use crate::api::registry::AnyObject;

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn quota(spec: Value, used: Value) -> ResourceQuota {
    let quota = json!({"metadata": {"name": "q"}, "spec": spec, "status": {"used": used}});
    serde_json::from_value(quota).unwrap()
}

fn hard(hard: Value, used: Value) -> ResourceQuota {
    quota(json!({"hard": hard}), used)
}

fn pod(requests: Value, limits: Value) -> Pod {
    serde_json::from_value(json!({"spec": {"containers": [
        {"name": "main", "resources": {"requests": requests, "limits": limits}},
    ]}}))
    .unwrap()
}

fn service(type_: &str, ports: usize) -> Service {
    let ports = vec![json!({"port": 80}); ports];
    serde_json::from_value(json!({"spec": {"type": type_, "ports": ports}})).unwrap()
}

/// What the quota has used afterwards, or what it says.
fn told<K: Kind>(quota: &ResourceQuota, object: &K::Object, old: Option<&K::Object>) -> Value {
    let old = old.map(|old| old as &dyn AnyObject);
    let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
    match charge(quota, used, &K::RESOURCE, object, old, now()) {
        Ok(None) => Value::Null,
        Ok(Some(used)) => json!(to_wire(used)),
        Err(why) => json!(why),
    }
}

#[test]
fn what_is_created_is_counted_in_until_it_is_too_much() {
    let small = pod(json!({"cpu": "100m", "memory": "1Gi"}), json!({"cpu": "1"}));
    let nothing = pod(json!({}), json!({}));
    for (hard_, used, pod, expected) in [
        (json!({"pods": "2"}), json!({"pods": "1"}), &small, json!({"pods": "2"})),
        (
            json!({"pods": "2"}),
            json!({"pods": "2"}),
            &small,
            json!("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        ),
        (
            json!({"pods": "5", "requests.cpu": "150m", "memory": "9Gi", "limits.cpu": "1"}),
            json!({"pods": "0", "requests.cpu": "100m", "memory": "0", "limits.cpu": "1"}),
            &small,
            json!(
                "exceeded quota: q, requested: limits.cpu=1,requests.cpu=100m, used: \
                 limits.cpu=1,requests.cpu=100m, limited: limits.cpu=1,requests.cpu=150m"
            ),
        ),
        (
            json!({"requests.memory": "2Gi", "cpu": "1"}),
            json!({"requests.memory": "512Mi", "cpu": "0"}),
            &small,
            json!({"requests.memory": "1536Mi", "cpu": "100m"}),
        ),
        (
            json!({"limits.cpu": "2", "requests.cpu": "2"}),
            json!({"limits.cpu": "0", "requests.cpu": "0"}),
            &nothing,
            json!("failed quota: q: must specify limits.cpu for: main; requests.cpu for: main"),
        ),
        (json!({"services": "1"}), json!({"services": "0"}), &nothing, Value::Null),
        (
            json!({"count/pods": "3"}),
            json!({"count/pods": "2"}),
            &small,
            json!({"count/pods": "3"}),
        ),
        (
            json!({"pods": "3"}),
            json!({}),
            &small,
            json!("status unknown for quota: q, resources: pods"),
        ),
        // Of things that no pod may ask for, none does.
        (json!({"requests.nvidia.com/gpu": "0"}), json!({}), &small, Value::Null),
    ] {
        assert_eq!(told::<Pods>(&hard(hard_.clone(), used), pod, None), expected, "{hard_}");
    }
}

#[test]
fn what_running_a_pod_takes_counts_too() {
    let mut pod = pod(json!({"cpu": "2"}), json!({"cpu": "3"}));
    pod.spec.as_mut().unwrap().overhead =
        serde_json::from_value(json!({"cpu": "100m", "memory": "1Gi"})).unwrap();
    let quota = hard(
        json!({"cpu": "9", "requests.memory": "9Gi", "limits.cpu": "9"}),
        json!({"cpu": "0", "requests.memory": "0", "limits.cpu": "0"}),
    );
    assert_eq!(
        told::<Pods>(&quota, &pod, None),
        json!("failed quota: q: must specify requests.memory for: main")
    );
    let quota =
        hard(json!({"cpu": "9", "limits.cpu": "9"}), json!({"cpu": "0", "limits.cpu": "0"}));
    let used = json!({"cpu": "2100m", "limits.cpu": "3100m"});
    assert_eq!(told::<Pods>(&quota, &pod, None), used);
}

#[test]
fn sidecars_count_with_the_containers_and_init_containers_beside_them() {
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    for (initial, expected) in [
        (json!([{"name": "i", "resources": cpu("3")}]), "3"),
        (json!([{"name": "i", "resources": cpu("1")}]), "2"),
        (json!([{"name": "s", "resources": cpu("1"), "restartPolicy": "Always"}]), "3"),
        (
            json!([
                {"name": "s", "resources": cpu("1"), "restartPolicy": "Always"},
                {"name": "i", "resources": cpu("4")},
            ]),
            "5",
        ),
    ] {
        let mut pod = pod(json!({"cpu": "2"}), json!({}));
        pod.spec.as_mut().unwrap().init_containers =
            serde_json::from_value(initial.clone()).unwrap();
        let quota = hard(json!({"requests.cpu": "9"}), json!({"requests.cpu": "0"}));
        let used = json!({"requests.cpu": expected});
        assert_eq!(told::<Pods>(&quota, &pod, None), used, "{initial}");
    }
}

#[test]
fn objects_of_every_kind_are_counted_by_their_names() {
    let map = Default::default();
    let both = hard(
        json!({"configmaps": "2", "count/configmaps": "2", "count/deployments.apps": "1"}),
        json!({"configmaps": "1", "count/configmaps": "1", "count/deployments.apps": "1"}),
    );
    let expected =
        json!({"configmaps": "2", "count/configmaps": "2", "count/deployments.apps": "1"});
    assert_eq!(told::<ConfigMaps>(&both, &map, None), expected);
    let refused = told::<Deployments>(&both, &Default::default(), None);
    assert!(refused.as_str().unwrap().starts_with("exceeded quota: q, requested: count/deploy"));
}

#[test]
fn of_a_change_the_difference_counts() {
    let quota = hard(json!({"services.nodeports": "3"}), json!({"services.nodeports": "2"}));
    let (none, two, four) =
        (service("ClusterIP", 2), service("NodePort", 2), service("NodePort", 4));
    assert_eq!(told::<Services>(&quota, &none, None), Value::Null);
    assert!(told::<Services>(&quota, &two, None).as_str().unwrap().starts_with("exceeded"));
    assert!(told::<Services>(&quota, &two, Some(&none)).as_str().unwrap().starts_with("exceeded"));
    assert!(told::<Services>(&quota, &four, Some(&two)).as_str().unwrap().starts_with("exceeded"));
    // What becomes less is for the next count.
    assert_eq!(told::<Services>(&quota, &two, Some(&four)), Value::Null);
}

#[test]
fn a_scope_selects_pods() {
    let busy = pod(json!({"cpu": "1"}), json!({}));
    let idle = pod(json!({}), json!({}));
    let scoped = |scope: Value| {
        quota(
            json!({"hard": {"pods": "1"}, "scopes": scope.get("scopes"), "scopeSelector": scope.get("selector")}),
            json!({"pods": "0"}),
        )
    };
    let priority = |operator: &str| {
        let expression =
            json!({"scopeName": "PriorityClass", "operator": operator, "values": ["high"]});
        json!({"selector": {"matchExpressions": [expression]}})
    };
    for (scope, of_busy, of_idle) in [
        (json!({}), true, true),
        (json!({"scopes": ["BestEffort"]}), false, true),
        (json!({"scopes": ["NotBestEffort"]}), true, false),
        (json!({"scopes": ["NotBestEffort", "NotTerminating"]}), true, false),
        (json!({"scopes": ["Terminating"]}), false, false),
        (priority("In"), false, false),
        (priority("NotIn"), true, true),
        (priority("Exists"), false, false),
    ] {
        let quota = scoped(scope.clone());
        let counts = |pod: &Pod| !told::<Pods>(&quota, pod, None).is_null();
        assert_eq!((counts(&busy), counts(&idle)), (of_busy, of_idle), "{scope}");
    }
}

#[test]
fn a_count_says_what_there_is_whatever_was_said_before() {
    let with = |mut pod: Pod, phase: &str, deleted: Option<&str>| {
        pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        pod.metadata.deletion_timestamp = deleted
            .map(|at| proto::k8s::apimachinery::pkg::apis::meta::v1::Time(at.parse().unwrap()));
        pod.metadata.deletion_grace_period_seconds = deleted.map(|_| 30);
        pod
    };
    let small = || pod(json!({"cpu": "100m"}), json!({}));
    let contents = Contents {
        pods: vec![
            small(),
            with(small(), "Running", Some("2029-12-31T23:59:45Z")),
            with(small(), "Succeeded", None),
            with(small(), "Running", Some("2029-12-31T23:59:30Z")),
        ],
        services: vec![service("NodePort", 2), service("ClusterIP", 1)],
        counts: [("count/pods".to_owned(), 4), ("count/configmaps".to_owned(), 7)].into(),
    };
    let bounds = json!({
        "pods": "9", "requests.cpu": "9", "count/pods": "9", "configmaps": "9", "secrets": "9",
        "services.nodeports": "9",
    });
    let used = count(&hard(bounds, json!({"pods": "77"})), &contents, now());
    assert_eq!(
        json!(to_wire(used)),
        json!({
            "pods": "2", "requests.cpu": "200m", "count/pods": "4", "configmaps": "7",
            "secrets": "0", "services.nodeports": "2",
        })
    );
    let scoped = quota(json!({"hard": {"pods": "9"}, "scopes": ["BestEffort"]}), json!({}));
    assert_eq!(json!(to_wire(count(&scoped, &contents, now()))), json!({"pods": "0"}));
}
