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

/// Who owns which of an event's fields, by manager.
fn owned(event: &Value) -> Vec<(String, String, Vec<String>)> {
    let entries = event["metadata"]["managedFields"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let fields = |entry: &Value| entry["fieldsV1"].as_object().unwrap().keys().cloned().collect();
    let owner =
        |entry: &Value| (text(&entry["manager"]), text(&entry["apiVersion"]), fields(entry));
    entries.iter().map(owner).collect()
}

#[tokio::test]
async fn who_owns_a_field_of_an_event_is_known_in_both_forms() {
    let server = Server::start().await;
    server.post(&format!("{NEWER}?fieldManager=newer"), newer("a")).await.ok();
    let path = format!("{EVENTS}/a");
    let fields = |names: &[&str]| names.iter().map(|name| format!("f:{name}")).collect::<Vec<_>>();
    let mut mine = fields(&[
        "action",
        "eventTime",
        "note",
        "reason",
        "regarding",
        "reportingController",
        "reportingInstance",
        "type",
    ]);
    let of_newer =
        |fields: &[String]| ("newer".to_owned(), "events.k8s.io/v1".to_owned(), fields.to_vec());
    assert_eq!(owned(&server.get(&path).await.ok()), [of_newer(&mine)]);
    // What is said of it in the other form is the owner's all the same.
    let wanted = json!({"apiVersion": "v1", "kind": "Event", "message": "no"});
    let apply = format!("{path}?fieldManager=older");
    let refused = server.patch(&apply, "apply-patch+yaml", wanted.clone()).await;
    let message = refused.refused(409, "Conflict");
    assert!(message.contains("\"newer\" using events.k8s.io/v1: .note"), "{message}");
    let forced =
        server.patch(&format!("{apply}&force=true"), "apply-patch+yaml", wanted).await.ok();
    mine.retain(|field| field != "f:note");
    let of_older = ("older".to_owned(), "v1".to_owned(), fields(&["message"]));
    assert_eq!(owned(&forced), [of_older.clone(), of_newer(&mine)]);
    // And a write in this form leaves what was said in the other one to whom it belongs.
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    let newer = format!("{NEWER}/a?fieldManager=newer");
    let labelled = server.patch(&newer, "merge-patch+json", labels).await.ok();
    mine.push("f:metadata".to_owned());
    mine.sort();
    assert_eq!(owned(&labelled), [of_older, of_newer(&mine)]);
}
