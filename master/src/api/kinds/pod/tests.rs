//! Pods, from what users write to what is stored and shown.

use serde_json::{Value, json};

use super::super::testing::{check, check_updates, created, defaulted, errors, row, settles, with};
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
fn a_spec_keeps_to_the_rules() {
    let long = "a".repeat(64);
    check::<Pods>(
        &full(),
        vec![
            ("/spec/containers", json!([]), "spec.containers: Required value"),
            (
                "/spec/restartPolicy",
                json!("Sometimes"),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            ("/spec/dnsPolicy", json!("x"), "spec.dnsPolicy: Unsupported value"),
            (
                "/spec/dnsConfig",
                json!(null),
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
            ),
            (
                "/spec/dnsConfig/nameservers/0",
                json!("a.b"),
                "spec.dnsConfig.nameservers[0]: Invalid value: \"a.b\": must be a valid IP address",
            ),
            (
                "/spec/dnsConfig/nameservers",
                json!(["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]),
                "spec.dnsConfig.nameservers: Too many: 4: must have at most 3 items",
            ),
            (
                "/spec/dnsConfig/searches/0",
                json!("_a"),
                "spec.dnsConfig.searches[0]: Invalid value",
            ),
            (
                "/spec/dnsConfig/options/0/name",
                json!(""),
                "spec.dnsConfig.options[0].name: Required value",
            ),
            (
                "/spec/dnsConfig/options/0/value",
                json!("2\nnameserver 6.6.6.6"),
                "spec.dnsConfig.options[0]: Invalid value",
            ),
            (
                "/spec/hostAliases/0/ip",
                json!("x"),
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                "/spec/hostAliases/0/hostnames/0",
                json!("a b"),
                "spec.hostAliases[0].hostnames[0]: Invalid value",
            ),
            (
                "/spec/terminationGracePeriodSeconds",
                json!(-1),
                "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "/spec/nodeSelector",
                json!({"a b": "c"}),
                "spec.nodeSelector: Invalid value: \"a b\": name part must consist of",
            ),
            (
                "/spec/nodeSelector",
                json!({"a": "c d"}),
                "spec.nodeSelector[a]: Invalid value: \"c d\": a valid label must be",
            ),
            (
                "/spec/nodeName",
                json!("A"),
                "spec.nodeName: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
            ),
            (
                "/spec/hostname",
                json!("a.b"),
                "spec.hostname: Invalid value: \"a.b\": must not contain dots",
            ),
            ("/spec/hostname", json!(long), "spec.hostname: Invalid value"),
            ("/spec/serviceAccountName", json!("A"), "spec.serviceAccountName: Invalid value"),
            (
                "/spec/imagePullSecrets/0/name",
                json!(""),
                "spec.imagePullSecrets[0].name: Required value",
            ),
            (
                "/spec/tolerations/0/value",
                json!("x"),
                "spec.tolerations[0].value: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
            ),
            (
                "/spec/tolerations/1/operator",
                json!("Equal"),
                "spec.tolerations[1].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty",
            ),
            (
                "/spec/tolerations/2/effect",
                json!("Never"),
                "spec.tolerations[2].effect: Unsupported value: \"Never\"",
            ),
            (
                "/spec/tolerations/2/tolerationSeconds",
                json!(1),
                "spec.tolerations[2].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when",
            ),
            (
                "/spec/tolerations/2/operator",
                json!("Near"),
                "spec.tolerations[2].operator: Unsupported value",
            ),
            (
                "/spec/securityContext/runAsUser",
                json!(-1),
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ),
            (
                "/spec/securityContext/supplementalGroups/0",
                json!(4294967296_i64),
                "spec.securityContext.supplementalGroups[0]: Invalid value",
            ),
            (
                "/spec/securityContext/seccompProfile/type",
                json!("Loose"),
                "spec.securityContext.seccompProfile.type: Unsupported value",
            ),
            (
                "/spec/securityContext/seccompProfile",
                json!({"type": ""}),
                "spec.securityContext.seccompProfile.type: Required value",
            ),
            ("/spec/preemptionPolicy", json!("PreemptLowerPriority"), ""),
            ("/spec/priority", json!(0), ""),
            ("/spec/os", json!({"name": "linux"}), ""),
            ("/spec/hostNetwork", json!(false), ""),
            ("/spec/automountServiceAccountToken", json!(false), ""),
            ("/spec/affinity", json!({}), ""),
        ],
    );
}

#[test]
fn a_container_keeps_to_the_rules() {
    let at = |rest: &str| format!("/spec/containers/0/{rest}");
    let name = "/spec/containers/0/name";
    check::<Pods>(
        &full(),
        vec![
            (&at("image"), json!(null), "spec.containers[0].image: Required value"),
            (
                &at("image"),
                json!(" nginx"),
                "spec.containers[0].image: Invalid value: \" nginx\": must not have leading or trailing whitespace",
            ),
            (
                &at("imagePullPolicy"),
                json!("Maybe"),
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ),
            (
                &at("terminationMessagePolicy"),
                json!("x"),
                "spec.containers[0].terminationMessagePolicy: Unsupported value",
            ),
            (
                &at("terminationMessagePath"),
                json!("log"),
                "spec.containers[0].terminationMessagePath: Invalid value: \"log\": must be an absolute path",
            ),
            (
                &at("workingDir"),
                json!("/a/../.."),
                "spec.containers[0].workingDir: Invalid value: \"/a/../..\": must not contain '..'",
            ),
            (
                &at("ports/0/containerPort"),
                json!(0),
                "spec.containers[0].ports[0].containerPort: Required value",
            ),
            (
                &at("ports/0/containerPort"),
                json!(70000),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                &at("ports/0/hostPort"),
                json!(-1),
                "spec.containers[0].ports[0].hostPort: Invalid value: -1",
            ),
            (
                &at("ports/0/hostIP"),
                json!("x"),
                "spec.containers[0].ports[0].hostIP: Invalid value: \"x\"",
            ),
            (
                &at("ports/0/protocol"),
                json!("ICMP"),
                "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                &at("ports/1/name"),
                json!("http"),
                "spec.containers[0].ports[1].name: Duplicate value: \"http\"",
            ),
            (
                &at("ports/1/name"),
                json!("53"),
                "spec.containers[0].ports[1].name: Invalid value: \"53\": must contain at least one letter (a-z)",
            ),
            (
                &at("ports/1"),
                json!({"containerPort": 81, "hostPort": 8080}),
                "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\"",
            ),
            (&at("env/0/name"), json!(""), "spec.containers[0].env[0].name: Required value"),
            (
                &at("env/0/name"),
                json!("A=B"),
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name",
            ),
            (
                &at("env/0/value"),
                json!("a\u{0}b"),
                "spec.containers[0].env[0].value: Invalid value: \"\": must not contain a NUL",
            ),
            (
                &at("env/1/value"),
                json!("x"),
                "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ),
            (
                &at("env/1/valueFrom"),
                json!({}),
                "spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ),
            (
                &at("env/1/valueFrom/secretKeyRef"),
                json!({"name": "a", "key": "b"}),
                "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
            ),
            (
                &at("env/1/valueFrom/fieldRef/fieldPath"),
                json!("spec.containers"),
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.containers\": supported values: \"metadata.name\"",
            ),
            (
                &at("env/1/valueFrom/fieldRef/fieldPath"),
                json!("metadata.labels"),
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.labels\": a key has to be named",
            ),
            (
                &at("env/1/valueFrom/fieldRef/fieldPath"),
                json!("metadata.annotations['a b']"),
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value",
            ),
            (
                &at("env/1/valueFrom/fieldRef/apiVersion"),
                json!("v2"),
                "spec.containers[0].env[1].valueFrom.fieldRef.apiVersion: Invalid value",
            ),
            (
                &at("env/2/valueFrom/resourceFieldRef/resource"),
                json!("limits.gpu"),
                "spec.containers[0].env[2].valueFrom.resourceFieldRef.resource: Unsupported value",
            ),
            (
                &at("env/2/valueFrom/resourceFieldRef/containerName"),
                json!("other"),
                "spec.containers[0].env[2].valueFrom.resourceFieldRef.containerName: Not found: \"other\"",
            ),
            (
                &at("env/2/valueFrom/resourceFieldRef/divisor"),
                json!("x"),
                "spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor: Invalid value: \"x\": quantities must match",
            ),
            (
                &at("env/3/valueFrom/configMapKeyRef/key"),
                json!(""),
                "spec.containers[0].env[3].valueFrom.configMapKeyRef.key: Required value",
            ),
            (
                &at("env/4/valueFrom/secretKeyRef/key"),
                json!("a/b"),
                "spec.containers[0].env[4].valueFrom.secretKeyRef.key: Invalid value: \"a/b\": a valid config key",
            ),
            (
                &at("env/4/valueFrom/secretKeyRef/name"),
                json!(""),
                "spec.containers[0].env[4].valueFrom.secretKeyRef.name: Required value",
            ),
            (
                &at("envFrom/0/prefix"),
                json!("="),
                "spec.containers[0].envFrom[0].prefix: Invalid value: \"=\"",
            ),
            (
                &at("envFrom/0/configMapRef"),
                json!(null),
                "spec.containers[0].envFrom[0]: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            ),
            (
                &at("envFrom/0/secretRef"),
                json!({"name": "a"}),
                "spec.containers[0].envFrom[0]: Invalid value: \"\": may not have more than one",
            ),
            (
                &at("envFrom/1/secretRef/name"),
                json!(""),
                "spec.containers[0].envFrom[1].secretRef.name: Required value",
            ),
            (
                &at("resources/limits/cpu"),
                json!("x"),
                "spec.containers[0].resources.limits[cpu]: Invalid value: \"x\": quantities must match the regular expression",
            ),
            (
                &at("resources/requests/memory"),
                json!("-1"),
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                &at("resources/requests/cpu"),
                json!("2"),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 500m",
            ),
            (
                &at("resources/requests/bananas"),
                json!("2"),
                "spec.containers[0].resources.requests: Invalid value: \"bananas\": must be a standard resource for containers",
            ),
            (
                &at("securityContext/runAsGroup"),
                json!(-2),
                "spec.containers[0].securityContext.runAsGroup: Invalid value",
            ),
            (
                &at("securityContext/capabilities/add/0"),
                json!("FLY"),
                "spec.containers[0].securityContext.capabilities.add[0]: Invalid value: \"FLY\": is not a capability",
            ),
            (
                &at("securityContext/capabilities/add/0"),
                json!("CAP_SYS_ADMIN"),
                "spec.containers[0].securityContext: Invalid value: \"\": cannot set `allowPrivilegeEscalation` to false",
            ),
        ],
    );
    check::<Pods>(
        &minimal(),
        vec![
            (name, json!(""), "spec.containers[0].name: Required value"),
            (
                name,
                json!("Main"),
                "spec.containers[0].name: Invalid value: \"Main\": a lowercase RFC 1123 label",
            ),
            (
                "/spec/containers/1",
                json!({"name": "main", "image": "x"}),
                "spec.containers[1].name: Duplicate value: \"main\"",
            ),
        ],
    );
}

#[test]
fn probes_keep_to_the_rules() {
    let at = |rest: &str| format!("/spec/containers/0/{rest}");
    check::<Pods>(
        &full(),
        vec![
            (
                &at("livenessProbe/httpGet"),
                json!(null),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                &at("livenessProbe/exec"),
                json!({"command": ["a"]}),
                "spec.containers[0].livenessProbe: Forbidden: may not specify more than 1 handler type",
            ),
            (
                &at("livenessProbe/httpGet/port"),
                json!(0),
                "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                &at("livenessProbe/httpGet/port"),
                json!("Http"),
                "spec.containers[0].livenessProbe.httpGet.port: Invalid value: \"Http\": must contain only alpha-numeric",
            ),
            (
                &at("livenessProbe/httpGet/scheme"),
                json!("FTP"),
                "spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            ),
            (
                &at("livenessProbe/httpGet/httpHeaders/0/name"),
                json!("X A"),
                "spec.containers[0].livenessProbe.httpGet.httpHeaders[0].name: Invalid value: \"X A\": a valid HTTP header",
            ),
            (
                &at("livenessProbe/httpGet/httpHeaders/0/value"),
                json!("a\r\nb"),
                "spec.containers[0].livenessProbe.httpGet.httpHeaders[0].value: Invalid value",
            ),
            (
                &at("livenessProbe/periodSeconds"),
                json!(-1),
                "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                &at("livenessProbe/successThreshold"),
                json!(2),
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                &at("livenessProbe/terminationGracePeriodSeconds"),
                json!(0),
                "spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                &at("readinessProbe/terminationGracePeriodSeconds"),
                json!(1),
                "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
            ),
            (
                &at("startupProbe/exec/command"),
                json!([]),
                "spec.containers[0].startupProbe.exec.command: Required value",
            ),
            (
                &at("livenessProbe"),
                json!({"grpc": {"port": 1}}),
                "spec.containers[0].livenessProbe.grpc: Forbidden: is not supported by this version of Kutter: use an exec",
            ),
        ],
    );
}

#[test]
fn volumes_and_mounts_keep_to_the_rules() {
    let mount = |rest: &str| format!("/spec/containers/0/volumeMounts/0/{rest}");
    check::<Pods>(
        &full(),
        vec![
            ("/spec/volumes/1/name", json!(""), "spec.volumes[1].name: Required value"),
            ("/spec/volumes/1/name", json!("A"), "spec.volumes[1].name: Invalid value"),
            (
                "/spec/volumes/1/name",
                json!("logs"),
                "spec.volumes[2].name: Duplicate value: \"logs\"",
            ),
            (
                "/spec/volumes/1/hostPath",
                json!({"path": "/a"}),
                "spec.volumes[1]: Forbidden: may not specify more than 1 volume type",
            ),
            (
                "/spec/volumes/1/emptyDir/medium",
                json!("Tape"),
                "spec.volumes[1].emptyDir.medium: Unsupported value: \"Tape\"",
            ),
            (
                "/spec/volumes/1/emptyDir/sizeLimit",
                json!("lots"),
                "spec.volumes[1].emptyDir.sizeLimit: Invalid value: \"lots\": quantities must match",
            ),
            (
                "/spec/volumes/1/emptyDir/medium",
                json!(""),
                "spec.volumes[1].emptyDir.sizeLimit: Forbidden: is not supported by this version of Kutter",
            ),
            (
                "/spec/volumes/2/hostPath/path",
                json!(""),
                "spec.volumes[2].hostPath.path: Required value",
            ),
            (
                "/spec/volumes/2/hostPath/path",
                json!("/a/../b"),
                "spec.volumes[2].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (
                "/spec/volumes/2/hostPath/path",
                json!("a"),
                "spec.volumes[2].hostPath.path: Invalid value: \"a\": must be an absolute path",
            ),
            (
                "/spec/volumes/2/hostPath/type",
                json!("Dir"),
                "spec.volumes[2].hostPath.type: Unsupported value: \"Dir\"",
            ),
            (
                "/spec/volumes/3/configMap/name",
                json!(""),
                "spec.volumes[3].configMap.name: Required value",
            ),
            (
                "/spec/volumes/3/configMap/items/0/key",
                json!(""),
                "spec.volumes[3].configMap.items[0].key: Required value",
            ),
            (
                "/spec/volumes/3/configMap/items/0/path",
                json!("/a"),
                "spec.volumes[3].configMap.items[0].path: Invalid value: \"/a\": must be a relative path",
            ),
            (
                "/spec/volumes/3/configMap/items/0/path",
                json!("a/../../b"),
                "spec.volumes[3].configMap.items[0].path: Invalid value: \"a/../../b\": must not contain '..'",
            ),
            (
                "/spec/volumes/3/configMap/items/0/path",
                json!("..data"),
                "spec.volumes[3].configMap.items[0].path: Invalid value: \"..data\": must not start with '..'",
            ),
            (
                "/spec/volumes/3/configMap/items/0/mode",
                json!(512),
                "spec.volumes[3].configMap.items[0].mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
            ),
            (
                "/spec/volumes/4/secret/secretName",
                json!(null),
                "spec.volumes[4].secret.secretName: Required value",
            ),
            (
                "/spec/volumes/4/secret/defaultMode",
                json!(-1),
                "spec.volumes[4].secret.defaultMode: Invalid value",
            ),
            (
                "/spec/volumes/5",
                json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}}),
                "spec.volumes[5].persistentVolumeClaim: Forbidden: is not supported by this version of Kutter: use emptyDir, hostPath, configMap or secret",
            ),
            (
                &mount("name"),
                json!("nothing"),
                "spec.containers[0].volumeMounts[0].name: Not found: \"nothing\"",
            ),
            (&mount("name"), json!(""), "spec.containers[0].volumeMounts[0].name: Required value"),
            (
                &mount("mountPath"),
                json!(""),
                "spec.containers[0].volumeMounts[0].mountPath: Required value",
            ),
            (
                &mount("mountPath"),
                json!("/etc/web/"),
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/etc/web\": must be unique",
            ),
            (
                &mount("mountPath"),
                json!("tmp"),
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"tmp\": must be an absolute path",
            ),
            (
                &mount("mountPath"),
                json!("/"),
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/\": must not be the root",
            ),
            (
                &mount("mountPath"),
                json!("/a/../b"),
                "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a/../b\": must not contain '..'",
            ),
            (&mount("mountPropagation"), json!("None"), ""),
        ],
    );
}

#[test]
fn what_is_not_honoured_is_refused_with_a_sentence() {
    let of_pod = [
        ("activeDeadlineSeconds", json!(5)),
        ("affinity", json!({"nodeAffinity": {}})),
        ("automountServiceAccountToken", json!(true)),
        ("ephemeralContainers", json!([{"name": "x", "image": "y"}])),
        ("hostIPC", json!(true)),
        ("hostNetwork", json!(true)),
        ("hostPID", json!(true)),
        ("hostUsers", json!(false)),
        ("initContainers", json!([{"name": "x", "image": "y"}])),
        ("os", json!({"name": "windows"})),
        ("overhead", json!({"cpu": "1"})),
        ("preemptionPolicy", json!("Never")),
        ("priority", json!(1)),
        ("priorityClassName", json!("system-node-critical")),
        ("readinessGates", json!([{"conditionType": "x"}])),
        ("resourceClaims", json!([{"name": "x"}])),
        ("resources", json!({"limits": {"cpu": "1"}})),
        ("runtimeClassName", json!("kata")),
        ("schedulingGates", json!([{"name": "x"}])),
        ("setHostnameAsFQDN", json!(true)),
        ("shareProcessNamespace", json!(true)),
        ("subdomain", json!("x")),
        (
            "topologySpreadConstraints",
            json!([{"maxSkew": 1, "topologyKey": "x", "whenUnsatisfiable": "DoNotSchedule"}]),
        ),
    ];
    let of_pod_context = [
        ("fsGroup", json!(1)),
        ("fsGroupChangePolicy", json!("Always")),
        ("seLinuxOptions", json!({"level": "s0"})),
        ("supplementalGroupsPolicy", json!("Strict")),
        ("sysctls", json!([{"name": "net.core.somaxconn", "value": "1"}])),
        ("windowsOptions", json!({})),
        ("appArmorProfile", json!({"type": "RuntimeDefault"})),
    ];
    let of_container = [
        ("lifecycle", json!({"preStop": {"sleep": {"seconds": 1}}})),
        ("restartPolicy", json!("Always")),
        ("volumeDevices", json!([{"name": "x", "devicePath": "/dev/x"}])),
    ];
    let of_context = [
        ("privileged", json!(true)),
        ("procMount", json!("Unmasked")),
        ("seLinuxOptions", json!({"level": "s0"})),
        ("windowsOptions", json!({})),
        ("appArmorProfile", json!({"type": "Localhost", "localhostProfile": "x"})),
    ];
    let of_mount = [
        ("subPath", json!("x")),
        ("subPathExpr", json!("x")),
        ("mountPropagation", json!("Bidirectional")),
        ("recursiveReadOnly", json!("Enabled")),
    ];
    let places: [(&str, &str, &[(&str, Value)]); 5] = [
        ("/spec", "spec", &of_pod),
        ("/spec/securityContext", "spec.securityContext", &of_pod_context),
        ("/spec/containers/0", "spec.containers[0]", &of_container),
        ("/spec/containers/0/securityContext", "spec.containers[0].securityContext", &of_context),
        ("/spec/containers/0/volumeMounts/0", "spec.containers[0].volumeMounts[0]", &of_mount),
    ];
    for (pointer, path, fields) in places {
        for (field, value) in fields {
            check::<Pods>(
                &full(),
                vec![(
                    &format!("{pointer}/{field}"),
                    value.clone(),
                    &format!(
                        "{path}.{field}: Forbidden: is not supported by this version of Kutter: "
                    ),
                )],
            );
        }
    }
    check::<Pods>(
        &full(),
        vec![
            (
                "/spec/containers/0/resources/limits/ephemeral-storage",
                json!("1Gi"),
                "spec.containers[0].resources.limits[ephemeral-storage]: Forbidden: is not supported",
            ),
            (
                "/spec/containers/0/resources/limits/example.com~1gpu",
                json!("1"),
                "spec.containers[0].resources.limits[example.com/gpu]: Forbidden: is not supported",
            ),
            (
                "/spec/securityContext/seccompProfile",
                json!({"type": "Localhost", "localhostProfile": "x"}),
                "spec.securityContext.seccompProfile.type: Forbidden: is not supported",
            ),
            (
                "/metadata/annotations",
                json!({"kubernetes.io/ingress-bandwidth": "1M"}),
                "metadata.annotations[kubernetes.io/ingress-bandwidth]: Forbidden: is not supported",
            ),
            (
                "/spec/containers/0/ports/0",
                json!({"containerPort": 1, "hostPort": 1, "protocol": "SCTP"}),
                "spec.containers[0].ports[0].hostPort: Forbidden: SCTP is not supported",
            ),
        ],
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let bad = json!({
        "metadata": {"name": "web"},
        "spec": {
            "restartPolicy": "x",
            "hostNetwork": true,
            "volumes": [{"name": "A"}],
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "z"}}}, {"image": "b"}],
        },
    });
    let found = errors::<Pods>(&bad);
    for path in [
        "spec.restartPolicy",
        "spec.hostNetwork",
        "spec.volumes[0].name",
        "spec.containers[0].image",
        "spec.containers[0].resources.limits[cpu]",
        "spec.containers[1].name",
    ] {
        assert!(
            found.iter().any(|error| error.starts_with(&format!("{path}: "))),
            "{path}: {found:?}"
        );
    }
    assert_eq!(found.len(), 6, "{found:?}");
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
            ("/spec/tolerations/3", json!({"key": "x", "operator": "Exists"}), ""),
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
    let errors = super::super::testing::update_errors::<Pods>(
        &minimal(),
        &with(&minimal(), "/spec/restartPolicy", json!("Never")),
    );
    assert!(errors[0].ends_with("what differs: restartPolicy"), "{errors:?}");
}

#[test]
fn status_and_spec_are_written_apart() {
    let old = created::<Pods>(&minimal());
    let mut new = old.clone();
    new.spec.as_mut().unwrap().containers[0].image = Some("other".to_owned());
    new.status.as_mut().unwrap().phase = Some("Running".to_owned());
    new.status.as_mut().unwrap().qos_class = Some("Guaranteed".to_owned());
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
    let fields: std::collections::BTreeMap<_, _> = Pods::fields(&pod).into_iter().collect();
    assert_eq!(fields["spec.nodeName"], "n1");
    assert_eq!(fields["status.phase"], "Pending");
    assert_eq!(fields["status.podIP"], "");
    assert_eq!(fields["spec.restartPolicy"], "Always");
}

/// Cells of a pod of two containers with this status.
fn cells(status: Value) -> Vec<String> {
    row::<Pods>(&json!({
        "metadata": {"name": "web", "creationTimestamp": "2026-01-01T11:50:00Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]},
        "status": status,
    }))
}

fn container(name: &str, ready: bool, state: Value) -> Value {
    json!({"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": state})
}

#[test]
fn columns_are_those_of_kubectl() {
    let names: Vec<(&str, i32)> = Pods::columns().iter().map(|c| (c.name, c.priority)).collect();
    assert_eq!(
        names,
        [
            ("Name", 0),
            ("Ready", 0),
            ("Status", 0),
            ("Restarts", 0),
            ("Age", 0),
            ("IP", 1),
            ("Node", 1),
            ("Nominated Node", 1),
            ("Readiness Gates", 1)
        ]
    );
}

#[test]
fn one_word_tells_how_a_pod_is() {
    let running = || json!({"running": {"startedAt": "2026-01-01T11:55:00Z"}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let ended =
        |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
    let ready = json!([{"type": "Ready", "status": "True"}]);
    for (phase, containers, conditions, word, count) in [
        ("Pending", json!([]), json!([]), "Pending", "0/2"),
        (
            "Pending",
            json!([
                container("a", false, waiting("ContainerCreating")),
                container("b", false, waiting("ImagePullBackOff"))
            ]),
            json!([]),
            "ContainerCreating",
            "0/2",
        ),
        (
            "Running",
            json!([container("a", true, running()), container("b", true, running())]),
            ready.clone(),
            "Running",
            "2/2",
        ),
        (
            "Running",
            json!([
                container("a", true, running()),
                container("b", false, waiting("CrashLoopBackOff"))
            ]),
            json!([]),
            "CrashLoopBackOff",
            "1/2",
        ),
        (
            "Running",
            json!([container("a", false, ended(0, "Completed")), container("b", true, running())]),
            ready,
            "Running",
            "1/2",
        ),
        (
            "Running",
            json!([container("a", false, ended(0, "Completed")), container("b", true, running())]),
            json!([]),
            "NotReady",
            "1/2",
        ),
        (
            "Succeeded",
            json!([
                container("a", false, ended(0, "Completed")),
                container("b", false, ended(0, "Completed"))
            ]),
            json!([]),
            "Completed",
            "0/2",
        ),
        (
            "Failed",
            json!([
                container("a", false, ended(137, "OOMKilled")),
                container("b", false, ended(0, "Completed"))
            ]),
            json!([]),
            "OOMKilled",
            "0/2",
        ),
        (
            "Failed",
            json!([container("a", false, ended(3, "")), container("b", false, ended(1, "Error"))]),
            json!([]),
            "ExitCode:3",
            "0/2",
        ),
    ] {
        let cells = cells(
            json!({"phase": phase, "containerStatuses": containers, "conditions": conditions}),
        );
        assert_eq!((cells[2].as_str(), cells[1].as_str()), (word, count), "{phase}");
    }
    assert_eq!(cells(json!({"phase": "Failed", "reason": "Evicted"}))[2], "Evicted");
}

#[test]
fn a_pod_that_is_being_deleted_says_so() {
    let word = |status: Value| {
        row::<Pods>(&json!({
            "metadata": {"name": "web", "deletionTimestamp": "2026-01-01T11:50:00Z"},
            "spec": {"containers": [{"name": "a"}]},
            "status": status,
        }))
        .swap_remove(2)
    };
    assert_eq!(word(json!({"phase": "Running"})), "Terminating");
    assert_eq!(word(json!({"phase": "Running", "reason": "NodeLost"})), "Unknown");
    assert_eq!(word(json!({"phase": "Succeeded"})), "Succeeded");
}

#[test]
fn init_containers_are_told_of_until_they_are_done() {
    let word = |init: Value| {
        row::<Pods>(&json!({
            "metadata": {"name": "web"},
            "spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "initContainerStatuses": init},
        }))
        .swap_remove(2)
    };
    let done = || container("i", true, json!({"terminated": {"exitCode": 0}}));
    assert_eq!(word(json!([container("i", false, json!({"running": {}}))])), "Init:0/2");
    assert_eq!(word(json!([done(), container("j", false, json!({"running": {}}))])), "Init:1/2");
    assert_eq!(
        word(json!([
            done(),
            container("j", false, json!({"waiting": {"reason": "CrashLoopBackOff"}}))
        ])),
        "Init:CrashLoopBackOff"
    );
    assert_eq!(
        word(json!([container(
            "i",
            false,
            json!({"terminated": {"exitCode": 1, "reason": "Error"}})
        )])),
        "Init:Error"
    );
}

#[test]
fn restarts_tell_when_the_last_one_was() {
    let mut first = container("a", true, json!({"running": {}}));
    first["restartCount"] = json!(3);
    first["lastState"] =
        json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T11:55:00Z"}});
    let second = container("b", true, json!({"running": {}}));
    let cells = cells(json!({
        "phase": "Running", "containerStatuses": [first, second],
        "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}],
    }));
    assert_eq!(
        cells,
        ["web", "2/2", "Running", "3 (5m ago)", "10m", "10.244.0.2", "n1", "<none>", "<none>"]
    );
}
