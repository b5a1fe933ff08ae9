//! `POST` on `pods/eviction`: asks a pod to go, as draining a node does. Nothing here objects to it;
//! it is a deletion with the options that come with it.

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::api::codec::Decoder;
use crate::api::error::ApiError;
use crate::api::rest::change::Change;
use crate::api::rest::delete_options::delete_options;
use crate::api::rest::query::{Write, WriteOptions};
use crate::api::rest::{body, render};

/// Answers the request.
pub(crate) async fn evict(change: &Change<'_>, key: &ObjectKey) -> Result<Response, ApiError> {
    let answer = change.answer()?;
    let mut tree = body::parse(&change.headers, &change.body)?;
    let version = tree.value.get("apiVersion").and_then(serde_json::Value::as_str);
    // Clients of some years ago speak the first form, which has the same fields.
    if !matches!(version, None | Some("" | "policy/v1" | "policy/v1beta1")) {
        let version = version.unwrap_or_default();
        return Err(ApiError::bad_request(format!("{version} has no Eviction: use policy/v1")));
    }
    if let Some(object) = tree.value.as_object_mut() {
        object.shift_remove("apiVersion");
    }
    let eviction: Eviction = Decoder::new()
        .decode(&tree.value)
        .map_err(|error| ApiError::bad_request(format!("Eviction: {error}")))?;
    if eviction.metadata.name.as_ref().is_some_and(|name| !name.is_empty() && *name != key.name) {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let namespace = eviction.metadata.namespace.as_deref().unwrap_or_default();
    if !namespace.is_empty() && namespace != key.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    // The request creates an eviction, and its query says how to create.
    let WriteOptions { dry_run, .. } = change.options.writing(Write::Create)?;
    let stated = eviction.delete_options.unwrap_or_default();
    let mut options = delete_options(&stated)?;
    options.dry_run |= dry_run;
    change.api.objects.writer().delete(change.kind, key, options).await?;
    let status = Status { status: Some("Success".to_owned()), ..Status::default() };
    render::value(StatusCode::CREATED, &status, answer)
}
