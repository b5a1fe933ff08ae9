//! HTTP probes: one connection per look, a bounded answer, redirects within the host followed.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use http::header::{ACCEPT, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use proto::k8s::api::core::v1::HTTPGetAction;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where a probe's request goes.
#[derive(Clone, Debug)]
pub(crate) struct HttpTarget {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
    user_agent: String,
}

/// More of an answer than this is not read; Kubernetes reads as much.
const MAX_BODY: usize = 10 * 1024;
/// As in Kubernetes.
const MAX_REDIRECTS: usize = 10;

/// As `kube-probe/1.2`.
pub(super) fn agent(part: &str) -> String {
    format!("{part}/kutter-{}", env!("CARGO_PKG_VERSION"))
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl HttpTarget {
    /// The error is for the user.
    pub(crate) fn new(get: &HTTPGetAction, port: u16, pod: IpAddr) -> Result<Self, String> {
        let host = match get.host.as_deref().filter(|host| !host.is_empty()) {
            Some(host) => host.trim_matches(['[', ']']).to_owned(),
            None => pod.to_string(),
        };
        let mut headers = HeaderMap::new();
        for header in get.http_headers.iter().flatten() {
            let name: HeaderName = header
                .name
                .parse()
                .map_err(|_| format!("invalid header name {:?}", header.name))?;
            let value: HeaderValue = header
                .value
                .parse()
                .map_err(|_| format!("invalid value of the header {:?}", header.name))?;
            headers.append(name, value);
        }
        let path = get.path.clone().unwrap_or_default();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let tls = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let user_agent = agent("kube-probe");
        Ok(Self { tls, host, port, path, headers, user_agent })
    }

    /// The same, asked for by another part of the node.
    pub(crate) fn sent_by(self, part: &str) -> Self {
        Self { user_agent: agent(part), ..self }
    }

    /// Sends the request; any answer will do.
    pub(crate) async fn ask(&self) -> Result<(), String> {
        self.request().await.map(drop)
    }

    /// One look.
    pub(super) async fn get(&self) -> Result<(), String> {
        let mut target = self.clone();
        for _ in 0..MAX_REDIRECTS {
            let (status, location) = target.request().await?;
            if !status.is_redirection() {
                return match status.is_success() {
                    true => Ok(()),
                    false => Err(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
                };
            }
            match location.and_then(|location| target.redirected(&location)) {
                Some(next) => target = next,
                // It answers, and sends us elsewhere: as far as this container goes, all is well.
                None => return Ok(()),
            }
        }
        Err(format!("Get \"{self}\": stopped after {MAX_REDIRECTS} redirects"))
    }

    /// Where a redirect leads, unless to another host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let uri: Uri = location.parse().ok()?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let Some(host) = uri.host() else {
            let path = match path.starts_with('/') {
                true => path,
                false => {
                    format!("{}/{path}", self.path.rsplit_once('/').map_or("", |(dir, _)| dir))
                }
            };
            return Some(Self { path, ..self.clone() });
        };
        if host.trim_matches(['[', ']']) != self.host {
            return None;
        }
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, port, path, ..self.clone() })
    }

    async fn request(&self) -> Result<(StatusCode, Option<String>), String> {
        let failed = |error: &dyn fmt::Display| format!("Get \"{self}\": {error}");
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|e| failed(&format_args!("dial tcp {}: {e}", self.authority())))?;
        if !self.tls {
            return self.exchange(tcp).await.map_err(|e| failed(&e));
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|e| failed(&e))?;
        let tls = TlsConnector::from(Arc::clone(&TLS)).connect(name, tcp).await;
        self.exchange(tls.map_err(|e| failed(&e))?).await.map_err(|e| failed(&e))
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(StatusCode, Option<String>), String> {
        let mut request = Request::get(self.path.as_str())
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| error.to_string())?;
        *request.headers_mut() = self.headers.clone();
        let defaults = [
            (HOST, self.authority()),
            (USER_AGENT, self.user_agent.clone()),
            (ACCEPT, "*/*".to_owned()),
        ];
        for (name, value) in defaults {
            if !request.headers().contains_key(&name) {
                let value = value.parse().map_err(|_| format!("{value:?} is no host"))?;
                request.headers_mut().insert(name, value);
            }
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
            let status = response.status();
            // The answer counts once it is there; a longer one than we want to read is no failure.
            let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
            Ok((status, location))
        };
        tokio::pin!(connection, exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            // The answer may have come with the end of the connection. If it has not, the exchange
            // says so.
            _ended = &mut connection => exchange.await,
        }
    }

    fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

static TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| Arc::new(any_certificate()));

/// A client that takes whatever certificate it is shown.
pub(super) fn any_certificate() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring offers the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
        .with_no_client_auth()
}

/// A probe asks whether a container answers, not who it is: certificates are not verified, as in
/// Kubernetes.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
