//! Which kinds there are: how clients find their way without being told.
//!
//! Everything is made out of the registry. What is not served does not appear. The aggregated
//! documents have an `ETag`: clients keep them on disk and ask whether they are still true.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::registry::Registry;
use crate::api::rest::Api;
use crate::api::rest::accept::{self, Answer, MediaRange, Shape};
use crate::api::rest::conditional;
use crate::api::rest::metrics_api;
use crate::api::rest::render;
use crate::api::rest::reviews;
use crate::api::rest::subresources::{subresources, verbs};
use crate::api::rest::target::Target;

/// The version of Kubernetes whose types and behaviour are served.
const KUBERNETES: (&str, &str) = ("1", "37");

/// The version by which clients know what to expect of a server.
pub(crate) fn git_version() -> String {
    let (major, minor) = KUBERNETES;
    format!("v{major}.{minor}.0+kutter-{}", env!("CARGO_PKG_VERSION"))
}

/// Answers `/`: where there is something.
pub(crate) async fn paths(State(api): State<Arc<Api>>) -> Response {
    let registry = api.objects.registry();
    let fixed = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
    ];
    let more = ["/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"];
    let mut paths: Vec<String> = fixed.iter().chain(&more).map(ToString::to_string).collect();
    for group in groups(registry) {
        paths.push(format!("/apis/{group}"));
        let versions = versions(registry, group).into_iter();
        paths.extend(versions.map(|version| format!("/apis/{group}/{version}")));
    }
    paths.sort_unstable();
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (json, json!({"paths": paths}).to_string()).into_response()
}

/// Answers `/version`.
pub(crate) async fn version() -> Response {
    let (major, minor) = KUBERNETES;
    let version = json!({
        "major": major,
        "minor": minor,
        "gitVersion": git_version(),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    });
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (json, version.to_string()).into_response()
}

/// The architecture by the name that Go, and so every client, gives it.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A discovery document.
pub(crate) fn document(
    registry: &Registry,
    target: &Target,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if matches!(target, Target::CoreVersions | Target::Groups)
        && let Some(version) = aggregated_version(headers)
    {
        let document = aggregated(registry, matches!(target, Target::CoreVersions), version);
        return answer_aggregated(&document, version, headers);
    }
    let answer =
        Answer { encoding: accept::encoding(headers)?, shape: Shape::Plain, pretty: false };
    let document = match target {
        Target::CoreVersions => json!({
            "kind": "APIVersions",
            "versions": versions(registry, ""),
            "serverAddressByClientCIDRs": [],
        }),
        Target::Groups => {
            let groups: Vec<Value> =
                groups(registry).into_iter().map(|name| group(registry, name)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Target::Group { group: name } => {
            let known = groups(registry).into_iter().find(|group| group == name);
            let mut document = group(registry, known.ok_or_else(ApiError::no_such_path)?);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        Target::Resources { group, version } => {
            let kinds = kinds_of(registry, group, version);
            if kinds.is_empty() {
                return Err(ApiError::no_such_path());
            }
            let mut resources: Vec<Value> = kinds.into_iter().flat_map(resources).collect();
            resources.sort_unstable_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
            let group_version =
                if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
            json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": group_version,
                "resources": resources,
            })
        }
        Target::Resource(_) => return Err(ApiError::no_such_path()),
    };
    render::value(StatusCode::OK, &document, answer)
}

/// The groups other than the core one, each once.
fn groups(registry: &Registry) -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = Vec::new();
    for resource in all(registry) {
        let group = resource.group;
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// The versions of a group, each once.
fn versions(registry: &Registry, group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = Vec::new();
    for resource in all(registry) {
        if resource.group == group && !versions.contains(&resource.version) {
            versions.push(resource.version);
        }
    }
    versions
}

fn kinds_of(registry: &Registry, group: &str, version: &str) -> Vec<&'static ResourceInfo> {
    all(registry).filter(|one| one.group == group && one.version == version).collect()
}

/// The kinds that are registered, those that are measured, and those that only answer.
fn all(registry: &Registry) -> impl Iterator<Item = &'static ResourceInfo> + '_ {
    let unstored = metrics_api::MEASURED.iter().chain(&reviews::REVIEWS);
    let measured = unstored.map(|measured| &measured.resource);
    registry.kinds().iter().map(|kind| kind.resource()).chain(measured)
}

fn group(registry: &Registry, name: &str) -> Value {
    let versions: Vec<Value> = versions(registry, name)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// The entries of a kind in an `APIResourceList`: its own, and those of its subresources.
fn resources(resource: &'static ResourceInfo) -> Vec<Value> {
    let mut own = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        own["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        own["categories"] = json!(resource.categories);
    }
    if ![metrics_api::GROUP, reviews::GROUP].contains(&resource.group) {
        own["storageVersionHash"] = json!(storage_version_hash(resource));
    }
    let mut entries = vec![own];
    for sub in subresources(resource) {
        let mut entry = json!({
            "name": format!("{}/{}", resource.plural, sub.name),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": sub.kind,
            "verbs": sub.verbs,
        });
        if (sub.group, sub.version) != (resource.group, resource.version) {
            entry["group"] = json!(sub.group);
            entry["version"] = json!(sub.version);
        }
        entries.push(entry);
    }
    entries
}

/// The version of aggregated discovery that a client prefers over the plain documents.
fn aggregated_version(headers: &HeaderMap) -> Option<&'static str> {
    let wanted = |range: &MediaRange<'_>| {
        let json = range.media_type == "application/json";
        match range.parameter("as") {
            Some("APIGroupDiscoveryList") if json => match range.parameter("v") {
                Some("v2") => Some(Some("v2")),
                Some("v2beta1") => Some(Some("v2beta1")),
                _ => None,
            },
            None if json || range.media_type == "*/*" => Some(None),
            _ => None,
        }
    };
    accept::media_ranges(headers).iter().find_map(wanted).flatten()
}

/// Names what is stored without telling it: a client that migrates stored objects compares it.
fn storage_version_hash(resource: &ResourceInfo) -> String {
    let name = format!("{}/{}/{}", resource.group, resource.version, resource.kind);
    BASE64_STANDARD.encode(&Sha256::digest(name)[..8])
}

/// Everything about the core group, or about all others, in one document.
fn aggregated(registry: &Registry, core: bool, version: &'static str) -> Value {
    let names = if core { vec![""] } else { groups(registry) };
    let items: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let versions: Vec<Value> = versions(registry, name)
                .into_iter()
                .map(|version| {
                    let mut kinds = kinds_of(registry, name, version);
                    kinds.sort_unstable_by_key(|resource| resource.plural);
                    let resources: Vec<Value> =
                        kinds.into_iter().map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn answer_aggregated(
    document: &Value,
    version: &'static str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let text = document.to_string();
    let etag = conditional::etag(text.as_bytes());
    let content_type =
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let mut response = if conditional::is_known(headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let content_type = HeaderValue::from_str(&content_type).map_err(ApiError::internal)?;
        ([(header::CONTENT_TYPE, content_type)], Bytes::from(text)).into_response()
    };
    let head = response.headers_mut();
    head.insert(header::VARY, HeaderValue::from_static("Accept"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    head.insert(header::ETAG, HeaderValue::from_str(&etag).map_err(ApiError::internal)?);
    Ok(response)
}

fn aggregated_resource(resource: &'static ResourceInfo) -> Value {
    let subresources: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sub.verbs,
            })
        })
        .collect();
    let (group, version) = (resource.group, resource.version);
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {"group": group, "version": version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::{Kind as _, Pods, Services};

    #[test]
    fn storage_versions_are_hashed_as_kubernetes_hashes_them() {
        assert_eq!(storage_version_hash(&Pods::RESOURCE), "xPOwRZ+Yhw8=");
        assert_eq!(storage_version_hash(&Services::RESOURCE), "0/CO1lhkEBI=");
    }
}
