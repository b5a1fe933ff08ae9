//! Gives Services of type `LoadBalancer` the addresses of nodes, as k3s' `ServiceLB` does: so that they
//! work where nobody else balances loads.
//!
//! [`reconcile`](mod@reconcile) decides, [`index`] knows what is there. The nodes' kubelets do the rest:
//! they serve what stands in the status. There is nothing outside of the object, so a Service that goes
//! needs no finalizer; one of another type has no such status (`api/kinds/service`).
//!
//! What comes to a node's own address at a Service's port no longer reaches the node itself. Ports that
//! the node cannot do without are therefore not given away, and neither are node ports of other
//! Services and host ports of pods. A port that two Services want stays with who has it.

mod index;
mod port;
mod reconcile;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use tracing::info;

use self::index::Index;
pub use self::port::{InvalidPort, Port};
use self::reconcile::{Balanced, Observed, Plan, reconcile};
use super::Context;
use super::driver::{Controller, Next, SyncError};
use crate::api::kinds::Services;
use crate::api::objects::Part;
use crate::cache::ObjectEvent;
use crate::events::{Occurrence, reference};

/// The `loadBalancerClass` of what is balanced here, beside those Services that name none.
const CLASS: &str = "kutter.dev/node-addresses";
/// The label of nodes that no load balancer is to send anything to.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The controller. See the module's documentation.
pub(super) struct ServiceLb {
    context: Context,
    reserved: BTreeSet<Port>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: Index,
    /// What users were told of what does not work.
    told: HashMap<ObjectKey, String>,
}

#[async_trait]
impl Controller for ServiceLb {
    /// A Service's.
    type Key = ObjectKey;

    const NAME: &'static str = "service-lb-controller";

    /// A port is given to one after the other.
    const CONCURRENCY: usize = 1;

    fn resources(&self) -> Vec<&'static str> {
        vec!["nodes", "services", "endpointslices", "pods"]
    }

    fn affected(
        &self,
        resource: &'static str,
        event: &ObjectEvent,
        add: &mut dyn FnMut(ObjectKey),
    ) {
        let index = &mut self.state().index;
        match resource {
            "services" => index.service_changed(event, add),
            "nodes" => index.node_changed(event, add),
            "pods" => index.pod_changed(event, add),
            _ => index.slice_changed(event, add),
        }
    }

    fn reset(&self) {
        self.state().index = Index::default();
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some((service, plan)) = self.plan(key)? else {
            self.state().told.remove(key);
            return Ok(Next::Done);
        };
        self.write(&service, &plan).await?;
        self.tell(&service, &plan);
        Ok(Next::Done)
    }
}

impl ServiceLb {
    /// `reserved`: the ports that nodes keep for themselves.
    pub(super) fn new(context: Context, reserved: BTreeSet<Port>) -> Self {
        Self { context, reserved, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, key: &ObjectKey) -> Result<Option<(Balanced, Plan)>, SyncError> {
        let state = self.state();
        let Some(service) = state.index.services.get(key) else { return Ok(None) };
        let with_endpoints = match service.local {
            true => self.with_endpoints(&state.index, key)?,
            false => BTreeSet::new(),
        };
        let observed = Observed {
            nodes: &state.index.nodes,
            reserved: &self.reserved,
            rivals: state.index.rivals(service),
            node_ports: state.index.node_ports(service),
            host_ports: state.index.host_ports(service),
            with_endpoints,
        };
        Ok(Some((service.clone(), reconcile(service, &observed))))
    }

    /// The nodes that serve it themselves: as the proxy has it, also by endpoints on their way out.
    fn with_endpoints(
        &self,
        index: &Index,
        service: &ObjectKey,
    ) -> Result<BTreeSet<String>, SyncError> {
        let cache = self.context.objects.caches().resource("endpointslices");
        let mut nodes = BTreeSet::new();
        for key in index.slices(service) {
            let Some(cached) = cache.and_then(|cache| cache.get(key)) else { continue };
            let slice: EndpointSlice = cached.decode().map_err(SyncError::decode(key))?;
            let serving = slice.endpoints.into_iter().flatten().filter(|endpoint| {
                let conditions = endpoint.conditions.as_ref();
                let ready = conditions.and_then(|all| all.ready);
                ready.unwrap_or(true) || conditions.and_then(|all| all.serving) == Some(true)
            });
            nodes.extend(serving.filter_map(|endpoint| endpoint.node_name));
        }
        Ok(nodes)
    }

    async fn write(&self, service: &Balanced, plan: &Plan) -> Result<(), SyncError> {
        let key = &service.key;
        let ingress = plan.ingress(service);
        let mut before = Vec::new();
        let change = |stored: &mut Service| {
            // Decided for what it was; what it has become is looked at anew.
            let same = Balanced::of(key, stored).is_some_and(|stored| {
                (&stored.uid, &stored.ports) == (&service.uid, &service.ports)
            });
            let status = stored.status.get_or_insert_default();
            let found = &mut status.load_balancer.get_or_insert_default().ingress;
            if !same || found.as_deref().unwrap_or_default() == ingress {
                return false;
            }
            before = found.replace(ingress.clone()).unwrap_or_default();
            true
        };
        let (objects, fence) = (&self.context.objects, &self.context.fence);
        match objects.update::<Services>(key, Part::Status, fence, change).await {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => {
                let what = format!("write the addresses of Service {key}");
                return Err(SyncError::write(what)(error));
            }
        }
        // The next one must find the ports taken, before this is heard of by the watch.
        if let Some(known) = self.state().index.services.get_mut(key) {
            known.holds = plan.addresses.iter().map(|at| (*at, service.ports.clone())).collect();
        }
        let (from, to) = (listed(&before), listed(&ingress));
        info!(service = %key, %from, %to, "changed where a Service is reached");
        let object = reference("Service", key, &service.uid);
        if !ingress.is_empty() {
            let message = format!("Updated LoadBalancer with new IPs: {from} -> {to}");
            let occurrence = Occurrence::normal(Self::NAME, object, "UpdatedLoadBalancer", message);
            self.context.recorder.record(occurrence);
        }
        Ok(())
    }

    /// Says what does not work, when that is new.
    fn tell(&self, service: &Balanced, plan: &Plan) {
        let trouble = plan.trouble();
        let told = &mut self.state().told;
        let Some(trouble) = trouble else {
            told.remove(&service.key);
            return;
        };
        if told.get(&service.key) == Some(&trouble) {
            return;
        }
        told.insert(service.key.clone(), trouble.clone());
        let object = reference("Service", &service.key, &service.uid);
        let reason = "UnAvailableLoadBalancer";
        self.context.recorder.record(Occurrence::warning(Self::NAME, object, reason, trouble));
    }
}

fn listed(ingress: &[LoadBalancerIngress]) -> String {
    let addresses: Vec<&str> = ingress.iter().filter_map(|one| one.ip.as_deref()).collect();
    format!("[{}]", addresses.join(" "))
}
