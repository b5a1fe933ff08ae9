//! Keeps the number of live pods equal to `spec.replicas`.
//!
//! [`reconcile`](reconcile::reconcile) decides, [`Replication`] performs one pass.
//!
//! A pass that has made or deleted pods ends when the caches have seen it. So the next pass finds
//! its own work in what it observes, and no count of expected changes has to be kept.

mod reconcile;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use tracing::info;

use self::reconcile::{Action, Failure, Observed};
use super::Context;
use super::driver::{Controller, Next, SyncError, rest_after};
use super::pods::PodView;
use crate::api::error::ApiError;
use crate::api::kinds::pod::Pods;
use crate::api::kinds::replication_controller::ReplicationControllers;
use crate::api::objects::{DeleteOptions, Part};
use crate::cache::ObjectEvent;
use crate::events::{Occurrence, reference};
use crate::selection::{Labels, Selection};

/// Writes of one pass under way at a time.
const WRITES: usize = 16;

/// The controller. See the module's documentation.
pub(super) struct Replication {
    context: Context,
    index: Mutex<Index>,
}

/// Which objects a pod may concern.
#[derive(Default)]
struct Index {
    selection: Selection<ObjectKey>,
    by_uid: HashMap<String, ObjectKey>,
}

#[async_trait]
impl Controller for Replication {
    type Key = ObjectKey;

    const NAME: &'static str = "replication-controller";

    fn resources(&self) -> Vec<&'static str> {
        vec!["replicationcontrollers", "pods"]
    }

    fn affected(
        &self,
        resource: &'static str,
        event: &ObjectEvent,
        add: &mut dyn FnMut(ObjectKey),
    ) {
        let mut index = self.index();
        match resource {
            "replicationcontrollers" => index.controller_changed(event, add),
            _ => index.pod_changed(event, add),
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
        let Some(cached) = caches.resource("replicationcontrollers").and_then(|all| all.get(key))
        else {
            return Ok(Next::Done);
        };
        let desired: ReplicationController = cached.decode().map_err(SyncError::decode(key))?;
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

impl Replication {
    pub(super) fn new(context: Context) -> Self {
        Self { context, index: Mutex::default() }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods that the selector selects, and those that name this object as their controller.
    fn pods_of(
        &self,
        desired: &ReplicationController,
        key: &ObjectKey,
    ) -> Result<Vec<Arc<PodView>>, SyncError> {
        let owned = self.context.pods.cache().by_owner(reconcile::uid(desired));
        let mut keys: BTreeSet<_> = owned.iter().map(|pod| pod.key.clone()).collect();
        keys.extend(self.index().selection.selected(key));
        self.context.pods.get(keys).map_err(SyncError::decode(format_args!("a pod of {key}")))
    }

    async fn perform(
        &self,
        desired: &ReplicationController,
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

    async fn adopt(
        &self,
        desired: &ReplicationController,
        pod: &ObjectKey,
        uid: &str,
    ) -> Result<(), SyncError> {
        info!(%pod, controller = reconcile::uid(desired), "adopting pod");
        let owner = reconcile::owner_reference(desired);
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
        desired: &ReplicationController,
        pod: &ObjectKey,
        uid: &str,
    ) -> Result<(), SyncError> {
        let controller = reconcile::uid(desired);
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
        desired: &ReplicationController,
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

    async fn create_one(
        &self,
        desired: &ReplicationController,
        key: &ObjectKey,
    ) -> Result<(), Trouble> {
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
        desired: &ReplicationController,
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
        desired: &ReplicationController,
        key: &ObjectKey,
        reason: &str,
        message: String,
    ) {
        let object = reference("ReplicationController", key, reconcile::uid(desired));
        self.context.recorder.record(occurrence(Self::NAME, object, reason, message));
    }

    async fn update_status(
        &self,
        desired: &ReplicationController,
        key: &ObjectKey,
        observed: &Observed<'_>,
        failure: Option<&Failure>,
    ) -> Result<(), SyncError> {
        let status = reconcile::status(desired, observed, failure);
        if desired.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let change = |stored: &mut ReplicationController| {
            let same = stored.metadata.uid == desired.metadata.uid;
            let changed = same && stored.status.as_ref() != Some(&status);
            if changed {
                stored.status = Some(status.clone());
            }
            changed
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match objects.update::<ReplicationControllers>(key, Part::Status, fence, change).await {
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
    fn controller_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let object = event.object();
        let key = Arc::new(object.key.clone());
        if let ObjectEvent::Deleted(_) = event {
            self.by_uid.remove(&object.uid);
            self.selection.set(&key, Labels::new());
            return;
        }
        // What does not decode is told by the pass.
        let selector = object.decode::<ReplicationController>().ok();
        let selector = selector.and_then(|controller| controller.spec?.selector);
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
