//! Tokens of service accounts: made, used, reviewed, and of no use when what they are bound to is gone.

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use super::{Answer, Server};

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/seller";

/// A server with an account, and a pod of it on a node.
async fn with_account() -> Server {
    let server = Server::start().await;
    let account = json!({"metadata": {"name": "seller"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    server.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let pod = json!({"metadata": {"name": "web"}, "spec": {
        "serviceAccountName": "seller", "nodeName": "n1",
        "containers": [{"name": "main", "image": "x"}]
    }});
    let made = server.post("/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    server
}

async fn token(server: &Server, spec: Value) -> Answer {
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec
    });
    server.post(&format!("{ACCOUNT}/token"), request).await
}

async fn with_token(server: &Server, method: Method, path: &str, token: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from("{}"))
        .unwrap();
    server.send(request).await
}

fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    answer.body["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_opens_what_every_account_may_do_and_nothing_else() {
    let server = with_account().await;
    let answer = token(&server, json!({})).await;
    assert_eq!(answer.body["kind"], "TokenRequest");
    assert_eq!(answer.body["spec"]["expirationSeconds"], 3600);
    assert_eq!(
        answer.body["spec"]["audiences"],
        json!(["https://kubernetes.default.svc.cluster.local"])
    );
    let token = text(&answer);
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    for (method, path, status) in [
        (Method::GET, "/api", 200),
        (Method::GET, "/api/v1", 200),
        (Method::GET, "/apis", 200),
        (Method::GET, "/apis/apps/v1", 200),
        (Method::GET, "/openapi/v2", 200),
        (Method::GET, "/openapi/v3", 200),
        (Method::GET, "/version", 200),
        (Method::GET, "/.well-known/openid-configuration", 200),
        (Method::GET, "/openid/v1/jwks", 200),
        (Method::POST, who, 201),
        (Method::GET, "/api/v1/pods", 403),
        (Method::GET, "/api/v1/namespaces/default/secrets", 403),
        (Method::POST, "/api/v1/namespaces/default/pods", 403),
        (Method::DELETE, "/api/v1/nodes/n1", 403),
        (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", 403),
        (Method::POST, &format!("{ACCOUNT}/token"), 403),
        (Method::GET, "/metrics", 403),
        (Method::GET, "/", 403),
    ] {
        let answer = with_token(&server, method.clone(), path, &token).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    let answer = with_token(&server, Method::POST, who, &token).await;
    assert_eq!(
        answer.body["status"]["userInfo"],
        json!({
            "username": "system:serviceaccount:default:seller",
            "groups": [
                "system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"
            ]
        })
    );
    for bad in ["x", "a.b.c", &token[..token.len() - 2]] {
        let answer = with_token(&server, Method::GET, "/api", bad).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{bad}");
    }
}

#[tokio::test]
async fn a_token_goes_with_what_it_is_bound_to() {
    let server = with_account().await;
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web"}});
    let of_pod = text(&token(&server, bound).await);
    let of_account = text(&token(&server, json!({})).await);
    let review =
        |token: &str, audiences: Value| json!({"spec": {"token": token, "audiences": audiences}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = server.post(reviews, review(&of_pod, Value::Null)).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let status = &answer.body["status"];
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:seller");
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["web"]));
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["n1"]));
    let answer = server.post(reviews, review(&of_pod, json!(["vault"]))).await;
    assert_eq!(answer.body["status"]["authenticated"], Value::Null);
    assert!(answer.body["status"]["error"].as_str().unwrap().contains("the token is for"));

    let at_once = json!({"gracePeriodSeconds": 0});
    let pod = "/api/v1/namespaces/default/pods/web";
    server.delete(pod, Some(at_once)).await;
    // A read waits until what went is known.
    assert_eq!(server.get(pod).await.status, StatusCode::NOT_FOUND);
    let get = |token: String| {
        let server = &server;
        async move { with_token(server, Method::GET, "/api", &token).await.status }
    };
    assert_eq!(get(of_pod).await, StatusCode::UNAUTHORIZED);
    assert_eq!(get(of_account.clone()).await, StatusCode::OK);
    server.delete(ACCOUNT, None).await;
    assert_eq!(server.get(ACCOUNT).await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(of_account.clone()).await, StatusCode::UNAUTHORIZED);
    // One of the same name is another account.
    let account = json!({"metadata": {"name": "seller"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    assert_eq!(get(of_account).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_request_for_a_token_keeps_to_the_rules() {
    let server = with_account().await;
    let other = json!({"metadata": {"name": "other"}, "spec": {"nodeName": "n1",
        "containers": [{"name": "main", "image": "x"}]}});
    server.post("/api/v1/namespaces/default/pods", other).await;
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    for (spec, status, told) in [
        (json!({"expirationSeconds": 599}), 422, "less than 10 minutes"),
        (json!({"expirationSeconds": 4_294_967_297_i64}), 422, "larger than 2^32 seconds"),
        (bound("Pod", "none", ""), 404, "pods \"none\" not found"),
        (bound("Pod", "web", "x"), 409, "the UID in the bound object reference (x)"),
        (bound("Pod", "other", ""), 400, "different serviceaccount name"),
        (bound("Service", "web", ""), 400, "cannot bind token to object of type"),
        (bound("Node", "n1", ""), 201, ""),
        (json!({"audiences": ["vault"]}), 201, ""),
    ] {
        let answer = token(&server, spec.clone()).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert_eq!(answer.status, status, "{spec}: {message}");
        assert!(message.contains(told), "{spec}: {message}");
    }
    // For others: of no use here.
    let for_others = text(&token(&server, json!({"audiences": ["vault"]})).await);
    let answer = with_token(&server, Method::GET, "/api", &for_others).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let answer = server.post(&ACCOUNT.replace("seller", "nobody/token"), json!({})).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}
