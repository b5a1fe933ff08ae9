//! TCP connections into pods, and to this node itself.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::network::within;
use crate::streams::{Connection, StreamFailure};

/// Nobody on this machine takes longer to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a pod is.
pub(super) struct PodNet {
    pub(super) namespace: PathBuf,
    pub(super) address: Option<IpAddr>,
}

/// `localhost` within the pod: IPv4 first, then IPv6.
pub(super) async fn loopback(pod: &PodNet, port: u16) -> Result<Connection, StreamFailure> {
    let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut told = Vec::new();
    for (name, address) in ["IPv4: dial tcp4", "IPv6: dial tcp6"].into_iter().zip(addresses) {
        let address = SocketAddr::new(address, port);
        match dial_within(pod, address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => told.push(format!("{name} {address}: connect: {}", reason(&error))),
        }
    }
    Err(StreamFailure::unreachable(format!(
        "failed to connect to localhost:{port} inside namespace {:?}, {}",
        pod.namespace.display().to_string(),
        told.join(" ")
    )))
}

/// The pod's address. What listens on its loopback alone is not reached.
pub(super) async fn address(pod: &PodNet, port: u16) -> Result<Connection, StreamFailure> {
    let address =
        pod.address.ok_or_else(|| StreamFailure::unreachable("the pod has no address yet"))?;
    let address = SocketAddr::new(address, port);
    dial_within(pod, address).await.map_err(|error| unreachable(address, &error))
}

/// This node's address, from its own network.
pub(super) async fn node(own: &[IpAddr], port: u16) -> Result<Connection, StreamFailure> {
    let Some(address) = own.first() else {
        return Err(StreamFailure::unreachable("the node has no address"));
    };
    let address = SocketAddr::new(*address, port);
    let dialled = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect(address));
    let stream = match dialled.await {
        Ok(dialled) => dialled,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let stream = stream.map_err(|error| unreachable(address, &error))?;
    let _ = stream.set_nodelay(true);
    Ok(Box::pin(stream))
}

fn unreachable(address: SocketAddr, error: &io::Error) -> StreamFailure {
    StreamFailure::unreachable(format!("dial tcp {address}: connect: {}", reason(error)))
}

/// What happened, without the number of the error.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

async fn dial_within(pod: &PodNet, address: SocketAddr) -> io::Result<Connection> {
    let namespace = File::open(&pod.namespace)?;
    let dial = move || {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    };
    Ok(Box::pin(within(&namespace, dial).await?))
}
