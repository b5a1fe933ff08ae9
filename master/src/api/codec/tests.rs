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
        json!({"data": {"1": "one", "true": true}, "list": [1, 2.5, null, null]})
    );
}

#[test]
fn refuses_what_is_no_single_document() {
    for body in [&b"\xff{}"[..], b"{", b"{} {}", b"", b"{\"a\": 1e999}"] {
        assert!(parse_json(body).is_err(), "{body:?}");
    }
    for body in [&b"\xff: 1"[..], b"a: [", b"a: 1\n---\nb: 2\n", b"a: .inf", b"a: !!int x"] {
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

/// What Kubernetes' own reader makes of it (`sigs.k8s.io/yaml`).
#[test]
fn plain_scalars_mean_what_yaml_1_1_says() {
    for (text, value) in [
        ("0440", json!(0o440)),
        ("-0440", json!(-0o440)),
        ("0o440", json!(0o440)),
        ("0x1F", json!(31)),
        ("0b101", json!(5)),
        ("-0b11", json!(-3)),
        ("0", json!(0)),
        ("00", json!(0)),
        // No octal digits: a decimal fraction without a fraction.
        ("08", json!(8)),
        ("0889", json!(889)),
        ("1_000", json!(1000)),
        ("+7", json!(7)),
        ("9223372036854775808", json!(9_223_372_036_854_775_808_u64)),
        ("8e1", json!(80)),
        ("1.0", json!(1)),
        ("1.5", json!(1.5)),
        (".5", json!(0.5)),
        ("1.", json!(1)),
        ("-1.5e-3", json!(-0.0015)),
        ("1e999", json!("1e999")),
        ("0x", json!("0x")),
        ("0o9", json!("0o9")),
        ("1e", json!("1e")),
        ("+", json!("+")),
        ("--1", json!("--1")),
        ("1 2", json!("1 2")),
        ("100m", json!("100m")),
        ("1Gi", json!("1Gi")),
        ("12:30", json!("12:30")),
        ("2026-01-02", json!("2026-01-02")),
        ("2026-01-02T03:04:05Z", json!("2026-01-02T03:04:05Z")),
        ("1.2.3.4", json!("1.2.3.4")),
        ("yes", json!(true)),
        ("Y", json!(true)),
        ("on", json!(true)),
        ("TRUE", json!(true)),
        ("no", json!(false)),
        ("n", json!(false)),
        ("Off", json!(false)),
        ("yEs", json!("yEs")),
        ("tRUE", json!("tRUE")),
        ("", json!(null)),
        ("~", json!(null)),
        ("NULL", json!(null)),
        ("nil", json!("nil")),
        ("\"0440\"", json!("0440")),
        ("'yes'", json!("yes")),
        ("|-\n  0440", json!("0440")),
        ("!!str 0440", json!("0440")),
        ("! 0440", json!("0440")),
        ("!own 0440", json!("0440")),
        ("!!int \"5\"", json!(5)),
        ("!!float 5", json!(5)),
        ("!!bool \"yes\"", json!(true)),
        ("!!timestamp 2026-01-02", json!("2026-01-02")),
    ] {
        let body = format!("a: {text}\n");
        let tree = parse_yaml(body.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(tree.value, json!({"a": value}), "{text}");
    }
}

#[test]
fn field_names_are_what_their_scalars_mean() {
    for (name, told) in [
        ("0440", "288"),
        ("yes", "true"),
        ("\"yes\"", "yes"),
        ("1.5", "1.5"),
        ("1.0", "1"),
        ("1e6", "1e+06"),
        ("0.00001", "1e-05"),
        ("123456.0", "123456"),
        ("!!str 0440", "0440"),
    ] {
        let tree = parse_yaml(format!("{name}: x").as_bytes()).unwrap();
        assert_eq!(tree.value, json!({told: "x"}), "{name}");
    }
    for body in ["~: x", "? [a]\n: x", "? {a: b}\n: x"] {
        assert!(parse_yaml(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn aliases_and_merges_are_followed() {
    let body = "base: &base {a: 1, b: 2}\nother: &other {b: 3, c: &c 4}\n\
        one: {<<: *base, b: 5}\nmany:\n  <<: [*base, *other]\n  d: *c\n\"<<\": text\n";
    let tree = parse_yaml(body.as_bytes()).unwrap();
    assert_eq!(tree.value["one"], json!({"a": 1, "b": 5}));
    assert_eq!(tree.value["many"], json!({"b": 2, "c": 4, "a": 1, "d": 4}));
    assert_eq!(tree.value["<<"], json!("text"));
    for body in ["a: &a [*a]", "a: *nothing", "a: {<<: 5}", "a: {<<: [5]}"] {
        assert!(parse_yaml(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn notices_duplicate_fields_in_yaml() {
    let tree = parse_yaml(b"a:\n- b: 1\n- b: 1\n  b: 2\na2: 1\na2: {c: 1, c: 2}\n").unwrap();
    assert_eq!(tree.value, json!({"a": [{"b": 1}, {"b": 2}], "a2": {"c": 2}}));
    assert_eq!(tree.duplicates, ["a[1].b", "a2.c", "a2"]);
}

#[test]
fn json_is_yaml_too() {
    let body = r#"{"a": [1, 2.5, "x", null, true, {"b": "\u00e4\n"}], "c": {}}"#;
    assert_eq!(parse_yaml(body.as_bytes()).unwrap(), parse_json(body.as_bytes()).unwrap());
    assert_eq!(parse_yaml(b"").unwrap().value, json!(null));
}

/// Bytes that are nearly YAML: whatever comes of them, it comes soon and without a panic.
#[test]
fn no_text_makes_the_reader_panic() {
    let pieces = [
        "a",
        ": ",
        "- ",
        "\n",
        "  ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a ",
        "*a",
        "!!int ",
        "!x ",
        "|\n",
        ">",
        "\"",
        "'",
        "\\",
        "#",
        "? ",
        "<<",
        "---\n",
        "...\n",
        "%TAG ! x\n",
        "\t",
        "0440",
        "~",
        "é",
        "\r\n",
        "\u{feff}",
        "@",
        "`",
    ];
    let mut state = 88_172_645_463_325_252_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..24 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let index = usize::try_from(state % pieces.len() as u64).unwrap();
            text.push_str(pieces[index]);
        }
        let _ = parse_yaml(text.as_bytes());
    }
}
