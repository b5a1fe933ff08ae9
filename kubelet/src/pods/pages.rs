//! The kubelet's own HTTP, for `nodes/NAME/proxy`: it listens nowhere, and answers on the connection
//! of a tunnel.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::k8s::api::core::v1::Pod;
use runtime::ContainerRuntime;
use serde_json::json;
use tracing::debug;

use super::metrics;
use crate::state::StateHandle;
use crate::streams::Connection;

/// Bytes on their way to the tunnel.
const BUFFER: usize = 64 << 10;

/// What is used, for scrapers.
const METRICS: &str = "/metrics/resource";

/// A connection that answers HTTP.
pub(super) fn serve(state: StateHandle, runtime: Arc<dyn ContainerRuntime>) -> Connection {
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let (state, runtime) = (state.clone(), Arc::clone(&runtime));
            async move {
                let (method, path) = (request.method(), request.uri().path());
                let metrics = match path {
                    METRICS => metrics::page(&runtime).await,
                    _ => String::new(),
                };
                let answer = state.read(|state| {
                    answer(method, path, state.all_pods().map(AsRef::as_ref), metrics)
                });
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let served = hyper::server::conn::http1::Builder::new();
        if let Err(error) = served.serve_connection(TokioIo::new(ours), service).await {
            debug!(%error, "a connection to the kubelet's own pages broke");
        }
    });
    Box::pin(theirs)
}

fn answer<'a>(
    method: &Method,
    path: &str,
    pods: impl Iterator<Item = &'a Pod>,
    metrics: String,
) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "text/plain", "ok".into()),
        (&Method::GET | &Method::HEAD, "/pods") => {
            let pods: Vec<&Pod> = pods.collect();
            let list =
                json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
            (StatusCode::OK, "application/json", Bytes::from(list.to_string()))
        }
        (&Method::GET | &Method::HEAD, METRICS) => {
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.into())
        }
        (_, "/healthz" | "/pods" | METRICS) => {
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "405: Method Not Allowed\n".into())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "404 page not found\n".into()),
    };
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
    // Both are constants, so nothing can be wrong with them.
    response.body(Full::new(body)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_its_pods_and_its_health_only() {
        for (method, path, status) in [
            (Method::GET, "/healthz", 200),
            (Method::GET, "/pods", 200),
            (Method::DELETE, "/pods", 405),
            (Method::GET, "/metrics/resource", 200),
            (Method::POST, "/metrics/resource", 405),
            (Method::GET, "/run", 404),
        ] {
            let pod = Pod::default();
            let answer = answer(&method, path, std::iter::once(&pod), String::new());
            assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        }
    }
}
