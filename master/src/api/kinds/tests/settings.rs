//! What is wrong with settings: ConfigMaps and Secrets.

use super::*;

fn config_map() -> Value {
    json!({"metadata": meta(), "data": {"a.b": "1"}, "binaryData": {"c": "AAE="}})
}

#[test]
fn config_maps_keep_to_the_rules() {
    settles::<ConfigMaps>(&config_map());
    check::<ConfigMaps>(
        &config_map(),
        vec![
            (
                "/data",
                json!({"a/b": ""}),
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of",
            ),
            ("/data", json!({"..": ""}), "data[..]: Invalid value: \"..\": must not be '..'"),
            ("/data", json!({"a".repeat(254): ""}), "data[aaa"),
            (
                "/data",
                json!({"c": ""}),
                "data[c]: Invalid value: \"c\": duplicate of key present in binaryData",
            ),
            (
                "/data",
                json!({"a": "x".repeat(1024 * 1024)}),
                "[]: Too long: may not be more than 1048576 bytes",
            ),
        ],
    );
    let locked = with(&config_map(), "/immutable", json!(true));
    check_updates::<ConfigMaps>(
        &locked,
        vec![
            ("/metadata/labels", json!({"a": "b"}), ""),
            (
                "/data",
                json!({"a.b": "2"}),
                "data: Forbidden: field is immutable when `immutable` is set",
            ),
            ("/binaryData", json!(null), "binaryData: Forbidden"),
            ("/immutable", json!(false), "immutable: Forbidden"),
        ],
    );
    check_updates::<ConfigMaps>(&config_map(), vec![("/data", json!({"x": "2"}), "")]);
    assert_eq!(row::<ConfigMaps>(&config_map()), ["web", "2", "60m"]);
}

#[test]
fn secrets_keep_to_the_rules_of_their_type() {
    let secret =
        |kind: &str, data: Value| json!({"metadata": meta(), "type": kind, "stringData": data});
    settles::<Secrets>(&secret("Opaque", json!({"a": "b"})));
    let stored = defaulted::<Secrets>(&json!({"metadata": meta(), "stringData": {"a": "b"}}));
    assert_eq!((&stored["type"], &stored["data"]), (&json!("Opaque"), &json!({"a": "Yg=="})));
    assert_eq!(stored.get("stringData"), None);
    let tls = json!({"tls.crt": "x", "tls.key": "y"});
    for (kind, data, expected) in [
        ("kubernetes.io/tls", tls.clone(), &[][..]),
        (
            "kubernetes.io/tls",
            json!({}),
            &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        ),
        ("kubernetes.io/ssh-auth", json!({}), &["data[ssh-privatekey]: Required value"]),
        ("kubernetes.io/basic-auth", json!({"username": "x"}), &[]),
        (
            "kubernetes.io/basic-auth",
            json!({}),
            &["data[username]: Required value", "data[password]: Required value"],
        ),
        ("kubernetes.io/dockercfg", json!({}), &["data[.dockercfg]: Required value"]),
        ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "{}"}), &[]),
        (
            "kubernetes.io/dockerconfigjson",
            json!({".dockerconfigjson": "pa55"}),
            &[
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": not a JSON object (line 1)",
            ],
        ),
        (
            "kubernetes.io/service-account-token",
            json!({}),
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
        (
            "Opaque",
            json!({"a b": ""}),
            &[
                "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ],
        ),
    ] {
        assert_eq!(errors::<Secrets>(&secret(kind, data)), expected, "{kind}");
    }
    check_updates::<Secrets>(
        &secret("kubernetes.io/tls", tls),
        vec![("/type", json!("Opaque"), "type: Invalid value: \"Opaque\": field is immutable")],
    );
    let locked = with(&secret("Opaque", json!({"a": "b"})), "/immutable", json!(true));
    check_updates::<Secrets>(&locked, vec![("/stringData/a", json!("c"), "data: Forbidden")]);
    assert_eq!(
        row::<Secrets>(&json!({"metadata": meta(), "type": "Opaque", "data": {"a": "Yg=="}})),
        ["web", "Opaque", "1", "60m"]
    );
}
