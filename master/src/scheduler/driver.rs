//! Feeds the model and the queue from the caches, and writes what they decide.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::changes::{created, node_of};
use self::news::News;
use super::demand::PodInfo;
use super::eviction::{self, Awaiting};
use super::model::Model;
use super::queue::{Queue, Verdict};
use crate::api::error::ApiError;
use crate::api::objects::{Binding, Objects};
use crate::cache::{Lagged, ObjectEvent, Subscription, Update};
use crate::events::{EventRecorder, Occurrence, reference};
use crate::metrics::SCHEDULING;
use crate::store::Compare;

mod changes;
mod news;

/// The `spec.schedulerName` of the pods it looks after, and the source of its events.
pub(super) const NAME: &str = "default-scheduler";
/// Pods bound at a time: their transactions share the store's disk writes.
const BATCH: usize = 100;
/// Batches under way: while one is written the next is decided; more would only make later
/// decisions rest on more assumptions.
const BATCHES: usize = 2;
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
    /// Pods for which others give way.
    awaiting: Awaiting,
    /// The ends of others that are being written, with the pod for which it is done.
    evicting: JoinSet<(Arc<str>, Result<(), ApiError>)>,
    telling: JoinSet<()>,
    to_tell: VecDeque<News>,
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
            awaiting: Awaiting::default(),
            evicting: JoinSet::new(),
            telling: JoinSet::new(),
            to_tell: VecDeque::new(),
        }
    }

    /// Runs until it is dropped, or has missed a change.
    async fn run(mut self) -> Lagged {
        let Some([mut namespaces, mut services, mut nodes, mut pods]) = self.start() else {
            // Without these kinds there is nothing to schedule.
            return std::future::pending().await;
        };
        loop {
            self.tell_more();
            SCHEDULING.active.set(self.queue.len() - self.queue.waiting());
            SCHEDULING.unschedulable.set(self.queue.waiting() + self.awaiting.len());
            SCHEDULING.backoff.set(self.later.len());
            let can_decide = self.queue.has_ready() && self.binding.len() < BATCHES;
            let retry = self.later.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                update = namespaces.next() => match update {
                    Ok(Update::Event(event)) => self.namespace_changed(&event),
                    Ok(Update::Progress(_)) => {}
                    Err(lagged) => return lagged,
                },
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
                Some(ended) = self.evicting.join_next() => {
                    if let Ok((pod, Err(error))) = ended {
                        self.not_evicted(&pod, &error);
                    }
                }
                Some(_) = self.telling.join_next() => {}
                () = sleep_until(retry) => self.retry(Instant::now()),
                () = std::future::ready(()), if can_decide => self.decide(),
            }
        }
    }

    /// Takes in everything there is: pods last, so that they find the others.
    fn start(&mut self) -> Option<[Subscription; 4]> {
        let caches = Arc::clone(self.objects.caches());
        let (_, namespaces, namespace_changes) =
            caches.resource("namespaces")?.list_and_subscribe();
        let (_, services, service_changes) = caches.resource("services")?.list_and_subscribe();
        let (_, nodes, node_changes) = caches.resource("nodes")?.list_and_subscribe();
        let (_, mut pods, pod_changes) = caches.resource("pods")?.list_and_subscribe();
        for namespace in namespaces {
            self.namespace_changed(&ObjectEvent::Added(namespace));
        }
        for service in services {
            self.service_changed(&ObjectEvent::Added(service));
        }
        for node in nodes {
            self.node_changed(&ObjectEvent::Added(node));
        }
        // Later changes come in their order; these should be in the order they came too, and pods
        // that have a node before all that need one.
        pods.sort_by_cached_key(|pod| match node_of(pod) {
            "" => (true, created(pod), pod.revision),
            _ => (false, None, pod.revision),
        });
        for pod in pods {
            self.pod_changed(&ObjectEvent::Added(pod));
        }
        info!(waiting = self.queue.len(), "scheduling");
        Some([namespace_changes, service_changes, node_changes, pod_changes])
    }

    /// A pod for which others have given way, or which fits elsewhere now.
    fn try_again(&mut self, pod: PodInfo, ticket: u64) {
        let demand = Arc::clone(&pod.demand);
        // That its kind fits nowhere, everybody was told.
        drop(self.queue.put_back(pod, ticket));
        self.queue.wake(|other| *other == *demand);
    }

    /// Nobody needs to give way to the pod any more, and others may have the room.
    fn no_longer_awaiting(&mut self, uid: &str) {
        self.awaiting.remove(uid);
        if let Some(node) = self.model.denominate(uid) {
            self.wake(node);
        }
    }

    /// A pod fits nowhere: others give way to it, or it waits.
    fn fits_nowhere(&mut self, pod: PodInfo, ticket: u64) {
        let diagnosis = self.model.diagnose(&pod).message();
        let plan = match self.model.preempt(&pod) {
            Ok(plan) => plan,
            Err(refusal) => {
                let why: Verdict = format!("{diagnosis}{}", refusal.message()).into();
                debug!(pod = %pod.key, %why, "fits no node");
                let mut freed = Vec::new();
                for pod in self.queue.refuse(pod, ticket, &why) {
                    freed.extend(self.model.denominate(&pod.uid));
                    let why = Arc::clone(&why);
                    self.to_tell.push_back(News { pod, why, nominated: None });
                }
                for node in freed {
                    self.wake(node);
                }
                return;
            }
        };
        let node = Arc::clone(self.model.name(plan.node));
        for lesser in self.model.lesser_nominees(&pod, plan.node) {
            self.model.denominate(&lesser);
            if let Some((lesser, ticket)) = self.awaiting.remove(&lesser) {
                self.try_again(lesser, ticket);
            }
        }
        self.model.nominate(pod.clone(), &node);
        for victim in &plan.victims {
            self.model.set_leaving(&victim.uid);
        }
        self.awaiting.insert(pod.clone(), ticket, plan.awaited);
        let nominated = Some(Arc::clone(&node));
        self.to_tell.push_back(News { pod: pod.clone(), why: diagnosis.into(), nominated });
        if plan.victims.is_empty() {
            return;
        }
        SCHEDULING.preempted.add_one();
        let (objects, fence) = (self.objects.clone(), self.fence.clone());
        let recorder = self.recorder.clone();
        self.evicting.spawn(async move {
            let done =
                eviction::evict(&objects, &fence, &recorder, (&pod, &node), &plan.victims).await;
            (pod.uid, done)
        });
    }

    /// Those who should give way could not be told: the pod is tried again in a while.
    fn not_evicted(&mut self, pod: &Arc<str>, error: &ApiError) {
        let Some((pod, ticket)) = self.awaiting.remove(pod) else { return };
        warn!(pod = %pod.key, %error, "failed to make room");
        if let Some(node) = self.model.denominate(&pod.uid) {
            self.wake(node);
        }
        self.postpone(pod, ticket);
    }

    fn postpone(&mut self, pod: PodInfo, ticket: u64) {
        let attempts = self.attempts.entry(Arc::clone(&pod.uid)).or_default();
        let wait = RETRY.0.saturating_mul(1 << (*attempts).min(16)).min(RETRY.1);
        *attempts += 1;
        self.later.insert((Instant::now() + wait, ticket), pod);
    }

    /// Finds nodes for the pods that are next, up to a batch, and sends it off.
    fn decide(&mut self) {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            let Some((pod, ticket)) = self.queue.pop() else { break };
            self.model.attend(&pod.demand);
            match self.model.place(&pod) {
                Some(id) => {
                    let node = Arc::clone(self.model.name(id));
                    self.model.assume(pod.clone(), id);
                    self.wake_concerned(Some(&pod.demand), true);
                    batch.push(Bound { pod, ticket, node });
                }
                None => {
                    SCHEDULING.refused.add_one();
                    self.fits_nowhere(pod, ticket);
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
            self.wake_concerned(Some(&pod.demand), false);
        }
        if self.model.has_pod(&pod.uid) || !self.still_needs_node(&pod) {
            debug!(pod = %pod.key, %node, %error, "somebody else was faster");
            self.attempts.remove(&pod.uid);
            return;
        }
        SCHEDULING.failed.add_one();
        warn!(pod = %pod.key, %node, %error, "failed to bind");
        self.postpone(pod, ticket);
    }

    fn retry(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let ((_, ticket), pod) = entry.remove_entry();
            if self.model.has_pod(&pod.uid) || !self.still_needs_node(&pod) {
                self.attempts.remove(&pod.uid);
            } else if let Some(why) = self.queue.put_back(pod.clone(), ticket) {
                self.to_tell.push_back(News { pod, why, nominated: None });
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
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
