//! The subresource `scale`: how many replicas of an object there are and should be, without
//! knowing its kind.

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::api::codec::{Decoder, Tree};
use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::ResourceInfo;
use crate::api::objects::Part;
use crate::api::patch::Patch;
use crate::api::registry::{AnyKind, AnyObject};
use crate::api::rest::accept::{self, Answer, Shape};
use crate::api::rest::change::Change;
use crate::api::rest::query::{FieldValidation, Options, Write, WriteOptions};
use crate::api::rest::{Api, body, list, render};
use crate::api::write::{Tracking, UpdateOptions};

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
    let pretty = options.flag("pretty");
    let answer = Answer { encoding: accept::encoding(headers)?, shape: Shape::Plain, pretty };
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
    let patch = Patch::parse(body::media_type(&change.headers), &change.body)?;
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
    let kind = change.kind;
    let encoding = accept::encoding(&change.headers)?;
    let answer = Answer { encoding, shape: Shape::Plain, pretty: change.options.flag("pretty") };
    let WriteOptions { dry_run, validation, .. } = change.options.writing(how)?;
    let options = UpdateOptions { part: Part::Spec, fence: &[], dry_run };
    let mut warnings = Vec::new();
    let apply = |current: &dyn AnyObject| {
        let tree = wanted(&scale_of(kind, current)?)?;
        warnings.clear();
        let scale = decode(&tree, validation, &mut warnings)?;
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
        Ok(Some(new))
    };
    let manager = change.options.manager(&change.headers, "scale");
    let tracking = Tracking::Update(&manager);
    let writer = change.api.objects.writer();
    let written = writer.update_as(kind, key, options, tracking, apply).await?;
    let written = written.ok_or_else(|| ApiError::internal("a scaling declined itself"))?;
    let mut response = render::value(StatusCode::OK, &scale_of(kind, &*written.object)?, answer)?;
    body::warn(response.headers_mut(), &warnings);
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
