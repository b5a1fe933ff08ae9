//! The REST API over HTTP: paths and verbs of Kubernetes, for every kind alike.
//!
//! ```text
//! authn ─▶ dispatch ─▶ target (what the path means)
//!             ├─▶ discovery, openapi           which kinds there are
//!             ├─▶ list, watch ◀── caches       selection, then rendered as negotiated
//!             ├─▶ change, scale ──▶ writer     decoded, patched
//!             └─▶ log, program, port_forward ──▶ streams   to the pod's node
//! ```

mod accept;
mod account_tokens;
pub(crate) mod apply;
pub(crate) mod body;
mod change;
mod channels;
mod compress;
mod conditional;
mod delete_options;
mod discovery;
mod dispatch;
mod eviction;
mod finalize;
mod health;
mod list;
pub(crate) mod list_options;
mod log;
pub(crate) mod metrics_api;
mod node_leases;
mod openapi;
mod pod_stream;
mod port_forward;
mod program;
pub(crate) mod proxy;
pub(crate) mod query;
mod render;
mod reviews;
mod scale;
mod selection;
mod subresources;
mod table;
pub(crate) mod target;
mod upgrade;
mod watch;
mod watch_socket;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::routing::get;
use axum::{Json, Router};
use http::header;
use tokio_util::sync::CancellationToken;

use crate::accounts::Accounts;
use crate::api::authn;
use crate::api::limits::Governor;
use crate::api::objects::Objects;
use crate::api::rest::metrics_api::Samples;
use crate::api::streams::Streams;

/// What the REST API works with.
#[derive(Clone)]
pub struct Api {
    /// Reads and writes.
    pub objects: Objects,
    /// The way to the nodes, for all that streams.
    pub streams: Arc<dyn Streams>,
    /// Who comes with a token.
    pub accounts: Accounts,
    /// What nodes used when they were asked last.
    pub samples: Arc<Samples>,
    /// Ends watches and streams when the process stops.
    pub shutdown: CancellationToken,
}

/// The REST API. Expects an [`Identity`](crate::api::authn::Identity) in the extensions of every
/// request that came with a verified client certificate.
pub fn router(api: Api) -> Router {
    let documents = openapi::routes(api.objects.registry());
    let governor = Governor::new(api.objects.registry());
    let accounts = api.accounts.clone();
    let [openid, keys] = authn::OPENID_PATHS;
    Router::new()
        .route("/", get(discovery::paths))
        .route("/healthz", get(health::healthz))
        .route("/healthz/{check}", get(health::one_of_healthz))
        .route("/livez", get(health::livez))
        .route("/livez/{check}", get(health::one_of_livez))
        .route("/readyz", get(health::readyz))
        .route("/readyz/{check}", get(health::one_of_readyz))
        .route("/metrics", get(metrics))
        .route(openid, get(openid_configuration))
        .route(keys, get(key_set))
        .route("/version", get(discovery::version))
        // The Python client asks with a slash at the end.
        .route("/version/", get(discovery::version))
        .fallback(dispatch::dispatch)
        .with_state(Served { governor: Arc::new(governor), api: Arc::new(api) })
        .merge(documents)
        .layer(axum::middleware::from_fn(authn::require_identity))
        .layer(axum::middleware::from_fn_with_state(accounts, authn::identify))
}

/// What handlers have at hand.
#[derive(Clone)]
struct Served {
    governor: Arc<Governor>,
    api: Arc<Api>,
}

impl FromRef<Served> for Arc<Governor> {
    fn from_ref(served: &Served) -> Self {
        served.governor.clone()
    }
}

impl FromRef<Served> for Arc<Api> {
    fn from_ref(served: &Served) -> Self {
        served.api.clone()
    }
}

async fn openid_configuration(State(api): State<Arc<Api>>) -> Json<serde_json::Value> {
    Json(api.accounts.openid_configuration())
}

async fn key_set(State(api): State<Arc<Api>>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/jwk-set+json")], api.accounts.key_set().to_string())
}

async fn metrics(
    State(api): State<Arc<Api>>,
    State(governor): State<Arc<Governor>>,
) -> ([(header::HeaderName, &'static str); 1], String) {
    let text = crate::metrics::render(&governor.requests, api.objects.caches());
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text)
}
