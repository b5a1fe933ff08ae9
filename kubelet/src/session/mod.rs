//! The one stream to a master: what it says goes into the [`StateHandle`], what this node has to
//! say comes out of the [`Reporter`].
//!
//! ```text
//! connect -> Hello -> Welcome -> snapshot -> changes … -> broken -> (backoff, next master) -> connect
//!                                   └ all pod statuses again, then news, else heartbeats
//! ```

mod inbox;
mod outgoing;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use proto::k8s::api::core::v1::{Node, NodeStatus};
use proto::node::SessionUp;
use proto::node::node_client::NodeClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::config::MasterUrl;
use crate::credentials::{Credentials, CredentialsError};
use crate::join::Chain;
use crate::reporter::Reporter;
use crate::state::{Change, StateHandle};
use crate::streams::PodStreams;
use crate::tls::{self, ConnectError, Connection};
use crate::tokens::MasterLink;
use crate::tunnels::Tunnels;
use inbox::{Inbox, Received};
use outgoing::Outgoing;

/// The largest message a master may send: an object of the API's 3 MB, and room around it.
const MAX_MESSAGE: usize = 8 << 20;
/// Messages between this task and HTTP/2; more would only wait in another place.
const UP_QUEUE: usize = 32;
/// A master has to say Welcome within this time.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(20);

/// What a session is made of.
#[derive(Clone)]
pub struct Session {
    /// The masters of the cluster; any of them will do.
    pub masters: Vec<MasterUrl>,
    /// Who this node is; replaced when the certificate is renewed.
    pub credentials: Arc<ArcSwap<Credentials>>,
    /// The node as it is at present, told at the start of a session.
    pub describe: Arc<dyn Fn() -> Node + Send + Sync>,
    /// What the master says.
    pub state: StateHandle,
    /// What this node says.
    pub reporter: Reporter,
    /// What tunnels lead to.
    pub streams: Arc<dyn PodStreams>,
    /// Open while there is a session.
    pub link: MasterLink,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The node's certificate cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The master refused the session or broke it off.
    #[error("the master ended the session: {}", .0.message())]
    Status(#[source] Box<tonic::Status>),
    /// The stream ended without a word.
    #[error("the master closed the session")]
    Closed,
    /// The master accepted the call and then said nothing.
    #[error("the master did not accept the session in time")]
    NoWelcome,
    /// The node's own description cannot be encoded.
    #[error("the node's description cannot be encoded")]
    Description,
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Session {
    /// Keeps a session open until shutdown, whatever happens to masters and network.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::default();
        // Tunnels have connections of their own and outlive the session that asked for them.
        let mut tunnels = Tunnels::new(self.credentials.clone(), self.streams.clone());
        for master in self.masters.iter().cycle() {
            let mut welcomed = false;
            let session = self.once(master, &mut welcomed, &mut tunnels);
            let Some(Err(error)) = shutdown.run_until_cancelled(session).await else { return };
            if welcomed {
                backoff.reset();
            }
            let delay = backoff.next_delay();
            warn!(%master, error = %Chain(&error), ?delay, "no session with a master");
            if shutdown.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                return;
            }
        }
    }

    /// One session from its beginning to its end.
    async fn once(
        &self,
        master: &MasterUrl,
        welcomed: &mut bool,
        tunnels: &mut Tunnels,
    ) -> Result<std::convert::Infallible, SessionError> {
        let tls = Arc::new(self.credentials.load().client_config()?);
        let connection = tls::connect(master, tls).await?;
        let masters = self.master_addresses(&connection);
        let (up, receiver) = mpsc::channel(UP_QUEUE);

        // What Hello says of the node need not be said again.
        self.reporter.with(|outbox| outbox.node = None);
        let node_name = self.credentials.load().node_name().to_owned();
        let hello = outgoing::hello(&node_name, &(self.describe)());
        up.send(hello.ok_or(SessionError::Description)?).await.map_err(|_| SessionError::Closed)?;

        let channel = connection.channel.clone();
        let mut client = NodeClient::new(connection.channel).max_decoding_message_size(MAX_MESSAGE);
        let call = client.session(ReceiverStream::new(receiver));
        let down = timeout(WELCOME_TIMEOUT, call).await.map_err(|_| SessionError::NoWelcome)??;
        let mut outgoing = Outgoing::default();
        let _link = self.link.open(channel);
        let mut open = OpenSession {
            session: self,
            inbox: Inbox::new(self.state.clone(), masters),
            tunnels,
            master,
            welcomed,
        };
        let ended = open.converse(down.into_inner(), up, &mut outgoing).await;
        self.reporter.give_back(outgoing.into_events());
        ended
    }

    /// Says again what somebody has overwritten: the node-lifecycle controller declares a node and
    /// its pods unready when the node is away, and may do so in the moment in which it comes back.
    fn reassert(&self, change: &Change) {
        match change {
            Change::Pod(key) => self.state.read(|state| {
                if let Some(pod) = state.pods.get(key)
                    && let (Some(uid), Some(status)) = (&pod.metadata.uid, &pod.status)
                {
                    self.reporter.reassert(uid, status);
                }
            }),
            Change::Mirror(key) => self.state.read(|state| {
                let uid = state.static_pods.get(key).and_then(|pod| pod.metadata.uid.as_deref());
                let mirror = state.mirrors.get(key).and_then(|mirror| mirror.status.as_ref());
                if let (Some(uid), Some(status)) = (uid, mirror) {
                    self.reporter.retell(uid, status);
                }
            }),
            Change::Node => {
                let stored = self.state.read(|state| state.node.clone());
                let stored = stored.as_ref().and_then(|node| ready(node.status.as_ref()?));
                let Some(status) = (self.describe)().status else { return };
                if stored != ready(&status) {
                    self.reporter.node_status(status);
                }
            }
            _ => {}
        }
    }

    /// The master of this session first, then those that are known by their address.
    fn master_addresses(&self, connection: &Connection) -> Vec<IpAddr> {
        let mut addresses = vec![connection.master.ip()];
        let others = self.masters.iter().filter_map(|master| master.host.parse().ok());
        for address in others {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}

/// The state of a node's condition Ready.
fn ready(status: &NodeStatus) -> Option<&str> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    ready.map(|condition| condition.status.as_str())
}

/// A session that a master has taken the call of.
struct OpenSession<'a> {
    session: &'a Session,
    inbox: Inbox,
    tunnels: &'a mut Tunnels,
    master: &'a MasterUrl,
    welcomed: &'a mut bool,
}

impl OpenSession<'_> {
    /// Listens and talks until the stream breaks.
    async fn converse(
        &mut self,
        mut down: Streaming<proto::node::SessionDown>,
        up: mpsc::Sender<SessionUp>,
        outgoing: &mut Outgoing,
    ) -> Result<std::convert::Infallible, SessionError> {
        let reporter = &self.session.reporter;
        let mut heartbeat = None;
        let mut next_heartbeat = Instant::now() + WELCOME_TIMEOUT;
        // Reports are told after the snapshot: before it, this node does not know of which pods the
        // master wants to hear.
        let mut reporting = false;
        loop {
            tokio::select! {
                message = down.message() => {
                    let Some(message) = message?.ok_or(SessionError::Closed)?.message else {
                        // A kind of message from a newer master.
                        continue;
                    };
                    match self.inbox.receive(message) {
                        Received::Applied => {}
                        Received::Welcome(welcome) => {
                            *self.welcomed = true;
                            let every = Duration::from_secs(welcome.heartbeat_seconds.max(1).into());
                            heartbeat = Some(every);
                            next_heartbeat = Instant::now() + every;
                        }
                        Received::Snapshot => {
                            info!(master = %self.master, "took the master's snapshot");
                            reporter.resend_all();
                            reporting = true;
                        }
                        Received::Changed(change) => self.session.reassert(&change),
                        Received::PodDeleted { uid } => reporter.pod_deleted(&uid),
                        Received::Tunnel(request) => {
                            debug!(pod = %request.pod, namespace = %request.namespace, "opening a tunnel");
                            self.tunnels.open(self.master, request);
                        }
                    }
                }
                () = reporter.changed(), if reporting && outgoing.is_empty() => {
                    let state = &self.session.state;
                    outgoing.extend(reporter.take_unsent(|key, uid| state.read(|state| {
                        state.pod(key, uid).is_some()
                    })));
                }
                permit = up.reserve(), if !outgoing.is_empty() => {
                    let permit = permit.map_err(|_| SessionError::Closed)?;
                    if let Some(message) = outgoing.pop() {
                        permit.send(message);
                        next_heartbeat = Instant::now() + heartbeat.unwrap_or(WELCOME_TIMEOUT);
                    }
                }
                () = sleep_until(next_heartbeat) => {
                    let every = heartbeat.ok_or(SessionError::NoWelcome)?;
                    // A full queue says that the stream stalls, which no heartbeat would mend.
                    if up.try_send(outgoing::heartbeat()).is_err() {
                        debug!("the session's stream stalls");
                    }
                    next_heartbeat = Instant::now() + every;
                }
            }
        }
    }
}
