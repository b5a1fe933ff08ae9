use std::collections::HashSet;

use serde_json::{Value, json};

use super::fields::{self, Many, Message, Type};
use super::*;
use crate::api::field_error::MAX_ERRORS;
use crate::api::kinds;

/// A message under way.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn varint(mut self, number: u32, value: u64) -> Self {
        prost::encoding::encode_varint(u64::from(number) << 3, &mut self.0);
        prost::encoding::encode_varint(value, &mut self.0);
        self
    }

    fn bytes(mut self, number: u32, value: impl AsRef<[u8]>) -> Self {
        prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut self.0);
        prost::encoding::encode_varint(value.as_ref().len() as u64, &mut self.0);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    fn message(self, number: u32, value: Self) -> Self {
        self.bytes(number, value.0)
    }
}

fn bytes() -> Bytes {
    Bytes::default()
}

fn body(api_version: &str, kind: &str, object: Bytes) -> Vec<u8> {
    let types = bytes().bytes(1, api_version).bytes(2, kind);
    let envelope = bytes().message(1, types).message(2, object).bytes(3, "").bytes(4, "");
    [MAGIC, &envelope.0].concat()
}

/// The tree without its type.
fn read(api_version: &str, kind: &str, object: Bytes) -> (Value, Vec<String>) {
    let mut tree = parse_protobuf(&body(api_version, kind, object)).unwrap();
    let fields = tree.value.as_object_mut().unwrap();
    assert_eq!(fields.remove("apiVersion"), Some(api_version.into()));
    assert_eq!(fields.remove("kind"), Some(kind.into()));
    (tree.value, tree.unknown)
}

fn refused(body: &[u8]) -> String {
    parse_protobuf(body).unwrap_err().to_string()
}

/// A message with a value in every field.
fn full(message: &Message) -> Bytes {
    let mut all = bytes();
    for (number, field) in message {
        let (of, number) = (field.of, *number);
        if field.many == Many::Map {
            all = all.message(number, value(bytes().bytes(1, "key"), 2, of));
        } else {
            all = value(all, number, of);
        }
    }
    all
}

fn value(into: Bytes, number: u32, of: Type) -> Bytes {
    match of {
        Type::Text => into.bytes(number, "text"),
        Type::Flag => into.varint(number, 1),
        Type::Int32 | Type::Int64 => into.varint(number, 7),
        Type::Bytes => into.bytes(number, [0, 255]),
        Type::Time => into.message(number, bytes().varint(1, 1_700_000_000).varint(2, 0)),
        Type::MicroTime => into.message(number, bytes().varint(1, 1).varint(2, 2_999)),
        Type::Quantity => into.message(number, bytes().bytes(1, "100m")),
        Type::IntOrString => into.message(number, bytes().varint(1, 1).bytes(3, "http")),
        Type::Json => into.message(number, bytes().bytes(1, r#"{"f:spec":{}}"#)),
        Type::Message(name) => into.message(number, full(fields::message(name).unwrap())),
    }
}

#[test]
fn every_field_of_every_kind_that_is_served_arrives() {
    for kind in kinds::registry().kinds() {
        let resource = kind.resource();
        let api_version = match resource.group {
            "" => resource.version.to_owned(),
            group => format!("{group}/{}", resource.version),
        };
        let message = fields::of_kind(&api_version, resource.kind);
        let message =
            message.unwrap_or_else(|| panic!("fields.txt lacks {api_version} {}", resource.kind));
        let tree = parse_protobuf(&body(&api_version, resource.kind, full(message))).unwrap();
        assert_eq!(tree.unknown, Vec::<String>::new());
        let decoded = kind.decode(&tree.value).unwrap();
        assert_eq!(decoded.unknown, Vec::<String>::new(), "{}", resource.kind);
        assert_eq!(kind.tree(&*decoded.object).unwrap(), tree.value, "{}", resource.kind);
    }
}

#[test]
fn the_table_is_whole_and_no_message_contains_itself() {
    fn visit(name: &'static str, above: &mut Vec<&'static str>, done: &mut HashSet<&'static str>) {
        assert!(!above.contains(&name), "{name} in {above:?}");
        if !done.insert(name) {
            return;
        }
        above.push(name);
        let message = fields::message(name).unwrap_or_else(|| panic!("{name} is not in the table"));
        for field in message.values() {
            if let Type::Message(name) = field.of {
                visit(name, above, done);
            }
            assert!(field.name.is_some() || matches!(field.of, Type::Message(_)));
        }
        above.pop();
    }
    let mut done = HashSet::new();
    for name in fields::all().keys() {
        visit(name, &mut Vec::new(), &mut done);
    }
    assert!(done.len() > 300, "{}", done.len());
}

#[test]
fn a_zero_value_is_given_only_where_go_has_a_pointer() {
    let meta = bytes().bytes(1, "web").bytes(2, "").bytes(3, "").varint(7, 0).message(8, bytes());
    let spec = bytes().varint(1, 0).varint(5, 0).varint(6, 0).varint(7, 0).message(4, bytes());
    let (tree, unknown) = read("apps/v1", "Deployment", bytes().message(1, meta).message(2, spec));
    let spec = json!({"replicas": 0, "revisionHistoryLimit": 0, "strategy": {}});
    assert_eq!(tree, json!({"metadata": {"name": "web"}, "spec": spec}));
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn values_whose_json_is_of_another_shape() {
    let port = |target: Bytes| bytes().varint(3, 80).message(4, target);
    let ports = bytes()
        .message(1, port(bytes().varint(1, 0).varint(2, 8080).bytes(3, "")))
        .message(1, port(bytes().varint(1, 1).varint(2, 0).bytes(3, "http")));
    let (tree, _) = read("v1", "Service", bytes().message(2, ports));
    let ports = json!([{"port": 80, "targetPort": 8080}, {"port": 80, "targetPort": "http"}]);
    assert_eq!(tree["spec"]["ports"], ports);

    let entry = bytes().bytes(1, "key").bytes(2, [1, 2, 255]);
    let (tree, _) =
        read("v1", "Secret", bytes().message(2, entry).message(2, bytes().bytes(1, "none")));
    assert_eq!(tree["data"], json!({"key": "AQL/", "none": ""}));

    // A ConfigMap's name and a volume's source stand in the object around them.
    let source = bytes().message(19, bytes().message(1, bytes().bytes(1, "settings")));
    let volume = bytes().bytes(1, "v").message(2, source);
    let (tree, _) = read("v1", "Pod", bytes().message(2, bytes().message(1, volume)));
    assert_eq!(tree["spec"]["volumes"], json!([{"name": "v", "configMap": {"name": "settings"}}]));

    let time = |seconds: i64, nanos| bytes().varint(1, seconds.cast_unsigned()).varint(2, nanos);
    let meta = bytes().message(8, time(-1, 0)).message(9, time(1_700_000_000, 999_999_999));
    let (tree, _) = read("v1", "ConfigMap", bytes().message(1, meta));
    assert_eq!(tree["metadata"]["creationTimestamp"], "1969-12-31T23:59:59Z");
    assert_eq!(tree["metadata"]["deletionTimestamp"], "2023-11-14T22:13:20Z");
    let renewed = bytes().message(4, time(1_700_000_000, 1_999));
    let (tree, _) = read("coordination.k8s.io/v1", "Lease", bytes().message(2, renewed));
    assert_eq!(tree["spec"]["renewTime"], "2023-11-14T22:13:20.000001Z");
}

#[test]
fn messages_given_twice_are_merged_and_numbers_may_be_packed() {
    let twice = bytes().message(1, bytes().bytes(1, "a")).message(1, bytes().bytes(3, "b"));
    let (tree, _) = read("v1", "ConfigMap", twice);
    assert_eq!(tree, json!({"metadata": {"name": "a", "namespace": "b"}}));
    let context = bytes().varint(4, 1).bytes(4, [2, 3]);
    let (tree, _) = read("v1", "Pod", bytes().message(2, bytes().message(14, context)));
    assert_eq!(tree["spec"]["securityContext"]["supplementalGroups"], json!([1, 2, 3]));
}

#[test]
fn every_group_has_delete_options() {
    let (tree, _) = read("apps/v1", "DeleteOptions", bytes().varint(1, 0).bytes(4, "Foreground"));
    assert_eq!(tree, json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground"}));
}

#[test]
fn tells_fields_it_does_not_know() {
    let container = bytes().bytes(1, "main").varint(900, 1).bytes(901, "x");
    let pod = bytes().message(2, bytes().message(2, container)).varint(77, 1);
    let (tree, unknown) = read("v1", "Pod", pod);
    assert_eq!(tree["spec"], json!({"containers": [{"name": "main"}]}));
    assert_eq!(unknown, ["spec.containers[0].900", "spec.containers[0].901", "77"]);
}

#[test]
fn refuses_what_is_malformed_and_says_where() {
    let pod =
        |container: Bytes| body("v1", "Pod", bytes().message(2, bytes().message(2, container)));
    let deployment = |spec: Bytes| body("apps/v1", "Deployment", bytes().message(2, spec));
    let mut cut_off = body("v1", "ConfigMap", bytes());
    cut_off.truncate(10);
    let mut compressed = body("v1", "ConfigMap", bytes());
    compressed.extend(bytes().bytes(3, "gzip").0);
    let cases = [
        (b"{}".to_vec(), "the body does not begin with the bytes \"k8s\\0\""),
        (MAGIC.to_vec(), "no kind \"\" is registered for version \"\""),
        (body("v2", "Pod", bytes()), "no kind \"Pod\" is registered for version \"v2\""),
        (cut_off, "the envelope of the object: a field is longer than what is left"),
        (compressed, "the object is gzip, not plain protobuf"),
        (pod(bytes().bytes(1, [0xff])), "spec.containers[0].name: text is not valid UTF-8"),
        (pod(bytes().varint(1, 1)), "spec.containers[0].name: a field has a wrong wire type"),
        (
            pod(Bytes(vec![0x0a, 5, b'x'])),
            "spec.containers[0]: a field is longer than what is left",
        ),
        (pod(Bytes(vec![0x0b])), "spec.containers[0]: a field has a wrong wire type"),
        (pod(Bytes(vec![0])), "spec.containers[0]: a field number is out of range"),
        (
            deployment(bytes().varint(1, 1 << 40)),
            "spec.replicas: 1099511627776 does not fit into an int32",
        ),
        (deployment(bytes().bytes(1, "x")), "spec.replicas: a field has a wrong wire type"),
        (deployment(Bytes(vec![0xff; 11])), "spec: a varint is cut off or longer than ten bytes"),
        (
            body("v1", "ConfigMap", Bytes(vec![0xff])),
            "the object: a varint is cut off or longer than ten bytes",
        ),
        (
            body(
                "v1",
                "ConfigMap",
                bytes().message(1, bytes().message(8, bytes().varint(1, 1 << 60))),
            ),
            "metadata.creationTimestamp: ",
        ),
        (
            body(
                "v1",
                "ConfigMap",
                bytes().message(1, bytes().message(17, bytes().message(7, bytes().bytes(1, "{")))),
            ),
            "metadata.managedFields[0].fieldsV1: error parsing JSON",
        ),
    ];
    for (body, wanted) in cases {
        let message = refused(&body);
        let message = message.strip_prefix("error parsing protobuf: ").unwrap();
        assert!(message.starts_with(wanted), "{message:?} is not {wanted:?}");
    }
}

#[test]
fn a_small_body_does_not_become_a_large_tree() {
    let containers = bytes().bytes(2, []).0.repeat(1 << 20);
    let pod = body("v1", "Pod", bytes().message(2, Bytes(containers)));
    assert!(refused(&pod).contains("more than 200000 values"));
    let many = bytes().varint(500, 1).0.repeat(100_000);
    let (_, unknown) = read("v1", "Pod", bytes().message(2, Bytes(many)));
    assert!(unknown.len() <= MAX_ERRORS);
}

#[test]
fn no_bytes_make_it_panic() {
    let message = fields::of_kind("v1", "Pod").unwrap();
    let whole = body("v1", "Pod", full(message));
    for length in 0..whole.len() {
        let _ = parse_protobuf(&whole[..length]);
    }
    let mut random = 1_u64;
    for _ in 0..3_000 {
        let mut mutated = whole.clone();
        for _ in 0..3 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(random >> 33).unwrap() % mutated.len();
            mutated[at] = random.to_le_bytes()[3];
        }
        let _ = parse_protobuf(&mutated);
    }
}
