//! Decisions about pods.

use k8s_openapi::api::core::v1::{Container, LimitRange, Pod, ServiceAccount};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::{account, limits};
use crate::api::kinds::{Kind, LimitRanges};

fn pod(containers: &[Value]) -> Pod {
    let containers: Vec<Value> = containers
        .iter()
        .enumerate()
        .map(|(index, resources)| json!({"name": format!("c{index}"), "resources": resources}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop"}, "spec": {"containers": containers},
    }))
    .unwrap()
}

fn range(items: Value) -> LimitRange {
    let mut range = serde_json::from_value(json!({"spec": {"limits": items}})).unwrap();
    LimitRanges::default(&mut range);
    range
}

fn told(items: Value, containers: &[Value]) -> String {
    limits::check(&[range(items)], &pod(containers)).err().unwrap_or_default()
}

fn cpu(request: &str, limit: &str) -> Value {
    json!({"requests": {"cpu": request}, "limits": {"cpu": limit}})
}

#[test]
fn containers_get_what_they_do_not_say() {
    let ranges = [range(json!([
        {"type": "Pod", "max": {"cpu": "9"}},
        {
            "type": "Container", "default": {"cpu": "1", "memory": "1Gi"},
            "defaultRequest": {"cpu": "100m"},
        },
    ]))];
    let mut pod = pod(&[json!({}), json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}})]);
    limits::complete(&ranges, &mut pod);
    let stored = serde_json::to_value(&pod).unwrap();
    let of = |index: usize| stored["spec"]["containers"][index]["resources"].clone();
    let first = json!({
        "limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"},
    });
    assert_eq!(of(0), first);
    let second = json!({
        "limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "2", "memory": "1Gi"},
    });
    assert_eq!(of(1), second);
    assert_eq!(
        stored["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c0; cpu, memory limit for \
         container c0; memory request for container c1; memory limit for container c1"
    );
    let again = pod.clone();
    limits::complete(&ranges, &mut pod);
    assert_eq!(pod, again, "what is said stays");
}

#[test]
fn what_a_pod_asks_for_is_within_the_limits() {
    let max = json!([{"type": "Container", "max": {"cpu": "1"}}]);
    let min = json!([{"type": "Container", "min": {"cpu": "100m"}}]);
    let ratio = json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}]);
    let whole = json!([{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "200m"}}]);
    for (range, containers, expected) in [
        (&max, vec![cpu("1", "1")], ""),
        (&max, vec![cpu("1", "1001m")], "maximum cpu usage per Container is 1, but limit is 1001m"),
        (&max, vec![json!({})], "maximum cpu usage per Container is 1.  No limit is specified"),
        (
            &max,
            vec![cpu("1", "2"), json!({})],
            "[maximum cpu usage per Container is 1, but limit is 2, maximum cpu usage per \
             Container is 1.  No limit is specified]",
        ),
        (&min, vec![cpu("100m", "1")], ""),
        (
            &min,
            vec![cpu("99m", "1")],
            "minimum cpu usage per Container is 100m, but request is 99m",
        ),
        (
            &min,
            vec![json!({})],
            "minimum cpu usage per Container is 100m.  No request is specified",
        ),
        (&ratio, vec![cpu("500m", "1")], ""),
        (
            &ratio,
            vec![cpu("500m", "1500m")],
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
        (
            &ratio,
            vec![json!({"limits": {"cpu": "1"}})],
            "cpu max limit to request ratio per Container is 2, but no request is specified or \
             request is 0",
        ),
        (&whole, vec![cpu("100m", "500m"), cpu("100m", "500m")], ""),
        (
            &whole,
            vec![cpu("100m", "500m"), cpu("100m", "501m")],
            "maximum cpu usage per Pod is 1, but limit is 1001m",
        ),
        (
            &whole,
            vec![cpu("100m", "500m"), json!({"requests": {"cpu": "1"}})],
            "maximum cpu usage per Pod is 1.  No limit is specified",
        ),
        (&whole, vec![cpu("100m", "1")], "minimum cpu usage per Pod is 200m, but request is 100m"),
    ] {
        assert_eq!(told(range.clone(), &containers), expected, "{range} {containers:?}");
    }
}

#[test]
fn a_pod_has_the_pull_secrets_of_its_account() {
    let account: ServiceAccount =
        serde_json::from_value(json!({"imagePullSecrets": [{"name": "registry"}]})).unwrap();
    let mut pod = pod(&[]);
    account::complete(&mut pod, None, volume).unwrap();
    account::complete(&mut pod, Some(&account), volume).unwrap();
    let spec = pod.spec.as_mut().unwrap();
    assert_eq!(spec.image_pull_secrets.as_ref().unwrap()[0].name, "registry");
    spec.image_pull_secrets.as_mut().unwrap()[0].name = "own".to_owned();
    account::complete(&mut pod, Some(&account), volume).unwrap();
    let spec = pod.spec.as_mut().unwrap();
    assert_eq!(spec.image_pull_secrets.as_ref().unwrap()[0].name, "own");
    spec.service_account_name = Some("builder".to_owned());
    assert_eq!(
        account::complete(&mut pod, None, volume).unwrap_err(),
        "error looking up service account shop/builder: serviceaccount \"builder\" not found"
    );
}

fn volume() -> String {
    "kube-api-access-x1y2z".to_owned()
}

#[test]
fn a_pod_gets_a_token_unless_it_or_its_account_refuses() {
    let account = |automount: Value| -> ServiceAccount {
        serde_json::from_value(json!({"automountServiceAccountToken": automount})).unwrap()
    };
    for (of_pod, of_account, mounted) in [
        (Value::Null, None, true),
        (Value::Null, Some(Value::Null), true),
        (Value::Null, Some(json!(false)), false),
        (json!(true), Some(json!(false)), true),
        (json!(false), Some(json!(true)), false),
        (json!(false), None, false),
    ] {
        let mut pod = pod(&[json!({})]);
        let spec = pod.spec.as_mut().unwrap();
        spec.automount_service_account_token = of_pod.as_bool();
        let account = of_account.clone().map(account);
        account::complete(&mut pod, account.as_ref(), volume).unwrap();
        let has = pod.spec.unwrap().volumes.is_some_and(|volumes| volumes.len() == 1);
        assert_eq!(has, mounted, "{of_pod} {of_account:?}");
    }
}

#[test]
fn the_token_is_where_clients_look_for_it() {
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "initContainers": [{"name": "init"}],
            "containers": [
                {"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                {"name": "own", "volumeMounts": [{"name": "v", "mountPath": place}]}
            ]
        }
    }))
    .unwrap();
    account::complete(&mut pod, None, volume).unwrap();
    let token = json!({"name": volume(), "mountPath": place, "readOnly": true});
    let mounts = |container: &Container| serde_json::to_value(&container.volume_mounts).unwrap();
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(mounts(&spec.init_containers.as_ref().unwrap()[0]), json!([token]));
    assert_eq!(mounts(&spec.containers[0])[1], token);
    assert_eq!(mounts(&spec.containers[1]), json!([{"name": "v", "mountPath": place}]));
    assert_eq!(
        serde_json::to_value(&spec.volumes).unwrap(),
        json!([{"name": volume(), "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {
                "name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]
            }},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {
                "apiVersion": "v1", "fieldPath": "metadata.namespace"
            }}]}}
        ]}}])
    );
    // Once, however often.
    let before = pod.clone();
    account::complete(&mut pod, None, || unreachable!()).unwrap();
    assert_eq!(pod, before);
    // Not for a pod that is a node's own.
    pod.spec.as_mut().unwrap().volumes = None;
    pod.spec.as_mut().unwrap().containers[0].volume_mounts = None;
    let mirror = [("kubernetes.io/config.mirror".to_owned(), "x".to_owned())].into();
    pod.metadata.annotations = Some(mirror);
    account::complete(&mut pod, None, || unreachable!()).unwrap();
    assert_eq!(pod.spec.unwrap().volumes, None);
}
