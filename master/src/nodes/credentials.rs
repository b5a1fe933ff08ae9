//! What joining needs of the public key infrastructure.

use async_trait::async_trait;

use crate::store;

/// What a bootstrap token turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenVerdict {
    /// It lets a node join.
    Valid,
    /// It was made here, but its time is up.
    Expired,
    /// It was not made here.
    Unknown,
}

/// Tells whether a bootstrap token (`ID.SECRET.CAHASH`) lets a node join.
#[async_trait]
pub trait TokenVerifier: Send + Sync + 'static {
    /// Looks the token up; compares in constant time.
    async fn verify(&self, token: &str) -> Result<TokenVerdict, store::Error>;
}

/// A certificate request that cannot be signed.
#[derive(Debug, thiserror::Error)]
#[error("the certificate request cannot be used: {0}")]
pub struct RequestRefused(pub String);

/// Signs node certificates.
pub trait CertificateIssuer: Send + Sync + 'static {
    /// A client certificate (PEM) with CN `system:node:<node_name>` and O `system:nodes` for the
    /// public key of the PKCS#10 request. The request's signature is checked; nothing but the key
    /// is taken out of it.
    ///
    /// # Errors
    /// When the request does not parse, is not signed by its key, or the key's kind is not known.
    fn issue_node(
        &self,
        node_name: &str,
        certificate_request_der: &[u8],
    ) -> Result<String, RequestRefused>;

    /// The cluster's certificate authority, PEM.
    fn authority(&self) -> String;
}
