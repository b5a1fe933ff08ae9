//! What a Kubernetes API server does not let pass, and what it does.

use super::*;

#[tokio::test]
async fn nobody_owns_a_field_that_there_is_not() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}/a?fieldManager=one");
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "spec": {"foo": 1},
    });
    for validation in ["", "&fieldValidation=Ignore", "&force=true"] {
        let path = format!("{path}{validation}");
        let refused = server.patch(&path, "apply-patch+yaml", config.clone()).await;
        let message = refused.refused(400, "BadRequest");
        assert!(message.contains("failed to create typed patch object"), "{message}");
        assert!(message.contains(".spec: field not declared in schema"), "{message}");
    }
}

#[tokio::test]
async fn what_is_empty_is_not_there() {
    let server = Server::start().await;
    let mut object = config_map("a", json!({}), json!({"k": "v"}));
    object["metadata"]["annotations"] = json!({});
    object["metadata"]["finalizers"] = json!([]);
    let created = server.post(CONFIG_MAPS, object).await.ok();
    for field in ["labels", "annotations", "finalizers"] {
        assert!(created["metadata"].get(field).is_none(), "{created}");
        assert!(!created.to_string().contains(&format!("f:{field}")), "{created}");
    }
    let path = format!("{CONFIG_MAPS}/a");
    let held = json!({"metadata": {"finalizers": ["example.org/a"]}});
    server.patch(&path, "merge-patch+json", held).await.ok();
    let patch = json!([{"op": "remove", "path": "/metadata/finalizers/0"}]);
    let released = server.patch(&path, "json-patch+json", patch).await.ok();
    assert!(released["metadata"].get("finalizers").is_none(), "{released}");
}

#[tokio::test]
async fn records_say_how_a_manager_came_to_own_something() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let wrong = json!({"metadata": {"managedFields": [{"manager": "z", "operation": "Foo"}]}});
    let refused = server.patch(&path, "merge-patch+json", wrong).await;
    let message = refused.refused(422, "Invalid");
    assert!(message.contains("metadata.managedFields[0].operation"), "{message}");
    // This is how the record is dropped.
    let reset = json!({"metadata": {"managedFields": [{}]}});
    let dropped = server.patch(&path, "merge-patch+json", reset).await.ok();
    assert!(dropped["metadata"].get("managedFields").is_none(), "{dropped}");
}

#[tokio::test]
async fn quantities_are_kept_in_one_form() {
    let server = Server::start().await;
    let mut object = pod("web");
    object["spec"]["containers"][0]["resources"] = json!({
        "limits": {"cpu": "1000m", "memory": "1024Ki"},
        "requests": {"cpu": ".5", "memory": "+1"},
    });
    let created = server.post(PODS, object).await.ok();
    let resources = &created["spec"]["containers"][0]["resources"];
    let limits = json!({"cpu": "1", "memory": "1Mi"});
    assert_eq!(resources["limits"], limits);
    assert_eq!(resources["requests"]["cpu"], "500m");
    assert_eq!(resources["requests"]["memory"], "1");
}

#[tokio::test]
async fn nobody_acts_as_somebody_else() {
    let server = Server::start().await;
    let mut as_other = request(Method::GET, CONFIG_MAPS, None, Body::empty());
    as_other.headers_mut().insert("Impersonate-User", "jane".parse().unwrap());
    let answer = server.send(as_other).await;
    assert!(answer.refused(403, "Forbidden").contains("not supported"));
}

#[tokio::test]
async fn the_root_tells_where_there_is_something() {
    let server = Server::start().await;
    let paths = server.get("/").await.ok()["paths"].to_string();
    for path in ["/api/v1", "/apis/apps/v1", "/readyz", "/openapi/v3", "/apis/metrics.k8s.io"] {
        assert!(paths.contains(&format!("{path:?}")), "{path} is not in {paths}");
    }
}

#[tokio::test]
async fn a_watch_for_less_than_no_time_is_over() {
    let server = Server::start().await;
    let mut watch = server.watch(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=-1")).await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn evictions_of_years_ago_are_understood() {
    let server = Server::start().await;
    server.post(PODS, pod("web")).await.ok();
    let eviction = json!({
        "apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "web"},
    });
    let answer = server.post(&format!("{PODS}/web/eviction"), eviction).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
}

#[tokio::test]
async fn a_patch_takes_no_name_away() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, config_map("a", json!({"app": "a"}), json!({}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let removal = json!([{"op": "remove", "path": "/metadata"}]);
    let refused = server.patch(&path, "json-patch+json", removal).await;
    assert!(refused.refused(422, "Invalid").contains("metadata.name: Invalid value"));
    let refused =
        server.patch(&path, "merge-patch+json", json!({"metadata": {"name": null}})).await;
    refused.refused(422, "Invalid");
    assert_eq!(server.get(&path).await.ok()["metadata"]["labels"]["app"], "a");
}

#[tokio::test]
async fn a_namespace_that_is_held_can_be_let_go() {
    let server = Server::start().await;
    let held = json!({"metadata": {"name": "stuck"}, "spec": {"finalizers": ["example.org/hold"]}});
    server.post("/api/v1/namespaces", held).await.ok();
    let path = "/api/v1/namespaces/stuck";
    let deleted = server.delete(path, None).await.ok();
    assert_eq!(deleted["status"]["phase"], "Terminating");
    let body = json!({"metadata": {"name": "stuck"}, "spec": {}});
    server.put(&format!("{path}/finalize"), body).await.ok();
    server.get(path).await.refused(404, "NotFound");
    server.get(&format!("{path}/finalize")).await.refused(405, "MethodNotAllowed");
    let resources = server.get("/api/v1").await.ok()["resources"].to_string();
    assert!(resources.contains("namespaces/finalize"), "{resources}");
}
