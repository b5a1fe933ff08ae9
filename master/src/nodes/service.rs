//! The gRPC service that kubelets call, and what its calls share.

use std::sync::Arc;
use std::time::Duration;

use proto::names;
use proto::node::node_server::{Node, NodeServer};
use proto::node::{
    IssueTokenRequest, IssueTokenResponse, JoinRequest, JoinResponse, PutMirrorRequest,
    PutMirrorResponse, RemoveMirrorRequest, RemoveMirrorResponse, SessionDown, SessionUp, TunnelUp,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::{info, warn};

use super::credentials::{CertificateIssuer, TokenVerdict, TokenVerifier};
use super::hub::{Hub, MissingResource};
use super::tunnels::{TunnelDownStream, Tunnels};
use super::{lease, mirrors, pod_tokens, session};
use crate::accounts::Accounts;
use crate::api::authn::{Identity, NODES};
use crate::api::objects::Objects;
use crate::api::streams::Streams;
use crate::store::{LeaseId, Store, keys};

/// What the common name of a node's certificate starts with.
const USER_PREFIX: &str = "system:node:";

/// How nodes are treated.
#[derive(Clone, Debug)]
pub struct NodesConfig {
    /// What this master is called in session keys and in what people read: its address.
    pub master: String,
    /// A node that has nothing to say says so this often.
    pub heartbeat: Duration,
    /// A node that is silent for so long has gone.
    pub heartbeat_timeout: Duration,
    /// A node has to call back within this time when a tunnel is wanted.
    pub tunnel_timeout: Duration,
    /// Pods get their addresses out of them.
    pub pod_cidrs: Vec<String>,
    /// Services get their addresses out of them.
    pub service_cidrs: Vec<String>,
    /// As `cluster.local`.
    pub cluster_domain: String,
}

impl NodesConfig {
    /// The times that serve on a real network: a lost packet or two do not end a session, and a
    /// node that was cut off is noticed within ten seconds.
    pub fn new(
        master: String,
        pod_cidrs: Vec<String>,
        service_cidrs: Vec<String>,
        cluster_domain: String,
    ) -> Self {
        Self {
            master,
            heartbeat: Duration::from_secs(4),
            heartbeat_timeout: Duration::from_secs(10),
            tunnel_timeout: Duration::from_secs(10),
            pod_cidrs,
            service_cidrs,
            cluster_domain,
        }
    }
}

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) config: NodesConfig,
    pub(crate) objects: Objects,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) accounts: Accounts,
    pub(crate) hub: Arc<Hub>,
    pub(crate) lease: watch::Receiver<Option<LeaseId>>,
    pub(crate) tracker: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    tunnels: Arc<Tunnels>,
    tokens: Arc<dyn TokenVerifier>,
    issuer: Arc<dyn CertificateIssuer>,
}

/// The nodes' side of the master. Cheap to clone.
#[derive(Clone)]
pub struct NodeService {
    shared: Arc<Shared>,
    tasks: Arc<tokio::sync::Mutex<JoinSet<()>>>,
}

impl NodeService {
    /// Follows the caches and gets the sessions' lease, until shutdown.
    ///
    /// # Errors
    /// When a resource that nodes need has no cache.
    pub fn start(
        config: NodesConfig,
        objects: Objects,
        store: Arc<dyn Store>,
        accounts: Accounts,
        tokens: Arc<dyn TokenVerifier>,
        issuer: Arc<dyn CertificateIssuer>,
        shutdown: CancellationToken,
    ) -> Result<Self, MissingResource> {
        let mut tasks = JoinSet::new();
        let hub = Hub::start(objects.caches().clone(), &mut tasks, &shutdown)?;
        let (current, lease) = watch::channel(None);
        tasks.spawn(lease::keep(store.clone(), hub.clone(), current, shutdown.clone()));
        let tunnels = Arc::new(Tunnels::new(hub.clone(), config.tunnel_timeout));
        let tracker = TaskTracker::new();
        let shared = Shared {
            config,
            objects,
            store,
            accounts,
            hub,
            lease,
            tracker,
            shutdown,
            tunnels,
            tokens,
            issuer,
        };
        Ok(Self { shared: Arc::new(shared), tasks: Arc::new(tasks.into()) })
    }

    /// What goes onto the TLS port, beside REST. The port's owner puts the [`Identity`] of the
    /// client's certificate into the extensions of each request.
    pub fn server(&self) -> NodeServer<Self> {
        NodeServer::new(self.clone())
    }

    /// Streams out of and into pods, for REST.
    pub fn streams(&self) -> Arc<dyn Streams> {
        self.shared.tunnels.clone()
    }

    /// After shutdown: waits until the sessions have ended and their keys are given up.
    pub async fn stopped(&self) {
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
        while self.tasks.lock().await.join_next().await.is_some() {}
    }

    /// The certificate's node may have a new one; anybody else needs a token.
    async fn admit(
        &self,
        identity: Option<&Identity>,
        request: &JoinRequest,
    ) -> Result<(), Status> {
        let name = request.node_name.as_str();
        if request.token.is_empty() {
            let own = identity.and_then(node_of);
            return match own {
                Some(own) if own == name => Ok(()),
                Some(own) => {
                    let message = format!("the certificate is for node {own}, not for {name}");
                    Err(Status::permission_denied(message))
                }
                None => Err(Status::unauthenticated(
                    "joining takes a token; run `master token create` on the master",
                )),
            };
        }
        let verdict = self.shared.tokens.verify(&request.token).await;
        match verdict.map_err(|error| Status::unavailable(error.to_string()))? {
            TokenVerdict::Valid => {}
            TokenVerdict::Expired => {
                return Err(Status::unauthenticated(
                    "the token has expired; run `master token create` on the master for a new one",
                ));
            }
            TokenVerdict::Unknown => {
                return Err(Status::unauthenticated(
                    "the token is not known here; run `master token create` on the master",
                ));
            }
        }
        // A token lets new nodes in. It does not let them step into the place of one that is there.
        let key = keys::node_session(name);
        if self.shared.hub.caches().keys(keys::NODE_SESSIONS).get(&key).is_some() {
            let message =
                format!("a node {name} is connected; choose another name with --node-name");
            return Err(Status::already_exists(message));
        }
        Ok(())
    }
}

/// The node that a certificate is for.
fn node_of(identity: &Identity) -> Option<&str> {
    identity.user.strip_prefix(USER_PREFIX).filter(|_| identity.is_in(NODES))
}

fn node_from<T>(request: &Request<T>) -> Result<String, Status> {
    let identity = request
        .extensions()
        .get::<Identity>()
        .ok_or_else(|| Status::unauthenticated("only nodes may call this, with a certificate"))?;
    node_of(identity).map(str::to_owned).ok_or_else(|| {
        let message = format!("{} is not a node", identity.user);
        Status::permission_denied(message)
    })
}

#[async_trait]
impl Node for NodeService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let identity = request.extensions().get::<Identity>().cloned();
        let request = request.into_inner();
        let errors = names::dns_subdomain(&request.node_name);
        if !errors.is_empty() {
            let message =
                format!("{:?} cannot be a node's name: {}", request.node_name, errors.join("; "));
            return Err(Status::invalid_argument(message));
        }
        if let Err(status) = self.admit(identity.as_ref(), &request).await {
            warn!(node = request.node_name, reason = status.message(), "refused a node");
            return Err(status);
        }
        let certificate = self
            .shared
            .issuer
            .issue_node(&request.node_name, &request.certificate_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        info!(node = request.node_name, renewal = request.token.is_empty(), "issued a certificate");
        let certificate_authority = self.shared.issuer.authority();
        Ok(Response::new(JoinResponse { certificate, certificate_authority }))
    }

    type SessionStream = ReceiverStream<Result<SessionDown, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionUp>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = node_from(&request)?;
        let down = session::start(self.shared.clone(), node, request.into_inner());
        Ok(Response::new(ReceiverStream::new(down)))
    }

    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let node = node_from(&request)?;
        let token = pod_tokens::issue(&self.shared, &node, request.into_inner()).await?;
        Ok(Response::new(IssueTokenResponse { token }))
    }

    async fn put_mirror(
        &self,
        request: Request<PutMirrorRequest>,
    ) -> Result<Response<PutMirrorResponse>, Status> {
        let node = node_from(&request)?;
        mirrors::put(&self.shared, &node, request.into_inner()).await?;
        Ok(Response::new(PutMirrorResponse {}))
    }

    async fn remove_mirror(
        &self,
        request: Request<RemoveMirrorRequest>,
    ) -> Result<Response<RemoveMirrorResponse>, Status> {
        let node = node_from(&request)?;
        mirrors::remove(&self.shared, &node, request.into_inner()).await?;
        Ok(Response::new(RemoveMirrorResponse {}))
    }

    type TunnelStream = TunnelDownStream;

    async fn tunnel(
        &self,
        request: Request<Streaming<TunnelUp>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let node = node_from(&request)?;
        let shutdown = self.shared.shutdown.clone();
        let down = self.shared.tunnels.join(&node, request.into_inner(), shutdown).await?;
        Ok(Response::new(down))
    }
}
