//! OpenAPI: which operations there are, which options they take, and what objects are made of.
//!
//! ```text
//! registry ─▶ types, operations ─▶ v3: a document for each group and version
//!                                    └─▶ swagger ─▶ v2: one document of all, JSON
//!                                           └─▶ protobuf: the same for older clients
//! ```
//!
//! Everything is made out of the registry; what is not served is not told. The documents are
//! megabytes, and many clients never ask: they are made when somebody does, piece by piece, and only
//! their compressed form is kept, which is what clients ask for.

mod described;
mod enums;
mod operations;
mod parameters;
mod protobuf;
mod swagger;
mod types;

#[cfg(test)]
mod tests;

use std::io::{self, Read as _, Write};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::api::error::ApiError;
use crate::api::registry::Registry;
use crate::api::rest::compress::takes_gzip;
use crate::api::rest::openapi::described::Described;
use crate::api::rest::openapi::protobuf::Message;
use crate::api::rest::openapi::types::{Types, types};
use crate::api::rest::{accept, conditional, discovery};

/// How the protobuf form is called now; kubectl up to 1.23 says `v2@v1.0`, which is no media type.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const JSON: &str = "application/json";

/// The documents, made when they are asked for.
struct Documents {
    kinds: Vec<Described>,
    /// By group and version: `api/v1`, `apis/apps/v1`.
    v3: OnceCell<Vec<(String, Document)>>,
    v2: OnceCell<Document>,
    v2_protobuf: OnceCell<Document>,
}

/// A document as it is kept.
#[derive(Clone)]
struct Document {
    gzip: Bytes,
    hash: String,
}

/// What serves the documents of all that is served.
pub(crate) fn routes(registry: &Registry) -> Router {
    let documents = Documents {
        kinds: described::all(registry),
        v3: OnceCell::new(),
        v2: OnceCell::new(),
        v2_protobuf: OnceCell::new(),
    };
    let refuse = async || ApiError::method_not_allowed().into_response();
    Router::new()
        .route("/openapi/v2", get(v2).fallback(refuse))
        .route("/openapi/v3", get(index).fallback(refuse))
        .route("/openapi/v3/{*path}", get(versioned).fallback(refuse))
        .with_state(Arc::new(documents))
}

/// `/openapi/v3`: where the documents are, each with a hash of what it says.
async fn index(
    State(documents): State<Arc<Documents>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut paths = Map::new();
    for (path, document) in documents.v3().await? {
        paths.insert(path.clone(), json!({"serverRelativeURL": url_of(path, &document.hash)}));
    }
    let text = json!({"paths": paths}).to_string();
    let document = Document::make(|out| out.write_all(text.as_bytes()))?;
    document.answer(&headers, JSON)
}

fn url_of(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

#[derive(Deserialize)]
struct Wanted {
    hash: Option<String>,
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`
async fn versioned(
    State(documents): State<Arc<Documents>>,
    Path(path): Path<String>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if accept::encoding(&headers)? != accept::Encoding::Json {
        return Err(ApiError::not_acceptable(JSON));
    }
    let found = documents.v3().await?.iter().find(|(known, _)| *known == path);
    let (_, document) = found.ok_or_else(ApiError::no_such_path)?;
    let Some(hash) = wanted.hash.filter(|hash| !hash.is_empty()) else {
        return document.answer(&headers, JSON);
    };
    if hash != document.hash {
        let url = url_of(&path, &document.hash);
        let place = HeaderValue::from_str(&url).map_err(ApiError::internal)?;
        return Ok((StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, place)]).into_response());
    }
    // What is asked for by its hash is always the same.
    let mut response = document.answer(&headers, JSON)?;
    let caching = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, caching);
    Ok(response)
}

/// `/openapi/v2`
async fn v2(
    State(documents): State<Arc<Documents>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ranges = accept::media_ranges(&headers);
    if ranges.is_empty() {
        return documents.v2().await?.answer(&headers, JSON);
    }
    for range in ranges {
        match range.media_type {
            PROTOBUF | PROTOBUF_OLD => {
                return documents.v2_protobuf().await?.answer(&headers, PROTOBUF);
            }
            JSON | "application/*" | "*/*" => {
                return documents.v2().await?.answer(&headers, JSON);
            }
            _ => {}
        }
    }
    Err(ApiError::not_acceptable(&format!("{JSON}, {PROTOBUF}")))
}

impl Documents {
    async fn v3(&self) -> Result<&Vec<(String, Document)>, ApiError> {
        let kinds = self.kinds.clone();
        let make = move || {
            let mut documents = Vec::new();
            for (path, own) in by_version(&kinds) {
                let document = Document::make(|out| write_v3(out, &own, &kinds))?;
                documents.push((path, document));
            }
            Ok(documents)
        };
        self.v3.get_or_try_init(|| in_background(make)).await
    }

    async fn v2(&self) -> Result<&Document, ApiError> {
        let kinds = self.kinds.clone();
        let make = move || Document::make(|out| write_v2(out, &kinds));
        self.v2.get_or_try_init(|| in_background(make)).await
    }

    async fn v2_protobuf(&self) -> Result<&Document, ApiError> {
        let kinds = self.kinds.clone();
        let make = move || Document::make(|out| out.write_all(&v2_message(&kinds).into_bytes()));
        self.v2_protobuf.get_or_try_init(|| in_background(make)).await
    }
}

/// Making a document takes tens of milliseconds, too long for a thread that serves requests.
async fn in_background<T: Send + 'static>(
    make: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(make).await.map_err(ApiError::internal)?
}

impl Document {
    fn make(write: impl FnOnce(&mut Writer) -> io::Result<()>) -> Result<Self, ApiError> {
        let encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut writer = Writer { encoder, hash: Sha256::new() };
        write(&mut writer).map_err(ApiError::internal)?;
        let mut gzip = writer.encoder.finish().map_err(ApiError::internal)?;
        gzip.shrink_to_fit();
        let hash = conditional::hexadecimal(&writer.hash.finalize());
        Ok(Self { gzip: gzip.into(), hash })
    }

    fn answer(
        &self,
        headers: &HeaderMap,
        content_type: &'static str,
    ) -> Result<Response, ApiError> {
        let etag = format!("\"{}\"", self.hash);
        let mut response = if conditional::is_known(headers, &etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if takes_gzip(headers) {
            let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (encoding, self.gzip.clone()).into_response()
        } else {
            let mut text = Vec::new();
            GzDecoder::new(&*self.gzip).read_to_end(&mut text).map_err(ApiError::internal)?;
            text.into_response()
        };
        let head = response.headers_mut();
        head.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        head.insert(header::ETAG, HeaderValue::from_str(&etag).map_err(ApiError::internal)?);
        head.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        Ok(response)
    }
}

/// Compresses and hashes what is written.
struct Writer {
    encoder: GzEncoder<Vec<u8>>,
    hash: Sha256,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.encoder.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// The kinds of each group and version, by the path of their document.
fn by_version(kinds: &[Described]) -> Vec<(String, Vec<Described>)> {
    let mut versions: Vec<(String, Vec<Described>)> = Vec::new();
    for kind in kinds {
        let root = operations::root_of(kind.resource());
        match versions.iter_mut().find(|(known, _)| *known == root) {
            Some((_, own)) => own.push(*kind),
            None => versions.push((root, vec![*kind])),
        }
    }
    versions
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": discovery::git_version()})
}

/// The paths of kinds, one after the other: together they are large.
fn paths(kinds: &[Described]) -> impl Iterator<Item = (String, Value)> {
    kinds.iter().flat_map(|kind| operations::paths(*kind))
}

fn write_v3(out: &mut Writer, own: &[Described], all: &[Described]) -> io::Result<()> {
    write!(out, "{{\"openapi\":\"3.0.0\",\"info\":{},\"paths\":", info())?;
    write_object(out, paths(own))?;
    out.write_all(b",\"components\":{\"schemas\":")?;
    let Types { schemas } = types(own, all);
    write_object(out, schemas)?;
    out.write_all(b"}}")
}

fn write_v2(out: &mut Writer, kinds: &[Described]) -> io::Result<()> {
    write!(out, "{{\"swagger\":\"2.0\",\"info\":{},\"paths\":", info())?;
    write_object(out, paths(kinds).map(|(path, item)| (path, swagger::path_item(&item))))?;
    out.write_all(b",\"definitions\":")?;
    let schemas = types(kinds, kinds).schemas.into_iter();
    write_object(out, schemas.map(|(name, schema)| (name, swagger::schema(&schema))))?;
    out.write_all(b"}")
}

/// `Document`
fn v2_message(kinds: &[Described]) -> Message {
    let mut document = Message::default();
    document.text(1, &json!("2.0"));
    document.message(2, protobuf::info(&info()));
    let mut all = Message::default();
    for (path, item) in paths(kinds) {
        all.entry(2, &path, protobuf::path_item(&swagger::path_item(&item)));
    }
    document.message(8, all);
    let mut definitions = Message::default();
    for (name, schema) in types(kinds, kinds).schemas {
        definitions.entry(1, &name, protobuf::schema(&swagger::schema(&schema)));
    }
    document.message(9, definitions);
    document
}

fn write_object(
    out: &mut Writer,
    entries: impl IntoIterator<Item = (String, Value)>,
) -> io::Result<()> {
    let mut before = "{";
    for (key, value) in entries {
        write!(out, "{before}{}:", Value::String(key))?;
        serde_json::to_writer(&mut *out, &value)?;
        before = ",";
    }
    out.write_all(if before == "{" { b"{}" } else { b"}" })
}
