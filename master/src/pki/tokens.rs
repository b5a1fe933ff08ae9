//! Bootstrap tokens, `ID.SECRET.CAHASH`: what lets a machine become a node.
//!
//! The store holds a hash of the secret only. `CAHASH` is for the node: it knows the cluster's
//! authority by it on the very first connection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::info;

use super::authority::hex;
use crate::nodes::credentials::{TokenVerdict, TokenVerifier};
use crate::store::{self, Compare, Op, Store, Txn, TxnOutcome, keys};

/// How long an expired token is still known as such, so that whoever uses it hears the reason.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes and verifies bootstrap tokens.
#[derive(Clone)]
pub struct Tokens {
    store: Arc<dyn Store>,
    authority_fingerprint: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// What the store holds of a token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    secret_sha256: String,
    expires: Timestamp,
}

impl Tokens {
    /// Tokens for the cluster with this authority.
    pub fn new(store: Arc<dyn Store>, authority_fingerprint: String) -> Self {
        Self { store, authority_fingerprint }
    }

    /// Makes a token that is good for `ttl`.
    ///
    /// # Errors
    /// When the store cannot keep it.
    pub async fn create(&self, ttl: Duration) -> store::Result<String> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| store::Error::Unavailable {
            operation: "keep a token",
            source,
        };
        let expires = Timestamp::now().checked_add(ttl).map_err(|error| failed(error.into()))?;
        // The token goes by itself when nobody can mistake it for a good one any more.
        let lease = self.store.grant_lease(ttl + REMEMBERED).await?;
        loop {
            let id = random()[..10].to_owned();
            let secret = random();
            let stored = Stored { secret_sha256: digest(&secret), expires };
            let value = serde_json::to_vec(&stored).map_err(|error| failed(error.into()))?;
            let key = format!("{}{id}", keys::BOOTSTRAP_TOKENS);
            let outcome = self
                .store
                .txn(Txn {
                    compares: vec![Compare::Absent(key.clone())],
                    ops: vec![Op::Put { key, value: Bytes::from(value), lease: Some(lease) }],
                })
                .await?;
            if let TxnOutcome::Committed(_) = outcome {
                info!(id, %expires, "made a bootstrap token");
                return Ok(format!("{id}.{secret}.{}", self.authority_fingerprint));
            }
        }
    }
}

#[async_trait]
impl TokenVerifier for Tokens {
    async fn verify(&self, token: &str) -> Result<TokenVerdict, store::Error> {
        let mut parts = token.trim().splitn(3, '.');
        let (Some(id), Some(secret), Some(authority)) = (parts.next(), parts.next(), parts.next())
        else {
            return Ok(TokenVerdict::Unknown);
        };
        // An id is part of a key: nothing but what `create` makes gets there.
        let plausible = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !plausible || authority != self.authority_fingerprint {
            return Ok(TokenVerdict::Unknown);
        }
        let key = format!("{}{id}", keys::BOOTSTRAP_TOKENS);
        let Some(kept) = self.store.get(&key).await? else { return Ok(TokenVerdict::Unknown) };
        let stored: Stored = serde_json::from_slice(&kept.value).map_err(|error| {
            store::Error::Unavailable { operation: "read a token", source: error.into() }
        })?;
        if !equal(&stored.secret_sha256, &digest(secret)) {
            return Ok(TokenVerdict::Unknown);
        }
        Ok(if stored.expires <= Timestamp::now() {
            TokenVerdict::Expired
        } else {
            TokenVerdict::Valid
        })
    }
}

/// 122 random bits in 32 characters.
fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}

/// Takes as long wherever the difference is.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
