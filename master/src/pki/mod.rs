//! The cluster's public key infrastructure: one authority, made on the first start of the first
//! master, and what it signs.
//!
//! ```text
//! data dir:  ca.crt ca.key            the authority (copy both to further masters)
//!            server.crt server.key    this master's, renewed before it expires
//!            admin.kubeconfig         an administrator's credentials, renewed on start
//! ```
//!
//! * [`authority`]: signs; [`server`]: the server's certificate, renewed while it is served;
//! * [`kubeconfig`]: the administrator's file; [`tokens`]: what lets a node join.

pub mod authority;
mod files;
pub mod kubeconfig;
pub mod server;
pub mod tokens;

use std::path::PathBuf;

pub use authority::{Authority, Subject};
pub use server::ServerCertificate;
pub use tokens::Tokens;

/// Something of the public key infrastructure that cannot be used or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("failed to write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// One half of a pair of certificate and key is there without the other.
    #[error("{} is missing although the other half of its pair is there", path.display())]
    HalfAPair {
        /// Which is missing.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A key or a certificate cannot be made.
    #[error("failed to make {what}")]
    Make {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The TLS library does not accept a certificate that was made.
    #[error("failed to use the server's certificate")]
    Tls(#[from] rustls::Error),
}

/// The result of an operation on certificates.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests;
