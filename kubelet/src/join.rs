//! How a machine becomes a node, and stays one: certificates out of a token, and their renewal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use proto::node::JoinRequest;
use proto::node::node_client::NodeClient;
use rcgen::{CertificateParams, KeyPair};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::config::MasterUrl;
use crate::credentials::{Credentials, CredentialsError, CredentialsFolder};
use crate::tls::{self, ConnectError};

/// A certificate that could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The token is not what `master token create` prints.
    #[error("the token is incomplete; copy it whole, as `master token create` printed it")]
    MalformedToken,
    /// There is nobody to ask.
    #[error("no master is named")]
    NoMaster,
    /// No master can be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A master refuses.
    #[error("{master} refuses: {message}")]
    Refused {
        /// Who.
        master: MasterUrl,
        /// Its words.
        message: String,
    },
    /// A master fails.
    #[error("{master} cannot answer now: {message}")]
    Unavailable {
        /// Who.
        master: MasterUrl,
        /// Its words.
        message: String,
    },
    /// A key or a request could not be made.
    #[error("failed to make a certificate request")]
    Request(#[source] rcgen::Error),
    /// What came back, or what is kept, cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// What came back is not what was asked for.
    #[error("{master} answered with a certificate {reason}")]
    Unexpected {
        /// Who.
        master: MasterUrl,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl JoinError {
    /// Whether another try, or another master, may do better.
    fn is_transient(&self) -> bool {
        match self {
            Self::Connect(error) => !error.is_distrust(),
            Self::Unavailable { .. } => true,
            _ => false,
        }
    }
}

/// A bootstrap token, `ID.SECRET.CAHASH`.
#[derive(Clone)]
pub struct Token {
    text: String,
    authority_digest: [u8; 32],
}

impl Token {
    /// SHA-256 of the DER of the authority that the token's cluster has.
    pub fn authority_digest(&self) -> [u8; 32] {
        self.authority_digest
    }
}

impl std::str::FromStr for Token {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let mut parts = text.split('.');
        let (Some(id), Some(secret), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JoinError::MalformedToken);
        };
        if id.is_empty() || secret.is_empty() || !hash.is_ascii() || hash.len() != 64 {
            return Err(JoinError::MalformedToken);
        }
        let mut authority_digest = [0; 32];
        for (byte, digits) in authority_digest.iter_mut().zip(hash.as_bytes().chunks(2)) {
            *byte = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or(JoinError::MalformedToken)?;
        }
        Ok(Self { text: text.to_owned(), authority_digest })
    }
}

/// Joins the cluster that the token is for. Tries the masters in turn until one answers; a refusal
/// is final.
pub async fn join(
    masters: &[MasterUrl],
    token: &Token,
    node_name: &str,
) -> Result<Credentials, JoinError> {
    let tls =
        Arc::new(tls::pinned(token.authority_digest).map_err(|error| {
            CredentialsError::Invalid { what: "token", reason: error.to_string() }
        })?);
    let mut backoff = Backoff::default();
    for master in masters.iter().cycle() {
        match request(master, tls.clone(), &token.text, node_name).await {
            Ok(credentials) if credentials.authority_digest() != token.authority_digest => {
                let reason = "of another cluster";
                return Err(JoinError::Unexpected { master: master.clone(), reason });
            }
            Ok(credentials) => {
                info!(%master, node = node_name, "joined the cluster");
                return Ok(credentials);
            }
            Err(error) if error.is_transient() => {
                let delay = backoff.next_delay();
                warn!(%master, error = %Chain(&error), ?delay, "cannot join yet");
                tokio::time::sleep(delay).await;
            }
            Err(error) => return Err(error),
        }
    }
    Err(JoinError::NoMaster)
}

/// Asks for a certificate once. An empty token means that the connection's certificate speaks.
async fn request(
    master: &MasterUrl,
    tls: Arc<rustls::ClientConfig>,
    token: &str,
    node_name: &str,
) -> Result<Credentials, JoinError> {
    let key = KeyPair::generate().map_err(JoinError::Request)?;
    let request = CertificateParams::new(Vec::new())
        .and_then(|params| params.serialize_request(&key))
        .map_err(JoinError::Request)?;
    let connection = tls::connect(master, tls).await?;
    let answer = NodeClient::new(connection.channel)
        .join(JoinRequest {
            token: token.to_owned(),
            node_name: node_name.to_owned(),
            certificate_request: request.der().to_vec().into(),
        })
        .await
        .map_err(|status| {
            let (master, message) = (master.clone(), status.message().to_owned());
            match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Internal => {
                    JoinError::Unavailable { master, message }
                }
                _ => JoinError::Refused { master, message },
            }
        })?
        .into_inner();
    let mut node_pem = answer.certificate;
    if !node_pem.ends_with('\n') {
        node_pem.push('\n');
    }
    node_pem.push_str(&key.serialize_pem());
    let credentials = Credentials::parse(node_pem, answer.certificate_authority)?;
    // Also shows that certificate and key belong together.
    credentials.client_config()?;
    if credentials.node_name() != node_name {
        let reason = "for another node";
        return Err(JoinError::Unexpected { master: master.clone(), reason });
    }
    Ok(credentials)
}

/// Looks so often whether it is time, because clocks may be set while a timer sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(6 * 3600);

/// Renews the certificate whenever two thirds of its life are over.
pub async fn keep_renewed(
    masters: Vec<MasterUrl>,
    folder: Option<CredentialsFolder>,
    current: Arc<ArcSwap<Credentials>>,
    shutdown: CancellationToken,
) {
    // A failed renewal is tried again within minutes: there is a third of a life left.
    let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(600));
    let mut turn = masters.iter().cycle();
    loop {
        let credentials = current.load_full();
        let wait = credentials.renew_at().duration_since(SystemTime::now()).unwrap_or_default();
        let wait = if wait.is_zero() { Duration::ZERO } else { wait.min(LONGEST_SLEEP) };
        if !sleep(wait, &shutdown).await {
            return;
        }
        if SystemTime::now() < credentials.renew_at() {
            continue;
        }
        let Some(master) = turn.next() else { return };
        match renew(master, &credentials, folder.as_ref()).await {
            Ok(renewed) => {
                info!(%master, "renewed the node's certificate");
                current.store(Arc::new(renewed));
                backoff.reset();
            }
            Err(error) => {
                let delay = backoff.next_delay();
                warn!(%master, error = %Chain(&error), ?delay, "failed to renew the certificate");
                if !sleep(delay, &shutdown).await {
                    return;
                }
            }
        }
    }
}

async fn renew(
    master: &MasterUrl,
    credentials: &Credentials,
    folder: Option<&CredentialsFolder>,
) -> Result<Credentials, JoinError> {
    let tls = Arc::new(credentials.client_config()?);
    let renewed = request(master, tls, "", credentials.node_name()).await?;
    if let Some(folder) = folder {
        folder.store(&renewed)?;
    }
    Ok(renewed)
}

/// Whether the time passed without a shutdown.
async fn sleep(time: Duration, shutdown: &CancellationToken) -> bool {
    shutdown.run_until_cancelled(tokio::time::sleep(time)).await.is_some()
}

/// Prints an error with everything it came from.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_carries_the_hash_of_its_clusters_authority() {
        let token: Token = format!(" id.secret.{}\n", "0f".repeat(32)).parse().unwrap();
        assert_eq!(token.authority_digest(), [0x0f; 32]);
        assert!(!token.text.contains(char::is_whitespace));
    }

    #[test]
    fn a_token_that_was_not_copied_whole_is_noticed() {
        let hash = "0f".repeat(32);
        for text in [
            String::new(),
            "id.secret".to_owned(),
            format!("id.secret.{}", &hash[..60]),
            format!("id..{hash}"),
            format!(".secret.{hash}"),
            format!("id.secret.{hash}.more"),
            format!("id.secret.{}", "zz".repeat(32)),
            format!("id.secret.{}", "ä".repeat(32)),
        ] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
