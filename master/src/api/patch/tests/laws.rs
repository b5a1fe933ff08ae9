//! What holds of every patch, over random objects: a difference leads from one to the other, doing
//! it twice does nothing more, and patches that do not touch the same commute.

use serde_json::Map;

use super::*;
use crate::dice::Dice;

const ROUNDS: usize = 2000;

/// An object of a Deployment's shape: lists with keys, a set, lists as a whole, maps, a union.
fn deployment(dice: &mut Dice) -> Value {
    let mut object = json!({"metadata": {"name": "web"}, "spec": {}});
    if let Some(labels) = map(dice, &["a", "b", "c/d", "~x"]) {
        object["metadata"]["labels"] = labels;
    }
    let finalizers = some(dice, &["x/1", "x/2", "x/3"]);
    if !finalizers.is_empty() {
        object["metadata"]["finalizers"] = json!(finalizers);
    }
    match dice.below(3) {
        0 => object["spec"]["strategy"] = json!({"type": "Recreate"}),
        1 => {
            let surge = dice.below(3);
            object["spec"]["strategy"] =
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge}});
        }
        _ => {}
    }
    let mut spec = json!({});
    let containers: Vec<Value> =
        some(dice, &["p", "q", "r", "s"]).iter().map(|name| container(dice, name)).collect();
    if !containers.is_empty() {
        spec["containers"] = json!(containers);
    }
    if let Some(selector) = map(dice, &["disk", "zone"]) {
        spec["nodeSelector"] = selector;
    }
    if dice.one_in(3) {
        spec["tolerations"] = json!([{"key": dice.pick(&["a", "b"])}]);
    }
    object["spec"]["template"] = json!({"spec": spec});
    object
}

fn container(dice: &mut Dice, name: &str) -> Value {
    let mut container = json!({"name": name});
    if dice.one_in(2) {
        container["image"] = json!(dice.pick(&["i:1", "i:2"]));
    }
    let env: Vec<Value> = some(dice, &["E", "F", "G"])
        .iter()
        .map(|name| json!({"name": name, "value": dice.pick(&["1", "2"])}))
        .collect();
    if !env.is_empty() {
        container["env"] = json!(env);
    }
    if dice.one_in(3) {
        container["args"] = json!(some(dice, &["-a", "-b", "-c"]));
    }
    container
}

fn map(dice: &mut Dice, keys: &[&str]) -> Option<Value> {
    let chosen = some(dice, keys);
    let fields = chosen.iter().map(|key| ((*key).to_owned(), json!(dice.pick(&["1", "2"]))));
    let fields: Map<String, Value> = fields.collect();
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// Some of the names, in any order.
fn some<'a>(dice: &mut Dice, names: &[&'a str]) -> Vec<&'a str> {
    let mut chosen = Vec::new();
    for name in names {
        if dice.one_in(2) {
            chosen.insert(dice.below(chosen.len() + 1), *name);
        }
    }
    chosen
}

/// The merge patch that leads from one object to another.
fn merge_difference(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, new) in to {
        match (from.get(name), new) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(name.clone(), Value::Object(merge_difference(old, new)));
            }
            _ => drop(patch.insert(name.clone(), new.clone())),
        }
    }
    patch
}

/// What a difference is made for.
#[derive(Clone, Copy)]
struct Wanted {
    additions: bool,
    deletions: bool,
}

const BOTH: Wanted = Wanted { additions: true, deletions: true };

/// The strategic merge patch that leads from one object to another, as kubectl makes it.
fn difference(
    of: &str,
    from: &Map<String, Value>,
    to: &Map<String, Value>,
    wanted: Wanted,
) -> Map<String, Value> {
    let mut patch = Map::new();
    for name in from.keys().filter(|name| wanted.deletions && !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, new) in to {
        let field = schema::field(of, name);
        let of = field.map_or("", |field| field.of);
        let strategy = field.map(|field| field.strategy).unwrap_or_default();
        match (from.get(name), new) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                let mut inner = difference(of, old, new, wanted);
                if strategy.retain_keys && wanted.additions {
                    let keys: Vec<&String> = new.keys().collect();
                    inner.insert("$retainKeys".to_owned(), json!(keys));
                }
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) if strategy.merge => match strategy.key {
                Some(key) => items(&mut patch, of, name, key, old, new, wanted),
                None => values(&mut patch, name, old, new, wanted),
            },
            _ if wanted.additions => drop(patch.insert(name.clone(), new.clone())),
            _ => {}
        }
    }
    patch
}

/// The difference of lists with a key.
fn items(
    patch: &mut Map<String, Value>,
    of: &str,
    name: &str,
    key: &str,
    old: &[Value],
    new: &[Value],
    wanted: Wanted,
) {
    let mut changes = Vec::new();
    for item in new {
        let same = old.iter().find(|other| other[key] == item[key]);
        let change = match (same.and_then(Value::as_object), item.as_object()) {
            (Some(old), Some(new)) => difference(of, old, new, wanted),
            (None, Some(new)) if wanted.additions => new.clone(),
            _ => Map::new(),
        };
        if !change.is_empty() {
            let mut change = change;
            change.insert(key.to_owned(), item[key].clone());
            changes.push(Value::Object(change));
        }
    }
    for item in old.iter().filter(|item| !new.iter().any(|other| other[key] == item[key])) {
        if wanted.deletions {
            changes.push(json!({key: item[key], "$patch": "delete"}));
        }
    }
    let order: Vec<Value> = new.iter().map(|item| json!({key: item[key]})).collect();
    patch.insert(format!("$setElementOrder/{name}"), json!(order));
    if !changes.is_empty() {
        patch.insert(name.to_owned(), json!(changes));
    }
}

/// The difference of sets.
fn values(
    patch: &mut Map<String, Value>,
    name: &str,
    old: &[Value],
    new: &[Value],
    wanted: Wanted,
) {
    let gone: Vec<&Value> = old.iter().filter(|value| !new.contains(value)).collect();
    let added: Vec<&Value> = new.iter().filter(|value| !old.contains(value)).collect();
    if wanted.deletions && !gone.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{name}"), json!(gone));
    }
    if wanted.additions && !added.is_empty() {
        patch.insert(name.to_owned(), json!(added));
    }
    patch.insert(format!("$setElementOrder/{name}"), json!(new));
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

fn merged(mut object: Value, patch: &Value) -> Value {
    json_patch::merge(&mut object, patch);
    object
}

#[test]
fn a_merge_patch_leads_from_one_object_to_another() {
    let mut dice = Dice::new(1);
    for round in 0..ROUNDS {
        let (a, b) = (deployment(&mut dice), deployment(&mut dice));
        let patch = Value::Object(merge_difference(object(&a), object(&b)));
        let once = merged(a.clone(), &patch);
        assert_eq!(once, b, "{round}: {patch}");
        assert_eq!(merged(once, &patch), b, "{round}: twice");
        assert!(merge_difference(object(&a), object(&a)).is_empty());
        assert_eq!(merged(a.clone(), &json!({})), a);
    }
}

#[test]
fn a_json_patch_leads_from_one_object_to_another_and_stops_at_a_test() {
    let mut dice = Dice::new(2);
    for round in 0..ROUNDS {
        let (a, b) = (deployment(&mut dice), deployment(&mut dice));
        let patch = json_patch::diff(&a, &b);
        let mut patched = a.clone();
        json::apply(&mut patched, &patch).unwrap();
        assert_eq!(patched, b, "{round}: {patch}");
        // With a test of what was there it is done once at most.
        let mut guarded = vec![json!({"op": "test", "path": "", "value": a})];
        guarded.extend(serde_json::to_value(&patch).unwrap().as_array().unwrap().clone());
        let guarded: json_patch::Patch = serde_json::from_value(json!(guarded)).unwrap();
        let mut patched = a.clone();
        json::apply(&mut patched, &guarded).unwrap();
        assert_eq!(json::apply(&mut patched, &guarded).is_ok(), a == b, "{round}");
    }
}

#[test]
fn a_strategic_patch_leads_from_one_object_to_another() {
    let mut dice = Dice::new(3);
    for round in 0..ROUNDS {
        let (a, b) = (deployment(&mut dice), deployment(&mut dice));
        let patch = Value::Object(difference("Deployment", object(&a), object(&b), BOTH));
        let once = strategic("Deployment", a.clone(), patch.clone());
        assert_eq!(once, b, "{round}: from {a} by {patch}");
        assert_eq!(strategic("Deployment", once, patch), b, "{round}: twice");
        assert_eq!(strategic("Deployment", a.clone(), json!({})), a);
        // Without a schema it is a merge patch.
        let patch = Value::Object(merge_difference(object(&a), object(&b)));
        assert_eq!(strategic("", a, patch), b, "{round}");
    }
}

/// Any patch, of an object that it was not made for: what it leaves is no news to it.
#[test]
fn doing_a_patch_twice_does_nothing_more() {
    let mut dice = Dice::new(4);
    for round in 0..ROUNDS {
        let (a, b, live) = (deployment(&mut dice), deployment(&mut dice), deployment(&mut dice));
        let patch = Value::Object(difference("Deployment", object(&a), object(&b), BOTH));
        let mut once = live.clone();
        if strategic::apply("Deployment", &mut once, &patch).is_ok() {
            let twice = strategic("Deployment", once.clone(), patch.clone());
            assert_eq!(twice, once, "{round}: {patch} of {live}");
            assert!(!once.to_string().contains("\"$"), "{round}: a directive is left in {once}");
        }
        let patch = Value::Object(merge_difference(object(&a), object(&b)));
        let once = merged(live, &patch);
        assert_eq!(merged(once.clone(), &patch), once, "{round}");
    }
}

/// What two people change in different fields is the same in either order; in the same field the
/// later one wins, whoever that is.
#[test]
fn patches_of_different_fields_commute() {
    let mut dice = Dice::new(5);
    for round in 0..ROUNDS {
        let live = deployment(&mut dice);
        let (a, b) = (deployment(&mut dice), deployment(&mut dice));
        let mine = json!({"metadata": a["metadata"]});
        let theirs = json!({"spec": b["spec"]});
        let do_both = |first: &Value, second: &Value| {
            strategic(
                "Deployment",
                strategic("Deployment", live.clone(), first.clone()),
                second.clone(),
            )
        };
        assert_eq!(do_both(&mine, &theirs), do_both(&theirs, &mine), "{round}");
        let do_both = |first: &Value, second: &Value| merged(merged(live.clone(), first), second);
        assert_eq!(do_both(&mine, &theirs), do_both(&theirs, &mine), "{round}");
        let label = |value: &str| json!({"metadata": {"labels": {"a": value}}});
        assert_eq!(do_both(&label("1"), &label("2"))["metadata"]["labels"]["a"], "2");
        assert_eq!(do_both(&label("2"), &label("1"))["metadata"]["labels"]["a"], "1");
    }
}

/// `kubectl apply` without the server's help: what was applied before and is wanted no more goes,
/// what is wanted is there, and what others have added stays.
#[test]
fn client_side_apply_adds_and_removes_its_own() {
    let mut dice = Dice::new(6);
    for round in 0..ROUNDS {
        let (last, wanted) = (deployment(&mut dice), deployment(&mut dice));
        let mut live = last.clone();
        live["spec"]["replicas"] = json!(3);
        live["metadata"]["labels"]["others"] = json!("1");
        let deletions = Wanted { additions: false, deletions: true };
        let additions = Wanted { additions: true, deletions: false };
        for (from, wanted_of) in [(&last, deletions), (&live.clone(), additions)] {
            let patch = difference("Deployment", object(from), object(&wanted), wanted_of);
            live = strategic("Deployment", live, Value::Object(patch));
        }
        let mut expected = wanted.clone();
        expected["spec"]["replicas"] = json!(3);
        expected["metadata"]["labels"]["others"] = json!("1");
        if wanted["metadata"].get("labels").is_none() {
            // The whole map was applied, and is wanted no more.
            let gone = last["metadata"].get("labels").is_some();
            if gone {
                expected["metadata"].as_object_mut().unwrap().shift_remove("labels");
            }
        }
        assert_eq!(live, expected, "{round}: {last} then {wanted}");
    }
}
