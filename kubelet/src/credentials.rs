//! Who this node is: its key and certificate, and the authority it trusts. Kept in
//! `<root-dir>/pki`.
//!
//! Certificate and key are in one file, so that a renewal replaces both at once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{files, tls};

/// Certificate, then key; PEM.
const NODE_FILE: &str = "kubelet.pem";
/// PEM.
const AUTHORITY_FILE: &str = "ca.crt";
/// What the common name of a node's certificate starts with.
const USER_PREFIX: &str = "system:node:";

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file could not be read.
    #[error("failed to read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("failed to write {path}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The contents make no sense.
    #[error("the {what} cannot be used: {reason}")]
    Invalid {
        /// What it should be.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

fn invalid(what: &'static str, reason: impl ToString) -> CredentialsError {
    CredentialsError::Invalid { what, reason: reason.to_string() }
}

/// Key, certificate and authority.
#[derive(Debug)]
pub struct Credentials {
    node_name: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authority: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
    node_pem: String,
    authority_pem: String,
}

impl Credentials {
    /// Takes them apart.
    pub fn parse(node_pem: String, authority_pem: String) -> Result<Self, CredentialsError> {
        let chain = CertificateDer::pem_slice_iter(node_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| invalid("node certificate", error))?;
        let key = PrivateKeyDer::from_pem_slice(node_pem.as_bytes())
            .map_err(|error| invalid("node key", error))?;
        let authority = CertificateDer::from_pem_slice(authority_pem.as_bytes())
            .map_err(|error| invalid("cluster's certificate authority", error))?;
        let first = chain.first().ok_or_else(|| invalid("node certificate", "there is none"))?;
        let (_, certificate) =
            X509Certificate::from_der(first).map_err(|error| invalid("node certificate", error))?;
        let node_name = certificate
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok()?.strip_prefix(USER_PREFIX))
            .ok_or_else(|| invalid("node certificate", "it names no node"))?
            .to_owned();
        let validity = certificate.validity();
        let not_before = system_time(validity.not_before.timestamp());
        let not_after = system_time(validity.not_after.timestamp());
        Ok(Self {
            node_name,
            chain,
            key,
            authority,
            not_before,
            not_after,
            node_pem,
            authority_pem,
        })
    }

    /// The node that the certificate is for.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// SHA-256 of the authority's DER, as a token names it.
    pub fn authority_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.authority).into()
    }

    /// Whether the certificate's time is up.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }

    /// When to ask for the next certificate: two thirds into this one's life, so that a master may
    /// be away for long before it matters.
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life * 2 / 3
    }

    /// How to speak to a master with them.
    pub fn client_config(&self) -> Result<ClientConfig, CredentialsError> {
        tls::joined(&self.authority, self.chain.clone(), self.key.clone_key())
            .map_err(|error| invalid("node certificate", error))
    }
}

fn system_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs())
}

/// The folder that credentials are kept in.
#[derive(Clone, Debug)]
pub struct CredentialsFolder(PathBuf);

impl CredentialsFolder {
    /// The one of a kubelet's state folder.
    pub fn of(root_dir: &Path) -> Self {
        Self(root_dir.join("pki"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is kept, if anything.
    pub fn load(&self) -> Result<Option<Arc<Credentials>>, CredentialsError> {
        let (node, authority) = (self.read(NODE_FILE)?, self.read(AUTHORITY_FILE)?);
        match (node, authority) {
            (Some(node), Some(authority)) => {
                Ok(Some(Arc::new(Credentials::parse(node, authority)?)))
            }
            _ => Ok(None),
        }
    }

    /// Keeps them.
    pub fn store(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        let write_error =
            |path: PathBuf| move |source| CredentialsError::Write { path: path.clone(), source };
        files::make_private_folder(&self.0).map_err(write_error(self.0.clone()))?;
        let parts =
            [(AUTHORITY_FILE, &credentials.authority_pem), (NODE_FILE, &credentials.node_pem)];
        for (name, contents) in parts {
            let path = self.0.join(name);
            files::replace(&path, contents.as_bytes()).map_err(write_error(path.clone()))?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<String>, CredentialsError> {
        let path = self.0.join(name);
        let contents = files::read_if_present(&path)
            .map_err(|source| CredentialsError::Read { path: path.clone(), source })?;
        contents
            .map(String::from_utf8)
            .transpose()
            .map_err(|_| invalid("node certificate", "it is no text"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
