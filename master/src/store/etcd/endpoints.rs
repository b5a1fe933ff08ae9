//! The members of the etcd cluster, and which of them is spoken to.

use std::error::Error as _;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use tonic::{Code, Status};
use tracing::warn;

use super::EtcdOptions;

/// Longer than etcd itself waits for a commit (7 s): whatever it has to say should arrive.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Finds a connection that died in silence. etcd disconnects who asks more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Before a call is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether a failed call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Doing it twice does no harm.
    Freely,
    /// Only when the first attempt cannot have reached a server.
    IfNeverSent,
}

/// One client per member. Cheap to clone; clones agree on which member is spoken to.
#[derive(Clone)]
pub(super) struct Endpoints {
    clients: Arc<[Client]>,
    current: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoints")
            .field("members", &self.clients.len())
            .field("current", &self.current)
            .finish()
    }
}

impl Endpoints {
    /// Connections are made when they are needed first.
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self, Error> {
        if options.servers.is_empty() {
            return Err(Error::InvalidArgs("no etcd servers are given".to_owned()));
        }
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            // A member that lost its cluster must not pretend that nothing happens.
            .with_require_leader(true);
        if let Some(tls) = &options.tls {
            let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
            if let Some((certificate, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            connect = connect.with_tls(config);
        }
        let mut clients = Vec::new();
        for server in &options.servers {
            clients.push(Client::connect([server], Some(connect.clone())).await?);
        }
        Ok(Self { clients: clients.into(), current: Arc::default() })
    }

    /// The client of the member that is spoken to, and its place.
    pub(super) fn current(&self) -> (usize, Client) {
        let at = self.current.load(Ordering::Relaxed) % self.clients.len();
        (at, self.clients[at].clone())
    }

    /// The member at `at` failed: the next one's turn, unless somebody else saw it before.
    pub(super) fn leave(&self, at: usize) {
        let next = (at + 1) % self.clients.len();
        // When it is another one's turn already, that is as well.
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes a call, on other members where the current one fails.
    pub(super) async fn call<T, F>(
        &self,
        repeat: Repeat,
        call: impl Fn(Client) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        // Each member once, and the first a second time: its connection may just have been stale.
        let mut attempts = self.clients.len() + 1;
        loop {
            let (at, client) = self.current();
            let error = match tokio::time::timeout(CALL_TIMEOUT, call(client)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if !is_member_failure(&error) => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => Error::GRpcStatus(Status::deadline_exceeded("etcd does not answer")),
            };
            self.leave(at);
            attempts -= 1;
            let again = repeat == Repeat::Freely || was_never_sent(&error);
            if attempts == 0 || !again {
                return Err(error);
            }
            warn!(%error, "a member of etcd failed; trying the next");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether another member might do better.
pub(super) fn is_member_failure(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => matches!(
            status.code(),
            Code::Unavailable
                | Code::Unknown
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Internal
        ),
        Error::TransportError(_) | Error::IoError(_) | Error::EndpointError(_) => true,
        _ => false,
    }
}

/// Whether the connection could not even be made.
fn was_never_sent(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let mut source = status.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>()
            && matches!(
                error.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
            )
        {
            return true;
        }
        source = cause.source();
    }
    false
}
