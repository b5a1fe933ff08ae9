use proto::k8s::api::core::v1::{Pod, Secret};
use serde_json::json;

use super::*;

fn decode<T: serde::de::DeserializeOwned>(
    tree: serde_json::Value,
) -> (Result<T, DecodeError>, Vec<String>) {
    let mut decoder = Decoder::new();
    let result = decoder.decode(&tree);
    (result, decoder.into_unknown())
}

#[test]
fn names_the_path_of_a_value_of_the_wrong_type() {
    let tree = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": "http"}]}]}});
    let error = decode::<Pod>(tree).0.unwrap_err();
    assert_eq!(error.path, "spec.containers[1].ports[0].containerPort");
    assert_eq!(error.message, "cannot unmarshal string into a int32");
    let error = decode::<Pod>(json!({"spec": {"containers": "none"}})).0.unwrap_err();
    assert_eq!(error.to_string(), "spec.containers: cannot unmarshal string into a array");
    let error = decode::<Pod>(json!({"spec": {"priority": 1_i64 << 40}})).0.unwrap_err();
    assert_eq!(error.path, "spec.priority");
}

#[test]
fn names_the_path_of_bad_base64_and_bad_times() {
    let error = decode::<Secret>(json!({"data": {"key": "$$$"}})).0.unwrap_err();
    assert_eq!(error.path, "data.key");
    let error =
        decode::<Pod>(json!({"metadata": {"creationTimestamp": "yesterday"}})).0.unwrap_err();
    assert_eq!(error.path, "metadata.creationTimestamp");
}

#[test]
fn tells_every_unknown_field_and_decodes_the_rest() {
    let tree = json!({"spec": {"container": [], "containers": [{"name": "a", "imagePullpolicy": "x"}]}, "extra": 1});
    let (pod, unknown) = decode::<Pod>(tree);
    assert_eq!(pod.unwrap().spec.unwrap().containers[0].name, "a");
    assert_eq!(unknown, ["spec.container", "spec.containers[0].imagePullpolicy", "extra"]);
}

#[test]
fn null_is_the_zero_value_as_in_go() {
    let tree = json!({"metadata": {"name": null, "labels": null, "creationTimestamp": null},
        "spec": {"containers": [{"name": "a", "args": [null], "resources": null}]}, "status": null});
    let (pod, unknown) = decode::<Pod>(tree);
    let pod = pod.unwrap();
    assert_eq!(unknown, Vec::<String>::new());
    assert_eq!(pod.metadata.name, None);
    assert_eq!(pod.spec.unwrap().containers[0].args, Some(vec![String::new()]));
}

#[test]
fn takes_numbers_for_quantities_and_ports_by_name() {
    let tree = json!({"spec": {"containers": [{"name": "a",
        "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
        "livenessProbe": {"httpGet": {"port": "web"}}, "readinessProbe": {"httpGet": {"port": 80}}}]}});
    let pod = decode::<Pod>(tree).0.unwrap();
    let limits = pod.spec.unwrap().containers[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!(limits["cpu"].0, "2");
}

#[test]
fn notices_duplicate_fields_and_keeps_the_last() {
    let tree = parse_json(br#"{"a": [{"b": 1, "b": 2}], "a2": {}, "a2": 3}"#).unwrap();
    assert_eq!(tree.value, json!({"a": [{"b": 2}], "a2": 3}));
    assert_eq!(tree.duplicates, ["a[0].b", "a2"]);
}

#[test]
fn reads_yaml_with_keys_that_are_no_text() {
    let tree = parse_yaml(b"data:\n  1: one\n  true: yes\nlist: [1, 2.5, null, ~]\n").unwrap();
    assert_eq!(
        tree.value,
        json!({"data": {"1": "one", "true": "yes"}, "list": [1, 2.5, null, null]})
    );
}

#[test]
fn refuses_what_is_no_single_document() {
    for body in [&b"\xff{}"[..], b"{", b"{} {}", b"", b"{\"a\": 1e999}"] {
        assert!(parse_json(body).is_err(), "{body:?}");
    }
    for body in [&b"\xff: 1"[..], b"a: [", b"a: 1\n---\nb: 2\n", b"a: .inf", b"a: !tag 1"] {
        assert!(parse_yaml(body).is_err(), "{:?}", String::from_utf8_lossy(body));
    }
}

#[test]
fn refuses_deep_nesting_in_both_forms() {
    let deep = "[".repeat(100_000);
    assert!(parse_json(deep.as_bytes()).is_err());
    assert!(parse_yaml(deep.as_bytes()).is_err());
    let deep = "{\"a\":".repeat(100_000);
    assert!(parse_json(deep.as_bytes()).is_err());
}

#[test]
fn an_alias_bomb_ends_early() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let error = parse_yaml(bomb.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("repetition") || error.contains("more than"), "{error}");
    // Few repetitions of something large are a bomb as well.
    let large = "y".repeat(1 << 20);
    let wide = format!("a: &a {large}\nb: [{}]\n", vec!["*a"; 50].join(","));
    assert!(parse_yaml(wide.as_bytes()).unwrap_err().to_string().contains("bytes of text"));
}
