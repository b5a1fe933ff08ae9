//! ReplicaSets and Deployments: what is filled in, what is refused, what is printed.

use serde_json::{Value, json};

use super::super::testing::{check, check_updates, created, defaulted, errors, row, settles, with};
use super::super::{Deployments, Kind, ReplicaSets};

fn set() -> Value {
    json!({
        "metadata": {
            "name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T11:00:00Z",
        },
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}},
                "spec": {"containers": [{"name": "main", "image": "nginx:1"}]},
            },
        },
    })
}

const NO_MATCH: &str = "spec.template.metadata.labels: Invalid value: {\"app\":\"web\",\"tier\":\"front\"}: `selector` does not match template `labels`";

/// What is the same for both kinds.
fn rules() -> Vec<(&'static str, Value, &'static str)> {
    let expression = |operator: &str, values: Value| json!([{"key": "app", "operator": operator, "values": values}]);
    vec![
        ("/spec/replicas", json!(0), ""),
        (
            "/spec/replicas",
            json!(-1),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("/spec/minReadySeconds", json!(-1), "spec.minReadySeconds: Invalid value: -1"),
        (
            "/spec/selector",
            json!({}),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        ("/spec/selector/matchLabels/app", json!("other"), NO_MATCH),
        (
            "/spec/selector/matchLabels/app",
            json!("o r"),
            "spec.selector.matchLabels: Invalid value: \"o r\"",
        ),
        ("/spec/selector/matchExpressions", expression("In", json!(["web"])), ""),
        ("/spec/selector/matchExpressions", expression("NotIn", json!(["web"])), NO_MATCH),
        (
            "/spec/selector/matchExpressions",
            expression("In", json!([])),
            "spec.selector.matchExpressions[0].values: Required value: must be specified when",
        ),
        (
            "/spec/selector/matchExpressions",
            expression("Exists", json!(["a"])),
            "spec.selector.matchExpressions[0].values: Forbidden: may not be specified when",
        ),
        (
            "/spec/selector/matchExpressions",
            expression("Like", json!(["a"])),
            "spec.selector.matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator",
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
    ]
}

#[test]
fn replica_sets_keep_to_the_rules() {
    settles::<ReplicaSets>(&set());
    check::<ReplicaSets>(&set(), rules());
    check::<ReplicaSets>(
        &set(),
        vec![("/spec/template", json!(null), "spec.template: Required value")],
    );
    let selector = "spec.selector: Invalid value: ";
    check_updates::<ReplicaSets>(
        &set(),
        vec![
            ("/spec/selector/matchLabels/tier", json!("front"), selector),
            ("/spec/replicas", json!(7), ""),
        ],
    );
}

#[test]
fn deployments_keep_to_the_rules() {
    settles::<Deployments>(&set());
    check::<Deployments>(&set(), rules());
    let rolling = |surge: Value, unavailable: Value| json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    let unavailable = "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: ";
    check::<Deployments>(
        &set(),
        vec![
            ("/spec/strategy", json!({"type": "Recreate"}), ""),
            ("/spec/strategy", rolling(json!(1), json!(0)), ""),
            ("/spec/strategy", rolling(json!("200%"), json!("100%")), ""),
            ("/spec/strategy", rolling(json!(1), json!("101%")), unavailable),
            ("/spec/strategy", rolling(json!(0), json!("0%")), unavailable),
            (
                "/spec/strategy",
                rolling(json!("1/2"), json!(1)),
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"1/2\": a valid percent",
            ),
            (
                "/spec/strategy",
                json!({"type": "Recreate", "rollingUpdate": {}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                "/spec/strategy",
                json!({"type": "Blue"}),
                "spec.strategy: Unsupported value: {\"type\":\"Blue\"}: supported values: \"Recreate\", \"RollingUpdate\"",
            ),
            (
                "/spec/revisionHistoryLimit",
                json!(-1),
                "spec.revisionHistoryLimit: Invalid value: -1",
            ),
            (
                "/spec/minReadySeconds",
                json!(600),
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ),
        ],
    );
    let all =
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": -1}});
    let all = errors::<Deployments>(&all);
    assert_eq!(all.len(), 3, "replicas, selector, containers: {all:?}");
}

#[test]
fn deployments_are_filled_in() {
    let stored = defaulted::<Deployments>(&with(&set(), "/spec/replicas", json!(null)));
    assert_eq!(stored["spec"]["replicas"], 1);
    assert_eq!(stored["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(stored["spec"]["progressDeadlineSeconds"], 600);
    assert_eq!(
        stored["spec"]["strategy"],
        json!({
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
        })
    );
    assert_eq!(stored["spec"]["template"]["spec"]["restartPolicy"], "Always");
    assert_eq!(stored["status"], json!({}));
}

#[test]
fn both_scale_and_print_what_they_run() {
    let mut object = created::<Deployments>(&set());
    Deployments::set_replicas(&mut object, 7);
    let status = object.status.as_mut().unwrap();
    (status.replicas, status.ready_replicas, status.updated_replicas) = (Some(5), Some(2), Some(4));
    let scaling = Deployments::scaling(&object).unwrap();
    assert_eq!((scaling.desired, scaling.observed), (7, 5));
    assert_eq!(scaling.selector, "app=web");
    let cells = row::<Deployments>(&serde_json::to_value(&object).unwrap());
    assert_eq!(cells[1..], ["2/7", "4", "0", "60m", "main", "nginx:1", "app=web"]);
    let cells = row::<ReplicaSets>(&defaulted::<ReplicaSets>(&set()));
    assert_eq!(cells[1..], ["3", "0", "0", "60m", "main", "nginx:1", "app=web"]);
}

#[test]
fn the_revision_may_be_noted_together_with_the_status() {
    let old = created::<Deployments>(&set());
    let mut new = created::<Deployments>(&with(&set(), "/spec/replicas", json!(9)));
    new.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    new.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    Deployments::prepare_status_update(&mut new, &old);
    assert_eq!(new.spec, old.spec);
    assert_eq!(new.metadata.labels, old.metadata.labels);
    assert_ne!(new.metadata.annotations, old.metadata.annotations);
}
