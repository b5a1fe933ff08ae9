use super::*;

fn configuration(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// `Update kubectl status`: the managers of an object.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let told = |entry: &Value| {
        let part = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", part("operation"), part("manager"), part("subresource"))
            .trim_end()
            .to_owned()
    };
    // Writes of the same second have no order.
    let mut told: Vec<String> = entries.iter().map(told).collect();
    told.sort();
    told
}

#[tokio::test]
async fn applies_creates_and_names_conflicts() {
    let server = Server::start().await;
    let path = |options: &str| format!("{CONFIG_MAPS}/a?{options}");
    let config = configuration("a", json!({"x": "1", "y": "1"}));
    let apply = async |options: &str, config: &Value| {
        server.patch(&path(options), "apply-patch+yaml", config.clone()).await
    };
    let unnamed = apply("force=true", &config).await;
    assert!(unnamed.refused(422, "Invalid").contains("fieldManager: Required value"));
    let dry = apply("fieldManager=one&dryRun=All", &config).await;
    assert_eq!(dry.status, StatusCode::CREATED);
    let created = apply("fieldManager=one", &config).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let created = created.ok();
    assert_eq!(managers(&created), ["Apply one"]);
    let again = apply("fieldManager=one", &config).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(again.ok(), created);

    let other = configuration("a", json!({"x": "2"}));
    let refused = apply("fieldManager=two", &other).await;
    assert_eq!(
        refused.refused(409, "Conflict"),
        "Apply failed with 1 conflict: conflict with \"one\": .data.x"
    );
    let cause = &refused.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldManagerConflict");
    assert_eq!(cause["field"], ".data.x");
    let forced = apply("fieldManager=two&force=true", &other).await.ok();
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    // What was not one's any more stays, what one gave up goes; the empty map is still one's.
    let less = apply("fieldManager=one", &configuration("a", json!({}))).await.ok();
    assert_eq!(less["data"], json!({"x": "2"}));
    assert_eq!(managers(&less), ["Apply one", "Apply two"]);

    let stale = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "resourceVersion": "1"}});
    apply("fieldManager=two", &stale).await.refused(409, "Conflict");
    let mut managed = config.clone();
    managed["metadata"]["managedFields"] = json!([]);
    apply("fieldManager=two", &managed).await.refused(400, "BadRequest");
    apply("fieldManager=two", &configuration("b", json!({}))).await.refused(400, "BadRequest");
    let kindless = json!({"metadata": {"name": "a"}});
    apply("fieldManager=two", &kindless).await.refused(400, "BadRequest");
    let merge = server.patch(&path("force=true"), "merge-patch+json", json!({})).await;
    merge.refused(422, "Invalid");
}

#[tokio::test]
async fn every_client_that_writes_is_on_record() {
    let server = Server::start().await;
    let body = Body::from(pod("web").to_string());
    let mut creation = request(Method::POST, PODS, Some("application/json"), body);
    creation.headers_mut().insert(header::USER_AGENT, "tool/v1.2 (linux)".parse().unwrap());
    let created = server.send(creation).await.ok();
    assert_eq!(managers(&created), ["Update tool"]);
    let fields = &created["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields["f:metadata"], json!({"f:labels": {".": {}, "f:app": {}}}));
    assert!(fields["f:spec"]["f:containers"]["k:{\"name\":\"main\"}"]["f:image"].is_object());
    assert!(fields.get("f:status").is_none());

    let status = json!({"status": {"message": "hello"}});
    let path = format!("{PODS}/web/status?fieldManager=agent");
    let patched = server.patch(&path, "merge-patch+json", status).await.ok();
    assert_eq!(managers(&patched), ["Update agent status", "Update tool"]);
    let path = format!("{PODS}/web?fieldManager=agent");
    let labels = json!({"metadata": {"labels": {"app": "other"}}});
    let patched = server.patch(&path, "merge-patch+json", labels).await.ok();
    assert!(managers(&patched).contains(&"Update agent".to_owned()));
    // Nothing changed, nothing written.
    let labels = json!({"metadata": {"labels": {"app": "other"}}});
    let again = server.patch(&path, "merge-patch+json", labels).await.ok();
    assert_eq!(again, patched);
    // The cluster's own writes keep the record and do not enter it.
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    server.post(&format!("{PODS}/web/binding"), binding).await.ok();
    let bound = server.get(&format!("{PODS}/web")).await.ok();
    assert_eq!(managers(&bound), managers(&patched));
    // A client may drop the record.
    let drop = json!({"metadata": {"managedFields": []}});
    let dropped = server.patch(&path, "merge-patch+json", drop).await.ok();
    assert_eq!(managers(&dropped), Vec::<String>::new());
}

#[tokio::test]
async fn applies_a_part_of_a_pod_and_its_status() {
    let server = Server::start().await;
    let pods = format!("{PODS}/web?fieldManager=one");
    let created = server.patch(&pods, "apply-patch+yaml", pod("web")).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let image = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "main", "image": "demo:2"}]}});
    let path = format!("{PODS}/web?fieldManager=two");
    let refused = server.patch(&path, "apply-patch+yaml", image.clone()).await;
    assert!(
        refused.refused(409, "Conflict").ends_with(".spec.containers[name=\"main\"].image"),
        "{refused:?}"
    );
    let forced = format!("{path}&force=true");
    let forced = server.patch(&forced, "apply-patch+yaml", image).await.ok();
    assert_eq!(forced["spec"]["containers"][0]["image"], "demo:2");

    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"nodeName": "ignored"},
        "status": {"conditions": [{"type": "Mine", "status": "True"}]}});
    let path = format!("{PODS}/web/status?fieldManager=two");
    let applied = server.patch(&path, "apply-patch+yaml", status).await.ok();
    let conditions = applied["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|condition| condition["type"] == "Mine"));
    assert!(applied["spec"].get("nodeName").is_none());
    assert!(managers(&applied).contains(&"Apply two status".to_owned()));
    let missing = format!("{PODS}/none/status?fieldManager=two");
    let body = json!({"apiVersion": "v1", "kind": "Pod", "status": {}});
    server.patch(&missing, "apply-patch+yaml", body).await.refused(404, "NotFound");
}

#[tokio::test]
async fn several_managers_apply_at_once() {
    let server = Server::start().await;
    let applies = (0..16).map(|n| {
        let server = &server;
        let config = configuration("a", json!({(format!("key{n}")): "x"}));
        let path = format!("{CONFIG_MAPS}/a?fieldManager=m{n}");
        async move { server.patch(&path, "apply-patch+yaml", config).await.ok() }
    });
    futures::future::join_all(applies).await;
    let object = server.get(&format!("{CONFIG_MAPS}/a")).await.ok();
    assert_eq!(object["data"].as_object().unwrap().len(), 16);
    assert_eq!(managers(&object).len(), 16);
}

#[tokio::test]
async fn replicas_belong_to_whoever_applied_the_scale() {
    let server = Server::start().await;
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let set = |replicas: Value| {
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": pod("web")["metadata"], "spec": pod("web")["spec"]},
            },
        })
    };
    let (web, scale) = (format!("{sets}/web"), format!("{sets}/web/scale"));
    let apply = async |path: &str, options: &str, config: Value| {
        server.patch(&format!("{path}?{options}"), "apply-patch+yaml", config).await
    };
    let wanted = |replicas: i32| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"},
               "spec": {"replicas": replicas}})
    };
    // A scale makes no object.
    apply(&scale, "fieldManager=scaler", wanted(3)).await.refused(404, "NotFound");
    apply(&web, "fieldManager=owner", set(json!(2))).await.ok();
    let conflict = apply(&scale, "fieldManager=scaler", wanted(3)).await;
    let message = conflict.refused(409, "Conflict");
    assert!(message.contains("conflict with \"owner\": .spec.replicas"), "{message}");
    let dry = apply(&scale, "fieldManager=scaler&force=true&dryRun=All", wanted(3)).await.ok();
    assert_eq!(dry["spec"]["replicas"], 3);
    assert_eq!(server.get(&scale).await.ok()["spec"]["replicas"], 2);

    let scaled = apply(&scale, "fieldManager=scaler&force=true", wanted(3)).await.ok();
    assert_eq!(scaled["kind"], "Scale");
    assert_eq!(scaled["spec"]["replicas"], 3);
    let object = server.get(&web).await.ok();
    assert_eq!(managers(&object), ["Apply owner", "Apply scaler scale"]);
    let fields = object["metadata"]["managedFields"].as_array().unwrap();
    let own = fields.iter().find(|entry| entry["subresource"] == "scale").unwrap();
    assert_eq!(own["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(own["apiVersion"], "apps/v1");
    // Once more is no write.
    apply(&scale, "fieldManager=scaler", wanted(3)).await.ok();
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&server.get(&web).await.ok()), version(&object));
    // Now it is the owner who is in the way, unless it leaves the replicas alone.
    apply(&web, "fieldManager=owner", set(json!(2))).await.refused(409, "Conflict");
    let mut without = set(json!(0));
    without["spec"].as_object_mut().unwrap().remove("replicas");
    let left = apply(&web, "fieldManager=owner", without).await.ok();
    assert_eq!(left["spec"]["replicas"], 3);

    let mut wrong = wanted(-1);
    apply(&scale, "fieldManager=scaler", wrong.clone()).await.refused(422, "Invalid");
    wrong["spec"]["replicaz"] = json!(1);
    let unknown = apply(&scale, "fieldManager=scaler&fieldValidation=Strict", wrong).await;
    assert!(unknown.refused(400, "BadRequest").contains("unknown field \"spec.replicaz\""));
    let mut stale = wanted(5);
    stale["metadata"]["resourceVersion"] = json!("1");
    apply(&scale, "fieldManager=scaler", stale).await.refused(409, "Conflict");
    apply(&scale, "", wanted(5)).await.refused(422, "Invalid");
    let other = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "spec": {"replicas": 5}});
    apply(&scale, "fieldManager=scaler", other).await.refused(400, "BadRequest");
}
