//! Controllers, templates, and what clients write into statuses.

use super::*;

fn controller() -> Value {
    json!({
        "metadata": meta(),
        "spec": {
            "replicas": 3,
            "selector": {"app": "web"},
            "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}},
                "spec": {"containers": [{"name": "main", "image": "nginx:1"}]},
            },
        },
    })
}

#[test]
fn controllers_take_selector_and_labels_from_the_template() {
    settles::<ReplicationControllers>(&controller());
    let bare =
        with(&with(&controller(), "/spec/selector", json!(null)), "/spec/replicas", json!(null));
    let stored = defaulted::<ReplicationControllers>(&bare);
    let labels = json!({"app": "web", "tier": "front"});
    assert_eq!(stored["spec"]["replicas"], 1);
    assert_eq!(stored["spec"]["selector"], labels);
    assert_eq!(stored["metadata"]["labels"], labels);
    assert_eq!(stored["spec"]["template"]["spec"]["restartPolicy"], "Always");
    // What only pods get.
    assert_eq!(stored["spec"]["template"]["spec"].get("serviceAccountName"), None);
    assert_eq!(stored["status"], json!({"replicas": 0}));
}

#[test]
fn controllers_keep_to_the_rules() {
    check::<ReplicationControllers>(
        &controller(),
        vec![
            (
                "/spec/replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            ("/spec/minReadySeconds", json!(-1), "spec.minReadySeconds: Invalid value: -1"),
            ("/spec/template", json!(null), "spec.template: Required value"),
            (
                "/spec/selector",
                json!({"app": "other"}),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\",\"tier\":\"front\"}: `selector` does not match template `labels`",
            ),
            (
                "/spec/template/metadata/labels/x",
                json!("y z"),
                "spec.template.labels: Invalid value: \"y z\"",
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                "/spec/template/spec/containers/0/image",
                json!(""),
                "spec.template.spec.containers[0].image: Required value",
            ),
            (
                "/spec/template/spec/resources",
                json!({"limits": {"cpu": "1"}}),
                "spec.template.spec.resources: Forbidden: is not supported",
            ),
        ],
    );
    let empty = json!({"metadata": meta(), "spec": {"template": {"spec": {}}}});
    assert_eq!(
        errors::<ReplicationControllers>(&empty),
        ["spec.selector: Required value", "spec.template.spec.containers: Required value"]
    );
}

#[test]
fn controllers_scale() {
    let mut object = created::<ReplicationControllers>(&controller());
    ReplicationControllers::set_replicas(&mut object, 7);
    object.status.as_mut().unwrap().replicas = 2;
    let scaling = ReplicationControllers::scaling(&object).unwrap();
    assert_eq!((scaling.desired, scaling.observed), (7, 2));
    assert_eq!(scaling.selector, "app=web");
    let mut row = row::<ReplicationControllers>(&serde_json::to_value(&object).unwrap());
    assert_eq!(row.split_off(1), ["7", "2", "0", "60m", "main", "nginx:1", "app=web"]);
}

#[test]
fn pod_templates_keep_to_the_rules_of_pods() {
    let template = json!({"metadata": meta(), "template": {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "nginx:1"}], "restartPolicy": "Never"},
    }});
    settles::<PodTemplates>(&template);
    check::<PodTemplates>(
        &template,
        vec![
            ("/template/spec/containers", json!([]), "template.spec.containers: Required value"),
            ("/template", json!(null), "template.spec.containers: Required value"),
            (
                "/template/metadata/labels",
                json!({"a b": ""}),
                "template.labels: Invalid value: \"a b\"",
            ),
        ],
    );
    assert_eq!(row::<PodTemplates>(&template), ["web", "main", "nginx:1", "app=web"]);
}

/// What is wrong with a status that a client writes.
fn status_errors<K: Kind>(manifest: &Value, status: Value) -> Vec<String> {
    let old = created::<K>(manifest);
    let mut told = serde_json::to_value(&old).unwrap();
    told["status"] = status;
    let mut new: K::Object = serde_json::from_value(told).unwrap();
    K::default(&mut new);
    K::prepare_status_update(&mut new, &old);
    K::validate_status_update(&new, &old).iter().map(ToString::to_string).collect()
}

#[test]
fn statuses_keep_to_the_rules() {
    let namespace = json!({"metadata": {"name": "team"}});
    assert_eq!(status_errors::<Namespaces>(&namespace, json!({})), Vec::<String>::new());
    assert_eq!(
        status_errors::<Namespaces>(&namespace, json!({"phase": "Terminating"})),
        [
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        ]
    );
    let twice = json!({"addresses": [
        {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "10.0.0.1"},
    ]});
    assert_eq!(
        status_errors::<Nodes>(&super::cluster::node(), twice),
        [
            "status.addresses[1]: Duplicate value: {\"address\":\"10.0.0.1\",\"type\":\"InternalIP\"}"
        ]
    );
    let quota = json!({"metadata": meta(), "spec": {"hard": {"pods": "4"}}});
    assert_eq!(
        status_errors::<ResourceQuotas>(&quota, json!({"used": {"pods": "1500m"}})),
        ["status.used[pods]: Invalid value: \"1500m\": must be an integer"]
    );
    let counts = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": -1, "observedGeneration": -1});
    assert_eq!(
        status_errors::<ReplicationControllers>(&controller(), counts),
        [
            "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.observedGeneration: Invalid value: -1: must be greater than or equal to 0",
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ]
    );
    let available = json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2});
    assert_eq!(
        status_errors::<ReplicationControllers>(&controller(), available),
        ["status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas"]
    );
}
