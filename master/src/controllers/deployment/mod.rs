//! Keeps the pods of a Deployment at its template, by way of a ReplicaSet for each template.
//!
//! [`reconcile`](reconcile::reconcile) decides, [`Deployments`] performs one pass. Pods are the
//! ReplicaSets' business: what a Deployment knows of them is in its sets' statuses.

mod reconcile;
mod scale;
mod sets;
mod status;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use proto::selector::Selector;
use tracing::info;

use self::reconcile::{Action, Change, Observed};
use super::Context;
use super::driver::{Controller, Next, SyncError};
use crate::api::error::ApiError;
use crate::api::kinds::{self, Kind, Pods, ReplicaSets};
use crate::api::objects::{DeleteOptions, Part};
use crate::cache::ObjectEvent;
use crate::events::{Occurrence, reference};
use crate::selection::{Labels, Selection};

const DEPLOYMENTS: &str = kinds::Deployments::RESOURCE.plural;
const REPLICA_SETS: &str = ReplicaSets::RESOURCE.plural;

/// The controller. See the module's documentation.
pub(super) struct Deployments {
    context: Context,
    index: Mutex<Index>,
}

/// Which Deployment a change concerns.
#[derive(Default)]
struct Index {
    /// Of ReplicaSets.
    selection: Selection<ObjectKey>,
    by_uid: HashMap<String, ObjectKey>,
    /// Deployments that wait for the end of pods, with their uids.
    recreating: BTreeSet<String>,
    /// The controller of each ReplicaSet, by uids.
    of_set: HashMap<String, String>,
}

/// Why a pass ended early.
enum Trouble {
    /// The name for the new set belongs to another.
    Collision,
    /// The new set, by its name, could not be made.
    Creation(String, ApiError),
    Other(SyncError),
}

impl From<SyncError> for Trouble {
    fn from(error: SyncError) -> Self {
        Self::Other(error)
    }
}

#[async_trait]
impl Controller for Deployments {
    type Key = ObjectKey;

    const NAME: &'static str = "deployment-controller";

    fn resources(&self) -> Vec<&'static str> {
        vec![DEPLOYMENTS, REPLICA_SETS, Pods::RESOURCE.plural]
    }

    fn affected(
        &self,
        resource: &'static str,
        event: &ObjectEvent,
        add: &mut dyn FnMut(ObjectKey),
    ) {
        let mut index = self.index();
        match resource {
            DEPLOYMENTS => index.deployment_changed(event, add),
            REPLICA_SETS => index.set_changed(event, add),
            _ => index.pod_changed(event, add),
        }
    }

    fn reset(&self) {
        *self.index() = Index::default();
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let caches = self.context.objects.caches();
        let cached = caches.resource(DEPLOYMENTS).and_then(|all| all.get(key));
        let Some(cached) = cached else { return Ok(Next::Done) };
        let deployment: Deployment = cached.decode().map_err(SyncError::decode(key))?;
        let sets = self.sets_of(&deployment, key)?;
        let running = self.running(&deployment, &sets)?;
        let observed = Observed { sets: &sets, running: &running, now: Timestamp::now() };
        let plan = reconcile::reconcile(&deployment, &observed);
        let acts = !plan.actions.is_empty();
        let mut status = plan.status;
        let mut performed = Ok(());
        for action in plan.actions {
            performed = self.perform(&deployment, key, action).await;
            if performed.is_err() {
                break;
            }
        }
        if acts {
            caches.fresh().await?;
        }
        match performed {
            Ok(()) => {}
            Err(Trouble::Other(error)) => return Err(error),
            Err(Trouble::Collision) => {
                let mut status = deployment.status.clone().unwrap_or_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                info!(deployment = %key, count = status.collision_count, "hash collision");
                self.write_status(&deployment, key, &status, None).await?;
                return Ok(Next::After(Duration::ZERO));
            }
            Err(Trouble::Creation(set, source)) => {
                let message = source.to_string();
                status::creation_failed(&mut status, &set, &message, observed.now);
                self.write_status(&deployment, key, &status, None).await?;
                let what = format!("create ReplicaSet {set} of {key}");
                return Err(SyncError::Write { what, source });
            }
        }
        self.write_status(&deployment, key, &status, plan.revision).await?;
        if acts {
            return Ok(Next::After(Duration::ZERO));
        }
        Ok(plan.changes_at.map_or(Next::Done, |at| Next::at(at, observed.now)))
    }
}

impl Deployments {
    pub(super) fn new(context: Context) -> Self {
        Self { context, index: Mutex::default() }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sets that the selector selects, and those that name this object as their controller.
    fn sets_of(
        &self,
        deployment: &Deployment,
        key: &ObjectKey,
    ) -> Result<Vec<ReplicaSet>, SyncError> {
        let Some(cache) = self.context.objects.caches().resource(REPLICA_SETS) else {
            return Ok(Vec::new());
        };
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let owned = cache.by_owner(uid);
        let mut keys: BTreeSet<ObjectKey> = owned.iter().map(|set| set.key.clone()).collect();
        keys.extend(self.index().selection.selected(key));
        let found = keys.iter().filter_map(|key| cache.get(key));
        let decode = |what: &str| SyncError::decode(format!("{what} of {key}"));
        found.map(|set| set.decode().map_err(decode("a ReplicaSet"))).collect()
    }

    /// Which of the sets have pods that have not ended.
    fn running(
        &self,
        deployment: &Deployment,
        all: &[ReplicaSet],
    ) -> Result<BTreeSet<String>, SyncError> {
        let mut running = BTreeSet::new();
        if !sets::recreates(deployment) {
            return Ok(running);
        }
        for set in all {
            let pods = self.context.pods.cache().by_owner(sets::uid(set));
            for pod in pods {
                let view = self.context.pods.of(&pod);
                let view = view.map_err(SyncError::decode(format!("pod {}", pod.key)))?;
                if !view.is_finished() {
                    running.insert(sets::uid(set).to_owned());
                    break;
                }
            }
        }
        Ok(running)
    }

    async fn perform(
        &self,
        deployment: &Deployment,
        key: &ObjectKey,
        action: Action,
    ) -> Result<(), Trouble> {
        let named = |set: &str| ObjectKey::new(key.namespace.clone(), set);
        let own = deployment.metadata.uid.as_deref().unwrap_or_default();
        match action {
            Action::Adopt { set, uid } => {
                info!(deployment = %key, set, "adopting ReplicaSet");
                let owner = sets::owner_reference(deployment);
                self.change_owners(&named(&set), &uid, |owners| {
                    let free = owners.iter().all(|owner| owner.controller != Some(true));
                    if free {
                        owners.push(owner.clone());
                    }
                    free
                })
                .await?;
            }
            Action::Release { set, uid } => {
                info!(deployment = %key, set, "releasing ReplicaSet");
                self.change_owners(&named(&set), &uid, |owners| {
                    let before = owners.len();
                    owners.retain(|owner| owner.uid != own);
                    owners.len() < before
                })
                .await?;
            }
            Action::Create(set) => self.create(deployment, key, *set).await?,
            Action::Change { set, uid, change } => {
                self.change(deployment, key, &set, &uid, &change).await?;
            }
            Action::Delete { set, uid } => {
                info!(deployment = %key, set, "forgetting a revision");
                let options = DeleteOptions { uid: Some(uid), ..DeleteOptions::default() };
                let (objects, fence) = (&self.context.objects, &self.context.fence);
                match objects.delete::<ReplicaSets>(&named(&set), options, fence).await {
                    Err(error) if error.is_not_found() => {}
                    other => other.map_err(SyncError::write(format!("delete ReplicaSet {set}")))?,
                }
            }
        }
        Ok(())
    }

    async fn change_owners(
        &self,
        set: &ObjectKey,
        uid: &str,
        change: impl Fn(&mut Vec<OwnerReference>) -> bool + Send + Sync,
    ) -> Result<(), SyncError> {
        let change = |stored: &mut ReplicaSet| {
            let mut owners = stored.metadata.owner_references.take().unwrap_or_default();
            let changed = stored.metadata.uid.as_deref() == Some(uid) && change(&mut owners);
            stored.metadata.owner_references = (!owners.is_empty()).then_some(owners);
            changed
        };
        self.update_set(set, change).await.map(drop)
    }

    /// Tells whether anything was changed.
    async fn update_set(
        &self,
        set: &ObjectKey,
        change: impl FnMut(&mut ReplicaSet) -> bool + Send,
    ) -> Result<bool, SyncError> {
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match objects.update::<ReplicaSets>(set, Part::Spec, fence, change).await {
            Err(error) if error.is_not_found() => Ok(false),
            other => other
                .map(|written| written.is_some())
                .map_err(SyncError::write(format!("change ReplicaSet {set}"))),
        }
    }

    async fn create(
        &self,
        deployment: &Deployment,
        key: &ObjectKey,
        set: ReplicaSet,
    ) -> Result<(), Trouble> {
        let name = sets::name(&set).to_owned();
        let size = sets::replicas(&set);
        match self.context.objects.create::<ReplicaSets>(set, &self.context.fence).await {
            Ok(_) => {
                info!(deployment = %key, set = name, size, "created ReplicaSet");
                if size > 0 {
                    self.tell_scaled(deployment, key, &name, 0, size);
                }
                Ok(())
            }
            Err(error) if super::is_terminating(&error) => Ok(()),
            Err(error) if error.is_already_exists() => {
                let caches = self.context.objects.caches();
                caches.fresh().await.map_err(SyncError::from)?;
                let set_key = ObjectKey::new(key.namespace.clone(), name);
                let found = caches.resource(REPLICA_SETS).and_then(|all| all.get(&set_key));
                // What is gone meanwhile, or is ours after all, the next pass sees.
                let Some(found) = found else { return Ok(()) };
                let set: ReplicaSet = found.decode().map_err(SyncError::decode(&set_key))?;
                let ours = found.controller_uid == deployment.metadata.uid
                    && sets::is_of_template(&set, &deployment.spec.template);
                if ours { Ok(()) } else { Err(Trouble::Collision) }
            }
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                let object = about(deployment, key);
                let event =
                    Occurrence::warning(Self::NAME, object, "ReplicaSetCreateError", message);
                self.context.recorder.record(event);
                Err(Trouble::Creation(name, error))
            }
        }
    }

    async fn change(
        &self,
        deployment: &Deployment,
        key: &ObjectKey,
        set: &str,
        uid: &str,
        change: &Change,
    ) -> Result<(), SyncError> {
        let apply = |stored: &mut ReplicaSet| {
            let decided_on = change.replicas.is_none_or(|(from, _)| from == sets::replicas(stored));
            if stored.metadata.uid.as_deref() != Some(uid) || !decided_on {
                return false;
            }
            if let Some((_, to)) = change.replicas {
                stored.spec.replicas = Some(to);
            }
            if let Some(seconds) = change.min_ready_seconds {
                stored.spec.min_ready_seconds = seconds;
            }
            let annotations = stored.metadata.annotations.get_or_insert_default();
            annotations.extend(change.annotations.clone());
            true
        };
        let set_key = ObjectKey::new(key.namespace.clone(), set);
        let changed = self.update_set(&set_key, apply).await?;
        if let Some((from, to)) = change.replicas.filter(|_| changed) {
            info!(deployment = %key, set, from, to, "scaled ReplicaSet");
            self.tell_scaled(deployment, key, set, from, to);
        }
        Ok(())
    }

    fn tell_scaled(&self, deployment: &Deployment, key: &ObjectKey, set: &str, from: i32, to: i32) {
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {set} from {from} to {to}");
        let object = about(deployment, key);
        let event = Occurrence::normal(Self::NAME, object, "ScalingReplicaSet", message);
        self.context.recorder.record(event);
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        key: &ObjectKey,
        status: &DeploymentStatus,
        revision: Option<String>,
    ) -> Result<(), SyncError> {
        if deployment.status.as_ref() == Some(status) && revision.is_none() {
            return Ok(());
        }
        let change = |stored: &mut Deployment| {
            let same = stored.metadata.uid == deployment.metadata.uid;
            if same {
                stored.status = Some(status.clone());
                if let Some(revision) = &revision {
                    let annotations = stored.metadata.annotations.get_or_insert_default();
                    annotations.insert(sets::REVISION.to_owned(), revision.clone());
                }
            }
            same
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match objects.update::<kinds::Deployments>(key, Part::Status, fence, change).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => {
                other.map(drop).map_err(SyncError::write(format!("write the status of {key}")))
            }
        }
    }
}

fn about(deployment: &Deployment, key: &ObjectKey) -> ObjectReference {
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    let object = reference(kinds::Deployments::RESOURCE.kind, key, uid);
    ObjectReference { api_version: Some("apps/v1".to_owned()), ..object }
}

impl Index {
    fn deployment_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let object = event.object();
        let key = Arc::new(object.key.clone());
        self.recreating.remove(&object.uid);
        if let ObjectEvent::Deleted(_) = event {
            self.by_uid.remove(&object.uid);
            self.selection.set(&key, Labels::new());
            return;
        }
        self.by_uid.insert(object.uid.clone(), object.key.clone());
        // What does not decode is told by the pass.
        if let Ok(deployment) = object.decode::<Deployment>() {
            let selector = Selector::from_label_selector(&deployment.spec.selector);
            self.selection.set(&key, selector.unwrap_or_default());
            if sets::recreates(&deployment) {
                self.recreating.insert(object.uid.clone());
            }
        }
        add(object.key.clone());
    }

    /// Its controller, the one before and the one now; and where it has none, all that could adopt it.
    fn set_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let selecting = self.selection.pod_changed(event);
        let before = match event {
            ObjectEvent::Modified { old, .. } => Some(old),
            _ => None,
        };
        let mut free = false;
        for set in before.into_iter().chain([event.object()]) {
            match &set.controller_uid {
                Some(uid) => self.by_uid.get(uid).cloned().into_iter().for_each(&mut *add),
                None => free = true,
            }
        }
        if free {
            selecting.iter().for_each(|key| add((**key).clone()));
        }
        let set = event.object();
        match (&set.controller_uid, event) {
            (Some(controller), ObjectEvent::Added(_) | ObjectEvent::Modified { .. }) => {
                self.of_set.insert(set.uid.clone(), controller.clone());
            }
            _ => {
                self.of_set.remove(&set.uid);
            }
        }
    }

    /// Only who waits for the end of pods looks at them.
    fn pod_changed(&self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let Some(set) = &event.object().controller_uid else { return };
        let deployment = self.of_set.get(set).filter(|uid| self.recreating.contains(*uid));
        let key = deployment.and_then(|uid| self.by_uid.get(uid));
        key.cloned().into_iter().for_each(add);
    }
}
