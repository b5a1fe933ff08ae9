//! How important pods are.

use super::*;

#[test]
fn priority_classes_keep_to_the_rules() {
    let class = json!({"metadata": {"name": "high"}, "value": 1_000_000, "description": "for all"});
    settles::<PriorityClasses>(&class);
    assert_eq!(
        defaulted::<PriorityClasses>(&class)["preemptionPolicy"],
        json!("PreemptLowerPriority")
    );
    check::<PriorityClasses>(
        &class,
        vec![
            ("/value", json!(1_000_000_000), ""),
            ("/value", json!(-2_147_483_648), ""),
            (
                "/value",
                json!(1_000_000_001),
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            ),
            ("/preemptionPolicy", json!("Never"), ""),
            (
                "/preemptionPolicy",
                json!("Sometimes"),
                "preemptionPolicy: Unsupported value: \"Sometimes\": supported values: \"PreemptLowerPriority\", \"Never\"",
            ),
            (
                "/metadata/name",
                json!("system-mine"),
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
            ),
            (
                "/metadata/name",
                json!("system-node-critical"),
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000",
            ),
        ],
    );
    check_updates::<PriorityClasses>(
        &class,
        vec![
            ("/description", json!("for some"), ""),
            ("/globalDefault", json!(true), ""),
            ("/value", json!(1), "value: Forbidden: may not be changed in an update."),
            (
                "/preemptionPolicy",
                json!("Never"),
                "preemptionPolicy: Invalid value: \"Never\": field is immutable",
            ),
        ],
    );
}

#[test]
fn what_every_cluster_has_is_valid_and_no_default() {
    let classes: Vec<Value> =
        priority_class::initial().map(|class| serde_json::to_value(class).unwrap()).collect();
    let told: Vec<(&str, i64)> = classes
        .iter()
        .map(|c| (c["metadata"]["name"].as_str().unwrap(), c["value"].as_i64().unwrap()))
        .collect();
    assert_eq!(
        told,
        [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)]
    );
    for class in &classes {
        assert_eq!(errors::<PriorityClasses>(class), Vec::<String>::new());
        let default = with(class, "/globalDefault", json!(true));
        assert!(errors::<PriorityClasses>(&default)[0].ends_with("PriorityClass must be false"));
    }
}

#[test]
fn one_class_is_everybodys() {
    let class = |default: bool| {
        created::<PriorityClasses>(
            &json!({"metadata": {"name": "a"}, "value": 1, "globalDefault": default}),
        )
    };
    let claim = PriorityClasses::claims(&class(true));
    assert_eq!(claim.len(), 1);
    assert!(PriorityClasses::claims(&class(false)).is_empty());
    let allocate = |new: bool, old: Option<bool>| {
        let (mut new, old) = (class(new), old.map(class));
        PriorityClasses::allocate(&mut new, old.as_ref(), &cluster(), &|one| one == claim[0])
    };
    assert!(allocate(false, None).is_ok());
    assert!(allocate(true, Some(true)).is_ok());
    for old in [None, Some(false)] {
        let told = allocate(true, old).unwrap_err().iter().next().unwrap().to_string();
        assert!(told.starts_with("globalDefault: Forbidden: another class is already"), "{told}");
    }
}

#[test]
fn a_priority_class_is_printed_as_kubectl_does() {
    let class = json!({
        "metadata": {"name": "high", "creationTimestamp": "2026-01-01T11:00:00Z"},
        "value": 7, "globalDefault": true, "preemptionPolicy": "Never",
    });
    assert_eq!(row::<PriorityClasses>(&class), ["high", "7", "true", "60m", "Never"]);
}
