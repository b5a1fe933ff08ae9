//! Subresources that show a whole object and change a part of it.

use super::*;

const STRATEGIC: &str = "strategic-merge-patch+json";

fn debugger(name: &str) -> Value {
    json!({"name": name, "image": "busybox:1", "stdin": true, "targetContainerName": "main"})
}

#[tokio::test]
async fn ephemeral_containers_are_added_and_nothing_else() {
    let server = Server::start().await;
    server.post(PODS, pod("web")).await.ok();
    let path = format!("{PODS}/web/ephemeralcontainers");
    let patch = |list: Value| json!({"spec": {"ephemeralContainers": list}});
    // As `kubectl debug` does.
    let patched = server.patch(&path, STRATEGIC, patch(json!([debugger("one")]))).await.ok();
    assert_eq!(patched["spec"]["ephemeralContainers"][0]["name"], "one");
    assert_eq!(patched["metadata"]["generation"], 2);
    let managed = patched["metadata"]["managedFields"].as_array().unwrap();
    assert!(managed.iter().any(|entry| entry["subresource"] == "ephemeralcontainers"));
    let mut second = patch(json!([debugger("two")]));
    second["metadata"] = json!({"labels": {"app": "other"}});
    second["spec"]["terminationGracePeriodSeconds"] = json!(1);
    let patched = server.patch(&path, STRATEGIC, second).await.ok();
    assert_eq!(patched["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
    assert_eq!(patched["metadata"]["labels"], json!({"app": "web"}));
    assert_eq!(patched["spec"]["terminationGracePeriodSeconds"], 30);
    assert_eq!(server.get(&path).await.ok(), patched);

    let mut wanted = patched.clone();
    wanted["spec"]["ephemeralContainers"].as_array_mut().unwrap().pop();
    let refused = server.put(&path, wanted).await;
    assert!(refused.refused(422, "Invalid").contains("may not be removed"));
    let mut wanted = patched.clone();
    wanted["spec"]["ephemeralContainers"].as_array_mut().unwrap().push(debugger("three"));
    let refused = server.put(&format!("{PODS}/web"), wanted.clone()).await;
    assert!(refused.refused(422, "Invalid").contains("what differs: ephemeralContainers"));
    let updated = server.put(&path, wanted).await.ok();
    assert_eq!(updated["spec"]["ephemeralContainers"].as_array().unwrap().len(), 3);
    let applied = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"ephemeralContainers": [debugger("four")]},
    });
    let path_of_me = format!("{path}?fieldManager=me");
    let applied = server.patch(&path_of_me, "apply-patch+yaml", applied).await.ok();
    let names = applied["spec"]["ephemeralContainers"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|container| container["name"].as_str().unwrap()).collect();
    assert!(names.len() == 4 && names.contains(&"four"), "{names:?}");

    let mut born = pod("other");
    born["spec"]["ephemeralContainers"] = json!([debugger("one")]);
    let refused = server.post(PODS, born).await;
    assert!(refused.refused(422, "Invalid").contains("cannot be set on create"));
    let none = format!("{PODS}/none/ephemeralcontainers");
    server.patch(&none, STRATEGIC, patch(json!([]))).await.refused(404, "NotFound");
    server.delete(&path, None).await.refused(405, "MethodNotAllowed");
}

#[tokio::test]
async fn a_resize_is_held_to_the_namespaces_limits_and_changes_nothing_else() {
    let server = Server::start().await;
    let sized = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": "2"}});
    let mut born = pod("web");
    born["spec"]["containers"][0]["resources"] = sized("500m");
    server.post(PODS, born).await.ok();
    let path = format!("{PODS}/web/resize");
    let patch = |resources: Value| {
        let container = json!({"name": "main", "image": "other:1", "resources": resources});
        json!({"spec": {"containers": [container]}})
    };
    // As `kubectl patch --subresource resize` does.
    let patched = server.patch(&path, STRATEGIC, patch(sized("1"))).await.ok();
    let container = &patched["spec"]["containers"][0];
    assert_eq!(container["resources"], sized("1"));
    assert_eq!(
        (&container["image"], &patched["metadata"]["generation"]),
        (&json!("demo:1"), &json!(2))
    );
    assert_eq!(server.get(&path).await.ok(), patched);
    let mut wanted = patched.clone();
    wanted["spec"]["containers"][0]["resources"] = sized("1500m");
    let refused = server.put(&format!("{PODS}/web"), wanted.clone()).await;
    assert!(refused.refused(422, "Invalid").contains("what differs: containers"));
    server.put(&path, wanted).await.ok();

    let limits = json!({
        "metadata": {"name": "limits"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "100m"}}]},
    });
    server.post("/api/v1/namespaces/default/limitranges", limits).await.ok();
    server.objects.caches().fresh().await.unwrap();
    let refused = server.patch(&path, STRATEGIC, patch(sized("50m"))).await;
    let message = refused.refused(403, "Forbidden");
    assert!(message.contains("minimum cpu usage per Container is 100m"), "{message}");
    let refused = server.patch(&path, STRATEGIC, patch(json!({"limits": {"cpu": null}}))).await;
    assert!(refused.refused(422, "Invalid").contains("resource limits cannot be removed"));
}
