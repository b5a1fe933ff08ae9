//! Request bodies: read within a bound, parsed by their content type.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;

use crate::api::codec::{
    DecodeError, Decoded, Tree, TreeError, parse_json, parse_protobuf, parse_yaml,
};
use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::registry::{AnyKind, AnyObject};
use crate::api::rest::query::FieldValidation;

/// Kubernetes' own limit.
pub(crate) const MAX_BODY: usize = 3 << 20;

/// So much of a body that is too large is read and thrown away: a client that is still sending
/// often does not look at the answer. Beyond it the connection is cut.
const MAX_DISCARDED: usize = 16 << 20;

/// How many warnings an answer carries, and how much text together; clients have limits for headers.
const MAX_WARNINGS: usize = 30;
/// No warning is longer, in characters; what Pod Security has to say of a pod takes hundreds.
const MAX_WARNING: usize = 2000;

/// Reads a body whole.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<usize>().ok());
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).min(MAX_BODY));
    let mut length = 0_usize;
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("the body could not be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > MAX_DISCARDED {
            break;
        }
        if length <= MAX_BODY {
            whole.extend_from_slice(&data);
        }
    }
    if length > MAX_BODY {
        return Err(ApiError::too_large(format!("Request entity too large: limit is {MAX_BODY}")));
    }
    Ok(whole.freeze())
}

/// The content type without parameters; nothing when there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim()).filter(|value| !value.is_empty())
}

/// Parses an object's text.
pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Tree, ApiError> {
    let parsed = match media_type(headers) {
        // Kubernetes reads YAML, too, where a client says nothing; JSON is YAML.
        None | Some("application/json" | "*/*") => parse_json(body),
        Some("application/vnd.kubernetes.protobuf") => parse_protobuf(body),
        Some("application/yaml" | "application/x-yaml" | "text/yaml") => parse_yaml(body),
        Some(other) => {
            return Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json, application/yaml, application/vnd.kubernetes.protobuf \
                 (not {other})"
            )));
        }
    };
    parsed.map_err(|error| refusal(&error))
}

/// 400 for a body that is no tree.
pub(crate) fn refusal(error: &TreeError) -> ApiError {
    ApiError::bad_request(format!("the object provided is unrecognized: {error}"))
}

/// An object out of a client's tree, checked for `apiVersion`, `kind` and unknown fields. Warnings
/// are added to `warnings`.
pub(crate) fn decode(
    kind: &'static dyn AnyKind,
    tree: &Tree,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn AnyObject>, ApiError> {
    let resource = kind.resource();
    check_type(resource, &tree.value)?;
    let Decoded { object, unknown } =
        kind.decode(&tree.value).map_err(|error| undecodable(resource, &error))?;
    let unknown = [tree.unknown.clone(), unknown].concat();
    check_fields(resource, unknown, &tree.duplicates, validation, warnings)?;
    Ok(object)
}

/// Refuses or warns about unknown and duplicate fields.
pub(crate) fn check_fields(
    resource: &ResourceInfo,
    unknown: Vec<String>,
    duplicates: &[String],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    let duplicate = duplicates.iter().map(|path| format!("duplicate field {path:?}"));
    let found: Vec<String> = unknown.chain(duplicate).collect();
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings.extend(found),
        FieldValidation::Strict if found.is_empty() => {}
        FieldValidation::Strict => {
            return Err(ApiError::bad_request(format!(
                "{} strict decoding error: {}",
                cannot_be_handled(resource),
                found.join(", ")
            )));
        }
    }
    Ok(())
}

/// `Pod in version "v1" cannot be handled as a Pod:`
fn cannot_be_handled(resource: &ResourceInfo) -> String {
    format!("{0} in version {1:?} cannot be handled as a {0}:", resource.kind, resource.version)
}

/// 400 for a value of the wrong type, with its path as the cause.
pub(crate) fn undecodable(resource: &ResourceInfo, error: &DecodeError) -> ApiError {
    let message = format!("{} json: {error}", cannot_be_handled(resource));
    ApiError::bad_request(message).with_cause(
        "FieldValueTypeInvalid",
        error.message.clone(),
        &error.path,
    )
}

/// Whether `apiVersion` and `kind` are those of the resource; a client may leave them out.
pub(crate) fn check_type(
    resource: &ResourceInfo,
    tree: &serde_json::Value,
) -> Result<(), ApiError> {
    if !tree.is_object() {
        return Err(ApiError::bad_request(format!(
            "{} json: the body is not an object",
            cannot_be_handled(resource)
        )));
    }
    let api_version = api_version(resource);
    for (field, wanted) in [("apiVersion", api_version.as_str()), ("kind", resource.kind)] {
        match tree.get(field) {
            None | Some(serde_json::Value::Null) => {}
            Some(serde_json::Value::String(stated)) if stated.is_empty() || stated == wanted => {}
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({}) does not match the expected {field} ({wanted})",
                    other.as_str().map_or_else(|| other.to_string(), str::to_owned)
                )));
            }
        }
    }
    Ok(())
}

/// `v1`, `discovery.k8s.io/v1`.
pub(crate) fn api_version(resource: &ResourceInfo) -> String {
    if resource.group.is_empty() {
        resource.version.to_owned()
    } else {
        format!("{}/{}", resource.group, resource.version)
    }
}

/// Puts warnings into an answer's headers, as RFC 7234 has them.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let quoted: String = warning
            .chars()
            .map(|character| if character.is_control() { ' ' } else { character })
            .flat_map(|character| match character {
                '"' | '\\' => vec!['\\', character],
                _ => vec![character],
            })
            .take(MAX_WARNING)
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}
