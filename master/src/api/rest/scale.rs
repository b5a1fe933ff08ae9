//! The subresource `scale`: how many replicas of an object there are and should be, without
//! knowing its kind.

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use crate::api::apply::managed_fields::Configuration;
use crate::api::codec::{Decoder, Tree};
use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::ResourceInfo;
use crate::api::objects::Part;
use crate::api::patch::{self, Patch};
use crate::api::registry::{AnyKind, AnyObject};
use crate::api::rest::accept::{self, Answer, Shape};
use crate::api::rest::change::Change;
use crate::api::rest::query::{FieldValidation, Options, Write, WriteOptions};
use crate::api::rest::{Api, apply, body, list, render};
use crate::api::write::{Tracking, UpdateOptions, Written};

/// The names of a Scale, for messages.
const SCALE: ResourceInfo = ResourceInfo {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    plural: "scales",
    singular: "scale",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
};

/// `GET`
pub(crate) async fn get(
    api: &Api,
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    options: &Options,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let answer = form(options, headers)?;
    let cached = list::find(api, kind, key, options).await?;
    let object = kind.decode_stored(&cached.json).map_err(ApiError::internal)?;
    render::value(StatusCode::OK, &scale_of(kind, &*object)?, answer)
}

/// `PUT`
pub(crate) async fn update(change: &Change<'_>, key: &ObjectKey) -> Result<Response, ApiError> {
    let tree = body::parse(&change.headers, &change.body)?;
    write(change, key, Write::Update, |_| Ok(tree.clone())).await
}

/// `PATCH`
pub(crate) async fn patch(change: &Change<'_>, key: &ObjectKey) -> Result<Response, ApiError> {
    let media_type = body::media_type(&change.headers);
    if media_type == Some(apply::MEDIA_TYPE) {
        return apply(change, key).await;
    }
    let patch = Patch::parse(media_type, &change.body)?;
    write(change, key, Write::Patch, |current| {
        let tree = serde_json::to_value(current).map_err(ApiError::internal)?;
        patch.apply(&SCALE, tree)
    })
    .await
}

async fn write(
    change: &Change<'_>,
    key: &ObjectKey,
    how: Write,
    wanted: impl Fn(&Scale) -> Result<Tree, ApiError> + Send + Sync,
) -> Result<Response, ApiError> {
    let answer = form(&change.options, &change.headers)?;
    let WriteOptions { dry_run, validation, .. } = change.options.writing(how)?;
    let manager = change.options.manager(&change.headers, "scale");
    let mut warnings = Vec::new();
    let scaled = |current: &dyn AnyObject| {
        let tree = wanted(&scale_of(change.kind, current)?)?;
        warnings.clear();
        let scale = decode(&tree, validation, &mut warnings)?;
        scaled(change.kind, key, current, scale)
    };
    let written = commit(change, key, dry_run, Tracking::Update(&manager), scaled).await?;
    respond(change.kind, &written, answer, &warnings)
}

/// Applies the configuration in the body. The record of who owns what is that of the object: there
/// the replicas belong to the manager of its scale, and conflicts are with owners of that field.
async fn apply(change: &Change<'_>, key: &ObjectKey) -> Result<Response, ApiError> {
    let answer = form(&change.options, &change.headers)?;
    let WriteOptions { dry_run, validation, force } = change.options.writing(Write::Apply)?;
    let manager = change.options.manager(&change.headers, "scale");
    let mut tree = patch::object(&change.body)?;
    apply::prepare(&SCALE, key, Part::Spec, &mut tree.value)?;
    let mut warnings = Vec::new();
    let stated = decode(&tree, validation, &mut warnings)?;
    let config = of_object(change.kind.resource(), key, &tree.value);
    let config = Configuration { tree: &config, manager: &manager, force };
    let applied = |current: &dyn AnyObject| {
        let (object, managers) = apply::merged(change.kind, Some(current), &config)?;
        let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        let replicas = i32::try_from(replicas).map_err(ApiError::internal)?;
        let spec = Some(ScaleSpec { replicas: Some(replicas) });
        let mut new = scaled(change.kind, key, current, Scale { spec, ..stated.clone() })?;
        new.meta_mut().managed_fields = managers.encode(change.kind.resource());
        Ok(new)
    };
    let written = commit(change, key, dry_run, Tracking::Applied, applied).await?;
    respond(change.kind, &written, answer, &warnings)
}

/// What a configuration of a scale says, said of the object that is scaled.
fn of_object(resource: &ResourceInfo, key: &ObjectKey, scale: &Value) -> Value {
    let mut config = json!({
        "apiVersion": body::api_version(resource),
        "kind": resource.kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
    });
    if let Some(replicas) = scale.pointer("/spec/replicas").filter(|count| !count.is_null()) {
        config["spec"] = json!({"replicas": replicas});
    }
    config
}

/// The object with the replicas of a scale.
fn scaled(
    kind: &'static dyn AnyKind,
    key: &ObjectKey,
    current: &dyn AnyObject,
    scale: Scale,
) -> Result<Box<dyn AnyObject>, ApiError> {
    if scale.metadata.name.as_ref().is_some_and(|name| *name != key.name) {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            scale.metadata.name.unwrap_or_default(),
            key.name
        )));
    }
    let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    if replicas < 0 {
        let detail = "must be greater than or equal to 0";
        let error = FieldError::invalid("spec.replicas", replicas, detail);
        return Err(ApiError::invalid(&SCALE, &key.name, &[error]));
    }
    let mut new = current.boxed_clone();
    kind.set_replicas(&mut *new, replicas);
    // What the client states about the object holds for the object that is scaled.
    new.meta_mut().resource_version = scale.metadata.resource_version;
    new.meta_mut().uid = scale.metadata.uid;
    Ok(new)
}

async fn commit(
    change: &Change<'_>,
    key: &ObjectKey,
    dry_run: bool,
    tracking: Tracking<'_>,
    mut scaled: impl FnMut(&dyn AnyObject) -> Result<Box<dyn AnyObject>, ApiError> + Send,
) -> Result<Written, ApiError> {
    let options = UpdateOptions { part: Part::Spec, fence: &[], dry_run };
    let writer = change.api.objects.writer();
    let scaled = |current: &dyn AnyObject| scaled(current).map(Some);
    let written = writer.update_as(change.kind, key, options, tracking, scaled).await?;
    written.ok_or_else(|| ApiError::internal("a scaling declined itself"))
}

fn form(options: &Options, headers: &HeaderMap) -> Result<Answer, ApiError> {
    let encoding = accept::encoding(headers)?;
    Ok(Answer { encoding, shape: Shape::Plain, pretty: options.flag("pretty") })
}

fn respond(
    kind: &'static dyn AnyKind,
    written: &Written,
    answer: Answer,
    warnings: &[String],
) -> Result<Response, ApiError> {
    let scale = scale_of(kind, &*written.object)?;
    let mut response = render::value(StatusCode::OK, &scale, answer)?;
    body::warn(response.headers_mut(), warnings);
    Ok(response)
}

fn decode(
    tree: &Tree,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Scale, ApiError> {
    body::check_type(&SCALE, &tree.value)?;
    let mut decoder = Decoder::new();
    let scale = decoder.decode(&tree.value).map_err(|error| body::undecodable(&SCALE, &error))?;
    let unknown = [tree.unknown.clone(), decoder.into_unknown()].concat();
    body::check_fields(&SCALE, unknown, &tree.duplicates, validation, warnings)?;
    Ok(scale)
}

fn scale_of(kind: &'static dyn AnyKind, object: &dyn AnyObject) -> Result<Scale, ApiError> {
    let scaling = kind
        .scaling(object)
        .ok_or_else(|| ApiError::internal(format!("{} tells no scale", kind.resource().plural)))?;
    let meta = object.meta();
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: Some(scaling.desired) }),
        status: Some(ScaleStatus { replicas: scaling.observed, selector: Some(scaling.selector) }),
    })
}
