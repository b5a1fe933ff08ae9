//! Counting what is created against the quotas of its namespace, in the transaction that creates it.

use bytes::Bytes;
use k8s_openapi::api::core::v1::ResourceQuota;
use proto::k8s as k8s_openapi;

use super::Writer;
use crate::api::admission::quota::{self, Used};
use crate::api::error::ApiError;
use crate::api::kinds::{Kind as _, ResourceInfo, ResourceQuotas};
use crate::api::registry::AnyObject;
use crate::store::{Compare, Op, Revision, keys};

/// What is used of the quotas with an object counted in; nothing when there are none, or it makes no
/// difference to them.
#[derive(Default)]
pub(super) struct Charges(Option<Charge>);

struct Charge {
    key: String,
    /// It is counted in if nobody has counted since.
    seen: Revision,
    used: Bytes,
}

impl Charges {
    pub(super) fn apply(self, compares: &mut Vec<Compare>, ops: &mut Vec<Op>) {
        if let Some(Charge { key, seen, used }) = self.0 {
            compares.push(Compare::ModRevision(key.clone(), seen));
            ops.push(Op::Put { key, value: used, lease: None });
        }
    }
}

impl Writer {
    /// Counts an object in that is created. What the cache says is too much may have gone already:
    /// then it is asked again when it is up to date.
    pub(super) async fn charge_new(
        &self,
        resource: &ResourceInfo,
        object: &dyn AnyObject,
    ) -> Result<Charges, ApiError> {
        match self.charge(resource, object, None) {
            Ok(charges) => Ok(charges),
            Err(_) => {
                self.caches.fresh().await?;
                self.charge(resource, object, None)
            }
        }
    }

    /// Counts an object in as it is now, in the place of what it was.
    pub(super) fn charge(
        &self,
        resource: &ResourceInfo,
        object: &dyn AnyObject,
        old: Option<&dyn AnyObject>,
    ) -> Result<Charges, ApiError> {
        let namespace = object.meta().namespace.as_deref().unwrap_or_default();
        let quotas = self.caches.resource(ResourceQuotas::RESOURCE.plural);
        // Looked at for each object, and there seldom are any.
        let Some(quotas) = quotas.filter(|all| resource.namespaced && !all.is_empty()) else {
            return Ok(Charges::default());
        };
        let quotas = quotas.list(Some(namespace)).1;
        if quotas.is_empty() {
            return Ok(Charges::default());
        }
        let key = keys::quota_usage(namespace);
        let counted = self.caches.keys(keys::QUOTA_USAGE).get(&key);
        let mut used: Used = match &counted {
            Some(counted) => serde_json::from_slice(&counted.value).map_err(ApiError::internal)?,
            None => Used::new(),
        };
        let now = jiff::Timestamp::now();
        let mut charged = false;
        for cached in quotas {
            let quota: ResourceQuota = cached.decode().map_err(ApiError::internal)?;
            let name = object.meta().name.as_deref().unwrap_or_default();
            let sum = quota::charge(&quota, used.get(&cached.uid), resource, object, old, now)
                .map_err(|why| ApiError::forbidden(resource, name, why))?;
            if let Some(sum) = sum {
                used.insert(cached.uid.clone(), quota::to_wire(sum));
                charged = true;
            }
        }
        let Some(counted) = counted.filter(|_| charged) else { return Ok(Charges::default()) };
        let used = serde_json::to_vec(&used).map_err(ApiError::internal)?;
        Ok(Charges(Some(Charge { key, seen: counted.mod_revision, used: used.into() })))
    }
}
