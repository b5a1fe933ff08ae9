//! Images: references, the content store, pulling, importing, unpacking.
//!
//! ```text
//! registry --pull--\                        /-- layers/<diff id>/   unpacked once, shared by all
//!                    >-- ImageStore ------<--- images/<id>.json    what an image consists of
//! archive --import-/                        \-- refs/<hash>.json    the names it is known by
//! ```
//!
//! Everything is made under a temporary name and renamed when it is whole and verified, the layers
//! before the record that names them: a store whose writer was killed holds less, never something wrong.
//! What is removed goes the other way: the names, the record, then the layers that nobody else
//! [claims].

mod access;
mod bounds;
mod claims;
mod headers;
mod import;
mod mirror;
mod platform;
mod pull;
mod reference;
mod registry;
mod removal;
mod store;
mod unpack;
mod user;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::SystemTime;

pub use mirror::{InvalidMirror, RegistryMirror};
pub use reference::normalise_reference;
pub use store::{ImageStore, ImageStoreConfig};
pub(crate) use unpack::highest_owner;
pub use user::resolve_user;

/// A failed image operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The text is no image reference.
    #[error("\"{reference}\" is not an image reference: {reason}")]
    InvalidReference {
        /// As given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry does not have it, refuses it, or cannot be reached.
    #[error("failed to pull {reference}: {reason}")]
    Pull {
        /// The image.
        reference: String,
        /// In words for the user.
        reason: String,
    },
    /// The file is no image archive that we understand.
    #[error("failed to import {}: {reason}", archive.display())]
    Import {
        /// The file.
        archive: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer is damaged, or holds what a layer may not hold.
    #[error("failed to unpack layer {layer}: {reason}")]
    Layer {
        /// Its digest.
        layer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image names a user that its `/etc/passwd` or `/etc/group` does not have.
    #[error("the image has no user or group \"{name}\"")]
    NoSuchUser {
        /// As the image or the caller names it.
        name: String,
    },
    /// The store's files cannot be read or written.
    #[error("failed to {operation} {}", path.display())]
    Io {
        /// The verb.
        operation: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Turns an I/O error into an [`ImageError::Io`].
fn io_error(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> ImageError {
    let path = path.into();
    move |source| ImageError::Io { operation, path, source }
}

/// An image that is present: unpacked, verified, ready to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration, `sha256:…`; what Kubernetes calls the image id.
    pub id: String,
    /// `registry/repository@sha256:…`, by which it was pulled; empty for an imported one.
    pub repo_digests: Vec<String>,
    /// Normalised references by which it is known, as `docker.io/library/busybox:1.36`.
    pub tags: Vec<String>,
    /// Unpacked layers, the lowest first.
    pub layers: Vec<PathBuf>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// How its program is to be run.
    pub config: ImageConfig,
}

/// An image with what matters when it is to be decided whether it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// The image.
    pub image: Image,
    /// When it came.
    pub added_at: SystemTime,
    /// When it was last asked for or [seen in use](ImageStorage::mark_used).
    pub last_used_at: SystemTime,
}

/// How an image wants its program to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<(String, String)>,
    /// Program.
    pub entrypoint: Vec<String>,
    /// Arguments, or program and arguments without an entrypoint.
    pub cmd: Vec<String>,
    /// Empty means `/`.
    pub working_dir: String,
    /// As `SIGQUIT`; nothing means `SIGTERM`.
    pub stop_signal: Option<String>,
}

/// Who one is to a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RegistryAuth {
    /// Nobody.
    Anonymous,
    /// User and password.
    Basic {
        /// User.
        username: String,
        /// Password or token.
        password: String,
    },
}

/// Where images come from.
#[async_trait::async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// The image of this reference, when it is present.
    async fn lookup(&self, reference: &str) -> Result<Option<Image>, ImageError>;

    /// Whether whoever shows these credentials may have the image of this reference as it is present: it came with
    /// one of them, with none at all, or from no registry. If not, its registry can be asked by
    /// [`pull`](ImageService::pull).
    async fn is_open_to(&self, reference: &str, auth: &[RegistryAuth]) -> Result<bool, ImageError>;

    /// Fetches what is missing of an image. Several callers that want the same image share one
    /// download. `auth` is tried in order; the first that the registry accepts serves.
    async fn pull(&self, reference: &str, auth: &[RegistryAuth]) -> Result<Image, ImageError>;
}

/// Where images are kept, for whoever has to see that they do not fill the disk.
#[async_trait::async_trait]
pub trait ImageStorage: Send + Sync + 'static {
    /// All that is present, in order of the ids.
    async fn inventory(&self) -> Result<Vec<StoredImage>, ImageError>;

    /// Remembers that these images are in use now.
    async fn mark_used(&self, ids: &[String]) -> Result<(), ImageError>;

    /// Removes an image with the layers that no other has, and tells how many bytes that gave back.
    /// None of its containers may be left. No error when there is none of this id.
    async fn remove(&self, id: &str) -> Result<u64, ImageError>;

    /// Removes what belongs to no image: what a killed pull or import has left, downloads that nobody
    /// went on with. Tells how many bytes that gave back.
    async fn sweep(&self) -> Result<u64, ImageError>;
}
