//! A control plane without REST, and kubelets that write what real ones would report.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Namespace, Node, Pod, PodCondition, PodIP, ReplicationController, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use master::api::kinds::{
    self, ClusterConfig, Namespaces, Nodes, Pods, ReplicationControllers, Services,
};
use master::api::objects::{DeleteOptions, Objects, Part};
use master::cache::{CachedObject, Caches, ObjectEvent, Update};
use master::controllers::{self, Config};
use master::scheduler;

use master::store::{Compare, EmbeddedStore, Op, Store, Txn, TxnOutcome, keys};
use proto::ObjectKey;
use proto::k8s::{self as k8s_openapi, jiff};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// After so long something that should happen has not.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) objects: Objects,
    pub(crate) leader: watch::Sender<Option<Compare>>,
    config: Config,
    /// Nodes whose kubelet works.
    alive: Arc<Mutex<BTreeSet<String>>>,
    kicked: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    /// Everything is running, with the namespace `default` and no node.
    pub(crate) async fn start() -> Self {
        Self::with(Config {
            service_lb: None,
            node_monitor_grace_period: Duration::from_millis(300),
            pod_eviction_timeout: Duration::from_millis(300),
            root_ca: "the certificate".to_owned(),
        })
        .await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory().unwrap());
        let registry = Arc::new(kinds::registry());
        let stop = CancellationToken::new();
        let caches = Caches::start(store.clone(), registry.resource_specs(), stop.clone());
        let caches = caches.await.unwrap();
        let cluster = ClusterConfig {
            service_cidrs: "10.96.0.0/16".parse().unwrap(),
            pod_cidrs: "10.244.0.0/16".parse().unwrap(),
            node_prefixes: Default::default(),
            node_ports: (30000, 32767),
        };
        let objects = Objects::new(store.clone(), caches, registry, cluster);
        let this = Self {
            store,
            objects,
            leader: watch::Sender::new(None),
            config,
            alive: Arc::default(),
            kicked: watch::Sender::new(0),
            stop,
        };
        this.namespace("default").await;
        this.run_master();
        this.lead().await;
        tokio::spawn(kubelets(
            this.objects.clone(),
            this.alive.clone(),
            this.kicked.subscribe(),
            this.stop.clone(),
        ));
        this
    }

    /// A master's scheduler and controllers.
    fn run_master(&self) {
        let (objects, stop) = (self.objects.clone(), self.stop.clone());
        tokio::spawn(scheduler::run(objects.clone(), self.leader.subscribe(), stop.clone()));
        let config = self.config.clone();
        tokio::spawn(controllers::run(objects, config, self.leader.subscribe(), stop));
    }

    /// Makes the master the leader (again), under a new key.
    pub(crate) async fn lead(&self) {
        let fence = self.write_leader().await;
        self.leader.send_replace(Some(fence));
    }

    /// Writes the leader's key, as a master that becomes the leader does.
    pub(crate) async fn write_leader(&self) -> Compare {
        let revision = self.put(keys::LEADER).await;
        Compare::ModRevision(keys::LEADER.to_owned(), revision)
    }

    async fn put(&self, key: &str) -> u64 {
        let op =
            Op::Put { key: key.to_owned(), value: bytes::Bytes::from_static(b"{}"), lease: None };
        match self.store.txn(Txn { compares: vec![], ops: vec![op] }).await.unwrap() {
            TxnOutcome::Committed(revision) => revision,
            TxnOutcome::Conflict(_) => unreachable!("nothing is compared"),
        }
    }

    pub(crate) async fn namespace(&self, name: &str) {
        let namespace: Namespace = from(json!({"metadata": {"name": name}}));
        self.objects.create::<Namespaces>(namespace, &[]).await.unwrap();
    }

    /// A node with a kubelet that works.
    pub(crate) async fn node(&self, name: &str) {
        self.node_with(name, |_| {}).await;
    }

    pub(crate) async fn node_with(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {},
            "status": {
                "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        change(&mut node);
        let node: Node = from(node);
        let status = node.status.clone();
        self.put(&keys::node_session(name)).await;
        self.objects.create::<Nodes>(node, &[]).await.unwrap();
        self.set_node_status(name, |node| node.status.clone_from(&status)).await;
        self.alive.lock().unwrap().insert(name.to_owned());
        self.kick();
    }

    pub(crate) async fn set_node_status(
        &self,
        name: &str,
        mut change: impl FnMut(&mut Node) + Send,
    ) {
        let key = ObjectKey::new("", name);
        let change = |node: &mut Node| {
            change(node);
            true
        };
        self.objects.update::<Nodes>(&key, Part::Status, &[], change).await.unwrap();
    }

    /// The node cannot be reached any more.
    pub(crate) async fn cut_off(&self, name: &str) {
        self.alive.lock().unwrap().remove(name);
        let op = Op::Delete { key: keys::node_session(name) };
        self.store.txn(Txn { compares: vec![], ops: vec![op] }).await.unwrap();
    }

    /// The node connects again, and reports that it is ready.
    pub(crate) async fn heal(&self, name: &str) {
        self.put(&keys::node_session(name)).await;
        self.set_node_status(name, |node| {
            for condition in node.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten())
            {
                condition.status = "True".to_owned();
            }
        })
        .await;
        self.alive.lock().unwrap().insert(name.to_owned());
        self.kick();
    }

    fn kick(&self) {
        self.kicked.send_modify(|kicks| *kicks += 1);
    }

    pub(crate) async fn rc(&self, name: &str, replicas: i32) -> ReplicationController {
        self.rc_with(name, replicas, |_| {}).await
    }

    pub(crate) async fn rc_with(
        &self,
        name: &str,
        replicas: i32,
        change: impl FnOnce(&mut Value),
    ) -> ReplicationController {
        let mut rc = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"app": name},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{
                        "name": "main", "image": "test",
                        "ports": [{"name": "http", "containerPort": 8080}],
                    }]},
                },
            },
        });
        change(&mut rc);
        let rc = self.objects.create::<ReplicationControllers>(from(rc), &[]).await.unwrap();
        self.objects.caches().fresh().await.unwrap();
        rc
    }

    pub(crate) async fn scale(&self, name: &str, replicas: i32) {
        let change = |rc: &mut ReplicationController| {
            rc.spec.get_or_insert_default().replicas = Some(replicas);
            true
        };
        let key = default(name);
        let part = Part::Spec;
        self.objects.update::<ReplicationControllers>(&key, part, &[], change).await.unwrap();
    }

    pub(crate) async fn pod(&self, name: &str, change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "main", "image": "test"}]},
        });
        change(&mut pod);
        let pod = self.objects.create::<Pods>(from(pod), &[]).await.unwrap();
        self.objects.caches().fresh().await.unwrap();
        pod
    }

    pub(crate) async fn delete_pod(&self, name: &str) {
        let options = DeleteOptions::default();
        self.objects.delete::<Pods>(&default(name), options, &[]).await.unwrap();
    }

    pub(crate) async fn service(&self, name: &str, spec: Value) -> Service {
        let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        self.objects.create::<Services>(from(service), &[]).await.unwrap()
    }

    /// The objects of a resource, as JSON.
    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        let (_, objects) = self.objects.caches().resource(resource).unwrap().list(None);
        objects.iter().map(|object| object.decode().unwrap()).collect()
    }

    pub(crate) fn get(&self, resource: &str, key: &ObjectKey) -> Option<Value> {
        let object = self.objects.caches().resource(resource).unwrap().get(key)?;
        Some(object.decode().unwrap())
    }

    /// Pods that are not being deleted.
    pub(crate) fn live_pods(&self) -> Vec<Value> {
        let mut pods = self.list("pods");
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Pods that run and are ready.
    pub(crate) fn ready_pods(&self) -> Vec<Value> {
        let mut pods = self.live_pods();
        pods.retain(is_ready);
        pods
    }

    /// Reasons and messages of the events about an object.
    pub(crate) fn events_about(&self, name: &str) -> Vec<(String, String)> {
        let mut events = self.list("events");
        events.retain(|event| event["involvedObject"]["name"] == name);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events.iter().map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
    }

    /// Waits until the caches show what is expected.
    pub(crate) async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        // What was written before is known: looks are into caches, which come a moment later.
        self.objects.caches().fresh().await.expect("the store answers");
        let mut revisions = self.objects.caches().watch_revision();
        let wait = async {
            loop {
                revisions.borrow_and_update();
                if holds(self) {
                    return;
                }
                revisions.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let pods: Vec<_> = self.list("pods").iter().map(summary).collect();
            panic!("not within {PATIENCE:?}: {what}; pods: {pods:#?}");
        }
    }

    /// Waits until nothing is written for a while; gives the revision.
    pub(crate) async fn idle(&self) -> u64 {
        let mut revisions = self.objects.caches().watch_revision();
        loop {
            let revision = *revisions.borrow_and_update();
            let quiet = Duration::from_millis(300);
            if tokio::time::timeout(quiet, revisions.changed()).await.is_err() {
                return revision;
            }
        }
    }
}

pub(crate) fn default(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

pub(crate) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == type_)
}

pub(crate) fn is_ready(object: &Value) -> bool {
    condition(object, "Ready").is_some_and(|ready| ready["status"] == "True")
}

pub(crate) fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

fn summary(pod: &Value) -> String {
    format!(
        "{} node={} phase={} deleted={} ready={}",
        pod["metadata"]["name"],
        pod["spec"]["nodeName"],
        pod["status"]["phase"],
        pod["metadata"]["deletionTimestamp"],
        is_ready(pod),
    )
}

/// Runs and removes the pods of the nodes that are alive.
async fn kubelets(
    objects: Objects,
    alive: Arc<Mutex<BTreeSet<String>>>,
    mut kicked: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let pods = objects.caches().resource("pods").unwrap().clone();
    let mut addresses = 0;
    let mut changes = pods.list_and_subscribe().2;
    loop {
        let due: Vec<Arc<CachedObject>> = tokio::select! {
            () = stop.cancelled() => return,
            _ = kicked.changed() => pods.list(None).1,
            update = changes.next() => match update.unwrap() {
                Update::Event(ObjectEvent::Deleted(_)) | Update::Progress(_) => continue,
                Update::Event(event) => vec![event.object().clone()],
            },
        };
        for pod in due {
            let node = &pod.fields["spec.nodeName"];
            if node.is_empty() || !alive.lock().unwrap().contains(node) {
                continue;
            }
            addresses += 1;
            kubelet(&objects, &pod, addresses).await;
        }
    }
}

async fn kubelet(objects: &Objects, pod: &CachedObject, address: usize) {
    if pod.deleting {
        let options = DeleteOptions {
            uid: Some(pod.uid.clone()),
            grace_period_seconds: Some(0),
            ..DeleteOptions::default()
        };
        // Somebody else may have removed it.
        let _ = objects.delete::<Pods>(&pod.key, options, &[]).await;
        return;
    }
    let run = |pod: &mut Pod| {
        let status = pod.status.get_or_insert_default();
        let conditions = status.conditions.get_or_insert_default();
        if conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True") {
            return false;
        }
        conditions.retain(|one| one.type_ != "Ready");
        conditions.push(PodCondition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(jiff::Timestamp::now())),
            ..PodCondition::default()
        });
        if status.pod_ip.is_none() {
            let ip = format!("10.244.{}.{}", address / 250, address % 250 + 1);
            status.pod_ip = Some(ip.clone());
            status.pod_ips = Some(vec![PodIP { ip }]);
        }
        status.phase = Some("Running".to_owned());
        true
    };
    let _ = objects.update::<Pods>(&pod.key, Part::Status, &[], run).await;
}
