//! What the API shows of the pods that this node has in files: one object for each, made again when
//! somebody deletes it, and taken away when the pod has ended.
//!
//! [`decide`] says what to ask a master for; [`keep`] asks, again and again until it is so.

use std::collections::HashMap;
use std::time::Duration;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Pod;
use proto::node::{PutMirrorRequest, RemoveMirrorRequest};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::MIRROR_ANNOTATION;
use crate::backoff::Backoff;
use crate::reporter::Reporter;
use crate::state::{Change, ClusterState, StateHandle};
use crate::tokens::MasterLink;

/// A master that refuses is asked again after so long, then less and less often: what it refuses for,
/// a missing namespace say, is mended by people.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// Something to ask a master for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    /// Show this pod.
    Put(Box<Pod>),
    /// Show the object with this uid no more.
    Remove { uid: String },
}

/// What to ask for, so that the API shows what is here.
pub(super) fn decide(state: &ClusterState) -> Vec<(ObjectKey, Ask)> {
    // Before a master has spoken, nobody knows what it shows.
    if !state.confirmed {
        return Vec::new();
    }
    let mut asks = Vec::new();
    for (key, mirror) in &state.mirrors {
        let shown = mirror.metadata.annotations.as_ref().and_then(|all| all.get(MIRROR_ANNOTATION));
        let stays = match state.static_pods.get(key) {
            Some(pod) => shown == pod.metadata.uid.as_ref(),
            // It still takes room until it has ended.
            None => state.static_here.iter().any(|(uid, of)| of == key && Some(uid) == shown),
        };
        // Whoever deletes it ends nothing: it is made again.
        if !stays || mirror.metadata.deletion_timestamp.is_some() {
            let uid = mirror.metadata.uid.clone().unwrap_or_default();
            asks.push((key.clone(), Ask::Remove { uid }));
        }
    }
    for (key, pod) in &state.static_pods {
        if !state.mirrors.contains_key(key) {
            asks.push((key.clone(), Ask::Put(Box::new(image_of(pod)))));
        }
    }
    asks
}

/// The object that shows a pod.
fn image_of(pod: &Pod) -> Pod {
    let mut image = pod.clone();
    let uid = image.metadata.uid.take().unwrap_or_default();
    let annotations = image.metadata.annotations.get_or_insert_default();
    annotations.insert(MIRROR_ANNOTATION.to_owned(), uid);
    image
}

/// Keeps the API showing what is here, until shutdown.
pub(crate) async fn keep(
    node_name: String,
    state: StateHandle,
    reporter: Reporter,
    link: MasterLink,
    shutdown: CancellationToken,
) {
    let mut changes = state.changes();
    let mut waits: HashMap<ObjectKey, (Ask, Instant, Backoff)> = HashMap::new();
    loop {
        // A new session tells everything anew.
        let asks = if link.is_open() { state.read(decide) } else { Vec::new() };
        waits.retain(|key, (ask, ..)| asks.iter().any(|(k, a)| k == key && a == ask));
        for (key, ask) in asks {
            if waits.get(&key).is_some_and(|(_, due, _)| *due > Instant::now()) {
                continue;
            }
            let asked = shutdown.run_until_cancelled(perform(&link, &key, ask.clone())).await;
            let Some(answer) = asked else { return };
            let is_new = !waits.contains_key(&key);
            match answer {
                Ok(()) => debug!(pod = %key, "what the API shows of a static pod is put right"),
                Err(problem) => {
                    warn!(pod = %key, problem, "the API does not show a static pod as it is");
                    let message = format!("mirror pod of static pod {key}: {problem}");
                    if is_new {
                        reporter.node_warning(&node_name, "FailedMirrorPod", &message);
                    }
                }
            }
            // Also when it went well: until it is seen, something may have come between.
            let new = || (ask, Instant::now(), Backoff::new(FIRST_RETRY, LAST_RETRY));
            let (_, due, backoff) = waits.entry(key).or_insert_with(new);
            *due = Instant::now() + backoff.next_delay();
        }
        let due = waits.values().map(|(_, due, _)| *due).min();
        let timer = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = timer => {}
            () = concerning(&mut changes) => {}
        }
    }
}

async fn perform(link: &MasterLink, key: &ObjectKey, ask: Ask) -> Result<(), String> {
    match ask {
        Ask::Put(pod) => {
            let pod = serde_json::to_vec(&pod).map_err(|error| error.to_string())?.into();
            link.put_mirror(PutMirrorRequest { pod }).await
        }
        Ask::Remove { uid } => {
            let ObjectKey { namespace, name } = key.clone();
            link.remove_mirror(RemoveMirrorRequest { namespace, name, uid }).await
        }
    }
}

/// Waits for a change that may matter here.
async fn concerning(changes: &mut tokio::sync::broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(Change::Everything | Change::Mirror(_) | Change::Pod(_))
            | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            // Cannot be: the caller holds the state.
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
