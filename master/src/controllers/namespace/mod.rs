//! Empties namespaces that are to go, then lets them go.
//!
//! The API marks a namespace as terminating and lets nothing be created in it from then on; so what
//! is listed after that only becomes less. Pods end gracefully like any others.

mod reconcile;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use tracing::info;

use self::reconcile::{Action, Content};
use super::Context;
use super::driver::{Chain, Controller, Next, SyncError};
use super::metadata;
use crate::api::kinds::Propagation;
use crate::api::kinds::namespace::{FINALIZER, Namespaces};
use crate::api::objects::{DeleteOptions, Part};
use crate::api::registry::AnyKind;
use crate::cache::{CachedObject, ObjectEvent};

/// Deletions of one pass under way at a time.
const WRITES: usize = 16;

/// The controller. See the module's documentation.
pub(super) struct NamespaceDeletion {
    context: Context,
}

#[async_trait]
impl Controller for NamespaceDeletion {
    /// The namespace's name.
    type Key = String;

    const NAME: &'static str = "namespace-controller";

    fn resources(&self) -> Vec<&'static str> {
        let kinds = self.kinds().map(|kind| kind.resource().plural);
        std::iter::once("namespaces").chain(kinds).collect()
    }

    fn affected(&self, resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(String)) {
        let object = event.object();
        if resource == "namespaces" {
            if object.deleting {
                add(object.key.name.clone());
            }
            return;
        }
        // Only what comes or goes changes anything, and only in a namespace that is to go.
        let matters = !matches!(event, ObjectEvent::Modified { .. });
        let namespace = &object.key.namespace;
        if matters && self.namespace(namespace).is_some_and(|namespace| namespace.deleting) {
            add(namespace.clone());
        }
    }

    async fn sync(&self, name: &String) -> Result<Next, SyncError> {
        let Some(cached) = self.namespace(name).filter(|cached| cached.deleting) else {
            return Ok(Next::Done);
        };
        let caches = self.context.objects.caches();
        caches.wait_for(cached.revision).await;
        let namespace: Namespace = cached.decode().map_err(SyncError::decode(name))?;
        let (kinds, contents) = self.contents(name)?;
        let mut deletions = Vec::new();
        for action in reconcile::reconcile(&namespace, &contents) {
            match action {
                Action::Delete(index) => deletions.push((kinds[index], contents[index].clone())),
                Action::Finalize => {
                    // Nothing may come any more, so what is there now is all there can be.
                    caches.fresh().await?;
                    let (_, contents) = self.contents(name)?;
                    if contents.is_empty() {
                        return self.finalize(name).await;
                    }
                    return Ok(Next::After(std::time::Duration::ZERO));
                }
            }
        }
        if contents.is_empty() {
            return Ok(Next::Done);
        }
        let result = self.delete_all(deletions).await;
        let failure = result.as_ref().err().map(|error| Chain(error).to_string());
        self.update_status(name, &namespace, &contents, failure.as_deref()).await?;
        result?;
        Ok(Next::Done)
    }
}

impl NamespaceDeletion {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn namespace(&self, name: &str) -> Option<Arc<CachedObject>> {
        self.context.objects.caches().resource("namespaces")?.get(&ObjectKey::new("", name))
    }

    fn kinds(&self) -> impl Iterator<Item = &'static dyn AnyKind> {
        let kinds = self.context.objects.registry().stored();
        kinds.filter(|kind| kind.resource().namespaced)
    }

    /// Everything in the namespace, with the kind of each.
    fn contents(
        &self,
        namespace: &str,
    ) -> Result<(Vec<&'static dyn AnyKind>, Vec<Content>), SyncError> {
        let (mut kinds, mut contents) = (Vec::new(), Vec::new());
        for kind in self.kinds() {
            let names = kind.resource();
            let Some(cache) = self.context.objects.caches().resource(names.plural) else {
                continue;
            };
            let resource = match names.group {
                "" => names.plural.to_owned(),
                group => format!("{}.{group}", names.plural),
            };
            for object in cache.list(Some(namespace)).1 {
                let finalizers = if object.deleting {
                    metadata(&object)?.finalizers.unwrap_or_default()
                } else {
                    Vec::new()
                };
                kinds.push(kind);
                contents.push(Content {
                    resource: resource.clone(),
                    key: object.key.clone(),
                    uid: object.uid.clone(),
                    deleting: object.deleting,
                    finalizers,
                });
            }
        }
        Ok((kinds, contents))
    }

    async fn delete_all(
        &self,
        deletions: Vec<(&'static dyn AnyKind, Content)>,
    ) -> Result<(), SyncError> {
        let deletions: Vec<_> =
            deletions.into_iter().map(|(kind, content)| self.delete(kind, content)).collect();
        let mut deletions = stream::iter(deletions).buffer_unordered(WRITES);
        let mut result = Ok(());
        while let Some(deleted) = deletions.next().await {
            result = result.and(deleted);
        }
        result
    }

    async fn delete(&self, kind: &'static dyn AnyKind, content: Content) -> Result<(), SyncError> {
        let options = DeleteOptions {
            uid: Some(content.uid),
            // What it owns is deleted here as well, or by the garbage collector.
            propagation: Some(Propagation::Background),
            grace_period_seconds: None,
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match objects.delete_any(kind, &content.key, options, fence).await {
            // Gone, or another of the same name; which is seen in the next pass.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => {
                let what = format!("delete {} {}", content.resource, content.key);
                other.map_err(SyncError::write(what))
            }
        }
    }

    async fn update_status(
        &self,
        name: &str,
        namespace: &Namespace,
        contents: &[Content],
        failure: Option<&str>,
    ) -> Result<(), SyncError> {
        let status = reconcile::status(namespace, contents, failure, Timestamp::now());
        if namespace.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let write = |stored: &mut Namespace| {
            let changed = stored.metadata.uid == namespace.metadata.uid
                && stored.status.as_ref() != Some(&status);
            if changed {
                stored.status = Some(status.clone());
            }
            changed
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        let key = ObjectKey::new("", name);
        match objects.update::<Namespaces>(&key, Part::Status, fence, write).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => {
                other.map(drop).map_err(SyncError::write(format!("write the status of {name}")))
            }
        }
    }

    async fn finalize(&self, name: &str) -> Result<Next, SyncError> {
        let release = |stored: &mut Namespace| {
            let finalizers = stored.spec.get_or_insert_default().finalizers.get_or_insert_default();
            let before = finalizers.len();
            finalizers.retain(|finalizer| finalizer != FINALIZER);
            stored.metadata.deletion_timestamp.is_some() && finalizers.len() < before
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        let key = ObjectKey::new("", name);
        match objects.update::<Namespaces>(&key, Part::Spec, fence, release).await {
            Ok(_) => info!(namespace = name, "emptied namespace"),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                return Err(SyncError::write(format!("finalize namespace {name}"))(error));
            }
        }
        Ok(Next::Done)
    }
}
