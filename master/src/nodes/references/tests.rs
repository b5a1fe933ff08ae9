use super::*;

fn spec(value: serde_json::Value) -> PodSpec {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str) -> Reference {
    (Referable::ConfigMap, ObjectKey::new("ns", name))
}

fn secret(name: &str) -> Reference {
    (Referable::Secret, ObjectKey::new("ns", name))
}

fn pod(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

#[test]
fn finds_every_place_in_which_a_pod_names_an_object() {
    let environment = |suffix: &str| {
        serde_json::json!({
            "name": suffix,
            "env": [
                {"name": "A", "value": "plain"},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": format!("cm-env-{suffix}"), "key": "k"}}},
                {"name": "C", "valueFrom": {"secretKeyRef": {"name": format!("s-env-{suffix}"), "key": "k"}}},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            "envFrom": [
                {"configMapRef": {"name": format!("cm-from-{suffix}")}},
                {"secretRef": {"name": format!("s-from-{suffix}")}},
            ],
        })
    };
    let spec = spec(serde_json::json!({
        "containers": [environment("main")],
        "initContainers": [environment("init")],
        "ephemeralContainers": [environment("debug")],
        "imagePullSecrets": [{"name": "s-pull"}],
        "volumes": [
            {"name": "a", "configMap": {"name": "cm-volume"}},
            {"name": "b", "secret": {"secretName": "s-volume"}},
            {"name": "c", "emptyDir": {}},
            {"name": "d", "projected": {"sources": [
                {"configMap": {"name": "cm-projected"}},
                {"secret": {"name": "s-projected"}},
            ]}},
        ],
    }));
    let mut expected = BTreeSet::from([
        secret("s-pull"),
        config_map("cm-volume"),
        secret("s-volume"),
        config_map("cm-projected"),
        secret("s-projected"),
    ]);
    for suffix in ["main", "init", "debug"] {
        expected.extend([
            config_map(&format!("cm-env-{suffix}")),
            secret(&format!("s-env-{suffix}")),
            config_map(&format!("cm-from-{suffix}")),
            secret(&format!("s-from-{suffix}")),
        ]);
    }
    assert_eq!(references("ns", &spec), expected);
}

#[test]
fn an_empty_name_is_no_reference() {
    let spec = spec(serde_json::json!({
        "containers": [{"name": "c", "envFrom": [{"configMapRef": {}}]}],
        "imagePullSecrets": [{}],
    }));
    assert!(references("ns", &spec).is_empty());
}

#[test]
fn an_object_is_added_with_the_first_pod_and_removed_with_the_last() {
    let mut told = Told::default();
    let named = BTreeSet::from([secret("shared"), config_map("own")]);
    let first = told.put(&pod("a"), 1, named);
    assert_eq!(first.added, [config_map("own"), secret("shared")]);
    let second = told.put(&pod("b"), 2, BTreeSet::from([secret("shared")]));
    assert_eq!(second, Difference::default());

    assert_eq!(told.remove(&pod("a")).unwrap().removed, [config_map("own")]);
    assert!(told.is_named(&secret("shared")));
    assert_eq!(told.remove(&pod("b")).unwrap().removed, [secret("shared")]);
    assert_eq!(told.named().count(), 0);
}

#[test]
fn a_changed_pod_changes_only_what_differs() {
    let mut told = Told::default();
    told.put(&pod("a"), 1, BTreeSet::from([secret("kept"), secret("dropped")]));
    let difference = told.put(&pod("a"), 2, BTreeSet::from([secret("kept"), secret("new")]));
    assert_eq!(difference.added, [secret("new")]);
    assert_eq!(difference.removed, [secret("dropped")]);
    assert_eq!(told.pod_revision(&pod("a")), Some(2));
}

#[test]
fn a_pod_that_was_never_told_is_not_removed() {
    assert_eq!(Told::default().remove(&pod("a")), None);
}
