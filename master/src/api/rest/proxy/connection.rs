//! Ways to the other side, and the connections that they lead to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proto::node::open_tunnel::Request as Wanted;
use proto::node::{ConnectRequest, OpenTunnel, connect_request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::bytes::TunnelBytes;
use crate::api::rest::Api;

/// Who has not answered by then is not there. As long as Kubernetes' API server waits.
const DIAL: Duration = Duration::from_secs(30);

/// Bytes to the other side and back; closed when dropped.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// How somebody is reached.
pub(super) enum Way {
    /// Only a node can lead to an address of its own, and does so for us.
    Node {
        node: String,
        tunnel: OpenTunnel,
    },
    Direct(SocketAddr),
}

impl Way {
    pub(super) fn through_node(
        node: String,
        tunnel: OpenTunnel,
        place: connect_request::Place,
        port: u16,
    ) -> Self {
        Self::Node { node, tunnel: connecting(tunnel, place, port) }
    }

    /// # Errors
    /// When the node does not lead there, or nobody answers.
    pub(super) async fn connect(self, api: &Api) -> io::Result<Box<dyn Connection>> {
        match self {
            Self::Node { node, tunnel } => {
                let opened = api.streams.open(&node, tunnel).await.map_err(io::Error::other)?;
                Ok(Box::new(TunnelBytes::connected(opened).await?))
            }
            Self::Direct(address) => {
                let told = |why: &dyn std::fmt::Display| {
                    io::Error::other(format!("dial tcp {address}: {why}"))
                };
                let dial = tokio::time::timeout(DIAL, TcpStream::connect(address)).await;
                let stream = dial.map_err(|_| told(&"i/o timeout"))?.map_err(|why| told(&why))?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// A tunnel to a port of a place.
pub(super) fn connecting(
    tunnel: OpenTunnel,
    place: connect_request::Place,
    port: u16,
) -> OpenTunnel {
    let connect = ConnectRequest { place: place.into(), port: u32::from(port) };
    OpenTunnel { request: Some(Wanted::Connect(connect)), ..tunnel }
}
