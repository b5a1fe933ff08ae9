//! Restart policies of containers, and their rules.

use super::*;

/// Whether `main` of a pod of this policy is started again when it ends with this code.
fn again(of_pod: &str, changes: Value, exit_code: i32) -> bool {
    let mut value = serde_json::to_value(pod(of_pod, &["main"])).unwrap();
    for (key, change) in changes.as_object().unwrap() {
        value["spec"]["containers"][0][key] = change.clone();
    }
    let pod = serde_json::from_value(value).unwrap();
    let mut observed = prepared(&pod);
    observed.containers[0].current = Some(exited(attempt("main", 0, 0, 0), exit_code, 5));
    run(&pod, &observed, 5).actions == [start("main", 1, 10)]
}

#[test]
fn a_containers_own_policy_wins_over_the_pods() {
    for (of_pod, own, code, expected) in [
        ("Never", "Always", 0, true),
        ("Never", "OnFailure", 0, false),
        ("Never", "OnFailure", 1, true),
        ("Always", "Never", 1, false),
        ("Always", "OnFailure", 0, false),
    ] {
        let found = again(of_pod, json!({"restartPolicy": own}), code);
        assert_eq!(found, expected, "{of_pod} {own} {code}");
    }
}

#[test]
fn the_first_rule_that_fits_wins_over_the_policy() {
    let rules = |operator: &str| {
        json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [7]}},
            {"action": "Restart", "exitCodes": {"operator": operator, "values": [42, 0, 1]}},
        ]})
    };
    for (operator, code, expected) in
        [("In", 42, true), ("In", 43, false), ("NotIn", 42, false), ("NotIn", 43, true)]
    {
        assert_eq!(again("Never", rules(operator), code), expected, "{operator} {code}");
    }
}

#[test]
fn an_init_container_has_a_policy_too() {
    for (own, code, expected) in [
        ("Never", 1, PodAction::Finish),
        ("OnFailure", 1, start("a", 1, 10)),
        ("Never", 0, start("main", 0, 0)),
    ] {
        let mut pod = init::initialized_by("Always", &["a"]);
        let container = &mut pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0];
        container.restart_policy = Some(own.to_owned());
        let mut observed = prepared(&pod);
        observed.containers[0].current = Some(exited(attempt("a", 0, 0, 0), code, 5));
        assert_eq!(run(&pod, &observed, 5).actions, [expected], "{own} {code}");
    }
}
