//! The REST API as clients see it: requests through the router, over the embedded store in memory.

mod admission;
mod applying;
mod bad_input;
mod deleting;
mod governing;
mod options;
mod parts;
mod proxying;
mod reading;
mod streaming;
mod strictness;
mod subresources;
mod tokens;
mod views;
mod watching;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use futures::StreamExt as _;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use proto::node::OpenTunnel;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::accounts::{Accounts, SigningKey};
use crate::api::authn::Identity;
use crate::api::kinds::{self, ClusterConfig, Namespaces};
use crate::api::objects::Objects;
use crate::api::rest::{Api, router};
use crate::api::streams::{StreamError, Streams, TunnelStream};
use crate::cache::Caches;
use crate::store::EmbeddedStore;
use crate::store::Store;

/// A server of its own for each test.
struct Server {
    router: Router,
    objects: Objects,
    store: Arc<dyn Store>,
    shutdown: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// There are no nodes.
struct NoStreams;

#[async_trait]
impl Streams for NoStreams {
    async fn open(&self, node: &str, _: OpenTunnel) -> Result<TunnelStream, StreamError> {
        Err(StreamError::NotConnected(node.to_owned()))
    }
}

/// An answer, read whole.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

impl Answer {
    /// The `Status` of a refusal.
    #[track_caller]
    fn refused(&self, status: u16, reason: &str) -> &str {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        assert_eq!(self.body["kind"], "Status");
        assert_eq!(self.body["status"], "Failure");
        assert_eq!(self.body["code"], status);
        assert_eq!(self.body["reason"], reason, "{:?}", self.body);
        self.body["message"].as_str().unwrap()
    }

    #[track_caller]
    fn ok(self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.body);
        self.body
    }
}

impl Server {
    async fn start() -> Self {
        Self::start_over(Arc::new(EmbeddedStore::in_memory().unwrap())).await
    }

    /// Over a store with a past.
    async fn start_over(store: Arc<dyn Store>) -> Self {
        let registry = Arc::new(kinds::registry());
        let shutdown = CancellationToken::new();
        let caches = Caches::start(store.clone(), registry.resource_specs(), shutdown.clone())
            .await
            .unwrap();
        let cluster = ClusterConfig {
            service_cidrs: "10.96.0.0/24".parse().unwrap(),
            pod_cidrs: "10.244.0.0/16".parse().unwrap(),
            node_prefixes: Default::default(),
            node_ports: (30000, 30002),
        };
        let objects = Objects::new(store.clone(), caches, registry, cluster);
        for namespace in kinds::namespace::initial() {
            objects.create::<Namespaces>(namespace, &[]).await.unwrap();
        }
        let api = Api {
            objects: objects.clone(),
            streams: Arc::new(NoStreams),
            accounts: accounts(&objects, &*store).await,
            samples: Arc::default(),
            shutdown: shutdown.clone(),
        };
        Self { router: router(api), objects, store, shutdown }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, None, Body::empty())).await
    }

    async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let mut request = request(Method::GET, path, None, Body::empty());
        request.headers_mut().insert(header::ACCEPT, accept.parse().unwrap());
        self.send(request).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        let body = Body::from(body.to_string());
        self.send(request(Method::POST, path, Some("application/json"), body)).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        let body = Body::from(body.to_string());
        self.send(request(Method::PUT, path, Some("application/json"), body)).await
    }

    async fn patch(&self, path: &str, form: &str, body: Value) -> Answer {
        let form = format!("application/{form}");
        self.send(request(Method::PATCH, path, Some(&form), Body::from(body.to_string()))).await
    }

    async fn delete(&self, path: &str, body: Option<Value>) -> Answer {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.send(request(Method::DELETE, path, Some("application/json"), body)).await
    }

    /// Starts a watch; its lines come one by one.
    async fn watch(&self, path: &str) -> Watch {
        let request = request(Method::GET, path, None, Body::empty());
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Watch { body: response.into_body(), buffer: Vec::new() }
    }
}

async fn accounts(objects: &Objects, store: &dyn Store) -> Accounts {
    Accounts::new(objects.clone(), SigningKey::open(store).await.unwrap(), "cluster.local")
}

fn request(method: Method, path: &str, form: Option<&str>, body: Body) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path);
    if let Some(form) = form {
        builder = builder.header(header::CONTENT_TYPE, form);
    }
    let administrator =
        Identity { user: "admin".to_owned(), groups: vec!["system:masters".to_owned()] };
    builder.extension(administrator).body(body).unwrap()
}

struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; nothing when the watch has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let mut data = std::pin::pin!(futures::stream::poll_fn(|context| {
                use http_body::Body as _;
                std::pin::Pin::new(&mut self.body).poll_frame(context)
            }));
            let frame = tokio::time::timeout(Duration::from_secs(10), data.next());
            let frame = frame.await.expect("an event in time")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// The next events as `ADDED web`.
    async fn told(&mut self, count: usize) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..count {
            let event = self.next().await.expect("the watch goes on");
            told.push(format!(
                "{} {}",
                event["type"].as_str().unwrap(),
                event["object"]["metadata"]["name"].as_str().unwrap_or("-")
            ));
        }
        told
    }
}

fn config_map(name: &str, labels: Value, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels}, "data": data,
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "demo:1"}]},
    })
}

fn replication_controller() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"app": "web"}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "demo:1"}]},
        }},
    })
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
