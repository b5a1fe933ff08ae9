//! Bodies: JSON, YAML, protobuf, patches.

use std::sync::LazyLock;

use serde_json::Value;

use crate::api::codec::{Tree, parse_json, parse_protobuf, parse_yaml};
use crate::api::kinds;
use crate::api::patch::{MEDIA_TYPES, Patch};
use crate::api::registry::{AnyKind, Registry};

/// Nesting that bodies may have, and one level more for what stands in the deepest.
const MAX_DEPTH: usize = 129;

/// No input that is not a bomb makes more out of itself; and a bomb ends at the bounds of a tree.
const MAX_PRINTED: usize = 32 << 20;

static REGISTRY: LazyLock<Registry> = LazyLock::new(kinds::registry);

/// A body in JSON: printed and read again it is the same, as JSON and as YAML; what a kind makes of it
/// can be stored and read.
pub fn json_body(body: &[u8]) {
    let Ok(tree) = parse_json(body) else { return };
    let text = printed(&tree.value);
    same(&tree, &parse_json(text.as_bytes()).expect("what was printed is JSON"));
    object(&tree);
}

/// A body in YAML: what it says can be said in JSON.
pub fn yaml_body(body: &[u8]) {
    let Ok(tree) = parse_yaml(body) else { return };
    let text = printed(&tree.value);
    same(&tree, &parse_json(text.as_bytes()).expect("what was printed is JSON"));
    if text.len() < 64 << 10 {
        // JSON is YAML.
        same(&tree, &parse_yaml(text.as_bytes()).expect("what was printed is YAML"));
    }
    object(&tree);
}

/// A body in Kubernetes' protobuf, with or without what it has to begin with.
pub fn protobuf_body(body: &[u8]) {
    let whole = [b"k8s\0", body].concat();
    for body in [body, &whole] {
        let Ok(tree) = parse_protobuf(body) else { continue };
        let text = printed(&tree.value);
        same(&tree, &parse_json(text.as_bytes()).expect("what was printed is JSON"));
        object(&tree);
    }
}

/// A patch of an object. The first byte says of which form, a byte that no text has divides the two.
pub fn patch(input: &[u8]) {
    let Some((form, input)) = input.split_first() else { return };
    let mut parts = input.splitn(2, |byte| *byte == 0xff);
    let (Some(object), Some(patch)) = (parts.next(), parts.next()) else { return };
    let Ok(object) = parse_json(object) else { return };
    let media_type = MEDIA_TYPES[usize::from(*form) % 3];
    let Ok(patch) = Patch::parse(Some(media_type), patch) else { return };
    let registry = &REGISTRY.kinds();
    let kind = registry[usize::from(*form / 3) % registry.len()].resource();
    let Ok(once) = patch.apply(kind, object.value) else { return };
    // Bodies that are patched are at most as deep as bodies that are sent.
    let text = printed(&once.value);
    if let Patch::Merge(_) = patch {
        let twice = patch.apply(kind, once.value.clone()).expect("what could be done once");
        assert_eq!(twice.value, once.value, "a second time it does something else: {text}");
    }
}

/// The text of a tree that is within its bounds.
fn printed(tree: &Value) -> String {
    let depth = depth(tree);
    assert!(depth <= 2 * MAX_DEPTH, "nested {depth} deep");
    let text = tree.to_string();
    assert!(text.len() <= MAX_PRINTED, "{} bytes", text.len());
    text
}

fn depth(tree: &Value) -> usize {
    match tree {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

fn same(first: &Tree, second: &Tree) {
    let depth = depth(&first.value);
    assert!(depth <= MAX_DEPTH, "nested {depth} deep");
    assert!(equal(&second.value, &first.value), "{} became {}", first.value, second.value);
    assert_eq!(second.duplicates, Vec::<String>::new(), "what was printed says nothing twice");
}

/// Fractions may differ by the last bit, which is how exact the parser of JSON is; no field of a kind
/// that is served is one.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or_default(), b.as_f64().unwrap_or_default());
            a == b || ((a - b) / b).abs() < 1e-15
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same =
                |(name, value): (&String, &Value)| b.get(name).is_some_and(|b| equal(value, b));
            a.len() == b.len() && a.iter().all(same)
        }
        (a, b) => a == b,
    }
}

/// The way of an object through its kind.
fn object(tree: &Tree) {
    let kinds = REGISTRY.kinds();
    let stated = tree.value.get("kind").and_then(Value::as_str);
    let found = kinds.iter().find(|kind| Some(kind.resource().kind) == stated);
    let kind: &dyn AnyKind = match found {
        Some(kind) => *kind,
        None => kinds[tree.value.to_string().len() % kinds.len()],
    };
    let Ok(decoded) = kind.decode(&tree.value) else { return };
    let mut object = decoded.object;
    kind.default(&mut *object);
    kind.prepare_create(&mut *object);
    let errors = kind.validate(&*object);
    let stored = object.to_json().expect("an object can be written");
    let again = kind.decode_stored(&stored).expect("what was written can be read");
    assert!(object.equals(&*again), "{}", String::from_utf8_lossy(&stored));
    // A default that is not there at once would change the object with its next update.
    let mut defaulted = again;
    kind.default(&mut *defaulted);
    assert!(object.equals(&*defaulted), "{}", String::from_utf8_lossy(&stored));
    if errors.is_empty() {
        let cells = kind.row(&*object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), kind.columns().len(), "{}", kind.resource().kind);
        let errors = kind.validate_update(&*object, &*object);
        assert!(errors.is_empty(), "an update that changes nothing: {errors:?}");
    }
}
