//! Counts what there is against the ResourceQuotas of a namespace.
//!
//! What is created is counted in by who creates it (`api/admission/quota`). Here everything is
//! counted anew whenever something in the namespace comes, goes or ends, and written on condition
//! that nothing was counted in since the counting began. The caches are at least as new as what is
//! counted in then, so nothing is missed. The statuses of the quotas follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use serde::de::DeserializeOwned;

use super::Context;
use super::driver::{Controller, Next, SyncError};
use crate::api::admission::quota::{self, Contents, Used, count_name};
use crate::api::kinds::{Kind, Pods, ResourceQuotas, Services};
use crate::api::objects::Part;
use crate::cache::{CachedObject, ObjectEvent};
use crate::store::{Compare, KeyValue, Op, Txn, TxnOutcome, keys};

const QUOTAS: &str = ResourceQuotas::RESOURCE.plural;
const PODS: &str = Pods::RESOURCE.plural;
const SERVICES: &str = Services::RESOURCE.plural;

/// Many objects come and go together; they are counted once then.
const REST: Duration = Duration::from_millis(50);

/// The controller. See the module's documentation.
pub(super) struct QuotaCounter {
    context: Context,
}

#[async_trait]
impl Controller for QuotaCounter {
    /// The namespace.
    type Key = String;

    const NAME: &'static str = "resourcequota-controller";

    fn resources(&self) -> Vec<&'static str> {
        let kinds = self.context.objects.registry().stored();
        let namespaced = kinds.map(|kind| kind.resource()).filter(|one| one.namespaced);
        namespaced.map(|resource| resource.plural).collect()
    }

    fn affected(&self, resource: &'static str, event: &ObjectEvent, add: &mut dyn FnMut(String)) {
        let namespace = &event.object().key.namespace;
        if resource == QUOTAS {
            return add(namespace.clone());
        }
        let quotas = self.context.objects.caches().resource(QUOTAS);
        let bounded = quotas
            .is_some_and(|quotas| !quotas.is_empty() && !quotas.list(Some(namespace)).1.is_empty());
        if bounded && matters(resource, event) {
            add(namespace.clone());
        }
    }

    fn rest(&self, _namespace: &String) -> Duration {
        REST
    }

    async fn sync(&self, namespace: &String) -> Result<Next, SyncError> {
        let caches = self.context.objects.caches();
        let key = keys::quota_usage(namespace);
        let counted = caches.keys(keys::QUOTA_USAGE).get(&key);
        if let Some(counted) = &counted {
            // What is counted in already has to be there to be counted.
            caches.wait_for(counted.mod_revision).await;
        }
        let quotas: Vec<ResourceQuota> = self.decoded(QUOTAS, namespace)?;
        if quotas.is_empty() {
            if counted.is_some() {
                self.write(&key, counted.as_deref(), None).await?;
            }
            return Ok(Next::Done);
        }
        let contents = self.contents(namespace)?;
        let now = Timestamp::now();
        let count = |quota: &ResourceQuota| {
            let uid = quota.metadata.uid.clone().unwrap_or_default();
            (uid, quota::to_wire(quota::count(quota, &contents, now)))
        };
        let used: Used = quotas.iter().map(count).collect();
        let json = serde_json::to_vec(&used).map_err(SyncError::decode(&key))?;
        let same = counted.as_ref().is_some_and(|counted| *counted.value == *json);
        if !same && !self.write(&key, counted.as_deref(), Some(json.into())).await? {
            // Something was created meanwhile.
            return Ok(Next::After(Duration::ZERO));
        }
        for quota in quotas {
            let uid = quota.metadata.uid.clone().unwrap_or_default();
            self.tell(namespace, quota, used.get(&uid)).await?;
        }
        let ends = contents.pods.iter().filter_map(quota::ends_at).filter(|end| *end > now);
        Ok(ends.min().map_or(Next::Done, |end| Next::at(end, now)))
    }
}

/// Whether a change makes a difference to any quota.
fn matters(resource: &str, event: &ObjectEvent) -> bool {
    match event {
        ObjectEvent::Added(_) | ObjectEvent::Deleted(_) => true,
        // A pod ends, begins to be deleted or asks for less, a Service gets other ports.
        ObjectEvent::Modified { new, old } => match resource {
            PODS => {
                let phase = |pod: &CachedObject| pod.fields.get("status.phase").cloned();
                phase(new) != phase(old)
                    || new.deleting != old.deleting
                    || new.generation != old.generation
            }
            SERVICES => true,
            _ => false,
        },
    }
}

impl QuotaCounter {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    fn contents(&self, namespace: &str) -> Result<Contents, SyncError> {
        let mut contents = Contents::default();
        for kind in self.context.objects.registry().stored() {
            let resource = kind.resource();
            let cache = self.context.objects.caches().resource(resource.plural);
            let Some(cache) = cache.filter(|_| resource.namespaced) else { continue };
            contents.counts.insert(count_name(resource), cache.list(Some(namespace)).1.len());
        }
        contents.pods = self.decoded(PODS, namespace)?;
        contents.services = self.decoded(SERVICES, namespace)?;
        Ok(contents)
    }

    fn decoded<T: DeserializeOwned>(
        &self,
        resource: &str,
        namespace: &str,
    ) -> Result<Vec<T>, SyncError> {
        let cache = self.context.objects.caches().resource(resource);
        let objects = cache.map(|cache| cache.list(Some(namespace)).1).unwrap_or_default();
        let decode =
            |object: &Arc<CachedObject>| object.decode().map_err(SyncError::decode(&object.key));
        objects.iter().map(decode).collect()
    }

    /// Replaces what is counted, if it is still as it was seen; tells whether it was.
    async fn write(
        &self,
        key: &str,
        seen: Option<&KeyValue>,
        json: Option<Bytes>,
    ) -> Result<bool, SyncError> {
        let mut compares = self.context.fence.to_vec();
        compares.push(match seen {
            Some(seen) => Compare::ModRevision(key.to_owned(), seen.mod_revision),
            None => Compare::Absent(key.to_owned()),
        });
        let key = key.to_owned();
        let op = match json {
            Some(value) => Op::Put { key, value, lease: None },
            None => Op::Delete { key },
        };
        let writer = self.context.objects.writer();
        let outcome = writer.store.txn(Txn { compares, ops: vec![op] }).await?;
        let TxnOutcome::Committed(revision) = outcome else {
            // Whoever was faster, the cache has to know of it.
            writer.caches.fresh().await?;
            return Ok(false);
        };
        writer.caches.wait_for(revision).await;
        Ok(true)
    }

    /// Says in a quota's status what is used.
    async fn tell(
        &self,
        namespace: &str,
        quota: ResourceQuota,
        used: Option<&BTreeMap<String, Quantity>>,
    ) -> Result<(), SyncError> {
        let hard = quota.spec.and_then(|spec| spec.hard);
        let status = ResourceQuotaStatus { hard, used: used.cloned() };
        if quota.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let write = |stored: &mut ResourceQuota| {
            let same = stored.metadata.uid == quota.metadata.uid;
            if same {
                stored.status = Some(status.clone());
            }
            same
        };
        let name = quota.metadata.name.clone().unwrap_or_default();
        let key = ObjectKey::new(namespace, name);
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match objects.update::<ResourceQuotas>(&key, Part::Status, fence, write).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => {
                other.map(drop).map_err(SyncError::write(format!("write the status of {key}")))
            }
        }
    }
}
