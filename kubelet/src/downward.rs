//! What a pod is told of itself, by `fieldRef` and `resourceFieldRef`, in variables and in files.

use std::collections::BTreeMap;

use proto::huge_pages;
use proto::k8s::api::core::v1::{Container, Node, Pod, ResourceFieldSelector};
use proto::k8s::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::quantity::Quantity;

/// A field of the metadata; nothing when it is none of those that can be told.
pub(crate) fn metadata(path: &str, metadata: &ObjectMeta) -> Option<String> {
    if let Some(key) = subscript(path, "metadata.labels") {
        return Some(entry(metadata.labels.as_ref(), key));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Some(entry(metadata.annotations.as_ref(), key));
    }
    let value = match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => whole(metadata.labels.as_ref()),
        "metadata.annotations" => whole(metadata.annotations.as_ref()),
        _ => return None,
    };
    Some(value)
}

/// The amount of a resource that the container has, or another one of the pod when that is named.
/// The error is for the user.
pub(crate) fn resource(
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
    pod: &Pod,
    node: Option<&Node>,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        None => own,
        Some(name) => {
            let spec = pod.spec.as_ref();
            let init = spec.and_then(|spec| spec.init_containers.as_ref());
            let all =
                spec.iter().flat_map(|spec| &spec.containers).chain(init.into_iter().flatten());
            all.into_iter().find(|container| container.name == name)
        }
    };
    let container =
        container.ok_or_else(|| format!("container {} not found", named.unwrap_or_default()))?;
    let resources = container.resources.as_ref();
    let (amounts, resource) = match selector.resource.split_once('.') {
        Some(("limits", resource)) => (resources.and_then(|r| r.limits.as_ref()), resource),
        Some(("requests", resource)) => (resources.and_then(|r| r.requests.as_ref()), resource),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let stated = amounts.and_then(|amounts| amounts.get(resource));
    // Without a limit a container may use what the node has to give, but for huge pages, of which it gets none.
    let is_open = selector.resource.starts_with("limits.") && !huge_pages::is_resource(resource);
    let amount = match stated {
        None if is_open => allocatable(resource, node),
        stated => stated,
    };
    let parse =
        |quantity: &WireQuantity| Quantity::parse(&quantity.0).map_err(|error| error.to_string());
    let amount = amount.map(&parse).transpose()?.unwrap_or(Quantity::ZERO).nano_value();
    let divisor = match &selector.divisor {
        Some(divisor) => parse(divisor)?.nano_value(),
        None => 0,
    };
    let divisor = if divisor > 0 { divisor } else { Quantity::from_units(1).nano_value() };
    // Rounded up: half a core asked for in cores is one.
    Ok(((amount + divisor - 1) / divisor).to_string())
}

fn allocatable<'a>(resource: &str, node: Option<&'a Node>) -> Option<&'a WireQuantity> {
    node?.status.as_ref()?.allocatable.as_ref()?.get(resource)
}

/// `key` out of `path['key']`.
fn subscript<'a>(path: &'a str, field: &str) -> Option<&'a str> {
    path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")
}

fn entry(map: Option<&BTreeMap<String, String>>, key: &str) -> String {
    map.and_then(|map| map.get(key)).cloned().unwrap_or_default()
}

/// A line `key="value"` for each entry, in the order of keys.
fn whole(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// As a string of the language Go is written: programs read it back with that language's rules.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

fn is_printable(c: char) -> bool {
    // Behind another character, because a mark is printable where there is something to mark.
    let mut buffer = [b'x'; 5];
    let length = c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..=length]).is_ok_and(|text| text.escape_debug().count() == 2)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_and_annotations_are_told_one_by_one_or_as_lines() {
        let meta: ObjectMeta = serde_json::from_value(json!({
            "name": "web", "namespace": "shop", "uid": "u-1",
            "labels": {"b": "2", "a": "1"},
            "annotations": {"x/y": "a \"quoted\"\\\n\tline", "odd": "\u{1}\u{7f}\u{a0}é\u{301}\u{e000}\u{10fffe}"}
        }))
        .unwrap();
        for (path, told) in [
            ("metadata.name", Some("web")),
            ("metadata.namespace", Some("shop")),
            ("metadata.uid", Some("u-1")),
            ("metadata.labels", Some("a=\"1\"\nb=\"2\"")),
            ("metadata.labels['b']", Some("2")),
            ("metadata.labels['none']", Some("")),
            (
                "metadata.annotations",
                Some(
                    "odd=\"\\x01\\x7f\\u00a0é\u{301}\\ue000\\U0010fffe\"\n\
                     x/y=\"a \\\"quoted\\\"\\\\\\n\\tline\"",
                ),
            ),
            ("metadata.annotations['x/y']", Some("a \"quoted\"\\\n\tline")),
            ("status.podIP", None),
        ] {
            assert_eq!(metadata(path, &meta).as_deref(), told, "{path}");
        }
        assert_eq!(metadata("metadata.labels", &ObjectMeta::default()).as_deref(), Some(""));
    }
}
