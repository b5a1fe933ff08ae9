//! The seam to the nodes for everything that streams: programs, logs, connections.

use async_trait::async_trait;
use proto::node::{OpenTunnel, TunnelDown, TunnelUp};
use tokio::sync::mpsc;

use crate::api::error::ApiError;

/// Opens tunnels to kubelets.
#[async_trait]
pub trait Streams: Send + Sync + 'static {
    /// Asks a node to open a tunnel and waits until it has; `request.id` is filled in by the
    /// implementation. Returns when the node has joined the tunnel.
    async fn open(&self, node: &str, request: OpenTunnel) -> Result<TunnelStream, StreamError>;
}

/// The master's end of a tunnel. Dropping it ends the stream on the node.
#[derive(Debug)]
pub struct TunnelStream {
    /// To the node: input, its end, terminal sizes.
    pub down: mpsc::Sender<TunnelDown>,
    /// From the node: `Connected` if that is asked for, `Data`, then last `Finished` or `Failure`. `TunnelOpen` has been taken off.
    /// Ending without either of the two means that the node was lost.
    pub up: mpsc::Receiver<TunnelUp>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The node has no session with any master, or with this one.
    #[error("node {0} is not connected")]
    NotConnected(String),
    /// The node did not join the tunnel in time.
    #[error("node {0} did not answer in time")]
    TimedOut(String),
    /// The node declined.
    #[error("{message}")]
    Refused {
        /// The HTTP status a client should see.
        code: u16,
        /// Why, in the node's words.
        message: String,
    },
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        match &error {
            StreamError::NotConnected(_) => Self::unavailable(error.to_string()),
            StreamError::TimedOut(_) => Self::timeout(error.to_string(), 1),
            StreamError::Refused { code, message } => Self::from_node(*code, message),
        }
    }
}
