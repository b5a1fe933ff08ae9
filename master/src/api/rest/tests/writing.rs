//! Creates, updates and patches of whole objects.

use super::*;

use proto::ObjectKey;

use crate::api::kinds::{Pods, ReplicationControllers};
use crate::api::objects::Part;

#[tokio::test]
async fn creates_gets_updates_and_deletes() {
    let server = Server::start().await;
    let created = server.post(CONFIG_MAPS, config_map("a", json!({}), json!({"k": "1"}))).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let created = created.ok();
    let meta = &created["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert!(meta["uid"].as_str().is_some_and(|uid| uid.len() == 36));
    assert!(meta["creationTimestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert!(meta["resourceVersion"].as_str().is_some());
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(server.get(&path).await.ok(), created);

    let mut wanted = created.clone();
    wanted["data"]["k"] = json!("2");
    let updated = server.put(&path, wanted.clone()).await.ok();
    assert_eq!(updated["data"]["k"], "2");
    assert_eq!(updated["metadata"]["uid"], created["metadata"]["uid"]);
    assert_ne!(updated["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    // The version that it was based on is no longer the newest.
    let stale = server.put(&path, wanted.clone()).await;
    assert!(stale.refused(409, "Conflict").contains("the object has been modified"));
    // Without a version there is nothing to be stale.
    wanted["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    wanted["data"]["k"] = json!("3");
    let updated = server.put(&path, wanted.clone()).await.ok();
    assert_eq!(updated["data"]["k"], "3");
    // Nothing changes but when, by what the client once read, fields changed hands: nothing is written.
    wanted["metadata"]["managedFields"][0]["time"] = json!("2020-01-01T00:00:00Z");
    let same = server.put(&path, wanted).await.ok();
    assert_eq!(same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"]);

    let deleted = server.delete(&path, None).await.ok();
    assert_eq!(deleted["status"], "Success");
    assert_eq!(deleted["details"]["uid"], created["metadata"]["uid"]);
    assert!(
        server.get(&path).await.refused(404, "NotFound").contains("configmaps \"a\" not found")
    );
    server.delete(&path, None).await.refused(404, "NotFound");
}

#[tokio::test]
async fn refuses_a_second_object_of_a_name_and_makes_names_up() {
    let server = Server::start().await;
    let object = config_map("a", json!({}), json!({}));
    server.post(CONFIG_MAPS, object.clone()).await.ok();
    let second = server.post(CONFIG_MAPS, object).await;
    assert_eq!(second.refused(409, "AlreadyExists"), "configmaps \"a\" already exists");
    assert_eq!(second.body["details"]["kind"], "configmaps");
    let nameless = json!({"metadata": {"generateName": "run-"}});
    let made = server.post(CONFIG_MAPS, nameless.clone()).await.ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("run-") && name.len() == 9, "{name}");
    assert_ne!(server.post(CONFIG_MAPS, nameless).await.ok()["metadata"]["name"], name);
}

#[tokio::test]
async fn tells_all_field_errors_at_once() {
    let server = Server::start().await;
    let mut bad = pod("Bad_Name");
    bad["metadata"]["labels"] = json!({"app": "not a value", "-x": "y"});
    bad["metadata"]["finalizers"] = json!(["nonsense"]);
    bad["spec"]["containers"] = json!([{"name": "main"}, {"image": "x"}]);
    let answer = server.post(PODS, bad).await;
    let message = answer.refused(422, "Invalid");
    assert!(message.starts_with("Pod \"Bad_Name\" is invalid: ["), "{message}");
    let causes = answer.body["details"]["causes"].as_array().unwrap();
    let fields: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    for field in
        ["metadata.name", "metadata.labels", "metadata.finalizers[0]", "spec.containers[0].image"]
    {
        assert!(fields.contains(&field), "{field} in {fields:?}");
    }
    assert!(causes.iter().any(|cause| cause["reason"] == "FieldValueRequired"));
    assert!(causes.iter().all(|cause| !cause["message"].as_str().unwrap().is_empty()));
}

#[tokio::test]
async fn names_the_path_of_a_wrong_type_and_of_unknown_fields() {
    let server = Server::start().await;
    let mut wrong = pod("a");
    wrong["spec"]["containers"][0]["ports"] = json!([{"containerPort": "http"}]);
    let answer = server.post(PODS, wrong).await;
    let message = answer.refused(400, "BadRequest");
    assert!(message.contains("spec.containers[0].ports[0].containerPort"), "{message}");
    assert_eq!(
        answer.body["details"]["causes"][0]["field"],
        "spec.containers[0].ports[0].containerPort"
    );

    let mut unknown = pod("a");
    unknown["spec"]["containers"][0]["imagePulPolicy"] = json!("Always");
    let strict = server.post(&format!("{PODS}?fieldValidation=Strict"), unknown.clone()).await;
    let message = strict.refused(400, "BadRequest");
    assert!(
        message.ends_with(
            "strict decoding error: unknown field \"spec.containers[0].imagePulPolicy\""
        ),
        "{message}"
    );
    let warned = server.post(PODS, unknown.clone()).await;
    let warning = warned.headers[header::WARNING].to_str().unwrap().to_owned();
    assert_eq!(warning, "299 - \"unknown field \\\"spec.containers[0].imagePulPolicy\\\"\"");
    assert!(warned.ok()["spec"]["containers"][0].get("imagePulPolicy").is_none());
    unknown["metadata"]["name"] = json!("b");
    let ignored = server.post(&format!("{PODS}?fieldValidation=Ignore"), unknown).await;
    assert!(!ignored.headers.contains_key(header::WARNING));
    ignored.ok();
    let duplicate = r#"{"metadata": {"name": "c"}, "data": {"a": "1", "a": "2"}}"#;
    let path = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let json = Some("application/json");
    let answer = server.send(request(Method::POST, &path, json, Body::from(duplicate))).await;
    assert!(answer.refused(400, "BadRequest").contains("duplicate field \"data.a\""));
}

#[tokio::test]
async fn refuses_bodies_that_are_too_large_or_no_objects() {
    let server = Server::start().await;
    let post = |form: &'static str, body: Vec<u8>| {
        server.send(request(Method::POST, CONFIG_MAPS, Some(form), Body::from(body)))
    };
    let large = format!("{{\"data\": {{\"k\": \"{}\"}}}}", "x".repeat(3 << 20));
    post("application/json", large.into_bytes()).await.refused(413, "RequestEntityTooLarge");
    post("application/json", b"{\"a\": \xff}".to_vec()).await.refused(400, "BadRequest");
    post("application/json", vec![b'['; 100_000]).await.refused(400, "BadRequest");
    post("application/json", b"".to_vec()).await.refused(400, "BadRequest");
    post("application/json", b"[]".to_vec()).await.refused(400, "BadRequest");
    let answer = post("application/vnd.kubernetes.protobuf", b"k8s\0".to_vec()).await;
    assert!(answer.refused(400, "BadRequest").contains("no kind \"\" is registered"));
    post("application/xml", b"<a/>".to_vec()).await.refused(415, "UnsupportedMediaType");
    let yaml = b"metadata:\n  name: from-yaml\ndata:\n  k: v\n".to_vec();
    assert_eq!(post("application/yaml", yaml).await.ok()["data"]["k"], "v");
    let other_kind = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    let answer = server.post(CONFIG_MAPS, other_kind).await;
    assert!(answer.refused(400, "BadRequest").contains("(Secret) does not match"));
}

/// `k8s\0`, the envelope with the type, and in it a Secret with the name `a` and a field 99.
const SECRET_IN_PROTOBUF: &[u8] =
    b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Secret\x12\x14\x0a\x03\x0a\x01a\x12\x0a\x0a\x01k\x12\x05bytes\x98\x06\x07";

#[tokio::test]
async fn reads_protobuf_as_it_reads_json() {
    let server = Server::start().await;
    let post = |query: &str| {
        let path = format!("/api/v1/namespaces/default/secrets{query}");
        let form = Some("application/vnd.kubernetes.protobuf");
        server.send(request(Method::POST, &path, form, Body::from(SECRET_IN_PROTOBUF)))
    };
    let answer = post("?fieldValidation=Strict").await;
    let message = answer.refused(400, "BadRequest");
    assert!(message.ends_with("strict decoding error: unknown field \"99\""), "{message}");
    let answer = post("").await;
    assert_eq!(answer.headers[header::WARNING], "299 - \"unknown field \\\"99\\\"\"");
    let made = answer.ok();
    assert_eq!(made["data"], json!({"k": "Ynl0ZXM="}));
    assert_eq!(made["type"], "Opaque");
}

#[tokio::test]
async fn namespaces_have_to_be_there_and_alive() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/other/configmaps";
    let object = config_map("a", json!({}), json!({}));
    let answer = server.post(path, object.clone()).await;
    assert_eq!(answer.refused(404, "NotFound"), "namespaces \"other\" not found");
    server.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await.ok();
    server.post(path, object).await.ok();

    let gone = server.delete("/api/v1/namespaces/other", None).await.ok();
    assert_eq!(gone["status"]["phase"], "Terminating");
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let answer = server.post(path, config_map("b", json!({}), json!({}))).await;
    let message = answer.refused(403, "Forbidden");
    assert!(message.contains("because it is being terminated"), "{message}");
    assert_eq!(answer.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let answer = server.delete("/api/v1/namespaces/default", None).await;
    answer.refused(403, "Forbidden");

    // The namespace goes when whoever emptied it takes its finalizer off.
    let key = ObjectKey::new("", "other");
    let emptied = server.objects.update::<Namespaces>(&key, Part::Spec, &[], |namespace| {
        namespace.spec.get_or_insert_default().finalizers = Some(Vec::new());
        true
    });
    emptied.await.unwrap();
    server.get("/api/v1/namespaces/other").await.refused(404, "NotFound");
}

#[tokio::test]
async fn patches_in_all_three_forms_and_refuses_others() {
    let server = Server::start().await;
    server.post(PODS, pod("web")).await.ok();
    let path = format!("{PODS}/web");
    let strategic = json!({"spec": {"containers": [{"name": "main", "image": "demo:2"}]}});
    let patched = server.patch(&path, "strategic-merge-patch+json", strategic).await.ok();
    assert_eq!(patched["spec"]["containers"][0]["image"], "demo:2");
    assert_eq!(patched["spec"]["containers"][0]["name"], "main");
    let merge = json!({"metadata": {"labels": {"app": null, "tier": "front"}}});
    let patched = server.patch(&path, "merge-patch+json", merge).await.ok();
    assert_eq!(patched["metadata"]["labels"], json!({"tier": "front"}));
    let operations = json!([
        {"op": "test", "path": "/metadata/labels/tier", "value": "front"},
        {"op": "add", "path": "/metadata/annotations", "value": {"note": "x"}},
    ]);
    let patched = server.patch(&path, "json-patch+json", operations).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["note"], "x");
    let failing = json!([{"op": "test", "path": "/metadata/name", "value": "other"}]);
    server.patch(&path, "json-patch+json", failing).await.refused(422, "Invalid");
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}});
    server.patch(&path, "merge-patch+json", stale).await.refused(409, "Conflict");
    server.patch(&path, "apply-patch+cbor", json!({})).await.refused(415, "UnsupportedMediaType");
    let unknown = json!({"spec": {"nonsense": 1}});
    server
        .patch(&format!("{path}?fieldValidation=Strict"), "merge-patch+json", unknown)
        .await
        .refused(400, "BadRequest");
}

#[tokio::test]
async fn an_update_creates_where_kubernetes_does() {
    let server = Server::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = |name: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "resourceVersion": "7"}, "spec": {"holderIdentity": "a"},
        })
    };
    let path = format!("{leases}/lock");
    let dry = server.put(&format!("{path}?dryRun=All"), lease("lock")).await;
    assert_eq!(dry.status, StatusCode::CREATED);
    server.get(&path).await.refused(404, "NotFound");
    let made = server.put(&path, lease("lock")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_ne!(made.body["metadata"]["resourceVersion"], "7");
    assert!(made.body["metadata"]["uid"].is_string());
    // Then it is written over only by who has read it.
    let mut blind = lease("lock");
    blind["metadata"]["resourceVersion"] = json!("");
    assert_eq!(
        server.put(&path, blind).await.refused(422, "Invalid"),
        "Lease.coordination.k8s.io \"lock\" is invalid: metadata.resourceVersion: Invalid value: 0: \
         must be specified for an update"
    );
    server.put(&path, lease("lock")).await.refused(409, "Conflict");
    server.put(&path, made.body.clone()).await.ok();
    // Neither another name nor another's uid is made.
    server.put(&format!("{leases}/other"), lease("lock")).await.refused(400, "BadRequest");
    let mut dead = lease("other");
    dead["metadata"]["uid"] = json!("x");
    server.put(&format!("{leases}/other"), dead).await.refused(409, "Conflict");
    server.put(&format!("{PODS}/none"), pod("none")).await.refused(404, "NotFound");
    server.put(&format!("{PODS}/none/status"), pod("none")).await.refused(404, "NotFound");
}

#[tokio::test]
async fn moments_that_only_the_server_knows_are_passed_over() {
    let server = Server::start().await;
    let made = server.post(PODS, pod("web")).await.ok();
    let path = format!("{PODS}/web");
    let times = json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}});
    let patched = server.patch(&path, "merge-patch+json", times).await.ok();
    assert_eq!(patched["metadata"], made["metadata"]);
    let gone = json!({"metadata": {"deletionTimestamp": "2001-01-01T00:00:00Z"}});
    let refused = server.patch(&path, "merge-patch+json", gone).await;
    assert!(refused.refused(422, "Invalid").contains("metadata.deletionTimestamp: Invalid value"));
}

#[tokio::test]
async fn addresses_are_claimed_once_and_given_back() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, port: Value| {
        json!({"metadata": {"name": name},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [port]}})
    };
    let free = json!({"port": 80});
    let a = server.post(services, service("a", free.clone())).await.ok();
    let b = server.post(services, service("b", free.clone())).await.ok();
    assert_ne!(a["spec"]["clusterIP"], b["spec"]["clusterIP"]);
    assert_ne!(a["spec"]["ports"][0]["nodePort"], b["spec"]["ports"][0]["nodePort"]);
    let taken = json!({"port": 80, "nodePort": a["spec"]["ports"][0]["nodePort"]});
    server.post(services, service("c", taken.clone())).await.refused(422, "Invalid");
    server.delete(&format!("{services}/a"), None).await.ok();
    server.objects.caches().fresh().await.unwrap();
    server.post(services, service("c", taken)).await.ok();
    // Many at once: each gets its own, or is told that there are none left.
    let concurrent = (0..20).map(|n| {
        let server = &server;
        let mut object = service(&format!("s{n}"), json!({"port": 80}));
        object["spec"]["type"] = json!("ClusterIP");
        async move { server.post(services, object).await.ok() }
    });
    let mut addresses: Vec<String> = futures::future::join_all(concurrent)
        .await
        .iter()
        .map(|service| service["spec"]["clusterIP"].to_string())
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20);
}

#[tokio::test]
async fn a_dry_run_checks_and_writes_nothing() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    let before = server.store.current_revision().await.unwrap();
    let made = server.post(&path, config_map("a", json!({}), json!({}))).await;
    assert_eq!(made.status, StatusCode::CREATED);
    server.post(&path, config_map("A_", json!({}), json!({}))).await.refused(422, "Invalid");
    server.post(&format!("{CONFIG_MAPS}?dryRun=Some"), json!({})).await.refused(422, "Invalid");
    assert_eq!(server.store.current_revision().await.unwrap(), before);
}

#[tokio::test]
async fn in_process_updates_retry_and_concurrent_ones_are_all_counted() {
    let server = Server::start().await;
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let mut object = replication_controller();
    object["spec"]["replicas"] = json!(0);
    server.post(controllers, object).await.ok();
    let key = ObjectKey::new("default", "web");
    let increments = (0..32).map(|_| {
        server.objects.update::<ReplicationControllers>(&key, Part::Spec, &[], |controller| {
            *controller.spec.as_mut().unwrap().replicas.get_or_insert(0) += 1;
            true
        })
    });
    for result in futures::future::join_all(increments).await {
        result.unwrap();
    }
    let counted = server.get(&format!("{controllers}/web")).await.ok();
    assert_eq!(counted["spec"]["replicas"], 32);
    let none = ObjectKey::new("default", "none");
    let nothing = server.objects.update::<Pods>(&none, Part::Status, &[], |_| false);
    assert!(nothing.await.unwrap_err().is_not_found());
}
