//! Probes: is a container up, alive, ready?
//!
//! One task per probe of a running container. It counts successes and failures ([`Count`], pure)
//! and sends a [`ProbeNews`] when its verdict changes; the worker puts it into the picture.

mod count;
mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::{Container, Probe};
use proto::k8s::apimachinery::pkg::util::intstr::IntOrString;
use runtime::{ContainerId, ContainerRuntime, SandboxId};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::clock::{Clock, after};
use super::events::Teller;
use count::Count;
use grpc::GrpcTarget;
pub(crate) use http::HttpTarget;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    /// Until it succeeds, the others do not begin.
    Startup,
    /// While it fails, the container is sent no requests.
    Readiness,
    /// When it fails, the container is started again.
    Liveness,
}

impl ProbeKind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// A probe's verdict changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeNews {
    pub(crate) container: ContainerId,
    pub(crate) kind: ProbeKind,
    pub(crate) healthy: bool,
}

/// Everything a probe's task needs.
pub(crate) struct ProbeTask {
    pub(crate) kind: ProbeKind,
    pub(crate) container_name: String,
    pub(crate) container: ContainerId,
    pub(crate) sandbox: SandboxId,
    pub(crate) timing: Timing,
    pub(crate) check: Check,
    /// What is known from before: a kubelet that starts again does not take it back unproved.
    pub(crate) known: Option<bool>,
    pub(crate) started_at: Timestamp,
    pub(crate) runtime: Arc<dyn ContainerRuntime>,
    pub(crate) clock: Clock,
    pub(crate) teller: Teller,
    pub(crate) news: mpsc::Sender<ProbeNews>,
}

/// The numbers of a probe, with Kubernetes' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: u32,
    failure_threshold: u32,
}

impl Timing {
    /// As the probe says.
    pub(crate) fn of(probe: &Probe) -> Self {
        let number = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        let seconds = |value, default| Duration::from_secs(number(value, default).into());
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: number(probe.success_threshold, 1),
            failure_threshold: number(probe.failure_threshold, 3),
        }
    }
}

/// How one looks.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    /// A program in the container that exits with 0.
    Exec(Vec<String>),
    /// A request answered with a status of 2xx or 3xx.
    Http(HttpTarget),
    /// An answer that all is well, in gRPC's health protocol.
    Grpc(GrpcTarget),
    /// A connection accepted.
    Tcp { host: String, port: u16 },
}

impl Check {
    /// What the probe asks for; the error is for the user.
    pub(crate) fn of(probe: &Probe, container: &Container, pod: IpAddr) -> Result<Self, String> {
        if let Some(exec) = &probe.exec {
            return Ok(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(get) = &probe.http_get {
            let port = port(&get.port, container)?;
            return HttpTarget::new(get, port, pod).map(Self::Http);
        }
        if let Some(grpc) = &probe.grpc {
            let port = port(&IntOrString::Int(grpc.port), container)?;
            return GrpcTarget::new(grpc, port, pod).map(Self::Grpc);
        }
        if let Some(tcp) = &probe.tcp_socket {
            let port = port(&tcp.port, container)?;
            let host = tcp.host.clone().filter(|host| !host.is_empty());
            return Ok(Self::Tcp { host: host.unwrap_or_else(|| pod.to_string()), port });
        }
        Err("this kind of probe is not supported by this node".to_owned())
    }
}

/// The port that a number or a name of one of the container's ports stands for.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port)
                .ok_or_else(|| format!("couldn't find port: {name}"))?,
        },
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

/// A container that is not ready yet is asked more often at first, as Kubernetes allows: it is
/// usually up within a fraction of the period. This is the first interval; it doubles.
const EAGER: Duration = Duration::from_millis(50);

impl ProbeTask {
    /// Probes until dropped, or until nobody listens.
    pub(crate) async fn run(self) {
        let mut count = Count::new(self.timing.success_threshold, self.timing.failure_threshold);
        count.assume(self.known);
        let mut eager = match (&self.check, self.kind, self.known) {
            (Check::Http(_) | Check::Grpc(_) | Check::Tcp { .. }, ProbeKind::Readiness, None) => {
                Some(EAGER)
            }
            _ => None,
        };
        let first = after(self.started_at, self.timing.initial_delay);
        let mut next = self.clock.instant(first);
        loop {
            tokio::time::sleep_until(next).await;
            let began = tokio::time::Instant::now();
            let result = self.look().await;
            // Failures of eager looks are expected, and no news for anybody.
            let early = eager.is_some_and(|interval| interval < self.timing.period);
            match &result {
                Err(problem) if !early => {
                    let failures = count.failure();
                    self.tell(problem, failures.in_a_row);
                    self.report(failures.verdict).await;
                }
                Err(_) => {}
                Ok(()) => {
                    eager = None;
                    self.report(count.success()).await;
                }
            }
            if self.news.is_closed() || (self.kind == ProbeKind::Startup && count.is_healthy()) {
                return;
            }
            next = began + eager.unwrap_or(self.timing.period).min(self.timing.period);
            eager = eager.map(|interval| interval * 2);
        }
    }

    async fn report(&self, verdict: Option<bool>) {
        let Some(healthy) = verdict else { return };
        let news = ProbeNews { container: self.container.clone(), kind: self.kind, healthy };
        // A worker that is gone wants no news.
        let _ = self.news.send(news).await;
    }

    /// An event for the first failure in a row, and then ever more rarely.
    fn tell(&self, problem: &str, in_a_row: u32) {
        if in_a_row.is_power_of_two() {
            let message = format!("{} probe failed: {problem}", self.kind.name());
            self.teller.warning(Some(&self.container_name), "Unhealthy", message);
        }
    }

    async fn look(&self) -> Result<(), String> {
        let timeout = self.timing.timeout;
        match &self.check {
            Check::Exec(command) => self.execute(command).await,
            Check::Http(target) => tokio::time::timeout(timeout, target.get())
                .await
                .unwrap_or_else(|_| Err(format!("Get \"{target}\": context deadline exceeded"))),
            Check::Grpc(target) => target.check(timeout).await,
            Check::Tcp { host, port } => {
                let connect = TcpStream::connect((host.trim_matches(['[', ']']), *port));
                match tokio::time::timeout(timeout, connect).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: {error}")),
                    Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
                }
            }
        }
    }

    async fn execute(&self, command: &[String]) -> Result<(), String> {
        let timeout = self.timing.timeout;
        let ran = self.runtime.exec_sync(&self.sandbox, &self.container, command, timeout).await;
        match ran {
            Ok(output) if output.timed_out => {
                let command = command.join(" ");
                Err(format!("command timed out: \"{command}\" timed out after {timeout:?}"))
            }
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.output).trim_end().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
