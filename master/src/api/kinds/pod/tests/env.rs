//! What is wrong with the variables of a container.

use serde_json::json;

use super::super::super::testing::check;
use super::super::Pods;
use super::full;

#[test]
fn variables_keep_to_the_rules() {
    let at = |rest: &str| format!("/spec/containers/0/{rest}");
    check::<Pods>(
        &full(),
        vec![
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
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.containers\": error converting fieldPath: field label not supported: spec.containers",
            ),
            (
                &at("env/1/valueFrom/fieldRef/fieldPath"),
                json!("metadata.labels"),
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\"",
            ),
            (
                &at("env/1/valueFrom/fieldRef/fieldPath"),
                json!("metadata.annotations['a b']"),
                "spec.containers[0].env[1].valueFrom.fieldRef: Invalid value: \"a b\": name part must consist of",
            ),
            (
                &at("env/1/valueFrom/fieldRef/fieldPath"),
                json!("spec.nodeSelector['a']"),
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nodeSelector['a']\": error converting fieldPath: field label does not support subscript: spec.nodeSelector",
            ),
            (
                &at("env/1/valueFrom/fieldRef/fieldPath"),
                json!("status.phase"),
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\"",
            ),
            (
                &at("env/1/valueFrom/fieldRef/apiVersion"),
                json!("v2"),
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.labels['app']\": error converting fieldPath: unsupported pod version: v2",
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
                &at("env/2/valueFrom/resourceFieldRef/divisor"),
                json!("1Mi"),
                "spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ),
            (&at("env/2/valueFrom/resourceFieldRef/divisor"), json!("1m"), ""),
            (
                &at("env/2/valueFrom/resourceFieldRef"),
                json!({"resource": "requests.memory", "divisor": "2Mi"}),
                "spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor: Invalid value: \"requests.memory\": only divisor's values 1, 1k, 1M, 1G,",
            ),
            (
                &at("env/2/valueFrom/resourceFieldRef"),
                json!({"resource": "requests.memory", "divisor": "1Mi"}),
                "",
            ),
            (
                &at("env/2/valueFrom/resourceFieldRef"),
                json!({"resource": "limits.ephemeral-storage", "divisor": "1m"}),
                "spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.ephemeral-storage\": only divisor's values 1, 1k, 1M,",
            ),
            (
                &at("env/2/valueFrom/resourceFieldRef"),
                json!({"resource": "requests.ephemeral-storage", "divisor": "1Gi"}),
                "",
            ),
            (
                &at("env/2/valueFrom/resourceFieldRef"),
                json!({"resource": "limits.hugepages-2Mi", "divisor": "1m"}),
                "spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.hugepages-2Mi\": only divisor's values 1, 1k, 1M,",
            ),
            (
                &at("env/2/valueFrom/resourceFieldRef"),
                json!({"resource": "requests.hugepages-2Mi", "divisor": "1Mi"}),
                "",
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
                "spec.containers[0].env[4].valueFrom.secretKeyRef.name: Invalid value: \"\": a lowercase RFC 1123 subdomain",
            ),
            (
                &at("envFrom/0/prefix"),
                json!("="),
                "spec.containers[0].envFrom[0].prefix: Invalid value: \"=\"",
            ),
            (
                &at("envFrom/0/configMapRef"),
                json!(null),
                "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            ),
            (
                &at("envFrom/0/secretRef"),
                json!({"name": "a"}),
                "spec.containers[0].envFrom: Invalid value: \"\": may not have more than one",
            ),
            (
                &at("envFrom/1/secretRef/name"),
                json!(""),
                "spec.containers[0].envFrom[1].secretRef.name: Required value",
            ),
            (
                &at("envFrom/1/secretRef/name"),
                json!("A"),
                "spec.containers[0].envFrom[1].secretRef.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
            ),
        ],
    );
}
