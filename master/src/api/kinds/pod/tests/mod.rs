//! Pods, from what users write to what is stored and shown.

mod affinity;
mod annotations;
mod columns;
mod containers;
mod env;
mod ephemeral;
mod gates;
mod host;
mod huge_pages;
mod init;
mod lifecycle;
mod probes;
mod resize;
mod rules;
mod status;
mod unsupported;
mod volumes;

use serde_json::{Value, json};

use super::super::testing::{
    check_updates, created, defaulted, selectable_fields, settles, update_errors, with,
};
use super::super::{Deletion, Kind};
use super::Pods;

fn minimal() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "nginx"}]},
    })
}

/// Everything that this version honours.
fn full() -> Value {
    let mut manifest = without_lifecycle();
    let spec = &mut manifest["spec"];
    spec["os"] = json!({"name": "linux"});
    spec["subdomain"] = json!("webs");
    spec["setHostnameAsFQDN"] = json!(true);
    spec["readinessGates"] = json!([{"conditionType": "shop.test/warm"}]);
    spec["initContainers"] = json!([
        {"name": "migrate", "image": "busybox:1", "command": ["x"], "restartPolicy": "OnFailure"},
        {
            "name": "proxy", "image": "busybox:1", "restartPolicy": "Always",
            "ports": [{"name": "admin", "containerPort": 90, "hostPort": 8080}],
            "startupProbe": {"tcpSocket": {"port": "admin"}},
            "lifecycle": {"preStop": {"exec": {"command": ["drain"]}}},
        },
    ]);
    let container = &mut spec["containers"][0];
    container["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["true"]}},
        "preStop": {"httpGet": {"port": "http"}},
        "stopSignal": "SIGRTMIN+3",
    });
    manifest
}

fn without_lifecycle() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": 5,
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "hostname": "web-0",
            "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": ["10.0.0.10"],
                "searches": ["example.com"],
                "options": [{"name": "ndots", "value": "2"}],
            },
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db.local"]}],
            "imagePullSecrets": [{"name": "registry"}],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"operator": "Exists"},
                {"key": "dedicated", "value": "web", "effect": "NoSchedule"},
            ],
            "securityContext": {
                "runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": true,
                "supplementalGroups": [5], "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [
                {"name": "scratch"},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
                {"name": "logs", "hostPath": {"path": "/var/log", "type": "Directory"}},
                {"name": "config", "configMap": {"name": "web", "items": [{"key": "a", "path": "x/a", "mode": 256}]}},
                {"name": "keys", "secret": {"secretName": "web", "defaultMode": 256, "optional": true}},
            ],
            "containers": [{
                "name": "main",
                "image": "registry:5000/nginx:1.27",
                "command": ["nginx"], "args": ["-g", "daemon off;"],
                "workingDir": "/srv",
                "stdin": true, "stdinOnce": true, "tty": true,
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "containerName": "main"}}},
                    {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "web", "key": "a"}}},
                    {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "web", "key": "a", "optional": true}}},
                ],
                "envFrom": [
                    {"prefix": "X_", "configMapRef": {"name": "web"}},
                    {"secretRef": {"name": "web"}},
                ],
                "ports": [
                    {"name": "http", "containerPort": 80, "hostPort": 8080},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                ],
                "resources": {
                    "limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "0.1", "memory": "64Mi"},
                },
                "volumeMounts": [
                    {"name": "scratch", "mountPath": "/tmp"},
                    {"name": "config", "mountPath": "/etc/web", "readOnly": true},
                ],
                "livenessProbe": {"httpGet": {"port": "http", "httpHeaders": [{"name": "X-A", "value": "b"}]}},
                "readinessProbe": {"tcpSocket": {"port": 80}, "successThreshold": 2},
                "startupProbe": {"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": 3},
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "privileged": false,
                    "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CAP_CHOWN"]},
                },
            }],
        },
    })
}

#[test]
fn defaults_are_filled_in_as_kubernetes_does() {
    let pod = defaulted::<Pods>(&minimal());
    let spec = &pod["spec"];
    assert_eq!(
        *spec,
        json!({
            "containers": [{
                "image": "nginx",
                "imagePullPolicy": "Always",
                "name": "main",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst",
            "enableServiceLinks": true,
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "serviceAccount": "default",
            "serviceAccountName": "default",
            "terminationGracePeriodSeconds": 30,
        })
    );
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(pod["metadata"]["generation"], 1);
}

#[test]
fn defaults_reach_probes_volumes_ports_and_sources() {
    let pod = defaulted::<Pods>(&full());
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(
        container["livenessProbe"],
        json!({
            "failureThreshold": 3,
            "httpGet": {"httpHeaders": [{"name": "X-A", "value": "b"}], "path": "/", "port": "http", "scheme": "HTTP"},
            "periodSeconds": 10, "successThreshold": 1, "timeoutSeconds": 1,
        })
    );
    assert_eq!(
        container["lifecycle"]["preStop"],
        json!({"httpGet": {"path": "/", "port": "http", "scheme": "HTTP"}})
    );
    assert_eq!(container["env"][1]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(container["env"][2]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
    let volumes = &pod["spec"]["volumes"];
    assert_eq!(volumes[0], json!({"emptyDir": {}, "name": "scratch"}));
    assert_eq!(volumes[3]["configMap"]["defaultMode"], 420);
    assert_eq!(volumes[4]["secret"]["defaultMode"], 256);
}

#[test]
fn requests_follow_limits_and_tell_the_class() {
    let resources =
        |value: Value| defaulted::<Pods>(&with(&minimal(), "/spec/containers/0/resources", value));
    let pod = resources(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
    assert_eq!(
        pod["spec"]["containers"][0]["resources"]["requests"],
        json!({"cpu": "1", "memory": "1Gi"})
    );
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
    let pod = resources(json!({"requests": {"cpu": "100u"}}));
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1m");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    let pod = resources(json!({"limits": {"cpu": "1"}}));
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    assert_eq!(resources(json!({"requests": {"cpu": "0"}}))["status"]["qosClass"], "BestEffort");
}

#[test]
fn the_tag_decides_whether_an_image_is_always_pulled() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0123", "IfNotPresent"),
        ("nginx:latest@sha256:0123", "IfNotPresent"),
    ] {
        let pod = defaulted::<Pods>(&with(&minimal(), "/spec/containers/0/image", json!(image)));
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn what_is_honoured_settles() {
    settles::<Pods>(&minimal());
    settles::<Pods>(&full());
}

#[test]
fn an_update_may_change_images_and_little_else() {
    let rule =
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`";
    check_updates::<Pods>(
        &full(),
        vec![
            ("/metadata/labels/x", json!("y"), ""),
            ("/spec/containers/0/image", json!("nginx:1.28"), ""),
            ("/spec/initContainers/0/image", json!("busybox:2"), ""),
            ("/spec/initContainers/1/command", json!(["x"]), rule),
            (
                "/spec/initContainers",
                json!([]),
                "spec.initContainers: Forbidden: pod updates may not add or remove containers",
            ),
            ("/spec/activeDeadlineSeconds", json!(60), ""),
            ("/spec/tolerations/3", json!({"key": "x", "operator": "Exists"}), ""),
            ("/spec/tolerations/0/tolerationSeconds", json!(60), ""),
            (
                "/spec/tolerations/2",
                json!({"key": "x", "operator": "Exists"}),
                "spec.tolerations: Forbidden: existing toleration can not be modified",
            ),
            ("/spec/containers/0/args/0", json!("x"), rule),
            ("/spec/nodeName", json!("n1"), rule),
            ("/spec/terminationGracePeriodSeconds", json!(1), rule),
            (
                "/spec/containers/1",
                json!({"name": "second", "image": "x"}),
                "spec.containers: Forbidden: pod updates may not add or remove containers",
            ),
        ],
    );
    let errors =
        update_errors::<Pods>(&minimal(), &with(&minimal(), "/spec/restartPolicy", json!("Never")));
    assert!(errors[0].ends_with("what differs: restartPolicy"), "{errors:?}");
}

#[test]
fn status_and_spec_are_written_apart() {
    let old = created::<Pods>(&minimal());
    let mut new = old.clone();
    new.spec.as_mut().unwrap().containers[0].image = Some("other".to_owned());
    new.status.as_mut().unwrap().phase = Some("Running".to_owned());
    new.status.as_mut().unwrap().qos_class = None;
    let mut update = new.clone();
    Pods::prepare_update(&mut update, &old);
    assert_eq!(update.status, old.status);
    assert!(Pods::spec_changed(&update, &old));
    Pods::prepare_status_update(&mut new, &old);
    assert_eq!(new.spec, old.spec);
    let status = new.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn a_pod_on_a_node_goes_gracefully() {
    let graceful = |seconds| Deletion::Graceful { grace_period_seconds: seconds };
    let mut pod = created::<Pods>(&minimal());
    assert_eq!(Pods::deletion(&pod, None), Deletion::Immediate);
    pod.spec.as_mut().unwrap().node_name = Some("n1".to_owned());
    assert_eq!(Pods::deletion(&pod, None), graceful(30));
    assert_eq!(Pods::deletion(&pod, Some(3)), graceful(3));
    assert_eq!(Pods::deletion(&pod, Some(-3)), graceful(1));
    assert_eq!(Pods::deletion(&pod, Some(0)), Deletion::Immediate);
    pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    assert_eq!(Pods::deletion(&pod, None), Deletion::Immediate);
}

#[test]
fn field_selectors_find_pods() {
    let pod = created::<Pods>(&with(&minimal(), "/spec/nodeName", json!("n1")));
    let fields = selectable_fields::<Pods>(&pod);
    assert_eq!(fields["spec.nodeName"], "n1");
    assert_eq!(fields["status.phase"], "Pending");
    assert_eq!(fields["status.podIP"], "");
    assert_eq!(fields["spec.restartPolicy"], "Always");
}
