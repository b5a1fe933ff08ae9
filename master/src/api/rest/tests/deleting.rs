//! Deletions: of one object, of many, and what holds one up.

use super::*;

use proto::ObjectKey;

use crate::api::kinds::Pods;
use crate::api::objects::DeleteOptions;

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_taken_off() {
    let server = Server::start().await;
    let mut object = config_map("a", json!({}), json!({}));
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    server.post(CONFIG_MAPS, object).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let pending = server.delete(&path, None).await.ok();
    assert_eq!(pending["kind"], "ConfigMap");
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 0);
    // Deleting again changes nothing.
    let again = server.delete(&path, None).await.ok();
    assert_eq!(again["metadata"]["resourceVersion"], pending["metadata"]["resourceVersion"]);
    let more = json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}});
    let answer = server.patch(&path, "merge-patch+json", more).await;
    assert!(answer.refused(422, "Invalid").contains("no new finalizers can be added"));
    let none = json!({"metadata": {"finalizers": null}});
    server.patch(&path, "merge-patch+json", none).await.ok();
    server.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn propagation_becomes_finalizers_and_preconditions_are_kept() {
    let server = Server::start().await;
    for name in ["orphan", "foreground"] {
        server.post(CONFIG_MAPS, config_map(name, json!({}), json!({}))).await.ok();
    }
    let orphan =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"});
    let pending = server.delete(&format!("{CONFIG_MAPS}/orphan"), Some(orphan)).await.ok();
    assert_eq!(pending["metadata"]["finalizers"], json!(["orphan"]));
    let path = format!("{CONFIG_MAPS}/foreground?propagationPolicy=Foreground");
    let pending = server.delete(&path, None).await.ok();
    assert_eq!(pending["metadata"]["finalizers"], json!(["foregroundDeletion"]));

    server.post(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let other = json!({"preconditions": {"uid": "something-else"}});
    assert!(
        server.delete(&path, Some(other)).await.refused(409, "Conflict").contains("Precondition")
    );
    let bad = json!({"propagationPolicy": "Sideways"});
    server.delete(&path, Some(bad)).await.refused(422, "Invalid");
    let dry = json!({"dryRun": ["All"]});
    server.delete(&path, Some(dry)).await.ok();
    server.get(&path).await.ok();
}

#[tokio::test]
async fn a_bound_pod_is_deleted_gracefully_and_an_unbound_one_at_once() {
    let server = Server::start().await;
    for name in ["bound", "unbound"] {
        server.post(PODS, pod(name)).await.ok();
    }
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    server.post(&format!("{PODS}/bound/binding"), binding).await.ok();
    server.delete(&format!("{PODS}/unbound"), None).await.ok();
    server.get(&format!("{PODS}/unbound")).await.refused(404, "NotFound");

    let path = format!("{PODS}/bound");
    let pending = server.delete(&path, None).await.ok();
    assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = server.delete(&path, Some(json!({"gracePeriodSeconds": 5}))).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let time = |object: &Value| {
        let text = object["metadata"]["deletionTimestamp"].as_str().unwrap();
        text.parse::<jiff::Timestamp>().unwrap()
    };
    assert_eq!(time(&pending).duration_since(time(&shorter)).as_secs(), 25);
    let longer = server.delete(&path, Some(json!({"gracePeriodSeconds": 60}))).await.ok();
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 5);
    let key = ObjectKey::new("default", "bound");
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    server.objects.delete::<Pods>(&key, now, &[]).await.unwrap();
    server.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn deletes_a_selected_collection() {
    let server = Server::start().await;
    for (name, tier) in [("a", "front"), ("b", "front"), ("c", "back")] {
        server.post(CONFIG_MAPS, config_map(name, json!({"tier": tier}), json!({}))).await.ok();
    }
    let deleted = server.delete(&format!("{CONFIG_MAPS}?labelSelector=tier%3Dfront"), None).await;
    assert_eq!(deleted.ok()["items"].as_array().unwrap().len(), 2);
    let left = server.get(CONFIG_MAPS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    server.delete("/api/v1/namespaces", None).await.refused(405, "MethodNotAllowed");
}
