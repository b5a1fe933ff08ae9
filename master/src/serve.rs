//! The one port: TLS with optional client certificates, then HTTP/1.1 or HTTP/2, REST and gRPC
//! alike.
//!
//! A client certificate is looked at after the handshake. One that the authority has not signed, or that has
//! expired, does not break the connection: its requests go on without an identity and get 401 with a `Status`
//! that says so, as from a Kubernetes API server.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{debug, info, warn};

use crate::api::authn::Identity;
use crate::pki::{Authority, ServerCertificate, authority};

/// A connection costs some tens of kilobytes; beyond this many, others wait to be accepted.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// Whoever has not finished the handshake by then is not a client.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP/1.1 client may take for the head of a request, and may be idle before it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// Finds peers that went without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams per connection: a client with hundreds of watches has one connection.
const MAX_STREAMS: u32 = 1000;
/// Bytes of a request's head; selectors of hundreds of values make long URLs.
const MAX_HEADERS: u32 = 256 << 10;
/// What is still under way at shutdown has so much time to finish.
const GRACE: Duration = Duration::from_secs(5);
/// After an accept failed: mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are secured.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    clients: Arc<dyn ClientCertVerifier>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Serves with `certificate`; takes clients for whom `authority` says they are.
    ///
    /// # Errors
    /// When the authority's certificate cannot be a root.
    pub fn new(
        certificate: Arc<ServerCertificate>,
        authority: &Authority,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone())?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Later(clients.clone())))
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), clients })
    }

    /// Who a connection's client is; nothing without a certificate that is good now.
    fn identity(&self, chain: Option<&[CertificateDer<'_>]>) -> Option<Identity> {
        let (own, others) = chain?.split_first()?;
        match self.clients.verify_client_cert(own, others, UnixTime::now()) {
            Ok(_) => authority::identity(own),
            Err(error) => {
                debug!(%error, "a client certificate is not good");
                None
            }
        }
    }
}

/// Accepts every client certificate in the handshake (the client still has to prove that it has
/// the key); whether it is good is found out by [`Tls::identity`].
#[derive(Debug)]
struct Later(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Later {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Serves until shutdown, then lets what is under way finish within the grace period.
pub async fn serve(listener: TcpListener, tls: Tls, router: Router, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    // Cut when the grace period is over.
    let cut = CancellationToken::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let Some((place, accepted)) = shutdown.run_until_cancelled(accept).await else { break };
        match accepted {
            Ok((stream, peer)) => {
                let (tls, router) = (tls.clone(), router.clone());
                let (shutdown, cut) = (shutdown.clone(), cut.clone());
                connections.spawn(async move {
                    let _place = place;
                    let connection = connection(stream, peer, tls, router, shutdown);
                    cut.run_until_cancelled(connection).await;
                });
            }
            Err(error) => {
                warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        info!(left = connections.len(), "cutting the connections that are left");
        cut.cancel();
        connections.wait().await;
    }
}

/// One client, from the handshake to the end.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Tls,
    router: Router,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => return debug!(%peer, "a TLS handshake took too long"),
    };
    let identity = tls.identity(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        // A router is always ready.
        router.clone().call(request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS);
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%peer, %error, "a connection broke");
    }
}
