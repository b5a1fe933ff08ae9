//! Calls a running master as the administrator of its data directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pki::{self, kubeconfig};
use crate::token_api::{self, TokenRequest, TokenResponse};

/// A master that runs answers at once.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 1 << 20;

/// Why a master did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no usable kubeconfig.
    #[error(
        "found no administrator's credentials: has a master been started with this --data-dir?"
    )]
    Credentials(#[source] pki::Error),
    /// Nobody listens.
    #[error("no master answers at {server}: is it running?")]
    Connect {
        /// Where.
        server: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody listens, but does not answer in time.
    #[error("the master at {0} does not answer")]
    TimedOut(String),
    /// The connection broke.
    #[error("the connection to the master broke")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The master refuses.
    #[error("the master refuses ({code}): {message}")]
    Refused {
        /// HTTP status.
        code: StatusCode,
        /// Its words.
        message: String,
    },
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Http(error.into())
}

/// Makes a join token.
///
/// # Errors
/// When no master with this data directory, or of its cluster, can be asked.
pub async fn create_token(data_dir: &Path, ttl: Duration) -> Result<String, ClientError> {
    // Asked for a part of a second, a token lasts a whole one.
    let ttl_seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let body = serde_json::to_vec(&TokenRequest { ttl_seconds }).map_err(broken)?;
    let credentials = kubeconfig::load(&data_dir.join(kubeconfig::FILE_NAME))
        .map_err(ClientError::Credentials)?;
    let call = call(&credentials, Method::POST, token_api::PATH, body);
    let (code, answer) = tokio::time::timeout(TIMEOUT, call)
        .await
        .map_err(|_| ClientError::TimedOut(credentials.server.clone()))??;
    if !code.is_success() {
        let status: Result<serde_json::Value, _> = serde_json::from_slice(&answer);
        let message = status.ok().and_then(|status| Some(status["message"].as_str()?.to_owned()));
        let message = message.unwrap_or_else(|| String::from_utf8_lossy(&answer).into_owned());
        return Err(ClientError::Refused { code, message });
    }
    let answer: TokenResponse = serde_json::from_slice(&answer).map_err(broken)?;
    Ok(answer.token)
}

/// One request on a connection of its own.
async fn call(
    credentials: &kubeconfig::Credentials,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), ClientError> {
    let server: Uri = credentials.server.parse().map_err(broken)?;
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = server.port_u16().unwrap_or(443);
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|source| ClientError::Connect { server: credentials.server.clone(), source })?;
    let name = ServerName::try_from(host.to_owned()).map_err(broken)?;
    let connector = TlsConnector::from(Arc::new(tls(credentials)?));
    let stream = connector.connect(name, stream).await.map_err(broken)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, server.authority().map_or(host, |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let code = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((code, answer.map_err(ClientError::Http)?.to_bytes()))
    };
    tokio::select! {
        answer = exchange => answer,
        // Ends only when the connection breaks: the exchange above still holds its sender.
        Err(error) = connection => Err(broken(error)),
    }
}

fn tls(credentials: &kubeconfig::Credentials) -> Result<ClientConfig, ClientError> {
    let authority = CertificateDer::from_pem_slice(credentials.authority.as_bytes());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.map_err(broken)?).map_err(broken)?;
    let certificate = CertificateDer::from_pem_slice(credentials.client.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(credentials.client.key.as_bytes()).map_err(broken)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate.map_err(broken)?], key)
        .map_err(broken)
}
