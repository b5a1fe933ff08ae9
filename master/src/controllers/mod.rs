//! What makes the cluster as it should be, again and again.
//!
//! Each controller decides in a pure function (what is desired, what is there, what time it is →
//! what to do) and acts in a thin driver. [`driver`] is what they share.

mod deployment;
mod driver;
pub(crate) mod endpoints;
mod event_expiry;
mod garbage;
mod holders;
mod namespace;
mod namespace_defaults;
mod node_leases;
mod node_lifecycle;
mod pod_gc;
mod pods;
mod queue;
mod quota;
mod replication;
mod service_lb;
mod service_repair;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::k8s as k8s_openapi;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::driver::{Controller, SyncError};
use self::pods::PodViews;
pub use self::service_lb::{InvalidPort, Port};

use crate::api::error::ApiError;
use crate::api::kinds::{ReplicaSets, ReplicationControllers};
use crate::api::objects::Objects;
use crate::cache::CachedObject;
use crate::events::EventRecorder;
use crate::store::Compare;

/// Between attempts to reach a store that is gone.
const CATCH_UP_RETRY: Duration = Duration::from_secs(1);

/// What the controllers have to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a node may be without a session before it counts as lost.
    pub node_monitor_grace_period: Duration,
    /// How long after that its pods are replaced.
    pub pod_eviction_timeout: Duration,
    /// Whether Services of type `LoadBalancer` get addresses of nodes; then the ports that nodes keep.
    pub service_lb: Option<BTreeSet<Port>>,
    /// The certificate by which clients know the masters, PEM; put into each namespace.
    pub root_ca: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_monitor_grace_period: Duration::from_secs(20),
            pod_eviction_timeout: Duration::from_secs(30),
            service_lb: None,
            root_ca: String::new(),
        }
    }
}

/// What every controller has at hand during a term as the leader.
#[derive(Clone)]
struct Context {
    objects: Objects,
    pods: Arc<PodViews>,
    /// Carried by every write.
    fence: Arc<[Compare]>,
    recorder: EventRecorder,
}

/// Runs all controllers while this master leads, until `shutdown`.
pub async fn run(
    objects: Objects,
    config: Config,
    mut fence: watch::Receiver<Option<Compare>>,
    shutdown: CancellationToken,
) {
    let recorder = EventRecorder::start(objects.clone(), Some(fence.clone()), shutdown.clone());
    loop {
        let term = fence.borrow_and_update().clone();
        let stop = shutdown.child_token();
        let lead = async {
            match term {
                Some(compare) => {
                    let fence = Arc::from([compare]);
                    lead(objects.clone(), fence, recorder.clone(), &config, stop.clone()).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            changed = fence.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = lead => {}
        }
        if shutdown.is_cancelled() {
            return;
        }
    }
}

/// One term as the leader.
async fn lead(
    objects: Objects,
    fence: Arc<[Compare]>,
    recorder: EventRecorder,
    config: &Config,
    stop: CancellationToken,
) {
    let caches = Arc::clone(objects.caches());
    let Some(pods) = caches.resource("pods") else {
        error!("pods are not served, so there is nothing to control");
        return std::future::pending().await;
    };
    let pods = Arc::new(PodViews::new(Arc::clone(pods)));
    let context = Context { objects, pods, fence, recorder };
    // What the last leader has written has to be known before anything is decided.
    while let Err(error) = caches.fresh().await {
        warn!(%error, "cannot catch up with the store");
        tokio::time::sleep(CATCH_UP_RETRY).await;
    }
    let mut running = JoinSet::new();
    let patience = config.node_monitor_grace_period;
    let lifecycle = node_lifecycle::NodeLifecycle::new(context.clone(), config.clone());
    let pod_gc = pod_gc::PodGc::new(context.clone(), patience);
    let controllers = replication::Replication::<ReplicationControllers>::new(context.clone());
    start(&mut running, &context, &stop, controllers);
    let sets = replication::Replication::<ReplicaSets>::new(context.clone());
    start(&mut running, &context, &stop, sets);
    start(&mut running, &context, &stop, deployment::Deployments::new(context.clone()));
    start(&mut running, &context, &stop, endpoints::EndpointsController::new(context.clone()));
    start(&mut running, &context, &stop, lifecycle);
    start(&mut running, &context, &stop, pod_gc);
    start(&mut running, &context, &stop, namespace::NamespaceDeletion::new(context.clone()));
    start(&mut running, &context, &stop, garbage::GarbageCollector::new(context.clone()));
    start(&mut running, &context, &stop, event_expiry::EventExpiry::new(context.clone()));
    let defaults =
        namespace_defaults::NamespaceDefaults::new(context.clone(), config.root_ca.clone());
    start(&mut running, &context, &stop, defaults);
    start(&mut running, &context, &stop, node_leases::NodeLeases::new(context.clone()));
    start(&mut running, &context, &stop, quota::QuotaCounter::new(context.clone()));
    start(&mut running, &context, &stop, service_repair::ServiceRepair::new(context.clone()));
    if let Some(reserved) = config.service_lb.clone() {
        start(&mut running, &context, &stop, service_lb::ServiceLb::new(context.clone(), reserved));
    }
    info!("controllers are running");
    // Each ends only when stopped. Dropping the set, when the lead is lost, aborts them all.
    running.join_all().await;
}

/// Whether something cannot be made because its namespace is being deleted, and with it everything
/// in it: not worth a word.
fn is_terminating(error: &ApiError) -> bool {
    let details = error.to_status().details.unwrap_or_default();
    let mut causes = details.causes.into_iter().flatten();
    causes.any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"))
}

fn start<C: Controller>(
    running: &mut JoinSet<()>,
    context: &Context,
    stop: &CancellationToken,
    controller: C,
) {
    let caches = Arc::clone(context.objects.caches());
    running.spawn(driver::run(Arc::new(controller), caches, stop.clone()));
}

/// The metadata of an object of any kind.
fn metadata(object: &CachedObject) -> Result<ObjectMeta, SyncError> {
    #[derive(serde::Deserialize)]
    struct Partial {
        metadata: ObjectMeta,
    }
    let partial: Partial = object.decode().map_err(SyncError::decode(&object.key))?;
    Ok(partial.metadata)
}
