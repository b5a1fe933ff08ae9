//! What the tests of the kinds share: a manifest, one change of it, and what is wrong then.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::ObjectKey;
use serde_json::{Value, json};

use super::Kind;
use crate::cache::CachedObject;

/// A fixed moment to compute ages against.
pub(super) const NOW: &str = "2026-01-01T12:00:00Z";

/// An object from a manifest, as a create request leaves it.
#[track_caller]
pub(super) fn created<K: Kind>(manifest: &Value) -> K::Object {
    let mut object = serde_json::from_value(manifest.clone())
        .unwrap_or_else(|error| panic!("{manifest}: {error}"));
    K::default(&mut object);
    K::prepare_create(&mut object);
    object
}

/// The same as JSON.
#[track_caller]
pub(super) fn defaulted<K: Kind>(manifest: &Value) -> Value {
    serde_json::to_value(created::<K>(manifest)).unwrap()
}

/// All that is wrong with a manifest.
#[track_caller]
pub(super) fn errors<K: Kind>(manifest: &Value) -> Vec<String> {
    K::validate(&created::<K>(manifest)).iter().map(ToString::to_string).collect()
}

/// What is wrong with an update from one manifest to another.
#[track_caller]
pub(super) fn update_errors<K: Kind>(old: &Value, new: &Value) -> Vec<String> {
    let old = created::<K>(old);
    let mut new: K::Object = serde_json::from_value(new.clone()).unwrap();
    K::default(&mut new);
    K::prepare_update(&mut new, &old);
    let mut errors = K::validate(&new);
    errors.extend(K::validate_update(&new, &old));
    errors.iter().map(ToString::to_string).collect()
}

/// What field selectors find of an object.
pub(super) fn selectable_fields<K: Kind>(object: &K::Object) -> BTreeMap<&'static str, String> {
    let (key, json) = (ObjectKey::new("default", "web"), serde_json::to_vec(object).unwrap());
    CachedObject::from_stored(key, 1, &json, K::FIELDS).unwrap().fields
}

/// A copy with the value at `pointer` set, folders on the way made; `null` removes.
pub(super) fn with(manifest: &Value, pointer: &str, value: Value) -> Value {
    let mut manifest = manifest.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let mut at = &mut manifest;
    let unescape = |part: &str| part.replace("~1", "/").replace("~0", "~");
    for part in parent.split('/').skip(1) {
        at = member(at, &unescape(part));
    }
    if value.is_null() {
        at.as_object_mut().unwrap().remove(&unescape(last));
    } else {
        *member(at, &unescape(last)) = value;
    }
    manifest
}

fn member<'a>(at: &'a mut Value, part: &str) -> &'a mut Value {
    match part.parse::<usize>() {
        Ok(index) => {
            if at.is_null() {
                *at = json!([]);
            }
            let list = at.as_array_mut().unwrap();
            if index >= list.len() {
                list.push(Value::Null);
            }
            let index = index.min(list.len() - 1);
            &mut list[index]
        }
        Err(_) => {
            if at.is_null() {
                *at = json!({});
            }
            at.as_object_mut().unwrap().entry(part).or_insert(Value::Null)
        }
    }
}

/// Each change of a valid manifest leads to the one error that starts so; `""` to none.
#[track_caller]
pub(super) fn check<K: Kind>(valid: &Value, cases: Vec<(&str, Value, &str)>) {
    assert_eq!(errors::<K>(valid), Vec::<String>::new(), "the manifest to start from");
    for (pointer, value, expected) in cases {
        let found = errors::<K>(&with(valid, pointer, value.clone()));
        let fits = match expected {
            "" => found.is_empty(),
            _ => found.len() == 1 && found[0].starts_with(expected),
        };
        assert!(fits, "{pointer} = {value}\nexpected {expected}\nfound    {found:#?}");
    }
}

/// Each change of a manifest is refused, or accepted for `""`, as an update.
#[track_caller]
pub(super) fn check_updates<K: Kind>(old: &Value, cases: Vec<(&str, Value, &str)>) {
    for (pointer, value, expected) in cases {
        let found = update_errors::<K>(old, &with(old, pointer, value.clone()));
        let fits = match expected {
            "" => found.is_empty(),
            _ => found.len() == 1 && found[0].starts_with(expected),
        };
        assert!(fits, "{pointer} = {value}\nexpected {expected}\nfound    {found:#?}");
    }
}

/// Defaults are filled in once and for all, and what they make is valid.
#[track_caller]
pub(super) fn settles<K: Kind>(manifest: &Value) {
    let once = defaulted::<K>(manifest);
    let mut again: K::Object = serde_json::from_value(once.clone()).unwrap();
    K::default(&mut again);
    assert_eq!(serde_json::to_value(&again).unwrap(), once, "defaults of {manifest}");
    assert_eq!(errors::<K>(manifest), Vec::<String>::new(), "{manifest}");
}

/// The cells of an object, ages against [`NOW`].
#[track_caller]
pub(super) fn row<K: Kind>(object: &Value) -> Vec<String> {
    let object: K::Object = serde_json::from_value(object.clone()).unwrap();
    let now: Timestamp = NOW.parse().unwrap();
    let row = K::row(&object, now);
    assert_eq!(row.len(), K::columns().len(), "as many cells as columns");
    let text = |cell: Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    row.into_iter().map(text).collect()
}
