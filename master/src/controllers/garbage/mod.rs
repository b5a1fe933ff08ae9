//! Deletes what nobody owns any more.
//!
//! * *Background*: an object whose owners are all gone is deleted.
//! * *Foreground*: an owner with the finalizer `foregroundDeletion` stays until all that it owns, and
//!   that says so by `blockOwnerDeletion`, is gone.
//! * *Orphan*: an owner with the finalizer `orphan` stays until nothing names it as its owner.
//!
//! Nothing is remembered: the caches have an index by owner. They tell changes in the order of
//! revisions, and an object can name its owner only after that one was created; so an owner that is
//! not there, in caches that have come as far as the object's last change, is gone.

mod reconcile;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use tracing::info;

use self::reconcile::{Owner, Verdict};
use super::Context;
use super::driver::{Controller, Next, SyncError};
use super::metadata;
use crate::api::error::ApiError;
use crate::api::kinds::Propagation;
use crate::api::objects::DeleteOptions;
use crate::api::registry::{AnyKind, AnyObject};
use crate::api::{FOREGROUND, ORPHAN};
use crate::cache::{CachedObject, ObjectEvent};

/// The controller. See the module's documentation.
pub(super) struct GarbageCollector {
    context: Context,
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    resource: &'static str,
    key: ObjectKey,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource, self.key)
    }
}

#[async_trait]
impl Controller for GarbageCollector {
    type Key = Key;

    const NAME: &'static str = "garbage-collector";

    const CONCURRENCY: usize = 16;

    fn resources(&self) -> Vec<&'static str> {
        let kinds = self.context.objects.registry().stored();
        kinds.map(|kind| kind.resource().plural).collect()
    }

    fn affected(&self, resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(Key)) {
        let object = event.object();
        match event {
            ObjectEvent::Added(new) => {
                if new.deleting || !new.owner_uids.is_empty() {
                    add(Key { resource, key: new.key.clone() });
                }
            }
            ObjectEvent::Modified { old, new } => {
                let owners_changed = old.owner_uids != new.owner_uids;
                if new.deleting || owners_changed {
                    add(Key { resource, key: new.key.clone() });
                }
                if new.deleting && !old.deleting {
                    self.dependents(&new.uid).into_iter().for_each(|(key, _)| add(key));
                }
                if owners_changed {
                    self.waiting_owners(old, add);
                }
            }
            ObjectEvent::Deleted(_) => {
                self.dependents(&object.uid).into_iter().for_each(|(key, _)| add(key));
                self.waiting_owners(object, add);
            }
        }
    }

    async fn sync(&self, key: &Key) -> Result<Next, SyncError> {
        let objects = &self.context.objects;
        let Some(cached) =
            objects.caches().resource(key.resource).and_then(|all| all.get(&key.key))
        else {
            return Ok(Next::Done);
        };
        let Some(kind) = objects.registry().stored_as(key.resource) else { return Ok(Next::Done) };
        // The caches of other resources have to have come as far.
        objects.caches().wait_for(cached.revision).await;
        let meta = metadata(&cached)?;
        if cached.deleting {
            self.release(kind, key, &cached, &meta).await?;
        } else {
            self.judge(kind, key, &cached, &meta).await?;
        }
        Ok(Next::Done)
    }
}

impl GarbageCollector {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// All objects that name the uid among their owners.
    fn dependents(&self, uid: &str) -> Vec<(Key, Arc<CachedObject>)> {
        let caches = self.context.objects.caches().resources();
        let owned = caches.flat_map(|cache| {
            let resource = cache.resource();
            let owned = cache.by_owner(uid).into_iter();
            owned.map(move |object| (Key { resource, key: object.key.clone() }, object))
        });
        owned.collect()
    }

    /// The owners of an object that are being deleted and may wait for it.
    fn waiting_owners(&self, object: &CachedObject, add: &mut dyn FnMut(Key)) {
        if object.owner_uids.is_empty() {
            return;
        }
        // What does not decode is told by the pass over it.
        let Ok(meta) = metadata(object) else { return };
        for reference in meta.owner_references.iter().flatten() {
            if let Some((key, Some(owner))) = self.find(&object.key.namespace, reference)
                && owner.deleting
            {
                add(key);
            }
        }
    }

    /// Where an owner would be, and whether it is there. Nothing when its kind is not served.
    fn find(
        &self,
        namespace: &str,
        reference: &OwnerReference,
    ) -> Option<(Key, Option<Arc<CachedObject>>)> {
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        let kinds = self.context.objects.registry().kinds();
        let names = kinds
            .iter()
            .map(|kind| kind.resource())
            .find(|names| names.kind == reference.kind && names.group == group)?;
        let cache = self.context.objects.caches().resource(names.plural)?;
        // An owner with a namespace is in that of what it owns; elsewhere it does not count.
        let namespace = if names.namespaced { namespace } else { "" };
        let key = ObjectKey::new(namespace, reference.name.clone());
        let found = cache.get(&key).filter(|found| found.uid == reference.uid);
        Some((Key { resource: names.plural, key }, found))
    }

    fn state(&self, namespace: &str, reference: &OwnerReference) -> Result<Owner, SyncError> {
        let Some((_, found)) = self.find(namespace, reference) else { return Ok(Owner::Present) };
        let Some(owner) = found else { return Ok(Owner::Absent) };
        if owner.deleting && has_finalizer(&metadata(&owner)?, FOREGROUND) {
            return Ok(Owner::Waiting);
        }
        Ok(Owner::Present)
    }

    /// Deletes an object that has lost its owners.
    async fn judge(
        &self,
        kind: &'static dyn AnyKind,
        key: &Key,
        cached: &CachedObject,
        meta: &ObjectMeta,
    ) -> Result<(), SyncError> {
        let references = meta.owner_references.as_deref().unwrap_or_default();
        let mut owners = Vec::with_capacity(references.len());
        for reference in references {
            owners.push((reference, self.state(&key.key.namespace, reference)?));
        }
        let has_dependents = || !self.dependents(&cached.uid).is_empty();
        let waited_for = owners.iter().any(|(_, state)| *state == Owner::Waiting);
        match reconcile::judge(&owners, waited_for && has_dependents()) {
            Verdict::Keep => Ok(()),
            Verdict::Disown(lost) => {
                info!(object = %key, ?lost, "removing references to owners that are gone");
                self.change(kind, key, &cached.uid, |meta| remove_owners(meta, &lost)).await
            }
            Verdict::Delete { foreground } => {
                let propagation = if foreground || has_finalizer(meta, FOREGROUND) {
                    Propagation::Foreground
                } else if has_finalizer(meta, ORPHAN) {
                    Propagation::Orphan
                } else {
                    Propagation::Background
                };
                info!(object = %key, "deleting what has lost its owners");
                let options = DeleteOptions {
                    uid: Some(cached.uid.clone()),
                    propagation: Some(propagation),
                    grace_period_seconds: None,
                };
                let (objects, fence) = (&self.context.objects, &self.context.fence);
                ended(objects.delete_any(kind, &key.key, options, fence).await, key)
            }
        }
    }

    /// Lets an object go that is being deleted, as far as it waits for this controller.
    async fn release(
        &self,
        kind: &'static dyn AnyKind,
        key: &Key,
        cached: &CachedObject,
        meta: &ObjectMeta,
    ) -> Result<(), SyncError> {
        let finalizer = if has_finalizer(meta, ORPHAN) {
            for (dependent, object) in self.dependents(&cached.uid) {
                let registry = self.context.objects.registry();
                let Some(kind) = registry.stored_as(dependent.resource) else { continue };
                let uid = std::slice::from_ref(&cached.uid);
                self.change(kind, &dependent, &object.uid, |meta| remove_owners(meta, uid)).await?;
            }
            // What was created since has to be let go of too.
            self.context.objects.caches().fresh().await?;
            if !self.dependents(&cached.uid).is_empty() {
                return Box::pin(self.release(kind, key, cached, meta)).await;
            }
            ORPHAN
        } else if has_finalizer(meta, FOREGROUND) {
            for (_, object) in self.dependents(&cached.uid) {
                let references = metadata(&object)?.owner_references.unwrap_or_default();
                if reconcile::blocks(&references, &cached.uid) {
                    // Its own pass deletes it; that it is gone brings us back here.
                    return Ok(());
                }
            }
            FOREGROUND
        } else {
            return Ok(());
        };
        self.change(kind, key, &cached.uid, |meta| {
            let finalizers = meta.finalizers.get_or_insert_default();
            let before = finalizers.len();
            finalizers.retain(|other| other != finalizer);
            finalizers.len() < before
        })
        .await
    }

    /// Changes the metadata of the object that was looked at.
    async fn change(
        &self,
        kind: &'static dyn AnyKind,
        key: &Key,
        uid: &str,
        change: impl Fn(&mut ObjectMeta) -> bool + Send + Sync,
    ) -> Result<(), SyncError> {
        let change = |object: &mut dyn AnyObject| {
            let same = object.meta().uid.as_deref() == Some(uid);
            same && change(object.meta_mut())
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        ended(objects.update_any(kind, &key.key, fence, change).await.map(drop), key)
    }
}

/// What is gone already, or has been replaced, is no failure.
fn ended(result: Result<(), ApiError>, key: &Key) -> Result<(), SyncError> {
    match result {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other.map_err(SyncError::write(format!("collect {key}"))),
    }
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|other| other == finalizer)
}

fn remove_owners(meta: &mut ObjectMeta, uids: &[String]) -> bool {
    let mut owners = meta.owner_references.take().unwrap_or_default();
    let before = owners.len();
    owners.retain(|owner| !uids.contains(&owner.uid));
    let changed = owners.len() < before;
    meta.owner_references = (!owners.is_empty()).then_some(owners);
    changed
}
