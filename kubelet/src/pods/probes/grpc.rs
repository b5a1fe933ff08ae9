//! gRPC probes: one connection per look, one question in the standard health protocol.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use proto::health::HealthCheckRequest;
use proto::health::health_check_response::ServingStatus;
use proto::health::health_client::HealthClient;
use tonic::Code;
use tonic::transport::Endpoint;

use super::http::agent;

/// What is asked, and where.
#[derive(Clone, Debug)]
pub(crate) struct GrpcTarget {
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
    pub(super) fn new(pod: IpAddr, port: u16, service: Option<&str>) -> Self {
        let service = service.unwrap_or_default().to_owned();
        Self { host: pod.to_string(), port, service }
    }

    /// One look, of at most `timeout`.
    pub(super) async fn check(&self, timeout: Duration) -> Result<(), String> {
        let too_late = |_| format!("timeout: health rpc did not complete within {timeout:?}");
        tokio::time::timeout(timeout, self.ask()).await.map_err(too_late)?
    }

    async fn ask(&self) -> Result<(), String> {
        let failed = |error: &dyn fmt::Display| {
            format!("failed to connect to gRPC service \"{self}\": {error}")
        };
        let endpoint = Endpoint::from_shared(format!("http://{self}")).map_err(|e| failed(&e))?;
        let endpoint = endpoint.user_agent(agent("kube-probe")).map_err(|e| failed(&e))?;
        let channel = endpoint.connect().await.map_err(|error| failed(&innermost(&error)))?;
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

/// The one that says what happened; those around it say where.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
