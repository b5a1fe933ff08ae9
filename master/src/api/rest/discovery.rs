//! Which kinds there are: how clients find their way without being told.
//!
//! Everything is made out of the registry. What is not served does not appear.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::registry::{AnyKind, Registry};
use crate::api::rest::accept::{self, Answer, MediaRange, Shape};
use crate::api::rest::body::api_version;
use crate::api::rest::render;
use crate::api::rest::target::Target;

/// The version of Kubernetes whose types and behaviour are served.
const KUBERNETES: (&str, &str) = ("1", "37");

/// The version by which clients know what to expect of a server.
pub(crate) fn git_version() -> String {
    let (major, minor) = KUBERNETES;
    format!("v{major}.{minor}.0+kutter-{}", env!("CARGO_PKG_VERSION"))
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
        return aggregated(registry, matches!(target, Target::CoreVersions), version);
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
            let resources: Vec<Value> = kinds.into_iter().flat_map(resources).collect();
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
    for kind in registry.kinds() {
        let group = kind.resource().group;
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// The versions of a group, each once.
fn versions(registry: &Registry, group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = Vec::new();
    for kind in registry.kinds() {
        let resource = kind.resource();
        if resource.group == group && !versions.contains(&resource.version) {
            versions.push(resource.version);
        }
    }
    versions
}

fn kinds_of(registry: &Registry, group: &str, version: &str) -> Vec<&'static dyn AnyKind> {
    let of = |kind: &&'static dyn AnyKind| {
        let resource = kind.resource();
        resource.group == group && resource.version == version
    };
    registry.kinds().iter().copied().filter(of).collect()
}

fn group(registry: &Registry, name: &str) -> Value {
    let versions: Vec<Value> = versions(registry, name)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// A subresource: its name, the type it speaks, and its verbs.
struct Subresource {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
}

fn subresources(resource: &ResourceInfo) -> Vec<Subresource> {
    let mut all = Vec::new();
    let mut add = |name, group, version, kind, verbs| {
        all.push(Subresource { name, group, version, kind, verbs });
    };
    if resource.plural == "pods" {
        add("binding", "", "v1", "Binding", &["create"][..]);
        add("exec", "", "v1", "PodExecOptions", &["create", "get"]);
        add("log", "", "v1", "Pod", &["get"]);
    }
    if resource.scale {
        add("scale", "autoscaling", "v1", "Scale", &["get", "patch", "update"]);
    }
    if resource.status {
        let own = (resource.group, resource.version, resource.kind);
        add("status", own.0, own.1, own.2, &["get", "patch", "update"]);
    }
    all
}

fn verbs(resource: &ResourceInfo) -> Vec<&'static str> {
    let all = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    // Nobody wants to delete all namespaces at once by accident.
    let has = |verb: &&str| resource.plural != "namespaces" || *verb != "deletecollection";
    all.into_iter().filter(has).collect()
}

/// The entries of a kind in an `APIResourceList`: its own, and those of its subresources.
fn resources(kind: &'static dyn AnyKind) -> Vec<Value> {
    let resource = kind.resource();
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

/// Everything about the core group, or about all others, in one document.
fn aggregated(
    registry: &Registry,
    core: bool,
    version: &'static str,
) -> Result<Response, ApiError> {
    let names = if core { vec![""] } else { groups(registry) };
    let items: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let versions: Vec<Value> = versions(registry, name)
                .into_iter()
                .map(|version| {
                    let kinds = kinds_of(registry, name, version);
                    let resources: Vec<Value> =
                        kinds.into_iter().map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let content_type =
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let content_type = HeaderValue::from_str(&content_type).map_err(ApiError::internal)?;
    let headers =
        [(header::CONTENT_TYPE, content_type), (header::VARY, HeaderValue::from_static("Accept"))];
    Ok((headers, Bytes::from(document.to_string())).into_response())
}

fn aggregated_resource(kind: &'static dyn AnyKind) -> Value {
    let resource = kind.resource();
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

/// The group and version of every kind, for documents that are served per version.
pub(crate) fn group_versions(registry: &Registry) -> Vec<String> {
    let mut all = Vec::new();
    for kind in registry.kinds() {
        let version = api_version(kind.resource());
        if !all.contains(&version) {
            all.push(version);
        }
    }
    all
}
