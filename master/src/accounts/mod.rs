//! Tokens of service accounts: how pods tell the masters who they are.
//!
//! ```text
//! TokenRequest, or a node for a pod of its own ─▶ issue ─▶ claims ─▶ signed by the cluster's key
//! Authorization: Bearer … ─▶ authenticate ─▶ read ─▶ do account, pod, secret, node exist? ─▶ Identity
//! ```
//!
//! Nothing is kept of a token: it is good as long as its signature, its time, and whatever it is
//! bound to. All masters have one key, which is in the store; whoever can read that has the cluster.

mod claims;
mod issue;
mod key;
mod review;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use proto::ObjectKey;
use serde_json::{Value, json};

use self::claims::Claims;
pub use self::key::SigningKey;
use crate::api::authn::{ACCOUNTS, AUTHENTICATED, Identity};
use crate::api::error::ApiError;
use crate::api::objects::Objects;
use crate::cache::CachedObject;

/// Issues tokens, and knows whose they are. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    shared: Arc<Shared>,
}

struct Shared {
    objects: Objects,
    key: SigningKey,
    /// Who issues, and whom a token is for that names nobody.
    issuer: String,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("issuer", &self.shared.issuer).finish_non_exhaustive()
    }
}

/// Who comes with a token, and what is known beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) identity: Identity,
    claims: Claims,
}

impl Accounts {
    /// The accounts of a cluster whose names end with `domain`.
    pub fn new(objects: Objects, key: SigningKey, domain: &str) -> Self {
        let issuer = format!("https://kubernetes.default.svc.{domain}");
        Self { shared: Arc::new(Shared { objects, key, issuer }) }
    }

    /// Who has a token that is for the masters.
    ///
    /// # Errors
    /// 401 for a token that is not good; when the store cannot be asked.
    pub(crate) async fn authenticate(&self, token: &str) -> Result<Identity, ApiError> {
        match self.bearer(token, &[&self.shared.issuer]).await? {
            Ok(bearer) => Ok(bearer.identity),
            Err(why) => {
                // The client learns nothing about what it might have hit upon.
                tracing::debug!(why, "refused a token");
                Err(ApiError::unauthorized())
            }
        }
    }

    /// Who has a token that is for one of these audiences, or why it is not good.
    async fn bearer(
        &self,
        token: &str,
        audiences: &[&str],
    ) -> Result<Result<Bearer, String>, ApiError> {
        let Shared { key, issuer, .. } = &*self.shared;
        let now = Timestamp::now().as_second();
        let claims = match claims::read(key, token, issuer, now) {
            Ok(claims) => claims,
            Err(refusal) => return Ok(Err(refusal.to_string())),
        };
        if !claims.aud.iter().any(|audience| audiences.contains(&audience.as_str())) {
            return Ok(Err(format!("the token is for {}", claims.aud.join(", "))));
        }
        if let Some(why) = self.is_gone(&claims).await? {
            return Ok(Err(why));
        }
        Ok(Ok(Bearer { identity: identity(&claims), claims }))
    }

    /// What of all that a token is bound to is there no more.
    async fn is_gone(&self, claims: &Claims) -> Result<Option<String>, ApiError> {
        let own = &claims.kubernetes;
        let (namespace, account) = (own.namespace.as_str(), Some(&own.service_account));
        let bound = [
            ("serviceaccounts", namespace, account),
            ("pods", namespace, own.pod.as_ref()),
            ("secrets", namespace, own.secret.as_ref()),
        ];
        // A pod tells its node for information, and lives on when that is gone.
        let node = own.node.as_ref().filter(|_| own.pod.is_none());
        for (resource, namespace, reference) in bound.into_iter().chain([("nodes", "", node)]) {
            let Some(reference) = reference else { continue };
            let key = ObjectKey::new(namespace, &reference.name);
            let found = self.object(resource, &key, Some(&reference.uid)).await?;
            if found.is_none() {
                return Ok(Some(format!("{resource} {key} of uid {} is gone", reference.uid)));
            }
        }
        Ok(None)
    }

    /// An object, asked for anew where the cache does not know it.
    async fn object(
        &self,
        resource: &str,
        key: &ObjectKey,
        uid: Option<&str>,
    ) -> Result<Option<Arc<CachedObject>>, ApiError> {
        let caches = self.shared.objects.caches();
        let Some(cache) = caches.resource(resource) else { return Ok(None) };
        let fits = |found: &Arc<CachedObject>| uid.is_none_or(|uid| found.uid == uid);
        match cache.get(key).filter(fits) {
            Some(found) => Ok(Some(found)),
            None => {
                caches.fresh().await?;
                Ok(cache.get(key).filter(fits))
            }
        }
    }

    /// Answers `/.well-known/openid-configuration`.
    pub(crate) fn openid_configuration(&self) -> Value {
        let issuer = &self.shared.issuer;
        json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [key::ALGORITHM],
        })
    }

    /// Answers `/openid/v1/jwks`.
    pub(crate) fn key_set(&self) -> Value {
        json!({"keys": [self.shared.key.public()]})
    }
}

/// By which user and groups an account is known.
fn identity(claims: &Claims) -> Identity {
    let namespace = &claims.kubernetes.namespace;
    Identity {
        user: claims.sub.clone(),
        groups: vec![
            ACCOUNTS.to_owned(),
            format!("{ACCOUNTS}:{namespace}"),
            AUTHENTICATED.to_owned(),
        ],
    }
}
