//! The verbs that write: create, update, patch, delete.

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions as DeleteBody;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::api::codec::Decoder;
use crate::api::error::ApiError;
use crate::api::field_error::FieldError;
use crate::api::kinds::ResourceInfo;
use crate::api::objects::Part;
use crate::api::patch::Patch;
use crate::api::registry::{AnyKind, AnyObject};
use crate::api::rest::accept::{self, Answer};
use crate::api::rest::delete_options::{delete_options, of_query};
use crate::api::rest::list_options::ListOptions;
use crate::api::rest::query::{Options, Write, WriteOptions};
use crate::api::rest::render;
use crate::api::rest::{Api, apply, body, list};
use crate::api::write::{CreateOptions, Deleted, Tracking, UpdateOptions, Written, check_identity};
use crate::cache::CachedObject;

/// How many objects a `deletecollection` deletes at a time.
const DELETES_AT_ONCE: usize = 16;

/// How often an object may come and go while it is being updated.
const MAX_ATTEMPTS: usize = 8;

/// A request that writes, its body read.
pub(crate) struct Change<'a> {
    pub(crate) api: &'a Api,
    pub(crate) kind: &'static dyn AnyKind,
    pub(crate) options: Options,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Change<'_> {
    /// `POST` on a collection.
    pub(crate) async fn create(&self, namespace: Option<&str>) -> Result<Response, ApiError> {
        let answer = self.answer()?;
        let WriteOptions { dry_run, validation, .. } = self.options.writing(Write::Create)?;
        let mut warnings = Vec::new();
        let tree = body::parse(&self.headers, &self.body)?;
        let mut object = body::decode(self.kind, &tree, validation, &mut warnings)?;
        if let Some(namespace) = namespace {
            let stated = &mut object.meta_mut().namespace;
            match stated {
                Some(stated) if !stated.is_empty() && stated != namespace => {
                    return Err(ApiError::bad_request(
                        "the namespace of the provided object does not match the namespace sent \
                         on the request",
                    ));
                }
                _ => *stated = Some(namespace.to_owned()),
            }
        } else if self.kind.resource().namespaced {
            // Without a namespace in the path there is none, whatever the object says.
            return Err(ApiError::method_not_allowed());
        }
        let options = CreateOptions { fence: &[], dry_run };
        let manager = self.options.manager(&self.headers, "");
        let tracking = Tracking::Update(&manager);
        let writer = self.api.objects.writer();
        let written = writer.create_as(self.kind, object, options, tracking).await?;
        self.respond(StatusCode::CREATED, written, answer, &warnings)
    }

    /// `PUT` on an object or its status.
    pub(crate) async fn update(&self, key: &ObjectKey, part: Part) -> Result<Response, ApiError> {
        let answer = self.answer()?;
        let WriteOptions { dry_run, validation, .. } = self.options.writing(Write::Update)?;
        let mut warnings = Vec::new();
        let tree = body::parse(&self.headers, &self.body)?;
        let wanted = body::decode(self.kind, &tree, validation, &mut warnings)?;
        if wanted.meta().name.as_ref().is_none_or(String::is_empty) {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({:?} based on URL) was undeterminable: name must be \
                 provided",
                key.name
            )));
        }
        let options = UpdateOptions { part, fence: &[], dry_run };
        let change = |_: &dyn AnyObject| Ok(Some(wanted.boxed_clone()));
        let manager = self.options.manager(&self.headers, part.subresource());
        let tracking = Tracking::Update(&manager);
        let writer = self.api.objects.writer();
        for _ in 0..MAX_ATTEMPTS {
            match writer.update_as(self.kind, key, options, tracking, change).await {
                Err(error) if error.is_not_found() && self.creates(part) => {}
                result => {
                    let written =
                        result?.ok_or_else(|| ApiError::internal("an update declined itself"))?;
                    return self.respond(StatusCode::OK, written, answer, &warnings);
                }
            }
            let created = self.create_instead(key, wanted.boxed_clone(), dry_run, tracking).await;
            match created {
                Err(error) if error.is_already_exists() => {}
                result => return self.respond(StatusCode::CREATED, result?, answer, &warnings),
            }
        }
        let kind = self.kind.resource().kind;
        Err(ApiError::unavailable(format!("{kind} {key} comes and goes")))
    }

    /// Whether an update makes what is not there.
    fn creates(&self, part: Part) -> bool {
        part == Part::Spec && self.kind.creates_on_update()
    }

    /// Creates what an update has not found.
    async fn create_instead(
        &self,
        key: &ObjectKey,
        mut object: Box<dyn AnyObject>,
        dry_run: bool,
        tracking: Tracking<'_>,
    ) -> Result<Written, ApiError> {
        check_identity(key, object.meta())?;
        let meta = object.meta_mut();
        if let Some(uid) = meta.uid.as_ref().filter(|uid| !uid.is_empty()) {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
            return Err(ApiError::conflict(self.kind.resource(), &key.name, why));
        }
        if self.kind.resource().namespaced {
            meta.namespace = Some(key.namespace.clone());
        }
        // Whatever version it once had, this one has none yet.
        meta.resource_version = None;
        let options = CreateOptions { fence: &[], dry_run };
        self.api.objects.writer().create_as(self.kind, object, options, tracking).await
    }

    /// `PATCH` on an object or its status.
    pub(crate) async fn patch(&self, key: &ObjectKey, part: Part) -> Result<Response, ApiError> {
        let answer = self.answer()?;
        let media_type = body::media_type(&self.headers);
        if media_type == Some(apply::MEDIA_TYPE) {
            return apply::apply(self, key, part).await;
        }
        let WriteOptions { dry_run, validation, .. } = self.options.writing(Write::Patch)?;
        let patch = Patch::parse(media_type, &self.body)?;
        let manager = self.options.manager(&self.headers, part.subresource());
        let mut warnings = Vec::new();
        let options = UpdateOptions { part, fence: &[], dry_run };
        let change = |current: &dyn AnyObject| {
            let tree = self.kind.tree(current).map_err(ApiError::internal)?;
            let patched = patch.apply(self.kind.resource(), tree)?;
            warnings.clear();
            let object = body::decode(self.kind, &patched, validation, &mut warnings)?;
            if object.meta().name.as_ref().is_none_or(String::is_empty) {
                // A patch that takes all of the metadata away means more than to leave the name out.
                let error = FieldError::invalid("metadata.name", "", "field is immutable");
                return Err(ApiError::invalid(self.kind.resource(), &key.name, &[error]));
            }
            Ok(Some(object))
        };
        let tracking = Tracking::Update(&manager);
        let writer = self.api.objects.writer();
        let written = writer.update_as(self.kind, key, options, tracking, change).await?;
        let written = written.ok_or_else(|| ApiError::internal("a patch declined itself"))?;
        self.respond(StatusCode::OK, written, answer, &warnings)
    }

    /// `DELETE` on an object.
    pub(crate) async fn delete(&self, key: &ObjectKey) -> Result<Response, ApiError> {
        let answer = self.answer()?;
        let body = self.delete_body()?;
        let options = delete_options(&body)?;
        let deleted = self.api.objects.writer().delete(self.kind, key, options).await?;
        let resource = self.kind.resource();
        match deleted {
            Deleted::Gone(last) if !RETURN_DELETED.contains(&resource.plural) => {
                let status = gone(resource, key, &last);
                render::value(StatusCode::OK, &status, answer)
            }
            Deleted::Gone(last) => self.respond(StatusCode::OK, last, answer, &[]),
            Deleted::Pending(pending) => {
                // Older clients tell by it that dependents are still to be deleted.
                let accepted = body.orphan_dependents == Some(false);
                let status = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
                self.respond(status, pending, answer, &[])
            }
        }
    }

    /// `DELETE` on a collection: each of its objects as if by itself.
    pub(crate) async fn delete_collection(
        &self,
        namespace: Option<&str>,
    ) -> Result<Response, ApiError> {
        use futures::{StreamExt as _, TryStreamExt as _};
        let answer = self.answer()?;
        let body = self.delete_body()?;
        let list_options = ListOptions::parse(&self.options, self.kind)?;
        let (meta, objects) = list::select(self.api, self.kind, namespace, &list_options).await?;
        let options = delete_options(&body)?;
        let deletions = objects.clone().into_iter().map(|object| {
            let mut options = options.clone();
            // The one that was selected, not one that took its name since.
            let ours = options.preconditions.uid.is_none();
            options.preconditions.uid.get_or_insert_with(|| object.uid.clone());
            async move {
                match self.api.objects.writer().delete(self.kind, &object.key, options).await {
                    Err(error) if error.is_not_found() => Ok(()),
                    Err(error) if ours && error.is_conflict() && self.replaced(&object) => Ok(()),
                    result => result.map(drop),
                }
            }
        });
        futures::stream::iter(deletions)
            .buffer_unordered(DELETES_AT_ONCE)
            .try_collect::<()>()
            .await?;
        render::list(self.kind, &meta, objects, answer)
    }

    /// Whether another object has the name by now.
    fn replaced(&self, object: &CachedObject) -> bool {
        let cache = list::cache_of(self.api.objects.caches(), self.kind);
        cache.is_ok_and(|cache| cache.get(&object.key).is_some_and(|now| now.uid != object.uid))
    }

    pub(crate) fn answer(&self) -> Result<Answer, ApiError> {
        let include = self.options.get("includeObject");
        accept::negotiate(&self.headers, include, self.options.flag("pretty"))
    }

    pub(crate) fn respond(
        &self,
        status: StatusCode,
        written: Written,
        answer: Answer,
        warnings: &[String],
    ) -> Result<Response, ApiError> {
        let mut response = render::object(status, self.kind, written.json, answer)?;
        body::warn(response.headers_mut(), warnings);
        body::warn(response.headers_mut(), &written.warnings);
        Ok(response)
    }

    /// The body of a deletion; there may be none, then the query says it.
    fn delete_body(&self) -> Result<DeleteBody, ApiError> {
        if self.body.is_empty() {
            return of_query(&self.options);
        }
        let tree = body::parse(&self.headers, &self.body)?;
        match tree.value.get("kind").and_then(serde_json::Value::as_str) {
            None | Some("" | "DeleteOptions") => {}
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "the body of a deletion is a DeleteOptions, not a {other}"
                )));
            }
        }
        Decoder::new()
            .decode(&tree.value)
            .map_err(|error| ApiError::bad_request(format!("DeleteOptions: {error}")))
    }
}

/// The resources whose deletion answers with the object instead of a `Status`, as in Kubernetes.
pub(crate) const RETURN_DELETED: [&str; 5] =
    ["pods", "services", "serviceaccounts", "podtemplates", "resourcequotas"];

fn gone(resource: &ResourceInfo, key: &ObjectKey, last: &Written) -> Status {
    Status {
        status: Some("Success".to_owned()),
        details: Some(StatusDetails {
            name: Some(key.name.clone()),
            group: Some(resource.group.to_owned()).filter(|group| !group.is_empty()),
            kind: Some(resource.plural.to_owned()),
            uid: last.object.meta().uid.clone(),
            ..StatusDetails::default()
        }),
        ..Status::default()
    }
}
