//! `kubecfg apply`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use http::Request;
use kube::core::Status;
use serde_json::{Value, json};

use super::target::escape;
use crate::client::Cluster;
use crate::manifest::{self, Manifest};
use crate::merge::{self, LAST_APPLIED};
use crate::print;
use crate::problem::{is_not_found, sentence, status};
use crate::resources::Resource;
use crate::suggest;

/// How often a change is tried again that somebody else's change overtook.
const ATTEMPTS: u32 = 5;

/// Creates or changes everything that the files describe. One that fails does not keep the others
/// from being applied.
pub(crate) async fn apply(
    cluster: &Cluster,
    paths: &[PathBuf],
    namespace: Option<&str>,
) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    // The work goes on when nobody reads what became of it.
    let mut told = Ok(());
    for manifest in manifest::read(paths)? {
        match apply_one(cluster, &manifest, namespace).await {
            Ok(line) => told = told.and_then(|()| print::line(line)),
            Err(error) => {
                eprintln!("{}", sentence(&error));
                code = ExitCode::FAILURE;
            }
        }
    }
    told.map(|()| code)
}

/// The resource of a manifest, and the path of the collection it belongs into.
pub(crate) async fn locate(
    cluster: &Cluster,
    manifest: &Manifest,
    namespace: Option<&str>,
) -> Result<(Resource, String)> {
    let (api_version, kind) = (manifest.api_version()?, manifest.kind()?);
    let Some(resource) = cluster.catalog.by_kind(api_version, kind).await? else {
        let kinds = cluster.catalog.kinds(api_version).await?;
        let place = manifest.place("kind");
        if kinds.is_empty() {
            let place = manifest.place("apiVersion");
            bail!("{place}: the server does not serve the API version \"{api_version}\"");
        }
        let hint = suggest::hint(kind, kinds.iter().map(String::as_str));
        bail!("{place}: the server has no kind \"{kind}\" in \"{api_version}\"{hint}");
    };
    if let (Some(asked), Some(written)) = (namespace, manifest.namespace())
        && resource.namespaced
        && asked != written
    {
        bail!(
            "{}: the namespace is \"{written}\" here, but --namespace says \"{asked}\"",
            manifest.place("metadata.namespace")
        );
    }
    let path = resource.path(Some(manifest.namespace().unwrap_or(&cluster.namespace)));
    Ok((resource, path))
}

async fn apply_one(
    cluster: &Cluster,
    manifest: &Manifest,
    namespace: Option<&str>,
) -> Result<String> {
    let (resource, path) = locate(cluster, manifest, namespace).await?;
    let mut wanted = manifest.object.clone();
    if !wanted["metadata"].is_object() {
        wanted["metadata"] = json!({});
    }
    if resource.namespaced && manifest.namespace().is_none() {
        wanted["metadata"]["namespace"] = cluster.namespace.clone().into();
    }
    remember(&mut wanted);
    let Some(name) = manifest.name() else {
        // The server makes a name up, or says that there is none.
        let created = create(cluster, manifest, &path, &wanted).await?;
        let name = created.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        return Ok(format!("{} created", resource.called(name)));
    };
    let called = resource.called(name);
    let object = format!("{path}/{}", escape(name));
    for attempt in 1.. {
        let live: Value = match cluster.client.request(Request::get(&object).body(vec![])?).await {
            Ok(live) => live,
            Err(error) if is_not_found(&error) => {
                match create(cluster, manifest, &path, &wanted).await {
                    Ok(_) => return Ok(format!("{called} created")),
                    // Somebody was quicker: then it is a change.
                    Err(Failure::Overtaken) if attempt < ATTEMPTS => continue,
                    Err(failure) => return Err(failure.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        let Some(mut patch) = merge::patch(last_applied(&live).as_ref(), &wanted, &live) else {
            return Ok(format!("{called} unchanged"));
        };
        patch["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        let request =
            Request::patch(format!("{object}?fieldManager=kubecfg&fieldValidation=Strict"))
                .header("content-type", "application/merge-patch+json")
                .body(serde_json::to_vec(&patch)?)?;
        match cluster.client.request::<Value>(request).await {
            Ok(new) => {
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                let outcome =
                    if version(&new) == version(&live) { "unchanged" } else { "configured" };
                return Ok(format!("{called} {outcome}"));
            }
            Err(error) if attempt < ATTEMPTS && is_conflict(&error) => {}
            Err(error) => return Err(explain(manifest, error)),
        }
    }
    unreachable!("the loop above returns by its last attempt")
}

/// Why a write failed.
#[derive(Debug)]
enum Failure {
    /// An object of this name exists meanwhile.
    Overtaken,
    Other(anyhow::Error),
}

impl From<Failure> for anyhow::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Overtaken => anyhow::anyhow!("somebody else creates and deletes this object"),
            Failure::Other(error) => error,
        }
    }
}

async fn create(
    cluster: &Cluster,
    manifest: &Manifest,
    path: &str,
    wanted: &Value,
) -> Result<Value, Failure> {
    let other = |error: anyhow::Error| Failure::Other(error);
    let body = serde_json::to_vec(wanted).map_err(|error| other(error.into()))?;
    let request = Request::post(format!("{path}?fieldManager=kubecfg&fieldValidation=Strict"))
        .header("content-type", "application/json")
        .body(body)
        .map_err(|error| other(error.into()))?;
    cluster.client.request(request).await.map_err(|error| match status(&error) {
        Some(status) if status.reason == "AlreadyExists" => Failure::Overtaken,
        _ => Failure::Other(explain(manifest, error)),
    })
}

fn is_conflict(error: &kube::Error) -> bool {
    status(error).is_some_and(|status| status.code == 409)
}

/// Notes in the object what was applied.
fn remember(wanted: &mut Value) {
    let mut applied = wanted.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations")
        && let Some(annotations) = annotations.as_object_mut()
    {
        annotations.remove(LAST_APPLIED);
    }
    wanted["metadata"]["annotations"][LAST_APPLIED] = format!("{applied}\n").into();
}

fn last_applied(live: &Value) -> Option<Value> {
    let text = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    serde_json::from_str(text).ok()
}

/// The server's own words, each with the line of the field that it is about.
fn explain(manifest: &Manifest, error: kube::Error) -> anyhow::Error {
    let Some(status) = status(&error) else { return error.into() };
    anyhow::anyhow!(refusal(manifest, status))
}

fn refusal(manifest: &Manifest, status: &Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let lines: Vec<String> = causes
        .filter(|cause| !cause.field.is_empty())
        .map(|cause| {
            let (place, field) = (manifest.place(&cause.field), &cause.field);
            // Some messages start with the field already.
            let message =
                cause.message.strip_prefix(&format!("{field}: ")).unwrap_or(&cause.message);
            format!("{place}: {field}: {message}")
        })
        .collect();
    if !lines.is_empty() {
        return lines.join("\nerror: ");
    }
    // `strict decoding error: unknown field "spec.x"` names its field in the text only.
    let unknown: Vec<String> = status
        .message
        .match_indices("unknown field \"")
        .filter_map(|(start, found)| {
            let field = status.message[start + found.len()..].split('"').next()?;
            Some(format!("{}: unknown field \"{field}\"", manifest.place(field)))
        })
        .collect();
    if unknown.is_empty() {
        format!("{}: {}", manifest.place(""), status.message)
    } else {
        unknown.join("\nerror: ")
    }
}
