//! `POST` on `serviceaccounts/token`: a token for an account, as a TokenRequest wants it.

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::api::codec::Decoder;
use crate::api::error::ApiError;
use crate::api::rest::change::Change;
use crate::api::rest::query::{Write, WriteOptions};
use crate::api::rest::{body, render};

/// Answers the request.
pub(crate) async fn create(change: &Change<'_>, key: &ObjectKey) -> Result<Response, ApiError> {
    let answer = change.answer()?;
    let tree = body::parse(&change.headers, &change.body)?;
    let mut request: TokenRequest = Decoder::new()
        .decode(&tree.value)
        .map_err(|error| ApiError::bad_request(format!("TokenRequest: {error}")))?;
    for (stated, of_path, what) in [
        (&request.metadata.name, &key.name, "name"),
        (&request.metadata.namespace, &key.namespace, "namespace"),
    ] {
        if stated.as_ref().is_some_and(|stated| !stated.is_empty() && stated != of_path) {
            return Err(ApiError::bad_request(format!(
                "the {what} of the provided object does not match the {what} sent on the request"
            )));
        }
    }
    let WriteOptions { dry_run, .. } = change.options.writing(Write::Create)?;
    let spec = request.spec.get_or_insert_default();
    let issued = change.api.accounts.issue(key, spec).await?;
    request.metadata.name = Some(key.name.clone());
    request.metadata.namespace = Some(key.namespace.clone());
    request.metadata.creation_timestamp = Some(Time(jiff::Timestamp::now()));
    // What was tried only is of no use.
    let token = if dry_run { String::new() } else { issued.token };
    request.status = Some(TokenRequestStatus {
        token: Some(token),
        expiration_timestamp: Some(Time(issued.expires)),
    });
    render::value(StatusCode::CREATED, &request, answer)
}
