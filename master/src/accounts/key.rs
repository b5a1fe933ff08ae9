//! The key by which the cluster's masters sign tokens.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::store::{self, Compare, Op, Store, Txn, keys};

/// ECDSA over P-256: known to whoever verifies Kubernetes' tokens, and signed in a fraction of the time
/// that RSA takes.
pub(super) const ALGORITHM: &str = "ES256";

/// What stands before the point in the DER of a public key on P-256.
const PUBLIC_KEY_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Signs, and knows its own signatures.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// By which others tell it from its successors.
    pub(super) id: String,
}

/// A key that cannot be used or made.
#[derive(Debug, thiserror::Error)]
#[error("the key for service account tokens cannot be {0}")]
pub(super) struct KeyError(&'static str);

impl SigningKey {
    /// The cluster's key out of the store; made by the first master that asks.
    ///
    /// # Errors
    /// When the store cannot be used, or holds something else.
    pub async fn open(store: &dyn Store) -> store::Result<Self> {
        let broken = |error: KeyError| store::Error::Unavailable {
            operation: "open the key for service account tokens",
            source: error.into(),
        };
        if let Some(kept) = store.get(keys::ACCOUNT_KEY).await? {
            return Self::of(&kept.value).map_err(broken);
        }
        let value = Self::generate().map_err(broken)?;
        let put = Op::Put { key: keys::ACCOUNT_KEY.to_owned(), value: value.clone(), lease: None };
        let compares = vec![Compare::Absent(keys::ACCOUNT_KEY.to_owned())];
        store.txn(Txn { compares, ops: vec![put] }).await?;
        // Another master may have been faster.
        let kept = store.get(keys::ACCOUNT_KEY).await?.map_or(value, |kept| kept.value);
        Self::of(&kept).map_err(broken)
    }

    /// A new one, PKCS#8.
    pub(super) fn generate() -> Result<Bytes, KeyError> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new())
            .map(|document| Bytes::copy_from_slice(document.as_ref()))
            .map_err(|_| KeyError("made"))
    }

    pub(super) fn of(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|_| KeyError("read"))?;
        let mut der = PUBLIC_KEY_HEAD.to_vec();
        der.extend_from_slice(pair.public_key().as_ref());
        let id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(der));
        Ok(Self { pair, random, id })
    }

    pub(super) fn sign(&self, text: &str) -> Result<Vec<u8>, KeyError> {
        self.pair
            .sign(&self.random, text.as_bytes())
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| KeyError("used"))
    }

    pub(super) fn has_signed(&self, text: &str, signature: &[u8]) -> bool {
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key());
        public.verify(text.as_bytes(), signature).is_ok()
    }

    /// The public half, as a JSON Web Key.
    pub(super) fn public(&self) -> Value {
        // An uncompressed point: a mark, then two numbers of 32 bytes.
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": ALGORITHM,
            "x": BASE64_URL_SAFE_NO_PAD.encode(x),
            "y": BASE64_URL_SAFE_NO_PAD.encode(y),
        })
    }
}
