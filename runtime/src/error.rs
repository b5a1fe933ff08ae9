//! What can go wrong in the runtime.

use crate::api::{ContainerId, SandboxId};

/// The result of a runtime operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed runtime operation, with what it was working on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for makes no sense; the text says why.
    #[error("{0}")]
    Invalid(String),
    /// There is no such sandbox.
    #[error("there is no sandbox {0}")]
    NoSuchSandbox(SandboxId),
    /// There is no such container in the sandbox.
    #[error("there is no container {container} in sandbox {sandbox}")]
    NoSuchContainer {
        /// Where it was looked for.
        sandbox: SandboxId,
        /// What was looked for.
        container: ContainerId,
    },
    /// The container does not run, so nothing can be executed in it or sent to it.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The container could not be made or its program not started; the text is for the user
    /// (`exec: "foo": executable file not found in $PATH`).
    #[error("failed to start container {container}: {reason}")]
    Start {
        /// Which one.
        container: ContainerId,
        /// Why, in words a user understands.
        reason: String,
    },
    /// Whoever was making the container, or a program in it, was killed. Nothing of it is left, and
    /// it may be tried again.
    #[error("the making of container {container} was interrupted: {reason}")]
    Interrupted {
        /// Which one.
        container: ContainerId,
        /// How.
        reason: String,
    },
    /// What the container is to be made from is not there, or not good for it; the text is for the user.
    #[error("failed to create container {container}: {reason}")]
    Create {
        /// Which one.
        container: ContainerId,
        /// Why, in words a user understands.
        reason: String,
    },
    /// A program could not be executed in a running container.
    #[error("failed to execute in container {container}: {reason}")]
    Exec {
        /// Which one.
        container: ContainerId,
        /// Why, in words a user understands.
        reason: String,
    },
    /// A running container could not be attached to, or not any longer.
    #[error("failed to attach to container {container}: {reason}")]
    Attach {
        /// Which one.
        container: ContainerId,
        /// Why, in words a user understands.
        reason: String,
    },
    /// The shim of a sandbox does not answer, or answers nonsense.
    #[error("the shim of sandbox {sandbox} failed: {reason}")]
    Shim {
        /// Whose shim.
        sandbox: SandboxId,
        /// What it did.
        reason: String,
    },
    /// A file operation failed.
    #[error("failed to {operation} {path}")]
    Io {
        /// The verb: "read", "create" …
        operation: &'static str,
        /// What it was done to.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// More sandboxes want users of their own than there are.
    #[error("all users that sandboxes may have of their own are given")]
    NoUsersLeft,
    /// An image operation failed.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
}
