//! What is wrong with the probes of a container.

use serde_json::json;

use super::super::super::testing::check;
use super::super::Pods;
use super::full;

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
                "spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
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
                "spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: \"X A\": a valid HTTP header",
            ),
            (
                &at("livenessProbe/httpGet/httpHeaders/0/value"),
                json!("a\r\nb"),
                "spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: \"X-A\": its value must be one line",
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
                json!({"grpc": {"port": 0, "service": "shop"}}),
                "spec.containers[0].livenessProbe.grpc.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (&at("livenessProbe"), json!({"grpc": {"port": 1}}), ""),
            (&at("livenessProbe"), json!({"grpc": {"port": 1, "mode": "TLS"}}), ""),
            (
                &at("livenessProbe"),
                json!({"grpc": {"port": 1, "mode": "tls"}}),
                "spec.containers[0].livenessProbe.grpc.mode: Unsupported value: \"tls\": supported values: \"Plaintext\", \"TLS\"",
            ),
            (
                &at("livenessProbe"),
                json!({"grpc": {"port": 1}, "tcpSocket": {"port": 1}}),
                "spec.containers[0].livenessProbe.grpc: Forbidden: may not specify more than 1 handler type",
            ),
        ],
    );
}
