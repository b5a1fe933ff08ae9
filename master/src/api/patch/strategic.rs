//! Strategic merge patch: a merge patch that knows how the lists of Kubernetes' types merge.
//!
//! Directives within a patch:
//! * `$patch: delete|replace` in an object or an item of a list;
//! * `$retainKeys: [a, b]`: everything else in the object goes;
//! * `$deleteFromPrimitiveList/<field>: [a, b]`: values that go from a list of plain values;
//! * `$setElementOrder/<field>: [...]`: the order of the merged list.
//!
//! Without that last one a merged list is in the order of the patch: what the patch adds comes before
//! what it does not name.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::schema;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// A patch that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum PatchError {
    #[error("unknown patch type {0:?} found: expected \"delete\" or \"replace\"")]
    UnknownDirective(String),
    #[error("the patch does not contain the merge key {key:?} in an item of {field}")]
    NoMergeKey { field: String, key: &'static str },
    #[error("{0} has to be a list")]
    NotAList(String),
    #[error("the items of {0} have to be objects")]
    NotObjects(String),
    #[error("the items of {0} have to be plain values")]
    NotPlain(String),
    #[error("$retainKeys does not list {0}, which the patch sets")]
    NotRetained(String),
    #[error("the order of the items of {0} in the patch is not that of its $setElementOrder")]
    OtherOrder(String),
}

/// Applies a patch to an object of a type.
pub(super) fn apply(kind: &str, object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => merge_objects(kind, object, patch),
        (object, patch) => {
            *object = patch.clone();
            Ok(())
        }
    }
}

fn merge_objects(
    of: &str,
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    match directive(patch)? {
        Some(Directive::Replace) => {
            *object = without_directives(patch);
            return Ok(());
        }
        Some(Directive::Delete) => {
            object.clear();
            return Ok(());
        }
        None => {}
    }
    retain_keys(object, patch)?;
    for (name, value) in patch {
        if name == PATCH || name == RETAIN_KEYS || name.starts_with(SET_ORDER) {
            continue;
        }
        if let Some(field) = name.strip_prefix(DELETE_FROM_LIST) {
            delete_from_list(object, field, value)?;
            continue;
        }
        let order = patch.get(&format!("{SET_ORDER}{name}"));
        merge_field(of, object, name, value, order)?;
    }
    // An order may come without a change of the list.
    for (name, order) in patch {
        if let Some(field) = name.strip_prefix(SET_ORDER)
            && !patch.contains_key(field)
            && let Some(Value::Array(items)) = object.get_mut(field)
        {
            let key = schema::field(of, field).and_then(|field| field.strategy.key);
            let before = items.clone();
            sort(items, &before, list(order, field)?, key);
        }
    }
    Ok(())
}

fn merge_field(
    of: &str,
    object: &mut Map<String, Value>,
    name: &str,
    value: &Value,
    order: Option<&Value>,
) -> Result<(), PatchError> {
    let field = schema::field(of, name);
    let of = field.map_or("", |field| field.of);
    let strategy = field.map(|field| field.strategy).unwrap_or_default();
    match (object.get_mut(name), value, strategy.merge.then_some(strategy.key)) {
        (_, Value::Null, _) => {
            object.shift_remove(name);
        }
        (Some(Value::Object(present)), Value::Object(patch), _) => {
            merge_objects(of, present, patch)?;
        }
        (Some(Value::Array(present)), Value::Array(patch), Some(Some(key))) => {
            let before = present.clone();
            merge_items(of, key, name, present, patch)?;
            let order = order_of(name, patch, order, Some(key))?;
            sort(present, &before, order, Some(key));
        }
        (Some(Value::Array(present)), Value::Array(patch), Some(None)) => {
            let before = present.clone();
            merge_set(name, present, patch)?;
            let order = order_of(name, patch, order, None)?;
            sort(present, &before, order, None);
        }
        (None, Value::Object(patch), _) if directive(patch)? == Some(Directive::Delete) => {}
        (_, value, _) => {
            object.insert(name.to_owned(), cleaned(value));
        }
    }
    Ok(())
}

/// Merges a list of objects by key.
fn merge_items(
    of: &str,
    key: &'static str,
    field: &str,
    present: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), PatchError> {
    let mut changes = Vec::new();
    let mut replace = false;
    for item in patch {
        let item = item.as_object().ok_or_else(|| PatchError::NotObjects(field.to_owned()))?;
        let directive = directive(item)?;
        if directive == Some(Directive::Replace) {
            replace = true;
            continue;
        }
        changes.push((directive, item));
    }
    if replace {
        let kept = changes.iter().filter(|(directive, _)| *directive != Some(Directive::Delete));
        *present = kept.map(|(_, item)| Value::Object(without_directives(item))).collect();
        return Ok(());
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, item) in present.iter().enumerate() {
        if let Some(value) = item.get(key) {
            places.entry(value.to_string()).or_insert(place);
        }
    }
    let mut deleted = HashSet::new();
    for (directive, item) in changes {
        let value = item
            .get(key)
            .filter(|value| !value.is_null())
            .ok_or_else(|| PatchError::NoMergeKey { field: field.to_owned(), key })?;
        let value = value.to_string();
        match (directive, places.get(&value)) {
            (Some(Directive::Delete), _) => {
                deleted.insert(value);
            }
            (_, Some(&place)) => match &mut present[place] {
                Value::Object(present) => merge_objects(of, present, item)?,
                other => *other = Value::Object(without_directives(item)),
            },
            (_, None) => {
                places.insert(value, present.len());
                present.push(Value::Object(without_directives(item)));
            }
        }
    }
    if !deleted.is_empty() {
        present
            .retain(|item| item.get(key).is_none_or(|value| !deleted.contains(&value.to_string())));
    }
    Ok(())
}

/// Merges a list of plain values as a set.
fn merge_set(field: &str, present: &mut Vec<Value>, patch: &[Value]) -> Result<(), PatchError> {
    let mut known: HashSet<String> = present.iter().map(Value::to_string).collect();
    for value in patch {
        if value.is_object() || value.is_array() {
            return Err(PatchError::NotPlain(field.to_owned()));
        }
        if known.insert(value.to_string()) {
            present.push(value.clone());
        }
    }
    Ok(())
}

fn delete_from_list(
    object: &mut Map<String, Value>,
    field: &str,
    values: &Value,
) -> Result<(), PatchError> {
    let values = values.as_array().ok_or_else(|| PatchError::NotAList(field.to_owned()))?;
    let doomed: HashSet<String> = values.iter().map(Value::to_string).collect();
    if let Some(Value::Array(items)) = object.get_mut(field) {
        items.retain(|item| !doomed.contains(&item.to_string()));
    }
    Ok(())
}

fn retain_keys(
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    let Some(retained) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let retained = retained.as_array().ok_or_else(|| PatchError::NotAList(RETAIN_KEYS.into()))?;
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let unlisted = patch
        .iter()
        .find(|(name, value)| {
            !name.starts_with('$') && !value.is_null() && !retained.contains(name.as_str())
        })
        .map(|(name, _)| name.clone());
    if let Some(name) = unlisted {
        return Err(PatchError::NotRetained(name));
    }
    object.retain(|name, _| retained.contains(name.as_str()));
    Ok(())
}

/// The order that a patch wants of a list: what it says, or that of the items that it gives, which
/// may not contradict it.
fn order_of<'a>(
    field: &str,
    patch: &'a [Value],
    order: Option<&'a Value>,
    key: Option<&str>,
) -> Result<&'a [Value], PatchError> {
    let order = match order {
        Some(order) => list(order, field)?,
        None => return Ok(patch),
    };
    let mut places = order.iter().map(|item| name(item, key));
    let mut given = patch.iter().filter(|item| item.get(PATCH).is_none());
    // An empty order says nothing.
    if !order.is_empty() && !given.all(|item| places.any(|place| place == name(item, key))) {
        return Err(PatchError::OtherOrder(field.to_owned()));
    }
    Ok(order)
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a [Value], PatchError> {
    let items = value.as_array().ok_or_else(|| PatchError::NotAList(field.to_owned()))?;
    Ok(items)
}

/// What an item is known by.
fn name(item: &Value, key: Option<&str>) -> String {
    match key {
        Some(key) => item.get(key).unwrap_or(&Value::Null).to_string(),
        None => item.to_string(),
    }
}

/// Brings a merged list into an order. Items that the order does not name stay where they are
/// relative to the others, as far as both orders allow.
fn sort(merged: &mut Vec<Value>, before: &[Value], order: &[Value], key: Option<&str>) {
    let name = |item: &Value| name(item, key);
    let places = |items: &[Value]| -> HashMap<String, usize> {
        items.iter().enumerate().rev().map(|(place, item)| (name(item), place)).collect()
    };
    let wanted = places(order);
    let earlier = places(before);
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        std::mem::take(merged).into_iter().partition(|item| wanted.contains_key(&name(item)));
    named.sort_by_key(|item| wanted.get(&name(item)).copied());
    others.sort_by_key(|item| earlier.get(&name(item)).copied());
    let mut named = named.into_iter().peekable();
    for other in others {
        // What was behind the next named item before stays behind it.
        while let Some(next) = named.peek() {
            let goes_first = match (earlier.get(&name(&other)), earlier.get(&name(next))) {
                (Some(other), Some(next)) => other < next,
                _ => false,
            };
            if goes_first {
                break;
            }
            merged.extend(named.next());
        }
        merged.push(other);
    }
    merged.extend(named);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Delete,
    Replace,
}

fn directive(patch: &Map<String, Value>) -> Result<Option<Directive>, PatchError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(text)) => match text.as_str() {
            "delete" => Ok(Some(Directive::Delete)),
            "replace" => Ok(Some(Directive::Replace)),
            other => Err(PatchError::UnknownDirective(other.to_owned())),
        },
        Some(other) => Err(PatchError::UnknownDirective(other.to_string())),
    }
}

/// A patch's value where there was none: without directives and without deletions.
fn cleaned(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => {
            let plain = items.iter().filter(|item| item.get(PATCH).is_none());
            Value::Array(plain.map(cleaned).collect())
        }
        plain => plain.clone(),
    }
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(name, value)| !is_directive(name) && !value.is_null())
        .map(|(name, value)| (name.clone(), cleaned(value)))
        .collect()
}

/// Only the names that are directives: a label may be called `$whatever`.
fn is_directive(name: &str) -> bool {
    name == PATCH
        || name == RETAIN_KEYS
        || name.starts_with(DELETE_FROM_LIST)
        || name.starts_with(SET_ORDER)
}
