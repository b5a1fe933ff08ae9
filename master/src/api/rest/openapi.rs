//! OpenAPI v3: which operations there are and which parameters they take.
//!
//! The documents are made out of the registry. They tell operations, not yet the fields of types:
//! objects are described as objects. `kubectl` reads here that the server validates fields, and so
//! leaves validation to it. For the same reason a patch's content types leave out the strategic
//! merge patch, although it is served: a client that sees it here takes the merge keys of lists out
//! of these documents, and without types there are none; it then falls back to those it has built in.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::registry::Registry;
use crate::api::rest::body::api_version;
use crate::api::rest::discovery::{git_version, group_versions};

/// `/openapi/v3`: where the documents are, each with a hash of what it says.
pub(crate) fn index(registry: &Registry) -> Result<Response, ApiError> {
    let mut paths = Map::new();
    for version in group_versions(registry) {
        let path = path_of(&version);
        let hash = hash(&document(registry, &version));
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    answer(&json!({"paths": paths}))
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`; `path` is what follows `v3/`.
pub(crate) fn versioned(
    registry: &Registry,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let version = group_versions(registry).into_iter().find(|version| path_of(version) == path);
    let version = version.ok_or_else(ApiError::no_such_path)?;
    let document = document(registry, &version);
    let etag = format!("\"{}\"", hash(&document));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known == Some(etag.as_str()) {
        return Ok(http::StatusCode::NOT_MODIFIED.into_response());
    }
    let mut response = answer(&document)?;
    let etag = HeaderValue::from_str(&etag).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::ETAG, etag);
    Ok(response)
}

fn answer(document: &Value) -> Result<Response, ApiError> {
    let json = serde_json::to_vec(document).map_err(ApiError::internal)?;
    let content_type = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, content_type)], json).into_response())
}

fn hash(document: &Value) -> String {
    let digest = Sha256::digest(document.to_string());
    digest.iter().take(16).map(|byte| format!("{byte:02X}")).collect()
}

/// `api/v1`, `apis/discovery.k8s.io/v1`.
fn path_of(group_version: &str) -> String {
    let root = if group_version.contains('/') { "apis" } else { "api" };
    format!("{root}/{group_version}")
}

fn document(registry: &Registry, group_version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for kind in registry.kinds() {
        let resource = kind.resource();
        if api_version(resource) != group_version {
            continue;
        }
        schemas.insert(schema_name(resource), schema(resource));
        let root = path_of(group_version);
        let scope = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("/{root}/{scope}{}", resource.plural);
        paths.insert(collection.clone(), collection_item(resource));
        if resource.namespaced {
            let everywhere = json!({"get": operation(resource, "list", LIST)});
            paths.insert(format!("/{root}/{}", resource.plural), everywhere);
        }
        let object = object_item(resource);
        if resource.status {
            let mut status = object.clone();
            if let Some(item) = status.as_object_mut() {
                item.shift_remove("delete");
            }
            paths.insert(format!("{collection}/{{name}}/status"), status);
        }
        paths.insert(format!("{collection}/{{name}}"), object);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kutter", "version": git_version()},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

fn collection_item(resource: &ResourceInfo) -> Value {
    let mut item = json!({
        "get": operation(resource, "list", LIST),
        "post": with_body(operation(resource, "post", WRITE), resource, OBJECT_TYPES),
        "parameters": path_parameters(resource, false),
    });
    if resource.plural != "namespaces" {
        let all: Vec<&str> = LIST[1..].iter().chain(DELETE).copied().collect();
        item["delete"] = operation(resource, "deletecollection", &all);
    }
    item
}

fn object_item(resource: &ResourceInfo) -> Value {
    json!({
        "get": operation(resource, "get", &["resourceVersion"]),
        "put": with_body(operation(resource, "put", WRITE), resource, OBJECT_TYPES),
        "patch": with_body(operation(resource, "patch", WRITE), resource, PATCH_TYPES),
        "delete": operation(resource, "delete", DELETE),
        "parameters": path_parameters(resource, true),
    })
}

const OBJECT_TYPES: &[&str] = &["application/json", "application/yaml"];
const PATCH_TYPES: &[&str] = &["application/json-patch+json", "application/merge-patch+json"];

fn operation(resource: &ResourceInfo, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters.iter().map(|name| parameter(name, "query")).collect();
    json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(resource),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
    })
}

fn with_body(mut operation: Value, resource: &ResourceInfo, types: &[&str]) -> Value {
    let content: Map<String, Value> = types
        .iter()
        .map(|media_type| {
            let reference = format!("#/components/schemas/{}", schema_name(resource));
            // A JSON patch is a list; the others look like the object.
            let schema = match *media_type {
                "application/json-patch+json" => {
                    json!({"type": "array", "items": {"type": "object"}})
                }
                "application/merge-patch+json" => json!({"type": "object"}),
                _ => json!({"$ref": reference}),
            };
            ((*media_type).to_owned(), json!({"schema": schema}))
        })
        .collect();
    operation["requestBody"] = json!({"required": true, "content": content});
    operation
}

fn path_parameters(resource: &ResourceInfo, named: bool) -> Vec<Value> {
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name", "path"));
    }
    if resource.namespaced {
        parameters.push(parameter("namespace", "path"));
    }
    parameters.push(parameter("pretty", "query"));
    parameters
}

fn parameter(name: &str, place: &str) -> Value {
    let kind = match name {
        "allowWatchBookmarks" | "orphanDependents" | "sendInitialEvents" | "watch" => "boolean",
        "gracePeriodSeconds" | "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    let mut parameter =
        json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}});
    if place == "path" {
        parameter["required"] = json!(true);
    }
    parameter
}

fn gvk(resource: &ResourceInfo) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// `io.k8s.api.core.v1.Pod`
fn schema_name(resource: &ResourceInfo) -> String {
    let group = resource.group.split('.').next().filter(|group| !group.is_empty());
    format!("io.k8s.api.{}.{}.{}", group.unwrap_or("core"), resource.version, resource.kind)
}

fn schema(resource: &ResourceInfo) -> Value {
    json!({
        "type": "object",
        "x-kubernetes-group-version-kind": [gvk(resource)],
    })
}
