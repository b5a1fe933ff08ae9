//! Making join tokens: `POST /kutter/v1/tokens`, for administrators.
//!
//! `master token create` goes through a running master because the embedded store is open in that
//! process only; it authenticates with the administrator's kubeconfig of the data directory.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::api::authn;
use crate::api::error::ApiError;
use crate::pki::Tokens;

/// Where tokens are made.
pub const PATH: &str = "/kutter/v1/tokens";
/// A token that is good for longer than this is a password.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const BODY_LIMIT: usize = 4096;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// For how long it shall be good.
    pub ttl_seconds: u64,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenResponse {
    /// `ID.SECRET.CAHASH`
    pub token: String,
}

/// The route, for administrators only.
pub fn router(tokens: Tokens) -> Router {
    Router::new()
        .route(PATH, post(create))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(axum::middleware::from_fn(authn::require_identity))
        .with_state(tokens)
}

async fn create(State(tokens): State<Tokens>, Json(request): Json<TokenRequest>) -> Response {
    let ttl = Duration::from_secs(request.ttl_seconds);
    if ttl.is_zero() || ttl > MAX_TTL {
        let message = format!(
            "a token is good for a second at least and {} days at most",
            MAX_TTL.as_secs() / 86400
        );
        return ApiError::bad_request(message).into_response();
    }
    match tokens.create(ttl).await {
        Ok(token) => (StatusCode::CREATED, Json(TokenResponse { token })).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}
