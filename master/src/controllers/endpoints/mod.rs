//! Keeps `EndpointSlices` and `Endpoints` equal to the pods that Services select.
//!
//! * [`addresses`]: pods → endpoints;
//! * [`topology`]: zones, and for whom endpoints are meant;
//! * [`slices`]: endpoints → the fewest changes of slices;
//! * [`strays`]: slices that bear our name and are nobody's;
//! * [`legacy`]: pods → the `Endpoints` object that older clients read.
//!
//! A Service without a selector is left alone; Endpoints written by hand for it are taken over into
//! slices, which is all that nodes look at.

mod addresses;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod legacy;
mod slices;
mod strays;
mod topology;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use self::slices::{Action, Frame};
use self::strays::Strays;
use super::Context;
use super::driver::{Controller, Next, SyncError, rest_after};
use super::pods::PodView;
use crate::api::error::ApiError;
use crate::api::kinds::endpoint_slice::EndpointSlices;
use crate::api::kinds::endpoints::EndpointsKind;
use crate::api::objects::{DeleteOptions, Part};
use crate::cache::{CachedObject, ObjectEvent, ResourceCache};
use crate::events::{Occurrence, reference};
use crate::selection::{Labels, Selection};

/// Who looks after the slices of Services with a selector.
const SLICES: &str = "endpointslice-controller.k8s.io";
/// Who looks after the slices that repeat hand-made Endpoints.
const MIRRORED: &str = "endpointslicemirroring-controller.k8s.io";
/// Says that Endpoints are not to be repeated.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// The controller. See the module's documentation.
pub(super) struct EndpointsController {
    context: Context,
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    selection: Selection<ObjectKey>,
    /// Services whose deletion was seen and not yet followed: their Endpoints go too, even those
    /// written by hand.
    gone: HashSet<ObjectKey>,
    /// Slices that say that they are ours, and are owned by nobody whom we make slices for; and the
    /// Services that they say they are of.
    strays: Strays,
    zones: topology::auto::Zones,
    /// Services whose endpoints are meant for zones as these have CPUs, and what came of it last.
    by_zones: HashMap<ObjectKey, Outcomes>,
}

type Outcomes = BTreeMap<addresses::Family, Result<(), topology::auto::Unhinted>>;

#[async_trait]
impl Controller for EndpointsController {
    type Key = ObjectKey;

    const NAME: &'static str = "endpoints-controller";

    fn resources(&self) -> Vec<&'static str> {
        vec!["services", "pods", "endpoints", "endpointslices", "nodes"]
    }

    fn affected(
        &self,
        resource: &'static str,
        event: &ObjectEvent,
        add: &mut dyn FnMut(ObjectKey),
    ) {
        match resource {
            "services" => self.index().service_changed(event, add),
            "pods" => self.index().pod_changed(event, add),
            "endpoints" => add(event.object().key.clone()),
            "nodes" => self.node_changed(event, add),
            _ => {
                let slice = event.object();
                self.index().strays.slice_changed(event);
                if let Some(service) = slice.labels.get(slices::SERVICE_NAME) {
                    add(ObjectKey::new(slice.key.namespace.clone(), service.clone()));
                }
            }
        }
    }

    fn reset(&self) {
        *self.index() = Index::default();
    }

    fn rest(&self, key: &ObjectKey) -> Duration {
        rest_after(self.index().selection.count(key))
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(cached) = self.cached("services", key) else {
            self.remove_endpoints(key).await?;
            return Ok(Next::Done);
        };
        let service: Service = cached.decode().map_err(SyncError::decode(key))?;
        let spec = service.spec.clone().unwrap_or_default();
        // Such a Service is a name for something outside.
        if spec.type_.as_deref() == Some("ExternalName") {
            return Ok(Next::Done);
        }
        let strays = self.remove_strays(key).await?;
        let wrote = if spec.selector.is_none_or(|selector| selector.is_empty()) {
            self.mirror(key, &cached, false).await?
        } else {
            let pods = self.pods_of(key)?;
            let endpoints = self.write_endpoints(key, &service, &pods).await?;
            let slices = self.write_slices(key, &cached, &service, &pods).await?;
            // Of the time when it had no selector.
            let mirrored = self.mirror(key, &cached, true).await?;
            endpoints || slices || mirrored
        };
        if wrote || strays {
            // The next pass must find what this one has made.
            self.context.objects.caches().fresh().await?;
        }
        Ok(Next::Done)
    }
}

impl EndpointsController {
    pub(super) fn new(context: Context) -> Self {
        Self { context, index: Mutex::default() }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self, resource: &str) -> Option<&Arc<ResourceCache>> {
        self.context.objects.caches().resource(resource)
    }

    fn cached(&self, resource: &str, key: &ObjectKey) -> Option<Arc<CachedObject>> {
        self.cache(resource)?.get(key)
    }

    fn pods_of(&self, key: &ObjectKey) -> Result<Vec<Arc<PodView>>, SyncError> {
        let mut keys = self.index().selection.selected(key);
        keys.sort();
        self.context.pods.get(keys).map_err(SyncError::decode(format_args!("a pod of {key}")))
    }

    /// A node that came to be in another zone takes its endpoints along. A node is there before its
    /// pods, so nothing is to be done for a new one, but for Services that look at all zones.
    fn node_changed(&self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let present = match event {
            ObjectEvent::Deleted(_) => None,
            _ => event.object().decode::<Node>().ok(),
        };
        let mut index = self.index();
        if index.zones.node_changed(&event.object().key.name, present.as_ref()) {
            index.by_zones.keys().for_each(|key| add(key.clone()));
        }
        drop(index);
        let ObjectEvent::Modified { new, old } = event else { return };
        if new.labels.get(topology::ZONE) == old.labels.get(topology::ZONE) {
            return;
        }
        let pods = self.cache("pods").map(|pods| pods.pods_on_node(&new.key.name));
        let index = self.index();
        for pod in pods.into_iter().flatten() {
            let services = index.selection.of(&pod.key.namespace, &pod.labels);
            services.iter().for_each(|key| add((**key).clone()));
        }
    }

    /// The slices that an object owns and one of our managers looks after.
    fn slices_of(&self, owner: &str, manager: &str) -> Result<Vec<EndpointSlice>, SyncError> {
        let owned = self.cache("endpointslices").map(|slices| slices.by_owner(owner));
        let ours = owned.into_iter().flatten().filter(|slice| {
            let by = slice.labels.get(slices::MANAGED_BY);
            by.is_some_and(|by| by == manager) && !slice.deleting
        });
        ours.map(|slice| slice.decode().map_err(SyncError::decode(&slice.key))).collect()
    }

    /// Slices that bear our name and that nobody's end would take away, out of a backup perhaps: nodes
    /// would send traffic there for ever.
    async fn remove_strays(&self, key: &ObjectKey) -> Result<bool, SyncError> {
        let strays = self.index().strays.of(key);
        let mut actions = Vec::new();
        for key in strays {
            if let Some(slice) = self.cached("endpointslices", &key) {
                actions.push(Action::Delete { key, uid: slice.uid.clone() });
            }
        }
        self.perform(key, actions).await
    }

    async fn write_endpoints(
        &self,
        key: &ObjectKey,
        service: &Service,
        pods: &[Arc<PodView>],
    ) -> Result<bool, SyncError> {
        let desired = legacy::endpoints(service, pods);
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        let written = match self.cached("endpoints", key) {
            None => objects.create::<EndpointsKind>(desired, fence).await.map(|_| true),
            Some(cached) => {
                let mut stored: Endpoints = cached.decode().map_err(SyncError::decode(key))?;
                if !legacy::update(&mut stored, &desired) {
                    return Ok(false);
                }
                let change = |stored: &mut Endpoints| legacy::update(stored, &desired);
                let updated = objects.update::<EndpointsKind>(key, Part::Spec, fence, change).await;
                updated.map(|updated| updated.is_some())
            }
        };
        written.or_else(|error| ended(error, || format!("write the endpoints of {key}")))
    }

    async fn write_slices(
        &self,
        key: &ObjectKey,
        cached: &CachedObject,
        service: &Service,
        pods: &[Arc<PodView>],
    ) -> Result<bool, SyncError> {
        let spec = service.spec.clone().unwrap_or_default();
        let mut labels = cached.labels.clone();
        if addresses::is_headless(&spec) {
            labels.insert(legacy::HEADLESS.to_owned(), String::new());
        }
        let frame = Frame {
            service: key.clone(),
            labels: slice_labels(labels, key, SLICES),
            owner: owner("Service", key, &cached.uid),
            placeholder: addresses::families(&spec).first().copied(),
        };
        let existing = self.slices_of(&cached.uid, SLICES)?;
        let mut desired = addresses::of_pods(service, pods);
        topology::place(&mut desired, &spec, |node| {
            let node = self.cached("nodes", &ObjectKey::new("", node))?;
            node.labels.get(topology::ZONE).cloned()
        });
        if topology::auto::is_asked(service) {
            let outcomes = topology::auto::hint(&mut desired, &self.index().zones);
            self.tell_of_hints(key, &cached.uid, outcomes);
        }
        self.perform(key, slices::reconcile(&frame, &existing, desired)).await
    }

    /// Whether endpoints are meant for zones is told when that changes.
    fn tell_of_hints(&self, key: &ObjectKey, uid: &str, outcomes: Outcomes) {
        let before = match self.index().by_zones.get_mut(key) {
            Some(told) => std::mem::replace(told, outcomes.clone()),
            // Nobody asks for it any more.
            None => return,
        };
        for (family, outcome) in
            outcomes.iter().filter(|(family, now)| before.get(family) != Some(now))
        {
            let (object, family) = (reference("Service", key, uid), family.as_str());
            self.context.recorder.record(match outcome {
                Ok(()) => {
                    let message = format!("{family} endpoints are meant for zones by these' CPUs");
                    Occurrence::normal(Self::NAME, object, "TopologyAwareHintsEnabled", message)
                }
                Err(error) => {
                    let message =
                        format!("traffic to {family} endpoints goes to all zones: {error}");
                    Occurrence::warning(Self::NAME, object, "TopologyAwareHintsDisabled", message)
                }
            });
        }
    }

    /// Repeats Endpoints written by hand as slices; with a `selector` there are none to repeat.
    async fn mirror(
        &self,
        key: &ObjectKey,
        service: &CachedObject,
        selector: bool,
    ) -> Result<bool, SyncError> {
        let Some(cached) = self.cached("endpoints", key) else { return Ok(false) };
        let skipped = cached.labels.get(SKIP_MIRROR).is_some_and(|skip| skip == "true");
        // Left behind by a selector that the Service had before: nobody wrote these by hand.
        let ours = cached.labels.get(legacy::MANAGED_BY).is_some_and(|by| by == legacy::MANAGER);
        let desired = if selector || skipped || ours || service.deleting {
            BTreeMap::new()
        } else {
            addresses::of_endpoints(&cached.decode().map_err(SyncError::decode(key))?)
        };
        let frame = Frame {
            service: key.clone(),
            labels: slice_labels(cached.labels.clone(), key, MIRRORED),
            owner: owner("Endpoints", key, &cached.uid),
            placeholder: None,
        };
        let existing = self.slices_of(&cached.uid, MIRRORED)?;
        self.perform(key, slices::reconcile(&frame, &existing, desired)).await
    }

    async fn perform(&self, key: &ObjectKey, actions: Vec<Action>) -> Result<bool, SyncError> {
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        let wrote = !actions.is_empty();
        for action in actions {
            let done = match action {
                Action::Create(slice) => {
                    objects.create::<EndpointSlices>(slice, fence).await.map(drop)
                }
                Action::Update(slice) => {
                    let name = slice.metadata.name.clone().unwrap_or_default();
                    let name = ObjectKey::new(key.namespace.clone(), name);
                    let change = |stored: &mut EndpointSlice| {
                        stored.metadata.labels.clone_from(&slice.metadata.labels);
                        stored.endpoints.clone_from(&slice.endpoints);
                        stored.ports.clone_from(&slice.ports);
                        true
                    };
                    let part = Part::Spec;
                    objects.update::<EndpointSlices>(&name, part, fence, change).await.map(drop)
                }
                Action::Delete { key, uid } => {
                    let options = DeleteOptions { uid: Some(uid), ..DeleteOptions::default() };
                    objects.delete::<EndpointSlices>(&key, options, fence).await
                }
            };
            if let Err(error) = done {
                ended(error, || format!("write an endpoint slice of {key}"))?;
            }
        }
        Ok(wrote)
    }

    /// The Service is gone. Its slices go by their owner; its Endpoints have none.
    async fn remove_endpoints(&self, key: &ObjectKey) -> Result<(), SyncError> {
        let was_there = self.index().gone.contains(key);
        if let Some(cached) = self.cached("endpoints", key) {
            let ours =
                cached.labels.get(legacy::MANAGED_BY).is_some_and(|by| by == legacy::MANAGER);
            if ours || was_there {
                let uid = Some(cached.uid.clone());
                let options = DeleteOptions { uid, ..DeleteOptions::default() };
                let (objects, fence) = (&self.context.objects, &self.context.fence);
                if let Err(error) = objects.delete::<EndpointsKind>(key, options, fence).await {
                    ended(error, || format!("delete the endpoints of {key}"))?;
                }
            }
        }
        self.index().gone.remove(key);
        Ok(())
    }
}

/// What is gone already, or cannot be made any more because all of its namespace goes, is no
/// failure. Tells whether something may have been written.
fn ended(error: ApiError, what: impl FnOnce() -> String) -> Result<bool, SyncError> {
    if error.is_not_found() || super::is_terminating(&error) {
        return Ok(false);
    }
    Err(SyncError::Write { what: what(), source: error })
}

fn slice_labels(mut labels: Labels, service: &ObjectKey, manager: &str) -> Labels {
    labels.remove(legacy::MANAGED_BY);
    labels.insert(slices::SERVICE_NAME.to_owned(), service.name.clone());
    labels.insert(slices::MANAGED_BY.to_owned(), manager.to_owned());
    labels
}

fn owner(kind: &str, key: &ObjectKey, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        name: key.name.clone(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

impl Index {
    fn service_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let object = event.object();
        let service = match event {
            ObjectEvent::Deleted(_) => {
                self.gone.insert(object.key.clone());
                None
            }
            _ => {
                self.gone.remove(&object.key);
                // What does not decode is told by the pass.
                object.decode::<Service>().ok()
            }
        };
        if service.as_ref().is_some_and(topology::auto::is_asked) {
            self.by_zones.entry(object.key.clone()).or_default();
        } else {
            self.by_zones.remove(&object.key);
        }
        let selector = service.and_then(|service| service.spec?.selector);
        self.selection.set(&Arc::new(object.key.clone()), selector.unwrap_or_default());
        add(object.key.clone());
    }

    fn pod_changed(&mut self, event: &ObjectEvent, add: &mut dyn FnMut(ObjectKey)) {
        let concerned = self.selection.pod_changed(event);
        concerned.iter().for_each(|key| add((**key).clone()));
    }
}
