//! Tunnels: the master asks a node over its session, the node calls back, the two are joined by an
//! id that nobody can guess.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use proto::node::{OpenTunnel, TunnelDown, TunnelUp, tunnel_up};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::hub::Hub;
use crate::api::streams::{StreamError, Streams, TunnelStream};
use crate::store::keys;

/// Messages of at most 16 KiB in each direction; whoever sends more waits for the reader.
const QUEUE: usize = 8;

/// The node has to name the tunnel in its first message, within this time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Tunnels that were asked for and not yet joined.
pub(crate) struct Tunnels {
    hub: Arc<Hub>,
    /// A node has to join within this time.
    join_timeout: Duration,
    waiting: Mutex<HashMap<String, Waiting>>,
}

struct Waiting {
    /// Only this node may join.
    node: String,
    join: oneshot::Sender<TunnelStream>,
}

/// What a node gets to read from a tunnel.
pub(crate) type TunnelDownStream = ReceiverStream<Result<TunnelDown, Status>>;

impl Tunnels {
    pub(crate) fn new(hub: Arc<Hub>, join_timeout: Duration) -> Self {
        Self { hub, join_timeout, waiting: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node calls back. Returns what it gets to read; the rest goes on in the background.
    pub(crate) async fn join(
        &self,
        node: &str,
        mut up: Streaming<TunnelUp>,
        shutdown: CancellationToken,
    ) -> Result<TunnelDownStream, Status> {
        let first = timeout(OPEN_TIMEOUT, up.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the tunnel was not named in time"))??;
        let Some(tunnel_up::Message::Open(open)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("the first message of a tunnel names it"));
        };
        let join = {
            let mut waiting = self.lock();
            match waiting.get(&open.id) {
                Some(wanted) if wanted.node == node => waiting.remove(&open.id),
                _ => None,
            }
        };
        let gone = || Status::not_found("nobody waits for this tunnel");
        let join = join.ok_or_else(gone)?.join;

        let (to_client, from_node) = mpsc::channel(QUEUE);
        let (to_node, from_client) = mpsc::channel::<TunnelDown>(QUEUE);
        join.send(TunnelStream { down: to_node, up: from_node }).map_err(|_| gone())?;
        let (answer, answers) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let carry = carry(up, to_client, from_client, answer);
            shutdown.run_until_cancelled(carry).await;
        });
        Ok(ReceiverStream::new(answers))
    }

    async fn ask(&self, node: &str, request: OpenTunnel) -> Result<TunnelStream, StreamError> {
        let Some(session) = self.hub.session(node) else { return Err(self.absent(node)) };
        // 122 random bits from the operating system.
        let id = Uuid::new_v4().simple().to_string();
        let (join, joined) = oneshot::channel();
        self.lock().insert(id.clone(), Waiting { node: node.to_owned(), join });
        // Forgets the tunnel also when the client goes away while it waits.
        let _forget = Forget { tunnels: self, id: &id };
        if !session.mailbox.push_tunnel(OpenTunnel { id: id.clone(), ..request }) {
            return Err(StreamError::TimedOut(node.to_owned()));
        }
        let waited = tokio::select! {
            waited = timeout(self.join_timeout, joined) => waited,
            () = session.end.cancelled() => return Err(self.absent(node)),
        };
        match waited {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(_)) | Err(_) => Err(StreamError::TimedOut(node.to_owned())),
        }
    }

    /// Why a node without a session here cannot be asked.
    fn absent(&self, node: &str) -> StreamError {
        let key = keys::node_session(node);
        let elsewhere = self.hub.caches().keys(keys::NODE_SESSIONS).get(&key);
        match elsewhere.filter(|_| self.hub.session(node).is_none()) {
            Some(held) => StreamError::Refused {
                code: 503,
                message: format!(
                    "node {node} is connected to master {}; ask there",
                    String::from_utf8_lossy(&held.value)
                ),
            },
            None => StreamError::NotConnected(node.to_owned()),
        }
    }
}

/// Carries messages until either side is through. What the node has said reaches the client before
/// the end does.
async fn carry(
    mut up: Streaming<TunnelUp>,
    to_client: mpsc::Sender<TunnelUp>,
    mut from_client: mpsc::Receiver<TunnelDown>,
    answer: mpsc::Sender<Result<TunnelDown, Status>>,
) {
    let upwards = async {
        while let Ok(Some(message)) = up.message().await {
            if to_client.send(message).await.is_err() {
                return;
            }
        }
    };
    let downwards = async {
        while let Some(message) = from_client.recv().await {
            if answer.send(Ok(message)).await.is_err() {
                return;
            }
        }
        // A client that has nothing more to say may still listen.
        std::future::pending().await
    };
    // When this returns, the node's stream ends, and with it what runs there.
    tokio::select! {
        () = upwards => {}
        () = downwards => {}
        // Also while the node does not take what the client has said.
        () = to_client.closed() => {}
    }
}

struct Forget<'a> {
    tunnels: &'a Tunnels,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.tunnels.lock().remove(self.id);
    }
}

#[async_trait]
impl Streams for Tunnels {
    async fn open(&self, node: &str, request: OpenTunnel) -> Result<TunnelStream, StreamError> {
        self.ask(node, request).await
    }
}
