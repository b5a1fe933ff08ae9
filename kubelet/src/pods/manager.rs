//! Keeps one worker per pod of this node, and takes over what a kubelet before this one left.
//!
//! Nothing is taken over before a snapshot was loaded: an empty state knows no pods. What belongs to
//! no pod is removed only once a master has confirmed the state: what was loaded from disk may be
//! older than the newest pods.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Pod;
use runtime::{ContainerRuntime, RuntimeEvent, SandboxState};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::allocation::Ledger;
use super::bounds;
use super::clock::Clock;
use super::names::{PodIdentity, is_safe_uid};
use super::observed::PodFailure;
use super::record::Record;
use super::references::{names_config_map, names_secret};
use super::spec::is_static;
use super::worker::{Context, Mailbox, PodView, Worker};
use super::{PodsConfig, PodsDependencies, PodsError, remains};
use crate::state::{Change, ClusterState, StateHandle};
use crate::volumes::PodDir;

type Views = HashMap<String, watch::Receiver<PodView>>;

/// Runs the pods of this node, and opens streams to them.
pub struct PodManager {
    config: PodsConfig,
    dependencies: PodsDependencies,
    clock: Clock,
    views: RwLock<Views>,
    mailboxes: RwLock<HashMap<String, Arc<Mailbox>>>,
}

impl PodManager {
    /// Nothing happens before [`run`](Self::run).
    pub fn new(config: PodsConfig, dependencies: PodsDependencies) -> Arc<Self> {
        Self::with_clock(config, dependencies, Clock::system())
    }

    pub(crate) fn with_clock(
        config: PodsConfig,
        dependencies: PodsDependencies,
        clock: Clock,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            dependencies,
            clock,
            views: RwLock::default(),
            mailboxes: RwLock::default(),
        })
    }

    /// Takes over what runs on this node, then follows the state until shutdown. On return no pod
    /// was stopped: containers outlive the kubelet.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), PodsError> {
        let mut changes = self.dependencies.state.changes();
        if !self.wait_until_loaded(&mut changes, &shutdown).await {
            return Ok(());
        }
        // Before the list, so that nothing happens unseen between the two.
        let mut events = self.dependencies.runtime.events();
        let found = self.dependencies.runtime.list().await.map_err(PodsError::List)?;
        let ledger = Ledger::default();
        let weights = bounds::keep_weights(
            self.config.cgroup_root.clone(),
            ledger.asked(),
            Arc::clone(&self.dependencies.runtime),
            shutdown.clone(),
        );
        // It ends with this call, however that ends.
        let mut beside = JoinSet::new();
        beside.spawn(weights);
        let mut crew = Crew {
            context: Arc::new(Context {
                config: self.config.clone(),
                dependencies: self.dependencies.clone(),
                clock: self.clock.clone(),
                ledger,
                shutdown: shutdown.clone(),
            }),
            manager: Arc::clone(&self),
            hands: HashMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            leftovers: HashMap::new(),
            cleared: false,
        };
        crew.take_over(found).await?;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                change = changes.recv() => match change {
                    Ok(change) => crew.state_changed(change).await?,
                    Err(RecvError::Lagged(_)) => crew.state_changed(Change::Everything).await?,
                    // The state lives as long as we hold a handle to it.
                    Err(RecvError::Closed) => break,
                },
                event = events.recv() => match event {
                    Ok(event) => crew.runtime_event(event),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "events of the runtime were missed");
                        crew.compare_all().await?;
                    }
                    Err(RecvError::Closed) => {
                        tracing::error!("the runtime has no more events");
                        break;
                    }
                },
                Some(ended) = crew.tasks.join_next_with_id() => crew.worker_ended(ended).await?,
            }
        }
        // Workers notice the shutdown themselves; what they were doing is idempotent.
        let patience = tokio::time::sleep(SHUTDOWN_PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                ended = crew.tasks.join_next() => if ended.is_none() { break },
                () = &mut patience => {
                    tracing::warn!(left = crew.tasks.len(), "pod workers did not end in time");
                    break;
                }
            }
        }
        Ok(())
    }

    /// False when the kubelet ends before.
    async fn wait_until_loaded(
        &self,
        changes: &mut broadcast::Receiver<Change>,
        shutdown: &CancellationToken,
    ) -> bool {
        // Pods of this node's own need no master's word.
        let ready = |cluster: &ClusterState| cluster.loaded || !cluster.static_pods.is_empty();
        while !self.dependencies.state.read(ready) {
            tokio::select! {
                () = shutdown.cancelled() => return false,
                changed = changes.recv() => {
                    if matches!(changed, Err(RecvError::Closed)) {
                        return false;
                    }
                }
            }
        }
        true
    }

    pub(super) fn views(&self) -> RwLockReadGuard<'_, Views> {
        self.views.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn runtime(&self) -> &Arc<dyn ContainerRuntime> {
        &self.dependencies.runtime
    }

    /// The pods that are not over.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        let is_over = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        self.dependencies.state.read(|cluster| {
            cluster.all_pods().filter(|pod| !is_over(pod)).map(Arc::clone).collect()
        })
    }

    /// Ends a pod for good, whatever its containers do; false when nobody works for it.
    pub(crate) fn fail(&self, uid: &str, failure: PodFailure) -> bool {
        let mailboxes = self.mailboxes.read().unwrap_or_else(PoisonError::into_inner);
        let Some(mailbox) = mailboxes.get(uid) else { return false };
        mailbox.put(|mail| mail.failed = Some(failure));
        true
    }

    /// Waits until nothing of a pod is left but its status and its logs.
    pub(crate) async fn released(&self, uid: &str) {
        let view = self.views().get(uid).cloned();
        if let Some(mut view) = view {
            // A worker that ends has nothing left either.
            let _ = view.wait_for(|view| view.released).await;
        }
    }

    pub(super) fn log_dir(&self) -> &Path {
        &self.config.log_dir
    }

    pub(super) fn state(&self) -> &StateHandle {
        &self.dependencies.state
    }

    pub(super) fn node_addresses(&self) -> &[IpAddr] {
        &self.config.node_addresses
    }
}

/// Workers only have to finish what they are just writing down.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// The workers.
struct Crew {
    manager: Arc<PodManager>,
    context: Arc<Context>,
    hands: HashMap<String, Hand>,
    tasks: JoinSet<()>,
    /// Which task works for which pod.
    running: HashMap<Id, String>,
    /// What was found of pods that the state does not know, until a master says whether it does.
    leftovers: HashMap<String, Option<PodIdentity>>,
    /// Whether that was done.
    cleared: bool,
}

/// One worker, as seen from outside.
struct Hand {
    identity: PodIdentity,
    /// It works for a pod out of a file.
    is_static: bool,
    mailbox: Arc<Mailbox>,
}

impl Crew {
    /// Pods that the state knows go on. What is left of others is remembered.
    async fn take_over(&mut self, found: Vec<SandboxState>) -> Result<(), PodsError> {
        let root_dir = &self.context.config.root_dir;
        let records = Record::read_all(root_dir)
            .map_err(|source| PodsError::Root { path: PodDir::all(root_dir), source })?;
        // Whose file has gone is still to end in its time, and nobody else has to say so.
        let (fallen, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|(_, record)| self.has_fallen(record.as_ref()));
        self.leftovers
            .extend(others.into_iter().map(|(uid, record)| (uid, record.map(|r| r.identity()))));
        for sandbox in &found {
            match PodIdentity::of(sandbox) {
                Some(identity) => {
                    self.leftovers.insert(identity.uid.clone(), Some(identity));
                }
                None => tracing::warn!(sandbox = %sandbox.config.id, "a sandbox of no pod"),
            }
        }
        tracing::info!(sandboxes = found.len(), "taking over");
        let found = sandboxes_by_uid(found);
        for (uid, record) in fallen {
            self.leftovers.remove(&uid);
            if let Some(pod) = record.and_then(|record| record.from_file) {
                self.hire(Arc::new(pod), found.get(&uid));
            }
        }
        self.welcome_all(&found);
        self.clear_away().await
    }

    /// Whether a record is of a pod out of a file that is not there any more.
    fn has_fallen(&self, record: Option<&Record>) -> bool {
        let Some(record) = record.filter(|record| record.from_file.is_some()) else { return false };
        let PodIdentity { key, uid } = record.identity();
        self.context.dependencies.state.read(|cluster| cluster.pod(&key, &uid).is_none())
    }

    /// All pods that have no worker yet get one.
    fn welcome_all(&mut self, found: &HashMap<String, SandboxState>) {
        let mut pods = self.pods();
        // Those that were here before have their room; the others are taken if there is more.
        pods.sort_by_key(|pod| !self.leftovers.contains_key(&uid_of(pod)));
        for pod in pods {
            let uid = uid_of(&pod);
            if !self.hands.contains_key(&uid) {
                self.leftovers.remove(&uid);
                self.hire(pod, found.get(&uid));
            }
        }
    }

    /// Removes what belongs to no pod, once that is certain.
    async fn clear_away(&mut self) -> Result<(), PodsError> {
        let confirmed = self.context.dependencies.state.read(|cluster| cluster.confirmed);
        if self.cleared || !confirmed {
            return Ok(());
        }
        let leftovers = std::mem::take(&mut self.leftovers);
        let mut found = match leftovers.is_empty() {
            true => HashMap::new(),
            false => self.list().await?,
        };
        // Addresses of the dying are theirs until they are dead.
        let alive: Vec<String> = self.hands.keys().chain(leftovers.keys()).cloned().collect();
        if let Err(error) = self.context.dependencies.network.retain(&alive).await {
            tracing::warn!(%error, "failed to take back addresses of pods that are gone");
        }
        for (uid, identity) in leftovers {
            let sandbox = found.remove(&uid);
            let context = Arc::clone(&self.context);
            self.tasks.spawn(remains::remove(context, uid, identity, sandbox));
        }
        self.cleared = true;
        Ok(())
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        let state = &self.context.dependencies.state;
        state.read(|cluster| cluster.all_pods().map(Arc::clone).collect())
    }

    async fn list(&self) -> Result<HashMap<String, SandboxState>, PodsError> {
        let found = self.context.dependencies.runtime.list().await.map_err(PodsError::List)?;
        Ok(sandboxes_by_uid(found))
    }

    fn hire(&mut self, pod: Arc<Pod>, found: Option<&SandboxState>) {
        let metadata = &pod.metadata;
        let identity = PodIdentity {
            key: ObjectKey::new(
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            ),
            uid: metadata.uid.clone().unwrap_or_default(),
        };
        if !is_safe_uid(&identity.uid) {
            tracing::error!(pod = %identity.key, uid = %identity.uid, "refusing a pod's uid");
            return;
        }
        // Out of one file comes one pod at a time: the one before may hold the same ports.
        let is_static = is_static(&pod);
        let before = |hand: &Hand| hand.is_static && hand.identity.key == identity.key;
        if is_static && self.hands.values().any(before) {
            tracing::info!(pod = %identity.key, uid = %identity.uid, "waiting for the one before");
            return;
        }
        if is_static {
            let (uid, key) = (identity.uid.clone(), identity.key.clone());
            let state = &self.context.dependencies.state;
            state.write([], |cluster| drop(cluster.static_here.insert(uid, key)));
        }
        let uid = identity.uid.clone();
        let mailbox = Arc::new(Mailbox::default());
        let hand = Hand { identity: identity.clone(), mailbox: Arc::clone(&mailbox), is_static };
        let (worker, view) = Worker::new(Arc::clone(&self.context), identity, pod, found, mailbox);
        self.views().insert(uid.clone(), view);
        self.mailboxes().insert(uid.clone(), Arc::clone(&hand.mailbox));
        let task = self.tasks.spawn(worker.run());
        self.running.insert(task.id(), uid.clone());
        self.hands.insert(uid, hand);
    }

    async fn state_changed(&mut self, change: Change) -> Result<(), PodsError> {
        match change {
            Change::Everything => {
                // A pod that is new to the state may have been here before.
                let returning =
                    self.pods().iter().any(|pod| self.leftovers.contains_key(&uid_of(pod)));
                let found = if returning { self.list().await? } else { HashMap::new() };
                self.welcome_all(&found);
                self.clear_away().await?;
                for hand in self.hands.values() {
                    hand.mailbox.put(|mail| mail.objects_changed = true);
                }
            }
            Change::Pod(key) => {
                let state = &self.context.dependencies.state;
                let pods: Vec<Arc<Pod>> = state.read(|cluster| {
                    let named = [cluster.pods.get(&key), cluster.static_pods.get(&key)];
                    named.into_iter().flatten().map(Arc::clone).collect()
                });
                for pod in pods {
                    let uid = uid_of(&pod);
                    if !self.hands.contains_key(&uid) {
                        let returning = self.leftovers.remove(&uid).is_some();
                        let found = if returning { self.list().await? } else { HashMap::new() };
                        self.hire(pod, found.get(&uid));
                    }
                }
                for hand in self.hands.values().filter(|hand| hand.identity.key == key) {
                    hand.mailbox.put(|_| {});
                }
            }
            Change::ConfigMap(key) => {
                self.object_changed(&key, |pod| names_config_map(pod, &key.name));
            }
            Change::Secret(key) => self.object_changed(&key, |pod| names_secret(pod, &key.name)),
            // Their values are read when a container starts.
            Change::Mirror(_)
            | Change::Service(_)
            | Change::EndpointSlice(_)
            | Change::NetworkPolicy(_)
            | Change::PolicyPeer(_)
            | Change::Peers
            | Change::Node => {}
        }
        Ok(())
    }

    fn object_changed(&self, key: &ObjectKey, concerns: impl Fn(&Pod) -> bool) {
        let hands = self.hands.values().filter(|hand| hand.identity.key.namespace == key.namespace);
        let concerned: Vec<&Hand> = self.context.dependencies.state.read(|cluster| {
            hands
                .filter(|hand| {
                    let PodIdentity { key, uid } = &hand.identity;
                    cluster.pod(key, uid).is_some_and(|pod| concerns(pod))
                })
                .collect()
        });
        for hand in concerned {
            hand.mailbox.put(|mail| mail.objects_changed = true);
        }
    }

    fn runtime_event(&self, event: RuntimeEvent) {
        // A sandbox is called as its pod.
        match event {
            RuntimeEvent::ContainerExited { sandbox, container, exit } => {
                if let Some(hand) = self.hands.get(&sandbox.0) {
                    hand.mailbox.put(|mail| {
                        mail.exits.insert(container, exit);
                    });
                }
            }
            RuntimeEvent::SandboxLost { sandbox } => {
                if let Some(hand) = self.hands.get(&sandbox.0) {
                    hand.mailbox.put(|mail| mail.sandbox_lost = true);
                }
            }
        }
    }

    /// Tells every worker what there is, since it may not have heard what happened.
    async fn compare_all(&self) -> Result<(), PodsError> {
        let mut found = self.list().await?;
        for (uid, hand) in &self.hands {
            let sandbox = found.remove(uid);
            hand.mailbox.put(|mail| mail.found = Some(sandbox));
        }
        Ok(())
    }

    async fn worker_ended(&mut self, ended: Result<(Id, ()), JoinError>) -> Result<(), PodsError> {
        let (id, panicked) = match &ended {
            Ok((id, ())) => (*id, false),
            Err(error) => (error.id(), error.is_panic()),
        };
        // On shutdown all of them end, and nothing has changed for their pods.
        if self.context.shutdown.is_cancelled() {
            return Ok(());
        }
        let Some(uid) = self.running.remove(&id) else { return Ok(()) };
        let Some(hand) = self.hands.remove(&uid) else { return Ok(()) };
        self.views().remove(&uid);
        self.mailboxes().remove(&uid);
        let key = &hand.identity.key;
        let state = &self.context.dependencies.state;
        let pod = state.read(|cluster| {
            // The same one, or the one that its changed file means.
            let next = || cluster.static_pods.get(key).filter(|_| hand.is_static);
            cluster.pod(key, &uid).or_else(next).map(Arc::clone)
        });
        if hand.is_static {
            let gone = |cluster: &mut ClusterState| drop(cluster.static_here.remove(&uid));
            state.write([Change::Mirror(key.clone())], gone);
        }
        if !panicked {
            // A pod that is gone has nothing to report either.
            self.context.dependencies.reporter.with(|outbox| outbox.pods.remove(&uid));
        } else {
            tracing::error!(pod = %key, "a pod's worker panicked; another one takes over");
        }
        if let Some(pod) = pod {
            let found = self.list().await?;
            self.hire(pod, found.get(&uid));
        }
        Ok(())
    }

    fn views(&self) -> std::sync::RwLockWriteGuard<'_, Views> {
        self.manager.views.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn mailboxes(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<Mailbox>>> {
        self.manager.mailboxes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sandbox is called as its pod.
fn sandboxes_by_uid(found: Vec<SandboxState>) -> HashMap<String, SandboxState> {
    found.into_iter().map(|sandbox| (sandbox.config.id.0.clone(), sandbox)).collect()
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}
