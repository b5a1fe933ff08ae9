//! The targets over a bounded number of cases.

use std::path::Path;

use prost::Message as _;
use serde_json::Value;

use super::harness::run;
use crate::dice::Dice;

/// The manifests that the end-to-end tests and the examples use, those that are wrong included.
fn manifests() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut texts = Vec::new();
    for folder in ["e2e/manifests", "e2e/manifests/bad", "e2e/clients", "deploy/examples"] {
        let files = std::fs::read_dir(root.join(folder)).expect("a folder");
        let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        files.sort();
        for file in files {
            let known = file.extension().is_some_and(|form| form == "yaml" || form == "json");
            // What makes them fail as requests is in the table, which is no manifest.
            if !known || file.ends_with("requests.yaml") {
                continue;
            }
            let text = std::fs::read(&file).expect("a text");
            if text.len() < 8 << 10 {
                texts.push(text);
            }
        }
    }
    texts
}

/// One document each, as JSON.
fn objects() -> Vec<Value> {
    let mut objects = Vec::new();
    for text in manifests() {
        let Ok(text) = String::from_utf8(text) else { continue };
        for part in text.split("\n---") {
            if let Ok(tree) = crate::api::codec::parse_yaml(part.as_bytes())
                && tree.value.is_object()
            {
                objects.push(tree.value);
            }
        }
    }
    assert!(objects.len() > 50, "{} objects are few to begin with", objects.len());
    objects
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn json_bodies() {
    let corpus: Vec<_> = objects().iter().map(|object| object.to_string().into_bytes()).collect();
    run(super::json_body, &corpus, 10_000);
}

#[test]
fn yaml_bodies() {
    run(super::yaml_body, &manifests(), 10_000);
}

/// `runtime.Unknown`, by hand: nobody here writes protobuf.
#[derive(Clone, prost::Message)]
struct Unknown {
    #[prost(message, tag = "1")]
    types: Option<TypeMeta>,
    #[prost(bytes, tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, prost::Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// Messages of any shape: texts and numbers under each of the first numbers, some of them messages
/// of the same kind.
#[derive(Clone, prost::Message)]
struct Any {
    #[prost(message, repeated, tag = "1")]
    one: Vec<Any>,
    #[prost(message, repeated, tag = "2")]
    two: Vec<Any>,
    #[prost(string, tag = "3")]
    three: String,
    #[prost(int64, tag = "4")]
    four: i64,
    #[prost(bytes, tag = "5")]
    five: Vec<u8>,
}

#[test]
fn protobuf_bodies() {
    let leaf = Any { three: "name".to_owned(), four: 7, five: b"100m".to_vec(), ..Any::default() };
    let list = Any { one: vec![leaf.clone(), leaf.clone()], two: vec![leaf], ..Any::default() };
    let tree = Any { one: vec![list.clone()], two: vec![list.clone(), list], ..Any::default() };
    let types = [
        ("v1", "Pod"),
        ("v1", "Service"),
        ("v1", "Node"),
        ("v1", "Event"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("v1", "DeleteOptions"),
        ("apps/v1", "Deployment"),
        ("coordination.k8s.io/v1", "Lease"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    ];
    let mut corpus = Vec::new();
    for (api_version, kind) in types {
        let types = TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let body = Unknown { types: Some(types), raw: tree.encode_to_vec() };
        corpus.push([b"k8s\0".to_vec(), body.encode_to_vec()].concat());
    }
    corpus.push(include_bytes!("../../../e2e/manifests/bad/protobuf-truncated.bin").to_vec());
    run(super::protobuf_body, &corpus, 20_000);
}

#[test]
fn patches() {
    let patches = [
        r#"{"metadata":{"labels":{"a":"b","c":null}},"spec":{"replicas":2}}"#,
        r#"[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"remove","path":"/spec"}]"#,
        r#"[{"op":"copy","from":"/spec","path":"/metadata/spec"},{"op":"move","from":"/a","path":"/b"}]"#,
        r#"[{"op":"test","path":"/kind","value":"Pod"},{"op":"replace","path":"/a~1b/0/-","value":1}]"#,
        r#"{"spec":{"containers":[{"name":"a","$patch":"delete"},{"$patch":"replace"}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"b"}],"containers":[{"name":"b","env":[]}]}}"#,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"finalizers":["b"]}}"#,
        r#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"},"template":null}}"#,
        r#"{"spec":{"ports":[{"port":80,"nodePort":null}],"$patch":"replace"}}"#,
    ];
    let mut corpus = Vec::new();
    for (number, object) in objects().iter().enumerate() {
        for (other, patch) in patches.iter().enumerate() {
            let mut input = vec![u8::try_from((number * 7 + other) % 120).expect("small")];
            input.extend_from_slice(object.to_string().as_bytes());
            input.push(0xff);
            input.extend_from_slice(patch.as_bytes());
            corpus.push(input);
        }
    }
    run(super::patch, &corpus, 20_000);
}

#[test]
fn selectors() {
    let corpus = texts(&[
        "a=b,c!=d",
        "x in (a, b),y notin (c)",
        "exists,!missing",
        "kubernetes.io/os==linux,n>1,m<5",
        "a in (),b in (,)",
        "metadata.name=web,status.phase!=Running",
        r"a=b\,c\=d\\",
        "=,!=",
        "spec.nodeName=",
    ]);
    run(super::selector, &corpus, 100_000);
}

#[test]
fn quantities() {
    let corpus = texts(&[
        "100m",
        "1Gi",
        "1e3",
        "1E",
        "-0.5",
        ".5",
        "5.",
        "+1.25Ki",
        "12e-3",
        "9223372036854775807",
        "0.0000000001",
        "1n",
        "1u",
        "3P",
        "2Ei",
        "1.000000000000000001Ki",
        "000",
        "1e-99",
    ]);
    run(super::quantity, &corpus, 100_000);
}

fn urls() -> Vec<Vec<u8>> {
    texts(&[
        "/api/v1/namespaces/default/pods?watch=true&resourceVersion=5&allowWatchBookmarks=true",
        "/api/v1/pods?labelSelector=a%3Db&fieldSelector=spec.nodeName%3Dn1&limit=5&continue=abc",
        "/api/v1/namespaces/default/pods/web:80/proxy/a//b?c=%20d",
        "/api/v1/namespaces/default/services/https:web:port/proxy",
        "/api/v1/nodes/n1/proxy/stats/summary",
        "/api/v1/namespaces/default/pods/web/log?tailLines=5&sinceTime=2026-01-01T00:00:00Z&stream=All",
        "/api/v1/namespaces/default/pods/web/exec?command=a&command=b&stdin=1&tty=true",
        "/apis/apps/v1/namespaces/default/deployments/web/scale?dryRun=All&fieldManager=x&force=1",
        "/apis/discovery.k8s.io/v1/endpointslices?resourceVersionMatch=Exact&resourceVersion=7",
        "/api/v1/watch/namespaces/default/pods/web",
        "/apis/metrics.k8s.io/v1beta1/nodes?timeout=5s",
        "/openapi/v3/api/v1?hash=ABC",
        "/readyz?verbose&exclude=etcd",
        "/apis/events.k8s.io/v1/namespaces/default/events?sendInitialEvents=true&timeoutSeconds=1",
    ])
}

#[test]
fn url_parts() {
    run(super::url, &urls(), 30_000);
}

/// Bytes are choices here, so random ones are as good as any.
#[test]
fn endpoint_slices() {
    let mut dice = Dice::new(11);
    let mut corpus = vec![Vec::new()];
    for length in (0..1_200).step_by(60) {
        corpus.push((0..length).map(|_| u8::try_from(dice.below(256)).expect("a byte")).collect());
    }
    run(super::endpoint_slices, &corpus, 300);
}
