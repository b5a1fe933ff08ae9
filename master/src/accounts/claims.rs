//! What a token says, as Kubernetes' tokens say it. Pure, but for the signature.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proto::ObjectKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::key::{ALGORITHM, KeyError, SigningKey};

/// The clocks of masters may differ by so many seconds.
const LEEWAY: i64 = 60;
/// A token that we have made has some hundred bytes.
const MAX_TOKEN: usize = 16 << 10;

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) aud: Vec<String>,
    pub(super) exp: i64,
    pub(super) iat: i64,
    pub(super) iss: String,
    pub(super) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Own,
    pub(super) nbf: i64,
    pub(super) sub: String,
}

/// What is Kubernetes' own among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Own {
    pub(super) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Reference>,
    #[serde(rename = "serviceaccount")]
    pub(super) service_account: Reference,
}

/// An object, this very one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
    /// Empty for a node that is not there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
}

/// Why a token is not good.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is no token of this cluster")]
    Malformed,
    #[error("the signature is not this cluster's")]
    Signature,
    #[error("it was issued by somebody else")]
    Issuer,
    #[error("it is not valid yet")]
    Early,
    #[error("it has expired")]
    Expired,
}

#[derive(Serialize, Deserialize)]
struct Head {
    alg: String,
    kid: String,
}

/// The user that an account is known as.
pub(super) fn user(account: &ObjectKey) -> String {
    format!("system:serviceaccount:{}:{}", account.namespace, account.name)
}

/// Makes the token.
pub(super) fn sign(key: &SigningKey, claims: &Claims) -> Result<String, KeyError> {
    let head = Head { alg: ALGORITHM.to_owned(), kid: key.id.clone() };
    let text = format!("{}.{}", encode(&head), encode(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(&text)?);
    Ok(format!("{text}.{signature}"))
}

/// What a token says that is good at the second `now`.
pub(super) fn read(
    key: &SigningKey,
    token: &str,
    issuer: &str,
    now: i64,
) -> Result<Claims, Refusal> {
    if token.len() > MAX_TOKEN {
        return Err(Refusal::Malformed);
    }
    let (text, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let (head, claims) = text.split_once('.').ok_or(Refusal::Malformed)?;
    // There is one algorithm, whatever a token would like.
    let head: Head = decode(head)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::Malformed)?;
    if head.alg != ALGORITHM || head.kid != key.id || !key.has_signed(text, &signature) {
        return Err(Refusal::Signature);
    }
    let claims: Claims = decode(claims)?;
    let account = ObjectKey::new(
        claims.kubernetes.namespace.as_str(),
        claims.kubernetes.service_account.name.as_str(),
    );
    if claims.iss != issuer || claims.sub != user(&account) {
        return Err(Refusal::Issuer);
    }
    if now + LEEWAY < claims.nbf {
        return Err(Refusal::Early);
    }
    if now >= claims.exp {
        return Err(Refusal::Expired);
    }
    Ok(claims)
}

fn encode(part: &impl Serialize) -> String {
    // Texts and numbers can always be written.
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(part).unwrap_or_default())
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, Refusal> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)
}
