//! What every cluster has from the start, kept true by the leader: the namespaces that clients expect,
//! the priority classes of the system, and the Service `default/kubernetes` that leads to the masters that run.

mod objects;

use std::net::IpAddr;
use std::time::Duration;

use proto::ObjectKey;
use proto::k8s::api::core::v1::{Endpoints, Service};
use proto::k8s::api::discovery::v1::EndpointSlice;
use proto::priority::SYSTEM_CLASSES;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::error::ApiError;
use crate::api::kinds::lease::NODE_NAMESPACE;
use crate::api::kinds::{
    EndpointSlices, EndpointsKind, Kind, Namespaces, PriorityClasses, Services, priority_class,
};
use crate::api::objects::{DeleteOptions, Objects, Part};
use crate::cache::{Interest, KeySubscription, Subscription};
use crate::masters;
use crate::store::{Compare, keys};

/// The namespaces that exist from the start.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", NODE_NAMESPACE];
/// Before another attempt after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The resources that hold an object of the Service.
const SERVICE_RESOURCES: [&str; 3] =
    [Services::RESOURCE.plural, EndpointsKind::RESOURCE.plural, EndpointSlices::RESOURCE.plural];

/// Keeps all of it true while this master leads, until shutdown.
pub async fn run(
    objects: Objects,
    address: IpAddr,
    mut fence: watch::Receiver<Option<Compare>>,
    shutdown: CancellationToken,
) {
    loop {
        let term = fence.borrow_and_update().clone();
        let lead = async {
            match term {
                Some(fence) => lead(&objects, address, &[fence]).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = fence.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = lead => {}
        }
    }
}

/// Returns once all of it has been made, by whichever master.
pub async fn made(objects: &Objects) {
    let mut revisions = objects.caches().watch_revision();
    loop {
        let there = |resource: &str, key: &ObjectKey| {
            objects.caches().resource(resource).is_some_and(|cache| cache.get(key).is_some())
        };
        let namespaces = NAMESPACES
            .iter()
            .all(|name| there(Namespaces::RESOURCE.plural, &ObjectKey::new("", *name)));
        let classes = SYSTEM_CLASSES
            .iter()
            .all(|class| there(PriorityClasses::RESOURCE.plural, &ObjectKey::new("", class.name)));
        if namespaces && classes && there(Services::RESOURCE.plural, &objects::service_key()) {
            return;
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Follows what could make it untrue.
struct Followed {
    masters: KeySubscription,
    objects: Vec<Subscription>,
}

impl Followed {
    fn new(objects: &Objects) -> Self {
        let caches = objects.caches();
        let follow = |resource: &str, key: ObjectKey| {
            let cache = caches.resource(resource)?;
            Some(cache.list_and_subscribe_to(Interest::Object(key)).2)
        };
        let namespaces = NAMESPACES.iter().map(|name| {
            let key = ObjectKey::new("", *name);
            follow(Namespaces::RESOURCE.plural, key)
        });
        let classes = SYSTEM_CLASSES.iter().map(|class| {
            let key = ObjectKey::new("", class.name);
            follow(PriorityClasses::RESOURCE.plural, key)
        });
        let service =
            SERVICE_RESOURCES.iter().map(|resource| follow(resource, objects::service_key()));
        Self {
            masters: caches.keys(keys::MASTERS).list_and_subscribe().2,
            objects: namespaces.chain(classes).chain(service).flatten().collect(),
        }
    }

    /// Something happened; whatever it was, one looks at everything again.
    async fn changed(&mut self) {
        let objects =
            futures::future::select_all(self.objects.iter_mut().map(|one| Box::pin(one.next())));
        tokio::select! {
            _ = self.masters.next() => {}
            _ = objects => {}
        }
    }
}

async fn lead(objects: &Objects, address: IpAddr, fence: &[Compare]) {
    loop {
        let mut followed = Followed::new(objects);
        match keep(objects, address, fence).await {
            Ok(()) => followed.changed().await,
            Err(error) if error.is_fenced_off() => std::future::pending().await,
            Err(error) => {
                warn!(%error, "failed to make what every cluster has; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// One pass: makes what is missing, puts right what is wrong.
async fn keep(objects: &Objects, address: IpAddr, fence: &[Compare]) -> Result<(), ApiError> {
    objects.caches().fresh().await?;
    for name in NAMESPACES {
        let key = ObjectKey::new("", name);
        if current::<Namespaces>(objects, &key)?.is_none() {
            create::<Namespaces>(objects, objects::namespace(name), fence).await?;
        }
    }
    for class in priority_class::initial() {
        let key = ObjectKey::new("", class.metadata.name.clone().unwrap_or_default());
        if current::<PriorityClasses>(objects, &key)?.is_none() {
            create::<PriorityClasses>(objects, class, fence).await?;
        }
    }
    let masters = masters::running(objects.caches());
    keep_service(objects, objects::service(address, &masters), fence).await?;
    keep_endpoints(objects, objects::endpoints(address, &masters), fence).await?;
    keep_slice(objects, objects::endpoint_slice(address, &masters), fence).await
}

async fn keep_service(
    objects: &Objects,
    desired: Service,
    fence: &[Compare],
) -> Result<(), ApiError> {
    let key = objects::service_key();
    let wanted = desired.spec.clone().unwrap_or_default();
    if let Some(found) = current::<Services>(objects, &key)? {
        let found = found.spec.unwrap_or_default();
        if found.cluster_ip == wanted.cluster_ip {
            if objects::same_ports(&found, &wanted) {
                return Ok(());
            }
            objects
                .update::<Services>(&key, Part::Spec, fence, |service| {
                    service.spec.get_or_insert_default().ports.clone_from(&wanted.ports);
                    true
                })
                .await?;
            return Ok(());
        }
        // The range of the services was changed; an address cannot be.
        info!(from = ?found.cluster_ip, to = ?wanted.cluster_ip, "moving the Service kubernetes");
        objects.delete::<Services>(&key, DeleteOptions::default(), fence).await?;
    }
    create::<Services>(objects, desired, fence).await
}

async fn keep_endpoints(
    objects: &Objects,
    desired: Endpoints,
    fence: &[Compare],
) -> Result<(), ApiError> {
    let key = objects::service_key();
    match current::<EndpointsKind>(objects, &key)? {
        None => create::<EndpointsKind>(objects, desired, fence).await,
        Some(found) if objects::same_subsets(&found, &desired) => Ok(()),
        Some(_) => objects
            .update::<EndpointsKind>(&key, Part::Spec, fence, |endpoints| {
                endpoints.subsets.clone_from(&desired.subsets);
                true
            })
            .await
            .map(|_| ()),
    }
}

async fn keep_slice(
    objects: &Objects,
    desired: EndpointSlice,
    fence: &[Compare],
) -> Result<(), ApiError> {
    let key = objects::service_key();
    match current::<EndpointSlices>(objects, &key)? {
        None => create::<EndpointSlices>(objects, desired, fence).await,
        Some(found) if objects::same_slice(&found, &desired) => Ok(()),
        Some(found) if found.address_type != desired.address_type => {
            objects.delete::<EndpointSlices>(&key, DeleteOptions::default(), fence).await?;
            create::<EndpointSlices>(objects, desired, fence).await
        }
        Some(_) => objects
            .update::<EndpointSlices>(&key, Part::Spec, fence, |slice| {
                slice.endpoints.clone_from(&desired.endpoints);
                slice.ports.clone_from(&desired.ports);
                let labels = desired.metadata.labels.clone().unwrap_or_default();
                slice.metadata.labels.get_or_insert_default().extend(labels);
                true
            })
            .await
            .map(|_| ()),
    }
}

fn current<K: Kind>(objects: &Objects, key: &ObjectKey) -> Result<Option<K::Object>, ApiError> {
    let cache = objects.caches().resource(K::RESOURCE.plural);
    let found = cache.and_then(|cache| cache.get(key));
    found.map(|object| object.decode()).transpose().map_err(ApiError::internal)
}

/// Creates; that somebody was faster is as well.
async fn create<K: Kind>(
    objects: &Objects,
    object: K::Object,
    fence: &[Compare],
) -> Result<(), ApiError> {
    match objects.create::<K>(object, fence).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
