//! What `apply` changes: a merge of what was applied last, what is to be applied, and what is live.
//!
//! A field that was applied last and is not applied now goes. A field that somebody else set (a
//! default, an allocated port) stays. Items of lists are matched by their key, so the same holds inside them.

use serde_json::{Map, Value};

/// Where the last applied manifest is kept; the same place as kubectl's, so that both may be used.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The JSON merge patch that leads from `live` to what `applied` asks for; nothing when it is so already.
pub(crate) fn patch(last: Option<&Value>, applied: &Value, live: &Value) -> Option<Value> {
    difference(live, &merge(last, applied, Some(live)))
}

fn merge(last: Option<&Value>, applied: &Value, live: Option<&Value>) -> Value {
    match (applied, live) {
        (Value::Object(applied), Some(Value::Object(live))) => {
            let last = last.and_then(Value::as_object);
            let mut merged = Map::new();
            for (key, value) in live {
                let was_applied = last.is_some_and(|last| last.contains_key(key));
                if !applied.contains_key(key) && !was_applied {
                    merged.insert(key.clone(), value.clone());
                }
            }
            for (key, value) in applied {
                // An explicit null asks for absence.
                if !value.is_null() {
                    let last = last.and_then(|last| last.get(key));
                    merged.insert(key.clone(), merge(last, value, live.get(key)));
                }
            }
            Value::Object(merged)
        }
        (Value::Array(applied), Some(Value::Array(live))) => merge_list(last, applied, live),
        _ => applied.clone(),
    }
}

fn merge_list(last: Option<&Value>, applied: &[Value], live: &[Value]) -> Value {
    let Some(field) = key_field(applied).or_else(|| key_field(live)) else {
        return Value::Array(applied.to_vec());
    };
    let empty = Vec::new();
    let last = last.and_then(Value::as_array).unwrap_or(&empty);
    let find = |list: &[Value], key: &str| -> Option<Value> {
        list.iter().find(|item| key_of(item, field).as_deref() == Some(key)).cloned()
    };
    let mut merged: Vec<Value> = applied
        .iter()
        .map(|item| match key_of(item, field) {
            Some(key) => merge(find(last, &key).as_ref(), item, find(live, &key).as_ref()),
            None => item.clone(),
        })
        .collect();
    // What others added to the list stays.
    merged.extend(
        live.iter()
            .filter(|item| {
                key_of(item, field)
                    .is_some_and(|key| find(applied, &key).is_none() && find(last, &key).is_none())
            })
            .cloned(),
    );
    Value::Array(merged)
}

/// The fields that tell the items of Kubernetes' lists apart, in the order in which they count.
const KEY_FIELDS: [&str; 7] = ["mountPath", "containerPort", "port", "name", "key", "ip", "uid"];

fn key_field(items: &[Value]) -> Option<&'static str> {
    let has = |field: &&str| items.iter().all(|item| item.get(*field).is_some());
    if items.is_empty() { None } else { KEY_FIELDS.into_iter().find(has) }
}

fn key_of(item: &Value, field: &str) -> Option<String> {
    let key = item.get(field)?;
    Some(match field {
        // One number may be used for several protocols.
        "containerPort" | "port" => {
            format!("{key}/{}", item.get("protocol").and_then(Value::as_str).unwrap_or("TCP"))
        }
        _ => key.to_string(),
    })
}

/// The merge patch (RFC 7386) from one value to another.
fn difference(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for (key, value) in to {
        match from.get(key) {
            Some(old) => {
                if let Some(change) = difference(old, value) {
                    patch.insert(key.clone(), change);
                }
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::patch;

    #[test]
    fn what_is_so_already_needs_no_patch() {
        let applied = json!({"spec": {"ports": [{"port": 80}]}});
        let live = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 3}]}});
        assert_eq!(patch(Some(&applied), &applied, &live), None);
    }

    #[test]
    fn a_field_no_longer_applied_goes_and_a_default_stays() {
        let last = json!({"spec": {"a": 1, "b": 2}});
        let applied = json!({"spec": {"a": 3}});
        let live = json!({"spec": {"a": 1, "b": 2, "c": "default"}});
        let expected = json!({"spec": {"a": 3, "b": null}});
        assert_eq!(patch(Some(&last), &applied, &live), Some(expected));
    }

    #[test]
    fn items_of_lists_are_matched_by_their_key() {
        let last = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}]});
        let applied = json!({"containers": [{"name": "a", "image": "2"}]});
        let live = json!({"containers": [
            {"name": "a", "image": "1", "policy": "default"},
            {"name": "b"},
            {"name": "injected"}]});
        let expected = json!({"containers": [
            {"name": "a", "image": "2", "policy": "default"},
            {"name": "injected"}]});
        let mut found = patch(Some(&last), &applied, &live).unwrap();
        found["containers"][0].as_object_mut().unwrap().sort_keys();
        let mut expected = expected;
        expected["containers"][0].as_object_mut().unwrap().sort_keys();
        assert_eq!(found, expected);
    }

    #[test]
    fn one_port_number_may_serve_two_protocols() {
        let applied = json!({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]});
        let live = json!({"ports": [
            {"port": 53, "protocol": "UDP", "nodePort": 1},
            {"port": 53, "protocol": "TCP", "nodePort": 2}]});
        assert_eq!(patch(Some(&applied), &applied, &live), None);
    }

    #[test]
    fn plain_lists_are_replaced_and_null_removes() {
        let applied = json!({"args": ["x"], "gone": null});
        let live = json!({"args": ["x", "y"], "gone": 1});
        assert_eq!(patch(None, &applied, &live), Some(json!({"args": ["x"], "gone": null})));
    }
}
