use super::*;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn with_config_maps() -> Server {
    let server = Server::start().await;
    server.post("/api/v1/namespaces", json!({"metadata": {"name": "default-b"}})).await.ok();
    for (name, labels) in [
        ("a", json!({"tier": "front", "app": "web"})),
        ("b", json!({"tier": "back"})),
        ("c", json!({"tier": "back", "app": "db"})),
        ("d", json!({})),
    ] {
        server.post(CONFIG_MAPS, config_map(name, labels, json!({"k": name}))).await.ok();
    }
    let other = "/api/v1/namespaces/default-b/configmaps";
    server.post(other, config_map("e", json!({"tier": "back"}), json!({}))).await.ok();
    server
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn lists_what_labels_and_fields_select() {
    let server = with_config_maps().await;
    let cases = [
        ("", "a b c d"),
        ("?labelSelector=tier%3Dback", "b c"),
        ("?labelSelector=tier%20in%20(front%2Cback)%2Capp", "a c"),
        ("?labelSelector=tier%20notin%20(back)", "a d"),
        ("?labelSelector=!tier", "d"),
        ("?labelSelector=app!%3Dweb", "b c d"),
        ("?fieldSelector=metadata.name%3Db", "b"),
        ("?fieldSelector=metadata.name!%3Db,metadata.namespace%3Ddefault", "a c d"),
        ("?fieldSelector=metadata.namespace%3Dother", ""),
    ];
    for (query, expected) in cases {
        let list = server.get(&format!("{CONFIG_MAPS}{query}")).await.ok();
        assert_eq!(list["kind"], "ConfigMapList");
        assert_eq!(list["apiVersion"], "v1");
        assert_eq!(names(&list).join(" "), expected, "{query}");
        assert!(list["metadata"]["resourceVersion"].is_string());
    }
    let all = server.get("/api/v1/configmaps").await.ok();
    assert_eq!(names(&all).len(), 5);
    let unknown = server.get(&format!("{CONFIG_MAPS}?fieldSelector=data.k%3Da")).await;
    assert_eq!(unknown.refused(400, "BadRequest"), "field label not supported: data.k");
    server.get(&format!("{CONFIG_MAPS}?labelSelector=a%20b")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn items_of_a_list_are_the_bytes_that_a_get_answers() {
    let server = with_config_maps().await;
    let one = server.get(&format!("{CONFIG_MAPS}/c")).await.ok();
    let list = server.get(CONFIG_MAPS).await.ok();
    assert_eq!(list["items"][2], one);
}

#[tokio::test]
async fn pages_are_one_consistent_snapshot() {
    let server = with_config_maps().await;
    let path = "/api/v1/configmaps?limit=2";
    let first = server.get(path).await.ok();
    // In the order of the store's keys, in which the namespace default-b comes before default.
    assert_eq!(names(&first), ["e", "a"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What happens meanwhile is not seen.
    server.delete(&format!("{CONFIG_MAPS}/b"), None).await.ok();
    server.post(CONFIG_MAPS, config_map("bb", json!({}), json!({}))).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{path}&continue={token}")).await.ok();
    assert_eq!(names(&second), ["b", "c"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{path}&continue={token}")).await.ok();
    assert_eq!(names(&third), ["d"]);
    assert!(third["metadata"].get("continue").is_none());
    assert!(third["metadata"].get("remainingItemCount").is_none());
    // With a selector nobody has counted.
    let selected = server.get(&format!("{path}&fieldSelector=metadata.name!%3Dx")).await.ok();
    assert!(selected["metadata"]["continue"].is_string());
    assert!(selected["metadata"].get("remainingItemCount").is_none());
    let more = selected["metadata"]["continue"].as_str().unwrap();
    let more = format!("{path}&fieldSelector=metadata.name!%3Dx&continue={more}");
    let more = server.get(&more).await.ok();
    assert!(more["metadata"]["continue"].is_string());
    assert!(more["metadata"].get("remainingItemCount").is_none());
    server.get(&format!("{path}&continue=bogus")).await.refused(400, "BadRequest");

    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{CONFIG_MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(names(&server.get(&exact).await.ok()), ["a", "b", "c", "d"]);
    let page = server.get(&format!("{exact}&limit=1")).await.ok();
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    let next = page["metadata"]["continue"].as_str().unwrap();
    let page = server.get(&format!("{CONFIG_MAPS}?limit=1&continue={next}")).await.ok();
    assert_eq!((names(&page), &page["metadata"]["remainingItemCount"]), (vec!["b"], &json!(2)));
    server.store.compact(server.store.current_revision().await.unwrap()).await.unwrap();
    server.get(&exact).await.refused(410, "Expired");

    // What is left is given on request, as it is now.
    let expired = server.get(&format!("{path}&continue={token}")).await;
    expired.refused(410, "Expired");
    let fresh = expired.body["metadata"]["continue"].as_str().unwrap();
    assert_ne!(fresh, token);
    server.post(CONFIG_MAPS, config_map("cc", json!({}), json!({}))).await.ok();
    let now = server.get(&format!("/api/v1/configmaps?limit=1&continue={fresh}")).await.ok();
    assert_eq!(names(&now), ["cc"]);
    assert_eq!(now["metadata"]["remainingItemCount"], 1);
    let later: u64 = now["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(later > version.parse().unwrap());
    // From there on it is one snapshot again.
    server.delete(&format!("{CONFIG_MAPS}/d"), None).await.ok();
    let token = now["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{path}&continue={token}")).await.ok();
    assert_eq!(names(&rest), ["d"]);
    assert_eq!(rest["metadata"]["resourceVersion"], now["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn resource_versions_mean_what_kubernetes_says() {
    let server = with_config_maps().await;
    let list = server.get(CONFIG_MAPS).await.ok();
    let version: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    for query in ["resourceVersion=0", &format!("resourceVersion={version}")] {
        assert_eq!(names(&server.get(&format!("{CONFIG_MAPS}?{query}")).await.ok()).len(), 4);
    }
    let future = server.get(&format!("{CONFIG_MAPS}?resourceVersion={}", version + 100)).await;
    assert!(future.refused(504, "Timeout").contains("Too large resource version"));
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    for query in [
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Nearly",
    ] {
        server.get(&format!("{CONFIG_MAPS}?{query}")).await.refused(422, "Invalid");
    }
    let wrong = "resourceVersionMatch=Nearly&sendInitialEvents=true";
    let wrong = server.get(&format!("{CONFIG_MAPS}?{wrong}")).await;
    assert!(
        wrong.refused(422, "Invalid").starts_with("ListOptions.meta.k8s.io \"\" is invalid: [")
    );
    assert_eq!(wrong.body["details"]["causes"].as_array().unwrap().len(), 3);
    // Of a page it is that very version; of all, one that is not older.
    server.delete(&format!("{CONFIG_MAPS}/a"), None).await.ok();
    // Not older may be as old: the cache has to have seen it.
    server.objects.caches().fresh().await.unwrap();
    let path = format!("{CONFIG_MAPS}?resourceVersion={version}");
    assert_eq!(names(&server.get(&path).await.ok()).len(), 3);
    assert_eq!(names(&server.get(&format!("{path}&limit=9")).await.ok()).len(), 4);
    server.get(&format!("{CONFIG_MAPS}?resourceVersion=x")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn tables_have_a_cell_for_every_column() {
    let server = with_config_maps().await;
    server.post(PODS, pod("web")).await.ok();
    for (path, rows) in [(PODS, 1), (CONFIG_MAPS, 4), ("/api/v1/namespaces", 3)] {
        let table = server.get_as(path, TABLE).await.ok();
        assert_eq!(table["kind"], "Table");
        assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
        let found = table["rows"].as_array().unwrap();
        assert_eq!(found.len(), rows);
        for row in found {
            assert_eq!(row["cells"].as_array().unwrap().len(), columns);
            assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
            assert_eq!(row["object"]["metadata"]["name"], row["cells"][0]);
        }
    }
    let one = server.get_as(&format!("{PODS}/web?includeObject=Object"), TABLE).await.ok();
    assert_eq!(one["rows"][0]["object"]["spec"]["containers"][0]["name"], "main");
    let none = server.get_as(&format!("{PODS}?includeObject=None"), TABLE).await.ok();
    assert!(none["rows"][0].get("object").is_none());
}

#[tokio::test]
async fn metadata_alone_can_be_had_and_yaml_and_indented_json() {
    let server = with_config_maps().await;
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = server.get_as(CONFIG_MAPS, partial).await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["apiVersion"], "meta.k8s.io/v1");
    assert!(list["items"][0].get("data").is_none());
    assert_eq!(names(&list), ["a", "b", "c", "d"]);
    let one = format!("{CONFIG_MAPS}/a");
    let yaml = server.get_as(&one, "application/yaml").await;
    assert_eq!(yaml.headers[header::CONTENT_TYPE], "application/yaml");
    let yaml: Value = serde_yaml::from_str(yaml.body.as_str().unwrap()).unwrap();
    assert_eq!(yaml, server.get(&one).await.ok());
    assert_eq!(server.get(&format!("{one}?pretty=true")).await.ok(), yaml);
    server.get_as(&one, "text/html").await.refused(406, "NotAcceptable");
    let protobuf = "application/vnd.kubernetes.protobuf,application/json";
    assert_eq!(server.get_as(&one, protobuf).await.ok(), yaml);
}

#[tokio::test]
async fn discovery_tells_what_is_served() {
    let server = Server::start().await;
    assert_eq!(server.get("/api").await.ok()["versions"], json!(["v1"]));
    let groups = server.get("/apis").await.ok();
    assert_eq!(groups["groups"][0]["preferredVersion"]["groupVersion"], "apps/v1");
    let core = server.get("/api/v1").await.ok();
    let resources = core["resources"].as_array().unwrap();
    let find = |name: &str| resources.iter().find(|resource| resource["name"] == name);
    assert_eq!(find("pods").unwrap()["shortNames"], json!(["po"]));
    assert_eq!(find("pods").unwrap()["storageVersionHash"], "xPOwRZ+Yhw8=");
    let names = resources.iter().map(|resource| resource["name"].as_str().unwrap());
    assert!(names.is_sorted());
    assert_eq!(find("replicationcontrollers/scale").unwrap()["group"], "autoscaling");
    assert!(find("pods/status").is_some() && find("deployments").is_none());
    for group in ["/apis/discovery.k8s.io", "/apis/discovery.k8s.io/v1", "/apis/apps/v1"] {
        server.get(group).await.ok();
    }
    let measured = server.get("/apis/metrics.k8s.io/v1beta1").await.ok();
    assert_eq!(measured["resources"][1]["kind"], "PodMetrics");
    assert_eq!(measured["resources"][1]["verbs"], json!(["get", "list"]));
    assert!(measured["resources"][1].get("storageVersionHash").is_none());
    server.get("/apis/batch/v1").await.refused(404, "NotFound");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                      application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                      application/json";
    let all = server.get_as("/api", aggregated).await;
    assert!(all.headers[header::CONTENT_TYPE].to_str().unwrap().contains("v=v2;"));
    let etag = all.headers[header::ETAG].clone();
    assert_eq!(all.ok()["items"][0]["versions"][0]["version"], "v1");
    let mut again = request(Method::GET, "/api", None, Body::empty());
    again.headers_mut().insert(header::ACCEPT, aggregated.parse().unwrap());
    again.headers_mut().insert(header::IF_NONE_MATCH, etag.clone());
    let again = server.send(again).await;
    assert_eq!((again.status, &again.headers[header::ETAG]), (StatusCode::NOT_MODIFIED, &etag));
    let version = server.get("/version").await.ok();
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1."));
}

#[tokio::test]
async fn openapi_tells_the_operations_and_that_fields_are_validated() {
    let server = Server::start().await;
    let index = server.get("/openapi/v3").await.ok();
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = server.get(url).await;
    let etag = document.headers[header::ETAG].clone();
    assert!(document.headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    let document = document.ok();
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Pod");
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
    let mut again = request(Method::GET, url, None, Body::empty());
    again.headers_mut().insert(header::IF_NONE_MATCH, etag);
    assert_eq!(server.send(again).await.status, StatusCode::NOT_MODIFIED);
    server.get("/openapi/v3/apis/batch/v1").await.refused(404, "NotFound");
    let stale = server.get("/openapi/v3/api/v1?hash=0").await;
    assert_eq!(stale.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(stale.headers[header::LOCATION], url);
    let document = server.get("/openapi/v2").await.ok();
    assert_eq!(document["swagger"], "2.0");
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = server.get_as("/openapi/v2", protobuf).await;
    let content_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!(answer.headers[header::CONTENT_TYPE], content_type);
    server.get_as("/openapi/v2", "text/html").await.refused(406, "NotAcceptable");
}

#[tokio::test]
async fn strangers_get_401_nodes_403_and_probes_an_answer() {
    let server = Server::start().await;
    let with = |path: &str, identity: Option<Identity>| {
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        if let Some(identity) = identity {
            request.extensions_mut().insert(identity);
        }
        server.send(request)
    };
    for path in [PODS, "/api", "/apis", "/nothing", "/healthzz"] {
        with(path, None).await.refused(401, "Unauthorized");
        let node = Identity { user: "system:node:n1".into(), groups: vec!["system:nodes".into()] };
        with(path, Some(node)).await.refused(403, "Forbidden");
    }
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(with(path, None).await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn paths_that_name_nothing_get_a_status() {
    let server = Server::start().await;
    for path in [
        "/api/v2/pods",
        "/api/v1/nothing",
        "/api/v1/pods/web",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/namespaces/default/pods/web/nothing",
        "/api/v1/namespaces/default/configmaps/a/scale",
    ] {
        server.get(path).await.refused(404, "NotFound");
    }
    let created = server.post("/api/v1/configmaps", json!({})).await;
    created.refused(405, "MethodNotAllowed");
}
