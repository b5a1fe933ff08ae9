//! Patches: JSON patch, merge patch, strategic merge patch.
//!
//! A patch is applied to the JSON tree of the stored object; the result is decoded, checked and
//! written like an object that a client sent whole.

mod json;
pub(crate) mod schema;
mod strategic;

#[cfg(test)]
mod tests;

use http::StatusCode;
use serde_json::Value;

use crate::api::codec::{Tree, parse_json, parse_yaml};
use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::rest::body::refusal;

/// The content types of the patches that are read.
pub(crate) const MEDIA_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    crate::api::rest::apply::MEDIA_TYPE,
];

/// Kubernetes' limit.
const MAX_OPERATIONS: usize = 10_000;

/// A patch, parsed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Tree),
    /// Kubernetes' own: lists of objects are merged by key where the type says so.
    Strategic(Tree),
}

impl Patch {
    /// Parses a patch by its content type.
    pub(crate) fn parse(media_type: Option<&str>, body: &[u8]) -> Result<Self, ApiError> {
        match media_type {
            Some("application/json-patch+json") => {
                let tree = parse_json(body).map_err(|error| refusal(&error))?;
                if let Some(count) =
                    tree.value.as_array().map(Vec::len).filter(|count| *count > MAX_OPERATIONS)
                {
                    return Err(ApiError::too_large(format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got \
                         {count}"
                    )));
                }
                let patch = serde_json::from_value(tree.value).map_err(|error| {
                    ApiError::bad_request(format!("error decoding patch: {error}"))
                })?;
                Ok(Self::Json(patch))
            }
            Some("application/merge-patch+json") => object(body).map(Self::Merge),
            Some("application/strategic-merge-patch+json") => object(body).map(Self::Strategic),
            other => Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 {} (not {})",
                MEDIA_TYPES.join(", "),
                other.unwrap_or("none")
            ))),
        }
    }

    /// Applies the patch. The result carries the fields that the patch gave twice.
    pub(crate) fn apply(
        &self,
        resource: &ResourceInfo,
        mut object: Value,
    ) -> Result<Tree, ApiError> {
        let duplicates = match self {
            Self::Json(patch) => {
                json::apply(&mut object, patch).map_err(|error| unprocessable(&error))?;
                Vec::new()
            }
            Self::Merge(patch) => {
                json_patch::merge(&mut object, &patch.value);
                patch.duplicates.clone()
            }
            Self::Strategic(patch) => {
                strategic::apply(resource.kind, &mut object, &patch.value)
                    .map_err(|error| ApiError::bad_request(error.to_string()))?;
                patch.duplicates.clone()
            }
        };
        Ok(Tree { value: object, duplicates, unknown: Vec::new() })
    }
}

/// Merge patches may be written in YAML, too; JSON is YAML, but has its own, faster parser.
pub(crate) fn object(body: &[u8]) -> Result<Tree, ApiError> {
    let starts_as_json = body.trim_ascii_start().first() == Some(&b'{');
    let parsed = if starts_as_json { parse_json(body) } else { parse_yaml(body) };
    let tree = parsed.map_err(|error| refusal(&error))?;
    if !tree.value.is_object() {
        return Err(ApiError::bad_request("error decoding patch: the patch is not an object"));
    }
    Ok(tree)
}

/// 422: the patch is well formed but does not fit the object.
fn unprocessable(error: &json::PatchError) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", error.to_string())
}
