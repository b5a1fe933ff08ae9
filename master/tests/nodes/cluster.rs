//! A master's node service on a loopback port over real TLS, on an embedded store in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubelet::config::MasterUrl;
use kubelet::credentials::Credentials;
use kubelet::join::{self, JoinError, Token};
use master::accounts::{Accounts, SigningKey};
use master::api::authn::Identity;
use master::api::kinds::{
    ClusterConfig, ConfigMaps, EndpointSlices, Events, Kind, Namespaces, NetworkPolicies, Nodes,
    Pods, Secrets, ServiceAccounts, Services,
};
use master::api::objects::{Objects, Part};
use master::api::registry::Registry;
use master::cache::Caches;
use master::nodes::credentials::{CertificateIssuer, RequestRefused, TokenVerdict, TokenVerifier};
use master::nodes::{NodeService, NodesConfig};
use master::store::{self, EmbeddedStore, Store};
use proto::ObjectKey;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The certificate authority of a test's cluster. Its one valid token has the secret `good`.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    pub(crate) fn token(&self, secret: &str) -> String {
        let digest = Sha256::digest(self.issuer.der());
        let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("abc.{secret}.{hash}")
    }

    fn server_tls(&self) -> rustls::ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let chain = vec![certificate.der().clone(), self.issuer.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// A certificate for whoever, made past the master.
    pub(crate) fn credentials(&self, user: &str, group: &str) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        Credentials::parse(pem, self.issuer.pem()).unwrap()
    }
}

impl CertificateIssuer for Authority {
    fn issue_node(&self, node_name: &str, request: &[u8]) -> Result<String, RequestRefused> {
        let refused = |error: rcgen::Error| RequestRefused(error.to_string());
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request).map_err(refused)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(refused)?;
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node_name}"));
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(refused)?;
        Ok(certificate.pem())
    }

    fn authority(&self) -> String {
        self.issuer.pem()
    }
}

#[async_trait]
impl TokenVerifier for Authority {
    async fn verify(&self, token: &str) -> Result<TokenVerdict, store::Error> {
        Ok(match token.split('.').nth(1) {
            Some("good") => TokenVerdict::Valid,
            Some("old") => TokenVerdict::Expired,
            _ => TokenVerdict::Unknown,
        })
    }
}

/// A master, as far as nodes are concerned.
pub(crate) struct Cluster {
    pub(crate) authority: Arc<Authority>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) address: SocketAddr,
    master: Option<Master>,
}

/// What a restart replaces.
struct Master {
    objects: Objects,
    nodes: NodeService,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let authority = Arc::new(Authority::new());
        let mut cluster = Self { authority, store, address, master: None };
        cluster.master = Some(cluster.start_master(listener).await);
        let namespaces = serde_json::json!({"metadata": {"name": "default"}});
        cluster.create::<Namespaces>(namespaces).await;
        cluster
    }

    async fn start_master(&self, listener: TcpListener) -> Master {
        let shutdown = CancellationToken::new();
        let registry = Registry::new()
            .with::<Pods>()
            .with::<ConfigMaps>()
            .with::<Secrets>()
            .with::<ServiceAccounts>()
            .with::<Services>()
            .with::<EndpointSlices>()
            .with::<Nodes>()
            .with::<Events>()
            .with::<NetworkPolicies>()
            .with::<Namespaces>();
        let registry = Arc::new(registry);
        let specs = registry.resource_specs();
        let caches = Caches::start(self.store.clone(), specs, shutdown.clone()).await.unwrap();
        let cluster = ClusterConfig {
            service_cidrs: "10.96.0.0/16".parse().unwrap(),
            pod_cidrs: "10.244.0.0/16".parse().unwrap(),
            node_prefixes: Default::default(),
            node_ports: (30000, 32767),
        };
        let objects = Objects::new(self.store.clone(), caches, registry, cluster);
        let config = NodesConfig {
            heartbeat: Duration::from_secs(1),
            heartbeat_timeout: Duration::from_secs(3),
            ..NodesConfig::new(
                "master-1".to_owned(),
                vec!["10.244.0.0/16".to_owned()],
                vec!["10.96.0.0/16".to_owned()],
                "cluster.local".to_owned(),
            )
        };
        let key = SigningKey::open(&*self.store).await.unwrap();
        let accounts = Accounts::new(objects.clone(), key, "cluster.local");
        let nodes = NodeService::start(
            config,
            objects.clone(),
            self.store.clone(),
            accounts,
            self.authority.clone(),
            self.authority.clone(),
            shutdown.clone(),
        )
        .unwrap();
        let tls = TlsAcceptor::from(Arc::new(self.authority.server_tls()));
        let server = tokio::spawn(serve(listener, tls, nodes.clone(), shutdown.clone()));
        Master { objects, nodes, shutdown, server }
    }

    fn master(&self) -> &Master {
        self.master.as_ref().unwrap()
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.master().objects
    }

    pub(crate) fn nodes(&self) -> &NodeService {
        &self.master().nodes
    }

    pub(crate) fn url(&self) -> MasterUrl {
        format!("https://{}", self.address).parse().unwrap()
    }

    /// Ends the master with all its connections; the store stays.
    pub(crate) async fn stop_master(&mut self) {
        let master = self.master.take().unwrap();
        master.shutdown.cancel();
        master.nodes.stopped().await;
        master.server.await.unwrap();
    }

    /// A new master on the same store and address.
    pub(crate) async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.master = Some(self.start_master(listener).await);
    }

    pub(crate) async fn join(&self, name: &str, secret: &str) -> Result<Credentials, JoinError> {
        let token: Token = self.authority.token(secret).parse().unwrap();
        join::join(&[self.url()], &token, name).await
    }

    /// Changes an object, past REST.
    pub(crate) async fn update<K: Kind>(
        &self,
        key: &ObjectKey,
        part: Part,
        mut change: impl FnMut(&mut K::Object) + Send,
    ) {
        let change = |object: &mut K::Object| {
            change(object);
            true
        };
        self.objects().update::<K>(key, part, &[], change).await.unwrap();
    }

    /// Creates an object from its JSON, in namespace `default` when it says nothing else.
    pub(crate) async fn create<K: Kind>(&self, mut json: serde_json::Value) -> K::Object {
        if K::RESOURCE.namespaced && json["metadata"]["namespace"].is_null() {
            json["metadata"]["namespace"] = "default".into();
        }
        let object = serde_json::from_value(json).unwrap();
        self.objects().create::<K>(object, &[]).await.unwrap()
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    nodes: NodeService,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            () = shutdown.cancelled() => break,
        };
        connections.spawn(connection(accepted, tls.clone(), nodes.clone()));
    }
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, nodes: NodeService) {
    // A client that does not trust us, or that we do not trust.
    let Ok(stream) = tls.accept(stream).await else { return };
    let identity = stream.get_ref().1.peer_certificates().map(|chain| identity(&chain[0]));
    let server = nodes.server();
    let service = hyper::service::service_fn(move |mut request: http::Request<_>| {
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        let request = request.map(tonic::body::Body::new::<hyper::body::Incoming>);
        tower::ServiceExt::oneshot(server.clone(), request)
    });
    // A broken connection is what some of the tests are about.
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .http2_only()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn identity(certificate: &[u8]) -> Identity {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    let subject = certificate.subject();
    let text =
        |name: &x509_parser::x509::AttributeTypeAndValue<'_>| name.as_str().unwrap().to_owned();
    Identity {
        user: subject.iter_common_name().map(text).next().unwrap(),
        groups: subject.iter_organization().map(text).collect(),
    }
}
