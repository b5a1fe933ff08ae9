//! The REST API over HTTP: paths and verbs of Kubernetes, for every kind alike.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::api::authn;
use crate::api::error::ApiError;
use crate::api::objects::Objects;
use crate::api::streams::Streams;

/// What the REST API works with.
#[derive(Clone)]
pub struct Api {
    /// Reads and writes.
    pub objects: Objects,
    /// The way to the nodes, for `log` and `exec`.
    pub streams: Arc<dyn Streams>,
    /// Ends watches and streams when the process stops.
    pub shutdown: CancellationToken,
}

/// The REST API. Expects an [`Identity`](crate::api::authn::Identity) in the extensions of every
/// request that came with a verified client certificate.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .fallback(async || ApiError::no_such_path())
        .layer(axum::middleware::from_fn(authn::require_identity))
        .with_state(Arc::new(api))
}

async fn alive() -> &'static str {
    "ok"
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    match api.objects.caches().fresh().await {
        Ok(_) => "ok".into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}
