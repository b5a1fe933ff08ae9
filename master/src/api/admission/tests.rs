//! Decisions about pods.

use k8s_openapi::api::core::v1::{Container, LimitRange, Pod, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::{account, limits, priority, runtime};
use crate::api::kinds::{Kind, LimitRanges, PriorityClasses};

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

#[test]
fn a_pod_has_the_priority_of_its_class() {
    let class = |name: &str, value: i32, policy: &str| {
        let mut class = serde_json::from_value(json!({
            "metadata": {"name": name}, "value": value, "preemptionPolicy": policy,
        }))
        .unwrap();
        PriorityClasses::default(&mut class);
        class
    };
    let high = class("high", 1000, "Never");
    let told = |spec: Value, class: Option<&_>| {
        let mut pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        pod.spec.get_or_insert_default().containers.push(Container::default());
        priority::complete(&mut pod, class)?;
        let spec = pod.spec.unwrap();
        let name = spec.priority_class_name.unwrap_or_default();
        Ok((name, spec.priority.unwrap(), spec.preemption_policy.unwrap()))
    };
    let got = |name: &str, value: i32, policy: &str| {
        Ok::<_, String>((name.to_owned(), value, policy.to_owned()))
    };
    let named = |name: &str| json!({"containers": [], "priorityClassName": name});
    let lower = "PreemptLowerPriority";
    assert_eq!(told(json!({"containers": []}), None), got("", 0, lower));
    assert_eq!(told(named("high"), Some(&high)), got("high", 1000, "Never"));
    // The default class gives its name, too.
    assert_eq!(told(json!({"containers": []}), Some(&high)), got("high", 1000, "Never"));
    let critical = "system-cluster-critical";
    assert_eq!(told(named(critical), None), got(critical, 2_000_000_000, lower));
    assert_eq!(told(named("low"), None), Err("no PriorityClass with name low was found".into()));
    let agreeing = json!({
        "containers": [], "priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never",
    });
    assert_eq!(told(agreeing.clone(), Some(&high)), got("high", 1000, "Never"));
    for (field, value, start) in [
        ("priority", json!(1001), "the integer value of priority (1001) must not be provided"),
        (
            "preemptionPolicy",
            json!(lower),
            "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided",
        ),
    ] {
        let mut wrong = agreeing.clone();
        wrong[field] = value;
        let error = told(wrong, Some(&high)).unwrap_err();
        assert!(error.starts_with(start), "{error}");
    }
    let (least, most) = (class("a", -5, lower), class("b", 5, lower));
    assert_eq!(priority::default(vec![least.clone(), most.clone()]), None);
    let default = |mut one: k8s_openapi::api::scheduling::v1::PriorityClass| {
        one.global_default = Some(true);
        one
    };
    let chosen = priority::default(vec![default(most), default(least)]).unwrap();
    assert_eq!(chosen.value, Some(-5));
}

#[test]
fn a_pod_takes_what_its_runtime_class_says_and_goes_where_that_says() {
    let class = |change: Value| {
        let mut class = json!({"metadata": {"name": "safe"}, "handler": "kutter"});
        for (field, value) in change.as_object().unwrap() {
            class[field] = value.clone();
        }
        serde_json::from_value::<RuntimeClass>(class).unwrap()
    };
    let costly = class(json!({"overhead": {"podFixed": {"cpu": "100m", "memory": "1Ki"}}}));
    let told = |mut spec: Value, class: Option<&RuntimeClass>| {
        spec["containers"] = json!([]);
        let mut pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        runtime::complete(&mut pod, class)?;
        let mut spec = serde_json::to_value(pod.spec.unwrap()).unwrap();
        for said in ["containers", "runtimeClassName"] {
            spec.as_object_mut().unwrap().remove(said);
        }
        Ok(spec)
    };
    let safe = |mut spec: Value| {
        spec["runtimeClassName"] = json!("safe");
        spec
    };
    let refused = |why: &str| Err::<Value, String>(why.to_owned());
    let overhead = json!({"overhead": {"cpu": "100m", "memory": "1Ki"}});
    assert_eq!(told(json!({}), None), Ok(json!({})));
    assert_eq!(told(json!({"overhead": {}}), None), Ok(json!({})));
    assert_eq!(told(safe(json!({})), Some(&class(json!({})))), Ok(json!({})));
    assert_eq!(told(safe(json!({})), Some(&costly)), Ok(overhead.clone()));
    let same = safe(json!({"overhead": {"cpu": "0.1", "memory": "1024"}}));
    assert_eq!(told(same, Some(&costly)), Ok(overhead.clone()));
    assert_eq!(
        told(safe(json!({"overhead": {"cpu": "200m", "memory": "1Ki"}})), Some(&costly)),
        refused("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
    );
    let unfounded = refused(
        "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
    );
    assert_eq!(told(overhead.clone(), None), unfounded);
    assert_eq!(told(safe(overhead), Some(&class(json!({})))), unfounded);
    assert_eq!(
        told(safe(json!({})), None),
        refused("pod rejected: RuntimeClass \"safe\" not found")
    );
    assert_eq!(
        told(safe(json!({})), Some(&class(json!({"handler": "kata"})))),
        refused(
            "pod rejected: RuntimeClass \"safe\": no runtime for \"kata\" is configured: nodes have \
             \"kutter\" only"
        )
    );
    let exists = |key: &str| json!({"key": key, "operator": "Exists"});
    let somewhere = class(json!({"scheduling": {
        "nodeSelector": {"safe": "yes"}, "tolerations": [exists("a"), exists("b")],
    }}));
    assert_eq!(
        told(
            safe(json!({
                "nodeSelector": {"disk": "ssd", "safe": "yes"},
                "tolerations": [exists("c"), exists("a")],
            })),
            Some(&somewhere)
        ),
        Ok(json!({
            "nodeSelector": {"disk": "ssd", "safe": "yes"},
            "tolerations": [exists("c"), exists("a"), exists("b")],
        }))
    );
    assert_eq!(
        told(safe(json!({"nodeSelector": {"safe": "no"}})), Some(&somewhere)),
        refused(
            "conflict: runtimeClass.scheduling.nodeSelector[safe] = yes; \
             pod.spec.nodeSelector[safe] = no"
        )
    );
}
