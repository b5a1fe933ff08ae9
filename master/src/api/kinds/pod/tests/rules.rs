//! What is wrong with a pod, field by field.

use serde_json::json;

use super::super::super::testing::{check, errors};
use super::super::Pods;
use super::{full, minimal};

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
                "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"1.1.1.4\"]: must not have more than 3 nameservers",
            ),
            (
                "/spec/dnsConfig/searches",
                json!(vec!["a.b"; 33]),
                "spec.dnsConfig.searches: Invalid value: [\"a.b\",",
            ),
            (
                "/spec/dnsConfig/searches",
                json!(vec![format!("{0}.{0}.{0}", "a".repeat(60)); 12]),
                "spec.dnsConfig.searches: Invalid value: [\"aaa",
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
                &at("resources/requests/pods"),
                json!("2"),
                "spec.containers[0].resources.requests[pods]: Invalid value: \"pods\": must be a standard resource for containers",
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
