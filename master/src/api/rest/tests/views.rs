//! The same events in two groups.

use super::*;

const EVENTS: &str = "/api/v1/namespaces/default/events";
const NEWER: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn newer(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "regarding": {"kind": "Pod", "namespace": "default", "name": "web"},
        "eventTime": "2026-01-01T11:00:00.000001Z", "reportingController": "a.b/c",
        "reportingInstance": "c-1", "action": "Trying", "reason": "Tried", "type": "Normal",
        "note": "it was tried",
    })
}

#[tokio::test]
async fn an_event_is_the_same_in_both_groups() {
    let server = Server::start().await;
    let mut watch = server.watch(&format!("{NEWER}?watch=1")).await;
    let made = server.post(NEWER, newer("a")).await.ok();
    assert_eq!(
        (&made["apiVersion"], &made["note"]),
        (&json!("events.k8s.io/v1"), &json!("it was tried"))
    );
    let old = server.get(&format!("{EVENTS}/a")).await.ok();
    assert_eq!((&old["apiVersion"], &old["message"]), (&json!("v1"), &made["note"]));
    assert_eq!(old["involvedObject"], made["regarding"]);
    assert_eq!(server.get(&format!("{NEWER}/a")).await.ok(), made);
    let older = json!({
        "metadata": {"name": "b"}, "involvedObject": {"namespace": "default", "name": "db"},
        "message": "older", "count": 3,
    });
    server.post(EVENTS, older).await.ok();
    let list = server.get(NEWER).await.ok();
    assert_eq!(
        (&list["apiVersion"], &list["kind"]),
        (&json!("events.k8s.io/v1"), &json!("EventList"))
    );
    let items = list["items"].as_array().unwrap();
    let b = items.iter().find(|item| item["metadata"]["name"] == "b").unwrap();
    assert_eq!((&b["note"], &b["deprecatedCount"]), (&json!("older"), &json!(3)));
    let selected = server.get(&format!("{NEWER}?fieldSelector=regarding.name%3Ddb")).await.ok();
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    server
        .get(&format!("{NEWER}?fieldSelector=involvedObject.name%3Ddb"))
        .await
        .refused(400, "BadRequest");
    assert_eq!(watch.told(2).await, ["ADDED a", "ADDED b"]);
}

#[tokio::test]
async fn an_event_is_changed_in_the_form_in_which_it_is_seen() {
    let server = Server::start().await;
    let mut made = server.post(NEWER, newer("a")).await.ok();
    let path = format!("{NEWER}/a");
    let series = json!({"count": 2, "lastObservedTime": "2026-01-01T11:00:01.000000Z"});
    let patched = server.patch(&path, "merge-patch+json", json!({"series": series})).await.ok();
    assert_eq!(patched["series"], series);
    made["note"] = json!("another");
    made["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let refused = server.put(&path, made).await;
    assert!(refused.refused(422, "Invalid").contains("message: Invalid value"));
    assert_eq!(server.get(&format!("{EVENTS}/a")).await.ok()["series"], series);
    let applied = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"labels": {"x": "y"}},
    });
    let apply = "apply-patch+yaml";
    let applied = server.patch(&format!("{path}?fieldManager=m"), apply, applied).await.ok();
    assert_eq!(
        (&applied["metadata"]["labels"]["x"], &applied["note"]),
        (&json!("y"), &json!("it was tried"))
    );
    server.delete(&path, None).await.ok();
    server.get(&format!("{EVENTS}/a")).await.refused(404, "NotFound");
}
