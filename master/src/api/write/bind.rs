//! Binding pods to nodes, many at a time: the scheduler's write.
//!
//! Each pod has a transaction of its own. With many pods in one they would share a `resourceVersion`,
//! and a client whose watch is cut off between two of them resumes after the version it has seen
//! last: it would never hear of the others. The transactions are sent together, so that the
//! embedded store writes them with one fsync and etcd with few.

use bytes::Bytes;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::{MAX_ATTEMPTS, Preconditions, STALE, Writer, encode, metadata};
use crate::api::error::ApiError;
use crate::api::kinds::pod::gates;
use crate::api::objects::Binding;
use crate::api::registry::AnyKind;
use crate::store::{Compare, Op, Txn, TxnOutcome, keys};

impl Writer {
    /// Binds pods, all at once. One result per binding, in order.
    pub(crate) async fn bind(
        &self,
        bindings: Vec<Binding>,
        fence: &[Compare],
    ) -> Vec<Result<(), ApiError>> {
        join_all(bindings.iter().map(|binding| self.bind_one(binding, fence))).await
    }

    /// Whether a pod could be bound as things are.
    pub(crate) async fn check_binding(&self, binding: &Binding) -> Result<(), ApiError> {
        self.caches.fresh().await?;
        self.bound(self.pods()?, binding).map(drop)
    }

    fn pods(&self) -> Result<&'static dyn AnyKind, ApiError> {
        let pods = self.registry.stored_as("pods");
        pods.ok_or_else(|| ApiError::internal("pods are not served"))
    }

    async fn bind_one(&self, binding: &Binding, fence: &[Compare]) -> Result<(), ApiError> {
        let pods = self.pods()?;
        for attempt in 0..MAX_ATTEMPTS {
            match self.bound(pods, binding) {
                Ok((compare, op)) => {
                    let mut compares = fence.to_vec();
                    compares.push(compare);
                    match self.store.txn(Txn { compares, ops: vec![op] }).await? {
                        TxnOutcome::Committed(_) => return Ok(()),
                        TxnOutcome::Conflict(index) if index < fence.len() => {
                            return Err(ApiError::fenced_off());
                        }
                        TxnOutcome::Conflict(_) => {}
                    }
                }
                // The scheduler may know of a pod that this cache has not seen yet.
                Err(_) if attempt == 0 => {}
                Err(error) => return Err(error),
            }
            self.caches.fresh().await?;
        }
        Err(ApiError::conflict(pods.resource(), &binding.pod.name, STALE))
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
    if gates::are_closed(pod) {
        return Err(format!("pod {} has non-empty .spec.schedulingGates", key.name));
    }
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    if let Some(present) = spec.node_name.as_ref().filter(|name| !name.is_empty()) {
        return Err(format!("pod {} is already assigned to node {present:?}", key.name));
    }
    spec.node_name = Some(node.to_owned());
    let status = pod.status.get_or_insert_default();
    // Where room was made for it, it is now, or does not need it.
    status.nominated_node_name = None;
    let conditions = status.conditions.get_or_insert_default();
    let scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(metadata::now())),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|condition| condition.type_ == scheduled.type_) {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    Ok(())
}
