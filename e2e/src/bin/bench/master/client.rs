//! A client that costs little: it shares its processors with the master that it measures.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Credentials, and where the master is.
#[derive(Clone)]
pub(super) struct Server {
    address: SocketAddr,
    connector: TlsConnector,
}

/// A connection: HTTP/2 over TLS, as client-go has it.
#[derive(Clone)]
pub(super) struct Connection(SendRequest<Full<Bytes>>);

impl Server {
    /// Out of the administrator's kubeconfig.
    pub(super) fn load(kubeconfig: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let config: serde_json::Value = serde_yaml::from_str(&text)?;
        let field = |pointer: &str| {
            let found = config.pointer(pointer).and_then(|value| value.as_str());
            found.with_context(|| format!("the kubeconfig has no {pointer}"))
        };
        let pem = |pointer: &str| anyhow::Ok(STANDARD.decode(field(pointer)?)?);
        let address = field("/clusters/0/cluster/server")?.trim_start_matches("https://");
        let authority = pem("/clusters/0/cluster/certificate-authority-data")?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority)?)?;
        let certificate = pem("/users/0/user/client-certificate-data")?;
        let key = pem("/users/0/user/client-key-data")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(&certificate)?],
                PrivateKeyDer::from_pem_slice(&key)?,
            )?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { address: address.parse()?, connector: TlsConnector::from(Arc::new(config)) })
    }

    pub(super) async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.connector.connect(name, stream).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        // As large as a list: what is measured is the server.
        builder.initial_stream_window_size(16 << 20).initial_connection_window_size(32 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection(sender))
    }
}

impl Connection {
    /// Sends a request; the head of the answer.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://master{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        Ok(self.0.send_request(request).await?)
    }

    /// Sends a request and reads the answer; tells how many bytes it had.
    pub(super) async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        wanted: StatusCode,
    ) -> Result<usize> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let mut body = response.into_body();
        let (mut length, mut start) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            length += data.len();
            if status != wanted {
                start.extend_from_slice(&data);
            }
        }
        ensure!(status == wanted, "{path}: {status}: {}", String::from_utf8_lossy(&start));
        Ok(length)
    }
}
