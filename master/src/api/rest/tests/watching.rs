use super::*;

use bytes::Bytes;

use crate::api::objects::Binding;
use crate::store::{Op, Txn};

fn labelled(name: &str, tier: &str) -> Value {
    config_map(name, json!({"tier": tier}), json!({}))
}

async fn relabel(server: &Server, name: &str, tier: &str) -> Value {
    let patch = json!({"metadata": {"labels": {"tier": tier}}});
    server.patch(&format!("{CONFIG_MAPS}/{name}"), "merge-patch+json", patch).await.ok()
}

async fn version(server: &Server) -> String {
    let list = server.get(CONFIG_MAPS).await.ok();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tells_what_is_there_and_then_what_happens() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, labelled("a", "front")).await.ok();
    let mut watch = server.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(watch.told(1).await, ["ADDED a"]);
    server.post(CONFIG_MAPS, labelled("b", "front")).await.ok();
    relabel(&server, "a", "back").await;
    let deleted = server.delete(&format!("{CONFIG_MAPS}/b"), None).await;
    deleted.ok();
    assert_eq!(watch.told(3).await, ["ADDED b", "MODIFIED a", "DELETED b"]);
}

#[tokio::test]
async fn starts_after_a_version_and_misses_nothing() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, labelled("a", "front")).await.ok();
    let from = version(&server).await;
    server.post(CONFIG_MAPS, labelled("b", "front")).await.ok();
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&timeoutSeconds=1");
    let mut watch = server.watch(&path).await;
    assert_eq!(watch.told(1).await, ["ADDED b"]);
    // Other namespaces and resources are not told.
    server.post("/api/v1/namespaces/kube-system/configmaps", labelled("x", "y")).await.ok();
    server.post(PODS, pod("web")).await.ok();
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn objects_come_into_a_selection_and_go_out_of_it() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, labelled("a", "front")).await.ok();
    server.post(CONFIG_MAPS, labelled("b", "back")).await.ok();
    let path = format!("{CONFIG_MAPS}?watch=true&labelSelector=tier%3Dfront");
    let mut watch = server.watch(&path).await;
    assert_eq!(watch.told(1).await, ["ADDED a"]);
    let moved_out = relabel(&server, "a", "back").await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("a"))
    );
    // As it was when it belonged, of the version that took it out.
    assert_eq!(event["object"]["metadata"]["labels"]["tier"], "front");
    assert_eq!(
        event["object"]["metadata"]["resourceVersion"],
        moved_out["metadata"]["resourceVersion"]
    );
    relabel(&server, "b", "front").await;
    relabel(&server, "a", "side").await;
    server.delete(&format!("{CONFIG_MAPS}/a"), None).await.ok();
    server.delete(&format!("{CONFIG_MAPS}/b"), None).await.ok();
    assert_eq!(watch.told(2).await, ["ADDED b", "DELETED b"]);
}

#[tokio::test]
async fn field_selectors_pick_the_pods_of_a_node() {
    let server = Server::start().await;
    let path = "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1";
    let mut watch = server.watch(path).await;
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        server.post(PODS, pod(name)).await.ok();
        let binding = json!({"target": {"kind": "Node", "name": node}});
        server.post(&format!("{PODS}/{name}/binding"), binding).await.ok();
    }
    let options = json!({"gracePeriodSeconds": 0});
    server.delete(&format!("{PODS}/a"), Some(options)).await.ok();
    assert_eq!(watch.told(2).await, ["ADDED a", "DELETED a"]);
    let mut one = server.watch(&format!("{PODS}/b?watch=true")).await;
    assert_eq!(one.told(1).await, ["ADDED b"]);
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, labelled("a", "front")).await.ok();
    let path = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true\
         &resourceVersionMatch=NotOlderThan"
    );
    let mut watch = server.watch(&path).await;
    assert_eq!(watch.told(1).await, ["ADDED a"]);
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    let meta = &bookmark["object"]["metadata"];
    assert_eq!(meta["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(meta["resourceVersion"], json!(version(&server).await));
    server.post(CONFIG_MAPS, labelled("b", "front")).await.ok();
    assert_eq!(watch.told(1).await, ["ADDED b"]);
    let without = format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true");
    server.get(&without).await.refused(422, "Invalid");
    let on_list = format!("{CONFIG_MAPS}?sendInitialEvents=true");
    server.get(&on_list).await.refused(422, "Invalid");
}

#[tokio::test]
async fn where_a_watch_begins_is_up_to_the_client() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, labelled("a", "front")).await.ok();
    let watch = |query: &str| format!("{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true{query}");
    // From no version in particular: what is there, and where that ends.
    for query in ["", "&resourceVersion=0"] {
        let mut watch = server.watch(&watch(query)).await;
        assert_eq!(watch.told(2).await, ["ADDED a", "BOOKMARK -"], "{query}");
    }
    let not_older = "&resourceVersionMatch=NotOlderThan";
    let mut only_new = server.watch(&watch(&format!("&sendInitialEvents=false{not_older}"))).await;
    let from = version(&server).await;
    let all = format!("&sendInitialEvents=true&resourceVersion={from}{not_older}");
    let mut all = server.watch(&watch(&all)).await;
    assert_eq!(all.told(2).await, ["ADDED a", "BOOKMARK -"]);
    let mut after = server.watch(&watch(&format!("&resourceVersion={from}"))).await;
    server.post(CONFIG_MAPS, labelled("b", "front")).await.ok();
    for watch in [&mut only_new, &mut all, &mut after] {
        assert_eq!(watch.told(1).await, ["ADDED b"]);
    }
    let wrong = server.get(&watch("&resourceVersion=x")).await;
    let message = wrong.refused(422, "Invalid");
    assert!(
        message.starts_with("configmaps \"\" is invalid: resourceVersion: Invalid value: \"x\""),
        "{message}"
    );
}

#[tokio::test]
async fn a_version_that_is_too_old_gets_410() {
    let store = EmbeddedStore::in_memory().unwrap();
    for _ in 0..3 {
        let key = "/registry/kutter.leader/leader".to_owned();
        let op = Op::Put { key, value: Bytes::from_static(b"me"), lease: None };
        store.txn(Txn { compares: Vec::new(), ops: vec![op] }).await.unwrap();
    }
    // The window reaches back to the start of the caches, not further.
    let server = Server::start_over(Arc::new(store)).await;
    let mut watch = server.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=1")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["code"], 410);
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn tables_and_metadata_can_be_watched() {
    let server = Server::start().await;
    server.post(PODS, pod("web")).await.ok();
    for (accept, kind) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io", "Table"),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "PartialObjectMetadata"),
    ] {
        let mut request = request(Method::GET, &format!("{PODS}?watch=true"), None, Body::empty());
        request.headers_mut().insert(header::ACCEPT, accept.parse().unwrap());
        let response = server.router.clone().oneshot(request).await.unwrap();
        let mut watch = Watch { body: response.into_body(), buffer: Vec::new() };
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "ADDED");
        assert_eq!(event["object"]["kind"], kind);
        if kind == "Table" {
            assert_eq!(event["object"]["rows"][0]["cells"][0], "web");
            assert_eq!(event["object"]["columnDefinitions"][0]["name"], "Name");
        }
    }
}

#[tokio::test]
async fn a_watch_ends_when_the_server_stops() {
    let server = Server::start().await;
    let mut watch = server.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    server.shutdown.cancel();
    assert_eq!(watch.next().await, None);
}

/// As client-go does it: the watch breaks, and goes on after the last version that was seen.
#[tokio::test]
async fn a_watcher_that_reconnects_after_every_event_misses_no_binding() {
    const PODS_BOUND: usize = 60;
    let server = Server::start().await;
    let mut bindings = Vec::new();
    for n in 0..PODS_BOUND {
        let created = server.post(PODS, pod(&format!("p{n}"))).await.ok();
        let uid = created["metadata"]["uid"].as_str().unwrap().to_owned();
        let key = proto::ObjectKey::new("default", format!("p{n}"));
        bindings.push(Binding { pod: key, uid, node: "n1".to_owned() });
    }
    let mut from = version(&server).await;
    let results = server.objects.bind(bindings, &[]).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < PODS_BOUND {
        let mut watch = server.watch(&format!("{PODS}?watch=true&resourceVersion={from}")).await;
        let event = watch.next().await.expect("there is more to tell");
        let object = &event["object"];
        assert_eq!(event["type"], "MODIFIED", "{event}");
        assert_eq!(object["spec"]["nodeName"], "n1");
        assert!(seen.insert(object["metadata"]["name"].to_string()), "told twice: {object}");
        from = object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    }
    assert_eq!(from, version(&server).await);
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off_and_the_others_are_not() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, labelled("a", "t0")).await.ok();
    let from = version(&server).await;
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}");
    let mut slow = server.watch(&path).await;
    let mut quick = server.watch(&path).await;
    // More than the cache queues for one subscriber.
    const CHANGES: usize = 4200;
    let reader = async {
        for _ in 0..CHANGES {
            assert_eq!(quick.next().await.unwrap()["type"], "MODIFIED");
        }
    };
    let writer = async {
        for n in 0..CHANGES {
            relabel(&server, "a", &format!("t{}", n + 1)).await;
        }
    };
    tokio::join!(reader, writer);
    let mut seen = 0;
    while slow.next().await.is_some() {
        seen += 1;
    }
    assert!(seen < CHANGES, "{seen}");
}
