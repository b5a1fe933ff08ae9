//! The cases of Kubernetes' page on server-side apply, and of the proposal behind it (KEP-555).

use super::*;

fn config_map(labels: Value, data: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "test-cm"}});
    for (place, fields) in [("/metadata", ("labels", labels)), ("", ("data", data))] {
        // An empty map has an owner, too.
        if fields.1 != json!({}) {
            object.pointer_mut(place).unwrap()[fields.0] = fields.1;
        }
    }
    object
}

/// What a manager owns, under its operation.
fn owned(live: &Live, who: &str) -> Option<Value> {
    live.owners().into_iter().find(|(name, _)| name == who).map(|(_, fields)| fields)
}

/// The page's first object, and its second, in which an update has taken over the data.
#[test]
fn the_record_is_as_the_page_shows_it() {
    let mut live = Live::default();
    let labels = json!({"test-label": "test"});
    live.apply("kubectl", &config_map(labels.clone(), json!({"key": "some value"})));
    let all = json!({
        "f:metadata": {"f:labels": {"f:test-label": {}}}, "f:data": {"f:key": {}},
    });
    assert_eq!(live.owners(), [("Apply kubectl".to_owned(), all)]);

    let new = config_map(labels.clone(), json!({"key": "new value"}));
    live.update("kube-controller-manager", new);
    let label = json!({"f:metadata": {"f:labels": {"f:test-label": {}}}});
    assert_eq!(owned(&live, "Apply kubectl"), Some(label));
    let key = json!({"f:data": {"f:key": {}}});
    assert_eq!(owned(&live, "Update kube-controller-manager"), Some(key));
    // By apply instead of an update it would have been a conflict, either way round.
    let conflicts = live.conflicts("kubectl", &config_map(labels, json!({"key": "some value"})));
    let told = "\"kube-controller-manager\" using v1".to_owned();
    assert_eq!(conflicts, [(told, vec![".data.key".to_owned()])]);
}

/// The three ways out of a conflict: to take, to give up, to share.
#[test]
fn a_conflict_is_resolved_in_three_ways() {
    let data = |value: &str| config_map(json!({}), json!({"key": value}));
    let nothing = config_map(json!({}), json!({}));
    let key = Some(json!({"f:data": {"f:key": {}}}));
    let mut start = Live::default();
    start.apply("theirs", &data("1"));
    start.conflicts("mine", &data("2"));

    let mut taken = start.clone();
    taken.try_apply("mine", &data("2"), true).unwrap();
    assert_eq!(taken.object.as_ref().unwrap()["data"]["key"], "2");
    assert_eq!((owned(&taken, "Apply mine"), owned(&taken, "Apply theirs")), (key.clone(), None));

    let mut given_up = start.clone();
    given_up.apply("mine", &nothing);
    assert_eq!(given_up.object.as_ref().unwrap()["data"]["key"], "1");
    assert_eq!(owned(&given_up, "Apply theirs"), key);

    let mut shared = start;
    shared.apply("mine", &data("1"));
    assert_eq!(owned(&shared, "Apply mine"), key);
    assert_eq!(owned(&shared, "Apply theirs"), key);
    // Whoever changes what is shared has a conflict with the other.
    shared.conflicts("mine", &data("2"));
    shared.conflicts("theirs", &data("3"));
    // It is there until nobody wants it any more.
    shared.apply("theirs", &nothing);
    assert_eq!(shared.object.as_ref().unwrap()["data"]["key"], "1");
    shared.apply("mine", &nothing);
    assert_eq!(shared.object.as_ref().unwrap()["data"]["key"], Value::Null);
}

/// Replicas go from a person to an autoscaler, without a moment in which nobody has them.
#[test]
fn replicas_are_handed_over_to_an_autoscaler() {
    let deployment = |replicas: Option<i64>, image: Option<&str>| {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "nginx"},
        });
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        if let Some(image) = image {
            object["spec"]["template"]["spec"]["containers"] =
                json!([{"name": "nginx", "image": image}]);
        }
        object
    };
    let replicas = |live: &Live| live.object.as_ref().unwrap()["spec"]["replicas"].clone();
    let mut live = Live::default();
    live.apply("person", &deployment(Some(3), Some("nginx:1")));
    // Handed over: another owner of the same value, then the first one lets go.
    live.apply("handover", &deployment(Some(3), None));
    live.apply("person", &deployment(None, Some("nginx:1")));
    assert_eq!(replicas(&live), 3);
    // The autoscaler writes what it wants and so owns it alone.
    let mut scaled = live.object.clone().unwrap();
    scaled["spec"]["replicas"] = json!(5);
    live.update("autoscaler", scaled);
    let owner = json!({"f:spec": {"f:replicas": {}}});
    assert_eq!(owned(&live, "Update autoscaler"), Some(owner));
    assert_eq!(owned(&live, "Apply handover"), None);
    // From here on the person's manifests leave them alone; who names them has a conflict.
    live.apply("person", &deployment(None, Some("nginx:2")));
    assert_eq!(replicas(&live), 5);
    let conflicts = live.conflicts("person", &deployment(Some(3), Some("nginx:2")));
    assert_eq!(conflicts[0].1, [".spec.replicas"]);

    // Without the handover they would have gone at once.
    let mut live = Live::default();
    live.apply("person", &deployment(Some(3), Some("nginx:1")));
    live.apply("person", &deployment(None, Some("nginx:1")));
    assert_eq!(replicas(&live), Value::Null);
}

/// What stands where after an apply: what only the live list has comes first, as far as the items
/// of both allow it.
#[test]
fn merged_lists_are_in_the_order_of_structured_merge_diff() {
    for (live, config, merged) in [
        ("", "ab", "ab"),
        ("ab", "", "ab"),
        ("ab", "c", "abc"),
        ("xy", "yz", "xyz"),
        ("abc", "cba", "cba"),
        ("axb", "ba", "xba"),
        ("ab", "xb", "axb"),
        ("abcd", "db", "acdb"),
        ("ba", "axc", "baxc"),
        ("abx", "bya", "bxya"),
    ] {
        let list = |names: &str| -> Value {
            names.chars().map(|name| json!({"name": name.to_string()})).collect::<Vec<_>>().into()
        };
        let object = |names: &str| containers(list(names));
        let result = merge::merge("Pod", &object(live), &object(config));
        assert_eq!(result["spec"]["containers"], list(merged), "{live} with {config}");
    }
}

/// Two who apply to one list own their items of it, in the order in which they came.
#[test]
fn lists_with_keys_are_shared_item_by_item() {
    let mut live = Live::default();
    let port = |number: i64, protocol: &str| json!({"containerPort": number, "protocol": protocol});
    let ports = |ports: Value| containers(json!([{"name": "c", "ports": ports}]));
    live.apply("a", &ports(json!([port(80, "TCP"), port(53, "UDP")])));
    live.apply("b", &ports(json!([port(53, "TCP")])));
    let found =
        |live: &Live| live.object.as_ref().unwrap()["spec"]["containers"][0]["ports"].clone();
    assert_eq!(found(&live), json!([port(80, "TCP"), port(53, "UDP"), port(53, "TCP")]));
    live.apply("a", &ports(json!([port(80, "TCP")])));
    assert_eq!(found(&live), json!([port(80, "TCP"), port(53, "TCP")]));
    // The container is everybody's who names it; it goes with the last of them.
    live.apply("a", &containers(json!([])));
    assert_eq!(found(&live), json!([port(53, "TCP")]));
}
