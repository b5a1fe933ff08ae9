//! Feeds the model and the queue from the caches, and writes what they decide.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::k8s as k8s_openapi;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::demand::PodInfo;
use super::filter::NodeInfo;
use super::model::{Model, NodeId};
use super::queue::{Queue, Verdict};
use crate::api::error::ApiError;
use crate::api::kinds::pod::Pods;
use crate::api::objects::{Binding, Objects, Part};
use crate::cache::{CachedObject, Lagged, ObjectEvent, Subscription, Update};
use crate::events::{EventRecorder, Occurrence, reference};
use crate::metrics::SCHEDULING;
use crate::store::Compare;

/// The `spec.schedulerName` of the pods it looks after, and the source of its events.
const NAME: &str = "default-scheduler";
/// Pods bound at a time: their transactions share the store's disk writes.
const BATCH: usize = 100;
/// Batches under way: while one is written the next is decided; more would only make later
/// decisions rest on more assumptions.
const BATCHES: usize = 2;
/// `PodScheduled` conditions written at a time.
const TELLING: usize = 16;
/// Between attempts to bind a pod for which a write failed, doubling up to the second value.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Schedules pods while this master leads, until `shutdown`.
pub async fn run(
    objects: Objects,
    mut fence: watch::Receiver<Option<Compare>>,
    shutdown: CancellationToken,
) {
    let recorder = EventRecorder::start(objects.clone(), Some(fence.clone()), shutdown.clone());
    loop {
        let term = fence.borrow_and_update().clone();
        let lead = async {
            match term {
                Some(compare) => lead(&objects, compare, &recorder).await,
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

/// One term as the leader; dropped when the lead is lost.
async fn lead(objects: &Objects, fence: Compare, recorder: &EventRecorder) {
    loop {
        // What the last leader has bound has to be known before anything is decided.
        if let Err(error) = objects.caches().fresh().await {
            warn!(%error, "cannot catch up with the store");
            tokio::time::sleep(RETRY.0).await;
            continue;
        }
        let fence = vec![fence.clone()];
        let scheduling = Scheduling::new(objects.clone(), fence, recorder.clone());
        let Lagged = scheduling.run().await;
        warn!("fell behind the changes; looking at everything again");
    }
}

/// A pod whose binding is being written, with its place in the queue and its node.
struct Bound {
    pod: PodInfo,
    ticket: u64,
    node: Arc<str>,
}

struct Scheduling {
    objects: Objects,
    fence: Vec<Compare>,
    recorder: EventRecorder,
    model: Model,
    queue: Queue,
    binding: JoinSet<Vec<(Bound, Result<(), ApiError>)>>,
    /// Pods that cannot be bound right now, because a write failed.
    later: BTreeMap<(Instant, u64), PodInfo>,
    /// Of the pods in `later` or `binding`: how often binding has failed.
    attempts: HashMap<Arc<str>, u32>,
    telling: JoinSet<()>,
    to_tell: VecDeque<(PodInfo, Verdict)>,
}

impl Scheduling {
    fn new(objects: Objects, fence: Vec<Compare>, recorder: EventRecorder) -> Self {
        Self {
            objects,
            fence,
            recorder,
            model: Model::default(),
            queue: Queue::default(),
            binding: JoinSet::new(),
            later: BTreeMap::new(),
            attempts: HashMap::new(),
            telling: JoinSet::new(),
            to_tell: VecDeque::new(),
        }
    }

    /// Runs until it is dropped, or has missed a change.
    async fn run(mut self) -> Lagged {
        let Some([mut services, mut nodes, mut pods]) = self.start() else {
            // Without these kinds there is nothing to schedule.
            return std::future::pending().await;
        };
        loop {
            self.tell_more();
            SCHEDULING.active.set(self.queue.len() - self.queue.waiting());
            SCHEDULING.unschedulable.set(self.queue.waiting());
            SCHEDULING.backoff.set(self.later.len());
            let can_decide = self.queue.has_ready() && self.binding.len() < BATCHES;
            let retry = self.later.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                update = services.next() => match update {
                    Ok(Update::Event(event)) => self.service_changed(&event),
                    Ok(Update::Progress(_)) => {}
                    Err(lagged) => return lagged,
                },
                update = nodes.next() => match update {
                    Ok(Update::Event(event)) => self.node_changed(&event),
                    Ok(Update::Progress(_)) => {}
                    Err(lagged) => return lagged,
                },
                update = pods.next() => match update {
                    Ok(Update::Event(event)) => self.pod_changed(&event),
                    Ok(Update::Progress(_)) => {}
                    Err(lagged) => return lagged,
                },
                Some(ended) = self.binding.join_next() => {
                    // A panic there was reported; the pods of that batch stay assumed until the
                    // next term, which is the safe side.
                    for (bound, result) in ended.into_iter().flatten() {
                        self.bound(bound, result);
                    }
                }
                Some(_) = self.telling.join_next() => {}
                () = sleep_until(retry) => self.retry(Instant::now()),
                () = std::future::ready(()), if can_decide => self.decide(),
            }
        }
    }

    /// Takes in everything there is: Services and nodes first, so that pods find them.
    fn start(&mut self) -> Option<[Subscription; 3]> {
        let caches = Arc::clone(self.objects.caches());
        let (_, services, service_changes) = caches.resource("services")?.list_and_subscribe();
        let (_, nodes, node_changes) = caches.resource("nodes")?.list_and_subscribe();
        let (_, mut pods, pod_changes) = caches.resource("pods")?.list_and_subscribe();
        for service in services {
            self.service_changed(&ObjectEvent::Added(service));
        }
        for node in nodes {
            self.node_changed(&ObjectEvent::Added(node));
        }
        // Later changes come in their order; these should be in the order they came too, and pods
        // that have a node before all that need one.
        pods.sort_by_key(|pod| (node_of(pod).is_empty(), pod.revision));
        for pod in pods {
            self.pod_changed(&ObjectEvent::Added(pod));
        }
        info!(waiting = self.queue.len(), "scheduling");
        Some([service_changes, node_changes, pod_changes])
    }

    fn service_changed(&mut self, event: &ObjectEvent) {
        let object = event.object();
        let selector = match event {
            ObjectEvent::Deleted(_) => BTreeMap::new(),
            _ => match object.decode::<Service>() {
                Ok(service) => service.spec.and_then(|spec| spec.selector).unwrap_or_default(),
                Err(error) => return undecodable("service", object, &error),
            },
        };
        self.model.set_service(object.key.clone(), selector);
    }

    fn node_changed(&mut self, event: &ObjectEvent) {
        let object = event.object();
        if let ObjectEvent::Deleted(_) = event {
            self.model.remove_node(&object.key.name);
            return;
        }
        match object.decode::<Node>() {
            Ok(node) => {
                if let Some(id) = self.model.set_node(NodeInfo::of(&node)) {
                    self.wake(id);
                }
            }
            Err(error) => undecodable("node", object, &error),
        }
    }

    fn pod_changed(&mut self, event: &ObjectEvent) {
        let object = event.object();
        let gone = matches!(event, ObjectEvent::Deleted(_)) || is_finished(object);
        if gone {
            self.queue.remove(&object.uid);
            self.later.retain(|_, pod| *pod.uid != *object.uid);
            if let Some(id) = self.model.remove_pod(&object.uid) {
                self.wake(id);
            }
            return;
        }
        let node = node_of(object);
        if node.is_empty() {
            self.needs_node(object);
            return;
        }
        self.queue.remove(&object.uid);
        // Most changes of a pod that has a node are its status, which is no matter of ours unless its
        // specification was ever changed: then the status tells how far a resize has come.
        if let ObjectEvent::Modified { old, new } = event
            && new.generation <= 1
            && old.labels == new.labels
            && old.controller_uid == new.controller_uid
            && self.model.confirm(&object.uid, node)
        {
            return;
        }
        match object.decode::<Pod>() {
            Ok(pod) => {
                if let Some(node) = self.model.set_pod(PodInfo::of(&pod), node) {
                    self.wake(node);
                }
            }
            Err(error) => undecodable("pod", object, &error),
        }
    }

    fn needs_node(&mut self, object: &CachedObject) {
        if object.deleting {
            self.queue.remove(&object.uid);
            return;
        }
        // Somebody else's, or its binding is on its way or will be tried again.
        if object.fields.get("spec.schedulerName").is_some_and(|name| !is_ours(name))
            || self.model.has_pod(&object.uid)
            || self.later.values().any(|pod| *pod.uid == *object.uid)
        {
            return;
        }
        match object.decode::<Pod>() {
            Ok(pod) => {
                let pod = PodInfo::of(&pod);
                if let Some(verdict) = self.queue.push(pod.clone()) {
                    self.to_tell.push_back((pod, verdict));
                }
            }
            Err(error) => undecodable("pod", object, &error),
        }
    }

    /// A node has more to offer than before: what fits it now is tried again.
    fn wake(&mut self, node: NodeId) {
        self.queue.wake(|demand| self.model.fits_on(demand, node));
    }

    /// Finds nodes for the pods that are next, up to a batch, and sends it off.
    fn decide(&mut self) {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            let Some((pod, ticket)) = self.queue.pop() else { break };
            match self.model.place(&pod) {
                Some(id) => {
                    let node = Arc::clone(self.model.name(id));
                    self.model.assume(pod.clone(), id);
                    batch.push(Bound { pod, ticket, node });
                }
                None => {
                    let verdict: Verdict = self.model.diagnose(&pod.demand).message().into();
                    SCHEDULING.refused.add_one();
                    debug!(pod = %pod.key, %verdict, "fits no node");
                    let told = self.queue.refuse(pod, ticket, &verdict);
                    self.to_tell.extend(told.into_iter().map(|pod| (pod, Arc::clone(&verdict))));
                }
            }
        }
        if batch.is_empty() {
            return;
        }
        let (objects, fence) = (self.objects.clone(), self.fence.clone());
        self.binding.spawn(async move {
            let bindings = batch.iter().map(|bound| Binding {
                pod: bound.pod.key.clone(),
                uid: bound.pod.uid.to_string(),
                node: bound.node.to_string(),
            });
            let results = objects.bind(bindings.collect(), &fence).await;
            batch.into_iter().zip(results).collect()
        });
    }

    fn bound(&mut self, bound: Bound, result: Result<(), ApiError>) {
        let Bound { pod, ticket, node } = bound;
        let error = match result {
            Ok(()) => {
                self.attempts.remove(&pod.uid);
                SCHEDULING.scheduled.add_one();
                info!(pod = %pod.key, %node, "bound pod");
                let message = format!("Successfully assigned {} to {node}", pod.key);
                let object = reference("Pod", &pod.key, &pod.uid);
                self.recorder.record(Occurrence::normal(NAME, object, "Scheduled", message));
                return;
            }
            Err(error) => error,
        };
        if let Some(id) = self.model.forget(&pod.uid) {
            self.wake(id);
        }
        if self.model.has_pod(&pod.uid) || !self.still_needs_node(&pod) {
            debug!(pod = %pod.key, %node, %error, "somebody else was faster");
            self.attempts.remove(&pod.uid);
            return;
        }
        let attempts = self.attempts.entry(Arc::clone(&pod.uid)).or_default();
        let wait = RETRY.0.saturating_mul(1 << (*attempts).min(16)).min(RETRY.1);
        *attempts += 1;
        SCHEDULING.failed.add_one();
        warn!(pod = %pod.key, %node, %error, "failed to bind");
        self.later.insert((Instant::now() + wait, ticket), pod);
    }

    fn retry(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let ((_, ticket), pod) = entry.remove_entry();
            if self.model.has_pod(&pod.uid) || !self.still_needs_node(&pod) {
                self.attempts.remove(&pod.uid);
            } else if let Some(verdict) = self.queue.put_back(pod.clone(), ticket) {
                self.to_tell.push_back((pod, verdict));
            }
        }
    }

    /// Whether the pod is there as far as the cache knows, without a node and not to be deleted.
    fn still_needs_node(&self, pod: &PodInfo) -> bool {
        let cached = self.objects.caches().resource("pods").and_then(|pods| pods.get(&pod.key));
        cached.is_some_and(|cached| {
            *cached.uid == *pod.uid && !cached.deleting && node_of(&cached).is_empty()
        })
    }

    /// Says of pods why they have no node.
    fn tell_more(&mut self) {
        while self.telling.len() < TELLING
            && let Some((pod, verdict)) = self.to_tell.pop_front()
        {
            let object = reference("Pod", &pod.key, &pod.uid);
            let message = verdict.to_string();
            self.recorder.record(Occurrence::warning(NAME, object, "FailedScheduling", message));
            let (objects, fence) = (self.objects.clone(), self.fence.clone());
            self.telling.spawn(async move {
                let tell = |stored: &mut Pod| set_unschedulable(stored, &pod.uid, &verdict);
                let told = objects.update::<Pods>(&pod.key, Part::Status, &fence, tell).await;
                if let Err(error) = told {
                    debug!(pod = %pod.key, %error, "failed to write why the pod has no node");
                }
            });
        }
    }
}

/// Sets the condition; tells whether that changed anything. A pod that has a node by now keeps its
/// peace.
fn set_unschedulable(pod: &mut Pod, uid: &str, verdict: &str) -> bool {
    let has_node = pod.spec.iter().any(|spec| spec.node_name.iter().any(|node| !node.is_empty()));
    if has_node || pod.metadata.uid.as_deref() != Some(uid) {
        return false;
    }
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let old = conditions.iter().position(|condition| condition.type_ == "PodScheduled");
    let old = old.map(|index| conditions.remove(index));
    let same_status = old.as_ref().filter(|old| old.status == "False");
    let since = same_status.and_then(|old| old.last_transition_time.clone());
    let new = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(verdict.to_owned()),
        last_transition_time: since.or_else(|| Some(Time(Timestamp::now()))),
        ..PodCondition::default()
    };
    let changed = old.is_none_or(|old| {
        (&old.status, &old.reason, &old.message) != (&new.status, &new.reason, &new.message)
    });
    conditions.push(new);
    changed
}

fn is_ours(scheduler: &str) -> bool {
    scheduler.is_empty() || scheduler == NAME
}

fn node_of(pod: &CachedObject) -> &str {
    pod.fields.get("spec.nodeName").map_or("", String::as_str)
}

fn is_finished(pod: &CachedObject) -> bool {
    let phase = pod.fields.get("status.phase").map(String::as_str);
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn undecodable(kind: &str, object: &CachedObject, error: &serde_json::Error) {
    warn!(kind, key = %object.key, %error, "an object in the store does not decode");
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
