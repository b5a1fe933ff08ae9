//! The certificate that this master serves with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::authority::{self, Authority, Pair, RENEWAL_CHECK, ServerNames};
use super::files::{self, Readers};
use super::{Error, Result};

/// The server's certificate, replaced while it is in use.
#[derive(Debug)]
pub struct ServerCertificate {
    certificate_path: PathBuf,
    key_path: PathBuf,
    common_name: String,
    names: ServerNames,
    authority: Arc<Authority>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<CertifiedKey>,
}

impl ServerCertificate {
    /// The certificate of `folder`, made anew when it is none of this authority's, is not for all
    /// of `names`, or expires soon.
    ///
    /// # Errors
    /// When it cannot be read, made or used.
    pub fn open(
        folder: &Path,
        common_name: &str,
        names: ServerNames,
        authority: Arc<Authority>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self> {
        let certificate_path = folder.join("server.crt");
        let key_path = folder.join("server.key");
        let kept = match files::read_pair(&certificate_path, &key_path) {
            Ok(Some((certificate, key))) => Some(Pair { certificate, key }),
            // Half a pair is no loss: it is made anew.
            Ok(None) | Err(Error::HalfAPair { .. }) => None,
            Err(error) => return Err(error),
        };
        let kept = kept.filter(|pair| is_good(pair, &names, &authority));
        let pair = match kept {
            Some(pair) => pair,
            None => renew(&certificate_path, &key_path, common_name, &names, &authority)?,
        };
        let current =
            ArcSwap::from_pointee(certified(&pair, &authority, &provider, &certificate_path)?);
        Ok(Self {
            certificate_path,
            key_path,
            common_name: common_name.to_owned(),
            names,
            authority,
            provider,
            current,
        })
    }

    /// Looks daily whether a new one is due, until shutdown.
    pub async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RENEWAL_CHECK) => {}
            }
            if !self.is_due(SystemTime::now()) {
                continue;
            }
            match self.renew() {
                Ok(()) => info!("renewed the server's certificate"),
                Err(error) => error!(
                    %error, cause = ?std::error::Error::source(&error),
                    "failed to renew the server's certificate",
                ),
            }
        }
    }

    fn is_due(&self, now: SystemTime) -> bool {
        let current = self.current.load();
        let facts = current.cert.first().and_then(|der| authority::facts(der));
        facts.is_none_or(|facts| facts.is_due(now))
    }

    pub(super) fn renew(&self) -> Result<()> {
        let pair = renew(
            &self.certificate_path,
            &self.key_path,
            &self.common_name,
            &self.names,
            &self.authority,
        )?;
        self.current.store(Arc::new(certified(
            &pair,
            &self.authority,
            &self.provider,
            &self.certificate_path,
        )?));
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn renew(
    certificate_path: &Path,
    key_path: &Path,
    common_name: &str,
    names: &ServerNames,
    authority: &Authority,
) -> Result<Pair> {
    let pair = authority.issue_server(common_name, names)?;
    files::write(key_path, &pair.key, Readers::Owner)?;
    files::write(certificate_path, &pair.certificate, Readers::All)?;
    Ok(pair)
}

/// Whether a pair that was kept can stay in use.
fn is_good(pair: &Pair, names: &ServerNames, authority: &Authority) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pair.certificate.as_bytes()) else { return false };
    let Some(facts) = authority::facts(&der) else { return false };
    let matches_key = rcgen::KeyPair::from_pem(&pair.key)
        .is_ok_and(|key| authority::is_for(&der, &key) && authority.has_signed(&der));
    matches_key
        && !facts.is_due(SystemTime::now())
        && names.names.iter().all(|name| facts.names.contains(name))
        && names.addresses.iter().all(|address| facts.addresses.contains(address))
}

/// The authority's own certificate goes along: a node that joins knows no more than its hash, and
/// has to see what it is the hash of.
fn certified(
    pair: &Pair,
    authority: &Authority,
    provider: &CryptoProvider,
    path: &Path,
) -> Result<CertifiedKey> {
    let unusable = |error: rustls_pki_types::pem::Error| Error::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(unusable)?;
    let certificate = certificate.map_err(unusable)?;
    Ok(CertifiedKey::from_der(vec![certificate, authority.der().clone()], key, provider)?)
}
