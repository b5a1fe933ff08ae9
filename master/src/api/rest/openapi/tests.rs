use std::collections::BTreeSet;

use super::*;
use crate::api::kinds;
use crate::api::rest::metrics_api;

fn core_document() -> Value {
    document("api/v1")
}

fn document(wanted: &str) -> Value {
    let kinds = described::all(&kinds::registry());
    let versions = by_version(&kinds);
    let (_, own) = versions.iter().find(|(path, _)| path == wanted).unwrap();
    read(&Document::make(|out| write_v3(out, own, &kinds)).unwrap())
}

fn read(document: &Document) -> Value {
    let mut text = String::new();
    GzDecoder::new(&*document.gzip).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn v2_document() -> Value {
    let kinds = described::all(&kinds::registry());
    read(&Document::make(|out| write_v2(out, &kinds)).unwrap())
}

/// All references of a document, and all identifiers of operations.
fn collect(value: &Value, references: &mut BTreeSet<String>, ids: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, references, ids)),
        Value::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value.as_str()) {
                    ("$ref", Some(reference)) => drop(references.insert(reference.to_owned())),
                    ("operationId", Some(id)) => ids.push(id.to_owned()),
                    _ => collect(value, references, ids),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
    let measured = document("apis/metrics.k8s.io/v1beta1");
    let schemas = "/components/schemas/";
    for (document, place) in
        [(core_document(), schemas), (measured, schemas), (v2_document(), "/definitions/")]
    {
        let (mut references, mut ids) = (BTreeSet::new(), Vec::new());
        collect(&document, &mut references, &mut ids);
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(pointer.starts_with(place), "{reference}");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let count = ids.len();
        let unique: BTreeSet<String> = ids.into_iter().collect();
        assert_eq!(unique.len(), count);
    }
    let (mut references, mut ids) = (BTreeSet::new(), Vec::new());
    collect(&core_document(), &mut references, &mut ids);
    for id in ["listCoreV1PodForAllNamespaces", "readCoreV1NamespacedPodLog", "createCoreV1Node"] {
        assert!(ids.iter().any(|known| known == id), "{id}");
    }
}

#[test]
fn what_is_measured_can_be_read_only() {
    let document = document("apis/metrics.k8s.io/v1beta1");
    let paths = document["paths"].as_object().unwrap();
    let methods = paths.iter().map(|(path, item)| {
        let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
        (path.rsplit_once("v1beta1/").unwrap().1, methods.map(String::as_str).collect::<Vec<_>>())
    });
    let all = [
        "namespaces/{namespace}/pods",
        "namespaces/{namespace}/pods/{name}",
        "nodes",
        "nodes/{name}",
        "pods",
    ];
    let mut methods: Vec<_> = methods.collect();
    methods.sort_unstable();
    assert_eq!(methods, all.map(|path| (path, vec!["get"])));
    let pod = &document["components"]["schemas"][metrics_api::POD_METRICS];
    assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "PodMetrics");
    assert_eq!(pod["properties"]["containers"]["type"], "array");
}

#[test]
fn types_tell_their_documentation_their_kind_and_how_their_lists_merge() {
    let document = core_document();
    let schemas = &document["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    let kinds = json!([{"group": "", "kind": "Pod", "version": "v1"}]);
    assert_eq!(pod["x-kubernetes-group-version-kind"], kinds);
    assert!(pod.get("required").is_none());
    let spec = &pod["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].as_str().unwrap().starts_with("Specification of the desired"));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    let port = &schemas["io.k8s.api.core.v1.ContainerPort"]["properties"];
    assert_eq!(port["protocol"]["default"], "TCP");
    let quantity = &schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"];
    assert_eq!(quantity["oneOf"], json!([{"type": "string"}, {"type": "number"}]));
    let list = &schemas["io.k8s.api.core.v1.PodList"];
    assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "PodList");
    assert_eq!(list["required"], json!(["items"]));
}

#[test]
fn what_is_not_served_is_not_told() {
    let document = core_document();
    let paths = document["paths"].as_object().unwrap();
    let namespaces = &paths["/api/v1/namespaces"];
    assert!(namespaces.get("delete").is_none() && namespaces.get("post").is_some());
    assert!(!paths.contains_key("/api/v1/namespaces/{namespace}/configmaps/{name}/status"));
    let patch = &paths["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    let media_types = patch["requestBody"]["content"].as_object().unwrap();
    assert!(media_types.keys().eq(crate::api::patch::MEDIA_TYPES));
}

#[test]
fn the_second_version_says_references_and_numbers_in_its_own_way() {
    let document = v2_document();
    let definitions = &document["definitions"];
    let spec = &definitions["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].is_string());
    let number = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&number["type"], &number["format"]), (&json!("string"), &json!("int-or-string")));
    let post = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    let body = json!({"$ref": "#/definitions/io.k8s.api.core.v1.Pod"});
    assert_eq!(post["parameters"][0]["schema"], body);
    assert_eq!(post["parameters"][1]["type"], "string");
    assert_eq!(post["responses"]["201"]["schema"], body);
}

/// A field of a message, read as a client would.
fn fields(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (field, wire_type) = decode_key(&mut bytes).unwrap();
        let length = decode_varint(&mut bytes).unwrap();
        let mut value = Vec::new();
        if wire_type == WireType::LengthDelimited {
            let (own, rest) = bytes.split_at(usize::try_from(length).unwrap());
            value = own.to_vec();
            bytes = rest;
        }
        found.push((field, value));
    }
    found
}

fn field(bytes: &[u8], number: u32) -> Vec<u8> {
    fields(bytes).into_iter().find(|(field, _)| *field == number).unwrap().1
}

#[test]
fn the_protobuf_form_says_the_same() {
    let kinds = described::all(&kinds::registry());
    let document = v2_message(&kinds).into_bytes();
    assert_eq!(field(&document, 1), b"2.0");
    let definitions = fields(&field(&document, 9));
    let named = |name: &str| {
        let mut all = definitions.iter().map(|(_, entry)| entry);
        field(all.find(|entry| field(entry, 1) == name.as_bytes()).unwrap(), 2)
    };
    let port = named("io.k8s.api.core.v1.ContainerPort");
    assert_eq!(field(&port, 19), b"containerPort");
    assert_eq!(field(&field(&port, 22), 1), b"object");
    let pod = named("io.k8s.api.core.v1.Pod");
    let extension = field(&pod, 31);
    assert_eq!(field(&extension, 1), b"x-kubernetes-group-version-kind");
    let yaml = field(&field(&extension, 2), 2);
    let of: Value = serde_json::from_slice(&yaml).unwrap();
    assert_eq!(of[0]["kind"], "Pod");
    assert_eq!(fields(&field(&document, 8)).len(), paths(&kinds).count());
}
