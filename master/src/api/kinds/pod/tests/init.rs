//! What is wrong with init containers.

use proto::k8s as k8s_openapi;
use serde_json::json;

use super::super::super::testing::check;
use super::super::Pods;
use super::full;

#[test]
fn init_containers_keep_to_the_rules() {
    let plain = |rest: &str| format!("/spec/initContainers/0/{rest}");
    let sidecar = |rest: &str| format!("/spec/initContainers/1/{rest}");
    let probe = json!({"tcpSocket": {"port": 1}});
    let kept = "Forbidden: may not be set for init containers without restartPolicy=Always";
    let mut cases = vec![
        (plain("image"), json!(null), "spec.initContainers[0].image: Required value".to_owned()),
        (
            plain("image"),
            json!("x "),
            "spec.initContainers[0].image: Invalid value: \"x \": must not have leading".to_owned(),
        ),
        (
            plain("name"),
            json!("main"),
            "spec.initContainers[0].name: Duplicate value: \"main\"".to_owned(),
        ),
        (
            sidecar("name"),
            json!("migrate"),
            "spec.initContainers[1].name: Duplicate value: \"migrate\"".to_owned(),
        ),
        (
            plain("resources"),
            json!({"requests": {"cpu": "-1"}}),
            "spec.initContainers[0].resources.requests[cpu]: Invalid value: \"-1\"".to_owned(),
        ),
        (
            plain("volumeMounts"),
            json!([{"name": "nothing", "mountPath": "/x"}]),
            "spec.initContainers[0].volumeMounts[0].name: Not found: \"nothing\"".to_owned(),
        ),
        (
            plain("restartPolicy"),
            json!("Sometimes"),
            "spec.initContainers[0].restartPolicy: Unsupported value: \"Sometimes\"".to_owned(),
        ),
        (
            plain("resizePolicy"),
            json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
            "spec.initContainers[0].resizePolicy: Invalid value".to_owned(),
        ),
        (
            sidecar("ports/1"),
            json!({"containerPort": 1, "hostPort": 8080}),
            "spec.initContainers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\"".to_owned(),
        ),
        (
            sidecar("startupProbe/tcpSocket/port"),
            json!(0),
            "spec.initContainers[1].startupProbe.tcpSocket.port: Invalid value: 0".to_owned(),
        ),
        (
            sidecar("lifecycle/preStop"),
            json!({"sleep": {"seconds": 6}}),
            "spec.initContainers[1].lifecycle.preStop.sleep: Invalid value: 6".to_owned(),
        ),
    ];
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        cases.push((
            plain(field),
            probe.clone(),
            format!("spec.initContainers[0].{field}: {kept}"),
        ));
        cases.push((sidecar(field), probe.clone(), String::new()));
    }
    let hook = json!({"preStop": {"sleep": {"seconds": 1}}});
    cases.push((plain("lifecycle"), hook, format!("spec.initContainers[0].lifecycle: {kept}")));
    let cases = cases.iter().map(|(at, value, told)| (&**at, value.clone(), &**told)).collect();
    check::<Pods>(&full(), cases);
}

#[test]
fn their_resources_make_the_class_too() {
    let spec: k8s_openapi::api::core::v1::PodSpec = serde_json::from_value(json!({
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1"}}}],
        "containers": [{"name": "main"}],
    }))
    .unwrap();
    assert_eq!(super::super::qos::class(&spec), "Burstable");
}
