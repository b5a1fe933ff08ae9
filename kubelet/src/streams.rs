//! What a tunnel asks of a pod: a program's streams, its log, or a connection into it.

use std::pin::Pin;

use bytes::Bytes;
use futures::stream::BoxStream;
use proto::ObjectKey;
use proto::k8s::jiff::Timestamp;
use runtime::{ExecConfig, ExecSession};
use tokio::io::{AsyncRead, AsyncWrite};

/// Which container of which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerTarget {
    /// Namespace and name of the pod.
    pub pod: ObjectKey,
    /// `metadata.uid` of the pod: a pod of the same name is another pod.
    pub pod_uid: String,
    /// The container's name; never empty, the master fills in the default.
    pub container: String,
}

/// One of a program's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which part of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Goes on until the container ends, over rotations.
    pub follow: bool,
    /// The log of the container's last but one run.
    pub previous: bool,
    /// Each line starts with its time.
    pub timestamps: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Nothing beyond so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines written at or after this time.
    pub since: Option<Timestamp>,
    /// Only what was written to this one; nothing means both.
    pub stream: Option<OutputStream>,
}

/// Which streams of a container's own program are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachOptions {
    /// Its input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors.
    pub stderr: bool,
}

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `localhost` within a pod.
    PodLoopback(PodTarget),
    /// The address of a pod.
    PodAddress(PodTarget),
    /// The node's own address.
    Node,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// Namespace and name.
    pub pod: ObjectKey,
    /// `metadata.uid`.
    pub uid: String,
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// A connection that stands.
pub type Connection = Pin<Box<dyn Duplex>>;

/// Why a stream cannot be had, or broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StreamFailure {
    /// The HTTP status that a client of the API should see.
    pub code: u16,
    /// A sentence for the user.
    pub message: String,
}

impl StreamFailure {
    /// There is no such pod or container here.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { code: 404, message: message.into() }
    }

    /// The request cannot be served as it is, as when a container has not started yet.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { code: 400, message: message.into() }
    }

    /// Nobody accepts the connection.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 502, message: message.into() }
    }

    /// Something on the node failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { code: 500, message: message.into() }
    }
}

/// The bytes of a log, as the client sees them.
pub type LogStream = BoxStream<'static, Result<Bytes, StreamFailure>>;

/// Streams out of and into the pods of this node.
#[async_trait::async_trait]
pub trait PodStreams: Send + Sync + 'static {
    /// Starts a program in a running container.
    async fn exec(
        &self,
        target: &ContainerTarget,
        config: &ExecConfig,
    ) -> Result<ExecSession, StreamFailure>;

    /// Joins the streams of a running container's own program.
    async fn attach(
        &self,
        target: &ContainerTarget,
        options: AttachOptions,
    ) -> Result<ExecSession, StreamFailure>;

    /// Opens a TCP connection. Port 0 of the node is the kubelet's own HTTP.
    async fn connect(&self, place: &Place, port: u16) -> Result<Connection, StreamFailure>;

    /// Opens the log of a container, also of one that ended. Dropping the stream stops following.
    async fn logs(
        &self,
        target: &ContainerTarget,
        options: LogOptions,
    ) -> Result<LogStream, StreamFailure>;
}
