//! Binding pods to nodes, many at a time: the scheduler's write.

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::{MAX_ATTEMPTS, Preconditions, STALE, Writer, encode, metadata};
use crate::api::error::ApiError;
use crate::api::objects::Binding;
use crate::api::registry::AnyKind;
use crate::store::{Compare, Op, Txn, TxnOutcome, keys};

/// Pods per transaction: below the store's limit of 128 writes, and small enough that one lost race
/// does not repeat much.
const BATCH: usize = 100;

impl Writer {
    /// Binds pods, in transactions of many. One result per binding.
    pub(crate) async fn bind(
        &self,
        bindings: Vec<Binding>,
        fence: &[Compare],
    ) -> Vec<Result<(), ApiError>> {
        let mut results = Vec::with_capacity(bindings.len());
        for batch in bindings.chunks(BATCH) {
            results.extend(self.bind_batch(batch, fence).await);
        }
        results
    }

    async fn bind_batch(&self, batch: &[Binding], fence: &[Compare]) -> Vec<Result<(), ApiError>> {
        let mut results: Vec<Result<(), ApiError>> = vec![Ok(()); batch.len()];
        let fail_all = |mut results: Vec<Result<(), ApiError>>, error: &ApiError| {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(error.clone());
            }
            results
        };
        let Some(pods) = self.registry.stored_as("pods") else {
            return fail_all(results, &ApiError::internal("pods are not served"));
        };
        for attempt in 0..MAX_ATTEMPTS {
            let mut compares = fence.to_vec();
            let mut ops = Vec::new();
            for (binding, result) in batch.iter().zip(&mut results) {
                if result.is_err() {
                    continue;
                }
                match self.bound(pods, binding) {
                    Ok((compare, op)) => {
                        compares.push(compare);
                        ops.push(op);
                    }
                    // The scheduler may know of a pod that this cache has not seen yet.
                    Err(_) if attempt == 0 => {}
                    Err(error) => *result = Err(error),
                }
            }
            let left = results.iter().filter(|result| result.is_ok()).count();
            if left == 0 {
                return results;
            }
            if ops.len() == left {
                match self.store.txn(Txn { compares, ops }).await {
                    Ok(TxnOutcome::Committed(_)) => return results,
                    Ok(TxnOutcome::Conflict(index)) if index < fence.len() => {
                        return fail_all(results, &ApiError::fenced_off());
                    }
                    Ok(TxnOutcome::Conflict(_)) => {}
                    Err(error) => return fail_all(results, &error.into()),
                }
            }
            // Some pod is not as the cache has it.
            if let Err(error) = self.caches.fresh().await {
                return fail_all(results, &error.into());
            }
        }
        for (binding, result) in batch.iter().zip(&mut results) {
            if result.is_ok() {
                *result = Err(ApiError::conflict(pods.resource(), &binding.pod.name, STALE));
            }
        }
        results
    }

    /// The write that binds one pod.
    fn bound(
        &self,
        pods: &'static dyn AnyKind,
        binding: &Binding,
    ) -> Result<(Compare, Op), ApiError> {
        let resource = pods.resource();
        let current = self
            .cached(pods, &binding.pod)?
            .ok_or_else(|| ApiError::not_found(resource, &binding.pod.name))?;
        Preconditions { uid: Some(binding.uid.clone()), resource_version: None }
            .check(resource, &*current.object)?;
        let mut object = current.object;
        let pod: &mut Pod = object
            .as_any_mut()
            .downcast_mut()
            .ok_or_else(|| ApiError::internal("pods are not pods"))?;
        assign(pod, &binding.pod, &binding.node)
            .map_err(|why| ApiError::conflict(resource, &binding.pod.name, why))?;
        let value: Bytes = encode(resource, &mut *object)?;
        let key = keys::object(resource.plural, &binding.pod);
        let compare = Compare::ModRevision(key.clone(), current.revision);
        Ok((compare, Op::Put { key, value, lease: None }))
    }
}

/// Puts a pod on a node, or says why not.
fn assign(pod: &mut Pod, key: &ObjectKey, node: &str) -> Result<(), String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(format!("pod {} is being deleted, cannot be assigned to a host", key.name));
    }
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    if let Some(present) = spec.node_name.as_ref().filter(|name| !name.is_empty()) {
        return Err(format!("pod {} is already assigned to node {present:?}", key.name));
    }
    spec.node_name = Some(node.to_owned());
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(metadata::now())),
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|condition| condition.type_ == scheduled.type_) {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    Ok(())
}
