//! gRPC probes: one connection per look, one question in the standard health protocol.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::health::HealthCheckRequest;
use proto::health::health_check_response::ServingStatus;
use proto::health::health_client::HealthClient;
use proto::k8s::api::core::v1::GRPCAction;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::http::{agent, any_certificate};

/// What is asked, and where.
#[derive(Clone, Debug)]
pub(crate) struct GrpcTarget {
    tls: bool,
    host: String,
    port: u16,
    /// Empty: the server as a whole.
    service: String,
}

impl fmt::Display for GrpcTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl GrpcTarget {
    /// The error is for the user.
    pub(super) fn new(grpc: &GRPCAction, port: u16, pod: IpAddr) -> Result<Self, String> {
        let GRPCAction { mode, port: _, service } = grpc;
        let tls = match mode.as_deref() {
            None | Some("Plaintext") => false,
            Some("TLS") => true,
            Some(other) => return Err(format!("unknown mode {other:?} of a gRPC probe")),
        };
        let service = service.clone().unwrap_or_default();
        Ok(Self { tls, host: pod.to_string(), port, service })
    }

    /// One look, of at most `timeout`.
    pub(super) async fn check(&self, timeout: Duration) -> Result<(), String> {
        let too_late = |_| format!("timeout: health rpc did not complete within {timeout:?}");
        tokio::time::timeout(timeout, self.ask()).await.map_err(too_late)?
    }

    /// Who answers is not asked, as with requests by HTTPS.
    async fn connect_by_tls(
        &self,
        endpoint: &Endpoint,
    ) -> Result<Channel, tonic::transport::Error> {
        let (host, port) = (self.host.clone(), self.port);
        let connector = tower::service_fn(move |_: http::Uri| {
            let host = host.clone();
            async move {
                let tcp = TcpStream::connect((host.as_str(), port)).await?;
                let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
                let tls = TlsConnector::from(Arc::clone(&TLS)).connect(name, tcp).await?;
                Ok::<_, std::io::Error>(TokioIo::new(tls))
            }
        });
        endpoint.connect_with_connector(connector).await
    }

    async fn ask(&self) -> Result<(), String> {
        let failed = |error: &dyn fmt::Display| {
            format!("failed to connect to gRPC service \"{self}\": {error}")
        };
        let endpoint = Endpoint::from_shared(format!("http://{self}")).map_err(|e| failed(&e))?;
        let endpoint = endpoint.user_agent(agent("kube-probe")).map_err(|e| failed(&e))?;
        let channel = match self.tls {
            true => self.connect_by_tls(&endpoint).await,
            false => endpoint.connect().await,
        };
        let channel = channel.map_err(|error| failed(&innermost(&error)))?;
        let request = HealthCheckRequest { service: self.service.clone() };
        let answer = match HealthClient::new(channel).check(request).await {
            Ok(answer) => answer.into_inner().status(),
            Err(status) if status.code() == Code::Unimplemented => {
                return Err("this server does not implement the grpc health protocol \
                            (grpc.health.v1.Health)"
                    .to_owned());
            }
            Err(status) => {
                return Err(format!("health rpc failed: {}: {}", status.code(), status.message()));
            }
        };
        match answer {
            ServingStatus::Serving => Ok(()),
            other => Err(format!("service unhealthy (responded with {:?})", other.as_str_name())),
        }
    }
}

static TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let mut config = any_certificate();
    // Servers of gRPC end a connection that does not say so.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
});

/// The one that says what happened; those around it say where.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
