//! One session, from a node's Hello to the end of its stream.
//!
//! ```text
//! Hello ─ checked ─▶ session key (under the master's lease) ─▶ Node object ─▶ Welcome, snapshot
//!                                                                               │
//!        node ──reports──▶ Reports ──▶ Writer ──▶ Objects                       ▼
//!        node ◀─────────── Feed ◀── Mailbox ◀── Hub ◀── caches          changes, tunnels
//! ```
//!
//! Every write carries "the session key is still the one that I wrote": a session that was replaced,
//! or whose key has expired, cannot write.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::{Event, Node, NodeStatus};
use proto::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::node::session_up::Message;
use proto::node::{
    EventReport, Hello, NodeStatusReport, PodRemoved, PodStatusReport, SessionDown, SessionUp,
    Welcome,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tracing::{Instrument, debug, info, info_span, warn};

use super::feed::{Feed, FeedEnd};
use super::hub::SessionHandle;
use super::reports::{PodWord, Reports, Work};
use super::service::Shared;
use super::writer::Writer;
use super::{merge, mirrors};
use crate::api::error::ApiError;
use crate::api::kinds::Nodes;
use crate::api::objects::Part;
use crate::cache::CachedObject;
use crate::store::{self, Compare, Op, Revision, Txn, TxnOutcome, keys};

/// Messages between a feed and HTTP/2; more would only wait in another place.
const DOWN_QUEUE: usize = 64;

/// Starts a session; what it says comes out of the receiver, an error last.
pub(crate) fn start(
    shared: Arc<Shared>,
    node: String,
    up: Streaming<SessionUp>,
) -> mpsc::Receiver<Result<SessionDown, Status>> {
    let (down, receiver) = mpsc::channel(DOWN_QUEUE);
    let span = info_span!("session", node);
    let tracker = shared.tracker.clone();
    let session = async move {
        let status = run(&shared, &node, up, &down).await;
        info!(reason = status.message(), "the session ended");
        // The node has gone already when this fails.
        let _ = down.try_send(Err(status));
    };
    tracker.spawn(session.instrument(span));
    receiver
}

/// What a node says of itself.
struct Description {
    labels: BTreeMap<String, String>,
    status: NodeStatus,
}

async fn run(
    shared: &Arc<Shared>,
    node: &str,
    mut up: Streaming<SessionUp>,
    down: &mpsc::Sender<Result<SessionDown, Status>>,
) -> Status {
    let description = match greet(shared, node, &mut up).await {
        Ok(description) => description,
        Err(status) => return status,
    };
    let handle = shared.hub.open(node, shared.shutdown.child_token());
    let status = match take_key(shared, node).await {
        Ok(revision) => {
            let status = converse(shared, &handle, revision, description, up, down).await;
            release_key(shared, node, revision).await;
            status
        }
        Err(status) => status,
    };
    shared.hub.close(&handle);
    status
}

/// The first message, checked against the certificate.
async fn greet(
    shared: &Shared,
    node: &str,
    up: &mut Streaming<SessionUp>,
) -> Result<Description, Status> {
    let first = timeout(shared.config.heartbeat_timeout, up.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the node did not say Hello"))??;
    let Some(Message::Hello(hello)) = first.and_then(|first| first.message) else {
        return Err(Status::invalid_argument("the first message of a session is Hello"));
    };
    describe(node, hello)
}

fn describe(node: &str, hello: Hello) -> Result<Description, Status> {
    let Hello { node_name, protocol_version, node: described } = hello;
    if node_name != node {
        let message = format!("the certificate is for node {node}, not for {node_name}");
        return Err(Status::permission_denied(message));
    }
    if protocol_version != proto::NODE_PROTOCOL_VERSION {
        let message = format!(
            "the kubelet speaks version {protocol_version} of the node protocol, this master {}; \
             install the same version on both",
            proto::NODE_PROTOCOL_VERSION
        );
        return Err(Status::failed_precondition(message));
    }
    let described: Node = serde_json::from_slice(&described)
        .map_err(|error| Status::invalid_argument(format!("the node's description: {error}")))?;
    let labels = described.metadata.labels.unwrap_or_default();
    if let Some(label) = merge::forbidden_label(&labels) {
        let message = format!("a node may not give itself the label {label}");
        return Err(Status::invalid_argument(message));
    }
    Ok(Description { labels, status: described.status.unwrap_or_default() })
}

/// Says in the store that the node is connected here. Whoever held the key before has lost it.
async fn take_key(shared: &Shared, node: &str) -> Result<Revision, Status> {
    let lease = *shared.lease.borrow();
    let lease = lease.ok_or_else(|| Status::unavailable("the master cannot reach its store"))?;
    let value = shared.config.master.clone().into_bytes().into();
    let put = Op::Put { key: keys::node_session(node), value, lease: Some(lease) };
    match shared.store.txn(Txn { compares: Vec::new(), ops: vec![put] }).await {
        Ok(TxnOutcome::Committed(revision)) => Ok(revision),
        Ok(TxnOutcome::Conflict(_)) => Err(Status::internal("a plain write met a conflict")),
        Err(error) => Err(unavailable(&error)),
    }
}

async fn release_key(shared: &Shared, node: &str, revision: Revision) {
    // The lease is about to be revoked, and all keys with it.
    if shared.shutdown.is_cancelled() {
        return;
    }
    let key = keys::node_session(node);
    let compares = vec![Compare::ModRevision(key.clone(), revision)];
    match shared.store.txn(Txn { compares, ops: vec![Op::Delete { key }] }).await {
        // A conflict: a newer session has the key.
        Ok(_) => {}
        Err(error) => warn!(%error, "a session's key is left to expire"),
    }
}

fn unavailable(error: &store::Error) -> Status {
    Status::unavailable(error.to_string())
}

fn from_api(error: &ApiError) -> Status {
    if error.is_fenced_off() {
        Status::aborted("another session of this node has begun, or this one's lease has expired")
    } else {
        Status::unavailable(error.message())
    }
}

async fn converse(
    shared: &Arc<Shared>,
    handle: &Arc<SessionHandle>,
    key_revision: Revision,
    description: Description,
    up: Streaming<SessionUp>,
    down: &mpsc::Sender<Result<SessionDown, Status>>,
) -> Status {
    let node = handle.node.as_str();
    let reports = Arc::new(Reports::default());
    let writer = Writer {
        objects: shared.objects.clone(),
        node: node.to_owned(),
        fence: vec![Compare::ModRevision(keys::node_session(node), key_revision)],
        reports: reports.clone(),
    };
    let Description { labels, status } = description;
    let registered = async {
        register(&writer, &labels, shared.config.pod_cidrs.len()).await?;
        writer.node_status(status).await?;
        // What other masters have written is in the snapshot too: a pod that this node runs must
        // not be missing from it.
        shared.hub.caches().fresh().await?;
        Ok::<_, ApiError>(())
    };
    let registered = tokio::select! {
        registered = registered => registered,
        () = handle.end.cancelled() => return ended(shared),
    };
    if let Err(error) = registered {
        return from_api(&error);
    }
    info!("the node is connected");

    let config = &shared.config;
    let welcome = Welcome {
        heartbeat_seconds: u32::try_from(config.heartbeat.as_secs()).unwrap_or(1).max(1),
        pod_cidrs: config.pod_cidrs.clone(),
        service_cidrs: config.service_cidrs.clone(),
        cluster_domain: config.cluster_domain.clone(),
    };
    let feed = Feed { hub: shared.hub.clone(), session: handle.clone(), down: down.clone() };
    tokio::select! {
        status = listen(shared, node, up, &reports) => status,
        error = writer.run() => from_api(&error),
        end = feed.run(welcome) => match end {
            FeedEnd::Gone => Status::cancelled("the node has gone"),
            FeedEnd::Stalled => Status::deadline_exceeded("the node does not read what it is told"),
            FeedEnd::Deleted => Status::not_found("the node was deleted"),
        },
        () = handle.end.cancelled() => ended(shared),
    }
}

fn ended(shared: &Shared) -> Status {
    if shared.shutdown.is_cancelled() {
        Status::unavailable("the master stops")
    } else {
        Status::aborted("another session of this node has begun, or the master lost its lease")
    }
}

/// Makes the node's object, or puts its labels right. What people changed of it stays.
async fn register(
    writer: &Writer,
    labels: &BTreeMap<String, String>,
    families: usize,
) -> Result<(), ApiError> {
    let key = ObjectKey::new("", writer.node.as_str());
    let (objects, fence) = (&writer.objects, &writer.fence);
    let updated = objects
        .update::<Nodes>(&key, Part::Spec, fence, |node| {
            let ranges = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref());
            // The cluster got its second family while the node was in it: the write allocates.
            let lacks = ranges.map_or(0, Vec::len) < families;
            merge::node_labels(node, labels) || lacks
        })
        .await;
    match updated {
        Err(error) if error.is_not_found() => {
            let metadata = ObjectMeta {
                name: Some(writer.node.clone()),
                labels: Some(labels.clone()),
                ..ObjectMeta::default()
            };
            let node = Node { metadata, ..Node::default() };
            objects.create::<Nodes>(node, fence).await.map(drop)
        }
        updated => updated.map(drop),
    }
}

/// Takes the node's reports until its stream ends or it falls silent.
async fn listen(
    shared: &Shared,
    node: &str,
    mut up: Streaming<SessionUp>,
    reports: &Reports,
) -> Status {
    loop {
        match timeout(shared.config.heartbeat_timeout, up.message()).await {
            Err(_) => return Status::deadline_exceeded("the node has fallen silent"),
            Ok(Err(status)) => return Status::cancelled(format!("the stream broke: {status}")),
            Ok(Ok(None)) => return Status::cancelled("the node closed the session"),
            // A kind of message from a newer kubelet.
            Ok(Ok(Some(SessionUp { message: None }))) => {}
            Ok(Ok(Some(SessionUp { message: Some(message) }))) => {
                match accept(shared, node, message) {
                    Ok(Some(work)) => reports.push(work),
                    Ok(None) => {}
                    Err(status) => return status,
                }
            }
        }
    }
}

/// What is to be written because of a message; nothing when the node has no business with it.
fn accept(shared: &Shared, node: &str, message: Message) -> Result<Option<Work>, Status> {
    let malformed = |what: &str, error: serde_json::Error| {
        Status::invalid_argument(format!("the {what} does not decode: {error}"))
    };
    Ok(match message {
        Message::Heartbeat(_) => None,
        Message::Hello(_) => return Err(Status::invalid_argument("Hello is said once")),
        Message::PodStatus(PodStatusReport { namespace, name, uid, status }) => {
            let key = ObjectKey::new(namespace, name);
            if !is_own_pod(shared, node, &key, Some(&uid)) {
                return Ok(None);
            }
            let status =
                serde_json::from_slice(&status).map_err(|error| malformed("pod status", error))?;
            Some(Work::Pod { uid, key, word: PodWord::Status(Box::new(status)) })
        }
        Message::PodRemoved(PodRemoved { namespace, name, uid }) => {
            let key = ObjectKey::new(namespace, name);
            // Only what was deleted may go: a node does not decide that.
            let deleting = shared.hub.object("pods", &key).is_some_and(|pod| pod.deleting);
            let removed = deleting && is_own_pod(shared, node, &key, Some(&uid));
            removed.then_some(Work::Pod { uid, key, word: PodWord::Removed })
        }
        Message::NodeStatus(NodeStatusReport { status }) => {
            let status =
                serde_json::from_slice(&status).map_err(|error| malformed("node status", error))?;
            Some(Work::Node(status))
        }
        Message::Event(EventReport { event }) => {
            let event: Event =
                serde_json::from_slice(&event).map_err(|error| malformed("event", error))?;
            is_own_event(shared, node, &event).then(|| Work::Event(Box::new(event)))
        }
    })
}

/// Whether a pod is bound to the node; the uid may be the one of a pod of a file on its node. The node has heard of its pods out of the same cache, so the
/// cache knows them.
pub(super) fn is_own_pod(shared: &Shared, node: &str, key: &ObjectKey, uid: Option<&str>) -> bool {
    let is_shown = |pod: &CachedObject, uid| mirrors::uid_on_node(pod).as_deref() == Some(uid);
    let own = shared.hub.object("pods", key).is_some_and(|pod| {
        pod.fields.get("spec.nodeName").is_some_and(|bound| bound == node)
            && uid.is_none_or(|uid| uid == pod.uid || is_shown(&pod, uid))
    });
    if !own {
        debug!(pod = %key, "ignored a report on a pod that is not this node's");
    }
    own
}

/// Whether an event is about the node or one of its pods.
fn is_own_event(shared: &Shared, node: &str, event: &Event) -> bool {
    let involved = &event.involved_object;
    let name = involved.name.as_deref().unwrap_or_default();
    match involved.kind.as_deref() {
        Some("Node") => {
            name == node && involved.namespace.as_deref().unwrap_or_default().is_empty()
        }
        Some("Pod") => {
            let namespace = involved.namespace.as_deref().unwrap_or_default();
            is_own_pod(shared, node, &ObjectKey::new(namespace, name), involved.uid.as_deref())
        }
        _ => false,
    }
}
