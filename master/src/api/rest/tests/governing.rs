//! Health, metrics, and what one client may cost the others.

use super::*;

use crate::store::unreliable::Unreliable;

#[tokio::test]
async fn health_is_told_in_kubernetes_words() {
    let server = Server::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping", "/readyz/etcd", "/livez/ping"] {
        assert_eq!(server.get(path).await.ok(), json!("ok"), "{path}");
    }
    let all = "[+]ping ok\n[+]etcd ok\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check passed\n";
    assert_eq!(server.get("/readyz?verbose").await.ok(), json!(all));
    let part = server.get("/livez?verbose=1&exclude=ping&exclude=no").await.ok();
    let told = "[+]ping excluded: ok\nwarn: some health checks cannot be excluded: no matches for \
        \"no\"\nlivez check passed\n";
    assert_eq!(part, json!(told));
    server.get("/readyz/nothing").await.refused(404, "NotFound");
    server.shutdown.cancel();
    let answer = server.get("/readyz").await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.as_str().unwrap().contains("[-]shutdown failed: reason withheld\n"));
    assert_eq!(server.get("/readyz?exclude=shutdown").await.ok(), json!("ok"));
}

#[tokio::test]
async fn a_store_that_is_gone_makes_it_unready_but_not_dead() {
    let store = Unreliable::new();
    let server = Server::start_over(store.clone()).await;
    store.set_cut(true);
    assert_eq!(server.get("/readyz/etcd").await.status, 500);
    let answer = server.get("/readyz").await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.as_str().unwrap().starts_with("[+]ping ok\n[-]etcd failed"));
    assert_eq!(server.get("/livez").await.ok(), json!("ok"));
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let server = Server::start().await;
    server.post(PODS, pod("web")).await.ok();
    server.get(&format!("{PODS}/none")).await.refused(404, "NotFound");
    let watch = server.watch(&format!("{PODS}?watch=true")).await;
    let text = server.get("/metrics").await.ok();
    let text = text.as_str().unwrap();
    let series = |verb: &str, rest: &str| {
        format!(
            "component=\"apiserver\",group=\"\",version=\"v1\",resource=\"pods\",\
             subresource=\"\",verb=\"{verb}\"{rest}"
        )
    };
    for line in [
        format!("apiserver_request_total{{{}}} 1", series("POST", ",code=\"201\"")),
        format!("apiserver_request_total{{{}}} 1", series("GET", ",code=\"404\"")),
        format!("apiserver_request_duration_seconds_count{{{}}} 1", series("POST", "")),
        format!("apiserver_longrunning_requests{{{}}} 1", series("WATCH", "")),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0".to_owned(),
        "apiserver_resource_objects{resource=\"pods\"} 1".to_owned(),
        "# TYPE scheduler_pending_pods gauge".to_owned(),
        "# TYPE workqueue_depth gauge".to_owned(),
        "# TYPE etcd_request_duration_seconds histogram".to_owned(),
        "# TYPE process_resident_memory_bytes gauge".to_owned(),
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    drop(watch);
    let text = server.get("/metrics").await.ok();
    let ended = format!("apiserver_longrunning_requests{{{}}} 0", series("WATCH", ""));
    assert!(text.as_str().unwrap().contains(&ended));
    // Nobody but those who may ask.
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    server.send(request).await.refused(401, "Unauthorized");
}

#[tokio::test]
async fn a_request_that_takes_too_long_gets_504() {
    let server = Server::start().await;
    let never =
        Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let path = format!("{PODS}?timeout=50ms");
    let answer = server.send(request(Method::POST, &path, Some("application/json"), never)).await;
    let message = answer.refused(504, "Timeout");
    assert!(message.contains("50ms"), "{message}");
    server.get(&format!("{PODS}?timeout=soon")).await.refused(400, "BadRequest");
}

/// Three hundred bodies that never end, of one client; and another client.
#[tokio::test]
async fn a_client_with_many_requests_does_not_shut_out_another() {
    let server = Server::start().await;
    let mut busy = Vec::new();
    let mut refused = 0;
    for _ in 0..2400 {
        let never =
            Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
        let mut request = request(Method::POST, PODS, Some("application/json"), never);
        request.headers_mut().insert(header::CONTENT_LENGTH, 10.into());
        let mut answer = Box::pin(server.router.clone().oneshot(request));
        match futures::poll!(answer.as_mut()) {
            std::task::Poll::Ready(answer) => {
                let answer = answer.unwrap();
                assert_eq!(answer.status(), 429);
                assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
                refused += 1;
            }
            std::task::Poll::Pending => busy.push(answer),
        }
    }
    assert!((50..200).contains(&refused), "{refused}");
    let mut other = request(Method::GET, PODS, None, Body::empty());
    let groups = vec!["system:masters".to_owned()];
    other.extensions_mut().insert(Identity { user: "other".to_owned(), groups });
    let mut other = Box::pin(server.router.clone().oneshot(other));
    assert!(futures::poll!(other.as_mut()).is_pending());
    // One request of the busy one's goes: the seat is the other's.
    drop(busy.remove(0));
    assert_eq!(other.await.unwrap().status(), 200);
}
