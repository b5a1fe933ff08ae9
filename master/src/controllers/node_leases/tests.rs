//! Decisions.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use proto::k8s as k8s_openapi;
use serde_json::json;

use super::{Action, Observed, lease, reconcile};

fn node(uid: &str, ready: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "one", "uid": uid},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
    .unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn decide(node: &Node, lease: Option<&Lease>, session: bool, ended: bool) -> Option<Action> {
    reconcile(&Observed { node, lease, session, ended, now: at(100) })
}

#[test]
fn a_node_without_a_lease_gets_one() {
    let node = node("a", "True");
    let Some(Action::Create(made)) = decide(&node, None, true, false) else { panic!() };
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(
        made["spec"],
        json!({
            "holderIdentity": "one",
            "leaseDurationSeconds": 40,
            "renewTime": "1970-01-01T00:01:40.000000Z",
        })
    );
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "a");
}

#[test]
fn nothing_is_written_while_the_session_is_open() {
    let node = node("a", "True");
    assert_eq!(decide(&node, Some(&lease(&node, at(0))), true, false), None);
}

#[test]
fn the_end_of_a_session_is_written_once() {
    let ready = node("a", "True");
    let old = lease(&ready, at(0));
    let expected = Some(Action::Change(Box::new(lease(&ready, at(100)))));
    assert_eq!(decide(&ready, Some(&old), false, false), expected);
    assert_eq!(decide(&ready, Some(&old), false, true), None);
    // A leader that comes later does not know when; the one before has written it.
    assert_eq!(decide(&node("a", "Unknown"), Some(&old), false, false), None);
}

#[test]
fn a_node_that_takes_the_place_of_another_gets_its_own() {
    let (old, new) = (node("a", "True"), node("b", "True"));
    let expected = Some(Action::Change(Box::new(lease(&new, at(100)))));
    assert_eq!(decide(&new, Some(&lease(&old, at(0))), true, false), expected);
}
