//! Every failure of the API as Kubernetes tells it: a `Status` object with the right code, reason,
//! message, and causes.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    ListMeta, Status, StatusCause, StatusDetails,
};
use proto::k8s as k8s_openapi;

use crate::api::field_error::{FieldError, cut};
use crate::api::kinds::ResourceInfo;
use crate::store;

/// A failed API operation, in process or over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Box<StatusDetails>>,
    /// Where a list goes on whose snapshot is gone.
    continue_token: Option<String>,
}

impl ApiError {
    /// An error with a reason out of Kubernetes' list (`metav1.StatusReason`).
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }

    /// 404: there is no such object.
    pub fn not_found(resource: &ResourceInfo, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(resource));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(resource, name)
    }

    /// 409: there is one already.
    pub fn already_exists(resource: &ResourceInfo, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(resource));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(resource, name)
    }

    /// 409: the object is not as the request assumes.
    pub fn conflict(resource: &ResourceInfo, name: &str, why: impl AsRef<str>) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {}",
            qualified(resource),
            why.as_ref()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(resource, name)
    }

    /// 409: an in-process writer's fence no longer holds, for instance because it stopped leading.
    pub fn fenced_off() -> Self {
        let message = "the writer lost the right to write: a fence of its transaction did not hold";
        Self::new(StatusCode::CONFLICT, FENCED_OFF, message)
    }

    /// 422: the object is wrong; every error becomes a cause.
    pub fn invalid(resource: &ResourceInfo, name: &str, errors: &[FieldError]) -> Self {
        // The name may be what is wrong, and of any length.
        let name = &*cut(name);
        let listed: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let told = match listed.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let message = format!("{kind} {name:?} is invalid: {told}");
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        error.details = Some(Box::new(StatusDetails {
            name: non_empty(name),
            group: non_empty(resource.group),
            kind: Some(resource.kind.to_owned()),
            causes: Some(errors.iter().map(FieldError::to_cause).collect()),
            ..StatusDetails::default()
        }));
        error
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 403: not allowed.
    pub fn forbidden(resource: &ResourceInfo, name: &str, why: impl AsRef<str>) -> Self {
        let message = format!("{} {name:?} is forbidden: {}", qualified(resource), why.as_ref());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(resource, name)
    }

    /// 401: nobody known.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 410: the `resourceVersion` or `continue` token is too old; list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// Adds a token with which the list can go on all the same.
    #[must_use]
    pub fn with_continue(mut self, token: String) -> Self {
        self.continue_token = Some(token);
        self
    }

    /// 404 for a path that names nothing.
    pub fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        let mut error = Self::new(StatusCode::NOT_FOUND, "NotFound", message);
        // kubectl looks into the details of a NotFound without asking whether there are any.
        error.details = Some(Box::default());
        error
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// 406: nothing the client accepts can be served.
    pub fn not_acceptable(offered: &str) -> Self {
        let message = format!("only the following media types are accepted: {offered}");
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// 413: the body is larger than allowed.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 415: a body in a form that is not read.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 429: the server has enough to do.
    pub fn too_many_requests() -> Self {
        let message = "too many requests, please try again later";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        error.retry_after(1)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {message}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// 503: may work later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// What a node answered, with the HTTP status that it chose.
    pub fn from_node(code: u16, message: &str) -> Self {
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reason = match code {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::CONFLICT => "Conflict",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            StatusCode::GATEWAY_TIMEOUT => "Timeout",
            _ => "InternalError",
        };
        Self::new(code, reason, message)
    }

    /// 504, with a hint when to try again.
    pub fn timeout(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).retry_after(retry_after_seconds)
    }

    fn retry_after(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// Adds what it is about to `details`.
    #[must_use]
    pub fn about(mut self, resource: &ResourceInfo, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.name = non_empty(name);
        details.group = non_empty(resource.group);
        details.kind = Some(resource.plural.to_owned());
        self
    }

    /// Adds a cause to `details`.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let details = self.details.get_or_insert_default();
        details.causes.get_or_insert_default().push(StatusCause {
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            field: non_empty(field),
        });
        self
    }

    /// The HTTP status.
    pub fn code(&self) -> StatusCode {
        self.code
    }

    /// `NotFound`, `Conflict` …
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether the object exists already.
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// Whether the object changed meanwhile, or a precondition does not hold.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether a fence of the writer did not hold: it has to stop.
    pub fn is_fenced_off(&self) -> bool {
        self.reason == FENCED_OFF
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Status {
        Status {
            code: Some(i32::from(self.code.as_u16())),
            details: self.details.as_deref().cloned(),
            message: Some(self.message.clone()),
            metadata: ListMeta { continue_: self.continue_token.clone(), ..ListMeta::default() },
            reason: Some(self.reason.to_owned()),
            status: Some("Failure".to_owned()),
        }
    }
}

/// Never leaves the process: fences are for controllers and the scheduler.
const FENCED_OFF: &str = "FencedOff";

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        match &error {
            store::Error::Expired { .. } => Self::expired(
                "The provided continue parameter is too old to display a consistent list result.",
            ),
            store::Error::TooLarge { .. } => Self::too_large(error.to_string()),
            store::Error::NoSuchLease(_) => Self::internal(&error),
            store::Error::Unavailable { source, .. } => {
                Self::unavailable(format!("{error}: {source}"))
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = match serde_json::to_vec(&self.to_status()) {
            Ok(body) => body,
            Err(error) => return (self.code, error.to_string()).into_response(),
        };
        let mut response = (self.code, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.details.and_then(|details| details.retry_after_seconds) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// `pods`, `endpointslices.discovery.k8s.io`.
fn qualified(resource: &ResourceInfo) -> String {
    if resource.group.is_empty() {
        resource.plural.to_owned()
    } else {
        format!("{}.{}", resource.plural, resource.group)
    }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
