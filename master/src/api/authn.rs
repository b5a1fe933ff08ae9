//! Who asks, and whether they may.
//!
//! The TLS layer verifies client certificates and puts an [`Identity`] into the request's
//! extensions; of requests without a certificate, the token of a service account is looked at here.
//! Requests of nobody are refused, except on the few paths open to all.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};

use crate::accounts::Accounts;
use crate::api::error::ApiError;
use crate::api::rest::target::Target;

/// Who a verified client certificate or token names.
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

/// Every service account is in it. Its members may find out what the API is, and who they are.
pub const ACCOUNTS: &str = "system:serviceaccounts";

/// Everybody is in it who is known.
pub const AUTHENTICATED: &str = "system:authenticated";

/// What probes and installers have to reach before they have a certificate.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Headers by which a client asks to be taken for somebody else.
const IMPERSONATION: &str = "impersonate-";

/// Middleware: finds out who comes with a token, where the connection does not tell.
pub(crate) async fn identify(
    State(accounts): State<Accounts>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.extensions().get::<Identity>().is_none()
        && let Some(token) = bearer(request.headers())
    {
        match accounts.authenticate(token).await {
            Ok(identity) => drop(request.extensions_mut().insert(identity)),
            Err(error) => return error.into_response(),
        }
    }
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) =
        headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Where whoever reviews tokens finds the key.
pub(crate) const OPENID_PATHS: [&str; 2] = ["/.well-known/openid-configuration", "/openid/v1/jwks"];
/// Who asks?
const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Until there are roles, service accounts have what Kubernetes gives to each of them: they may find
/// out what the API is, who they are, and who has issued their token.
fn may(identity: &Identity, method: &Method, path: &str) -> bool {
    if identity.is_in(ADMINISTRATORS) {
        return true;
    }
    if !identity.is_in(ACCOUNTS) {
        return false;
    }
    let discovery = || match Target::parse(path) {
        Some(Target::Resource(_)) => false,
        Some(_) => true,
        None => OPENID_PATHS.contains(&path) || path.starts_with("/openapi/"),
    };
    match *method {
        Method::GET | Method::HEAD => discovery(),
        Method::POST => path == WHO_AM_I,
        _ => false,
    }
}

/// Middleware: 401 without an identity, 403 for one that may not use REST.
pub(crate) async fn require_identity(request: Request, next: Next) -> Response {
    let path = request.uri().path().trim_end_matches('/');
    let open = OPEN_PATHS
        .iter()
        .any(|open| path.strip_prefix(open).is_some_and(|r| r.is_empty() || r.starts_with('/')));
    if !open {
        match request.extensions().get::<Identity>() {
            None => return ApiError::unauthorized().into_response(),
            Some(identity) if !may(identity, request.method(), path) => {
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
