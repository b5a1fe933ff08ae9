//! Connections to a master: TCP, TLS 1.2 or 1.3 with ring, HTTP/2.
//!
//! There are two ways to trust a master. A node that has joined trusts the cluster's certificate
//! authority and shows its own certificate. A node that joins knows only the hash of that
//! authority, out of its token.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::config::MasterUrl;

/// A connection is given up when TCP and TLS are not through within this time: long enough for a
/// lost SYN to be sent three times.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// An idle connection is probed so often. With [`KEEPALIVE_TIMEOUT`] it bounds the time until a
/// master that vanished without a word is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A probe has to be answered within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one stream that may be on the way: a snapshot of thousands of services should not wait
/// for a round trip per 64 KiB.
const STREAM_WINDOW: u32 = 1 << 20;

/// A connection that did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answers.
    #[error("failed to reach {master}")]
    Tcp {
        /// Who was dialled.
        master: MasterUrl,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answered in time.
    #[error("{master} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Who was dialled.
        master: MasterUrl,
    },
    /// Somebody answers, but is not the master, or does not want us.
    #[error("failed to agree on TLS with {master}")]
    Tls {
        /// Who was dialled.
        master: MasterUrl,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// HTTP/2 did not start.
    #[error("failed to speak HTTP/2 with {master}")]
    Http {
        /// Who was dialled.
        master: MasterUrl,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

impl ConnectError {
    /// Whether the master's certificate is not what it should be: to try again is of no use.
    pub fn is_distrust(&self) -> bool {
        let Self::Tls { source, .. } = self else { return false };
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)))
    }
}

/// A connection to a master.
pub struct Connection {
    /// For gRPC clients. It is one connection: when it ends, calls fail.
    pub channel: Channel,
    /// The address of this node that reaches the master.
    pub local: SocketAddr,
    /// The master's address.
    pub master: SocketAddr,
}

/// Dials a master.
pub async fn connect(
    master: &MasterUrl,
    tls: Arc<ClientConfig>,
) -> Result<Connection, ConnectError> {
    tokio::time::timeout(CONNECT_TIMEOUT, dial(master, tls))
        .await
        .unwrap_or_else(|_| Err(ConnectError::Timeout { master: master.clone() }))
}

async fn dial(master: &MasterUrl, tls: Arc<ClientConfig>) -> Result<Connection, ConnectError> {
    let tcp_error = |source| ConnectError::Tcp { master: master.clone(), source };
    let tls_error = |source| ConnectError::Tls { master: master.clone(), source };
    let stream =
        TcpStream::connect((master.host.as_str(), master.port)).await.map_err(tcp_error)?;
    stream.set_nodelay(true).map_err(tcp_error)?;
    let local = stream.local_addr().map_err(tcp_error)?;
    let peer = stream.peer_addr().map_err(tcp_error)?;
    let name = ServerName::try_from(master.host.clone())
        .map_err(|error| tls_error(std::io::Error::other(error)))?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(tls_error)?;

    // TLS is done here and not by tonic, which would choose the cryptography by itself. The
    // connector gives the one connection away; tonic asks again only when that has ended.
    let once = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| std::io::Error::other("the connection has ended")) }
    });
    let authority = master.to_string();
    let plain = authority.replacen("https", "http", 1);
    let channel = Endpoint::from_shared(plain)
        .map_err(|source| ConnectError::Http { master: master.clone(), source })?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(2 * STREAM_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Http { master: master.clone(), source })?;
    Ok(Connection { channel, local, master: peer })
}

/// The configuration of a node that has joined.
pub fn joined(
    authority: &CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The configuration of a node that knows no more than the SHA-256 of the authority's DER.
pub fn pinned(authority_digest: [u8; 32]) -> Result<ClientConfig, rustls::Error> {
    let verifier = PinnedAuthority { digest: authority_digest, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Trusts the one authority of a given hash, which the server has to send along with its own
/// certificate. Everything else is checked as usual.
struct PinnedAuthority {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for PinnedAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedAuthority").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| Sha256::digest(certificate)[..] == self.digest)
            .ok_or_else(|| {
                rustls::Error::General(
                    "the server is not of the cluster that the token is for".to_owned(),
                )
            })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
