//! `PUT` on `namespaces/finalize`: says which finalizers of its spec hold a namespace from now on. The
//! cluster does so when it has emptied one; people do so when what holds it will never let go.

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use proto::ObjectKey;
use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::objects::Part;
use crate::api::rest::body;
use crate::api::rest::change::Change;

/// Answers the request.
pub(crate) async fn finalize(
    mut change: Change<'_>,
    key: &ObjectKey,
) -> Result<Response, ApiError> {
    let mut tree = body::parse(&change.headers, &change.body)?.value;
    if let Some(object) = tree.as_object_mut() {
        let spec = object.entry("spec").or_insert(Value::Null);
        if spec.is_null() {
            *spec = json!({});
        }
        // None that are named are none, here.
        if let Some(spec) = spec.as_object_mut() {
            spec.entry("finalizers").or_insert(json!([]));
        }
    }
    change.body = Bytes::from(tree.to_string());
    let json = HeaderValue::from_static("application/json");
    change.headers.insert(header::CONTENT_TYPE, json);
    change.update(key, Part::Spec).await
}
