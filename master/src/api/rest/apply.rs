//! Server-side apply over REST: `PATCH` with a configuration.

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use crate::api::apply::managed_fields::{ApplyError, Configuration, Managers, kept_by_status};
use crate::api::codec::Tree;
use crate::api::error::ApiError;
use crate::api::kinds::ResourceInfo;
use crate::api::objects::Part;
use crate::api::patch;
use crate::api::registry::{AnyKind, AnyObject};
use crate::api::rest::body;
use crate::api::rest::change::Change;
use crate::api::rest::query::{Write, WriteOptions};
use crate::api::write::{self, CreateOptions, Tracking, UpdateOptions};

/// The content type of a configuration; JSON is YAML.
pub(crate) const MEDIA_TYPE: &str = "application/apply-patch+yaml";

/// How often an object may come and go while it is being applied to.
const MAX_ATTEMPTS: usize = 8;

/// Applies the configuration in the body; creates the object if there is none.
pub(crate) async fn apply(
    change: &Change<'_>,
    key: &ObjectKey,
    part: Part,
) -> Result<Response, ApiError> {
    let answer = change.answer()?;
    let WriteOptions { dry_run, validation, force } = change.options.writing(Write::Apply)?;
    let manager = change.options.manager(&change.headers, part.subresource());
    let kind = change.kind;
    let resource = kind.resource();
    let mut tree = patch::object(&change.body)?;
    prepare(resource, key, part, &mut tree.value)?;
    check_declared(kind, key, &tree.value)?;
    let config = Configuration { tree: &tree.value, manager: &manager, force };
    let writer = change.api.objects.writer();
    let mut warnings = Vec::new();
    // What a live object (nothing: there is none) becomes.
    let mut applied = |live: Option<&dyn AnyObject>| {
        let (object, managers) = merged(kind, live, &config)?;
        warnings.clear();
        let merged =
            Tree { value: object, duplicates: tree.duplicates.clone(), unknown: Vec::new() };
        let mut object = body::decode(kind, &merged, validation, &mut warnings)?;
        object.meta_mut().managed_fields = managers.encode(resource);
        Ok(object)
    };
    for _ in 0..MAX_ATTEMPTS {
        let options = UpdateOptions { part, fence: &[], dry_run };
        let update = |live: &dyn AnyObject| applied(Some(live)).map(Some);
        match writer.update_as(kind, key, options, Tracking::Applied, update).await {
            Err(error) if error.is_not_found() && part == Part::Spec => {}
            result => {
                let written =
                    result?.ok_or_else(|| ApiError::internal("an apply declined itself"))?;
                return change.respond(StatusCode::OK, written, answer, &warnings);
            }
        }
        let object = applied(None)?;
        let uid = object.meta().uid.as_deref().unwrap_or_default();
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object \
                 was found"
            );
            return Err(ApiError::conflict(resource, &key.name, why));
        }
        let options = CreateOptions { fence: &[], dry_run };
        match writer.create_as(kind, object, options, Tracking::Applied).await {
            Err(error) if error.is_already_exists() => {}
            result => return change.respond(StatusCode::CREATED, result?, answer, &warnings),
        }
    }
    Err(ApiError::unavailable(format!("{} {key} comes and goes", resource.kind)))
}

/// Nobody can own a field that there is not, whatever the request says of validation. What cannot be
/// decoded at all is told when it is merged.
fn check_declared(
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    config: &Value,
) -> Result<(), ApiError> {
    let unknown = kind.decode(config).map(|decoded| decoded.unknown).unwrap_or_default();
    if unknown.is_empty() {
        return Ok(());
    }
    let told: Vec<String> =
        unknown.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
    Err(ApiError::bad_request(format!(
        "failed to create typed patch object ({key}; {}, Kind={}): {}",
        body::api_version(kind.resource()),
        kind.resource().kind,
        told.join(", ")
    )))
}

/// What an object (nothing: there is none) and its record become by a configuration.
pub(crate) fn merged(
    kind: &'static dyn AnyKind,
    live: Option<&dyn AnyObject>,
    config: &Configuration<'_>,
) -> Result<(Value, Managers), ApiError> {
    let entries = live.and_then(|live| live.meta().managed_fields.as_deref());
    let managers =
        Managers::decode(kind.resource(), entries.unwrap_or_default()).unwrap_or_default();
    let live = live.map(|live| kind.tree(live)).transpose().map_err(ApiError::internal)?;
    let now = Time(write::now());
    managers.applied(kind.resource(), live.as_ref(), config, &now).map_err(refusal)
}

/// Checks a configuration against its path, and leaves in it what the path can change.
pub(crate) fn prepare(
    resource: &ResourceInfo,
    key: &ObjectKey,
    part: Part,
    config: &mut Value,
) -> Result<(), ApiError> {
    for field in ["apiVersion", "kind"] {
        if config.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            let message = format!("the configuration to apply has to state its {field}");
            return Err(ApiError::bad_request(message));
        }
    }
    body::check_type(resource, config)?;
    let metadata = &mut config["metadata"];
    if metadata.is_null() {
        *metadata = json!({});
    }
    let metadata = metadata
        .as_object_mut()
        .ok_or_else(|| ApiError::bad_request("metadata: has to be an object"))?;
    if metadata.get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    metadata.shift_remove("managedFields");
    if part == Part::Status {
        metadata.retain(|field, _| !kept_by_status(resource).contains(&field.as_str()));
    }
    for (field, wanted) in [("name", &key.name), ("namespace", &key.namespace)] {
        if wanted.is_empty() {
            continue;
        }
        match metadata.get(field).and_then(Value::as_str).filter(|stated| !stated.is_empty()) {
            Some(stated) if stated != wanted => {
                return Err(ApiError::bad_request(format!(
                    "the {field} of the object ({stated}) does not match the {field} on the URL \
                     ({wanted})"
                )));
            }
            _ => {
                metadata.insert(field.to_owned(), json!(wanted));
            }
        }
    }
    let Some(config) = config.as_object_mut() else { return Ok(()) };
    match part {
        Part::Spec if resource.status => {
            config.shift_remove("status");
        }
        Part::Spec => {}
        Part::Status => config.retain(|field, _| {
            matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status")
        }),
        Part::EphemeralContainers | Part::Resize => {
            config.shift_remove("status");
            let own = if part == Part::Resize { "containers" } else { "ephemeralContainers" };
            if let Some(spec) = config.get_mut("spec").and_then(Value::as_object_mut) {
                spec.retain(|field, _| field == own);
            }
        }
    }
    Ok(())
}

/// Kubernetes' words for a configuration that was not applied.
fn refusal(error: ApplyError) -> ApiError {
    let conflicts = match error {
        ApplyError::Conflicts(conflicts) => conflicts,
        ApplyError::Merge(error) => {
            return ApiError::bad_request(format!("failed to create typed patch object: {error}"));
        }
    };
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let message = match conflicts.as_slice() {
        [(manager, paths)] if count == 1 => {
            let path = paths.concat();
            format!("Apply failed with 1 conflict: conflict with {manager}: {path}")
        }
        many => {
            let mut lines = Vec::new();
            for (manager, paths) in many {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(paths.iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let error = ApiError::new(StatusCode::CONFLICT, "Conflict", message);
    let causes =
        conflicts.iter().flat_map(|(manager, paths)| paths.iter().map(move |path| (manager, path)));
    causes.fold(error, |error, (manager, path)| {
        error.with_cause("FieldManagerConflict", format!("conflict with {manager}"), path)
    })
}
