//! What a tunnel asks of a pod: a program's streams, or its log.

use bytes::Bytes;
use futures::stream::BoxStream;
use proto::ObjectKey;
use proto::k8s::jiff::Timestamp;
use runtime::{ExecConfig, ExecSession};

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
}

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

    /// Opens the log of a container, also of one that ended. Dropping the stream stops following.
    async fn logs(
        &self,
        target: &ContainerTarget,
        options: LogOptions,
    ) -> Result<LogStream, StreamFailure>;
}
