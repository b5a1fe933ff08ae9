//! Who asks, and whether they may.
//!
//! The TLS layer verifies client certificates and puts an [`Identity`] into the request's
//! extensions; here requests without one are refused, except on the few paths open to all.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::api::error::ApiError;

/// Who a verified client certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The common name: `kubernetes-admin`, `system:node:minion-1` …
    pub user: String,
    /// The organisations: `system:masters`, `system:nodes` …
    pub groups: Vec<String>,
}

/// Members may do everything over REST.
pub const ADMINISTRATORS: &str = "system:masters";

/// Members may use the node service, and only that.
pub const NODES: &str = "system:nodes";

impl Identity {
    /// Whether it belongs to a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What probes and installers have to reach before they have a certificate.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Headers by which a client asks to be taken for somebody else.
const IMPERSONATION: &str = "impersonate-";

/// Middleware: 401 without an identity, 403 for one that may not use REST.
pub(crate) async fn require_identity(request: Request, next: Next) -> Response {
    let path = request.uri().path().trim_end_matches('/');
    let open = OPEN_PATHS
        .iter()
        .any(|open| path.strip_prefix(open).is_some_and(|r| r.is_empty() || r.starts_with('/')));
    if !open {
        match request.extensions().get::<Identity>() {
            None => return ApiError::unauthorized().into_response(),
            Some(identity) if !identity.is_in(ADMINISTRATORS) => {
                let message = format!(
                    "forbidden: User {:?} cannot {} path {path:?}",
                    identity.user,
                    request.method().as_str().to_ascii_lowercase(),
                );
                return ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message).into_response();
            }
            Some(identity) => {
                let as_another = |name: &http::HeaderName| name.as_str().starts_with(IMPERSONATION);
                if request.headers().keys().any(as_another) {
                    // To go on as the administrator would be more than was asked for.
                    let message = format!(
                        "User {:?} cannot impersonate: acting as another user is not supported, \
                         leave out --as and --as-group",
                        identity.user
                    );
                    return ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message)
                        .into_response();
                }
            }
        }
    }
    next.run(request).await
}
