//! Tokens for the volumes of a pod: those that are there as long as they are fresh, else new ones.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use proto::k8s::api::core::v1::Pod;

use crate::pods::clock::after;
use crate::pods::names::PodIdentity;
use crate::tokens::{Life, TokenIssuer, TokenRequest};
use crate::volumes::PodDir;
use crate::volumes::tokens::{TokenFile, WantedToken, present, wanted};

/// When no new token can be had, one that is still good is kept, and it is tried again then. A master
/// that comes back is asked at once, because its snapshot brings the volumes up to date.
const RETRY: Duration = Duration::from_secs(60);

/// What the volumes are to show, and when they shall be looked at again.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub(super) texts: HashMap<TokenFile, Result<String, String>>,
    pub(super) renew_at: Option<Timestamp>,
}

/// Gets all tokens that the pod wants.
pub(super) async fn get(
    issuer: &dyn TokenIssuer,
    dir: &PodDir,
    identity: &PodIdentity,
    pod: &Pod,
    now: Timestamp,
) -> Tokens {
    let mut tokens = Tokens::default();
    for one in wanted(pod) {
        let (text, renew_at) = get_one(issuer, dir, identity, &one, now).await;
        tokens.renew_at = [tokens.renew_at, renew_at].into_iter().flatten().min();
        tokens.texts.insert(one.file, text);
    }
    tokens
}

async fn get_one(
    issuer: &dyn TokenIssuer,
    dir: &PodDir,
    identity: &PodIdentity,
    one: &WantedToken,
    now: Timestamp,
) -> (Result<String, String>, Option<Timestamp>) {
    let present = present(dir, &one.file);
    let known = present.as_deref().and_then(Life::of);
    if let (Some(text), Some(life)) = (&present, known) {
        let renewal = Timestamp::from_second(life.issued.saturating_add(life.renewal()));
        if let Some(renewal) = renewal.ok().filter(|renewal| now < *renewal) {
            return (Ok(text.clone()), Some(renewal));
        }
    }
    let request = TokenRequest {
        pod: identity.key.clone(),
        pod_uid: identity.uid.clone(),
        audience: one.audience.clone(),
        expiration_seconds: one.expiration_seconds,
    };
    match issuer.issue(request).await {
        Ok(text) => {
            // Counted from now on: the master's clock may be another.
            let seconds = Life::of(&text).map_or(0, Life::renewal).max(1).unsigned_abs();
            (Ok(text), Some(after(now, Duration::from_secs(seconds))))
        }
        // Also one that has expired: a pod without a master goes on, and is told by whoever it asks.
        Err(reason) => match present {
            Some(text) => {
                tracing::warn!(%reason, file = ?one.file, "a token could not be renewed");
                (Ok(text), Some(after(now, RETRY)))
            }
            None => (Err(format!("failed to fetch token: {reason}")), None),
        },
    }
}
