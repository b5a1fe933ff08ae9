//! What a query or a body says about how to write: dry runs, validation, what to delete.

use http::Method;
use serde_json::json;

use super::*;

const RCS: &str = "/api/v1/namespaces/default/replicationcontrollers";

fn controller(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
        "spec": {
            "replicas": 1, "selector": {"app": name},
            "template": pod(name),
        },
    })
}

#[tokio::test]
async fn a_dry_run_of_any_verb_answers_as_if_and_writes_nothing() {
    let server = Server::start().await;
    server.post("/api/v1/nodes", json!({"metadata": {"name": "node"}})).await.ok();
    server.post(PODS, pod("web")).await.ok();
    server.post(RCS, controller("rc")).await.ok();
    server.post(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await.ok();
    let before = server.store.current_revision().await.unwrap();

    let note = json!({"metadata": {"annotations": {"note": "yes"}}});
    let applied = config_map("a", json!({}), json!({"k": "applied"}));
    let made = config_map("made", json!({}), json!({"k": "v"}));
    let scale = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 4}});
    let applied_scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 1}});
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}});
    let binding = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "node"}});
    let status = json!({"status": {"replicas": 3}});
    let strategic = "strategic-merge-patch+json";
    let operations = json!([{"op": "add", "path": "/data", "value": {"k": "v"}}]);
    let (one, rc) = (format!("{CONFIG_MAPS}/a"), format!("{RCS}/rc"));
    let json = "json";
    let cases = [
        (Method::POST, CONFIG_MAPS.to_owned(), json, config_map("new", json!({}), json!({})), 201),
        (Method::PUT, one.clone(), json, config_map("a", json!({}), json!({"k": "v"})), 200),
        (Method::PATCH, one.clone(), "merge-patch+json", note.clone(), 200),
        (Method::PATCH, one.clone(), strategic, note.clone(), 200),
        (Method::PATCH, one.clone(), "json-patch+json", operations, 200),
        (Method::PATCH, one.clone(), "apply-patch+yaml", applied, 200),
        (Method::PATCH, format!("{CONFIG_MAPS}/made"), "apply-patch+yaml", made, 201),
        (Method::DELETE, one, json, json!(null), 200),
        (Method::DELETE, CONFIG_MAPS.to_owned(), json, json!(null), 200),
        (Method::PUT, format!("{rc}/scale"), json, scale.clone(), 200),
        (Method::PATCH, format!("{rc}/scale"), "merge-patch+json", scale, 200),
        (Method::PATCH, format!("{rc}/scale"), "apply-patch+yaml", applied_scale, 200),
        (Method::PATCH, format!("{rc}/status"), "merge-patch+json", status, 200),
        (Method::POST, format!("{PODS}/web/eviction"), json, eviction, 201),
        (Method::POST, format!("{PODS}/web/binding"), json, binding, 201),
        (Method::DELETE, format!("{PODS}/web"), json, json!(null), 200),
    ];
    for (method, path, form, body, status) in cases {
        let what = format!("{method} {path}");
        let query = "dryRun=All&fieldManager=test";
        let form = format!("application/{form}");
        // Beside a body the query of a deletion would mean nothing.
        let body = || if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let dry = request(method.clone(), &format!("{path}?{query}"), Some(&form), body());
        let answer = server.send(dry).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.body);
        let wrong = request(method, &format!("{path}?{query}&dryRun=Some"), Some(&form), body());
        let message = server.send(wrong).await;
        let message = message.refused(422, "Invalid");
        assert!(
            message.contains("Options.meta.k8s.io \"\" is invalid: dryRun: Unsupported"),
            "{message}"
        );
        assert_eq!(server.store.current_revision().await.unwrap(), before, "{what}");
    }
    let in_body = json!({"dryRun": ["All"]});
    server.delete(CONFIG_MAPS, Some(in_body)).await.ok();
    assert_eq!(server.store.current_revision().await.unwrap(), before);
}

#[tokio::test]
async fn the_body_of_a_deletion_is_all_that_counts() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let other = json!({"preconditions": {"uid": "x"}});
    server.delete(&format!("{path}?dryRun=All"), Some(other)).await.refused(409, "Conflict");
    // Neither this dry run nor what is wrong with it is seen.
    let query = "dryRun=Some&gracePeriodSeconds=soon&propagationPolicy=Sideways";
    server.delete(&format!("{path}?{query}"), Some(json!({}))).await.ok();
    server.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn a_dry_run_refuses_what_the_write_would_be_refused_for() {
    let server = Server::start().await;
    server.post(PODS, pod("web")).await.ok();
    let dry = |path: &str| format!("{path}?dryRun=All");
    server.post(&dry(PODS), pod("web")).await.refused(409, "AlreadyExists");
    server.put(&dry(&format!("{PODS}/none")), pod("none")).await.refused(404, "NotFound");
    server.delete(&dry(&format!("{PODS}/none")), None).await.refused(404, "NotFound");
    let binding =
        |uid: &str| json!({"metadata": {"name": "web", "uid": uid}, "target": {"name": "node"}});
    let path = format!("{PODS}/web/binding");
    server.post(&dry(&path), binding("another")).await.refused(409, "Conflict");
    server.post(&path, binding("")).await.ok();
    server.post(&dry(&path), binding("")).await.refused(409, "Conflict");
    server
        .post(&dry(&format!("{PODS}/none/binding")), json!({"target": {"name": "node"}}))
        .await
        .refused(404, "NotFound");
}

#[tokio::test]
async fn the_options_of_a_write_are_checked_together() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let wrong = "dryRun=No&fieldValidation=Lax&fieldManager=a%0Ab&force=true";
    let cases = [
        (Method::POST, CONFIG_MAPS, "json", "CreateOptions", 3),
        (Method::PUT, &*path, "json", "UpdateOptions", 3),
        (Method::PATCH, &*path, "merge-patch+json", "PatchOptions", 4),
        (Method::PATCH, &*path, "apply-patch+yaml", "PatchOptions", 3),
    ];
    for (method, path, form, kind, count) in cases {
        let form = format!("application/{form}");
        let body = Body::from(config_map("a", json!({}), json!({})).to_string());
        let answer =
            server.send(request(method, &format!("{path}?{wrong}"), Some(&form), body)).await;
        let message = answer.refused(422, "Invalid");
        assert!(
            message.starts_with(&format!("{kind}.meta.k8s.io \"\" is invalid: [")),
            "{message}"
        );
        let causes = answer.body["details"]["causes"].as_array().unwrap();
        assert_eq!(causes.len(), count, "{causes:?}");
    }
}

#[tokio::test]
async fn a_field_manager_is_told_everything_that_is_wrong_with_its_name() {
    let server = Server::start().await;
    let long = format!("{}%0A%20%C2%A0b%E2%80%8B", "a".repeat(124));
    let path = format!("{CONFIG_MAPS}?fieldManager={long}");
    let answer = server.post(&path, config_map("a", json!({}), json!({}))).await;
    answer.refused(422, "Invalid");
    let causes = answer.body["details"]["causes"].as_array().unwrap();
    let told = |cause: &Value| {
        let message = cause["message"].as_str().unwrap();
        let end = message.rsplit(": ").next().unwrap().to_owned();
        (cause["reason"].as_str().unwrap().to_owned(), cause["field"] == "fieldManager", end)
    };
    let told: Vec<_> = causes.iter().map(told).collect();
    let cause = |reason: &str, end: &str| (reason.to_owned(), true, end.to_owned());
    assert_eq!(
        told,
        [
            cause("FieldValueTooLong", "may not be more than 128 bytes"),
            cause("FieldValueInvalid", "invalid character U+000A (at position 124)"),
            cause("FieldValueInvalid", "invalid character U+00A0 (at position 126)"),
            cause("FieldValueInvalid", "invalid character U+200B (at position 129)"),
        ]
    );
}

#[tokio::test]
async fn fields_are_validated_in_every_way_of_writing() {
    let server = Server::start().await;
    server.post(PODS, pod("a")).await.ok();
    let path = format!("{PODS}/a");
    let unknown = json!({"metadata": {"labelz": {}}});
    let mut whole = server.get(&path).await.body;
    whole["metadata"]["labelz"] = json!({});
    let operations = json!([{"op": "add", "path": "/metadata/labelz", "value": {}}]);
    let cases = [
        (Method::POST, PODS, "json", pod("b")),
        (Method::PUT, &*path, "json", whole),
        (Method::PATCH, &*path, "merge-patch+json", unknown.clone()),
        (Method::PATCH, &*path, "strategic-merge-patch+json", unknown),
        (Method::PATCH, &*path, "json-patch+json", operations),
    ];
    for (method, path, form, mut body) in cases {
        if method == Method::POST {
            body["metadata"]["labelz"] = json!({});
        }
        let what = format!("{method} {form}");
        let form = format!("application/{form}");
        let send = |validation: &str| {
            let path = format!("{path}?fieldManager=test&dryRun=All{validation}");
            server.send(request(method.clone(), &path, Some(&form), Body::from(body.to_string())))
        };
        let strict = send("&fieldValidation=Strict").await;
        let message = strict.refused(400, "BadRequest");
        assert!(message.contains("unknown field \"metadata.labelz\""), "{what}: {message}");
        let ignored = send("&fieldValidation=Ignore").await;
        assert!(!ignored.headers.contains_key(header::WARNING), "{what}");
        ignored.ok();
        for warned in [send("&fieldValidation=Warn").await, send("").await] {
            assert_eq!(
                warned.headers[header::WARNING],
                "299 - \"unknown field \\\"metadata.labelz\\\"\"",
                "{what}"
            );
            warned.ok();
        }
    }
}

#[tokio::test]
async fn a_collection_is_deleted_as_far_as_it_is_selected() {
    let server = Server::start().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"), ("e", "y")] {
        server.post(CONFIG_MAPS, config_map(name, json!({"app": app}), json!({}))).await.ok();
    }
    let left = async || {
        let list = server.get(CONFIG_MAPS).await.ok();
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .concat()
    };
    // A page, and a token for the next.
    let first =
        server.delete(&format!("{CONFIG_MAPS}?labelSelector=app%3Dx&limit=2"), None).await.ok();
    assert_eq!(first["kind"], "ConfigMapList");
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(left().await, "cde");
    let token = first["metadata"]["continue"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?labelSelector=app%3Dx&limit=2&continue={token}");
    server.delete(&path, None).await.ok();
    assert_eq!(left().await, "de");
    server.delete(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dd"), None).await.ok();
    assert_eq!(left().await, "e");
    let wrong = json!({"propagationPolicy": "Sideways"});
    server.delete(CONFIG_MAPS, Some(wrong)).await.refused(422, "Invalid");
    server
        .delete(&format!("{CONFIG_MAPS}?labelSelector=%3D"), None)
        .await
        .refused(400, "BadRequest");
    // Not of all namespaces at once.
    server.delete("/api/v1/configmaps", None).await.refused(405, "MethodNotAllowed");
    assert_eq!(left().await, "e");
    server.delete(CONFIG_MAPS, None).await.ok();
    assert_eq!(left().await, "");
}
