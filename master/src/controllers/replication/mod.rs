//! Keeps the number of live pods equal to `spec.replicas`, of ReplicationControllers and of
//! ReplicaSets: what differs between the two is in [`Replicated`].
//!
//! [`reconcile`](reconcile::reconcile) decides, [`Replication`] performs one pass.
//!
//! A pass that has made or deleted pods ends when the caches have seen it. So the next pass finds
//! its own work in what it observes, and no count of expected changes has to be kept.

mod kinds;
mod reconcile;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use tracing::info;

pub(super) use self::kinds::Replicated;
use self::reconcile::{Action, Desired, Failure, Observed};
use super::Context;
use super::driver::{Controller, Next, SyncError, rest_after};
use super::pods::PodView;
use crate::api::error::ApiError;
use crate::api::kinds::{Kind, Pods};
use crate::api::objects::{DeleteOptions, Part};
use crate::cache::ObjectEvent;
use crate::events::{Occurrence, reference};
use crate::selection::{Labels, Selection};

/// Writes of one pass under way at a time.
const WRITES: usize = 16;

/// The controller. See the module's documentation.
pub(super) struct Replication<K> {
    context: Context,
    index: Mutex<Index>,
    kind: PhantomData<fn() -> K>,
}

/// Which objects a pod may concern.
#[derive(Default)]
struct Index {
    selection: Selection<ObjectKey>,
    by_uid: HashMap<String, ObjectKey>,
}

#[async_trait]
impl<K: Replicated> Controller for Replication<K> {
    type Key = ObjectKey;

    const NAME: &'static str = K::CONTROLLER;

    fn resources(&self) -> Vec<&'static str> {
        vec![K::RESOURCE.plural, Pods::RESOURCE.plural]
    }

    fn affected(
        &self,
        resource: &'static str,
        event: &ObjectEvent,
        add: &mut dyn FnMut(ObjectKey),
    ) {
        let mut index = self.index();
        if resource == Pods::RESOURCE.plural {
            index.pod_changed(event, add);
        } else {
            index.controller_changed::<K>(event, add);
        }
    }

    fn reset(&self) {
        *self.index() = Index::default();
    }

    fn rest(&self, key: &ObjectKey) -> Duration {
        rest_after(self.index().selection.count(key))
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let caches = self.context.objects.caches();
        let cached = caches.resource(K::RESOURCE.plural).and_then(|all| all.get(key));
        let Some(cached) = cached else { return Ok(Next::Done) };
        let desired = K::desired(cached.decode().map_err(SyncError::decode(key))?);
        let pods = self.pods_of(&desired, key)?;
        let observed = Observed { pods: &pods, now: Timestamp::now() };
        let actions = reconcile::reconcile(&desired, &observed);
        if actions.is_empty() {
            self.update_status(&desired, key, &observed, None).await?;
            let at = reconcile::changes_at(&desired, &observed);
            return Ok(at.map_or(Next::Done, |at| Next::at(at, observed.now)));
        }
        let performed = self.perform(&desired, key, actions).await;
        caches.fresh().await?;
        match performed {
            // What there is now is for the next pass to tell.
            Ok(()) => Ok(Next::After(Duration::ZERO)),
            Err(Trouble { failure, source }) => {
                self.update_status(&desired, key, &observed, failure.as_ref()).await?;
                Err(source)
            }
        }
    }
}

/// Why the actions of a pass were not all performed.
struct Trouble {
    /// For the status, when it is about making and deleting pods.
    failure: Option<Failure>,
    source: SyncError,
}

impl From<SyncError> for Trouble {
    fn from(source: SyncError) -> Self {
        Self { failure: None, source }
    }
}

impl<K: Replicated> Replication<K> {
    pub(super) fn new(context: Context) -> Self {
        Self { context, index: Mutex::default(), kind: PhantomData }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods that the selector selects, and those that name this object as their controller.
    fn pods_of(&self, desired: &Desired, key: &ObjectKey) -> Result<Vec<Arc<PodView>>, SyncError> {
        let owned = self.context.pods.cache().by_owner(desired.owner.uid.as_str());
        let mut keys: BTreeSet<_> = owned.iter().map(|pod| pod.key.clone()).collect();
        keys.extend(self.index().selection.selected(key));
        self.context.pods.get(keys).map_err(SyncError::decode(format_args!("a pod of {key}")))
    }

    async fn perform(
        &self,
        desired: &Desired,
        key: &ObjectKey,
        actions: Vec<Action>,
    ) -> Result<(), Trouble> {
        let mut deletions = Vec::new();
        for action in actions {
            match action {
                Action::Adopt { pod, uid } => self.adopt(desired, &pod, &uid).await?,
                Action::Release { pod, uid } => self.release(desired, &pod, &uid).await?,
                Action::Create(count) => self.create(desired, key, count).await?,
                Action::Delete { pod, uid } => deletions.push((pod, uid)),
            }
        }
        let deletions = deletions.into_iter().map(|(pod, uid)| self.delete(desired, key, pod, uid));
        let mut deletions = stream::iter(deletions).buffer_unordered(WRITES);
        let mut trouble = Ok(());
        while let Some(deleted) = deletions.next().await {
            trouble = trouble.and(deleted);
        }
        trouble
    }

    async fn adopt(&self, desired: &Desired, pod: &ObjectKey, uid: &str) -> Result<(), SyncError> {
        info!(%pod, controller = desired.owner.uid, "adopting pod");
        let owner = desired.owner.clone();
        self.change_owners(pod, uid, |owners| {
            let free = owners.iter().all(|owner| owner.controller != Some(true));
            if free {
                owners.push(owner.clone());
            }
            free
        })
        .await
    }

    async fn release(
        &self,
        desired: &Desired,
        pod: &ObjectKey,
        uid: &str,
    ) -> Result<(), SyncError> {
        let controller = &*desired.owner.uid;
        info!(%pod, controller, "releasing pod");
        self.change_owners(pod, uid, |owners| {
            let before = owners.len();
            owners.retain(|owner| owner.uid != controller);
            owners.len() < before
        })
        .await
    }

    async fn change_owners(
        &self,
        pod: &ObjectKey,
        uid: &str,
        change: impl Fn(&mut Vec<OwnerReference>) -> bool + Send + Sync,
    ) -> Result<(), SyncError> {
        let fence = &self.context.fence;
        let change = |stored: &mut Pod| {
            let mut owners = stored.metadata.owner_references.take().unwrap_or_default();
            let changed = stored.metadata.uid.as_deref() == Some(uid) && change(&mut owners);
            stored.metadata.owner_references = (!owners.is_empty()).then_some(owners);
            changed
        };
        match self.context.objects.update::<Pods>(pod, Part::Spec, fence, change).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => {
                other.map(drop).map_err(SyncError::write(format!("change the owner of pod {pod}")))
            }
        }
    }

    /// Makes pods in batches that double: when something keeps pods from being made, most likely it
    /// does so for all of them, and a few failures are enough to learn of it.
    async fn create(
        &self,
        desired: &Desired,
        key: &ObjectKey,
        count: usize,
    ) -> Result<(), Trouble> {
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let now = batch.min(left);
            let creations = (0..now).map(|_| self.create_one(desired, key));
            let mut creations = stream::iter(creations).buffer_unordered(WRITES);
            let mut trouble = Ok(());
            while let Some(created) = creations.next().await {
                trouble = trouble.and(created);
            }
            trouble?;
            left -= now;
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, desired: &Desired, key: &ObjectKey) -> Result<(), Trouble> {
        let pod = reconcile::new_pod(desired);
        match self.context.objects.create::<Pods>(pod, &self.context.fence).await {
            Ok(pod) => {
                let name = pod.metadata.name.unwrap_or_default();
                info!(controller = %key, pod = name, "created pod");
                let message = format!("Created pod: {name}");
                self.tell(Occurrence::normal, desired, key, "SuccessfulCreate", message);
                Ok(())
            }
            // Not worth a word: all of the namespace goes.
            Err(error) if super::is_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {error}");
                self.tell(Occurrence::warning, desired, key, "FailedCreate", message);
                Err(failed("FailedCreate", format!("create a pod of {key}"), error))
            }
        }
    }

    async fn delete(
        &self,
        desired: &Desired,
        key: &ObjectKey,
        pod: ObjectKey,
        uid: String,
    ) -> Result<(), Trouble> {
        let options = DeleteOptions { uid: Some(uid), ..DeleteOptions::default() };
        match self.context.objects.delete::<Pods>(&pod, options, &self.context.fence).await {
            Ok(()) => {
                info!(controller = %key, %pod, "deleted pod");
                let message = format!("Deleted pod: {}", pod.name);
                self.tell(Occurrence::normal, desired, key, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {error}");
                self.tell(Occurrence::warning, desired, key, "FailedDelete", message);
                Err(failed("FailedDelete", format!("delete pod {pod}"), error))
            }
        }
    }

    fn tell(
        &self,
        occurrence: fn(&str, ObjectReference, &str, String) -> Occurrence,
        desired: &Desired,
        key: &ObjectKey,
        reason: &str,
        message: String,
    ) {
        let object = ObjectReference {
            api_version: Some(desired.owner.api_version.clone()),
            ..reference(K::RESOURCE.kind, key, &desired.owner.uid)
        };
        self.context.recorder.record(occurrence(Self::NAME, object, reason, message));
    }

    async fn update_status(
        &self,
        desired: &Desired,
        key: &ObjectKey,
        observed: &Observed<'_>,
        failure: Option<&Failure>,
    ) -> Result<(), SyncError> {
        let status = reconcile::status(desired, observed, failure);
        if desired.status == status {
            return Ok(());
        }
        let change = |stored: &mut K::Object| {
            let same = stored.metadata().uid.as_ref() == Some(&desired.owner.uid);
            same && K::set_status(stored, status.clone())
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match objects.update::<K>(key, Part::Status, fence, change).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => {
                other.map(drop).map_err(SyncError::write(format!("write the status of {key}")))
            }
        }
    }
}

fn failed(reason: &'static str, what: String, source: ApiError) -> Trouble {
    let failure = Failure { reason, message: source.to_string() };
    Trouble { failure: Some(failure), source: SyncError::Write { what, source } }
}

impl Index {
    fn controller_changed<K: Replicated>(
        &mut self,
        event: &ObjectEvent,
        add: &mut dyn FnMut(ObjectKey),
    ) {
        let object = event.object();
        let key = Arc::new(object.key.clone());
        if let ObjectEvent::Deleted(_) = event {
            self.by_uid.remove(&object.uid);
            self.selection.set(&key, Labels::new());
            return;
        }
        // What does not decode is told by the pass.
        let selector = object.decode::<K::Object>().ok().map(|object| K::desired(object).selector);
        self.by_uid.insert(object.uid.clone(), object.key.clone());
        self.selection.set(&key, selector.unwrap_or_default());
        add(object.key.clone());
    }

    /// Its controller, the one before and the one now; and where it has none, all that could adopt it.
    fn pod_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let selecting = self.selection.pod_changed(event);
        let before = match event {
            ObjectEvent::Modified { old, .. } => Some(old),
            _ => None,
        };
        let mut free = false;
        for pod in before.into_iter().chain([event.object()]) {
            match &pod.controller_uid {
                Some(uid) => self.by_uid.get(uid).cloned().into_iter().for_each(&mut *add),
                None => free = true,
            }
        }
        if free {
            selecting.iter().for_each(|key| add((**key).clone()));
        }
    }
}
