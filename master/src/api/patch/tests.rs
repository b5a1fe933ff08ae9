//! What patches do, case by case.

mod documentation;
mod laws;

use serde_json::{Value, json};

use super::*;
use crate::api::kinds::{Kind, Pods};

fn strategic(kind: &str, object: Value, patch: Value) -> Value {
    let mut patched = object;
    strategic::apply(kind, &mut patched, &patch).unwrap();
    patched
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web"}, "spec": spec})
}

#[test]
fn strategic_merges_lists_by_their_keys() {
    let before = pod(json!({"containers": [{"name": "a", "image": "a:1"}]}));
    let patch = pod(json!({"containers": [{"name": "b", "image": "b:1"}]}));
    let after = pod(json!({
        "containers": [{"name": "b", "image": "b:1"}, {"name": "a", "image": "a:1"}]
    }));
    assert_eq!(strategic("Pod", before.clone(), patch), after);
    let patch = pod(json!({"containers": [{"name": "a", "image": "a:2"}]}));
    let after = pod(json!({"containers": [{"name": "a", "image": "a:2"}]}));
    assert_eq!(strategic("Pod", before.clone(), patch), after);
    let patch = pod(json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}));
    let after = pod(json!({
        "containers": [{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}]
    }));
    assert_eq!(strategic("Pod", before, patch), after);
}

#[test]
fn strategic_replaces_lists_without_a_key() {
    let before = pod(
        json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["1", "2"]}]}),
    );
    let patch =
        pod(json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}));
    assert_eq!(strategic("Pod", before, patch.clone()), patch);
}

#[test]
fn strategic_deletes_items_and_replaces_lists_on_demand() {
    let before =
        pod(json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}}));
    let cases = [
        (
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}], "nodeSelector": {"x": "1"}}),
        ),
        (
            json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "c"}], "nodeSelector": {"x": "1"}}),
        ),
        (
            json!({"nodeSelector": {"$patch": "replace", "y": "2"}}),
            json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"y": "2"}}),
        ),
        (
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {}}),
        ),
        (json!({"nodeSelector": null}), json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        (
            json!({"nodeSelector": {"x": null, "z": "3"}}),
            json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"z": "3"}}),
        ),
    ];
    for (patch, after) in cases {
        let told = patch.to_string();
        assert_eq!(strategic("Pod", before.clone(), pod(patch)), pod(after), "{told}");
    }
}

#[test]
fn strategic_retains_only_the_keys_that_are_listed() {
    let before =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let after = json!({"spec": {"strategy": {"type": "Recreate"}}});
    assert_eq!(strategic("Deployment", before, patch), after);
    let before = pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
    let patch = pod(json!({
        "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]
    }));
    let after = pod(json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}));
    assert_eq!(strategic("Pod", before, patch), after);
}

#[test]
fn strategic_treats_finalizers_as_a_set() {
    let before = json!({"metadata": {"finalizers": ["a/1", "b/2"]}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["a/1"], "finalizers": ["b/2", "c/3"]
    }});
    let after = json!({"metadata": {"finalizers": ["b/2", "c/3"]}});
    assert_eq!(strategic("Pod", before, patch), after);
}

#[test]
fn strategic_orders_lists_as_the_patch_says() {
    let before = pod(json!({"containers": [{"name": "a"}, {"name": "sidecar"}, {"name": "b"}]}));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
        "containers": [{"name": "c"}]
    }});
    let after = strategic("Pod", before.clone(), patch);
    let names: Vec<&str> = after["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["name"].as_str().unwrap())
        .collect();
    // The sidecar, which the patch does not name, was before b and stays there.
    assert_eq!(names, ["c", "sidecar", "b", "a"]);
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
    let after = strategic("Pod", before, patch);
    assert_eq!(after["spec"]["containers"][2]["name"], "a");
    assert!(!after.to_string().contains('$'));
}

#[test]
fn strategic_leaves_no_directives_behind_where_there_was_nothing() {
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}],
        "containers": [{"name": "a", "$setElementOrder/env": [], "env": [{"name": "X", "value": null}]},
            {"name": "gone", "$patch": "delete"}],
        "securityContext": {"$patch": "delete"}
    }});
    let after = json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X"}]}]}});
    assert_eq!(strategic("Pod", json!({"spec": {}}), patch.clone()), after);
    let after =
        json!({"kind": "Pod", "spec": {"containers": [{"name": "a", "env": [{"name": "X"}]}]}});
    assert_eq!(
        strategic("Pod", json!({"kind": "Pod"}), patch)["spec"]["containers"],
        after["spec"]["containers"]
    );
}

#[test]
fn strategic_ports_of_services_are_known_by_port() {
    let before = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 443}]}});
    let patch = json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443, "$patch": "delete"}]}});
    let after = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}});
    assert_eq!(strategic("Service", before, patch), after);
}

#[test]
fn strategic_refuses_nonsense() {
    for patch in [
        json!({"spec": {"containers": [{"image": "no-name"}]}}),
        json!({"spec": {"containers": ["text"]}}),
        json!({"spec": {"$patch": "remove"}}),
        json!({"metadata": {"finalizers": [{"a": 1}]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
        json!({"spec": {"$retainKeys": ["a"], "containers": []}}),
    ] {
        let mut object =
            json!({"metadata": {"finalizers": []}, "spec": {"containers": [{"name": "a"}]}});
        assert!(strategic::apply("Pod", &mut object, &patch).is_err(), "{patch}");
    }
}

#[test]
fn applying_a_strategic_patch_twice_changes_nothing_more() {
    let before = pod(
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 1}]}], "volumes": [{"name": "v"}]}),
    );
    for patch in [
        json!({"containers": [{"name": "b"}, {"name": "a", "ports": [{"containerPort": 2}]}]}),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name"]}], "$setElementOrder/volumes": [{"name": "v"}]}),
    ] {
        let once = strategic("Pod", before.clone(), pod(patch.clone()));
        assert_eq!(strategic("Pod", once.clone(), pod(patch)), once);
    }
}

fn apply(media_type: &str, object: Value, patch: Value) -> Result<Value, ApiError> {
    let patch = Patch::parse(Some(media_type), patch.to_string().as_bytes())?;
    patch.apply(&Pods::RESOURCE, object).map(|tree| tree.value)
}

#[test]
fn json_patches_are_bounded() {
    let json = "application/json-patch+json";
    let many: Vec<Value> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/a", "value": 1})).collect();
    assert_eq!(apply(json, json!({"a": 1}), json!(many)).unwrap_err().code().as_u16(), 413);
    // Each copy doubles what there is.
    let doubling: Vec<Value> =
        (0..64).map(|n| json!({"op": "copy", "from": "", "path": format!("/x{n}")})).collect();
    assert!(apply(json, json!({"a": "text"}), json!(doubling)).is_err());
    let mut path = String::new();
    let mut nesting = Vec::new();
    for _ in 0..200 {
        path.push_str("/a");
        nesting.push(json!({"op": "add", "path": path, "value": {}}));
    }
    assert!(apply(json, json!({}), json!(nesting)).is_err());
}

#[test]
fn other_patches_are_refused_in_a_sentence() {
    for media_type in ["application/apply-patch+yaml", "application/json", "text/plain"] {
        let error = Patch::parse(Some(media_type), b"{}").unwrap_err();
        assert_eq!(error.code().as_u16(), 415, "{media_type}");
        assert!(error.message().contains(MEDIA_TYPES[2]), "{error}");
    }
    for body in [&b"[]"[..], b"7", b"{", b"\xff"] {
        let error = Patch::parse(Some(MEDIA_TYPES[1]), body).unwrap_err();
        assert_eq!(error.code().as_u16(), 400);
    }
}
