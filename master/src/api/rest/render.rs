//! Objects and lists in the form that was negotiated. Where that is plain JSON the stored bytes are
//! sent as they are.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::registry::AnyKind;
use crate::api::rest::accept::{Answer, Encoding, Shape};
use crate::api::rest::body::api_version;
use crate::api::rest::table;
use crate::cache::CachedObject;

/// Pieces of a list are sent together up to about this size: few writes, little memory.
const CHUNK: usize = 64 * 1024;

/// What stands in a list's `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListMeta {
    pub(crate) resource_version: String,
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub(crate) continue_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remaining_item_count: Option<usize>,
}

/// An answer with one object.
pub(crate) fn object(
    status: StatusCode,
    kind: &'static dyn AnyKind,
    json: Bytes,
    answer: Answer,
) -> Result<Response, ApiError> {
    let body = match answer.shape {
        Shape::Plain => kind.told(&json).map_err(ApiError::internal)?,
        Shape::Partial => partial(&json)?.into(),
        Shape::Table(include) => {
            let meta =
                ListMeta { resource_version: resource_version(&json)?, ..ListMeta::default() };
            let mut body = table::head(kind, &meta)?;
            body.extend_from_slice(&table::row(kind, &json, include, jiff::Timestamp::now())?);
            body.extend_from_slice(table::TAIL);
            body.into()
        }
    };
    encoded(status, body, answer)
}

/// An answer with any JSON.
pub(crate) fn encoded(
    status: StatusCode,
    json: Bytes,
    answer: Answer,
) -> Result<Response, ApiError> {
    let body = match answer {
        Answer { encoding: Encoding::Json, pretty: false, .. } => json,
        Answer { encoding, .. } => recoded(&json, encoding)?,
    };
    let content_type = HeaderValue::from_static(answer.encoding.content_type());
    Ok((status, [(header::CONTENT_TYPE, content_type)], body).into_response())
}

/// An answer with a value of the machinery's own.
pub(crate) fn value(
    status: StatusCode,
    value: &impl Serialize,
    answer: Answer,
) -> Result<Response, ApiError> {
    let json = serde_json::to_vec(value).map_err(ApiError::internal)?;
    encoded(status, json.into(), answer)
}

fn recoded(json: &[u8], encoding: Encoding) -> Result<Bytes, ApiError> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
    match encoding {
        Encoding::Yaml => {
            serde_yaml::to_string(&value).map(Bytes::from).map_err(ApiError::internal)
        }
        Encoding::Json => {
            let mut text = serde_json::to_vec_pretty(&value).map_err(ApiError::internal)?;
            text.push(b'\n');
            Ok(text.into())
        }
    }
}

/// An answer with a list, streamed: beside the cached objects only a chunk is held in memory.
pub(crate) fn list(
    kind: &'static dyn AnyKind,
    meta: &ListMeta,
    objects: Vec<Arc<CachedObject>>,
    answer: Answer,
) -> Result<Response, ApiError> {
    let (head, tail) = match answer.shape {
        Shape::Table(_) => (table::head(kind, meta)?, table::TAIL),
        Shape::Plain => (list_head(kind.resource(), meta)?, &b"]}\n"[..]),
        Shape::Partial => {
            let partial = ResourceInfo {
                group: "meta.k8s.io",
                version: "v1",
                kind: "PartialObjectMetadata",
                ..*kind.resource()
            };
            (list_head(&partial, meta)?, &b"]}\n"[..])
        }
    };
    let chunks = Chunks {
        kind,
        answer,
        now: jiff::Timestamp::now(),
        buffer: BytesMut::from(&head[..]),
        objects: objects.into_iter(),
        first: true,
        tail: Some(tail),
    };
    if answer.encoding == Encoding::Json && !answer.pretty {
        let content_type = HeaderValue::from_static(answer.encoding.content_type());
        let body = Body::from_stream(futures::stream::iter(chunks));
        return Ok(([(header::CONTENT_TYPE, content_type)], body).into_response());
    }
    let mut whole = BytesMut::new();
    for chunk in chunks {
        whole.extend_from_slice(&chunk.map_err(ApiError::internal)?);
    }
    encoded(StatusCode::OK, whole.freeze(), answer)
}

fn list_head(resource: &ResourceInfo, meta: &ListMeta) -> Result<Vec<u8>, ApiError> {
    let meta = serde_json::to_string(meta).map_err(ApiError::internal)?;
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        resource.kind,
        api_version(resource)
    );
    Ok(head.into_bytes())
}

/// The pieces of a list.
struct Chunks {
    kind: &'static dyn AnyKind,
    answer: Answer,
    now: jiff::Timestamp,
    buffer: BytesMut,
    objects: std::vec::IntoIter<Arc<CachedObject>>,
    first: bool,
    tail: Option<&'static [u8]>,
}

impl Chunks {
    fn push(&mut self, object: &CachedObject) -> Result<(), ApiError> {
        if !self.first {
            self.buffer.put_u8(b',');
        }
        self.first = false;
        match self.answer.shape {
            Shape::Plain => {
                let json = self.kind.told(&object.json).map_err(ApiError::internal)?;
                self.buffer.extend_from_slice(&json);
            }
            Shape::Partial => self.buffer.extend_from_slice(&partial(&object.json)?),
            Shape::Table(include) => {
                let row = table::row(self.kind, &object.json, include, self.now)?;
                self.buffer.extend_from_slice(&row);
            }
        }
        Ok(())
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, io::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.buffer.len() < CHUNK {
            let Some(object) = self.objects.next() else {
                if let Some(tail) = self.tail.take() {
                    self.buffer.extend_from_slice(tail);
                }
                break;
            };
            if let Err(error) = self.push(&object) {
                // The status line is gone: all that is left is to break the body off.
                tracing::error!(key = %object.key, %error, "cannot render a stored object");
                self.tail = None;
                self.objects = Vec::new().into_iter();
                return Some(Err(io::Error::other(error)));
            }
        }
        let chunk = self.buffer.split().freeze();
        (!chunk.is_empty()).then_some(Ok(chunk))
    }
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(json: &[u8]) -> Result<Vec<u8>, ApiError> {
    let OnlyMetadata { metadata } = serde_json::from_slice(json).map_err(ApiError::internal)?;
    let mut out = Vec::with_capacity(metadata.get().len() + 80);
    out.extend_from_slice(
        b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
    );
    out.extend_from_slice(metadata.get().as_bytes());
    out.push(b'}');
    Ok(out)
}

/// `metadata.resourceVersion` of an object.
pub(crate) fn resource_version(json: &[u8]) -> Result<String, ApiError> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(rename = "resourceVersion", default)]
        resource_version: String,
    }
    let object: Object = serde_json::from_slice(json).map_err(ApiError::internal)?;
    Ok(object.metadata.resource_version)
}
