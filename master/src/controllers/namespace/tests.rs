//! Decisions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::reconcile::{self, Action, Content, reconcile};

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn namespace(deleting: bool) -> Namespace {
    let deleted = if deleting { json!("2030-01-01T00:00:00Z") } else { Value::Null };
    serde_json::from_value(json!({
        "metadata": {"name": "shop", "uid": "shop", "deletionTimestamp": deleted},
        "spec": {"finalizers": ["kubernetes"]},
    }))
    .unwrap()
}

fn content(name: &str) -> Content {
    Content {
        resource: "pods".to_owned(),
        key: ObjectKey::new("shop", name),
        uid: name.to_owned(),
        deleting: false,
        finalizers: Vec::new(),
    }
}

fn deleting(name: &str, finalizers: &[&str]) -> Content {
    let finalizers = finalizers.iter().map(ToString::to_string).collect();
    Content { deleting: true, finalizers, ..content(name) }
}

#[test]
fn a_namespace_that_stays_is_left_alone() {
    assert!(reconcile(&namespace(false), &[content("a")]).is_empty());
    assert!(reconcile(&namespace(false), &[]).is_empty());
}

#[test]
fn what_is_in_it_is_deleted_once_and_then_waited_for() {
    let contents = [content("a"), deleting("b", &[]), content("c")];
    let actions = reconcile(&namespace(true), &contents);
    assert_eq!(actions, [Action::Delete(0), Action::Delete(2)]);
    assert!(reconcile(&namespace(true), &[deleting("b", &[])]).is_empty());
}

#[test]
fn an_empty_namespace_is_let_go() {
    assert_eq!(reconcile(&namespace(true), &[]), [Action::Finalize]);
}

#[test]
fn a_namespace_held_by_somebody_else_only_is_done() {
    let mut namespace = namespace(true);
    namespace.spec.as_mut().unwrap().finalizers = Some(vec!["example.com/mine".to_owned()]);
    assert!(reconcile(&namespace, &[]).is_empty());
}

#[test]
fn the_status_says_what_is_left_and_what_holds_it() {
    let contents = [
        content("a"),
        deleting("b", &["example.com/x"]),
        Content { resource: "configmaps".to_owned(), ..deleting("c", &["example.com/x", "y"]) },
    ];
    let mut namespace = namespace(true);
    let status = reconcile::status(&namespace, &contents, None, now());
    assert_eq!(status.phase.as_deref(), Some("Terminating"));
    let told: Vec<String> = status
        .conditions
        .iter()
        .flatten()
        .map(|one| format!("{} {} {}", one.type_, one.status, one.message.as_ref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            "NamespaceDeletionContentFailure False All content successfully deleted, may be \
             waiting on finalization",
            "NamespaceContentRemaining True Some resources are remaining: configmaps has 1 \
             resource instances, pods has 2 resource instances",
            "NamespaceFinalizersRemaining True Some content in the namespace has finalizers \
             remaining: example.com/x in 2 resource instances, y in 1 resource instances",
        ]
    );
    namespace.status = Some(status.clone());
    let later = "2030-01-01T00:01:00Z".parse().unwrap();
    assert_eq!(reconcile::status(&namespace, &contents, None, later), status);
    let failed = reconcile::status(&namespace, &contents, Some("refused"), later);
    let failure = &failed.conditions.unwrap()[0];
    assert_eq!((failure.status.as_str(), failure.message.as_deref()), ("True", Some("refused")));
    assert_eq!(failure.last_transition_time.as_ref().unwrap().0, later);
}
